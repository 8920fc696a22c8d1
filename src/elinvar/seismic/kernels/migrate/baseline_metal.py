"""Launches of baseline.metal, and what bounds or lifts contributions: limits, mutes, ends above the datum."""

from __future__ import annotations

import math
from typing import Any

import torch

from elinvar.seismic.kernels.migrate.antialias import Bank
from elinvar.seismic.kernels.migrate.aperture import NARROWEST, RadiusAperture
from elinvar.seismic.kernels.migrate.interpolation import TAPS
from elinvar.seismic.kernels.migrate.launching import (
    bend_rows,
    library,
    middle_rows,
    padded_rows,
    physics_words,
    table_rows,
    tiles,
)
from elinvar.seismic.kernels.migrate.limits import Limits
from elinvar.seismic.kernels.migrate.relief import Relief
from elinvar.seismic.kernels.migrate.tables import EARLIEST, prepare

__all__ = ["migrate"]

_FAR = 1e9  # samples: no trace is so long


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
    device: Any,
    **axes: float,
) -> None:
    """Run baseline.metal; arguments as ``migrate.run``."""
    options: dict[str, Any] = {"amplitude": amplitude, "aperture": aperture, "area": area, **axes}
    tables = prepare(vrms, **options, block=1, nodes=(0,), medium=medium, eta=eta, filtered=bank is not None)
    nt, rows, taps = image.shape[1], len(tables.legs), TAPS[interpolation]
    counted = torch.zeros(1, dtype=torch.int32, device=image.device) if fold is None else fold
    copies = bank or Bank(1, 0.0, 0.0)
    words = physics_words(physics, interpolation, bank)
    bounded = not (limits is None and mute is None and relief is None)
    if bounded:
        words["BOUNDED"] = 1
        if relief is not None and amplitude == "true":
            tables.gain.fill_(1.0)  # the weight knows the heights, and is the kernel's
        own = _own(source, mute, relief, axes["dt"], axes["start"])
        level = torch.zeros(1, device=image.device) if relief is None else relief.level.float()
        depths = _depths(vrms, rows, tables.legs.shape[1], axes["dt_out"], axes["t0_out"])
        bounds = _bounds(limits or Limits(), relief, area, axes["dt"]).to(image.device)
    kernel = library("baseline.metal", device, words).migrate_baseline
    for p, k in tiles(image, traces, nt, copies.copies):
        more: list[Any] = []
        if bounded:
            each = len(level) > 1
            more = [own[k], level[p] if each else level, int(each), depths[p] if rows > 1 else depths, bounds]
        kernel(
            padded_rows(traces[k], taps, copies),
            torch.cat([source[k], receiver[k]], 1),
            pillars[p],
            *table_rows(tables, p)[:2],
            image[p],
            counted if fold is None else counted[p],
            k.stop - k.start,
            traces.shape[1] // copies.copies,
            nt,
            tables.legs.shape[1] if rows > 1 else 0,
            tables.shift,
            tables.rim,
            int(amplitude == "true"),
            int(fold is not None),
            bend_rows(tables, p),
            tables.kappa,
            middle_rows(tables, p),
            copies.dx**2,
            copies.dy**2,
            *more,
            threads=(nt, p.stop - p.start),
        )


def _own(
    source: torch.Tensor, mute: torch.Tensor | None, relief: Relief | None, dt: float, start: float
) -> torch.Tensor:
    """Return the first and last muted sample and the heights of the ends, (traces, 4)."""
    own = torch.zeros(len(source), 4, device=source.device)
    own[:, :2] = _FAR
    if mute is not None:
        wide = torch.float32 if source.device.type == "mps" else torch.float64
        own[:, :2] = ((mute.to(wide) - start) / dt).clamp(-_FAR, _FAR).float()
    if relief is not None:
        own[:, 2:] = relief.heights
    return own


def _depths(vrms: torch.Tensor, rows: int, length: int, dt_out: float, t0_out: float) -> torch.Tensor:
    """Return V t0 / 2 in metres, (rows, length) as the other tables are."""
    nt = vrms.shape[1]
    t0 = t0_out + dt_out * torch.arange(nt, dtype=vrms.dtype, device=vrms.device)
    depths = torch.zeros(rows, length, device=vrms.device)
    depths[:, :nt] = 0.5 * vrms * t0
    return depths


def _bounds(limits: Limits, relief: Relief | None, area: float, dt: float) -> torch.Tensor:
    """Return what holds for every trace and pillar, in the order of the kernel's ``Bound``."""
    taper = limits.taper if limits.taper >= NARROWEST else 0.0
    rim = (1 / taper, (1 - taper) / taper) if taper else (0.0, 0.0)
    angles = (
        0.0 if math.isinf(limits.tan_leg) else limits.tan_leg,
        limits.minimum,
        0.0 if math.isinf(limits.stretch) else 1 / (limits.stretch - 1),
    )
    replaced = 1.0 if relief is None or relief.replacement is None else relief.replacement * dt
    heights = (float(relief is not None), replaced, 2 * area * dt / math.pi, EARLIEST / dt)
    return torch.tensor([1 / limits.x, 1 / limits.y, *rim, *angles, *heights], dtype=torch.float32)
