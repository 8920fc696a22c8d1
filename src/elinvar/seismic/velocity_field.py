"""Velocities that vary along the map: on a grid, or at scattered places.

RMS velocity is what is interpolated along the map. On a grid it is trilinear, and outside that of the nearest edge.
Between scattered functions it is linear over the Delaunay triangles of their places; outside all triangles it is that
of the nearest point on their outline, so that it has no jumps.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from elinvar.errors import InputError

from ._check import optional_library
from .velocity import Velocity, percentage
from .velocity_kinds import Kind, check_bounds, convert, dix

if TYPE_CHECKING:
    from .grid import Grid

__all__ = ["Cube", "Scattered", "cube", "scattered"]

Floats = NDArray[np.float64]
Nodes = NDArray[np.intp]
_AT_ONCE = 1 << 20  # distances to the outline held at a time


class Lateral(Velocity):
    """What all fields that vary along the map share: layers between the times they are given at."""

    varies_laterally = True

    @property
    @abstractmethod
    def times(self) -> Floats:
        """Times the field is given at, in seconds, rising."""

    def interval(self, t: ArrayLike, x: ArrayLike | None = None, y: ArrayLike | None = None) -> Floats:
        """Return the velocity of the layer at `t` in m/s; layers end at the times the field is given at."""
        layers, when = self._columns(t, x, y)
        row = np.minimum(np.searchsorted(self.times, when), len(self.times) - 1)
        return np.asarray(np.take_along_axis(layers, row[..., None], axis=-1)[..., 0], np.float64)

    def average(self, t: ArrayLike, x: ArrayLike | None = None, y: ArrayLike | None = None) -> Floats:
        """Return twice the depth over `t`, in m/s."""
        layers, when = self._columns(t, x, y)
        row = np.minimum(np.searchsorted(self.times, when), len(self.times) - 1)
        top = np.concatenate([[0.0], self.times])
        depth = np.cumsum(layers * np.diff(top), axis=-1)
        above = np.concatenate([np.zeros_like(depth[..., :1]), depth], axis=-1)
        here = np.take_along_axis(layers, row[..., None], axis=-1)[..., 0]
        total = np.take_along_axis(above, row[..., None], axis=-1)[..., 0] + here * (when - top[row])
        return np.asarray(np.divide(total, when, out=here.copy(), where=when > 0), np.float64)

    def _columns(self, t: ArrayLike, x: ArrayLike | None, y: ArrayLike | None) -> tuple[Floats, Floats]:
        """Return interval velocities of all layers, (..., layers), and `t`, broadcast (...)."""
        east, north = self._places(x, y)
        when, east, north = np.broadcast_arrays(np.asarray(t, np.float64), east, north)
        rms = self.rms(self.times, east[..., None], north[..., None])

        def where(i: int) -> str:
            return f"at x {east.ravel()[i]:.1f}, y {north.ravel()[i]:.1f}"

        return dix(self.times, rms, where=where), when

    def _places(self, x: ArrayLike | None, y: ArrayLike | None) -> tuple[Floats, Floats]:
        if x is None or y is None:
            raise InputError("Velocity: a velocity that varies along the map needs x and y.")
        return np.asarray(x, np.float64), np.asarray(y, np.float64)


@dataclass(frozen=True, eq=False)
class Cube(Lateral):
    """RMS velocities on a grid, trilinear between its points."""

    values: Floats
    grid: Grid

    def __str__(self) -> str:
        shape = " x ".join(map(str, self.values.shape))
        return f"cube of {shape}, {self.values.min():g} to {self.values.max():g} m/s RMS"

    @property
    def times(self) -> Floats:
        """Times of the grid."""
        return self.grid.t

    def rms(self, t: ArrayLike, x: ArrayLike | None = None, y: ArrayLike | None = None) -> Floats:
        """Return the RMS velocity in m/s, trilinear, outside the grid that of its nearest edge."""
        ix, iy = self.grid.indices(*self._places(x, y))
        it = (np.asarray(t, np.float64) - self.grid.t0) / self.grid.dt
        spans = [_span(i, n) for i, n in zip((ix, iy, it), self.values.shape, strict=True)]
        result = np.zeros(np.broadcast_shapes(ix.shape, it.shape))
        for corner in range(8):
            pick, weight = [], np.ones(())
            for axis, (low, fraction) in enumerate(spans):
                up = (corner >> axis) & 1
                pick.append(np.minimum(low + up, self.values.shape[axis] - 1))
                weight = weight * (fraction if up else 1.0 - fraction)
            result += weight * self.values[tuple(pick)]
        return result

    def scaled(self, percent: float) -> Cube:
        """Return the field times ``percent / 100``."""
        return replace(self, values=self.values * percentage(percent))

    def smoothed(self, metres: float = 0.0, seconds: float = 0.0) -> Cube:
        """Return the field with its slowness smoothed; see :meth:`Velocity.smoothed`."""
        ndimage = optional_library("scipy.ndimage", "Velocity.smoothed")
        lengths = self._lengths(metres, seconds)
        sigma = (lengths[0] / self.grid.dx, lengths[0] / self.grid.dy, lengths[1] / self.grid.dt)
        slowness = ndimage.gaussian_filter(1.0 / self.values, sigma, mode="nearest")
        return replace(self, values=np.asarray(1.0 / slowness, np.float64))


def _span(index: Floats, n: int) -> tuple[NDArray[np.intp], Floats]:
    """Split fractional indices, clamped into 0..n-1, into the sample below and the fraction above it."""
    clamped = np.clip(index, 0.0, n - 1.0)
    low = np.floor(clamped).astype(np.intp)
    return low, clamped - low


def cube(values: ArrayLike, grid: Grid, kind: Kind, bounds: tuple[float, float]) -> Cube:
    """Build :meth:`Velocity.cube`."""
    array = np.asarray(values, dtype=np.float64)
    if array.shape != grid.shape:
        raise InputError(f"Velocity.cube: values have shape {array.shape}; this grid needs {grid.shape}.")

    def bin_of(i: int) -> str:
        ix, iy = divmod(i, grid.ny)
        x, y = grid.position(ix, iy)
        return f"at inline {grid.inlines[ix]}, crossline {grid.crosslines[iy]} (x {x:.1f}, y {y:.1f})"

    def sample_of(index: tuple[int, ...]) -> str:
        return f"{bin_of(index[0] * grid.ny + index[1])}, {grid.t[index[2]]:g} s"

    check_bounds("Velocity.cube", array, bounds, sample_of)
    return Cube(convert(grid.t, array, kind, "rms", where=bin_of), grid)


@dataclass(frozen=True, eq=False)
class Scattered(Lateral):
    """Functions of time at scattered places.

    Attributes
    ----------
    places
        Map coordinates in metres, (n, 2).
    t
        Every time any of the functions is given at, (k,): nothing is lost by giving all of them there.
    values
        (n, k): RMS velocities, linear in between and constant outside, or, with `layered`, ``V_rms^2 t``, which is
        linear through a layer.
    """

    places: Floats
    t: Floats
    values: Floats
    layered: bool

    def __str__(self) -> str:
        v = self._at(np.arange(len(self.places))[:, None], self.t)
        return f"{len(self.places)} functions at scattered places, {v.min():g} to {v.max():g} m/s RMS"

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_net"}

    @property
    def times(self) -> Floats:
        """Every time any of the functions is given at."""
        return self.t

    @cached_property
    def _net(self) -> _Net:
        return _Net(self.places)

    def rms(self, t: ArrayLike, x: ArrayLike | None = None, y: ArrayLike | None = None) -> Floats:
        """Return the RMS velocity in m/s: linear in time and over triangles; see the module."""
        east, north = np.broadcast_arrays(*self._places(x, y))
        nodes, weights = self._net.find(np.stack([east.ravel(), north.ravel()], axis=1))
        when = np.asarray(t, np.float64)
        result = np.zeros(np.broadcast_shapes(east.shape, when.shape))
        for node, weight in zip(nodes.T, weights.T, strict=True):
            result += weight.reshape(east.shape) * self._at(node.reshape(east.shape), when)
        return result

    def _at(self, node: Nodes, when: Floats) -> Floats:
        """Return the RMS velocity of functions at times, broadcast."""
        if not self.layered:
            return _interpolated(self.t, self.values, node, when)
        knots = np.concatenate([[0.0], self.t])
        total = np.concatenate([np.zeros((len(self.values), 1)), self.values], axis=1)
        slope = np.diff(total, axis=1)[:, -1] / np.diff(knots)[-1]
        energy = _interpolated(knots, total, node, when) + slope[node] * np.maximum(when - knots[-1], 0.0)
        first = np.broadcast_to(total[node, 1] / knots[1], energy.shape).copy()
        return np.asarray(np.sqrt(np.divide(energy, when, out=first, where=when > 0)), np.float64)

    def scaled(self, percent: float) -> Scattered:
        """Return the field times ``percent / 100``."""
        factor = percentage(percent)
        return replace(self, values=self.values * (factor**2 if self.layered else factor))

    def smoothed(self, metres: float = 0.0, seconds: float = 0.0) -> Scattered:
        """Return the field with its slowness smoothed: along the map over the functions' places, see the base class."""
        along, during = self._lengths(metres, seconds)
        if not along and not during:
            return self
        last = float(self.t[-1])
        if during > 0.0:
            t = smoothing_axis(last, during)
            v = smooth_time(self._at(np.arange(len(self.places))[:, None], t), during / (t[1] - t[0]))
        else:
            # Through a layer the RMS velocity is not linear: more times, so that it nearly is between them.
            t = np.unique(np.concatenate([self.t, np.linspace(0.0, last, 501)])) if self.layered else self.t
            v = self._at(np.arange(len(self.places))[:, None], t)
        if along > 0.0:
            v = 1.0 / np.stack([self._mean_slowness(i, 1.0 / v, along) for i in range(len(self.places))])
        return Scattered(self.places, t, v, layered=False)

    def _mean_slowness(self, i: int, slowness: Floats, length: float) -> Floats:
        distance = np.square(self.places - self.places[i]).sum(axis=1)
        weight = np.exp(-0.5 * distance / length**2)
        return np.asarray(weight @ slowness / weight.sum(), np.float64)


def _interpolated(knots: Floats, values: Floats, node: Nodes, when: Floats) -> Floats:
    """Return functions, linear between knots and constant outside, at times, broadcast."""
    if len(knots) == 1:
        return np.asarray(values[node, 0] + np.zeros_like(when))
    row = np.clip(np.searchsorted(knots, when, side="right") - 1, 0, len(knots) - 2)
    fraction = np.clip((when - knots[row]) / (knots[row + 1] - knots[row]), 0.0, 1.0)
    return np.asarray(values[node, row] * (1.0 - fraction) + values[node, row + 1] * fraction)


class _Net:
    """Triangles over places, and their outline."""

    def __init__(self, places: Floats) -> None:
        spatial = optional_library("scipy.spatial", "Velocity")
        self.origin = places.mean(axis=0)
        self.places = places - self.origin
        self.triangles: Any = None
        spread = np.linalg.svd(self.places, compute_uv=False)
        if len(places) > 2 and spread[1] > 1e-6 * max(float(spread[0]), 1e-300):
            self.triangles = spatial.Delaunay(self.places)
            self.outline = np.asarray(self.triangles.convex_hull)
        else:  # all on one line: every point's value is that of its nearest point there
            direction = np.linalg.svd(self.places)[2][0]
            order = np.argsort(self.places @ direction)
            self.outline = np.stack([order[:-1], order[1:]], axis=1)

    def find(self, where: Floats) -> tuple[Nodes, Floats]:
        """Return three places and their weights for each point (n, 2)."""
        local = where - self.origin
        nodes, weights = np.zeros((len(local), 3), np.intp), np.zeros((len(local), 3))
        inside = np.zeros(len(local), bool)
        if self.triangles is not None:
            which = self.triangles.find_simplex(local)
            inside = which >= 0
            basis = self.triangles.transform[which[inside]]
            partial = np.einsum("nij,nj->ni", basis[:, :2], local[inside] - basis[:, 2])
            nodes[inside] = self.triangles.simplices[which[inside]]
            weights[inside] = np.concatenate([partial, 1.0 - partial.sum(axis=1, keepdims=True)], axis=1)
        beyond = np.flatnonzero(~inside)
        step = max(1, _AT_ONCE // len(self.outline))
        for first in range(0, len(beyond), step):
            part = beyond[first : first + step]
            nodes[part, :2], weights[part, :2] = self._nearest(local[part])
        return nodes, weights

    def _nearest(self, local: Floats) -> tuple[Nodes, Floats]:
        """Return the ends of the nearest piece of the outline and their weights."""
        start, stop = self.places[self.outline[:, 0]], self.places[self.outline[:, 1]]
        along = stop - start
        share = np.einsum("nsj,sj->ns", local[:, None] - start, along) / np.square(along).sum(axis=1)
        share = np.clip(share, 0.0, 1.0)
        gap = np.square(local[:, None] - (start + share[..., None] * along)).sum(axis=2)
        best = np.argmin(gap, axis=1)
        part = share[np.arange(len(local)), best]
        return self.outline[best].astype(np.intp), np.stack([1.0 - part, part], axis=1)


def scattered(
    functions: list[tuple[float, float, Floats, Floats]],
    kind: Kind,
    bounds: tuple[float, float],
    operation: str,
    describe: Callable[[int], str] | None = None,
) -> Velocity:
    """Return a field of functions ``(x, y, t, v)``; a single one is a table."""
    names = describe or (lambda i: f"at x {functions[i][0]:.1f}, y {functions[i][1]:.1f}")
    for i, (_, _, t, v) in enumerate(functions):
        if len(t) == 0 or (np.diff(t) <= 0).any() or t[0] < 0 or not np.isfinite(t).all():
            raise InputError(f"{operation}: the times {names(i)} do not rise strictly from 0 s or later; correct them.")
        if kind != "rms" and t[0] == 0.0:
            raise InputError(
                f"{operation}: kind={kind!r} gives the layers that end at each time, and the first time {names(i)} is "
                "0; leave that value out."
            )
        check_bounds(operation, v, bounds, lambda index, i=i, t=t: f"{names(i)}, {t[index[0]]:g} s")  # type: ignore[misc]
    if len(functions) == 1:
        return Velocity.table(functions[0][2], functions[0][3], kind, bounds=bounds)
    places = np.array([[x, y] for x, y, _, _ in functions], np.float64)
    unique, inverse, count = np.unique(np.round(places, 3), axis=0, return_inverse=True, return_counts=True)
    if len(unique) < len(places):
        twice = int(np.flatnonzero(count[inverse.ravel()] > 1)[0])
        raise InputError(f"{operation}: there are several functions {names(twice)}; give one for each place.")
    layered = kind != "rms"
    knots = np.unique(np.concatenate([t for _, _, t, _ in functions]))
    rows = []
    for i, (_, _, t, v) in enumerate(functions):
        if not layered:
            rows.append(np.interp(knots, t, v))
            continue
        layers = convert(t, v, kind, "interval", where=lambda _, i=i: names(i))  # type: ignore[misc]
        total = np.concatenate([[0.0], np.cumsum(layers**2 * np.diff(t, prepend=0.0))])
        below = layers[-1] ** 2 * np.maximum(knots - t[-1], 0.0)
        rows.append(np.interp(knots, np.concatenate([[0.0], t]), total) + below)
    return Scattered(places, knots, np.stack(rows), layered)


def smoothing_axis(last: float, seconds: float) -> Floats:
    """Return times from 0 to `last` fine enough to smooth over `seconds`: ten to its length, 1 ms apart at least."""
    n = int(np.ceil(last / max(0.1 * seconds, 1e-3))) + 1
    return np.linspace(0.0, max(last, seconds), max(n, 11))


def smooth_time(v: Floats, samples: float) -> Floats:
    """Smooth the slowness along the last dimension; `samples` is the standard deviation."""
    ndimage = optional_library("scipy.ndimage", "Velocity.smoothed")
    slowness = ndimage.gaussian_filter1d(1.0 / v, samples, axis=-1, mode="nearest")
    return np.asarray(1.0 / slowness, np.float64)
