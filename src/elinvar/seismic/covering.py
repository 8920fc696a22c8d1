"""How a survey covers a grid: midpoints per bin, offsets, and what is left empty. From headers alone."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from elinvar.errors import InputError

from ._check import number, optional_library

if TYPE_CHECKING:
    from .grid import Grid
    from .survey import Survey

__all__ = ["Coverage", "along_a_line", "coverage"]

Floats = NDArray[np.float64]
_LONG = 8  # bins: fewer may as well be a small area
_STEPS = (25.0, 50.0, 100.0, 200.0, 250.0, 500.0, 1000.0)


@dataclass(frozen=True, eq=False)
class Coverage:
    """How a survey covers a grid. Only live traces count.

    Attributes
    ----------
    fold
        Midpoints in each bin, int32 (nx, ny).
    inside, outside
        Traces whose midpoint is in a bin, or beyond the grid's outer bins.
    offset_edges
        Of the histogram, metres, (n + 1,).
    offsets
        Traces inside the grid in each of them, int64 (n,); the last one is closed.
    largest_gap
        How far an empty bin is from the nearest one that is not, at most, in bins; 0 when none is empty.
    """

    fold: NDArray[np.int32]
    inside: int
    outside: int
    offset_edges: Floats
    offsets: NDArray[np.int64]
    largest_gap: int

    @property
    def empty(self) -> float:
        """Part of the bins without a midpoint."""
        return float((self.fold == 0).mean())

    def to_dict(self) -> dict[str, Any]:
        """Return the numbers, without the map, for JSON."""
        filled = self.fold[self.fold > 0]
        return {
            "bins": int(self.fold.size),
            "traces_inside": self.inside,
            "traces_outside": self.outside,
            "empty_percent": 100.0 * self.empty,
            "largest_gap_bins": self.largest_gap,
            "fold": {
                "mean": float(self.fold.mean()),
                "median_of_filled": float(np.median(filled)) if filled.size else 0.0,
                "largest": int(self.fold.max()),
            },
            "offsets": [
                {"from_m": float(a), "to_m": float(b), "traces": int(n)}
                for a, b, n in zip(self.offset_edges[:-1], self.offset_edges[1:], self.offsets, strict=True)
            ],
        }


def coverage(survey: Survey, grid: Grid, *, offset_step: float | None = None) -> Coverage:
    """Count the midpoints of a survey in the bins of a grid.

    A midpoint belongs to the bin whose centre is nearest along both axes of the grid.

    Parameters
    ----------
    survey, grid
        What covers what.
    offset_step
        Width of the offset classes in metres; by default a round number that makes some ten of them.

    Raises
    ------
    InputError
        A step that is not positive, or that makes more than 10 000 classes.
    """
    midpoint, offset = survey.midpoint[survey.live], survey.offset[survey.live]
    fractional = grid.indices(midpoint[:, 0], midpoint[:, 1])
    # To the thousandth of a bin, so that a midpoint between two bins does not fall by its last digit.
    ix, iy = (np.floor(np.round(f, 3) + 0.5).astype(np.int64) for f in fractional)
    within = (ix >= 0) & (ix < grid.nx) & (iy >= 0) & (iy < grid.ny)
    counts = np.bincount(ix[within] * grid.ny + iy[within], minlength=grid.size)
    fold = counts.reshape(grid.nx, grid.ny).astype(np.int32)
    farthest = float(offset.max())
    if offset_step is None:
        step = min(_STEPS, key=lambda s: abs(math.log(max(farthest, 1.0) / 10.0 / s)))
    else:
        step = number("coverage", "offset_step", offset_step, low=0.0, open_low=True)
    n = max(1, math.ceil(farthest / step - 1e-9))
    if n > 10_000:
        raise InputError(
            f"coverage: offsets to {farthest:g} m in steps of {step:g} m are {n} classes; take wider ones."
        )
    edges = step * np.arange(n + 1, dtype=np.float64)
    # Centimetres, as headers hold them: 399.9999999 m is 400 m.
    histogram, _ = np.histogram(np.round(offset[within], 2), edges)
    inside = int(within.sum())
    return Coverage(fold, inside, len(offset) - inside, edges, histogram.astype(np.int64), _gap(fold > 0))


def along_a_line(survey: Survey, grid: Grid) -> bool:
    """Say whether the midpoints of live traces are those of one line: nowhere wider than a bin, and many bins long."""
    midpoint = survey.midpoint[survey.live]
    away = midpoint - midpoint.mean(axis=0)
    _, axes = np.linalg.eigh(away.T @ away)
    across, along = np.ptp(away @ axes, axis=0)
    bin_size = max(grid.dx, grid.dy)
    return bool(across <= bin_size and along > _LONG * bin_size)


def _gap(filled: NDArray[np.bool_]) -> int:
    """Return how far a bin is from the nearest filled one, at most."""
    if not filled.any():
        return int(max(filled.shape))
    ndimage = optional_library("scipy.ndimage", "coverage")
    distance: NDArray[np.int32] = ndimage.distance_transform_cdt(~filled, "chessboard")
    return int(distance.max())
