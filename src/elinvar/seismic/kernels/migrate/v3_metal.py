"""Launches of ``v3.metal``: the order of traces and pillars, which come near which, and the list of work."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from elinvar.seismic.kernels.migrate.antialias import Bank
from elinvar.seismic.kernels.migrate.aperture import RadiusAperture
from elinvar.seismic.kernels.migrate.kept import kept_tables
from elinvar.seismic.kernels.migrate.launching import bend_rows, library, table_rows, tiles
from elinvar.seismic.kernels.migrate.metal import Tuning, hard_edged, tuned_for
from elinvar.seismic.kernels.migrate.physics import stretched
from elinvar.seismic.kernels.migrate.tables import BOUNDLESS, Tables, chebyshev_nodes
from elinvar.seismic.kernels.migrate.v3_order import arranged, batches, gaps, tiles_of

__all__ = ["migrate"]

_BATCH = 32  # traces
_GAPS = 1 << 24  # tiles times batches that one launch keeps
# What float32 may make of a limit: it is widened by this, relatively and in metres, never too small.
_SLACK, _ROOM = 1e-4, 0.1


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
    device: Any,
    tuning: Tuning | None = None,
    **axes: float,
) -> None:
    """Run v3.metal; arguments as ``migrate.run``, and ``tuning`` as for v2."""
    tuning = tuning or tuned_for("v3", device)
    options: dict[str, Any] = {"amplitude": amplitude, "aperture": aperture, "area": area, **axes}
    copies = bank or Bank(1, 0.0, 0.0)
    ns, nt = traces.shape[1] // copies.copies, image.shape[1]
    width, block = 32 * tuning.simdgroups, 32 * tuning.samples
    given: dict[str, Any] = {"block": block, "nodes": chebyshev_nodes(block), "medium": medium, "eta": eta}
    tables, limits, blocks = kept_tables(vrms, _Reach(ns, block), **options, **given)
    words = tuning.defines(amplitude, physics, interpolation, bank, hard=tables.left is not None)
    kernel = library("v3.metal", device, words | tuning.spread(traces, interpolation, bank)).migrate_v3
    horizon = stretched(max(ns - 1 + tables.shift, 0.0) + 0.1, tables.kappa)
    n_blocks = tables.blocks.shape[1]
    counted = torch.zeros(1, dtype=torch.int32, device=image.device) if fold is None else fold
    order, bounded = arranged(0.5 * (source + receiver), _BATCH)
    if order is not None:
        traces, source, receiver = (x[order] for x in (traces, source, receiver))
    # Rows of gaps and of the tables have to fit: pillars are cut for the larger of the two.
    padded = max(n_blocks * block, -(-len(traces) // _BATCH) * (1 << 30) // (tuning.simdgroups * _GAPS))
    for p, k in tiles(image, traces, padded, copies.copies):
        n, tiling = p.stop - p.start, tiles_of(pillars[p], tuning.simdgroups)
        if k.stop - k.start < len(traces):
            bounded = batches(0.5 * (source[k] + receiver[k]), _BATCH)
        near = gaps(tiling.circles, bounded)
        own = limits[p] if len(limits) > 1 else limits
        read, units = tuning.rows(traces[k], interpolation, bank, device)
        kernel(
            read,
            torch.cat([source[k], receiver[k]], 1),
            pillars[p],
            *table_rows(tables, p),
            tables.centres,
            image[p],
            counted if fold is None else counted[p],
            n,
            k.stop - k.start,
            ns,
            nt,
            n_blocks,
            int(len(tables.legs) > 1),
            tables.shift,
            tables.rim,
            tables.stretch,
            tuning.tolerance,
            int(fold is not None),
            bend_rows(tables, p),
            tables.kappa,
            horizon,
            copies.dx**2,
            copies.dy**2,
            tiling.order,
            _items(len(near), blocks),
            near,
            own,
            near.shape[1],
            units,
            threads=len(near) * n_blocks * width,
            group_size=width,
        )


@dataclass(frozen=True)
class _Reach:
    """Makes of tables what is kept of them for traces of ``ns`` samples."""

    ns: int
    block: int

    def __call__(self, tables: Tables) -> tuple[Tables, torch.Tensor, torch.Tensor]:
        """Return the tables, how far blocks reach, and the blocks, furthest reach first."""
        made = hard_edged(tables)
        limits = _limits(made, self.ns, self.block)
        return made, limits, torch.argsort(limits.amax(0), descending=True, stable=True).int()


def _limits(tables: Tables, ns: int, block: int) -> torch.Tensor:
    """Return [rows, blocks]: a trace whose midpoint is further away contributes to no sample of the block, metres."""
    first = tables.legs[:, ::block, 0] if tables.bends is None or not tables.kappa else tables.bends[:, ::block, 0]
    latest = stretched(max(ns - 1 + tables.shift, 0.0) + 0.1, tables.kappa)
    left = (latest - 2 * first) * (latest + 2 * first)
    record = 0.5 * torch.sqrt(left.clamp(min=0) / tables.blocks[..., 3])
    limit = torch.minimum(tables.blocks[..., 0], record) * (1 + _SLACK) + _ROOM
    return torch.where(left < 0, -BOUNDLESS, limit.clamp(max=BOUNDLESS)).contiguous()


def _items(tiles: int, blocks: torch.Tensor) -> torch.Tensor:
    """Return every pair of tile and block as one number, blocks in their order.

    Tiles stay in theirs, so that threadgroups which run together read the same stretch of the same traces.
    """
    first = len(blocks) * torch.arange(tiles, dtype=torch.int32, device=blocks.device)
    return (first + blocks[:, None]).flatten()
