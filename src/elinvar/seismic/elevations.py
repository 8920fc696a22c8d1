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

__all__ = ["datum_of", "heights"]

Floats = NDArray[np.float64]


def datum_of(
    datum: ArrayLike | None,
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
    try:
        values = np.asarray(datum, np.float64)
    except (TypeError, ValueError):
        raise InputError(f"migrate: datum is {datum!r}; give an elevation in metres, or one for every bin.") from None
    if values.shape not in {(), (grid.nx, grid.ny)} or not np.isfinite(values).all():
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


def heights(survey: Survey, index: NDArray[np.int64]) -> Floats:
    """Return elevations of sources and receivers, (n, 2), metres."""
    return np.stack([survey.source_elevation[index], survey.receiver_elevation[index]], axis=1)
