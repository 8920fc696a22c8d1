"""Prestack time migration in float64, sample by sample: what every other version is measured against."""

from __future__ import annotations

import math
from typing import Any

import torch

from elinvar.seismic.kernels.migrate.antialias import SPAN, Bank, middles, share, steepness
from elinvar.seismic.kernels.migrate.aperture import RadiusAperture, rim_weight
from elinvar.seismic.kernels.migrate.interpolation import TAPS, weights
from elinvar.seismic.kernels.migrate.limits import Limits, limited
from elinvar.seismic.kernels.migrate.physics import leg
from elinvar.seismic.kernels.migrate.relief import Relief, layer, raised_leg
from elinvar.seismic.kernels.migrate.tables import EARLIEST, continued

__all__ = ["migrate"]

_CHUNK = 1 << 21  # elements of one temporary


def migrate(
    image: torch.Tensor,
    fold: torch.Tensor | None,
    traces: torch.Tensor,
    source: torch.Tensor,
    receiver: torch.Tensor,
    pillars: torch.Tensor,
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
    interpolation: str = "linear",
    bank: Bank | None = None,
    limits: Limits | None = None,
    mute: torch.Tensor | None = None,
    relief: Relief | None = None,
    device: Any = None,
) -> None:
    """Add the migrated traces to ``image`` (and their count to ``fold``); arguments as ``migrate.run``.

    Runs wherever the tensors are, in float64 whatever their dtype; ``image`` receives one rounded sum per call.
    """
    del device  # torch already knows where the tensors are
    where = image.device
    nt = image.shape[1]
    t0 = t0_out + dt_out * torch.arange(nt, dtype=torch.float64, device=where)
    src, rec, pil = (x.to(where, torch.float64) for x in (source, receiver, pillars))
    taps = TAPS[interpolation]
    data = traces.to(where, torch.float64).reshape(len(traces), 1 if bank is None else bank.copies, -1)
    data = torch.nn.functional.pad(data, (taps // 2 - 1, taps // 2 - 1))
    velocity = vrms.to(where, torch.float64).expand(len(pil), nt)
    bent = None if eta is None else eta.to(where, torch.float64).expand(len(pil), nt)
    step = max(1, _CHUNK // nt)
    for p in range(len(pil)):
        v, rays = velocity[p], (physics, medium, None if bent is None else bent[p])
        radius = None if aperture is None else aperture.radius(v, t0)
        total = torch.zeros(nt, dtype=torch.float64, device=where)
        for k in range(0, len(data), step):
            part = slice(k, k + step)
            chosen = None
            if bank is not None:
                chosen = _copies(src[part], rec[part], pil[p], v, (t0_out, dt_out, dt), medium, bank)
            near = data[part], taps, chosen
            raised = None if relief is None else _raised(relief, part, p)
            time, strength = _times(src[part], rec[part], pil[p], v, t0, rays, raised)
            value, inside = _contributions(near, time, dt, start)
            if amplitude == "true":
                value = value * torch.where(inside, strength, torch.zeros_like(strength))
            if mute is not None:
                begin, end = mute[part].to(time).unbind(1)
                inside = inside & ~((time >= begin[:, None]) & (time < end[:, None]))
            if limits is not None:
                within, rim = limited(limits, src[part], rec[part], pil[p], v, t0)
                inside, value = inside & within, value * rim
            if aperture is not None and radius is not None:
                middle = 0.5 * (src[part] + rec[part]) - pil[p]
                distance = torch.hypot(middle[:, 0], middle[:, 1])[:, None]
                inside = inside & (distance <= radius)
                value = value * rim_weight(distance, radius[None], aperture.taper)
            total += torch.where(inside, value, torch.zeros_like(value)).sum(0)
            if fold is not None:
                fold[p] += inside.sum(0, dtype=fold.dtype)
        image[p] += (total * area if amplitude == "true" else total).to(image.dtype)


def _copies(
    source: torch.Tensor,
    receiver: torch.Tensor,
    pillar: torch.Tensor,
    v: torch.Tensor,
    axes: tuple[float, float, float],
    medium: tuple[float, float] | None,
    bank: Bank,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return `antialias.share` of every trace and output time."""
    nt, (t0_out, dt_out, dt) = len(v), axes
    t = t0_out + dt_out * torch.arange(nt + SPAN, dtype=v.dtype, device=v.device)
    square = torch.cat([v, continued(v[None], SPAN)[0]]) ** 2
    if medium is not None:
        square = medium[0] ** 2 * torch.exp(medium[1] * t / 2)
    t, square = (middles(x[None], nt)[0] for x in (t, square))
    slope = steepness(source, receiver, pillar, t / (2 * dt), 1 / (square * dt**2), bank)
    return tuple(x.repeat_interleave(SPAN, 1)[:, :nt] for x in share(slope, bank.copies))  # type: ignore[return-value]


def _weights(taps: int, f: torch.Tensor) -> list[torch.Tensor]:
    if taps == 2:
        return [1 - f, f]
    kind = next(name for name, count in TAPS.items() if count == taps)
    each = torch.from_numpy(weights(kind, f.cpu().numpy())).to(f.device)
    return list(each.unbind(-1))


def _raised(relief: Relief, part: slice, p: int) -> tuple[torch.Tensor, float | None]:
    """Return how far above the datum of pillar p the ends of some traces are, (traces, 2)."""
    level = relief.level[p if len(relief.level) > 1 else 0]
    return relief.heights[part].double() - level.double(), relief.replacement


def _times(
    source: torch.Tensor,
    receiver: torch.Tensor,
    pillar: torch.Tensor,
    v: torch.Tensor,
    t0: torch.Tensor,
    rays: tuple[str, tuple[float, float] | None, torch.Tensor | None],
    raised: tuple[torch.Tensor, float | None] | None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Travel times ``[traces, nt]``, NaN where there is no ray, and the weight of ``amplitude="true"`` before area."""
    ds, dr = ((end - pillar).square().sum(1)[:, None] for end in (source, receiver))
    physics, medium, eta = rays
    vertical, second = t0, v.square() * t0
    if raised is None:
        time = leg(physics, ds, t0, v, medium, eta) + leg(physics, dr, t0, v, medium, eta)
    else:
        time = torch.zeros_like(ds * t0)
        for square, above in zip((ds, dr), raised[0].unbind(1), strict=True):
            between = layer(above[:, None], raised[1], medium)
            time = time + raised_leg(physics, square, above[:, None], between, t0, v, medium, eta)
            vertical, second = vertical + between.time, second + between.second
    # Schneider (1978) in stationary phase, 2 t0 / (pi V^2 T^2); t0 = 0 carries no energy, also where T = 0.
    weight = 2 * vertical.square() / (math.pi * second * time.square())
    return time, torch.where((vertical >= EARLIEST) & (second > 0), weight, torch.zeros_like(weight))


def _contributions(
    near: tuple[torch.Tensor, int, tuple[torch.Tensor, torch.Tensor] | None],
    time: torch.Tensor,
    dt: float,
    start: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Interpolated samples ``[traces, nt]`` at travel times, and which of them lie on the trace."""
    data, taps, chosen = near
    ns = data.shape[2] - taps + 2
    x = (time - start) / dt
    inside = (x >= 0) & (x <= ns - 1)
    x = torch.where(torch.isnan(x), torch.zeros_like(x), x)
    left = x.clamp(0, ns - 1).floor().clamp(max=ns - 2).long()
    value = torch.zeros_like(x)
    for i, weight in enumerate(_weights(taps, x - left)):
        if chosen is None:
            value += torch.gather(data[:, 0], 1, left + i) * weight
        else:
            copy, part = chosen
            at = copy * data.shape[2] + left + i
            one, next_one = (torch.gather(data.flatten(1), 1, at + k) for k in (0, data.shape[2]))
            value += (one + part * (next_one - one)) * weight
    return value, inside
