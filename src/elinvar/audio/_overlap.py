"""Kernels of offline convolution: overlap-save in uniform blocks with the right-angle transform, or a direct filter."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ._check import Array
from ._jit import jit
from ._ladder import LARGEST, measured_costs
from ._lanes import LANES, multiply_add, twist, untwist
from ._passes import SMALLEST, transform, twiddles

__all__ = ["block_size", "direct", "path_table", "spectra", "tables", "through", "workspace"]

_RANGE = 2048  # bins whose sum stays in the first-level cache while all partitions are added


def block_size(length: int, response: int, blocks_of_one: bool = False) -> int:
    """Block that takes least time for a signal of `length` and a response of so many taps, by measured costs."""
    costs = measured_costs()
    total = length + response - 1

    def seconds(size: int) -> float:
        parts, blocks = -(-response // size), -(-total // size)
        transforms = 2 * blocks + (0 if blocks_of_one else parts)
        return transforms * costs.transform[size] + blocks * parts * size * costs.product_far

    sizes = [2**p for p in range(SMALLEST.bit_length() - 1, LARGEST.bit_length())]
    best: int = min(sizes, key=seconds)
    return best


@lru_cache(maxsize=8)
def tables(size: int) -> Array:
    """Twist and twiddles of one block size."""
    angle = 0.5 * np.pi * np.arange(size) / size
    found = np.concatenate([np.cos(angle), np.sin(angle), twiddles(size)]).astype(np.float32)
    found.setflags(write=False)
    return found


def workspace(size: int, inputs: int, parts: int) -> tuple[Array, int]:
    """Working memory of `spectra` and `through`, tables first, and where the rest begins."""
    table = tables(size)
    at = -(-len(table) // LANES) * LANES
    f = np.zeros(at + size * (4 + 2 + 2 * inputs * (parts + 1)) + size, np.float32)
    f[: len(table)] = table
    return f, at


@jit
def _forward(f: Any, at: int, old: int, new: int, size: int) -> int:
    """Spectrum of 2 size real samples; return where it is, in the first 4 size of the work space."""
    for j in range(0, size, LANES):
        twist((f, old + j, new + j, j, size + j, at + j, at + size + j))
    return int(transform(f, at, at + size, at + 2 * size, at, 2 * size, size))


@jit
def spectra(f: Any, at: int, response: Any, h: Any, size: int) -> None:
    """Spectra of a response's partitions, into h [partitions, 2 size]; scaled for an inverse without a factor."""
    line = at + 4 * size
    f[line + size : line + 2 * size] = 0.0
    scale = np.float32(1.0 / size)
    for p in range(h.shape[0]):
        n = min(size, len(response) - p * size)
        f[line : line + size] = 0.0
        for q in range(n):
            f[line + q] = response[p * size + q] * scale
        found = _forward(f, at, line, line + size, size)
        h[p, :] = f[found : found + 2 * size]


@jit
def _sum(f: Any, h: Any, acc: int, lines: int, newest: int, paths: Any, o: int, parts: int, size: int) -> None:
    """Products of all partitions of all paths into output o; real and imaginary parts of `acc` exchanged."""
    inputs = 0
    for i in range(paths.shape[0]):
        inputs = max(inputs, paths[i, 0] + 1)
    span = min(size, _RANGE)
    for begin in range(0, size, span):
        f[acc + begin : acc + begin + span] = 0.0
        f[acc + size + begin : acc + size + begin + span] = 0.0
        for i in range(paths.shape[0]):
            if paths[i, 1] != o:
                continue
            for p in range(parts):
                row = newest - p
                row += parts if row < 0 else 0
                x = lines + 2 * size * (row * inputs + paths[i, 0])
                k = 2 * size * (paths[i, 2] * parts + p)
                for j in range(begin, begin + span, LANES):
                    multiply_add((f, h, acc + size + j, acc + j, x + j, x + size + j, k + j, k + size + j))


@jit
def through(f: Any, at: int, x: Any, y: Any, h: Any, paths: Any, parts: int, size: int) -> None:
    """Convolve x [inputs, n] into y [outputs, any length], which is all written; h [shapes * partitions * 2 size]."""
    inputs, n = x.shape
    history = at + 4 * size  # [inputs, 2 size]
    lines = history + 2 * size * inputs  # [partitions, inputs, 2 size]
    acc = lines + 2 * size * inputs * parts
    f[history:acc] = 0.0
    newest, total = 0, y.shape[1]
    for block in range((total + size - 1) // size):
        begin = block * size
        got = max(0, min(size, n - begin))
        newest = (newest + 1) % parts
        for c in range(inputs):
            old = history + 2 * size * c
            f[old : old + size] = f[old + size : old + 2 * size]
            for q in range(got):
                f[old + size + q] = x[c, begin + q]
            f[old + size + got : old + 2 * size] = 0.0
            found = _forward(f, at, old, old + size, size)
            to = lines + 2 * size * (newest * inputs + c)
            f[to : to + 2 * size] = f[found : found + 2 * size]
        count = min(size, total - begin)
        for o in range(y.shape[0]):
            _sum(f, h, acc, lines, newest, paths, o, parts, size)
            found = transform(f, acc, acc + size, at, at + 2 * size, 2 * size, size)
            out = at if found != at else at + 2 * size
            for j in range(0, size, LANES):
                untwist((f, found + size + j, found + j, j, size + j, out + j))
            for q in range(count):
                y[o, begin + q] = f[out + q]


@jit
def direct(x: Any, h: Any, y: Any) -> None:
    """Direct filter of a row: y has len(x) + len(h) - 1 samples."""
    y[:] = 0.0
    for k in range(len(h)):
        tap, to = h[k], y[k : k + len(x)]
        for q in range(len(x)):
            to[q] += tap * x[q]


def path_table(paths: list[tuple[int, int, int]]) -> NDArray[np.int64]:
    """Paths (input, output, response) as an array."""
    return np.asarray(paths, np.int64).reshape(-1, 3)
