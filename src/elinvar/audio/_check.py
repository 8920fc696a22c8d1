"""Argument checks shared by the audio modules, and the one way signals come in and go out."""

from __future__ import annotations

import math
from collections.abc import Callable
from types import ModuleType
from typing import TYPE_CHECKING, Any, TypeAlias, Union

import numpy as np
from numpy.typing import NDArray

from elinvar.errors import InputError
from elinvar.runtime.checks import choice, count, number
from elinvar.runtime.checks import optional_library as _optional_library

if TYPE_CHECKING:
    import torch

__all__ = [
    "Array",
    "Signal",
    "choice",
    "count",
    "finite",
    "number",
    "optional_library",
    "rate",
    "rows_of",
    "signal",
    "write_out",
]

Array: TypeAlias = NDArray[np.float32]
Signal: TypeAlias = Union[Array, "torch.Tensor"]
"""numpy array or torch tensor; what comes in decides what comes out."""


def rate(operation: str, value: object, name: str = "sample_rate") -> float:
    """Return a sampling rate in Hz, or raise: 1 to 768000, never guessed."""
    return number(operation, name, value, low=1.0, high=768_000.0)


_SCALE = {"i2": 1.0 / 32768.0, "i4": 1.0 / 2147483648.0}


def _to_float32(operation: str, name: str, array: NDArray[Any]) -> Array:
    kind = array.dtype.str[1:]
    if kind in _SCALE:
        return (array * _SCALE[kind]).astype(np.float32)  # full scale is 1
    if array.dtype.kind != "f":
        raise InputError(f"{operation}: {name} has dtype {array.dtype}; give float32, float64, int16 or int32.")
    return array.astype(np.float32)


def signal(
    operation: str, value: Any, name: str = "the signal", *, empty: bool = True
) -> tuple[Array, Callable[[Any], Any]]:
    """Return samples as a C-contiguous float32 numpy array, and the function that gives a result the caller's kind.

    int16 and int32 are scaled so that full scale is 1; float64 is rounded. A tensor on a GPU comes to the host
    (counted by `elinvar.transfers`) and its result goes back.

    Raises
    ------
    InputError
        For other dtypes, no dimension, no samples where `empty` is not accepted, or a tensor that requires gradients
        while they are recorded.
    """
    back: Callable[[Any], Any] = _same
    if not isinstance(value, np.ndarray) and hasattr(value, "detach"):
        import torch

        from elinvar.runtime.transfers import to_device, to_host

        if value.requires_grad and torch.is_grad_enabled():
            raise InputError(
                f"{operation}: {name} requires gradients, which are not computed here; pass x.detach(), or filter with "
                "convolve, which has them."
            )
        device = value.device
        host = to_host(value.detach())
        value = host.float().numpy() if host.dtype in (torch.float16, torch.bfloat16) else host.numpy()

        def back(result: Any) -> Any:
            return to_device(torch.from_numpy(np.ascontiguousarray(result)), device)

    array = np.asarray(value)
    if array.dtype != np.float32:
        array = _to_float32(operation, name, array)
    if array.ndim == 0:
        raise InputError(f"{operation}: {name} is one number; give samples of shape [..., time].")
    if not empty and array.shape[-1] == 0:
        raise InputError(f"{operation}: {name} has shape {array.shape}, no samples; give at least one.")
    return np.ascontiguousarray(array), back


def rows_of(samples: Array) -> Array:
    """Return [..., time] as [rows, time]; also where there is no time."""
    return samples.reshape(math.prod(samples.shape[:-1]), samples.shape[-1])


def _same(result: Any) -> Any:
    return result


def finite(operation: str, array: NDArray[Any], name: str = "the signal") -> None:
    """Raise :class:`InputError` when samples are NaN or infinite, with how many and where the first is."""
    if np.isfinite(array.sum(dtype=np.float64)):  # one pass, no array; a sum in float64 cannot overflow
        return
    bad = ~np.isfinite(array)
    if not bad.any():
        return
    first = int(np.flatnonzero(bad.reshape(-1, array.shape[-1]).any(axis=0))[0])
    raise InputError(
        f"{operation}: {name} has {int(bad.sum())} samples that are NaN or infinite, the first at {first}; "
        "replace them, for instance with numpy.nan_to_num."
    )


def write_out(operation: str, result: Any, out: Any) -> Any:
    """Return `result`, or copy it into `out` (numpy array or tensor of the same shape) and return that."""
    if out is None:
        return result
    if tuple(out.shape) != tuple(result.shape):
        raise InputError(f"{operation}: out has shape {tuple(out.shape)}; the result has shape {tuple(result.shape)}.")
    if isinstance(out, np.ndarray):
        np.copyto(out, result if isinstance(result, np.ndarray) else result.cpu().numpy(), casting="same_kind")
    else:
        import torch

        out.copy_(torch.from_numpy(result) if isinstance(result, np.ndarray) else result)
    return out


def optional_library(name: str, operation: str) -> ModuleType:
    """Import a library of the audio extra, or say how to get it."""
    return _optional_library(name, operation, "audio")
