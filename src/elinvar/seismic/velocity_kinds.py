"""RMS, interval and average velocities of the same layers, turned into one another exactly.

Layers end at times ``t``; the first begins at 0. With interval velocities ``v_i`` and thicknesses ``d_i`` in two-way
time (Dix 1955)::

    V_rms(t)^2 t = sum v_i^2 d_i        V_average(t) t = sum v_i d_i
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from elinvar.errors import InputError

from ._check import choice

__all__ = ["BOUNDS", "KINDS", "Kind", "check_bounds", "convert", "dix"]

Kind = Literal["rms", "interval", "average"]
Floats = NDArray[np.float64]
Where = Callable[[int], str]
KINDS = ("rms", "interval", "average")
#: Accepted velocities in m/s unless `bounds` says otherwise: below are typing errors, above are feet or km/s mistakes.
BOUNDS = (100.0, 12000.0)


def dix(t: ArrayLike, v_rms: ArrayLike, *, where: Where | None = None) -> Floats:
    """Return the interval velocities of the layers that end at `t` (Dix 1955).

    ``v_i^2 = (V_i^2 t_i - V_{i-1}^2 t_{i-1}) / (t_i - t_{i-1})``

    Parameters
    ----------
    t
        Two-way times in seconds, strictly increasing, shape (n,).
    v_rms
        RMS velocities in m/s, shape (n,) or (..., n).
    where
        Says where a function is, from its position among all, for the message.

    Raises
    ------
    InputError
        Between two times the RMS velocity falls too fast for any layer to exist.
    """
    times, v = np.asarray(t, dtype=np.float64), np.asarray(v_rms, dtype=np.float64)
    square = _layers(times, np.square(v) * times, np.square(v))
    if (square <= 0).any():
        place, i = divmod(int(np.argmin(square)), square.shape[-1])
        at = "" if where is None else f" {where(place)}"
        raise InputError(
            f"dix: the RMS velocity falls too fast between {times[max(i - 1, 0)]:g} s and {times[i]:g} s{at} for any "
            "layer to exist there; smooth the velocity or correct that pick."
        )
    return np.asarray(np.sqrt(square), np.float64)


def convert(t: ArrayLike, v: ArrayLike, kind: Kind, to: Kind, *, where: Where | None = None) -> Floats:
    """Return velocities of one kind as another.

    Parameters
    ----------
    t
        Two-way times in seconds at which layers end, strictly increasing, shape (n,); the first may be 0, where all
        three kinds are equal.
    v
        Velocities in m/s, shape (..., n).
    kind, to
        ``"rms"``, ``"interval"`` or ``"average"``.
    where
        Says where a function is, from its position among all, for the message.

    Raises
    ------
    InputError
        No layers have such velocities: RMS that fall too fast, or average ones with which depth decreases.
    """
    choice("velocity", "kind", kind, KINDS)
    choice("velocity", "kind", to, KINDS)
    times, values = np.asarray(t, np.float64), np.asarray(v, np.float64)
    if kind == to:
        return values
    if kind == "rms":
        layers = dix(times, values, where=where)
    elif kind == "average":
        layers = _layers(times, values * times, values)
        if (layers <= 0).any():
            place, i = divmod(int(np.argmin(layers)), layers.shape[-1])
            at = "" if where is None else f" {where(place)}"
            raise InputError(
                f"velocity: the average velocity falls so fast that depth decreases before {times[i]:g} s{at}; correct "
                "that pick."
            )
    else:
        layers = values
    if to == "interval":
        return layers
    power = 2 if to == "rms" else 1
    total = np.cumsum(layers**power * np.diff(times, prepend=0.0), axis=-1)
    mean = np.divide(total, times, out=layers**power, where=times > 0)
    return np.sqrt(mean) if power == 2 else np.asarray(mean, np.float64)


def _layers(t: Floats, total: Floats, at_zero: Floats) -> Floats:
    """Return what each layer adds to a running total, per unit of time."""
    thickness = np.diff(t, prepend=0.0)
    rise = np.diff(total, prepend=0.0, axis=-1)
    return np.divide(rise, thickness, out=at_zero.copy(), where=thickness > 0)


def check_bounds(
    operation: str, v: Floats, bounds: tuple[float, float], where: Callable[[tuple[int, ...]], str] | None = None
) -> None:
    """Refuse velocities outside `bounds`; `where` says where an element is."""
    low, high = bounds
    bad = ~(np.isfinite(v) & (v >= low) & (v <= high))
    if bad.any():
        first = np.unravel_index(int(np.argmax(bad)), bad.shape) if bad.ndim else ()
        at = "" if where is None else f" {where(tuple(int(i) for i in first))}"
        raise InputError(
            f"{operation}: velocity {v[first]:g} m/s{at} is outside {low:g} to {high:g} m/s; check the unit, or pass "
            "bounds=."
        )
