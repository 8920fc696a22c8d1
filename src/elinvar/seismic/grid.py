"""The image grid: where the bins are on the map and which times they hold.

``azimuth`` is measured clockwise from north and points along the **+inline axis**: the direction in which the first
image dimension (``inline``, `nx` bins of `dx` metres) grows. The second dimension (``crossline``, `ny` bins of `dy`)
grows 90 degrees clockwise from it, to its right on a map; ``crossline_side="left"`` flips that. So azimuth 0 has inline
numbers growing to the north and crossline numbers to the east.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from elinvar.errors import InputError

from ._check import choice, count, number, points
from .bins import Bins, suggest_bins

if TYPE_CHECKING:
    from .survey import Survey

__all__ = ["Bins", "Grid", "suggest_bins"]

Floats = NDArray[np.float64]


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

    def line_numbers(self, x: ArrayLike, y: ArrayLike) -> tuple[Floats, Floats]:
        """Return (fractional) inline and crossline numbers of map coordinates, broadcast."""
        ix, iy = self.indices(x, y)
        return self.inline[0] + self.inline[1] * ix, self.crossline[0] + self.crossline[1] * iy

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

    @classmethod
    def from_box(
        cls,
        x: tuple[float, float],
        y: tuple[float, float],
        *,
        dx: float,
        dy: float,
        nt: int,
        dt: float,
        t0: float = 0.0,
    ) -> Grid:
        """Return the grid of azimuth 0 that covers a box of the map.

        Parameters
        ----------
        x, y
            West and east, south and north limits in metres. The first bin is at the south-west corner; the last ones
            reach the other sides, or just beyond.
        dx, dy
            Spacing along the inline axis, which is north here, and along the crossline axis, east.
        nt, dt, t0
            Times, as for :class:`Grid`.
        """
        sides = [tuple(number("Grid.from_box", name, v) for v in side) for name, side in (("x", x), ("y", y))]
        for name, (low, high) in zip("xy", sides, strict=True):
            if high < low:
                raise InputError(f"Grid.from_box: {name} is {(low, high)}; give the lower limit first.")
        steps = [number("Grid.from_box", name, v, low=0.0, open_low=True) for name, v in (("dy", dy), ("dx", dx))]
        ny, nx = (math.ceil((high - low) / s - 1e-9) + 1 for (low, high), s in zip(sides, steps, strict=True))
        return cls((sides[0][0], sides[1][0]), 0.0, nx, ny, dx, dy, nt, dt, t0)

    @classmethod
    def from_corners(
        cls,
        corners: ArrayLike,
        dx: float,
        dy: float,
        *,
        nt: int,
        dt: float,
        t0: float = 0.0,
        inline: tuple[int, int] = (1, 1),
        crossline: tuple[int, int] = (1, 1),
        tolerance: float | None = None,
    ) -> Grid:
        """Return the grid whose outer bin centres are four corners of a rectangle, however it is turned.

        Parameters
        ----------
        corners
            Map coordinates in metres, shape (4, 2), in order around the rectangle: the first is the first bin, the
            inline axis runs from it to the second, the crossline axis to the fourth.
        dx, dy
            Spacing along the first and along the second side.
        nt, dt, t0, inline, crossline
            As for :class:`Grid`.
        tolerance
            How far a corner may be from the grid's, in metres; by default a tenth of a bin, 1 m at least.

        Raises
        ------
        InputError
            The corners are no rectangle, or its sides are not whole numbers of bins; the message names the corner.
        """
        operation = "Grid.from_corners"
        place = points(operation, "corners", corners, 4)
        steps = [number(operation, name, v, low=0.0, open_low=True) for name, v in (("dx", dx), ("dy", dy))]
        along, across = place[1] - place[0] + place[2] - place[3], place[3] - place[0] + place[2] - place[1]
        nx, ny = (round(0.5 * float(np.hypot(*v)) / s) + 1 for v, s in zip((along, across), steps, strict=True))
        numbered = [(0, 0), (nx - 1, 0), (nx - 1, ny - 1), (0, ny - 1)]
        found = np.concatenate([np.array(numbered, np.float64), place], axis=1)
        grid = _fitted(operation, found, along, across, (nx, ny), steps, (nt, dt, t0), inline, crossline)
        allowed = _tolerance(operation, tolerance, steps)
        off = np.hypot(*(np.stack(grid.position(found[:, 0], found[:, 1]), axis=1) - place).T)
        if off.max() > allowed:
            sides = " and ".join(f"{0.5 * float(np.hypot(*v)):.1f} m" for v in (along, across))
            raise InputError(
                f"{operation}: corner {int(off.argmax()) + 1} is {off.max():.1f} m from that of the nearest grid "
                f"({allowed:g} m is allowed): the sides, {sides}, must be whole numbers of {dx:g} m and {dy:g} m bins "
                "at right angles, and the corners in order around; correct them, or pass tolerance=."
            )
        return grid

    @classmethod
    def from_lines(
        cls,
        known: ArrayLike,
        inline: tuple[int, int, int],
        crossline: tuple[int, int, int],
        *,
        nt: int,
        dt: float,
        t0: float = 0.0,
        tolerance: float | None = None,
    ) -> Grid:
        """Return the grid of a survey's inline and crossline numbers, from the coordinates of some of its bins.

        Parameters
        ----------
        known
            Inline number, crossline number, x and y of three or more bins that are not on one line, shape (n, 4).
        inline, crossline
            First number, last number and step: ``(100, 580, 2)``. A step may be negative. The +inline axis points the
            way in which inline numbers change by one step, whichever side the crosslines are on.
        nt, dt, t0
            Times, as for :class:`Grid`.
        tolerance
            How far one of the bins may be from where the grid puts it, in metres; by default a tenth of a bin, 1 m at
            least.

        Raises
        ------
        InputError
            Too few bins or all on one line, axes that do not meet at right angles, numbers that do not step to the end.
        """
        operation = "Grid.from_lines"
        rows = np.asarray(known, np.float64)
        if rows.ndim != 2 or rows.shape[1] != 4 or not np.isfinite(rows).all():
            raise InputError(f"{operation}: known has shape {rows.shape}; give (n, 4): inline, crossline, x, y.")
        ranges = [_range(operation, name, v) for name, v in (("inline", inline), ("crossline", crossline))]
        index = (rows[:, :2] - [r[0] for r in ranges]) / [r[2] for r in ranges]
        columns = np.concatenate([np.ones((len(rows), 1)), index], axis=1)
        if len(rows) < 3 or np.linalg.matrix_rank(columns - columns.mean(axis=0)) < 2:
            raise InputError(f"{operation}: {len(rows)} bins are known; give three or more that are not on one line.")
        fit, *_ = np.linalg.lstsq(columns, rows[:, 2:] - rows[0, 2:], rcond=None)
        along, across = fit[1], fit[2]
        steps = [float(np.hypot(*v)) for v in (along, across)]
        if min(steps) <= 1e-9 * max(steps):  # a fit leaves a rounding error, not always zero
            raise InputError(f"{operation}: bins of different numbers have the same coordinates; correct them.")
        numbers = [(r[0], r[2]) for r in ranges]
        sizes = tuple((r[1] - r[0]) // r[2] + 1 for r in ranges)
        found = np.concatenate([index, rows[:, 2:]], axis=1)
        grid = _fitted(operation, found, along, across, (sizes[0], sizes[1]), steps, (nt, dt, t0), *numbers)
        # What is known may lie close together: the corners show what its errors become.
        corners = np.array([(i, j) for i in (0, sizes[0] - 1) for j in (0, sizes[1] - 1)], np.float64)
        places = np.concatenate([rows[:, 2:], rows[0, 2:] + fit[0] + corners @ fit[1:]])
        index = np.concatenate([index, corners])
        off = np.hypot(*(np.stack(grid.position(index[:, 0], index[:, 1]), axis=1) - places).T)
        allowed = _tolerance(operation, tolerance, steps)
        if off.max() > allowed:
            turn = math.degrees(math.acos(float(np.clip(along @ across / (steps[0] * steps[1]), -1, 1))))
            worst = [int(r[0] + r[2] * i) for r, i in zip(ranges, index[int(off.argmax())], strict=True)]
            raise InputError(
                f"{operation}: inline {worst[0]}, crossline {worst[1]} is {off.max():.1f} m from where a rectangular "
                f"grid puts it ({allowed:g} m is allowed; the axes meet at {turn:.2f} degrees); correct the "
                "coordinates, or pass tolerance=."
            )
        return grid


def _tolerance(operation: str, given: float | None, steps: Sequence[float]) -> float:
    return max(1.0, 0.1 * min(steps)) if given is None else number(operation, "tolerance", given, low=0.0)


def _range(operation: str, name: str, given: tuple[int, int, int]) -> tuple[int, int, int]:
    """Check first, last and step of line numbers."""
    try:
        first, last, step = (int(v) for v in given)
    except (TypeError, ValueError):
        raise InputError(f"{operation}: {name} is {given!r}; give first number, last number and step.") from None
    if step == 0 or (last - first) % step or (last - first) // step < 0:
        raise InputError(f"{operation}: {name} {first} does not lead to {last} in steps of {step}; correct them.")
    return first, last, step


def _fitted(
    operation: str,
    known: Floats,
    along: Floats,
    across: Floats,
    sizes: tuple[int, int],
    steps: Sequence[float],
    times: tuple[int, float, float],
    inline: tuple[int, int],
    crossline: tuple[int, int],
) -> Grid:
    """Return the rectangular grid nearest to bins at known indices: rows of (ix, iy, x, y)."""
    turning = float(along[0] * across[1] - along[1] * across[0])
    right = turning <= 0.0
    # The mean of both axes' directions, the second one turned back onto the first.
    back = np.array([-across[1], across[0]]) if right else np.array([across[1], -across[0]])
    lengths = [float(np.hypot(*v)) for v in (along, back)]
    if lengths[0] > 0 and lengths[1] > 0 and float(along @ back) <= 0.5 * lengths[0] * lengths[1]:
        raise InputError(f"{operation}: the axes are more than 60 degrees from a right angle; correct the coordinates.")
    azimuth = math.degrees(math.atan2(float(along[0] + back[0]), float(along[1] + back[1])))
    side: Literal["right", "left"] = "right" if right else "left"
    (nx, ny), (dx, dy), (nt, dt, t0) = sizes, steps, times
    frame = Grid((0.0, 0.0), azimuth, nx, ny, dx, dy, nt, dt, t0, inline, crossline, side)
    shift = (known[:, 2:] - np.stack(frame.position(known[:, 0], known[:, 1]), axis=1)).mean(axis=0)
    return replace(frame, origin=(round(float(shift[0]), 6), round(float(shift[1]), 6)))
