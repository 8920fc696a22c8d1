"""Kernels of real and complex transforms of rows and of overlapping frames; lengths are powers of two."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np

from ._check import Array
from ._jit import jit
from ._lanes import LANES, merge, merge_add, pack, split, split_window, unpack
from ._passes import SMALLEST, transform, twiddles

__all__ = ["LARGEST", "SMALLEST_REAL", "complex_rows", "forward_frames", "inverse_frames", "plan"]

SMALLEST_REAL = 2 * SMALLEST
LARGEST = 131072


@lru_cache(maxsize=16)
def _tables(half: int) -> Array:
    angle = np.pi * np.arange(half) / half
    # -i/2 exp(-i angle): what turns the difference of a bin and its mirror image into the odd samples' half
    return np.concatenate([-0.5 * np.sin(angle), -0.5 * np.cos(angle), twiddles(half)]).astype(np.float32)


def plan(size: int) -> Array:
    """Tables and working memory for complex transforms of `size`: what the kernels here take as `f`."""
    table = _tables(size)
    at = -(-len(table) // LANES) * LANES
    f = np.zeros(at + 4 * size, np.float32)
    f[: len(table)] = table
    return f


@jit
def _mirrored(k: int, size: int) -> int:
    """Start of the block of 16 bins whose first is k, moved back where it would pass the middle."""
    return min(k, size // 2 - LANES + 1)


@jit
def forward_frames(f: Any, x: Any, first: int, hop: int, window: Any, y: Any) -> None:
    """Real transforms of y.shape[0] frames of `x`, from sample `first` on, into y [frames, 2 (M + 1)] (re, im, ...).

    An empty window is none. The frame length is 2 M.
    """
    size = y.shape[1] // 2 - 1
    work, flat = len(f) - 4 * size, y.reshape(-1)
    windowed = len(window) > 0
    for r in range(y.shape[0]):
        begin = first + r * hop
        if windowed:
            for j in range(0, size, LANES):
                split_window((x, window, f, begin + 2 * j, 2 * j, work + j, work + size + j))
        else:
            for j in range(0, size, LANES):
                split((x, f, begin + 2 * j, work + j, work + size + j))
        z = transform(f, work, work + size, work + 2 * size, work, 2 * size, size)
        to = r * y.shape[1]
        flat[to], flat[to + 1] = f[z] + f[z + size], 0.0
        flat[to + 2 * size], flat[to + 2 * size + 1] = f[z] - f[z + size], 0.0
        for k in range(1, size // 2 + 1, LANES):
            at = _mirrored(k, size)
            unpack((f, flat, z, z + size, at, size - at - LANES + 1, 0, size, to))


@jit
def inverse_frames(f: Any, x: Any, window: Any, y: Any, first: int, hop: int) -> None:
    """Add the inverse transforms of x [frames, 2 (M + 1)], times the window, to `y` from sample `first` on.

    The result is 2 M times too large: the window makes up for that.
    """
    size = x.shape[1] // 2 - 1
    work, flat = len(f) - 4 * size, x.reshape(-1)
    for r in range(x.shape[0]):
        source = r * x.shape[1]
        low, high = flat[source], flat[source + 2 * size]
        for k in range(1, size // 2 + 1, LANES):
            at = _mirrored(k, size)
            pack((flat, f, source, at, size - at - LANES + 1, 0, size, work, work + size))
        f[work], f[work + size] = low + high, low - high
        # real and imaginary parts exchanged: the inverse
        z = transform(f, work + size, work, work + 2 * size, work, 2 * size, size)
        to = first + r * hop
        for j in range(0, size, LANES):
            merge_add((f, window, y, z + size + j, z + j, 2 * j, to + 2 * j))


@jit
def complex_rows(f: Any, x: Any, y: Any, size: int, inverse: bool) -> None:
    """Transforms of x [rows, 2 size] (re, im, ...) into y; the inverse without its factor 1 / size."""
    work, source, sink = len(f) - 4 * size, x.reshape(-1), y.reshape(-1)
    re, im = (work + size, work) if inverse else (work, work + size)
    for r in range(x.shape[0]):
        row = 2 * size * r
        for j in range(0, size, LANES):
            split((source, f, row + 2 * j, re + j, im + j))
        z = transform(f, work, work + size, work + 2 * size, work, 2 * size, size)
        zr, zi = (z + size, z) if inverse else (z, z + size)
        for j in range(0, size, LANES):
            merge((f, sink, zr + j, zi + j, row + 2 * j))
