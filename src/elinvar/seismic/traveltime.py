"""Two-way travel times in float64: the reference every kernel is tested against.

Each physics gives the time of one leg between an image point and a surface point at horizontal distance ``h``; a
trace's time is the sum of its source leg and its receiver leg (the double square root of Yilmaz and Claerbout 1980).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from elinvar.errors import InputError

from ._check import choice, number
from .velocity import Velocity

__all__ = ["PHYSICS", "check_eta", "curved_leg", "straight_leg", "travel_time", "vti_leg"]

PHYSICS = ("straight", "curved", "vti")
_ETA_LIMIT = 0.5
# Below this gradient (1/s) the curved ray is straight to better than a nanosecond over any survey, and
# arccosh would lose its digits.
_SMALL_GRADIENT = 1e-7


def straight_leg(h: ArrayLike, tau: ArrayLike, v: ArrayLike) -> NDArray[np.float64]:
    """Return ``sqrt(tau^2 + h^2/v^2)``: one leg of a straight ray in an RMS velocity (Taner and Koehler 1969).

    Parameters
    ----------
    h
        Horizontal distance in metres.
    tau
        One-way vertical time of the image point in seconds (half of its two-way time).
    v
        RMS velocity at that time in m/s.
    """
    h, tau, v = (np.asarray(a, dtype=np.float64) for a in (h, tau, v))
    return np.asarray(np.sqrt(np.square(tau) + np.square(h / v)))


def curved_leg(h: ArrayLike, tau: ArrayLike, v0: float, k: float) -> NDArray[np.float64]:
    """Return the exact one-leg time in ``v(z) = v0 + k z``, where rays are circles.

    ``t = arccosh(1 + k^2 (h^2 + z^2) / (2 v0 vz)) / k`` with ``z = (v0/k)(exp(k tau) - 1)`` and ``vz = v0 + k z``
    (Slotnick 1959). The time grows with `h` for either sign of `k`.

    Parameters
    ----------
    h
        Horizontal distance in metres.
    tau
        One-way vertical time of the image point in seconds.
    v0, k
        Velocity at the surface in m/s and its gradient in 1/s.
    """
    h, tau = np.asarray(h, dtype=np.float64), np.asarray(tau, dtype=np.float64)
    if abs(k) < _SMALL_GRADIENT:
        return straight_leg(h, tau, v0)
    growth = np.expm1(k * tau)
    z = v0 / k * growth
    u = (k * k) * (h * h + z * z) / (2.0 * v0 * v0 * (1.0 + growth))
    return np.asarray(np.log1p(u + np.sqrt(u * (u + 2.0))) / abs(k))


def vti_leg(h: ArrayLike, tau: ArrayLike, v: ArrayLike, eta: ArrayLike) -> NDArray[np.float64]:
    """Return the one-leg time with anellipticity eta (Alkhalifah and Tsvankin 1995), per leg.

    ``t^2 = tau^2 + h^2/v^2 - 2 eta h^4 / (v^2 (tau^2 v^2 + (1 + 2 eta) h^2))`` with the NMO velocity `v`.

    Parameters
    ----------
    h, tau, v
        As in :func:`straight_leg`.
    eta
        ``(epsilon - delta) / (1 + 2 delta)``, dimensionless, in [-0.5, 0.5].
    """
    h, tau, v, eta = (np.asarray(a, dtype=np.float64) for a in (h, tau, v, eta))
    h2, reach = np.square(h), np.square(tau * v)
    denominator = np.square(v) * (reach + (1.0 + 2.0 * eta) * h2)
    bend = np.divide(2.0 * eta * np.square(h2), denominator, out=np.zeros_like(denominator * h2), where=h2 > 0)
    return np.sqrt(np.square(tau) + h2 / np.square(v) - bend)


def travel_time(
    source: ArrayLike,
    receiver: ArrayLike,
    point: ArrayLike,
    t0: ArrayLike,
    velocity: Velocity | ArrayLike,
    *,
    physics: str = "straight",
    eta: ArrayLike | None = None,
    source_height: ArrayLike | None = None,
    receiver_height: ArrayLike | None = None,
    replacement: float | None = None,
) -> NDArray[np.float64]:
    """Return the source-to-image-point-to-receiver time in seconds, in float64.

    Parameters
    ----------
    source, receiver, point
        Map coordinates in metres, shape (..., 2); the leading dimensions broadcast against each other and `t0`.
    t0
        Two-way vertical time of the image point in seconds, >= 0.
    velocity
        A :class:`Velocity`, or RMS velocities in m/s that broadcast with `t0`.
    physics
        ``"straight"``, ``"curved"`` (needs ``Velocity.linear``) or ``"vti"`` (needs `eta`).
    eta
        Anellipticity for ``"vti"``, in [-0.5, 0.5]; broadcasts with `t0`.
    source_height, receiver_height
        Heights above the datum that `t0` is counted from, metres, broadcasting as `source` without its last dimension;
        0 by default. Times of points above an end are NaN. :mod:`elinvar.seismic.kernels.migrate.relief` has the
        formulas.
    replacement
        Velocity between datum and surface in m/s, needed with heights; curved rays take none, their medium goes on.

    Raises
    ------
    InputError
        A shape, a negative time, an eta out of range, or a velocity the physics cannot use.
    """
    choice("travel_time", "physics", physics, PHYSICS)
    s, r, p = (np.asarray(a, dtype=np.float64) for a in (source, receiver, point))
    for name, array in (("source", s), ("receiver", r), ("point", p)):
        if array.ndim == 0 or array.shape[-1] != 2:
            raise InputError(
                f"travel_time: {name} has shape {array.shape}; the last dimension must be the 2 map coordinates in "
                "metres (elevations are source_height and receiver_height)."
            )
    t = np.asarray(t0, dtype=np.float64)
    if not np.isfinite(t).all() or (t < 0).any():
        raise InputError(f"travel_time: t0 reaches {np.nanmin(t):g} s; two-way times must be finite and >= 0.")
    hs, hr = np.hypot(*np.moveaxis(p - s, -1, 0)), np.hypot(*np.moveaxis(p - r, -1, 0))
    tau = 0.5 * t
    if source_height is not None or receiver_height is not None:
        ends = ((hs, source_height), (hr, receiver_height))
        return sum((_raised(*end, t, p, velocity, physics, eta, replacement) for end in ends), np.zeros(()))
    if replacement is not None:
        raise InputError("travel_time: replacement belongs to heights above the datum; leave it out, or give them.")
    if physics == "curved":
        if not isinstance(velocity, Velocity):
            raise InputError("travel_time: curved rays need Velocity.linear(v0, k), not an array of velocities.")
        v0, k = velocity.gradient()
        return curved_leg(hs, tau, v0, k) + curved_leg(hr, tau, v0, k)
    v = velocity.rms(t, p[..., 0], p[..., 1]) if isinstance(velocity, Velocity) else np.asarray(velocity, np.float64)
    if not (np.isfinite(v).all() and (v > 0).all()):
        raise InputError(f"travel_time: velocity reaches {np.nanmin(v):g} m/s; velocities must be finite and > 0.")
    if physics == "straight":
        if eta is not None:
            raise InputError("travel_time: eta belongs to physics='vti'; leave it out or choose that physics.")
        return straight_leg(hs, tau, v) + straight_leg(hr, tau, v)
    anellipticity = check_eta("travel_time", eta)
    return vti_leg(hs, tau, v, anellipticity) + vti_leg(hr, tau, v, anellipticity)


def _raised(
    h: NDArray[np.float64],
    height: ArrayLike | None,
    t0: NDArray[np.float64],
    point: NDArray[np.float64],
    velocity: Velocity | ArrayLike,
    physics: str,
    eta: ArrayLike | None,
    replacement: float | None,
) -> NDArray[np.float64]:
    """Return the time of one leg from an end above the datum."""
    import torch

    from .kernels.migrate.relief import layer, raised_leg

    medium = None
    if physics == "curved":
        if replacement is not None or not isinstance(velocity, Velocity):
            raise InputError("travel_time: curved rays continue Velocity.linear above the datum; no replacement.")
        medium = velocity.gradient()
    else:
        number("travel_time", "replacement", replacement, low=0.0, open_low=True)
    v = velocity.rms(t0, point[..., 0], point[..., 1]) if isinstance(velocity, Velocity) else velocity
    bent = None if physics != "vti" else check_eta("travel_time", eta)
    above = 0.0 if height is None else height
    given = (h, t0, np.asarray(v, np.float64), np.asarray(above, np.float64), 0.0 if bent is None else bent)
    away, time, speed, up, curl = (torch.from_numpy(x.copy()) for x in np.broadcast_arrays(*given))
    between = layer(up, replacement, medium)
    anellipticity = None if bent is None else curl
    found = raised_leg(physics, away.square(), up, between, time, speed, medium, anellipticity)
    return np.asarray(found.numpy())


def check_eta(operation: str, eta: ArrayLike | None) -> NDArray[np.float64]:
    """Return eta as an array, or raise: VTI needs it, in [-0.5, 0.5]."""
    if eta is None:
        raise InputError(f"{operation}: physics='vti' needs eta; give a number or an array in [-0.5, 0.5].")
    array = np.asarray(eta, dtype=np.float64)
    # eta = -0.5 itself makes the horizontal velocity zero: a leg along the surface would take forever.
    if not np.isfinite(array).all() or (array < -_ETA_LIMIT).any() or (array > _ETA_LIMIT).any():
        worst = array.ravel()[int(np.argmax(np.where(np.isfinite(array), np.abs(array), np.inf)))]
        raise InputError(f"{operation}: eta reaches {worst:g}; values in [-0.5, 0.5] are accepted.")
    return array
