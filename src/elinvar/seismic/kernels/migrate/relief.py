r"""Legs that begin above or below the datum of the image: sources and receivers at their elevations.

The image's times and velocities are counted from a datum, one elevation for all pillars or one for each. An end of a
trace stands :math:`\Delta` above it (below, if negative). What lies between adds to the one-way time
:math:`\tau = t_0/2`, to :math:`q = V^2\tau` and, for VTI, to :math:`(1+8\eta)V^4\tau`:

.. math:: \tau' = \tau + \delta_\tau, \quad V'^2 = \frac{V^2\tau + \delta_q}{\tau'}, \quad
   (1 + 8\eta')V'^4\tau' = (1 + 8\eta)V^4\tau + \delta_4

(Dix, 1955; Alkhalifah and Tsvankin, 1995, for the effective eta), and the leg is that of `physics` with the primed
values: a straight or VTI leg from the surface it starts on, not from the datum.

With a replacement velocity :math:`V_r` the layer is homogeneous,
:math:`\delta = (\Delta/V_r, \Delta V_r, \Delta V_r^3)`. In a constant velocity equal to it the leg is exact,
:math:`\sqrt{(z+\Delta)^2+h^2}/V`; elsewhere it is what a straight ray is in any layered
medium. Curved rays have no replacement: :math:`V_0 + kz` goes on above the datum, and the leg is the exact one between
two points of that medium,

.. math:: t = \frac1k\,\mathrm{arccosh}\left(1 + \frac{k^2(h^2 + (z+\Delta)^2)}{2\,V(-\Delta)\,V(z)}\right).

Image points above an end have no leg to it, and are no contribution. The weight is that of `migrate` with the vertical
time :math:`t_0' = \tau_s' + \tau_r'` and the RMS velocity between the ends and the point: for a flat reflector under a
flat surface at any height it is exact in the same sense. Radii and limits are counted from the datum.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch

from elinvar.errors import InputError
from elinvar.seismic.kernels.migrate.physics import ETA_LIMIT, leg

__all__ = ["Layer", "Relief", "layer", "raised_leg"]


class Relief(NamedTuple):
    """Where legs begin.

    Attributes
    ----------
    heights : Tensor[ntr, 2]
        Elevation of each trace's source and receiver, metres.
    level : Tensor[1 or np]
        Elevation of the datum, for all pillars or each, metres.
    replacement : float or None
        Velocity between ends and datum in m/s; None continues the medium of curved rays.
    """

    heights: torch.Tensor
    level: torch.Tensor
    replacement: float | None

    def check(self, physics: str, traces: int, pillars: int) -> None:
        """Refuse what does not fit."""
        if tuple(self.heights.shape) != (traces, 2) or tuple(self.level.shape) not in {(1,), (pillars,)}:
            raise InputError(
                f"seismic.migrate: relief has heights {tuple(self.heights.shape)} and level {tuple(self.level.shape)}; "
                f"give ({traces}, 2) and (1,) or ({pillars},)"
            )
        if (self.replacement is None) != (physics == "curved"):
            raise InputError(
                f"seismic.migrate: relief has replacement velocity {self.replacement} with physics={physics!r}; curved "
                "rays continue their own medium (None), the others need m/s"
            )
        if self.replacement is not None and not 0 < self.replacement < math.inf:
            raise InputError(f"seismic.migrate: relief has replacement {self.replacement}; give a velocity in m/s > 0")


class Layer(NamedTuple):
    """What lies between an end and the datum adds to: one-way time, that times V^2, that times V^4."""

    time: torch.Tensor
    second: torch.Tensor
    fourth: torch.Tensor


def layer(above: torch.Tensor, replacement: float | None, medium: tuple[float, float] | None) -> Layer:
    """Return it for ends ``above`` the datum, metres; NaN above where ``v0 + k z`` reaches 0."""
    if replacement is not None:
        return Layer(above / replacement, above * replacement, above * replacement**3)
    assert medium is not None
    v0, k = medium
    end = v0 - k * above
    end = torch.where(end > 0, end, torch.full_like(end, math.nan))
    time = above / v0 if abs(k) < 1e-12 else torch.log(v0 / end) / k
    return Layer(time, above * 0.5 * (v0 + end), torch.full_like(end, math.nan))


def raised_leg(
    physics: str,
    square: torch.Tensor,
    above: torch.Tensor,
    between: Layer,
    t0: torch.Tensor,
    v: torch.Tensor,
    medium: tuple[float, float] | None,
    eta: torch.Tensor | None,
) -> torch.Tensor:
    """One-leg time in seconds, float64, from an end ``above`` the datum; NaN for points above it. As `physics.leg`."""
    if physics == "curved":
        assert medium is not None
        v0, k = medium
        end = v0 - k * above
        if abs(k) < 1e-12:
            z, deep = v0 * t0 / 2, torch.full_like(t0, v0)
        else:
            growth = torch.expm1(k * t0 / 2)
            z, deep = v0 / k * growth, v0 * (1 + growth)
        far = square + (z + above).square()
        there = (z + above >= 0) & (end > 0)
        if abs(k) < 1e-12:
            time = far.sqrt() / v0
        else:
            u = k * k * far / (2 * end.clamp(min=1e-3) * deep)
            time = torch.log1p(u + torch.sqrt(u * (u + 2))) / abs(k)
        return torch.where(there, time, torch.full_like(time, math.nan))
    tau = t0 / 2 + between.time
    second = v.square() * t0 / 2 + between.second
    there = (between.time == 0) | ((tau > 0) & (second > 0))
    speed2 = torch.where(between.time == 0, v.square(), second / tau)
    speed2 = torch.where(there, speed2, torch.ones_like(speed2))
    bent = None
    if eta is not None:
        fourth = (1 + 8 * eta) * v.pow(4) * t0 / 2 + between.fourth
        effective = (fourth / (tau * speed2.square()) - 1) / 8
        bent = torch.where(between.time == 0, eta, effective).nan_to_num(0.0).clamp(-ETA_LIMIT, ETA_LIMIT)
    time = leg(physics, square, 2 * tau, speed2.sqrt(), medium, bent)
    return torch.where(there, time, torch.full_like(time, math.nan))
