"""Prestack time migration in float64, sample by sample: what every other version is measured against."""

from __future__ import annotations

import math
from typing import Any

import torch

from elinvar.seismic.kernels.migrate.antialias import SPAN, Bank, middles, share, steepness
from elinvar.seismic.kernels.migrate.aperture import RadiusAperture, rim_weight
from elinvar.seismic.kernels.migrate.interpolation import TAPS, weights
from elinvar.seismic.kernels.migrate.physics import leg
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
            value, inside = _contributions(near, src[part], rec[part], pil[p], v, t0, dt, start, amplitude, rays)
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


def _contributions(
    near: tuple[torch.Tensor, int, tuple[torch.Tensor, torch.Tensor] | None],
    source: torch.Tensor,
    receiver: torch.Tensor,
    pillar: torch.Tensor,
    v: torch.Tensor,
    t0: torch.Tensor,
    dt: float,
    start: float,
    amplitude: str,
    rays: tuple[str, tuple[float, float] | None, torch.Tensor | None],
) -> tuple[torch.Tensor, torch.Tensor]:
    """Weighted interpolated samples ``[traces, nt]`` before area and aperture, and which of them lie on the trace."""
    ds, dr = ((end - pillar).square().sum(1)[:, None] for end in (source, receiver))
    physics, medium, eta = rays
    time = leg(physics, ds, t0, v, medium, eta) + leg(physics, dr, t0, v, medium, eta)
    data, taps, chosen = near
    ns = data.shape[2] - taps + 2
    x = (time - start) / dt
    inside = (x >= 0) & (x <= ns - 1)
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
    if amplitude == "true":
        # Schneider (1978) in stationary phase; t0 = 0 carries no energy, also where T = 0.
        weight = 2 * t0 / (math.pi * v**2 * time.square())
        value = value * torch.where(t0 >= EARLIEST, weight, torch.zeros_like(weight))
    return value, inside
