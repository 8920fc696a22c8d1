r"""The three travel times of ``seismic.migrate``, written once in float64, and what they ask of their caller.

A leg reaches a surface point at horizontal distance :math:`h` from an image point at one-way vertical time
:math:`\tau`:

straight
    :math:`t^2 = \tau^2 + h^2/V^2` with the RMS velocity :math:`V` at the image point (Taner and Koehler 1969).
curved
    rays in :math:`V_0 + k z`: :math:`t = \frac1k \mathrm{arccosh}\big(1 + k^2(h^2+z^2)/(2 V_0 V_z)\big)`,
    :math:`z = \frac{V_0}k(e^{k\tau}-1)`, :math:`V_z = V_0 e^{k\tau}` (Slotnick 1959).
vti
    :math:`t^2 = \tau^2 + h^2/V^2 - 2\eta h^4/\big(V^2(\tau^2V^2+(1+2\eta)h^2)\big)` with the NMO velocity :math:`V`
    (Alkhalifah and Tsvankin 1995).

The compiled versions use forms of the same that lose no digits in float32. With :math:`B = h^2/(V_0V_z)`,
:math:`\kappa = |k|/2`, :math:`s = \sinh(\kappa\tau)/\kappa` and :math:`R^2 = s^2 + B`, a curved leg is
:math:`\mathrm{asinh}(\kappa R)/\kappa`: a straight one with :math:`s` for :math:`\tau`, stretched. What it takes beyond
:math:`\tau` is :math:`\log(1+z)/\kappa`, where nothing cancels in

.. math:: z = \kappa B\,\frac{D + C + \kappa(R+s)}{(R+s)(D+C)(\kappa s+C)}, \qquad
   C = \cosh\kappa\tau,\quad D = \sqrt{1+\kappa^2R^2};

both legs take :math:`\log(1+z_1+z_2+z_1z_2)/\kappa`, one logarithm. As :math:`k \to 0` this is the straight ray, with
no case of its own. A VTI leg is a straight one with :math:`A' = A(\tau^2+A)/(\tau^2+(1+2\eta)A)` in place of
:math:`A = h^2/V^2`.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray

from elinvar.errors import InputError

__all__ = [
    "BENDS",
    "ETA_LIMIT",
    "FEW",
    "PHYSICS",
    "bending",
    "check",
    "leg",
    "longest_leg",
    "stretched",
    "stretching",
]

PHYSICS = ("straight", "curved", "vti")
"""The number of each is what the kernels know it by."""

ETA_LIMIT = 0.5
BENDS, FEW = 11, 7
"""Coefficients of `bending`: at most, and where rays bend less."""
_LEAST = 1e-9  # kappa per sample below which every travel time is straight to float32: keeps 1 / kappa finite
_STEEPEST = 40.0  # k t0 / 2: e^40 is no velocity ratio of this planet


def leg(
    physics: str,
    square: torch.Tensor,
    t0: torch.Tensor,
    v: torch.Tensor,
    medium: tuple[float, float] | None,
    eta: torch.Tensor | None,
) -> torch.Tensor:
    """One-leg time in seconds, float64, by the formulas as they stand; the arguments broadcast.

    ``square`` is the squared horizontal distance in m^2, ``t0`` the two-way vertical time, ``v`` in m/s.
    """
    tau2 = (t0 / 2).square()
    if physics == "vti":
        assert eta is not None
        slant = square / v**2
        below = v**2 * (tau2 * v**2 + (1 + 2 * eta) * square)
        bend = torch.where(square > 0, 2 * eta * square.square() / below, torch.zeros_like(below))
        return torch.sqrt(tau2 + slant - bend)
    if physics == "curved":
        assert medium is not None
        v0, k = medium
        if abs(k) >= 1e-12:
            growth = torch.expm1(k * t0 / 2)
            u = k * k * (square + (v0 / k * growth).square()) / (2 * v0 * v0 * (1 + growth))
            return torch.log1p(u + torch.sqrt(u * (u + 2))) / abs(k)
        v = torch.full_like(t0, v0)
    return torch.sqrt(tau2 + square / v**2)


def stretching(medium: tuple[float, float] | None, dt: float, latest: float) -> float:
    """Return kappa per input sample, 0 without a medium, for output times up to ``latest`` seconds."""
    if medium is None:
        return 0.0
    v0, k = medium
    if abs(k) * latest / 2 > _STEEPEST:
        raise InputError(
            f"seismic.migrate: in {v0:g} + {k:g} z m/s the velocity at {latest:g} s is {v0:g} times "
            f"e^{k * latest / 2:.0f}; give a gradient k that fits times so long"
        )
    return max(abs(k) * dt / 2, _LEAST)


def stretched(time: float, kappa: float) -> float:
    """Return ``sinh(kappa time) / kappa``: what ``s`` and ``R`` are compared with in place of a time; finite.

    Two legs that take ``time`` together have ``R1 + R2`` of at most this, because asinh grows ever slower.
    """
    if kappa == 0.0:
        return time
    return min(math.sinh(min(kappa * time, 100.0)) / kappa, 1e18)


def longest_leg(time: float, offset: float, v0: float, dt: float) -> float:
    """Return the longest one leg can take, in samples, of a path of ``time`` samples between ends ``offset`` m apart.

    The other leg and the way along the surface are a way too: the legs differ by ``offset / v0`` at most.
    """
    return min(time, 0.5 * (time + offset / (v0 * dt)))


def bending(time: float, kappa: float) -> NDArray[np.float32] | None:
    """Polynomial in ``v = (kappa R)^2`` for ``asinh(kappa R) / (kappa R)`` of legs up to ``time``, lowest power first.

    A leg is then ``R p(v)``: one square root and no logarithm. `FEW` coefficients where they do, `BENDS` where they do
    not; behind them the largest ``v``. A leg beyond it is later than ``time``, and held there ``p`` makes it later
    still. None where the rays bend so much in that time that the polynomial would be off by more than float32's own
    rounding.
    """
    top = math.sinh(min(kappa * time, 10.0)) ** 2
    if kappa == 0.0 or top > 4.0:
        return None

    def ratio(v: NDArray[np.float64]) -> NDArray[np.float64]:
        root = np.sqrt(np.maximum(v, 1e-30))
        return np.asarray(np.arcsinh(root) / root)

    v = np.linspace(0.0, top, 512)
    for number in (FEW, BENDS):
        # Over a shorter range the high powers would be noise.
        fit = np.polynomial.Chebyshev.interpolate(ratio, number - 1, domain=[0.0, max(top, 0.25)])
        powers = fit.convert(kind=np.polynomial.Polynomial, domain=[-1, 1], window=[-1, 1]).coef
        coefficients = np.zeros(BENDS + 1, np.float32)
        coefficients[: len(powers)], coefficients[BENDS] = powers, top
        if np.abs(np.polynomial.polynomial.polyval(v, coefficients[:BENDS].astype(np.float64)) - ratio(v)).max() < 6e-8:
            return coefficients
    return None


def check(
    physics: str, medium: tuple[float, float] | None, eta: torch.Tensor | float | None, image: torch.Tensor
) -> torch.Tensor | None:
    """Check the three together for ``run`` and return eta as a tensor [1 or np, nt], or None."""
    name = "seismic.migrate"
    if physics not in PHYSICS:
        raise InputError(f"{name}: physics is {physics!r}; choose one of {', '.join(PHYSICS)}")
    if (medium is None) != (physics != "curved"):
        given = "missing" if medium is None else f"{medium} with physics={physics!r}"
        raise InputError(f"{name}: medium is {given}; give (v0, k) of v0 + k z with physics='curved', and only there")
    if medium is not None and not (0 < medium[0] < math.inf and abs(medium[1]) < math.inf):
        raise InputError(f"{name}: medium is {medium}; give v0 > 0 in m/s and a finite k in 1/s")
    if (eta is None) != (physics != "vti"):
        given = "missing" if eta is None else f"given with physics={physics!r}"
        raise InputError(f"{name}: eta is {given}; give it with physics='vti', and only there")
    if eta is None:
        return None
    n, nt = image.shape
    values = eta if isinstance(eta, torch.Tensor) else torch.full((1, nt), float(eta), device=image.device)
    if values.dtype != torch.float32 or values.dim() != 2 or values.shape[1] != nt or values.shape[0] not in (1, n):
        raise InputError(
            f"{name}: eta is {values.dtype} of shape {tuple(values.shape)}; give float32 (1, {nt}) or ({n}, {nt})"
        )
    if values.device != image.device:
        raise InputError(f"{name}: eta is on {values.device}, image on {image.device}; move them to one device")
    bad = ~(values.abs() <= ETA_LIMIT)
    if bool(bad.any()):
        raise InputError(f"{name}: eta reaches {float(values[bad][0]):g}; values in [-0.5, 0.5] are accepted")
    return values
