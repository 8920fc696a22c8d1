"""The datum of an image, and where sources and receivers stand above it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from elinvar.errors import InputError

from ._check import number

if TYPE_CHECKING:
    from .grid import Grid
    from .survey import Survey
    from .velocity import Velocity

__all__ = ["SMOOTH", "datum_of", "floating_datum", "heights"]

Floats = NDArray[np.float64]
SMOOTH = 500.0
"""Metres over which a floating datum averages elevations by default."""
_AT_ONCE = 1 << 22  # weights that exist at a time


def datum_of(
    datum: ArrayLike | str | None,
    replacement: float | None,
    grid: Grid,
    survey: Survey,
    velocity: Velocity,
    physics: str,
) -> Floats | None:
    """Return the datum as (1,), or (pillars,) when it is given for every bin of the grid; None without one.

    Raises
    ------
    InputError
        A shape or value that does not fit, a replacement velocity that is missing or has nothing to replace, ends so
        high above the datum of curved rays that the medium ends below them.
    """
    if datum is None:
        if replacement is not None:
            raise InputError("migrate: replacement belongs to datum; give the datum's elevation, or leave it out.")
        return None
    if isinstance(datum, str) and datum == "floating":
        datum = floating_datum(survey, grid)
    try:
        values = np.asarray(datum, np.float64)
    except (TypeError, ValueError):
        raise InputError(
            f"migrate: datum is {datum!r}; give an elevation in metres, one for every bin, or 'floating'."
        ) from None
    if not np.isfinite(values).all():
        wrong = values[~np.isfinite(values)].ravel()[0]
        raise InputError(f"migrate: datum is {wrong}; give finite elevations in metres.")
    if values.shape not in {(), (grid.nx, grid.ny)}:
        raise InputError(
            f"migrate: datum has shape {values.shape}; give a finite elevation in metres, or one for every bin, "
            f"{(grid.nx, grid.ny)}."
        )
    level = np.ascontiguousarray(values.reshape(-1))
    if physics == "curved":
        if replacement is not None:
            raise InputError("migrate: curved rays continue their own medium above the datum; leave replacement out.")
        v0, k = velocity.gradient()
        top = float(heights(survey, np.flatnonzero(survey.live)).max() - level.min())
        if v0 - k * top <= 0:
            raise InputError(
                f"migrate: {v0:g} + {k:g} z m/s is not above 0 at the highest end, {top:g} m above the datum; give a "
                "higher datum."
            )
        return level
    if replacement is None:
        raise InputError("migrate: datum needs replacement, the velocity in m/s between datum and surface.")
    number("migrate", "replacement", replacement, low=0.0, open_low=True)
    return level


def floating_datum(survey: Survey, grid: Grid, *, smooth: float = SMOOTH) -> Floats:
    """Return a smooth surface through the elevations of sources and receivers, for ``migrate(..., datum=)``.

    At each bin it is the mean of the live traces' elevations, source and receiver together, with a Gaussian of standard
    deviation ``smooth / 2`` about their midpoints as weight; where no midpoint is near, that of the nearest ones.

    Parameters
    ----------
    survey
        With elevations in metres.
    grid
        Where the image will be.
    smooth
        Metres over which elevations are averaged.

    Returns
    -------
    NDArray[float64]
        Elevations in metres, (nx, ny).
    """
    sigma = 0.5 * number("floating_datum", "smooth", smooth, low=0.0, open_low=True)
    live = np.flatnonzero(survey.live)
    mean = heights(survey, live).mean(axis=1)
    # Traces of a cell a quarter of the way across the Gaussian stand together: a few thousand points for any survey.
    cell = np.floor(grid.local(survey.midpoint[live]) / (0.5 * sigma)).astype(np.int64)
    _, which, number_of = np.unique(cell, axis=0, return_inverse=True, return_counts=True)
    which = which.ravel()
    place = np.stack([np.bincount(which, x) for x in grid.local(survey.midpoint[live]).T], axis=1) / number_of[:, None]
    level = np.bincount(which, mean) / number_of
    found = np.empty(grid.size)
    step = max(1, _AT_ONCE // len(level))
    for first in range(0, grid.size, step):
        part = slice(first, first + step)
        away = np.square(grid.local_pillars[part][:, None] - place[None]).sum(axis=2)
        # Relative to the nearest: far outside all weights would otherwise vanish.
        weight = number_of * np.exp(-0.5 * (away - away.min(axis=1, keepdims=True)) / sigma**2)
        found[part] = (weight * level).sum(axis=1) / weight.sum(axis=1)
    return found.reshape(grid.nx, grid.ny)


def heights(survey: Survey, index: NDArray[np.int64]) -> Floats:
    """Return elevations of sources and receivers, (n, 2), metres."""
    return np.stack([survey.source_elevation[index], survey.receiver_elevation[index]], axis=1)
