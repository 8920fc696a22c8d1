"""Launches of ``v1.metal``: on Apple GPUs, on NVIDIA GPUs and, for verification, on the emulator."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from elinvar import metal
from elinvar.seismic.kernels.migrate.antialias import Bank
from elinvar.seismic.kernels.migrate.aperture import RadiusAperture
from elinvar.seismic.kernels.migrate.interpolation import TAPS
from elinvar.seismic.kernels.migrate.launching import bend_rows, middle_rows, physics_words, table_rows
from elinvar.seismic.kernels.migrate.physics import stretched
from elinvar.seismic.kernels.migrate.tables import prepare

__all__ = ["SIMDGROUPS", "demigrate"]

_HERE = Path(__file__).parent
_INDEXABLE = 1 << 30  # elements that the kernel's 32-bit indices reach in one launch
_BLOCK = 32
SIMDGROUPS = 4


@lru_cache(maxsize=8)
def _library(device: Any, words: tuple[tuple[str, int | str], ...]) -> Any:
    return metal.compile(_HERE / "v1.metal", device, defines={"SIMDGROUPS": SIMDGROUPS, "PHYSICS": 0, **dict(words)})


def demigrate(
    traces: torch.Tensor,
    image: torch.Tensor,
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
    device: Any,
    **axes: float,
) -> None:
    """Run v1.metal; arguments as ``demigrate.run``."""
    options: dict[str, Any] = {"amplitude": amplitude, "aperture": aperture, "area": area, **axes}
    tables = prepare(vrms, **options, block=_BLOCK, nodes=(0,), medium=medium, eta=eta, filtered=bank is not None)
    kernel = _library(device, tuple(physics_words(physics, interpolation, bank).items())).demigrate_v1
    (ntr, row), (n, nt), n_blocks = traces.shape, image.shape, tables.blocks.shape[1]
    taps, copies = TAPS[interpolation], bank or Bank(1, 0.0, 0.0)
    ns = row // copies.copies
    apart = ns + (taps - 1 if taps > 2 else 0)
    front = max(taps // 2 - 1, 0)
    latest = stretched(max(ns - 1 + tables.shift, 0.0) + 0.1, tables.kappa)
    bundles = max(1, _INDEXABLE // (32 * copies.copies * apart))
    rows = max(1, _INDEXABLE // tables.legs.shape[1])
    for k in range(0, ntr, 32 * bundles):
        part = slice(k, min(k + 32 * bundles, ntr))
        count = part.stop - part.start
        groups = -(-count // (32 * SIMDGROUPS))
        totals = torch.zeros(groups * SIMDGROUPS, copies.copies, apart, 32, device=traces.device)
        ends = torch.cat([source[part], receiver[part]], 1)
        for first in range(0, n, rows):
            p = slice(first, min(first + rows, n))
            kernel(
                totals,
                image[p],
                ends,
                pillars[p],
                *table_rows(tables, p),
                count,
                ns,
                p.stop - p.start,
                nt,
                n_blocks,
                int(len(tables.legs) > 1),
                tables.shift,
                tables.rim,
                int(amplitude == "true"),
                bend_rows(tables, p),
                tables.kappa,
                latest,
                middle_rows(tables, p),
                copies.dx**2,
                copies.dy**2,
                tables.legs.shape[1],
                threads=(groups * 32 * SIMDGROUPS, 1),
                group_size=(32 * SIMDGROUPS, 1),
            )
        inner = totals[:, :, front : front + ns].permute(0, 3, 1, 2)
        traces[part] += inner.reshape(-1, row)[:count]
