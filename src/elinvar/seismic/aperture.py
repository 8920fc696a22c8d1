"""Which midpoints may contribute to an image sample, and with what weight.

One definition, used everywhere: a trace whose midpoint lies at horizontal distance ``d`` from a bin contributes to the
sample at two-way time ``t0`` when ``d`` is inside ::

    r(t0) = min(max(V(t0) * t0 / 2 * tan(dip), minimum), radius)

``V t0 / 2`` is the depth, and a reflector of that dip below the bin is recorded at a midpoint ``depth * tan(dip)``
away. The weight is 1 out to ``(1 - taper) r`` and falls to 0 at ``r`` as a half cosine. The fold counts what is inside,
whatever its weight.

Further limits may be set, each with the same taper, and a contribution must be inside all of them; the weights multiply
(:mod:`elinvar.seismic.kernels.migrate.limits` has the formulas): the midpoint's distance along the grid's inline and
crossline axis, the angle of each leg from the vertical, and the stretch of the wavelet.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from elinvar.errors import InputError
from elinvar.seismic.kernels.migrate.aperture import NARROWEST, RadiusAperture
from elinvar.seismic.kernels.migrate.limits import Limits

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
    inline, crossline
        Largest distance of midpoint and bin along the grid's inline and its crossline axis, metres; None for no limit.
    leg_dip
        Largest angle of either leg from the vertical, degrees, in (0, 90); None for no limit. A leg to the depth
        ``V t0 / 2`` reaches ``depth * tan(leg_dip)`` far, or `minimum` where that is more: offsets beyond are left out.
    stretch
        Largest stretch of the wavelet, above 1, such as 1.5; None for no limit. It is one over the cosine of half the
        angle between the legs: ``T / t0`` of a horizontal reflector, the stretch that a mute of NMO gathers goes by.
    """

    dip: float | None = 45.0
    radius: float | None = None
    taper: float = 0.2
    minimum: float = 0.0
    inline: float | None = None
    crossline: float | None = None
    leg_dip: float | None = None
    stretch: float | None = None

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
        for name in ("inline", "crossline"):
            if getattr(self, name) is not None:
                number("Aperture", name, getattr(self, name), low=0.0, open_low=True)
        if self.leg_dip is not None:
            number("Aperture", "leg_dip", self.leg_dip, low=0.0, high=90.0, open_low=True, open_high=True)
        if self.stretch is not None:
            number("Aperture", "stretch", self.stretch, low=1.0, open_low=True)

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

    def limits(self) -> Limits | None:
        """Return what is limited beside the radius, in the form the kernels take; None for nothing."""
        given = {"x": self.inline, "y": self.crossline, "stretch": self.stretch}
        bound = {name: float(value) for name, value in given.items() if value is not None}
        if self.leg_dip is not None:
            bound |= {"tan_leg": math.tan(math.radians(self.leg_dip)), "minimum": float(self.minimum)}
        return Limits(taper=float(self.taper), **bound) if bound else None

    def __str__(self) -> str:
        said = f"dip {self.dip}, radius {self.radius}, taper {self.taper}, minimum {self.minimum}"
        more = {name: getattr(self, name) for name in ("inline", "crossline", "leg_dip", "stretch")}
        return ", ".join([said, *(f"{name} {value:g}" for name, value in more.items() if value is not None)])

    def weight(self, distance: ArrayLike, radius: ArrayLike) -> Floats:
        """Return the weight in [0, 1] of a midpoint at `distance` (m) for the given r(t0) (m), broadcast."""
        d, r = np.broadcast_arrays(np.asarray(distance, np.float64), np.asarray(radius, np.float64))
        width = self.taper * r
        rim = np.isfinite(r) & (width > 0) & (self.taper >= NARROWEST)
        with np.errstate(over="ignore"):  # of radii near nothing; it is clipped
            across = np.divide(d - (1.0 - self.taper) * r, width, out=np.zeros(d.shape), where=rim)
        fall = 0.5 + 0.5 * np.cos(np.pi * np.clip(across, 0.0, 1.0))
        return np.where(d <= r, fall, 0.0)
