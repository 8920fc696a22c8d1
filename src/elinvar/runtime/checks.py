"""Checks of arguments for every engine: one sentence with the operation, the offending value and what is accepted."""

from __future__ import annotations

import importlib
import math
import operator
from collections.abc import Iterable
from types import ModuleType

from elinvar.errors import InputError, MissingDependency

__all__ = ["choice", "count", "number", "optional_library"]


def number(
    operation: str,
    name: str,
    value: object,
    low: float = -math.inf,
    high: float = math.inf,
    *,
    open_low: bool = False,
    open_high: bool = False,
) -> float:
    """Return `value` as a finite float inside the interval, or raise :class:`InputError`."""
    try:
        result = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        raise InputError(f"{operation}: {name} is {value!r}; give one number.") from None
    below = result < low or (open_low and result == low)
    above = result > high or (open_high and result == high)
    if not math.isfinite(result) or below or above:
        interval = f"{'(' if open_low else '['}{low:g}, {high:g}{')' if open_high else ']'}"
        accepted = "a finite number" if interval == "[-inf, inf]" else f"a finite number in {interval}"
        shown = value.item() if hasattr(value, "item") else value  # 3.0, not np.float64(3.0)
        raise InputError(f"{operation}: {name} is {shown!r}; {accepted} is accepted.")
    return result


def count(operation: str, name: str, value: object, minimum: int = 1, maximum: int | None = None) -> int:
    """Return `value` as an int from `minimum` to `maximum`, or raise :class:`InputError`; True is no number."""
    wanted = f"of at least {minimum}" if maximum is None else f"from {minimum} to {maximum}"
    try:
        if isinstance(value, bool):
            raise TypeError
        result = operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        raise InputError(f"{operation}: {name} is {value!r}; give a whole number {wanted}.") from None
    if result < minimum or (maximum is not None and result > maximum):
        raise InputError(f"{operation}: {name} is {result}; give a whole number {wanted}.")
    return result


def choice(operation: str, name: str, value: object, accepted: Iterable[str]) -> str:
    """Return `value` when it is one of `accepted`, or raise :class:`InputError` listing them."""
    known = list(accepted)
    if not isinstance(value, str) or value not in known:
        raise InputError(f"{operation}: {name} is {value!r}; choose one of {', '.join(known)}.")
    return value


def optional_library(name: str, operation: str, extra: str) -> ModuleType:
    """Import an optional library, or say which extra brings it."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise MissingDependency(
            f"{operation} needs {name.partition('.')[0]}, which is not installed; run: pip install 'elinvar[{extra}]'"
        ) from error
