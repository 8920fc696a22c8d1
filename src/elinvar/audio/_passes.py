"""Passes of a complex transform whose length is a power of two from 64: Stockham's, radix 4, in split arrays.

Everything is an offset into one float32 array `f`: real parts at `x`, imaginary parts at `xi`. Pass i has stride 4^i;
a last pass of radix 2 stands where log2 of the length is odd. The order comes out natural without a permutation
(Stockham 1966; Van Loan 1992, "Computational Frameworks for the Fast Fourier Transform", 1.7). The inverse is the same
with real and imaginary parts exchanged.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ._jit import jit
from ._lanes import LANES, butterfly, butterfly_1, butterfly_4, butterfly_plain, sum_difference

__all__ = ["SMALLEST", "passes", "run_pass", "transform", "twiddles"]

SMALLEST = 64


def passes(size: int) -> int:
    """How many passes a transform of `size` has."""
    return -(-(size.bit_length() - 1) // 2)


def twiddles(size: int) -> NDArray[np.float32]:
    """Factors of all passes, in the order `run_pass` reads them: cos and sin of w, w^2, w^3 for each pass."""
    found, length, stride = [], size, 1
    while length >= 4:
        angle = -2.0 * np.pi * np.arange(length // 4) / length
        if stride == 4:
            angle = np.repeat(angle, 4)
        for power in (1, 2, 3):
            found += [np.cos(power * angle), np.sin(power * angle)]
        length, stride = length // 4, 4 * stride
    return np.concatenate(found).astype(np.float32)


@jit
def run_pass(f: Any, x: int, xi: int, y: int, yi: int, w: int, size: int, stride: int, j0: int, j1: int) -> None:
    """Butterflies j0 to j1 of size / 4 of the pass of one stride; `w` is where the twiddles of all passes begin."""
    leg = size // 4
    if stride == 1:
        for j in range(j0, j1, LANES):
            butterfly_1((f, x + j, xi + j, leg, y + 4 * j, yi + 4 * j, w + j))
        return
    w += 6 * leg
    if stride == 4:
        for j in range(j0, j1, LANES):
            butterfly_4((f, x + j, xi + j, leg, y + 4 * j, yi + 4 * j, w + j))
        return
    if stride == leg:
        for j in range(j0, j1, LANES):
            butterfly_plain((f, x + j, xi + j, leg, y + j, yi + j, stride, w, 1))
        return
    if stride > leg:
        for j in range(2 * j0, 2 * j1, LANES):
            sum_difference((f, x + j, y + j, 2 * leg))
            sum_difference((f, xi + j, yi + j, 2 * leg))
        return
    w += 6 * leg
    earlier = 16
    while earlier < stride:
        w += 6 * (leg // earlier)
        earlier *= 4
    groups = leg // stride
    j = j0
    while j < j1:
        p = j // stride
        out, end = 3 * stride * p, min(j1, (p + 1) * stride)
        while j < end:
            butterfly((f, x + j, xi + j, leg, y + out + j, yi + out + j, stride, w + p, groups))
            j += LANES


@jit
def transform(f: Any, x: int, xi: int, a: int, b: int, w: int, size: int) -> int:
    """Transform x into `a` or `b`, each of 2 * size, whichever the last pass writes; return which."""
    y, stride = a, 1
    while stride < size:
        run_pass(f, x, xi, y, y + size, w, size, stride, 0, size // 4)
        x, xi = y, y + size
        y = b if y == a else a
        stride *= 4
    return x
