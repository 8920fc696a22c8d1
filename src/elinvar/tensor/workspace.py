"""Memory for results and temporaries: torch's own, the caller's ``out=``, or a pool's."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING

import torch

from elinvar.errors import InputError
from elinvar.runtime.memory import Lease, Pool, refuse_grad

if TYPE_CHECKING:
    from typing import Self

__all__ = ["FLOATS", "HALVES", "Scratch", "check_bias", "check_out", "check_pool", "check_same", "fitted", "new"]

HALVES = (torch.float16, torch.bfloat16)
FLOATS = (*HALVES, torch.float32, torch.float64)


def new(
    shape: Sequence[int], dtype: torch.dtype, device: torch.device, pool: Pool | None, operation: str
) -> torch.Tensor:
    """Return uninitialised memory for a result: the pool's if there is one.

    Leased memory belongs to the `Pool.frame` around the call; without one it goes back when the tensor is gone.
    """
    if pool is None or 0 in shape:
        return torch.empty(shape, dtype=dtype, device=device)
    check_pool(pool, device, operation)
    return pool.acquire(tuple(shape), dtype).tensor


def check_pool(pool: Pool, device: torch.device, operation: str) -> None:
    """Refuse what is no pool, or a pool of another device than the tensors'."""
    if not isinstance(pool, Pool):
        raise InputError(f"{operation}: pool is a {type(pool).__name__}; pass an elinvar.Pool")
    if pool.device.torch != device and not (pool.device.kind == device.type and device.index is None):
        raise InputError(f"{operation}: the pool is on {pool.device}, the tensors on {device}; use that device's pool")


class Scratch:
    """Temporaries of one operation, given back together at the end of the ``with`` block.

    Parameters
    ----------
    pool
        Where they come from; None takes torch's allocator.
    """

    def __init__(self, pool: Pool | None) -> None:
        self._pool = pool
        self._leases: list[Lease] = []

    def empty(self, shape: Sequence[int], dtype: torch.dtype, device: torch.device) -> torch.Tensor:
        """Return uninitialised memory that lasts until the block ends."""
        if self._pool is None or 0 in shape:
            return torch.empty(shape, dtype=dtype, device=device)
        lease = self._pool.acquire(tuple(shape), dtype)
        self._leases.append(lease)
        return lease.tensor

    def converted(self, x: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        """Return `x` in another dtype, in memory that lasts until the block ends."""
        return x if x.dtype == dtype else self.empty(x.shape, dtype, x.device).copy_(x)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for lease in self._leases:
            if not lease.released:  # the caller's frame may have ended first
                lease.release()
        self._leases.clear()


def check_same(operation: str, **tensors: torch.Tensor | None) -> None:
    """Refuse what is not a floating-point tensor, and tensors of different devices or dtypes."""
    given = {name: t for name, t in tensors.items() if t is not None}
    for name, t in given.items():
        if not isinstance(t, torch.Tensor):
            raise InputError(f"{operation}: {name} is a {type(t).__name__}; give a tensor")
        if t.dtype not in FLOATS:
            raise InputError(f"{operation}: {name} is {t.dtype}; give float16, bfloat16, float32 or float64")
        if t.layout is not torch.strided:
            raise InputError(f"{operation}: {name} is {t.layout}; give dense memory with .to_dense()")
    (first, one), *others = given.items()
    for name, t in others:
        if t.device != one.device:
            raise InputError(f"{operation}: {first} is on {one.device}, {name} on {t.device}; move them to one device")
        if t.dtype != one.dtype:
            raise InputError(f"{operation}: {first} is {one.dtype}, {name} {t.dtype}; convert one of them with .to()")


def check_out(
    out: torch.Tensor, shape: Sequence[int], like: torch.Tensor, operation: str, *inputs: torch.Tensor | None
) -> None:
    """Refuse an `out` of another shape, dtype or device, that wants a gradient, or shares memory with an input.

    `inputs` are those that may not be overwritten while the operation runs.
    """
    from elinvar.metal.fuse.layout import overwritten, reach

    if not isinstance(out, torch.Tensor):
        raise InputError(f"{operation}: out is a {type(out).__name__}; give a tensor")
    if tuple(out.shape) != tuple(shape) or out.dtype != like.dtype or out.device != like.device:
        raise InputError(
            f"{operation}: out is {out.dtype} of shape {tuple(out.shape)} on {out.device}; "
            f"give {like.dtype} of shape {tuple(shape)} on {like.device}"
        )
    if any(n > 1 and s == 0 for n, s in zip(out.shape, out.stride(), strict=True)):
        raise InputError(f"{operation}: out of shape {tuple(out.shape)} is expanded; give memory of its own")
    start = out.data_ptr()
    end = start + reach(out) * out.element_size()
    for t in inputs:
        if t is not None and t.data_ptr() < end and start < t.data_ptr() + reach(t) * t.element_size():
            raise InputError(f"{operation}: out overlaps an input of shape {tuple(t.shape)}; give separate memory")
    refuse_grad(out, operation=f"{operation}: out=")
    overwritten(out)


def check_bias(name: str, bias: torch.Tensor | None, n: int) -> None:
    """Refuse a bias that is not one number per column."""
    if bias is not None and tuple(bias.shape) != (n,):
        raise InputError(f"{name}: bias has shape {tuple(bias.shape)}, the result {n} columns; give ({n},)")


def fitted(name: str, residual: torch.Tensor, shape: tuple[int, ...]) -> torch.Tensor:
    """Return a residual expanded to the result's shape; refuse one that does not broadcast to it."""
    if tuple(residual.shape) == shape:
        return residual
    try:
        return residual.expand(shape)
    except RuntimeError:
        raise InputError(
            f"{name}: residual of shape {tuple(residual.shape)} does not broadcast to the result's {shape}"
        ) from None
