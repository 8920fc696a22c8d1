"""The image grid: where the bins are on the map and which times they hold.

``azimuth`` is measured clockwise from north and points along the **+inline axis**: the direction in which the first
image dimension (``inline``, `nx` bins of `dx` metres) grows. The second dimension (``crossline``, `ny` bins of `dy`)
grows 90 degrees clockwise from it, to its right on a map; ``crossline_side="left"`` flips that. So azimuth 0 has inline
numbers growing to the north and crossline numbers to the east.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from elinvar.errors import InputError

from ._check import choice, count, number, optional_library, points

if TYPE_CHECKING:
    from .survey import Survey

__all__ = ["Bins", "Grid", "suggest_bins"]

Floats = NDArray[np.float64]
_SAMPLE = 20_000  # midpoints looked at for a bin suggestion
_STANDARD_BINS = (3.125, 6.25, 12.5, 18.75, 20.0, 25.0, 30.0, 37.5, 50.0, 75.0, 100.0, 150.0, 200.0)


@dataclass(frozen=True)
class Grid:
    """A regular grid of image bins ("pillars") over a regular time axis.

    Parameters
    ----------
    origin
        Map coordinates (x east, y north, metres) of the first bin's centre.
    azimuth
        Direction of the +inline axis in degrees, clockwise from north (see the module).
    nx, ny
        Bins along the inline and the crossline axis.
    dx, dy
        Their spacing in metres.
    nt, dt, t0
        Two-way times ``t0 + i * dt`` in seconds, ``i = 0 .. nt-1``.
    inline, crossline
        Number of the first inline and crossline and the step between neighbours, for labels.
    crossline_side
        ``"right"`` or ``"left"`` of the +inline axis, seen on a map.
    """

    origin: tuple[float, float]
    azimuth: float
    nx: int
    ny: int
    dx: float
    dy: float
    nt: int
    dt: float
    t0: float = 0.0
    inline: tuple[int, int] = (1, 1)
    crossline: tuple[int, int] = (1, 1)
    crossline_side: Literal["right", "left"] = "right"

    def __post_init__(self) -> None:
        set_ = object.__setattr__  # frozen: normalise the types once, here
        origin = points("Grid", "origin", [self.origin])[0]
        set_(self, "origin", (float(origin[0]), float(origin[1])))
        set_(self, "azimuth", number("Grid", "azimuth", self.azimuth))
        for name in ("nx", "ny", "nt"):
            set_(self, name, count("Grid", name, getattr(self, name)))
        for name in ("dx", "dy", "dt"):
            set_(self, name, number("Grid", name, getattr(self, name), low=0.0, open_low=True))
        set_(self, "t0", number("Grid", "t0", self.t0, low=0.0))
        for name in ("inline", "crossline"):
            first, step = getattr(self, name)
            if int(step) == 0:
                raise InputError(f"Grid: {name} is {(first, step)}; the step between numbers must not be 0.")
            set_(self, name, (int(first), int(step)))
        choice("Grid", "crossline_side", self.crossline_side, ("right", "left"))

    @property
    def shape(self) -> tuple[int, int, int]:
        """``(nx, ny, nt)``: the shape of an image, dimensions inline, crossline, time."""
        return self.nx, self.ny, self.nt

    @property
    def size(self) -> int:
        """Number of pillars, ``nx * ny``."""
        return self.nx * self.ny

    @cached_property
    def t(self) -> Floats:
        """Two-way times in seconds, shape (nt,)."""
        return self.t0 + self.dt * np.arange(self.nt, dtype=np.float64)

    @property
    def inlines(self) -> NDArray[np.int64]:
        """Inline numbers, shape (nx,)."""
        return self.inline[0] + self.inline[1] * np.arange(self.nx)

    @property
    def crosslines(self) -> NDArray[np.int64]:
        """Crossline numbers, shape (ny,)."""
        return self.crossline[0] + self.crossline[1] * np.arange(self.ny)

    @cached_property
    def axes(self) -> Floats:
        """Unit vectors (east, north) of the +inline and the +crossline axis, shape (2, 2)."""
        angle = math.radians(self.azimuth)
        along = (math.sin(angle), math.cos(angle))
        right = (along[1], -along[0])
        sign = 1.0 if self.crossline_side == "right" else -1.0
        return np.array([along, (sign * right[0], sign * right[1])])

    @cached_property
    def centre(self) -> tuple[float, float]:
        """Map coordinates of the grid's middle: the local origin every float32 coordinate is relative to."""
        x, y = self.position(0.5 * (self.nx - 1), 0.5 * (self.ny - 1))
        return float(x), float(y)

    def position(self, ix: ArrayLike, iy: ArrayLike) -> tuple[Floats, Floats]:
        """Return map coordinates (x, y) of (fractional) bin indices, broadcast."""
        u = np.asarray(ix, np.float64) * self.dx
        v = np.asarray(iy, np.float64) * self.dy
        return (
            np.asarray(self.origin[0] + u * self.axes[0, 0] + v * self.axes[1, 0]),
            np.asarray(self.origin[1] + u * self.axes[0, 1] + v * self.axes[1, 1]),
        )

    def indices(self, x: ArrayLike, y: ArrayLike) -> tuple[Floats, Floats]:
        """Return fractional bin indices of map coordinates, broadcast: the inverse of :meth:`position`."""
        east = np.asarray(x, np.float64) - self.origin[0]
        north = np.asarray(y, np.float64) - self.origin[1]
        along, across = self.axes
        return (
            np.asarray((east * along[0] + north * along[1]) / self.dx),
            np.asarray((east * across[0] + north * across[1]) / self.dy),
        )

    @cached_property
    def map(self) -> tuple[Floats, Floats]:
        """Map coordinates of all bins, two arrays of shape (nx, ny)."""
        return self.position(np.arange(self.nx)[:, None], np.arange(self.ny)[None, :])

    @property
    def pillars(self) -> Floats:
        """Map coordinates of all bins in image order, shape (nx * ny, 2), float64."""
        x, y = self.map
        return np.stack([x.ravel(), y.ravel()], axis=1)

    def local(self, coordinates: ArrayLike) -> Floats:
        """Return metres along the grid's own axes from its centre, for map coordinates (n, 2), in float64.

        Only distances enter a migration, so it may run in any frame. This one keeps numbers small (absolute UTM metres
        in float32 are up to half a metre off) and makes a shifted or rotated survey the very same computation.
        """
        relative = np.asarray(coordinates, np.float64) - np.asarray(self.centre)
        return np.asarray(relative @ self.axes.T, np.float64)

    @property
    def local_pillars(self) -> Floats:
        """:meth:`local` of :attr:`pillars`, exact to the last digit, shape (nx * ny, 2)."""
        u = (np.arange(self.nx) - 0.5 * (self.nx - 1)) * self.dx
        v = (np.arange(self.ny) - 0.5 * (self.ny - 1)) * self.dy
        return np.stack([np.repeat(u, self.ny), np.tile(v, self.nx)], axis=1)

    @classmethod
    def from_survey(
        cls,
        survey: Survey,
        *,
        bin_size: float | tuple[float, float] | None = None,
        azimuth: float | None = None,
        nt: int | None = None,
        dt: float | None = None,
    ) -> Grid:
        """Return the grid that covers a survey's midpoints.

        Parameters
        ----------
        survey
            What to cover.
        bin_size
            ``dx`` or ``(dx, dy)`` in metres; by default :func:`suggest_bins` of the midpoints.
        azimuth
            Degrees; by default the direction of the midpoint lattice nearest to north, 0 when there is none.
        nt, dt
            Samples and their spacing in seconds; by default the survey's, from time 0 to the end of its records.
        """
        midpoints = survey.midpoint[survey.live]
        bins = suggest_bins(midpoints)
        turn = bins.azimuth if azimuth is None else number("Grid.from_survey", "azimuth", azimuth)
        if bin_size is None:
            dx, dy = bins.dx, bins.dy
        else:
            pair = np.broadcast_to(np.asarray(bin_size, np.float64), (2,))
            dx, dy = (number("Grid.from_survey", "bin_size", s, low=0.0, open_low=True) for s in pair)
        step = survey.dt if dt is None else number("Grid.from_survey", "dt", dt, low=0.0, open_low=True)
        end = float(survey.delay.max()) + (survey.n_samples - 1) * survey.dt
        samples = round(end / step) + 1 if nt is None else nt
        frame = cls((0.0, 0.0), turn, 1, 1, dx, dy, 1, step)
        ix, iy = frame.indices(midpoints[:, 0], midpoints[:, 1])
        nx, ny = (round(float(np.ptp(i))) + 1 for i in (ix, iy))
        x, y = frame.position(ix.min(), iy.min())
        # Micrometres: turning there and back leaves digits that no one measured.
        return cls((round(float(x), 6), round(float(y), 6)), turn, nx, ny, dx, dy, samples, step)


@dataclass(frozen=True)
class Bins:
    """A suggestion for bins: spacing in metres, lattice direction in degrees, and whether there is a lattice at all."""

    dx: float
    dy: float
    azimuth: float
    regular: bool


def suggest_bins(midpoints: ArrayLike) -> Bins:
    """Suggest bins for midpoints of shape (n, 2).

    A lattice is found from the vectors between nearest neighbours: their common direction modulo 90 degrees is the
    azimuth (in -45..45); a least-squares fit of the whole lattice gives the spacing. Without one (irregular land
    geometry) the suggestion is the standard size next to the square root of area per distinct midpoint.
    """
    place = np.unique(np.round(points("suggest_bins", "midpoints", midpoints), 2), axis=0)
    if len(place) < 2:
        return Bins(25.0, 25.0, 0.0, regular=False)
    tree = optional_library("scipy.spatial", "suggest_bins").cKDTree(place)
    chosen = place[:: max(1, len(place) // _SAMPLE)]
    distance, neighbour = tree.query(chosen, k=2)
    vector = place[neighbour[:, 1]] - chosen
    # Four times the angle makes directions 90 degrees apart equal, so the mean is that of the lattice.
    angle = np.arctan2(vector[:, 0], vector[:, 1])
    mean = np.mean(np.exp(4j * angle))
    nearest = float(np.median(distance[:, 1]))
    if abs(mean) < 0.9 or np.percentile(distance[:, 1], 90) > 1.1 * nearest:
        area = max(float(np.ptp(place[:, 0]) * np.ptp(place[:, 1])), nearest * nearest)
        size = min(_STANDARD_BINS, key=lambda s: abs(math.log(s / math.sqrt(area / len(place)))))
        return Bins(size, size, 0.0, regular=False)
    azimuth = math.degrees(np.angle(mean)) / 4.0
    frame = Grid((0.0, 0.0), azimuth, 1, 1, 1.0, 1.0, 1, 1.0)
    middle = place[np.argmin(np.square(place - place.mean(axis=0)).sum(axis=1))]
    steps = [
        _step((place - middle) @ axis, (place - middle) @ other, nearest)
        for axis, other in ((frame.axes[0], frame.axes[1]), (frame.axes[1], frame.axes[0]))
    ]
    known = [s for s in steps if s is not None] or [nearest]
    dx, dy = (known[0] if s is None else s for s in steps)
    along = np.array([dx * frame.axes[0], dy * frame.axes[1]])
    along, number_of = _fit_lattice(place - middle, along)
    longest = int(np.argmax(number_of * np.hypot(*along.T)))
    # The crossline axis points 90 degrees further.
    fitted = math.degrees(math.atan2(along[longest, 0], along[longest, 1])) - 90.0 * longest
    azimuth = (fitted + 180.0) % 360.0 - 180.0
    sizes = [_tidy(float(np.hypot(*step)), int(n)) for step, n in zip(along, number_of, strict=True)]
    return Bins(sizes[0], sizes[1], _tidy(azimuth, 10) + 0.0, regular=True)


def _step(coordinate: Floats, across: Floats, nearest: float) -> float | None:
    """Return the usual gap between distinct values near the middle; None when there is but one value anywhere."""
    reach = 10.0 * nearest
    while True:
        # Far from the middle, the error of the azimuth would smear values of one line into many.
        gaps = np.diff(np.sort(coordinate[(np.abs(coordinate) <= reach) & (np.abs(across) <= reach)]))
        gaps = gaps[gaps > 0.2 * nearest]
        if gaps.size or reach > max(np.abs(coordinate).max(), np.abs(across).max()):
            return float(np.median(gaps)) if gaps.size else None
        reach *= 3.0


def _fit_lattice(place: Floats, along: Floats) -> tuple[Floats, NDArray[np.int64]]:
    """Refine two lattice vectors by least squares, from the middle outwards, so that no index is ever ambiguous.

    `place` is relative to one of the points. Returns the vectors (2, 2) and how many steps the points span along each.
    """
    away = np.hypot(*place.T)
    reach = 10.0 * float(np.hypot(*along.T).max())
    while True:
        near = place[away <= reach]
        index = np.round(near @ np.linalg.inv(along))
        spans = np.ptp(index, axis=0)
        columns = np.concatenate([np.ones((len(near), 1)), index], axis=1)
        fit, *_ = np.linalg.lstsq(columns, near, rcond=None)
        along = np.where((spans > 0)[:, None], fit[1:], along)
        if reach >= away.max():
            return along, spans.astype(np.int64)
        reach *= 3.0


def _tidy(value: float, n: int) -> float:
    """Round to the hundredth where that moves nothing by more than a centimetre over `n` steps."""
    short = round(value, 2)
    return short if abs(value - short) * max(n, 1) < 0.01 else round(value, 6)
