"""Version v3 on the CPU: v2 in an order in which most of what does not contribute is never looked at.

Traces are sorted along a Morton curve of their midpoints and bounded, 64 at a time (32 with their filtered copies), by
circles; pillars likewise, in
tiles. The work is a list of tiles, each with the batches that come near it, the longest first, and threads take tiles
from that list. A batch whose circle the aperture of a pillar does not reach is left at once. Because the four traces of
a group are now neighbours, they enter and leave the aperture together, and fewer lanes work for nothing. Travel times,
weights and sums are those of v2 (`cpu_v2`, `blocks`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from elinvar.runtime.parallel import parallel_for
from elinvar.seismic.kernels.migrate import blocks, cpu_v2, lifted, simd
from elinvar.seismic.kernels.migrate import interpolation as reading
from elinvar.seismic.kernels.migrate.blocks import BLOCK, TOTAL
from elinvar.seismic.kernels.migrate.cpu_v2 import (
    FEW_TRACES,
    REACH,
    _cache,
    _deliver,
    _inputs,
    _jit,
    _padded,
    _pillar,
    _Row,
)
from elinvar.seismic.kernels.migrate.interpolation import TAPS, padded
from elinvar.seismic.kernels.migrate.v3_order import batches, gaps, morton, neighbourly

__all__ = ["migrate"]

f4 = np.float32
_TILES = 128  # at most, as far as they have PILLARS
_PILLARS = 8


class _Work(NamedTuple):
    """Tiles of pillars and the batches of traces near them."""

    order: Any  # pillars, tile by tile
    size: int  # pillars per tile
    tiles: Any  # the one with most to do first
    starts: Any  # where each tile's batches begin in `near`; one more at the end
    near: Any  # batches, ascending
    centre: Any  # of each batch
    radius: Any


def _compile(stamp: str) -> Callable[..., Any]:
    """``stamp`` is part of numba's cache key, which would otherwise miss changes in other files."""

    @_jit(cache=_cache())
    def tiles(
        image: Any, fold: Any, traces: Any, ends: Any, pillars: Any, tables: Any, job: Any, w: Any, first: int, end: int
    ) -> str:
        """Migrate the traces near them into entries first to end of the list of tiles."""
        (ntr, ns), nt = traces.shape, image.shape[1]
        length, number = tables.samples.shape[2], tables.furthest.shape[1]
        work = np.zeros(TOTAL + 2 * length + number, f4)
        counts = work.view(np.int32)
        full = nt // BLOCK
        for entry in range(first, end):
            tile = w.tiles[entry]
            for place in range(w.starts[tile], w.starts[tile + 1]):
                batch = w.near[place]
                k = batch * job.depth
                depth = min(job.depth, ntr - k)
                here = traces[k:].ravel() if (ntr - k - depth) * ns >= REACH else _padded(traces[k:])
                for q in range(tile * w.size, min((tile + 1) * w.size, len(pillars))):
                    p = w.order[q]
                    i = min(p, len(tables.samples) - 1)
                    dx, dy = pillars[p, 0] - w.centre[batch, 0], pillars[p, 1] - w.centre[batch, 1]
                    if np.sqrt(dx * dx + dy * dy) - w.radius[batch] > tables.furthest[i, number - 1]:
                        continue
                    r = _Row(tables.samples[i], tables.knots[i], tables.furthest[i], tables.fastest[i])
                    work[TOTAL:] = 0
                    level = job.levels[min(p, len(job.levels) - 1)]
                    _pillar(pillars[p], level, k, depth, ends, here, job, r, work)
                    counted = len(fold) > 0
                    row = fold[p] if counted else counts
                    _deliver((work, image[p], row, r.samples, length, full, counted))
                    for t in range(full * BLOCK, nt):
                        image[p, t] += r.samples[4, t] * work[TOTAL + t]
                        if counted:
                            row[t] += counts[TOTAL + length + t] + counts[TOTAL + 2 * length + full]
        return stamp

    return tiles


_SOURCES = (Path(str(module.__file__)).read_bytes() for module in (simd, lifted, blocks, cpu_v2, reading))
_tiles = _compile(hashlib.sha256(b"".join(_SOURCES)).hexdigest())


def _plan(middle: torch.Tensor, pillars: torch.Tensor, furthest: Any, depth: int) -> _Work:
    """List the work for batches of ``depth`` midpoints [ntr, 2] and for pillars [n, 2] of largest radius [1 or n]."""
    order = morton(pillars)
    size = max(_PILLARS, -(-len(pillars) // _TILES))
    tiles, near = batches(pillars[order], size), batches(middle, depth)
    reach = torch.from_numpy(furthest).expand(len(pillars))[order]
    wide = torch.cat([reach, reach[-1:].expand(-len(reach) % size)]).reshape(-1, size).amax(1)
    meet = gaps(tiles, near) <= wide[:, None]
    load = meet.sum(1)
    starts = torch.cat([torch.zeros(1, dtype=torch.int64), load.cumsum(0)])
    heavy = torch.argsort(load, descending=True, stable=True)
    lists = (order, starts, meet.nonzero()[:, 1].contiguous(), near.centre, near.radius)
    o, s, n, c, radius = (x.numpy() for x in lists)
    return _Work(o, size, heavy[: int((load > 0).sum())].numpy(), s, n, c, radius)


def migrate(
    image: torch.Tensor,
    fold: torch.Tensor | None,
    traces: torch.Tensor,
    source: torch.Tensor,
    receiver: torch.Tensor,
    pillars: torch.Tensor,
    vrms: torch.Tensor,
    **options: Any,
) -> None:
    """Add the migrated traces to ``image``; arguments as ``migrate.run``."""
    order = neighbourly(0.5 * (source + receiver), FEW_TRACES)
    if order is not None:
        traces, source, receiver = (x[order] for x in (traces, source, receiver))
        if options.get("mute") is not None:
            options["mute"] = options["mute"][order]
        if options.get("relief") is not None:
            options["relief"] = options["relief"]._replace(heights=options["relief"].heights[order])
    bank, taps = options.get("bank"), TAPS[options.get("interpolation", "linear")]
    copies = 1 if bank is None else bank.copies
    rows, job, ends = _inputs(traces.shape[1] // copies, source, receiver, vrms, **options)
    work = _plan(0.5 * (source + receiver), pillars, rows.furthest[:, -1], job.depth)
    count = np.zeros((0, 0), np.int32) if fold is None else fold.numpy()
    data = padded(traces.view(len(traces), copies, -1), taps).flatten(1)
    arrays = (image.numpy(), count, data.numpy(), ends, pillars.numpy(), rows, job, work)
    parallel_for(len(work.tiles), lambda first, end: _tiles(*arrays, first, end), chunk=1)
