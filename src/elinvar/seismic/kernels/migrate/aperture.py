"""Which traces may contribute to an image point: a midpoint-distance radius that grows with time, with a smooth rim."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from elinvar.errors import InputError

__all__ = ["NARROWEST", "RadiusAperture", "rim_weight"]

NARROWEST = 1e-6
"""Rims narrower than this fraction of the radius are hard edges: float32 could not divide by their width."""


@dataclass(frozen=True)
class RadiusAperture:
    r"""Largest distance between a trace's midpoint and the pillar it contributes to, growing with time.

    .. math:: R(t_0) = \min(\max(minimum,\ V t_0/2 \cdot \tan dip),\ maximum)

    A contribution is inside when ``distance <= R``. Its weight is 1 up to ``(1 - taper) R`` and falls from there to 0
    at ``R`` as :math:`\frac12(1+\cos \pi u)`, :math:`u` from 0 to 1 across the rim.

    Attributes
    ----------
    tan_dip : float
        Tangent of the steepest dip to image; ``math.inf`` leaves the dip free.
    maximum, minimum : float
        Limits of the radius in metres.
    taper : float
        Width of the rim as a fraction of the radius, 0 (hard edge, as is anything below ``NARROWEST``) to 1.
    """

    tan_dip: float = math.inf
    maximum: float = math.inf
    minimum: float = 0.0
    taper: float = 0.0

    def __post_init__(self) -> None:
        if math.isnan(self.tan_dip) or self.tan_dip < 0:
            raise InputError(f"aperture: tan_dip is {self.tan_dip}; give a number >= 0")
        if math.isnan(self.maximum) or math.isnan(self.minimum) or not 0 <= self.minimum <= self.maximum:
            raise InputError(
                f"aperture: minimum {self.minimum} m and maximum {self.maximum} m must satisfy 0 <= minimum <= maximum"
            )
        if not 0 <= self.taper <= 1:
            raise InputError(f"aperture: taper is {self.taper}; give a fraction between 0 and 1")

    def radius(self, vrms: torch.Tensor, t0: torch.Tensor) -> torch.Tensor:
        """Radius in metres, float64, of the shape of ``vrms`` (m/s); ``t0`` (two-way seconds) broadcasts against it."""
        depth = vrms.double() * t0.double() * 0.5
        wide = torch.full_like(depth, math.inf) if math.isinf(self.tan_dip) else depth * self.tan_dip
        return wide.clamp(self.minimum, self.maximum)


def rim_weight(distance: torch.Tensor, radius: torch.Tensor, taper: float) -> torch.Tensor:
    """Weight 0..1 of contributions at ``distance`` metres under ``radius`` metres (broadcast together, float64).

    Outside (``distance > radius``) it is 0, up to ``(1 - taper) * radius`` it is 1.
    """
    inside = distance <= radius
    if taper < NARROWEST:
        return inside.double()
    width = radius * taper
    u = (distance - radius * (1 - taper)) / width
    u = torch.where(torch.isfinite(u), u, torch.zeros_like(u)).clamp(0, 1)  # infinite or zero radius has no rim
    return torch.where(inside, 0.5 * (1 + torch.cos(math.pi * u)), torch.zeros_like(u))
