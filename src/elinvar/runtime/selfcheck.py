"""Comparing a kernel with its reference: the same tile, the reference in float64, one number for the difference.

Kept apart from `kernels` so that registering a kernel imports neither torch nor numpy.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from elinvar.errors import DeviceLost, DeviceOutOfMemory, KernelError, KernelRejected, PoolError

from .kernelinfo import CheckReport, Outcome, Version

__all__ = ["as_device", "as_float64", "compare", "difference", "first_use_apart", "must_propagate", "results"]

if TYPE_CHECKING:
    from .device import Device


def map_leaves(value: Any, fn: Callable[[Any], Any]) -> Any:
    """Apply `fn` to every leaf of nested tuples, lists and dicts, keeping the containers."""
    if isinstance(value, dict):
        return {key: map_leaves(item, fn) for key, item in value.items()}
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(map_leaves(item, fn) for item in value))
    if isinstance(value, (list, tuple)):
        return type(value)(map_leaves(item, fn) for item in value)
    return fn(value)


def leaves(value: Any) -> Iterator[Any]:
    """Yield the leaves of nested tuples, lists and dicts in order."""
    if isinstance(value, dict):
        for item in value.values():
            yield from leaves(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from leaves(item)
    else:
        yield value


def as_float64(value: Any) -> Any:
    """Copy arguments, widening float tensors and arrays to float64 and complex ones to complex128."""

    def widen(leaf: Any) -> Any:
        if isinstance(leaf, torch.Tensor):
            wide = torch.complex128 if leaf.is_complex() else torch.float64
            floating = leaf.is_floating_point() or leaf.is_complex()
            return leaf.detach().to("cpu", wide if floating else leaf.dtype, copy=True)
        if isinstance(leaf, np.ndarray):
            kinds = {"f": np.float64, "c": np.complex128}
            return leaf.astype(kinds.get(leaf.dtype.kind, leaf.dtype), copy=True)
        return leaf

    return map_leaves(value, widen)


def as_device(value: Any, device: torch.device) -> Any:
    """Copy arguments, placing tensors on `device`; arrays stay on the host."""

    def place(leaf: Any) -> Any:
        if isinstance(leaf, torch.Tensor):
            return leaf.detach().to(device, copy=True)
        return leaf.copy() if isinstance(leaf, np.ndarray) else leaf

    return map_leaves(value, place)


def results(returned: Any, arguments: Any) -> list[Any]:
    """Return everything a call may have produced: its return value and the array arguments it may have written to.

    Arguments count too because kernels add into them; a kernel that overwrites an input the reference leaves alone
    is caught by the same comparison.
    """
    arrays = [leaf for leaf in leaves(arguments) if isinstance(leaf, (torch.Tensor, np.ndarray))]
    return arrays if returned is None else [returned, *arrays]


def _wide(leaf: Any) -> np.ndarray[Any, Any]:
    if isinstance(leaf, torch.Tensor):
        leaf = leaf.detach().to("cpu")
        if leaf.dtype in (torch.bfloat16, torch.float16):
            leaf = leaf.to(torch.float64)
        leaf = leaf.resolve_conj().resolve_neg().numpy()
    array = np.asarray(leaf)
    return array.astype(np.complex128 if array.dtype.kind == "c" else np.float64)


def difference(got: Any, want: Any) -> tuple[float, float]:
    """Measure how far `got` is from `want`.

    Parameters
    ----------
    got, want
        Tensors, arrays, numbers, or nested tuples, lists and dicts of them, of equal structure and shapes.

    Returns
    -------
    (float, float)
        The largest relative L2 error ``‖got − want‖ / ‖want‖`` of any leaf, and the largest ``max|got − want| /
        max|want|``. A NaN or infinity that only one side has makes both infinite; so does a structure or shape that
        differs.
    """
    ours, theirs = list(leaves(got)), list(leaves(want))
    if len(ours) != len(theirs) or not theirs:
        return math.inf, math.inf
    pairs = [_leaf_difference(_wide(a), _wide(b)) for a, b in zip(ours, theirs, strict=True)]
    return max(pair[0] for pair in pairs), max(pair[1] for pair in pairs)


def _leaf_difference(got: np.ndarray[Any, Any], want: np.ndarray[Any, Any]) -> tuple[float, float]:
    if got.shape != want.shape:
        return math.inf, math.inf
    finite = np.isfinite(want)
    # Non-finite values must match one to one: equal infinities, and NaN exactly where the reference has NaN.
    if not np.array_equal(got[~finite], want[~finite], equal_nan=True) or not np.isfinite(got[finite]).all():
        return math.inf, math.inf
    error, scale = got[finite] - want[finite], want[finite]
    if not error.size:
        return 0.0, 0.0
    norms = float(np.linalg.norm(error)), float(np.linalg.norm(scale))
    peaks = float(np.abs(error).max()), float(np.abs(scale).max())
    return norms[0] / (norms[1] or 1.0), peaks[0] / (peaks[1] or 1.0)


def must_propagate(error: BaseException) -> BaseException | None:
    """Return the exception to raise when `error` says nothing about the kernel itself, else None.

    Out of memory and device faults never make a kernel fall back: the first is the caller's to handle, after the
    second nothing that runs on the device can be trusted.
    """
    if isinstance(error, (DeviceLost, DeviceOutOfMemory, PoolError, MemoryError, torch.OutOfMemoryError)):
        return error
    fault = getattr(torch, "AcceleratorError", None)
    if fault is not None and isinstance(error, fault):
        lost = DeviceLost(f"the device faulted while a kernel was checked ({error}): start a new process")
        lost.__cause__ = error
        return lost
    return None


def first_use(item: Version, backend: str, device: Device) -> Outcome:
    """Run the self-check; an implementation that raises has failed it, except for memory and device faults."""
    if item.example is None:
        return Outcome(passed=True, sentence="not checked: it is registered without an example")
    try:
        report = compare(item, backend, device, seed=0)
    except Exception as error:  # noqa: BLE001  (whatever an implementation raises on our tile is a failed check)
        fatal = must_propagate(error)
        if fatal is not None:
            raise fatal from fatal.__cause__
        lines = str(error).strip().splitlines() or [""]
        return Outcome(
            passed=False,
            sentence=f"{item.version} could not run ({type(error).__name__}: {lines[0]})",
            error=error.with_traceback(None),  # the outcome is kept for ever; its frames hold the tile
        )
    if report.ok:
        return Outcome(passed=True, sentence=f"self-check {report.error:.1e} ≤ {report.tolerance:.1e}")
    rejected = KernelRejected(str(report))
    return Outcome(
        passed=False,
        sentence=f"{item.version} failed its self-check (relative error {report.error:.1e} > {report.tolerance:.1e})",
        error=rejected,
    )


def first_use_apart(item: Version, backend: str, device: Device) -> Outcome:
    """Run `first_use` in a thread of its own, where no mode of the caller reaches it.

    `no_transfers`, inference mode, autocast and other dispatch modes hold for the thread that entered them; the check
    copies to the device and back and must not fail, or differ, because of where a kernel happens to be used first.
    """
    done: list[Outcome | BaseException] = []

    def call() -> None:
        try:
            done.append(first_use(item, backend, device))
        except BaseException as error:  # noqa: BLE001  (raised again in the caller's thread)
            done.append(error)

    thread = threading.Thread(target=call, name="elinvar-self-check", daemon=True)
    thread.start()
    thread.join()
    [result] = done
    if isinstance(result, BaseException):
        raise result
    return result


def compare(item: Version, backend: str, device: Device, seed: int) -> CheckReport:
    """Run one implementation and, in float64 on the CPU, the reference on the same tile, and measure the difference."""
    args, kwargs = item.tile(seed)
    try:
        wide = as_float64((args, kwargs))
        want = results(item.implementation("reference")(*wide[0], **wide[1]), wide)
    except Exception as error:  # (a broken reference is a broken registration: no version can be trusted)
        raise KernelError(
            f"[check] the reference of kernel {item.name!r} {item.version} raised on its own example (seed {seed}): "
            f"{type(error).__name__}: {error}"
        ) from error
    placed = as_device((args, kwargs), device.torch)
    run = item.implementation(backend)
    extra = {"device": device} if backend == "metal" else {}
    got = results(run(*placed[0], **placed[1], **extra), placed)
    relative, peak = difference(got, want)
    return CheckReport(item.name, item.version, str(device), backend, seed, relative, peak, item.tolerance)
