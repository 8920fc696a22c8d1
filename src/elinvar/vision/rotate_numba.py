"""Loops of `elinvar.vision.rotate`. bfloat16 travels as its 16 bits: numba has no such type."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

__all__ = ["bfloat", "single"]


@njit(nogil=True, cache=True, error_model="numpy")
def single(
    source: Any, batch: int, head: int, token: int, cos: Any, sin: Any, scale: Any, target: Any, start: int, stop: int
) -> None:
    """Turn tokens [start, stop) of every batch and head, float32."""
    quarter = cos.shape[1] // 2
    for n in range(start, stop):
        for b in range(target.shape[0]):
            for h in range(target.shape[1]):
                at = b * batch + h * head + n * token
                for half in range(2):
                    i = half * quarter
                    for j in range(quarter):
                        first = source[at + 2 * i + j] * scale
                        second = source[at + 2 * i + quarter + j] * scale
                        c, s = cos[n, i + j], sin[n, i + j]
                        target[b, h, n, 2 * i + j] = first * c - second * s
                        target[b, h, n, 2 * i + quarter + j] = second * c + first * s


@njit(nogil=True, cache=True, error_model="numpy")
def bfloat(
    source: Any, batch: int, head: int, token: int, cos: Any, sin: Any, scale: Any, target: Any, start: int, stop: int
) -> None:
    """Turn tokens [start, stop) of every batch and head, bfloat16 bits in uint16, rounded to nearest even."""
    quarter = cos.shape[1] // 2
    wide = np.empty(4 * quarter, np.float32)
    bits = wide.view(np.uint32)
    turned = np.empty(4 * quarter, np.float32)
    rounded = turned.view(np.uint32)
    for n in range(start, stop):
        for b in range(target.shape[0]):
            for h in range(target.shape[1]):
                at = b * batch + h * head + n * token
                for j in range(4 * quarter):
                    bits[j] = np.uint32(source[at + j]) << np.uint32(16)
                for half in range(2):
                    i = half * quarter
                    for j in range(quarter):
                        first = wide[2 * i + j] * scale
                        second = wide[2 * i + quarter + j] * scale
                        c, s = cos[n, i + j], sin[n, i + j]
                        turned[2 * i + j] = first * c - second * s
                        turned[2 * i + quarter + j] = second * c + first * s
                for j in range(4 * quarter):
                    r = rounded[j]
                    r += np.uint32(0x7FFF) + ((r >> np.uint32(16)) & np.uint32(1))
                    target[b, h, n, j] = np.uint16(r >> np.uint32(16))
