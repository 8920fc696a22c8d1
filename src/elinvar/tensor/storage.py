"""Storage precision: what is kept in 16 bits, what computes in more, and what to do about values that do not fit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from elinvar.errors import InputError
from elinvar.runtime.device import device as find_device
from elinvar.runtime.plan import Precision

__all__ = ["check_finite", "native", "resolve", "storage_dtype", "store", "stored"]

_DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32, "fp64": torch.float64}


def resolve(precision: str | Precision, device: torch.device | str, operation: str = "store") -> Precision:
    """Return the precision to use on a device: a `Precision` as it is, a name with the device's fast arithmetic.

    Raises
    ------
    InputError
        The name is unknown.
    """
    if isinstance(precision, Precision):
        return precision  # somebody's explicit wish, also when it is slow here
    found = Precision.resolve(precision, find_device(str(device)).profile, allowed=("bf16", "fp16", "fp32"))
    if not isinstance(found, Precision):
        raise InputError(f"{operation}: precision={precision!r} is unknown; give a format name or a Precision")
    return found


def _constant(function: Callable[..., Any]) -> Callable[..., Any]:
    """Let torch.compile ask while it traces, as it may not look at devices; see `elinvar.metal.fuse.derivative`."""
    function._dynamo_marked_constant = True  # type: ignore[attr-defined]  # noqa: SLF001
    return function


@_constant
def _storage(precision: str, device: str, operation: str) -> str:
    return resolve(precision, device, operation).storage


@_constant
def _insists(storage: str, compute: str, device: str) -> bool:
    return bool(storage) and native(Precision(storage, compute), device)


def _formats(precision: str | Precision) -> tuple[str, str]:
    """Formats of a wish for particular arithmetic; a name leaves that to the device."""
    return (precision.storage, precision.compute) if isinstance(precision, Precision) else ("", "")


def storage_dtype(precision: str | Precision, device: torch.device, operation: str = "store") -> torch.dtype:
    """Return the dtype to store in on a device; also while torch.compile traces."""
    if isinstance(precision, Precision):
        return precision.storage_dtype
    return _DTYPES[_storage(precision, str(device), operation) + ""]  # dynamo hands over a constant once it is used


def store(x: torch.Tensor, precision: str | Precision, *, check: bool = False) -> torch.Tensor:
    """Return `x` in a storage format, rounded to nearest even.

    Values beyond the format's range become infinite, as IEEE 754 says; nothing is clamped. float16 ends at 65504.

    Parameters
    ----------
    x
        Floating-point tensor.
    precision
        "fp16", "bf16", "fp32", "fp64", "auto" (the smallest format that is fast on the tensor's device), or a
        `Precision`.
    check
        Raise when something did not fit.
    """
    if not isinstance(x, torch.Tensor) or not x.dtype.is_floating_point:
        raise InputError(f"store: x is {getattr(x, 'dtype', type(x).__name__)}; give a floating-point tensor")
    kept = x.to(storage_dtype(precision, x.device))
    return check_finite(kept, "what was stored") if check else kept


def stored(precision: str | Precision, operation: str, *tensors: torch.Tensor | None) -> tuple[Any, bool]:
    """Return an operation's operands in a storage format, and whether products must be formed in it natively."""
    where = next((t.device for t in tensors if isinstance(t, torch.Tensor)), torch.device("cpu"))
    dtype = storage_dtype(precision, where, operation)
    kept = [None if t is None else t.to(dtype) for t in tensors]
    return kept, _insists(*_formats(precision), str(where)) is True


def native(precision: Precision, device: torch.device | str) -> bool:
    """Whether somebody insists on products in a 16-bit format that is slow on the device."""
    if precision.bytes != 2 or precision.compute != precision.storage:
        return False
    return precision.storage not in find_device(str(device)).profile.fast


def check_finite(x: torch.Tensor, name: str = "the tensor") -> torch.Tensor:
    """Return `x`, or raise naming how many values are NaN or infinite and where the first one is.

    Reads the whole tensor, and waits for the device.

    Raises
    ------
    InputError
        A value is not finite.
    """
    if not isinstance(x, torch.Tensor):
        raise InputError(f"check_finite: {name} is a {type(x).__name__}; give a tensor")
    bad = ~torch.isfinite(x)
    try:
        count = int(bad.sum())
    except RuntimeError as error:
        if "vmap" not in str(error):
            raise
        raise InputError(f"check_finite: {name} has no values to look at inside vmap; check the whole result") from None
    if count:
        first = tuple(int(i) for i in bad.nonzero()[0])
        nans = int(torch.isnan(x).sum())
        raise InputError(
            f"check_finite: {name} of shape {tuple(x.shape)} has {nans} NaN and {count - nans} infinite values, the "
            f"first at {first}; {'scale it down or store it as bf16 or fp32' if nans < count else 'look upstream'}"
        )
    return x
