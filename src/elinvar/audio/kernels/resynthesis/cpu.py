"""``audio.resynthesis`` with numba: eight frames of a few rows are turned, transformed and added while in cache."""

from __future__ import annotations

import functools
import math
from typing import Any

import numba
import numpy as np
import torch
from torch import Tensor

from elinvar.audio._spectrum import LARGEST, SMALLEST_REAL, inverse_frames, plan
from elinvar.audio.kernels.gate.cpu import _widen
from elinvar.audio.kernels.resynthesis import check
from elinvar.runtime.parallel import cpu_threads, parallel_for

__all__ = ["resynthesis"]

_FRAMES = 8  # turned at once: in 16 bits with eight rows, eight of them are four cache lines
f4 = np.float32


@numba.njit(nogil=True, error_model="numpy", cache=True, fastmath={"contract"})
def _turn(y: Any, spectra: Any, gain: float, shift: float, first: int, end: int, row: int) -> None:
    """Turn frames ``first`` to ``end`` of ``y[bins, frames, 2 * rows]`` into ``spectra[rows, frames, 2 (bins + 1)]``.

    Rows from `row` on, as many as `spectra` has.
    """
    bins = y.shape[0]
    scale, offset = f4(gain), f4(shift)
    for a in range(0, bins, 32):
        b = min(bins, a + 32)
        for r in range(spectra.shape[0]):
            c = 2 * (row + r)
            for t in range(first, end):
                for k in range(a, b):
                    spectra[r, t - first, 2 * k] = _widen(y[k, t, c]) * scale + offset
                    spectra[r, t - first, 2 * k + 1] = _widen(y[k, t, c + 1]) * scale + offset
    for r in range(spectra.shape[0]):
        for t in range(end - first):
            spectra[r, t, 1] = f4(0)
            spectra[r, t, 2 * bins] = f4(0)
            spectra[r, t, 2 * bins + 1] = f4(0)


@functools.lru_cache(maxsize=8)
def _window(n: int) -> Any:
    """Hann, with the factor of the overlap and that of the transform."""
    turn = 2 * np.pi * np.arange(n) / n
    return ((0.5 - 0.5 * np.cos(turn)) / (1.5 * math.sqrt(n))).astype(f4)


def resynthesis(y: Tensor, gain: Tensor, shift: Tensor) -> Tensor:
    """Arguments and results as those of the reference; float16 and sizes without a transform go there."""
    check(y, gain, shift)
    batch, bins, frames, width = y.shape
    n, rows = 2 * bins, width // 2
    if y.dtype == torch.float16 or n & (n - 1) or not SMALLEST_REAL <= n <= LARGEST:
        from elinvar.audio.kernels.resynthesis import reference

        return reference.resynthesis(y, gain, shift)
    out = torch.zeros(batch, rows, (frames + 3) * bins // 2, dtype=torch.float32, device="cpu")
    given = (y.view(torch.int16) if y.dtype == torch.bfloat16 else y).numpy()
    taken, window = out.numpy(), _window(n)
    for i in range(batch):
        source, target, g, s = given[i], taken[i], float(gain[i]), float(shift[i])

        def some(first: int, end: int, source: Any = source, target: Any = target, g: float = g, s: float = s) -> None:
            spectra = np.empty((end - first, min(frames, _FRAMES), 2 * (bins + 1)), f4)
            tables = plan(bins)
            for t in range(0, frames, _FRAMES):
                last = min(frames, t + _FRAMES)
                _turn(source, spectra, g, s, t, last, first)
                for r in range(first, end):
                    inverse_frames(tables, spectra[r - first, : last - t], window, target[r], t * bins // 2, bins // 2)

        parallel_for(rows, some, chunk=max(1, rows // cpu_threads()))
    return out
