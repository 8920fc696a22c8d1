"""The adjoint on the CPU: the loops and the vector code of ``seismic.migrate`` v2, scattering into traces.

Threads divide the traces among themselves, so no two ever write to one; each trace takes the pillars in their order,
whatever the number of threads. `transposed` has what is different.
"""

from __future__ import annotations

import hashlib
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch

from elinvar.runtime.parallel import parallel_for
from elinvar.seismic.kernels.demigrate import transposed
from elinvar.seismic.kernels.migrate import blocks, cpu_v2, lifted, simd
from elinvar.seismic.kernels.migrate import interpolation as reading
from elinvar.seismic.kernels.migrate.blocks import BLOCK, TOTAL
from elinvar.seismic.kernels.migrate.cpu_v2 import REACH, _cache, _inputs, _intrinsic, _jit, _Row
from elinvar.seismic.kernels.migrate.cpu_v2 import _pillar as _gathering
from elinvar.seismic.kernels.migrate.interpolation import TAPS

__all__ = ["demigrate"]

f4 = np.float32
CELLS = 1 << 18  # floats that traces may take to stay in the second-level cache while all pillars pass
AT_ONCE = 32  # traces at most


def _code(*, wide: bool) -> Any:
    def emit(builder: Any, data: list[Any], rest: list[Any], taps: int, copies: int, bounded: int) -> None:
        transposed.Transposed(builder, data, rest, taps=taps, copies=copies, bounded=bounded, wide=wide).emit()

    return _intrinsic(5, emit)


def _transposed() -> Any:
    """The loops of v2 over the traces of a pillar, with other code in the innermost place."""
    loops: types.FunctionType = cast("Any", _gathering).py_func
    names = {**loops.__globals__, "_group": _code(wide=False), "_group_wide": _code(wide=True)}
    return _jit()(types.FunctionType(loops.__code__, names, "_pillar"))


_pillar = _transposed()
_weigh = _intrinsic(3, lambda b, data, rest: transposed.weigh(b, data, *rest))


def _compile(stamp: str) -> Callable[..., Any]:
    """``stamp`` is part of numba's cache key, which would otherwise miss changes in other files."""

    @_jit(cache=_cache())
    def batches(
        traces: Any, image: Any, ends: Any, pillars: Any, tables: Any, job: Any, many: int, first: int, end: int
    ) -> str:
        """Demigrate all pillars into batches first to end of ``many`` traces."""
        ntr, nt, taps = len(traces), image.shape[1], len(job.taps)
        length, number = tables.samples.shape[2], tables.furthest.shape[1]
        work = np.zeros(TOTAL + 2 * length + number, f4)
        cells = np.empty((many * job.stride + REACH) * taps, f4)
        full, front = nt // BLOCK, taps // 2 - 1
        copies = job.stride // job.apart
        ns = traces.shape[1] // copies
        for batch in range(first, end):
            k = batch * many
            depth = min(many, ntr - k)
            cells[:] = 0
            for p in range(len(pillars)):
                i = min(p, len(tables.samples) - 1)
                r = _Row(tables.samples[i], tables.knots[i], tables.furthest[i], tables.fastest[i])
                _weigh((work, image[p], r.samples, length, full))
                for t in range(full * BLOCK, nt):
                    work[TOTAL + t] = r.samples[4, t] * image[p, t]
                _pillar(pillars[p], job.levels[min(p, len(job.levels) - 1)], k, depth, ends, cells, job, r, work)
            for n in range(depth):
                for copy in range(copies):
                    begin = n * job.stride + copy * job.apart
                    for s in range(ns):
                        total = f4(0)
                        for tap in range(max(0, s + front - job.apart + 1), min(taps, s + front + 1)):
                            total += cells[(begin + s + front - tap) * taps + tap]
                        traces[k + n, copy * ns + s] += total
        return stamp

    return batches


_SOURCES = (Path(str(module.__file__)).read_bytes() for module in (simd, lifted, blocks, cpu_v2, reading, transposed))
_batches = _compile(hashlib.sha256(b"".join(_SOURCES)).hexdigest())


def demigrate(
    traces: torch.Tensor,
    image: torch.Tensor,
    source: torch.Tensor,
    receiver: torch.Tensor,
    pillars: torch.Tensor,
    vrms: torch.Tensor,
    **options: Any,
) -> None:
    """Add the demigrated image to ``traces``; arguments as ``demigrate.run``."""
    bank, interpolation = options.get("bank"), options.get("interpolation", "linear")
    copies = 1 if bank is None else bank.copies
    rows, job, ends = _inputs(traces.shape[1] // copies, source, receiver, vrms, **options)
    # Groups of four traces: as many of them as the cache has room for.
    many = min(AT_ONCE, max(1, CELLS // (4 * TAPS[interpolation] * job.stride)) * 4)
    arrays = (traces.numpy(), image.numpy(), ends, pillars.numpy(), rows, job, many)
    parallel_for(-(-len(traces) // many), lambda first, end: _batches(*arrays, first, end), chunk=1)
