"""What is remarkable about a velocity field: range, gradients, inversions, layers that cannot exist."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

if TYPE_CHECKING:
    from .velocity import Velocity

__all__ = ["VelocityChecks", "check_velocity", "layers"]

Floats = NDArray[np.float64]
_DROP = 0.01  # an interval velocity that falls by less than this is not called an inversion


@dataclass(frozen=True)
class VelocityChecks:
    """What is remarkable about a velocity field.

    Attributes
    ----------
    rms, interval
        Smallest and largest, m/s.
    gradient
        Median growth of the interval velocity with depth, 1/s.
    lateral
        Largest change of the RMS velocity along the map, m/s per km; 0 when it does not vary.
    inversions
        Part of the layers whose interval velocity is more than 1 % lower than that of the layer above.
    impossible
        Part of the layers for which Dix's equation has no real solution.
    """

    rms: tuple[float, float]
    interval: tuple[float, float]
    gradient: float
    lateral: float
    inversions: float
    impossible: float

    def findings(self) -> list[str]:
        """Return what a person should look at, one sentence each."""
        found = []
        if self.impossible:
            found.append(
                f"In {100 * self.impossible:.1f} % of the layers the RMS velocity falls too fast for any interval "
                "velocity to exist (Dix): smooth it or correct those picks."
            )
        if self.inversions:
            found.append(
                f"{100 * self.inversions:.1f} % of the layers are slower than the one above (by more than 1 %): "
                "inversions are real under salt, coal or gas, and picking errors elsewhere."
            )
        if self.gradient > 2.0 or self.gradient < -0.1:
            found.append(f"The velocity changes by {self.gradient:.2f} 1/s with depth; 0.3 to 1 is usual in sediments.")
        if self.lateral > 400.0:
            found.append(
                f"The RMS velocity changes by up to {self.lateral:.0f} m/s per km along the map: time migration "
                "assumes that it hardly does within an aperture."
            )
        return found


def check_velocity(velocity: Velocity, t: ArrayLike, places: ArrayLike) -> VelocityChecks:
    """Look for gradients and inversions.

    Parameters
    ----------
    velocity
        The field.
    t
        Two-way times in seconds, rising; the layers lie between them.
    places
        Map coordinates of a regular set of bins in metres, (nx, ny, 2).
    """
    times, where = np.asarray(t, np.float64), np.asarray(places, np.float64)
    rms, layer = layers(velocity, times, where)
    known = np.isfinite(layer)
    above, below = layer[..., :-1], layer[..., 1:]
    both = np.isfinite(above) & np.isfinite(below)
    depth = 0.5 * 0.5 * (np.diff(times)[:-1] + np.diff(times)[1:]) * 0.5 * (above + below)
    growth = np.divide(below - above, depth, out=np.full(depth.shape, np.nan), where=both & (depth > 0))
    steepest = 0.0
    if rms.shape[:2] == where.shape[:2]:
        for axis in (0, 1):
            apart = np.hypot(*np.moveaxis(np.diff(where, axis=axis), -1, 0))[..., None]
            change = np.abs(np.diff(rms, axis=axis)) / np.maximum(apart, 1e-9)
            steepest = max(steepest, 1e3 * float(change.max(initial=0.0)))
    return VelocityChecks(
        (float(rms.min()), float(rms.max())),
        (float(np.nanmin(layer)), float(np.nanmax(layer))) if known.any() else (np.nan, np.nan),
        float(np.nanmedian(growth)) if np.isfinite(growth).any() else 0.0,
        steepest,
        float(((below < (1 - _DROP) * above) & both).sum() / max(both.sum(), 1)),
        float((~known).mean()),
    )


def layers(velocity: Velocity, t: Floats, where: Floats) -> tuple[Floats, Floats]:
    """Return RMS velocities at times `t` and interval velocities between them, NaN where there can be none.

    Both are (nx, ny, .) at `where` (nx, ny, 2), or (1, 1, .) for a field that does not vary along the map.
    """
    flat = velocity.on_pillars(t, where.reshape(-1, 2))
    rms = flat.reshape((*where.shape[:2], -1) if len(flat) > 1 else (1, 1, -1))
    energy = np.square(rms) * t
    square = np.diff(energy, axis=-1) / np.diff(t)
    return rms, np.sqrt(np.where(square > 0, square, np.nan))
