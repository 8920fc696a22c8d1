"""Launches of ``v1.metal``: on Apple GPUs, on NVIDIA GPUs and, for verification, on the emulator."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from elinvar import metal
from elinvar.seismic.kernels.migrate.aperture import RadiusAperture
from elinvar.seismic.kernels.migrate.metal import _bends, _rows
from elinvar.seismic.kernels.migrate.physics import PHYSICS, stretched
from elinvar.seismic.kernels.migrate.tables import prepare

__all__ = ["SIMDGROUPS", "demigrate"]

_HERE = Path(__file__).parent
_INDEXABLE = 1 << 30  # elements that the kernel's 32-bit indices reach in one launch
_BLOCK = 32
SIMDGROUPS = 4


@lru_cache(maxsize=8)
def _library(device: Any, physics: int) -> Any:
    return metal.compile(_HERE / "v1.metal", device, defines={"SIMDGROUPS": SIMDGROUPS, "PHYSICS": physics})


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
    device: Any,
    **axes: float,
) -> None:
    """Run v1.metal; arguments as ``demigrate.run``."""
    options: dict[str, Any] = {"amplitude": amplitude, "aperture": aperture, "area": area, **axes}
    tables = prepare(vrms, **options, block=_BLOCK, nodes=(0,), medium=medium, eta=eta)
    kernel = _library(device, PHYSICS.index(physics)).demigrate_v1
    (ntr, ns), (n, nt), n_blocks = traces.shape, image.shape, tables.blocks.shape[1]
    latest = stretched(max(ns - 1 + tables.shift, 0.0) + 0.1, tables.kappa)
    bundles = max(1, _INDEXABLE // (32 * ns))
    rows = max(1, _INDEXABLE // (n_blocks * _BLOCK))
    for k in range(0, ntr, 32 * bundles):
        part = slice(k, min(k + 32 * bundles, ntr))
        count = part.stop - part.start
        groups = -(-count // (32 * SIMDGROUPS))
        totals = torch.zeros(groups * SIMDGROUPS, ns, 32, device=traces.device)
        ends = torch.cat([source[part], receiver[part]], 1)
        for first in range(0, n, rows):
            p = slice(first, min(first + rows, n))
            kernel(
                totals,
                image[p],
                ends,
                pillars[p],
                *_rows(tables, p),
                count,
                ns,
                p.stop - p.start,
                nt,
                n_blocks,
                int(len(tables.legs) > 1),
                tables.shift,
                tables.rim,
                int(amplitude == "true"),
                _bends(tables, p),
                tables.kappa,
                latest,
                threads=(groups * 32 * SIMDGROUPS, 1),
                group_size=(32 * SIMDGROUPS, 1),
            )
        traces[part] += totals.transpose(1, 2).reshape(-1, ns)[:count]
