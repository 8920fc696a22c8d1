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
from elinvar.seismic.kernels.migrate import blocks, cpu_v2, simd
from elinvar.seismic.kernels.migrate.blocks import BLOCK, TOTAL
from elinvar.seismic.kernels.migrate.cpu_v2 import REACH, _cache, _inputs, _intrinsic, _jit, _Row
from elinvar.seismic.kernels.migrate.cpu_v2 import _pillar as _gathering

__all__ = ["demigrate"]

f4, c8 = np.float32, np.complex64
AT_ONCE = 32  # traces that stay in the second-level cache, as pairs, while all pillars pass


def _code(*, wide: bool) -> Any:
    return _intrinsic(5, lambda b, data, rest, *_: transposed.Transposed(b, data, rest, wide=wide).emit())


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
    def batches(traces: Any, image: Any, ends: Any, pillars: Any, tables: Any, job: Any, first: int, end: int) -> str:
        """Demigrate all pillars into batches first to end of AT_ONCE traces."""
        (ntr, ns), nt = traces.shape, image.shape[1]
        length, number = tables.samples.shape[2], tables.furthest.shape[1]
        work = np.zeros(TOTAL + 2 * length + number, f4)
        pairs = np.empty(AT_ONCE * ns + REACH, c8)
        full = nt // BLOCK
        for batch in range(first, end):
            k = batch * AT_ONCE
            depth = min(AT_ONCE, ntr - k)
            pairs[:] = 0
            for p in range(len(pillars)):
                i = min(p, len(tables.samples) - 1)
                r = _Row(tables.samples[i], tables.knots[i], tables.furthest[i], tables.fastest[i])
                _weigh((work, image[p], r.samples, length, full))
                for t in range(full * BLOCK, nt):
                    work[TOTAL + t] = r.samples[4, t] * image[p, t]
                _pillar(pillars[p], k, depth, ends, pairs, job, r, work)
            for n in range(depth):
                before = f4(0)
                for s in range(ns):
                    pair = pairs[n * ns + s]
                    traces[k + n, s] += pair.real + before
                    before = pair.imag
        return stamp

    return batches


_SOURCES = (Path(str(module.__file__)).read_bytes() for module in (simd, blocks, cpu_v2, transposed))
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
    rows, job, ends = _inputs(traces.shape[1], source, receiver, vrms, **options)
    arrays = (traces.numpy(), image.numpy(), ends, pillars.numpy(), rows, job)
    parallel_for(-(-len(traces) // AT_ONCE), lambda first, end: _batches(*arrays, first, end), chunk=1)
