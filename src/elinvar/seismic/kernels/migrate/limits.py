r"""Which contributions count beside those that the radius of `aperture` leaves: limits of four kinds, one smooth rim.

Each has a ratio :math:`q`, inside while :math:`q \le 1`; its weight is 1 up to ``1 - taper`` and falls from there to 0
at 1 as half a cosine. What is outside one of them is no contribution and not in the fold; the weights multiply.

x, y
    :math:`q = |m|/limit` of the midpoint's distance along each axis of the kernel's frame.
legs
    :math:`q = h/R` of each leg's horizontal distance, with :math:`R = \max(z \tan\alpha, minimum)` and the depth
    :math:`z = V t_0/2`: no leg leaves the vertical by more than :math:`\alpha`. Both legs are tested.
stretch
    :math:`q = (1/\cos\theta - 1)/(limit - 1)` of the angle :math:`2\theta` between the straight legs at the image
    point. A wavelet there is stretched by :math:`1/\cos\theta` across its reflector (Tygel, Schleicher and Hubral,
    1994); for a horizontal one that is :math:`T/t_0`, the stretch of normal moveout (Yilmaz, 2001, section 3.1). Unlike
    :math:`T/t_0` of the operator it is 1 at zero offset whatever the dip.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from elinvar.errors import InputError
from elinvar.seismic.kernels.migrate.aperture import NARROWEST

__all__ = ["Limits", "limited"]


@dataclass(frozen=True)
class Limits:
    """See the module; ``math.inf`` is no limit.

    Attributes
    ----------
    x, y : float
        Largest distance of midpoint and pillar along the axes of the kernel's frame, metres.
    tan_leg, minimum : float
        Tangent of a leg's largest angle from the vertical, and the distance in metres that it always leaves.
    stretch : float
        Largest stretch of the wavelet, above 1.
    taper : float
        Part of each limit over which the weight falls, 0 to 1.
    """

    x: float = math.inf
    y: float = math.inf
    tan_leg: float = math.inf
    minimum: float = 0.0
    stretch: float = math.inf
    taper: float = 0.0

    def __post_init__(self) -> None:
        for name in ("x", "y", "tan_leg"):
            if not getattr(self, name) > 0:
                raise InputError(f"limits: {name} is {getattr(self, name)}; give a number > 0")
        if not self.stretch > 1:
            raise InputError(f"limits: stretch is {self.stretch}; give a ratio > 1")
        if not 0 <= self.minimum < math.inf or not 0 <= self.taper <= 1:
            raise InputError(
                f"limits: minimum {self.minimum} m and taper {self.taper} must be finite, >= 0, and a part from 0 to 1"
            )


def limited(
    limits: Limits,
    source: torch.Tensor,
    receiver: torch.Tensor,
    pillar: torch.Tensor,
    v: torch.Tensor,
    t0: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return which of (traces, times) are inside every limit, and their weight; float64.

    ``source`` and ``receiver`` are (traces, 2), ``pillar`` (2,), ``v`` and ``t0`` (times,).
    """
    ends = [end - pillar for end in (source, receiver)]
    middle = (0.5 * (ends[0] + ends[1])).abs()
    z = 0.5 * v * t0
    ratios = [(middle[:, axis] / limit)[:, None] for axis, limit in enumerate((limits.x, limits.y))]
    if limits.tan_leg < math.inf:
        widest = (z * limits.tan_leg).clamp(min=limits.minimum)
        for end in ends:
            h = torch.hypot(end[:, 0], end[:, 1])[:, None]
            ratios.append(torch.where(h > 0, h / widest, torch.zeros_like(h)))
    if limits.stretch < math.inf:
        ratios.append(_stretch(ends, z) / (limits.stretch - 1))
    inside = torch.ones(len(source), len(t0), dtype=torch.bool, device=source.device)
    weight = torch.ones_like(inside, dtype=source.dtype)
    for q in ratios:
        inside = inside & (q <= 1)
        if limits.taper >= NARROWEST:
            u = ((q - (1 - limits.taper)) / limits.taper).clamp(0, 1)
            weight = weight * (0.5 * (1 + torch.cos(math.pi * u)))
    return inside, weight


def _stretch(ends: list[torch.Tensor], z: torch.Tensor) -> torch.Tensor:
    """Return ``1 / cos(theta) - 1`` of the angle 2 theta between legs from depth ``z`` to the two ends."""
    squares = [end.square().sum(1)[:, None] + z.square() for end in ends]
    product = (squares[0] * squares[1]).sqrt()
    along = (ends[0] * ends[1]).sum(1)[:, None] + z.square()
    twice = torch.where(product > 0, along / product, torch.ones_like(product)).clamp(-1, 1)
    return torch.rsqrt(0.5 * (1 + twice)) - 1
