"""Batches out of single items: formed, run, cut apart again, and halved when memory runs out."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch

from elinvar.errors import BudgetExceeded, DeviceOutOfMemory, InputError
from elinvar.runtime._storage import is_out_of_memory
from elinvar.runtime.device import device as find_device
from elinvar.runtime.memory import Pool
from elinvar.runtime.tuning import tuned
from elinvar.tensor.lists import stack, unbind

__all__ = ["DEFAULT_SIZES", "Batches", "batch_sizes", "batched", "run_batch"]

DEFAULT_SIZES = {"cpu": (16, 64), "cuda": (64, 1024), "mps": (64, 512)}
"""Rows per batch from which a layer is efficient, and best, until ``elinvar tune`` has measured them."""

_ELEMENTS = 1 << 26
"""A default batch does not hold more elements than this (256 MB of float32)."""


class Batches(list[Any]):
    """The results in the order of the inputs, and how they were made.

    Attributes
    ----------
    batch : int
        Items per call at the end.
    halvings : int
        How often memory ran out and the batch was halved.
    calls : int
        Successful calls of the function.
    """

    def __init__(self, batch: int) -> None:
        super().__init__()
        self.batch = batch
        self.halvings = 0
        self.calls = 0


def batch_sizes(operation: str = "linear", device: Any = "auto") -> tuple[int, int]:
    """Return (smallest efficient, best) number of rows in one call of an operation on a device.

    `operation` is "linear", "matmul", "layer_norm" or "affine". Measured by ``elinvar tune`` where that ran, else
    `DEFAULT_SIZES`.
    """
    target = find_device(device)
    known = tuned(target.profile).options.get(f"tensor.batch.{operation}")
    if isinstance(known, (list, tuple)) and len(known) == 2:
        return int(known[0]), int(known[1])
    return DEFAULT_SIZES[target.kind]


def batched(
    fn: Callable[[torch.Tensor], Any],
    inputs: Sequence[torch.Tensor],
    max_batch: int | None = None,
    *,
    operation: str = "linear",
    pool: Pool | None = None,
) -> Batches:
    """Apply a function of a batch to many single items.

    Items of one shape and dtype are stacked along a new first dimension, at most `max_batch` of them, the function is
    called once per batch, and its results are cut apart again. Items of different shapes are batched per shape; the
    order of the results is that of the inputs. When memory runs out, the pool gives its waiting buffers back, the
    batch is halved, and the same items are tried again.

    Parameters
    ----------
    fn
        Takes Tensor[batch, ...]; returns a tensor, or a tuple of tensors, whose first dimension is the batch's.
    inputs
        Tensors on one device.
    max_batch
        None takes `batch_sizes`'s best for `operation`, and not more than 256 MB of float32 at once.
    operation
        Whose measured sizes to use.
    pool
        Shrunk to what is live when memory runs out; by default the device's own pool.

    Returns
    -------
    Batches
        A list of results with ``.batch``, ``.halvings`` and ``.calls``.

    Raises
    ------
    InputError
        Arguments do not fit, or the function returns something whose first dimension is not the batch's.
    DeviceOutOfMemory, BudgetExceeded, torch.OutOfMemoryError
        A single item does not fit.
    """
    items = _checked(inputs)
    if not items:
        return Batches(0)
    largest = max(t.numel() for t in items)
    if max_batch is None:
        best = batch_sizes(operation, items[0].device)[1]
        max_batch = max(1, min(best, _ELEMENTS // max(1, largest)))
    if isinstance(max_batch, bool) or not isinstance(max_batch, int) or max_batch < 1:
        raise InputError(f"batched: max_batch={max_batch!r}; give a whole number from 1, or None")
    done = Batches(max_batch)
    done.extend([None] * len(items))
    groups: dict[Any, list[int]] = {}
    for k, t in enumerate(items):
        groups.setdefault((t.shape, t.dtype), []).append(k)
    for members in groups.values():
        start = 0
        while start < len(members):
            now = members[start : start + done.batch]
            try:
                results = run_batch(fn, [items[k] for k in now])
            except (RuntimeError, MemoryError) as error:
                if not _ran_out(error) or len(now) == 1:
                    raise
                results = None
            if results is None:  # outside the handler: its traceback keeps the failed call's memory alive
                _make_room(pool, items[0].device)
                done.batch = math.ceil(len(now) / 2)
                done.halvings += 1
                continue
            for k, value in zip(now, results, strict=True):
                done[k] = value
            done.calls += 1
            start += len(now)
    return done


def _checked(inputs: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    given: object = inputs
    if isinstance(given, torch.Tensor):
        raise InputError("batched: inputs is a tensor; give a list of items, or call the function on the tensor itself")
    items = list(inputs)
    for k, t in enumerate(items):
        if not isinstance(t, torch.Tensor):
            raise InputError(f"batched: item {k} is a {type(t).__name__}; give tensors")
        if t.device != items[0].device:
            raise InputError(
                f"batched: item 0 is on {items[0].device}, item {k} on {t.device}; move them to one device"
            )
    return items


def _ran_out(error: BaseException) -> bool:
    return isinstance(error, (BudgetExceeded, DeviceOutOfMemory)) or is_out_of_memory(error)


def _make_room(pool: Pool | None, device: torch.device) -> None:
    """Give back everything that waits for reuse."""
    target = pool or find_device(str(device)).pool
    target.shrink_to_fit(0)
    if device.type == "cuda":
        torch.cuda.empty_cache()
    elif device.type == "mps":
        torch.mps.empty_cache()


def run_batch(fn: Callable[[torch.Tensor], Any], items: Sequence[torch.Tensor]) -> list[Any]:
    """Stack items of one shape, call `fn` once, and cut its result into one per item."""
    result = fn(stack(items))
    parts = result if isinstance(result, (tuple, list)) else (result,)
    for part in parts:
        if not isinstance(part, torch.Tensor) or part.dim() < 1 or part.shape[0] != len(items):
            got = tuple(part.shape) if isinstance(part, torch.Tensor) else type(part).__name__
            raise InputError(
                f"batched: the function returned {got} for {len(items)} items; its first dimension is theirs"
            )
    columns = [unbind(part) for part in parts]
    if isinstance(result, (tuple, list)):
        return [tuple(row) for row in zip(*columns, strict=True)]
    return columns[0]
