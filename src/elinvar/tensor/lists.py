"""Lists of tensors: joined, cut apart, and moved to a device in one copy."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from elinvar.errors import InputError
from elinvar.runtime import transfers
from elinvar.runtime.device import device as find_device
from elinvar.runtime.memory import Pool, refuse_grad
from elinvar.tensor.workspace import check_out, new

if TYPE_CHECKING:
    from elinvar.runtime.device import Device

__all__ = ["cat", "split", "stack", "to_device", "unbind", "unstack"]

_ALIGNED = 256  # bytes; what GPU kernels may assume of a tensor's start


def _checked(operation: str, tensors: Sequence[torch.Tensor]) -> torch.Tensor:
    given: object = tensors
    if isinstance(given, torch.Tensor) or not isinstance(given, (list, tuple)) or not given:
        what = "an empty list" if isinstance(given, (list, tuple)) else f"a {type(given).__name__}"
        raise InputError(f"{operation}: got {what}; give a list of at least one tensor")
    first = tensors[0]
    for k, t in enumerate(tensors):
        if not isinstance(t, torch.Tensor):
            raise InputError(f"{operation}: item {k} is a {type(t).__name__}; give tensors")
        if t.device != first.device or t.dtype != first.dtype:
            raise InputError(
                f"{operation}: item 0 is {first.dtype} on {first.device}, item {k} {t.dtype} on {t.device}; "
                "bring them to one dtype and device"
            )
    return first


def _tensor(operation: str, x: object) -> None:
    if not isinstance(x, torch.Tensor):
        raise InputError(f"{operation}: x is a {type(x).__name__}; give a tensor")


def _dim(operation: str, dim: int, dims: int) -> int:
    if not -dims <= dim < dims:
        raise InputError(f"{operation}: dim={dim} is not a dimension of {dims}-dimensional tensors")
    return dim % dims


def _needs_grad(tensors: Sequence[torch.Tensor]) -> bool:
    return torch.is_grad_enabled() and any(t.requires_grad for t in tensors)


def cat(
    tensors: Sequence[torch.Tensor], dim: int = 0, *, out: torch.Tensor | None = None, pool: Pool | None = None
) -> torch.Tensor:
    """Join tensors along a dimension they have.

    Parameters
    ----------
    tensors
        Of one dtype and device, equal in every dimension but `dim`.
    dim
        Where to join.
    out, pool
        Where the result goes (no gradient).
    """
    first = _checked("cat", tensors)
    dim = _dim("cat", dim, first.dim())
    for k, t in enumerate(tensors):
        if t.dim() != first.dim() or any(
            a != b for d, (a, b) in enumerate(zip(t.shape, first.shape, strict=True)) if d != dim
        ):
            raise InputError(
                f"cat: item {k} has shape {tuple(t.shape)}, item 0 {tuple(first.shape)}; they may differ in "
                f"dimension {dim} alone"
            )
    shape = list(first.shape)
    shape[dim] = sum(t.shape[dim] for t in tensors)
    target = _target("cat", tensors, shape, first, out, pool)
    return torch.cat(list(tensors), dim) if target is None else torch.cat(list(tensors), dim, out=target)


def stack(
    tensors: Sequence[torch.Tensor], dim: int = 0, *, out: torch.Tensor | None = None, pool: Pool | None = None
) -> torch.Tensor:
    """Join tensors of one shape along a new dimension; arguments as for `cat`."""
    first = _checked("stack", tensors)
    dim = _dim("stack", dim, first.dim() + 1)
    for k, t in enumerate(tensors):
        if t.shape != first.shape:
            raise InputError(
                f"stack: item {k} has shape {tuple(t.shape)}, item 0 {tuple(first.shape)}; pad or sort them"
            )
    shape = [*first.shape[:dim], len(tensors), *first.shape[dim:]]
    target = _target("stack", tensors, shape, first, out, pool)
    return torch.stack(list(tensors), dim) if target is None else torch.stack(list(tensors), dim, out=target)


def _target(
    operation: str,
    tensors: Sequence[torch.Tensor],
    shape: Sequence[int],
    like: torch.Tensor,
    out: torch.Tensor | None,
    pool: Pool | None,
) -> torch.Tensor | None:
    if out is not None:
        refuse_grad(*tensors, operation=f"{operation}: out=")
        check_out(out, shape, like, operation, *tensors)
        return out
    if pool is None or _needs_grad(tensors):
        return None
    return new(shape, like.dtype, like.device, pool, operation)


def split(x: torch.Tensor, size: int | Sequence[int], dim: int = 0) -> list[torch.Tensor]:
    """Cut a tensor into pieces of `size` along `dim`; the last one may be smaller.

    The pieces are views in the order of the data. `size` may also list every piece's size.

    Raises
    ------
    InputError
        A size below 1, sizes that do not add up, or no such dimension.
    """
    _tensor("split", x)
    dim = _dim("split", dim, x.dim())
    length = x.shape[dim]
    if isinstance(size, int):
        if size < 1:
            raise InputError(f"split: size={size}; give 1 or more")
        return list(torch.split(x, size, dim)) if length else []
    try:
        sizes = [operator.index(n) for n in size]
    except TypeError:
        raise InputError(f"split: size={size!r}; give a whole number, or a list of them") from None
    if any(n < 0 for n in sizes) or sum(sizes) != length:
        raise InputError(f"split: sizes {sizes} add up to {sum(sizes)}, dimension {dim} has {length}")
    return list(torch.split(x, sizes, dim))


def unbind(x: torch.Tensor, dim: int = 0) -> list[torch.Tensor]:
    """Return the slices of a tensor along `dim`, as views: what `stack` joined."""
    _tensor("unbind", x)
    return list(torch.unbind(x, _dim("unbind", dim, x.dim())))


unstack = unbind


def to_device(tensors: Sequence[torch.Tensor], device: str | Device | torch.device = "auto") -> list[torch.Tensor]:
    """Move many small host tensors to a device in one copy.

    They are packed into one pinned buffer, copied once, and returned as views of the device's copy in their own shapes
    and dtypes, aligned to 256 bytes. Tensors that are on the device already come back as they are.

    Parameters
    ----------
    tensors
        On the host (or on the device), of any dtypes and shapes.
    device
        Where to.

    Gradients do not flow through the copy.

    Raises
    ------
    InputError
        The list is empty or holds something else than tensors.
    """
    given: object = tensors
    if isinstance(given, torch.Tensor) or not tensors:
        raise InputError("to_device: give a list of at least one tensor; elinvar.transfers moves a single one")
    for k, t in enumerate(tensors):
        if not isinstance(t, torch.Tensor):
            raise InputError(f"to_device: item {k} is a {type(t).__name__}; give tensors")
    # torch's "meta" stands in for a device in tests, as in elinvar.transfers.
    stand_in = device if isinstance(device, torch.device) and device.type == "meta" else None
    target = stand_in or find_device(device).torch
    waiting = [k for k, t in enumerate(tensors) if t.device.type != target.type]
    moved = list(tensors)
    if not waiting:
        return moved
    starts, total = [], 0
    for k in waiting:
        starts.append(total)
        total += -(-tensors[k].numel() * tensors[k].element_size() // _ALIGNED) * _ALIGNED
    pinned = target.type == "cuda" and torch.cuda.is_available()
    packed = torch.empty(total, dtype=torch.uint8, device="cpu", pin_memory=pinned)
    for k, start in zip(waiting, starts, strict=True):
        t = tensors[k].detach()
        if t.numel():
            _slot(packed, start, t).copy_(t)
    there = transfers.to_device(packed, target)
    for k, start in zip(waiting, starts, strict=True):
        t = tensors[k]
        moved[k] = _slot(there, start, t) if t.numel() else torch.empty(t.shape, dtype=t.dtype, device=target)
    return moved


def _slot(packed: torch.Tensor, start: int, like: torch.Tensor) -> torch.Tensor:
    """The part of a byte buffer that holds one tensor."""
    size = like.numel() * like.element_size()
    return packed[start : start + size].view(like.dtype).view(like.shape)
