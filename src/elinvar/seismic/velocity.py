"""Velocity functions of two-way time: declared as RMS, interval or average, converted exactly, bounded.

Times are two-way vertical seconds, velocities m/s, coordinates metres. An *interval* table is a stack of layers: the
value beside ``t[i]`` holds from ``t[i-1]`` (or 0) down to ``t[i]``, and the last one below it (Dix 1955).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from elinvar.errors import InputError

from ._check import choice, number

if TYPE_CHECKING:
    from .grid import Grid

__all__ = ["BOUNDS", "Kind", "Velocity", "dix"]

Kind = Literal["rms", "interval", "average"]
Floats = NDArray[np.float64]
KINDS = ("rms", "interval", "average")
#: Accepted velocities in m/s unless `bounds` says otherwise: below are typing errors, above are feet or km/s mistakes.
BOUNDS = (100.0, 12000.0)


def dix(t: ArrayLike, v_rms: ArrayLike) -> Floats:
    """Return the interval velocities of the layers that end at `t` (Dix 1955).

    ``v_i^2 = (V_i^2 t_i - V_{i-1}^2 t_{i-1}) / (t_i - t_{i-1})``

    Parameters
    ----------
    t
        Two-way times in seconds, strictly increasing, shape (n,).
    v_rms
        RMS velocities in m/s, shape (n,) or (..., n).

    Raises
    ------
    InputError
        Between two times the RMS velocity falls too fast for any layer to exist.
    """
    times, v = np.asarray(t, dtype=np.float64), np.asarray(v_rms, dtype=np.float64)
    energy = np.square(v) * times
    before = np.concatenate([np.zeros_like(energy[..., :1]), energy[..., :-1]], axis=-1)
    thickness = np.diff(times, prepend=0.0)
    square = np.divide(energy - before, thickness, out=np.square(v).copy(), where=thickness > 0)
    if (square <= 0).any():
        i = int(np.unravel_index(int(np.argmin(square)), square.shape)[-1])
        raise InputError(
            f"dix: the RMS velocity falls too fast between {times[max(i - 1, 0)]:g} s and {times[i]:g} s for any layer "
            "to exist there; smooth the velocity or correct that pick."
        )
    return np.asarray(np.sqrt(square), np.float64)


class Velocity(ABC):
    """A velocity field; build one with :meth:`constant`, :meth:`table`, :meth:`linear` or :meth:`cube`."""

    #: True when the velocity changes along the map.
    varies_laterally = False

    @staticmethod
    def constant(v: float, *, bounds: tuple[float, float] = BOUNDS) -> Velocity:
        """Return one velocity everywhere, in m/s."""
        value = number("Velocity.constant", "v", v)
        _bounded("Velocity.constant", np.asarray(value), bounds)
        return _Linear(value, 0.0)

    @staticmethod
    def linear(v0: float, k: float, *, bounds: tuple[float, float] = BOUNDS) -> Velocity:
        """Return ``v(z) = v0 + k z`` in depth: `v0` in m/s, `k` in 1/s (0.3 to 1 in young sediments).

        Straight rays see its exact RMS velocity, curved rays the medium itself.
        """
        value = number("Velocity.linear", "v0", v0)
        _bounded("Velocity.linear", np.asarray(value), bounds)
        return _Linear(value, number("Velocity.linear", "k", k, low=-5.0, high=5.0))

    @staticmethod
    def table(t: ArrayLike, v: ArrayLike, kind: Kind = "rms", *, bounds: tuple[float, float] = BOUNDS) -> Velocity:
        """Return a function of time given at a few times.

        Parameters
        ----------
        t
            Two-way times in seconds, strictly increasing, shape (n,).
        v
            Velocities in m/s, shape (n,).
        kind
            ``"rms"``: linear between the times, constant outside. ``"interval"``: `t` are layer bottoms (see the
            module). ``"average"``: depth over time; converted to layers.
        bounds
            Accepted velocities in m/s.

        Raises
        ------
        InputError
            Lengths that differ, times out of order, velocities out of bounds, layers that cannot exist.
        """
        choice("Velocity.table", "kind", kind, KINDS)
        times, values = np.atleast_1d(np.asarray(t, np.float64)), np.atleast_1d(np.asarray(v, np.float64))
        if times.ndim != 1 or times.shape != values.shape or times.size == 0:
            raise InputError(
                f"Velocity.table: t has shape {times.shape} and v {values.shape}; give two lists of equal length."
            )
        if not np.isfinite(times).all() or times[0] < 0 or (np.diff(times) <= 0).any():
            raise InputError(
                f"Velocity.table: times {times.tolist()} must be seconds >= 0 in strictly increasing order."
            )
        if kind != "rms" and times[0] == 0.0:
            raise InputError(
                f"Velocity.table: kind={kind!r} gives the layers that end at t, so the first time must be > 0, not 0."
            )
        _bounded("Velocity.table", values, bounds)
        return _Table(times, values, kind)

    @staticmethod
    def cube(values: ArrayLike, grid: Grid, kind: Kind = "rms", *, bounds: tuple[float, float] = BOUNDS) -> Velocity:
        """Return V(x, y, t) given at the points of a grid (usually much coarser than the image's).

        Parameters
        ----------
        values
            Velocities in m/s, shape (grid.nx, grid.ny, grid.nt).
        grid
            Where they are. Between its points the RMS velocity is trilinear, outside it is that of the nearest edge.
        kind
            What the values are. An interval value holds from the sample above it down to its own.

        Raises
        ------
        InputError
            A wrong shape, or velocities out of bounds.
        """
        choice("Velocity.cube", "kind", kind, KINDS)
        array = np.asarray(values, dtype=np.float64)
        if array.shape != grid.shape:
            raise InputError(f"Velocity.cube: values have shape {array.shape}; this grid needs {grid.shape}.")
        _bounded("Velocity.cube", array, bounds)
        return _Cube(_to_rms(grid.t, array, kind), grid)

    @abstractmethod
    def rms(self, t: ArrayLike, x: ArrayLike | None = None, y: ArrayLike | None = None) -> Floats:
        """Return the RMS velocity in m/s at two-way times `t` (s), broadcast with map coordinates where it varies."""

    @abstractmethod
    def interval(self, t: ArrayLike, x: ArrayLike | None = None, y: ArrayLike | None = None) -> Floats:
        """Return the velocity of the layer at `t`, in m/s."""

    @abstractmethod
    def average(self, t: ArrayLike, x: ArrayLike | None = None, y: ArrayLike | None = None) -> Floats:
        """Return twice the depth over `t`, in m/s."""

    def gradient(self) -> tuple[float, float]:
        """Return ``(v0, k)`` of ``v0 + k z``, or raise: curved rays are exact in such a medium only."""
        raise InputError(f"curved rays need Velocity.linear(v0, k) or Velocity.constant(v), not {self}.")

    def on_pillars(self, t: ArrayLike, pillars: ArrayLike) -> Floats:
        """Return RMS velocities at times (nt,) for pillars (n, 2): shape (1, nt), or (n, nt) where they vary."""
        times = np.asarray(t, dtype=np.float64)
        if not self.varies_laterally:
            return self.rms(times)[None, :]
        places = np.asarray(pillars, dtype=np.float64)
        return self.rms(times[None, :], places[:, :1], places[:, 1:])


def _bounded(operation: str, v: Floats, bounds: tuple[float, float]) -> None:
    low, high = bounds
    bad = ~(np.isfinite(v) & (v >= low) & (v <= high))
    if bad.any():
        worst = v[bad].ravel()[0]
        raise InputError(
            f"{operation}: velocity {worst:g} m/s is outside {low:g} to {high:g} m/s; check the unit, or pass bounds=."
        )


def _to_rms(t: Floats, v: Floats, kind: Kind) -> Floats:
    """Convert velocities given at times `t` (last dimension) to RMS."""
    if kind == "rms":
        return v
    thickness = np.diff(t, prepend=0.0)
    layers = v
    if kind == "average":
        depth = v * t
        rise = np.diff(depth, prepend=0.0, axis=-1)
        layers = np.divide(rise, thickness, out=v.copy(), where=thickness > 0)
        if (layers <= 0).any():
            raise InputError("velocity: the average velocity falls so fast that depth decreases; correct it.")
    energy = np.cumsum(np.square(layers) * thickness, axis=-1)
    return np.sqrt(np.divide(energy, t, out=np.square(layers), where=t > 0))


@dataclass(frozen=True)
class _Linear(Velocity):
    """``v0 + k z``; a constant is the case k = 0."""

    v0: float
    k: float

    def __str__(self) -> str:
        return f"{self.v0:g} m/s" if self.k == 0 else f"{self.v0:g} m/s + {self.k:g}/s · z"

    def rms(self, t: ArrayLike, x: ArrayLike | None = None, y: ArrayLike | None = None) -> Floats:
        return self.v0 * np.sqrt(self._mean_growth(np.asarray(t, np.float64), 1.0))

    def interval(self, t: ArrayLike, x: ArrayLike | None = None, y: ArrayLike | None = None) -> Floats:
        return np.asarray(self.v0 * np.exp(0.5 * self.k * np.asarray(t, np.float64)))

    def average(self, t: ArrayLike, x: ArrayLike | None = None, y: ArrayLike | None = None) -> Floats:
        return self.v0 * self._mean_growth(np.asarray(t, np.float64), 0.5)

    def gradient(self) -> tuple[float, float]:
        return self.v0, self.k

    def _mean_growth(self, t: Floats, power: float) -> Floats:
        """Return the mean of ``exp(power k t')`` over 0..t, which is 1 at t = 0."""
        a = power * self.k * t
        return np.divide(np.expm1(a), a, out=np.ones_like(a), where=a != 0)


@dataclass(frozen=True, eq=False)
class _Table(Velocity):
    """A function of time at a few times."""

    t: Floats
    v: Floats
    kind: Kind

    def __str__(self) -> str:
        return f"{self.kind} table, {self.t.size} times, {self.v.min():g} to {self.v.max():g} m/s"

    @property
    def layers(self) -> Floats:
        """Interval velocities of the layers that end at ``self.t``."""
        if self.kind == "interval":
            return self.v
        if self.kind == "rms":
            return dix(self.t, self.v)
        return dix(self.t, _to_rms(self.t, self.v, "average"))

    def rms(self, t: ArrayLike, x: ArrayLike | None = None, y: ArrayLike | None = None) -> Floats:
        times = np.asarray(t, np.float64)
        if self.kind == "rms":
            return np.asarray(np.interp(times, self.t, self.v))
        return np.sqrt(self._mean(times, 2))

    def interval(self, t: ArrayLike, x: ArrayLike | None = None, y: ArrayLike | None = None) -> Floats:
        times = np.asarray(t, np.float64)
        return np.asarray(self.layers[np.minimum(np.searchsorted(self.t, times), self.t.size - 1)])

    def average(self, t: ArrayLike, x: ArrayLike | None = None, y: ArrayLike | None = None) -> Floats:
        return self._mean(np.asarray(t, np.float64), 1)

    def _mean(self, times: Floats, power: int) -> Floats:
        """Return the mean of ``v_interval^power`` over 0..t, exact for layers."""
        value = self.layers**power
        knots = np.concatenate([[0.0], self.t])
        total = np.concatenate([[0.0], np.cumsum(value * np.diff(knots))])
        below = np.maximum(times - self.t[-1], 0.0) * value[-1]
        integral = np.interp(times, knots, total) + below
        return np.asarray(np.divide(integral, times, out=np.full_like(integral, value[0]), where=times > 0))


@dataclass(frozen=True, eq=False)
class _Cube(Velocity):
    """RMS velocities on a grid, trilinear between its points."""

    values: Floats
    grid: Grid
    varies_laterally = True

    def __str__(self) -> str:
        shape = " x ".join(map(str, self.values.shape))
        return f"cube of {shape}, {self.values.min():g} to {self.values.max():g} m/s RMS"

    def rms(self, t: ArrayLike, x: ArrayLike | None = None, y: ArrayLike | None = None) -> Floats:
        if x is None or y is None:
            raise InputError("Velocity.cube: a velocity that varies along the map needs x and y.")
        ix, iy = self.grid.indices(x, y)
        it = (np.asarray(t, np.float64) - self.grid.t0) / self.grid.dt
        ix, iy, it = np.broadcast_arrays(ix, iy, it)
        result = np.zeros(ix.shape)
        spans = [_span(i, n) for i, n in zip((ix, iy, it), self.values.shape, strict=True)]
        for corner in range(8):
            pick, weight = [], np.ones(ix.shape)
            for axis, (low, fraction) in enumerate(spans):
                up = (corner >> axis) & 1
                pick.append(np.minimum(low + up, self.values.shape[axis] - 1))
                weight = weight * (fraction if up else 1.0 - fraction)
            result += weight * self.values[tuple(pick)]
        return result

    def interval(self, t: ArrayLike, x: ArrayLike | None = None, y: ArrayLike | None = None) -> Floats:
        raise NotImplementedError("Velocity.cube does not give interval velocities; convert the cube with dix().")

    def average(self, t: ArrayLike, x: ArrayLike | None = None, y: ArrayLike | None = None) -> Floats:
        raise NotImplementedError("Velocity.cube does not give average velocities; convert the cube with dix().")


def _span(index: Floats, n: int) -> tuple[NDArray[np.intp], Floats]:
    """Split fractional indices, clamped into 0..n-1, into the sample below and the fraction above it."""
    clamped = np.clip(index, 0.0, n - 1.0)
    low = np.floor(clamped).astype(np.intp)
    return low, clamped - low
