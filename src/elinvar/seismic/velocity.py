"""Velocity functions of two-way time: declared as RMS, interval or average, converted exactly, bounded.

Times are two-way vertical seconds, velocities m/s, coordinates metres. An *interval* table is a stack of layers: the
value beside ``t[i]`` holds from ``t[i-1]`` (or 0) down to ``t[i]``, and the last one below it (Dix 1955).
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from elinvar.errors import InputError

from ._check import choice, number, points
from .velocity_kinds import BOUNDS, KINDS, Kind, check_bounds, convert, dix

if TYPE_CHECKING:
    from .grid import Grid

__all__ = ["BOUNDS", "Kind", "Velocity", "convert", "dix"]

Floats = NDArray[np.float64]


class Velocity(ABC):
    """A velocity field; make one with :meth:`constant`, :meth:`linear`, :meth:`table`, :meth:`functions`, :meth:`cube`.

    :meth:`open` reads one from a file.
    """

    #: True when the velocity changes along the map.
    varies_laterally = False

    @staticmethod
    def constant(v: float, *, bounds: tuple[float, float] = BOUNDS) -> Velocity:
        """Return one velocity everywhere, in m/s."""
        value = number("Velocity.constant", "v", v)
        check_bounds("Velocity.constant", np.asarray(value), bounds)
        return _Linear(value, 0.0)

    @staticmethod
    def linear(v0: float, k: float, *, bounds: tuple[float, float] = BOUNDS) -> Velocity:
        """Return ``v(z) = v0 + k z`` in depth: `v0` in m/s, `k` in 1/s (0.3 to 1 in young sediments).

        Straight rays see its exact RMS velocity, curved rays the medium itself.
        """
        value = number("Velocity.linear", "v0", v0)
        check_bounds("Velocity.linear", np.asarray(value), bounds)
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
        check_bounds("Velocity.table", values, bounds)
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
        from .velocity_field import cube

        return cube(values, grid, kind, bounds)

    @staticmethod
    def functions(
        places: ArrayLike,
        tables: Sequence[tuple[ArrayLike, ArrayLike]],
        kind: Kind = "rms",
        *,
        bounds: tuple[float, float] = BOUNDS,
    ) -> Velocity:
        """Return functions of time at scattered places, such as velocity analyses.

        Between the places the RMS velocity is linear over their Delaunay triangles; outside it is that of the nearest
        point on the triangles' outline. Places on one line make a section, the same across it.

        Parameters
        ----------
        places
            Map coordinates in metres, shape (n, 2), each once.
        tables
            For each place its times (s) and velocities (m/s), as for :meth:`table`; lengths may differ.
        kind, bounds
            As for :meth:`table`.

        Raises
        ------
        InputError
            Two functions at one place, times out of order, velocities out of bounds, layers that cannot exist; the
            message names the place.
        """  # fmt: skip
        from .velocity_field import scattered

        choice("Velocity.functions", "kind", kind, KINDS)
        where = points("Velocity.functions", "places", places, len(tables))
        rows = []
        for (x, y), (t, v) in zip(where, tables, strict=True):
            times, values = np.atleast_1d(np.asarray(t, np.float64)), np.atleast_1d(np.asarray(v, np.float64))
            if times.ndim != 1 or times.shape != values.shape:
                raise InputError(
                    f"Velocity.functions: at x {x:.1f}, y {y:.1f} t has shape {times.shape} and v {values.shape}; give "
                    "two lists of equal length."
                )
            rows.append((float(x), float(y), times, values))
        if not rows:
            raise InputError("Velocity.functions: there are no functions; give one at least.")
        return scattered(rows, kind, bounds, "Velocity.functions")

    @staticmethod
    def open(
        path: str | os.PathLike[str], kind: Kind | None = None, *, bounds: tuple[float, float] = BOUNDS, **options: Any
    ) -> Velocity:
        """Open a velocity file: a cube as SEG-Y or Zarr, or a table as text.

        Parameters
        ----------
        path
            What it is goes by its content; see :mod:`elinvar.seismic.velocity_files` for what is understood.
        kind
            What the values are; by default what the file says, else ``"rms"``.
        bounds
            Accepted velocities in m/s.
        **options
            For SEG-Y ``inline, xline, cdp_x, cdp_y`` (bytes), ``endian``, ``dt``; for text ``columns``, ``unit``,
            ``places``.

        Raises
        ------
        InputError
            Not such a file, or values that are no velocities; the message names the place.
        """
        from .velocity_files import open_velocity

        return open_velocity(path, kind, bounds, **options)

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

    @abstractmethod
    def scaled(self, percent: float) -> Velocity:
        """Return the field times ``percent / 100``: RMS, interval and average velocities alike."""

    def scan(self, percents: tuple[float, float, float]) -> Iterator[tuple[float, Velocity]]:
        """Yield ``(percent, scaled field)`` from the first percentage to the last: ``velocity.scan((90, 110, 2))``.

        Parameters
        ----------
        percents
            First, last, step; the last is included when the steps reach it.
        """
        if len(percents) != 3:
            raise InputError(f"Velocity.scan: percents are {percents!r}; give first, last and step.")
        first, last, step = (number("Velocity.scan", "a percentage", value) for value in percents)
        if step == 0.0 or (last - first) / step < 0.0:
            raise InputError(f"Velocity.scan: {first:g} does not lead to {last:g} in steps of {step:g} percent.")
        values = [round(first + i * step, 9) for i in range(int((last - first) / step + 1e-9) + 1)]
        for value in values:
            percentage(value)  # all of them, before any work is done with the first
        return ((value, self.scaled(value)) for value in values)

    def smoothed(self, metres: float = 0.0, seconds: float = 0.0) -> Velocity:
        """Return the field with the slowness 1/V of its RMS velocity smoothed by a Gaussian.

        Smoothing slowness keeps travel times nearer to what they were than smoothing velocity does. At the edges the
        outer values go on; a constant stays what it is.

        Parameters
        ----------
        metres
            Standard deviation along the map, the same in all directions.
        seconds
            Standard deviation along two-way time.
        """
        self._lengths(metres, seconds)
        return self

    @staticmethod
    def _lengths(metres: float, seconds: float) -> tuple[float, float]:
        along = number("Velocity.smoothed", "metres", metres, low=0.0)
        during = number("Velocity.smoothed", "seconds", seconds, low=0.0)
        if during > 20.0:
            raise InputError(f"Velocity.smoothed: seconds is {seconds!r}; it is given in seconds (100 ms is 0.1).")
        return along, during

    def sampled(self, grid: Grid, kind: Kind = "rms") -> Floats:
        """Return velocities at the points of a grid, float64 (nx, ny, nt), as :meth:`cube` takes them.

        Interval and average velocities are those of layers that end at the grid's times, so that the cube they make has
        the same RMS velocity at all of them.
        """
        choice("Velocity.sampled", "kind", kind, KINDS)
        x, y = (side[..., None] for side in grid.map)
        rms = np.ascontiguousarray(np.broadcast_to(self.rms(grid.t, x, y), grid.shape))

        def where(i: int) -> str:
            return f"at x {x.ravel()[i]:.1f}, y {y.ravel()[i]:.1f}"

        return convert(grid.t, rms, "rms", kind, where=where)

    def save(self, path: str | os.PathLike[str], grid: Grid, kind: Kind = "rms") -> None:
        """Write the field at the points of a grid: SEG-Y (``.sgy``, ``.segy``), Zarr (``.zarr``) or text (``.txt``)."""
        from .velocity_files import save_velocity

        save_velocity(self, path, grid, kind)

    def on_pillars(self, t: ArrayLike, pillars: ArrayLike) -> Floats:
        """Return RMS velocities at times (nt,) for pillars (n, 2): shape (1, nt), or (n, nt) where they vary."""
        times = np.asarray(t, dtype=np.float64)
        if not self.varies_laterally:
            return self.rms(times)[None, :]
        places = np.asarray(pillars, dtype=np.float64)
        return self.rms(times[None, :], places[:, :1], places[:, 1:])


def percentage(percent: float) -> float:
    """Return a percentage as a factor."""
    return 0.01 * number("Velocity.scaled", "percent", percent, low=1.0, high=1000.0)


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

    def scaled(self, percent: float) -> Velocity:
        # v(t) = v0 exp(k t / 2): times a factor it is again linear in its own depth, with the same k.
        return _Linear(self.v0 * percentage(percent), self.k)

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

    def scaled(self, percent: float) -> Velocity:
        return replace(self, v=self.v * percentage(percent))

    def smoothed(self, metres: float = 0.0, seconds: float = 0.0) -> Velocity:
        from .velocity_field import smooth_time, smoothing_axis

        _, during = self._lengths(metres, seconds)
        if during == 0.0:
            return self
        t = smoothing_axis(float(self.t[-1]), during)
        return _Table(t, smooth_time(self.rms(t), during / float(t[1] - t[0])), "rms")

    @property
    def layers(self) -> Floats:
        """Interval velocities of the layers that end at ``self.t``."""
        return convert(self.t, self.v, self.kind, "interval")

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
