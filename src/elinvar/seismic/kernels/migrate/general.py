"""The baseline on the CPU with everything that bounds or lifts a contribution: limits, mutes, ends above the datum.

One pair of a trace and a pillar at a time: where on the trace each output sample falls and with what weight, in float64
by the formulas of the reference (`limits`, `relief`). Migration reads the trace there; demigration, its transpose, adds
to it there. What needs none of this is faster in `cpu`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple, cast

import numba
import numpy as np
import torch

from elinvar.runtime.parallel import parallel_for
from elinvar.seismic.kernels.migrate.antialias import SPAN, Bank, middles
from elinvar.seismic.kernels.migrate.aperture import NARROWEST, RadiusAperture
from elinvar.seismic.kernels.migrate.cpu_v2 import _cache
from elinvar.seismic.kernels.migrate.interpolation import TAPS, padded, pairs
from elinvar.seismic.kernels.migrate.limits import Limits
from elinvar.seismic.kernels.migrate.physics import ETA_LIMIT, PHYSICS
from elinvar.seismic.kernels.migrate.relief import Relief
from elinvar.seismic.kernels.migrate.tables import EARLIEST, continued

__all__ = ["demigrate", "migrate"]

f8 = np.float64
_jit = cast(
    "Callable[[Callable[..., Any]], Callable[..., Any]]",
    numba.njit(nogil=True, error_model="numpy", cache=_cache()),  # NaN has a meaning: no fastmath
)


class _Traces(NamedTuple):
    """What belongs to each trace."""

    ends: Any  # [ntr, 4] source x, y, receiver x, y, metres
    mute: Any  # [ntr or 0, 2] seconds
    heights: Any  # [ntr or 0, 2] metres


class _Rows(NamedTuple):
    """What belongs to output times, one row for all pillars or one for each."""

    t0: Any  # [nt] seconds
    v: Any  # [rows, nt] m/s
    radius: Any  # [rows, nt] metres
    eta: Any  # [rows or 0, nt]
    middles: Any  # [rows or 1, spans, 2] t0 / 2 in samples and 1 / (V dt)^2, where antialias looks at slopes
    level: Any  # [1 or pillars] metres; empty without relief


class _Rules(NamedTuple):
    """What is the same everywhere."""

    physics: int
    v0: float
    k: float
    replacement: float  # 0 for none
    weighted: bool
    start: float
    dt: float
    area: float
    taper: float  # of the radius
    limits: tuple[float, ...]  # x, y, tan_leg, minimum, stretch, taper
    wx: float  # squared distances of neighbouring midpoints
    wy: float
    eta_limit: float
    earliest: float
    span: int


@_jit
def _fall(q: float, taper: float) -> float:
    """Weight of a limit's rim for a ratio up to 1."""
    if taper < 1e-6 or q <= 1.0 - taper:  # NARROWEST
        return 1.0
    return 0.5 * (1.0 + math.cos(math.pi * min((q - (1.0 - taper)) / taper, 1.0)))


@_jit
def _leg(square: float, t0: float, v: float, eta: float, r: Any) -> Any:
    """See `physics.leg`; straight and VTI."""
    tau2, slant = 0.25 * t0 * t0, square / (v * v)
    if r.physics == 2 and square > 0.0:
        below = v * v * (tau2 * v * v + (1.0 + 2.0 * eta) * square)
        return math.sqrt(tau2 + slant - 2.0 * eta * square * square / below)
    return math.sqrt(tau2 + slant)


@_jit
def _layer(above: float, r: Any) -> Any:
    """See `relief.layer`."""
    if r.physics == 1:
        end = r.v0 - r.k * above
        if end <= 0.0:
            return math.nan, math.nan, math.nan
        time = above / r.v0 if abs(r.k) < 1e-12 else math.log(r.v0 / end) / r.k
        return time, above * 0.5 * (r.v0 + end), math.nan
    if r.replacement == 0.0:
        return 0.0, 0.0, 0.0
    return above / r.replacement, above * r.replacement, above * r.replacement**3


@_jit
def _raised(square: float, above: float, between: Any, t0: float, v: float, eta: float, r: Any) -> Any:
    """See `relief.raised_leg`."""
    time, second, fourth = between
    if r.physics == 1:
        end = r.v0 - r.k * above
        if abs(r.k) < 1e-12:
            z, deep = r.v0 * t0 * 0.5, r.v0
        else:
            growth = math.expm1(r.k * t0 * 0.5)
            z, deep = r.v0 / r.k * growth, r.v0 * (1.0 + growth)
        if z + above < 0.0 or end <= 0.0:
            return math.nan
        far = square + (z + above) * (z + above)
        if abs(r.k) < 1e-12:
            return math.sqrt(far) / r.v0
        u = r.k * r.k * far / (2.0 * end * deep)
        return math.log1p(u + math.sqrt(u * (u + 2.0))) / abs(r.k)
    if time == 0.0:
        return _leg(square, t0, v, eta, r)
    tau, q = 0.5 * t0 + time, 0.5 * t0 * v * v + second
    if tau <= 0.0 or q <= 0.0:
        return math.nan
    speed2 = q / tau
    if r.physics == 2:
        total = (1.0 + 8.0 * eta) * v * v * v * v * 0.5 * t0 + fourth
        eta = min(max((total / (tau * speed2 * speed2) - 1.0) * 0.125, -r.eta_limit), r.eta_limit)
    return _leg(square, 2.0 * tau, math.sqrt(speed2), eta, r)


@_jit
def _bounded(e: Any, z: float, r: Any) -> float:
    """Weight of the limits that depend on depth, -1 outside; `e` are the ends seen from the pillar."""
    _, _, tan_leg, minimum, stretch, taper = r.limits
    ds, dr = e[0] * e[0] + e[1] * e[1], e[2] * e[2] + e[3] * e[3]
    weight = 1.0
    if tan_leg < math.inf:
        widest = max(z * tan_leg, minimum)
        for square in (ds, dr):
            if square > 0.0:
                h = math.sqrt(square)
                if h > widest:
                    return -1.0
                weight *= _fall(h / widest, taper)
    if stretch < math.inf:
        product = math.sqrt((ds + z * z) * (dr + z * z))
        twice = 1.0
        if product > 0.0:
            twice = min(max((e[0] * e[2] + e[1] * e[3] + z * z) / product, -1.0), 1.0)
        q = (1.0 / math.sqrt(0.5 * (1.0 + twice)) - 1.0) / (stretch - 1.0)
        if not q <= 1.0:
            return -1.0
        weight *= _fall(q, taper)
    return weight


@_jit
def _copy(e: Any, middle: Any, r: Any, copies: int) -> Any:
    """See `antialias.share`: which copy, and the part of the next."""
    tau, slow = middle[0], middle[1]
    one = 1.0 / math.sqrt(max(tau * tau + (e[0] * e[0] + e[1] * e[1]) * slow, 1e-300))
    other = 1.0 / math.sqrt(max(tau * tau + (e[2] * e[2] + e[3] * e[3]) * slow, 1e-300))
    px, py = e[0] * one + e[2] * other, e[1] * one + e[3] * other
    square = slow * slow * (px * px * r.wx + py * py * r.wy)
    copy = 0
    while copy < copies - 2 and square >= 2.0:
        square *= 0.5
        copy += 1
    return copy, min(max(square - 1.0, 0.0), 1.0)


@_jit
def _seen(ends: Any, place: Any) -> Any:
    """Ends of a trace seen from a pillar."""
    return ends[0] - place[0], ends[1] - place[1], ends[2] - place[0], ends[3] - place[1]


@_jit
def _strength(vertical: float, second: float, time: float, r: Any) -> Any:
    """Weight of a contribution, 0 at t0 = 0 (see `relief`)."""
    if vertical < r.earliest or second <= 0.0:
        return 0.0
    return 2.0 * vertical * vertical / (math.pi * second * time * time) * r.area


@_jit
def _pair(k: int, p: int, place: Any, traces: _Traces, rows: _Rows, r: _Rules, ns: int, x: Any, w: Any) -> bool:
    """Fill in where on trace k the output samples of pillar p fall, -1 for nowhere, and their weights."""
    ends = traces.ends[k]
    e = _seen(ends, place)
    mx, my = 0.5 * (e[0] + e[2]), 0.5 * (e[1] + e[3])
    x[:] = -1.0
    qx, qy = abs(mx) / r.limits[0], abs(my) / r.limits[1]
    if qx > 1.0 or qy > 1.0:
        return False
    across = _fall(qx, r.limits[5]) * _fall(qy, r.limits[5])
    distance = math.sqrt(mx * mx + my * my)
    ds, dr = e[0] * e[0] + e[1] * e[1], e[2] * e[2] + e[3] * e[3]
    i = p if len(rows.v) > 1 else 0
    begin = end = math.inf
    if len(traces.mute) > 0:
        begin, end = traces.mute[k, 0], traces.mute[k, 1]
    above_s = above_r = 0.0
    if len(rows.level) > 0:
        level = rows.level[p if len(rows.level) > 1 else 0]
        above_s, above_r = traces.heights[k, 0] - level, traces.heights[k, 1] - level
    below_s, below_r = _layer(above_s, r), _layer(above_r, r)
    # Names, not attributes, inside the loop: numba counts references at every attribute.
    radii, times, speeds, many = rows.radius[i], rows.t0, rows.v[i], len(rows.eta)
    curls = rows.eta[p if many > 1 else 0] if many > 0 else times
    angles, last, start, dt = r.limits[2] < math.inf or r.limits[4] < math.inf, float(ns - 1), r.start, r.dt
    found = False
    for t in range(len(x)):
        radius = radii[t]
        if distance > radius:
            continue
        t0, v = times[t], speeds[t]
        weight = across
        if angles:
            weight *= _bounded(e, 0.5 * v * t0, r)
            if weight < 0.0:
                continue
        eta = curls[t] if many > 0 else 0.0
        time = _raised(ds, above_s, below_s, t0, v, eta, r) + _raised(dr, above_r, below_r, t0, v, eta, r)
        at = (time - start) / dt
        if not (at >= 0.0 and at <= last) or (time >= begin and time < end):
            continue
        if radius < math.inf and radius > 0.0:
            weight *= _fall(distance / radius, r.taper)
        if r.weighted:
            weight *= _strength(t0 + below_s[0] + below_r[0], v * v * t0 + below_s[1] + below_r[1], time, r)
        x[t], w[t], found = at, weight, True
    return found


@_jit
def _taps(f: float, fitted: Any, out: Any) -> None:
    """Weights of the neighbours of a time f of the way behind its left sample (`interpolation.pairs`, or linear)."""
    many = len(fitted)
    if many == 0:
        out[0], out[1] = 1.0 - f, f
        return
    g = f - 0.5
    q = g * g
    for i in range(many):
        even = odd = 0.0
        for power in range(fitted.shape[2] - 1, -1, -1):
            even = even * q + fitted[i, 0, power]
            odd = odd * q + fitted[i, 1, power]
        out[i], out[2 * many - 1 - i] = even + g * odd, even - g * odd


@_jit
def _read(trace: Any, x: Any, w: Any, e: Any, middles: Any, r: Any, fitted: Any, near: Any, total: Any) -> None:
    """Add what the copies of a trace, [copies, samples between their zeros], hold at ``x``, weighted."""
    copies, taps = len(trace), len(near)
    ns = trace.shape[1] - (0 if taps == 2 else taps - 1)
    first = trace[0]
    for t in range(len(x)):
        if x[t] < 0.0:
            continue
        left = min(int(x[t]), ns - 2)
        f = x[t] - left
        if copies == 1 and taps == 2:
            total[t] += w[t] * (first[left] + f * (first[left + 1] - first[left]))
            continue
        _taps(f, fitted, near)
        copy, part = (0, 0.0) if copies == 1 else _copy(e, middles[t // r.span], r, copies)
        value = 0.0
        for i in range(taps):
            one = float(trace[copy, left + i])
            if copies > 1:
                one += part * (trace[copy + 1, left + i] - one)
            value += one * near[i]
        total[t] += w[t] * value


@_jit
def _gather(
    image: Any, fold: Any, data: Any, places: Any, traces: Any, rows: Any, r: Any, fitted: Any, first: int, last: int
) -> None:
    """Migrate into pillars first to last; ``data`` is [traces, copies, samples between their zeros]."""
    nt, taps = image.shape[1], max(2, 2 * len(fitted))
    ns = data.shape[2] - (0 if taps == 2 else taps - 1)
    x, w, total, near = np.empty(nt), np.empty(nt), np.empty(nt), np.empty(taps)
    count = np.empty(nt, np.int32)
    for p in range(first, last):
        total[:] = 0.0
        count[:] = 0
        middles = rows.middles[p if len(rows.middles) > 1 else 0]
        for k in range(len(data)):
            if not _pair(k, p, places[p], traces, rows, r, ns, x, w):
                continue
            _read(data[k], x, w, _seen(traces.ends[k], places[p]), middles, r, fitted, near, total)
            for t in range(nt):
                count[t] += x[t] >= 0.0
        image[p] += total.astype(np.float32)
        if len(fold) > 0:
            fold[p] += count


@_jit
def _scatter(
    made: Any, image: Any, places: Any, traces: Any, rows: Any, r: Any, fitted: Any, first: int, last: int
) -> None:
    """Demigrate into traces first to last of [traces, copies, samples]."""
    nt, copies, taps = image.shape[1], made.shape[1], max(2, 2 * len(fitted))
    ns = made.shape[2]
    x, w, near = np.empty(nt), np.empty(nt), np.empty(taps)
    cells = np.empty((copies, ns + taps))
    for k in range(first, last):
        cells[:] = 0.0
        for p in range(len(places)):
            if not _pair(k, p, places[p], traces, rows, r, ns, x, w):
                continue
            e, middles, values = _seen(traces.ends[k], places[p]), rows.middles[min(p, len(rows.middles) - 1)], image[p]
            for t in range(nt):
                if x[t] < 0.0:
                    continue
                left = min(int(x[t]), ns - 2)
                _taps(x[t] - left, fitted, near)
                copy, part = (0, 0.0) if copies == 1 else _copy(e, middles[t // r.span], r, copies)
                value = w[t] * values[t]
                for i in range(taps):
                    cells[copy, left + i] += (1.0 - part) * near[i] * value
                    if copies > 1:
                        cells[copy + 1, left + i] += part * near[i] * value
        for copy in range(copies):
            for s in range(ns):
                made[k, copy, s] += np.float32(cells[copy, s + taps // 2 - 1])


def _inputs(
    source: torch.Tensor,
    receiver: torch.Tensor,
    vrms: torch.Tensor,
    *,
    dt: float,
    start: float,
    dt_out: float,
    t0_out: float,
    amplitude: str = "true",
    aperture: RadiusAperture | None = None,
    area: float = 1.0,
    physics: str = "straight",
    medium: tuple[float, float] | None = None,
    eta: torch.Tensor | None = None,
    bank: Bank | None = None,
    limits: Limits | None = None,
    mute: torch.Tensor | None = None,
    relief: Relief | None = None,
) -> tuple[_Traces, _Rows, _Rules]:
    """Lay out what both directions are told; arguments as ``migrate.run``."""
    none = np.zeros((0, 2))
    nt = vrms.shape[1]
    t0 = t0_out + dt_out * torch.arange(nt, dtype=torch.float64)
    v = vrms.double()
    reach = aperture or RadiusAperture()
    traces = _Traces(
        torch.cat([source, receiver], 1).double().numpy(),
        none if mute is None else mute.double().numpy(),
        none if relief is None else relief.heights.double().numpy(),
    )
    seen = np.zeros((1, 1, 2))
    if bank is not None:
        t = t0_out + dt_out * torch.arange(nt + SPAN, dtype=torch.float64)
        square = torch.cat([v, continued(v, SPAN)], 1).square()
        if medium is not None:
            square = (medium[0] ** 2 * torch.exp(medium[1] * t / 2)).expand_as(square)
        slow = 1 / (square * dt**2)
        seen = torch.stack([middles((t / (2 * dt)).expand_as(slow), nt), middles(slow, nt)], -1).numpy()
    rows = _Rows(
        t0.numpy(),
        v.numpy(),
        reach.radius(v, t0).numpy(),
        np.zeros((0, 0)) if eta is None else eta.double().numpy(),
        np.ascontiguousarray(seen),
        np.zeros(0) if relief is None else relief.level.double().numpy(),
    )
    bound = limits or Limits()
    v0, k = medium or (1.0, 0.0)
    rules = _Rules(
        PHYSICS.index(physics),
        f8(v0),
        f8(k),
        f8(0.0 if relief is None or relief.replacement is None else relief.replacement),
        amplitude == "true",
        f8(start),
        f8(dt),
        f8(area),
        f8(reach.taper if reach.taper >= NARROWEST else 0.0),
        tuple(map(float, (bound.x, bound.y, bound.tan_leg, bound.minimum, bound.stretch, bound.taper))),
        f8(0.0 if bank is None else bank.dx**2),
        f8(0.0 if bank is None else bank.dy**2),
        f8(ETA_LIMIT),
        f8(EARLIEST),
        SPAN,
    )
    return traces, rows, rules


def _fitted(interpolation: str) -> Any:
    taps = TAPS[interpolation]
    return np.zeros((0, 2, 1)) if taps == 2 else np.array(pairs(taps))


def migrate(
    image: torch.Tensor,
    fold: torch.Tensor | None,
    traces: torch.Tensor,
    source: torch.Tensor,
    receiver: torch.Tensor,
    pillars: torch.Tensor,
    vrms: torch.Tensor,
    *,
    interpolation: str = "linear",
    **options: Any,
) -> None:
    """Add the migrated traces to ``image``; arguments as ``migrate.run``."""
    options.pop("device", None)
    bank = options.get("bank")
    given = _inputs(source, receiver, vrms, **options)
    data = padded(traces.view(len(traces), 1 if bank is None else bank.copies, -1), TAPS[interpolation]).numpy()
    count = np.zeros((0, 0), np.int32) if fold is None else fold.numpy()
    arrays = (image.numpy(), count, data, pillars.double().numpy(), *given, _fitted(interpolation))
    parallel_for(len(pillars), lambda first, last: _gather(*arrays, first, last))


def demigrate(
    traces: torch.Tensor,
    image: torch.Tensor,
    source: torch.Tensor,
    receiver: torch.Tensor,
    pillars: torch.Tensor,
    vrms: torch.Tensor,
    *,
    interpolation: str = "linear",
    **options: Any,
) -> None:
    """Add the demigrated image to ``traces``; arguments as ``demigrate.run``."""
    options.pop("device", None)
    bank = options.get("bank")
    given = _inputs(source, receiver, vrms, **options)
    made = traces.view(len(traces), 1 if bank is None else bank.copies, -1).numpy()
    arrays = (made, image.numpy(), pillars.double().numpy(), *given, _fitted(interpolation))
    parallel_for(len(traces), lambda first, last: _scatter(*arrays, first, last))
