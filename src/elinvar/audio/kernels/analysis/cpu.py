"""``audio.analysis`` with numba: eight frames are transformed and turned while in cache."""

from __future__ import annotations

import functools
import math
from typing import Any

import numba
import numpy as np
import torch
from torch import Tensor

from elinvar.audio._spectrum import LARGEST, SMALLEST_REAL, forward_frames, plan
from elinvar.audio.kernels.analysis import check
from elinvar.runtime.parallel import parallel_for

__all__ = ["analysis"]

_FRAMES = 8
f4 = np.float32


@numba.njit(nogil=True, error_model="numpy", cache=True)
def _turn(spectra: Any, y: Any, first: int, end: int) -> None:
    """Turn ``spectra[rows, frames, 2 (bins + 1)]`` into frames from `first` to `end` of ``y[bins, frames, 2 rows]``."""
    for k in range(y.shape[0]):
        for t in range(first, end):
            for r in range(spectra.shape[0]):
                y[k, t, 2 * r] = spectra[r, t - first, 2 * k]
                y[k, t, 2 * r + 1] = spectra[r, t - first, 2 * k + 1]


@functools.lru_cache(maxsize=8)
def _window(n: int) -> Any:
    turn = 2 * np.pi * np.arange(n) / n
    return ((0.5 - 0.5 * np.cos(turn)) / math.sqrt(n)).astype(f4)


def analysis(x: Tensor, n: int) -> Tensor:
    """Arguments and results as those of the reference; sizes without a transform go there."""
    check(x, n)
    if n & (n - 1) or not SMALLEST_REAL <= n <= LARGEST:
        from elinvar.audio.kernels.analysis import reference

        return reference.analysis(x, n)
    batch, rows, time = x.shape
    hop, bins = n // 4, n // 2
    frames = (time - n) // hop + 1
    out = torch.empty(batch, bins, frames, 2 * rows, dtype=torch.float32, device="cpu")
    sound, taken, window = x.numpy(), out.numpy(), _window(n)
    blocks = -(-frames // _FRAMES)

    def some(first: int, end: int) -> None:
        tables, spectra = plan(bins), np.empty((rows, _FRAMES, 2 * (bins + 1)), f4)
        for k in range(first, end):
            i, t = k // blocks, k % blocks * _FRAMES
            last = min(frames, t + _FRAMES)
            for r in range(rows):
                forward_frames(tables, sound[i, r], t * hop, hop, window, spectra[r, : last - t])
            _turn(spectra, taken[i], t, last)

    parallel_for(batch * blocks, some, chunk=4)
    return out
