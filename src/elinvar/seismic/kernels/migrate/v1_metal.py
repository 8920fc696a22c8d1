"""Launches of ``v1.metal``."""

from __future__ import annotations

from typing import Any

import torch

from elinvar.seismic.kernels.migrate.aperture import RadiusAperture
from elinvar.seismic.kernels.migrate.kept import kept_tables
from elinvar.seismic.kernels.migrate.launching import bend_rows, library, table_rows, tiles
from elinvar.seismic.kernels.migrate.physics import PHYSICS, stretched

__all__ = ["SIMDGROUPS", "migrate"]

SIMDGROUPS = 4
_BLOCK = 32


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
    device: Any,
    **axes: float,
) -> None:
    """Run v1.metal; arguments as ``migrate.run``."""
    options: dict[str, Any] = {"amplitude": amplitude, "aperture": aperture, "area": area, **axes}
    tables = kept_tables(vrms, **options, block=_BLOCK, nodes=(0,), medium=medium, eta=eta)
    words = {"SIMDGROUPS": SIMDGROUPS, "WEIGHTED": int(amplitude == "true"), "PHYSICS": PHYSICS.index(physics)}
    kernel = library("v1.metal", device, words).migrate_v1
    (ns, nt), n_blocks, width = (traces.shape[1], image.shape[1]), tables.blocks.shape[1], 32 * SIMDGROUPS
    counted = torch.zeros(1, dtype=torch.int32, device=image.device) if fold is None else fold
    for p, k in tiles(image, traces, n_blocks * _BLOCK, 1):
        kernel(
            traces[k],
            torch.cat([source[k], receiver[k]], 1),
            pillars[p],
            *table_rows(tables, p),
            image[p],
            counted if fold is None else counted[p],
            p.stop - p.start,
            k.stop - k.start,
            ns,
            nt,
            n_blocks,
            int(len(tables.legs) > 1),
            tables.shift,
            tables.rim,
            int(fold is not None),
            bend_rows(tables, p),
            tables.kappa,
            stretched(max(ns - 1 + tables.shift, 0.0) + 0.1, tables.kappa),
            threads=(-(-(p.stop - p.start) // SIMDGROUPS) * width, n_blocks),
            group_size=(width, 1),
        )
