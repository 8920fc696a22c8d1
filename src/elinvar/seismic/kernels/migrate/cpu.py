"""Version baseline on the CPU: one loop over traces and samples, every travel time exact."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, cast

import numba
import numpy as np
import torch

from elinvar.runtime.parallel import parallel_for
from elinvar.seismic.kernels.migrate.antialias import SPAN, Bank
from elinvar.seismic.kernels.migrate.aperture import RadiusAperture
from elinvar.seismic.kernels.migrate.cpu_v2 import _cache
from elinvar.seismic.kernels.migrate.interpolation import TAPS, padded, pairs
from elinvar.seismic.kernels.migrate.limits import Limits
from elinvar.seismic.kernels.migrate.physics import PHYSICS
from elinvar.seismic.kernels.migrate.relief import Relief
from elinvar.seismic.kernels.migrate.tables import prepare

__all__ = ["migrate"]

_jit = cast(  # what other files define comes in as arguments: the cache does not see their changes
    "Callable[[Callable[..., Any]], Callable[..., Any]]",
    numba.njit(nogil=True, error_model="numpy", cache=_cache()),
)
f4 = np.float32


def migrate(
    image: torch.Tensor,
    fold: torch.Tensor | None,
    traces: torch.Tensor,
    source: torch.Tensor,
    receiver: torch.Tensor,
    pillars: torch.Tensor,
    vrms: torch.Tensor,
    *,
    amplitude: str = "true",
    aperture: RadiusAperture | None = None,
    area: float = 1.0,
    physics: str = "straight",
    medium: tuple[float, float] | None = None,
    eta: torch.Tensor | None = None,
    interpolation: str = "linear",
    bank: Bank | None = None,
    limits: Limits | None = None,
    mute: torch.Tensor | None = None,
    relief: Relief | None = None,
    **axes: float,
) -> None:
    """Add the migrated traces to ``image``; arguments as ``migrate.run``."""
    if limits is not None or mute is not None or relief is not None:
        from elinvar.seismic.kernels.migrate import general  # compiled only for those who need it

        legs: dict[str, Any] = {"physics": physics, "medium": medium, "eta": eta, "interpolation": interpolation}
        bounds: dict[str, Any] = {"bank": bank, "limits": limits, "mute": mute, "relief": relief}
        times: dict[str, Any] = axes
        what: dict[str, Any] = {"amplitude": amplitude, "aperture": aperture, "area": area}
        general.migrate(image, fold, traces, source, receiver, pillars, vrms, **what, **legs, **bounds, **times)
        return
    options: dict[str, Any] = {"amplitude": amplitude, "aperture": aperture, "area": area, **axes}
    tables = prepare(vrms, **options, block=1, nodes=(0,), medium=medium, eta=eta, filtered=bank is not None)
    bends = np.zeros((1, 1, 2), f4) if tables.bends is None else tables.bends.numpy()
    count = np.zeros((0, 0), np.int32) if fold is None else fold.numpy()
    taps = TAPS[interpolation]
    copies = 1 if bank is None else bank.copies
    data = padded(traces.view(len(traces), copies, -1), taps)
    filters = (np.zeros((0, 0, 2), f4), f4(0), f4(0), SPAN)
    if bank is not None:
        assert tables.middles is not None
        filters = (tables.middles.numpy(), f4(bank.dx**2), f4(bank.dy**2), SPAN)
    arrays = [x.numpy() for x in (image, data, source, receiver, pillars, tables.legs, tables.gain)]
    rays = (PHYSICS.index(physics), bends, f4(tables.kappa))
    fitted = np.zeros((0, 2, 1), f4) if taps == 2 else np.array(pairs(taps), f4)
    scalars = (f4(tables.shift), f4(tables.rim), amplitude == "true", rays, fitted, filters)
    parallel_for(len(pillars), lambda first, end: _rows(*arrays, count, *scalars, first, end))


@_jit
def _growth(s: Any, c: Any, kappa: Any, b: Any) -> Any:
    """Return z of `physics`: e^(kappa (t - tau)) - 1 of a curved leg."""
    r = np.sqrt(s * s + b)
    m = max(r + s, f4(1e-20))
    d = np.sqrt(f4(1) + kappa * kappa * (r * r)) + c
    return kappa * b * (d + kappa * m) / (m * d * (kappa * s + c))


@_jit
def _horizontal(tau: Any, p: Any, a: Any) -> Any:
    """Return what a VTI leg has in place of A, with p = 1 + 2 eta."""
    square = tau * tau
    return a * (square + a) / max(square + p * a, f4(1e-20))


@_jit
def _read(trace: Any, left: int, f: Any, fitted: Any) -> Any:
    """Value at the part f of the way behind sample ``left`` of a trace (`interpolation.pairs`, or linear)."""
    if len(fitted) == 0:
        return trace[left] + f * (trace[left + 1] - trace[left])
    g = f - np.float32(0.5)
    q, value = g * g, np.float32(0)
    for i in range(len(fitted)):
        even = odd = np.float32(0)
        for power in range(fitted.shape[2] - 1, -1, -1):
            even = even * q + fitted[i, 0, power]
            odd = odd * q + fitted[i, 1, power]
        one, other = trace[left + i], trace[left + 2 * len(fitted) - 1 - i]
        value += (one + other) * even + (one - other) * (g * odd)
    return value


@_jit
def _choose(choice: Any, ends: Any, filters: Any, row: int, copies: int) -> None:
    """Fill in which copies each output time reads (`antialias.share`)."""
    sx, sy, rx, ry = ends
    middles, wx, wy, width = filters
    if len(middles) == 0:
        return
    for span in range(middles.shape[1]):
        tau, slow = middles[row, span, 0], middles[row, span, 1]
        one = np.float32(1) / np.sqrt(max(tau * tau + (sx * sx + sy * sy) * slow, np.float32(1e-20)))
        other = np.float32(1) / np.sqrt(max(tau * tau + (rx * rx + ry * ry) * slow, np.float32(1e-20)))
        px, py = sx * one + rx * other, sy * one + ry * other
        square = slow * slow * (px * px * wx + py * py * wy)
        copy = 0
        while copy < copies - 2 and square >= np.float32(2):
            square *= np.float32(0.5)
            copy += 1
        end = min((span + 1) * width, choice.shape[1])
        choice[0, span * width : end] = copy
        choice[1, span * width : end] = min(max(square - np.float32(1), np.float32(0)), np.float32(1))


@_jit
def _taper(u: Any) -> Any:
    """Weight of the aperture's rim, which u crosses from 0 to 1."""
    half = np.float32(0.5)
    return np.float32(1) if u <= 0 else half + half * np.cos(np.float32(math.pi) * min(u, np.float32(1)))


@_jit
def _mixed(copies: Any, choice: Any, t: int, left: int, f: Any, fitted: Any) -> Any:
    """Read the copies that output time t asks for, or the trace where there are none."""
    if choice.shape[1] == 0:
        return _read(copies[0], left, f, fitted)
    copy = int(choice[0, t])
    here = _read(copies[copy], left, f, fitted)
    return here + choice[1, t] * (_read(copies[copy + 1], left, f, fitted) - here)


@_jit
def _beyond(tau: Any, a: Any) -> Any:
    """A leg less tau: A / (sqrt(tau^2 + A) + tau), which keeps its digits where tau is large."""
    return a / max(np.sqrt(tau * tau + a) + tau, np.float32(1e-20))


@_jit
def _rows(
    image: Any,
    traces: Any,
    source: Any,
    receiver: Any,
    pillars: Any,
    legs: Any,
    gain: Any,
    fold: Any,
    shift: Any,
    rim: Any,
    weighted: Any,
    rays: Any,
    fitted: Any,
    filters: Any,
    first: int,
    end: int,
) -> None:
    nt, beyond = image.shape[1], max(0, 2 * len(fitted) - 1)
    ns = traces.shape[2] - beyond
    choice = np.zeros((2, nt if len(filters[0]) > 0 else 0), np.float32)  # copy, and part of the next
    half = np.float32(0.5)
    tiny, last = np.float32(1e-20), np.float32(ns - 1)
    total = np.empty(nt, np.float32)
    plain = choice.shape[1] == 0 and len(fitted) == 0  # linear interpolation of one copy
    physics, bends, kappa = rays
    for p in range(first, end):
        row = p if len(legs) > 1 else 0
        total[:] = 0
        for k in range(len(traces)):
            sx, sy = source[k, 0] - pillars[p, 0], source[k, 1] - pillars[p, 1]
            rx, ry = receiver[k, 0] - pillars[p, 0], receiver[k, 1] - pillars[p, 1]
            ds, dr = sx * sx + sy * sy, rx * rx + ry * ry
            mx = half * (source[k, 0] + receiver[k, 0]) - pillars[p, 0]
            my = half * (source[k, 1] + receiver[k, 1]) - pillars[p, 1]
            distance = np.sqrt(mx * mx + my * my)
            # Views are counted references: one per trace, not one per sample.
            copies, trace = traces[k], traces[k, 0]
            _choose(choice, (sx, sy, rx, ry), filters, row, traces.shape[1])
            for t in range(nt):
                if distance > legs[row, t, 2]:
                    continue
                tau = legs[row, t, 0]
                a, b = ds * legs[row, t, 1], dr * legs[row, t, 1]
                if physics == 1:
                    s, c = bends[row, t, 0], bends[row, t, 1]
                    one_leg, other = _growth(s, c, kappa, a), _growth(s, c, kappa, b)
                    moved = np.log1p(one_leg + other + one_leg * other) / kappa
                else:
                    if physics == 2:
                        a, b = _horizontal(tau, bends[row, t, 0], a), _horizontal(tau, bends[row, t, 0], b)
                    moved = _beyond(tau, a) + _beyond(tau, b)
                zero = tau + tau - shift
                # Compared before the sum is rounded: which samples the ends of a trace count is the answer, not noise.
                if moved < -zero or moved > last - zero:
                    continue
                x = zero + moved
                left = min(max(int(x), 0), ns - 2)
                if plain:
                    value = trace[left] + (x - np.float32(left)) * (trace[left + 1] - trace[left])
                else:
                    value = _mixed(copies, choice, t, left, x - np.float32(left), fitted)
                value *= _taper(distance * legs[row, t, 3] - rim)
                if weighted:
                    ratio = (tau + tau) / max(tau + tau + moved, tiny)
                    value *= ratio * ratio
                total[t] += value
                if len(fold) > 0:
                    fold[p, t] += 1
        for t in range(nt):
            image[p, t] += gain[row, t] * total[t]
