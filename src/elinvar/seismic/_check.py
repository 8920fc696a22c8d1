"""Argument checks shared by the seismic modules: one sentence, the offending value, what is accepted."""

from __future__ import annotations

from types import ModuleType

import numpy as np
from numpy.typing import ArrayLike, NDArray

from elinvar.errors import InputError
from elinvar.runtime.checks import choice, count, number
from elinvar.runtime.checks import optional_library as _optional_library

__all__ = ["choice", "count", "number", "optional_library", "points"]


def points(operation: str, name: str, value: ArrayLike, n: int | None = None) -> NDArray[np.float64]:
    """Return `value` as a float64 array of shape (n, 2) of finite map coordinates in metres."""
    array = np.asarray(value, dtype=np.float64)
    if array.ndim != 2 or array.shape[1] != 2 or (n is not None and array.shape[0] != n):
        wanted = f"({'n' if n is None else n}, 2)"
        raise InputError(f"{operation}: {name} has shape {array.shape}; give {wanted} map coordinates in metres.")
    if not np.isfinite(array).all():
        row = int(np.flatnonzero(~np.isfinite(array).all(axis=1))[0])
        raise InputError(f"{operation}: {name}[{row}] is {array[row].tolist()}; coordinates must be finite.")
    return array


def optional_library(name: str, operation: str) -> ModuleType:
    """Import a library of the seismic extra, or say how to get it."""
    return _optional_library(name, operation, "seismic")
