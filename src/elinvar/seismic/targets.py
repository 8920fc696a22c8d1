"""Parts of a grid: target lines, and pillars picked one by one.

A part keeps the frame, the bin size and the numbering of the grid it was taken from, so that its image is that part of
the whole image: the same weights and coordinates to the bit, and the same amplitudes but for the order in which traces
are added (a part leaves out traces that cannot reach it).
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from elinvar.errors import InputError

from .grid import Grid

__all__ = ["lines", "pillars", "thinned"]

Floats = NDArray[np.float64]
Indices = NDArray[np.int64]


@dataclass(frozen=True)
class _Part(Grid):
    """Some rows and columns of a grid."""

    base: Grid | None = None
    rows: tuple[int, ...] = ()
    columns: tuple[int, ...] = ()

    @property
    def whole(self) -> Grid:
        """The grid this was taken from."""
        assert self.base is not None
        return self.base

    @property
    def inlines(self) -> Indices:
        """Inline numbers of the rows."""
        return self.whole.inlines[list(self.rows)]

    @property
    def crosslines(self) -> Indices:
        """Crossline numbers of the columns."""
        return self.whole.crosslines[list(self.columns)]

    @property
    def centre(self) -> tuple[float, float]:
        """The whole grid's local origin."""
        return self.whole.centre

    def position(self, ix: ArrayLike, iy: ArrayLike) -> tuple[Floats, Floats]:
        """Return map coordinates of (fractional) indices of this part."""
        return self.whole.position(_between(ix, self.rows), _between(iy, self.columns))

    def indices(self, x: ArrayLike, y: ArrayLike) -> tuple[Floats, Floats]:
        """Return fractional indices in this part; outside it, those of its edge."""
        ix, iy = self.whole.indices(x, y)
        return _into(ix, self.rows), _into(iy, self.columns)

    @property
    def local_pillars(self) -> Floats:
        """:meth:`local` of :attr:`pillars`, exact to the last digit."""
        local = self.whole.local_pillars.reshape(self.whole.nx, self.whole.ny, 2)
        return local[np.ix_(self.rows, self.columns)].reshape(-1, 2)


@dataclass(frozen=True)
class _Pillars(_Part):
    """Pillars picked one by one, as many rows of one column."""

    def position(self, ix: ArrayLike, iy: ArrayLike) -> tuple[Floats, Floats]:
        """Return map coordinates of whole indices of this part; there is nothing between its pillars."""
        pick = np.broadcast_arrays(np.rint(np.asarray(ix, np.float64)).astype(int), np.asarray(iy))[0]
        return self.whole.position(np.asarray(self.rows)[pick], np.asarray(self.columns)[pick])

    def indices(self, x: ArrayLike, y: ArrayLike) -> tuple[Floats, Floats]:
        """Pillars picked one by one have no order on the map."""
        raise NotImplementedError("targets.pillars: indices() has no meaning for pillars picked one by one.")

    @property
    def inlines(self) -> Indices:
        """Position of each pillar in the list: they share no inline."""
        return np.arange(self.nx)

    @property
    def crosslines(self) -> Indices:
        """One column."""
        return np.zeros(1, np.int64)

    @property
    def local_pillars(self) -> Floats:
        """:meth:`local` of :attr:`pillars`, exact to the last digit."""
        local = self.whole.local_pillars.reshape(self.whole.nx, self.whole.ny, 2)
        return local[list(self.rows), list(self.columns)]


def _between(index: ArrayLike, chosen: tuple[int, ...]) -> Floats:
    return np.asarray(np.interp(np.asarray(index, np.float64), np.arange(len(chosen)), chosen), np.float64)


def _into(index: Floats, chosen: tuple[int, ...]) -> Floats:
    return np.asarray(np.interp(index, chosen, np.arange(len(chosen))), np.float64)


def _fields(grid: Grid) -> dict[str, Any]:
    return {f.name: getattr(grid, f.name) for f in fields(Grid)}


def _rows(name: str, wanted: ArrayLike | None, numbers: Indices) -> tuple[int, ...]:
    """Return positions of the wanted line numbers, in the grid's order, each once."""
    if wanted is None:
        return tuple(range(len(numbers)))
    chosen = np.unique(np.atleast_1d(np.asarray(wanted)))
    missing = chosen[~np.isin(chosen, numbers)]
    if chosen.size == 0 or missing.size:
        which = "none is given" if chosen.size == 0 else f"there is no {name} {missing[0]:g}"
        step = abs(int(numbers[1] - numbers[0])) if len(numbers) > 1 else 1
        raise InputError(
            f"targets.lines: {which}; the grid has {name}s {numbers.min()} to {numbers.max()} in steps of {step}."
        )
    return tuple(np.flatnonzero(np.isin(numbers, chosen)).tolist())


def lines(grid: Grid, inlines: ArrayLike | None = None, crosslines: ArrayLike | None = None) -> Grid:
    """Return the part of a grid where the given lines cross: target lines to migrate first.

    Parameters
    ----------
    grid
        The whole.
    inlines, crosslines
        Line *numbers*, one or many; None takes all. ``lines(grid, inlines=[120, 160])`` is two sections.

    Raises
    ------
    InputError
        A number that the grid does not have.
    """
    rows = _rows("inline", inlines, grid.inlines)
    return _part(grid, rows, _rows("crossline", crosslines, grid.crosslines))


def _part(grid: Grid, rows: tuple[int, ...], columns: tuple[int, ...]) -> Grid:
    return _Part(**{**_fields(grid), "nx": len(rows), "ny": len(columns)}, base=grid, rows=rows, columns=columns)


def thinned(grid: Grid, step: int) -> tuple[Grid, Indices, Indices]:
    """Return every `step`-th row and column of a grid and its last ones, and where those rows and columns are."""
    sides = [np.unique([*range(0, n, step), n - 1]) for n in (grid.nx, grid.ny)]
    rows, columns = (tuple(side.tolist()) for side in sides)
    return _part(grid, rows, columns), sides[0].astype(np.int64), sides[1].astype(np.int64)


def pillars(grid: Grid, chosen: ArrayLike) -> Grid:
    """Return the pillars flagged in `chosen` (nx, ny) as a grid of one column, in image order.

    Raises
    ------
    InputError
        Flags of another shape, or none set.
    """
    flags = np.asarray(chosen)
    if flags.dtype != bool or flags.shape != (grid.nx, grid.ny) or not flags.any():
        raise InputError(
            f"targets.pillars: chosen is {flags.dtype} of shape {flags.shape} with {int(flags.sum())} set; give flags "
            f"{(grid.nx, grid.ny)}, one at least."
        )
    rows, columns = (tuple(index.tolist()) for index in np.nonzero(flags))
    return _Pillars(**{**_fields(grid), "nx": len(rows), "ny": 1}, base=grid, rows=rows, columns=columns)
