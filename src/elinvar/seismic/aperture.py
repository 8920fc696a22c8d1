"""Which midpoints may contribute to an image sample, and with what weight.

One definition, used everywhere: a trace whose midpoint lies at horizontal distance ``d`` from a bin contributes to the
sample at two-way time ``t0`` when ``d`` is inside ::

    r(t0) = min(max(V(t0) * t0 / 2 * tan(dip), minimum), radius)

``V t0 / 2`` is the depth, and a reflector of that dip below the bin is recorded at a midpoint ``depth * tan(dip)``
away. The weight is 1 out to ``(1 - taper) r`` and falls to 0 at ``r`` as a half cosine. The fold counts what is inside,
whatever its weight.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from elinvar.errors import InputError
from elinvar.seismic.kernels.migrate.aperture import NARROWEST, RadiusAperture

from ._check import number

__all__ = ["Aperture"]

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Aperture:
    """The migration aperture (see the module for the formula).

    Parameters
    ----------
    dip
        Largest dip to image, degrees, in (0, 90); None for no dip limit.
    radius
        Largest midpoint distance in metres; None for no limit. One of `dip` and `radius` must be given.
    taper
        Part of the radius over which the weight falls to zero, in [0, 1].
    minimum
        Radius below which the dip limit does not shrink the aperture, metres (steep events in the first samples).
    """

    dip: float | None = 45.0
    radius: float | None = None
    taper: float = 0.2
    minimum: float = 0.0

    def __post_init__(self) -> None:
        if self.dip is None and self.radius is None:
            raise InputError("Aperture: dip and radius are both None; give a dip in degrees or a radius in metres.")
        if self.dip is not None:
            number("Aperture", "dip", self.dip, low=0.0, high=90.0, open_low=True, open_high=True)
        if self.radius is not None:
            number("Aperture", "radius", self.radius, low=0.0, open_low=True)
        number("Aperture", "taper", self.taper, low=0.0, high=1.0)
        number("Aperture", "minimum", self.minimum, low=0.0)
        if self.radius is not None and self.minimum > self.radius:
            raise InputError(
                f"Aperture: minimum {self.minimum:g} m exceeds radius {self.radius:g} m; make it no larger."
            )

    @property
    def slope(self) -> float:
        """Radius over depth: ``tan(dip)``, infinite without a dip limit."""
        return math.inf if self.dip is None else math.tan(math.radians(self.dip))

    @property
    def limit(self) -> float:
        """Largest radius in metres, infinite without one."""
        return math.inf if self.radius is None else float(self.radius)

    def radius_at(self, t0: ArrayLike, v_rms: ArrayLike) -> Floats:
        """Return r(t0) in metres for two-way times in seconds and RMS velocities in m/s, broadcast."""
        if self.dip is None:
            return np.full(np.broadcast_shapes(np.shape(t0), np.shape(v_rms)), self.limit)
        depth = 0.5 * np.asarray(t0, np.float64) * np.asarray(v_rms, np.float64)
        return np.minimum(np.maximum(depth * self.slope, self.minimum), self.limit)

    def for_kernel(self) -> RadiusAperture:
        """Return the same aperture in the form the kernels take."""
        return RadiusAperture(tan_dip=self.slope, maximum=self.limit, minimum=self.minimum, taper=self.taper)

    def weight(self, distance: ArrayLike, radius: ArrayLike) -> Floats:
        """Return the weight in [0, 1] of a midpoint at `distance` (m) for the given r(t0) (m), broadcast."""
        d, r = np.broadcast_arrays(np.asarray(distance, np.float64), np.asarray(radius, np.float64))
        width = self.taper * r
        rim = np.isfinite(r) & (width > 0) & (self.taper >= NARROWEST)
        across = np.divide(d - (1.0 - self.taper) * r, width, out=np.zeros(d.shape), where=rim)
        fall = 0.5 + 0.5 * np.cos(np.pi * np.clip(across, 0.0, 1.0))
        return np.where(d <= r, fall, 0.0)
