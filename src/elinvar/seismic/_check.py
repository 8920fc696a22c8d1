"""Argument checks shared by the seismic modules: one sentence, the offending value, what is accepted."""

from __future__ import annotations

import importlib
import math
import operator
from types import ModuleType

import numpy as np
from numpy.typing import ArrayLike, NDArray

from elinvar.errors import InputError, MissingDependency

__all__ = ["choice", "count", "number", "optional_library", "points"]


def number(
    operation: str,
    name: str,
    value: object,
    *,
    low: float = -math.inf,
    high: float = math.inf,
    open_low: bool = False,
    open_high: bool = False,
) -> float:
    """Return `value` as a finite float inside the interval, or raise :class:`InputError`."""
    value = value.item() if isinstance(value, np.generic) else value
    try:
        result = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        raise InputError(f"{operation}: {name} is {value!r}; give one number.") from None
    below = result < low or (open_low and result == low)
    above = result > high or (open_high and result == high)
    if not math.isfinite(result) or below or above:
        interval = f"{'(' if open_low else '['}{low:g}, {high:g}{')' if open_high else ']'}"
        accepted = "a finite number" if interval == "[-inf, inf]" else f"a finite number in {interval}"
        raise InputError(f"{operation}: {name} is {value!r}; {accepted} is accepted.")
    return result


def count(operation: str, name: str, value: object, *, minimum: int = 1) -> int:
    """Return `value` as an int of at least `minimum`, or raise :class:`InputError`."""
    try:
        result = operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        raise InputError(f"{operation}: {name} is {value!r}; give a whole number of at least {minimum}.") from None
    if result < minimum:
        raise InputError(f"{operation}: {name} is {result}; give a whole number of at least {minimum}.")
    return result


def choice(operation: str, name: str, value: str, accepted: tuple[str, ...]) -> str:
    """Return `value` when it is one of `accepted`, or raise :class:`InputError` listing them."""
    if value not in accepted:
        raise InputError(f"{operation}: {name} is {value!r}; choose one of {', '.join(accepted)}.")
    return value


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
    """Import an optional library, or say which extra brings it."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise MissingDependency(
            f"{operation} needs {name.partition('.')[0]}, which is not installed; run: pip install 'elinvar[seismic]'"
        ) from error
