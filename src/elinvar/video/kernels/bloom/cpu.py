"""Bloom on the CPU: rows of planes, every inner loop along x without branches, so that it fills vector registers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import numba
import numpy as np
import torch

from elinvar.runtime.parallel import parallel_for

__all__ = ["spread"]

_jit = cast(
    "Callable[[Callable[..., None]], Callable[..., None]]",
    numba.njit(nogil=True, error_model="numpy", fastmath={"contract"}, cache=True),
)
_CHUNK = 16  # rows of a level a thread takes at a time


def spread(
    frame: torch.Tensor,
    pyramid: list[torch.Tensor],
    weights: list[float],
    *,
    threshold: float,
    knee: float,
    ceiling: float,
) -> None:
    """Fill the pyramid; its first level is the result."""
    source = frame.float().contiguous().numpy()
    levels = [level.numpy() for level in pyramid]
    values = (np.float32(threshold), np.float32(knee), np.float32(ceiling))
    for k, level in enumerate(levels):
        _each_row(level, _down_rows, source, level, k == 0, *values)
        source = level
    levels[-1] *= np.float32(weights[-1])
    for k in range(len(levels) - 2, -1, -1):
        _each_row(levels[k], _up_rows, levels[k + 1], levels[k], np.float32(weights[k]))


def _each_row(level: Any, rows: Callable[..., None], *rest: Any) -> None:
    parallel_for(level.shape[1], lambda first, last: rows(first, last, *rest), chunk=_CHUNK)


@_jit
def _light_row(r: Any, g: Any, b: Any, threshold: Any, knee: Any, ceiling: Any, lr: Any, lg: Any, lb: Any) -> None:
    """Prefilter one row."""
    zero, small = np.float32(0), np.float32(1e-4)
    two_knees = knee + knee
    scale = np.float32(1) / (two_knees + two_knees + small)
    for i in range(len(r)):
        cr = max(zero, r[i])
        cg = max(zero, g[i])
        cb = max(zero, b[i])
        cr = min(ceiling, cr)
        cg = min(ceiling, cg)
        cb = min(ceiling, cb)
        top = max(max(cr, cg), cb)  # noqa: PLW3301  (vectorises)
        s = top - threshold + knee
        s = max(zero, s)
        s = min(two_knees, s)
        s = s * s * scale
        above = top - threshold
        s = max(above, s)
        s = s / (max(small, top))
        lr[i] = cr * s
        lg[i] = cg * s
        lb[i] = cb * s


@_jit
def _tall(a: Any, b: Any, c: Any, d: Any, e: Any, f: Any, wide: Any, near: Any) -> None:
    """The two vertical filters of one output row, with two columns of repeated edge on either side."""
    half = np.float32(0.5)
    n = len(a)
    for i in range(n):
        outer = b[i] + e[i]
        inner = c[i] + d[i]
        wide[i + 2] = half * (a[i] + f[i] + outer) + inner
        near[i + 2] = half * (outer + inner)
    for edge in (wide, near):
        edge[0] = edge[1] = edge[2]
        edge[n + 2] = edge[n + 3] = edge[n + 4] = edge[n + 1]


@_jit
def _across(wide: Any, near: Any, out: Any) -> None:
    """The two horizontal filters, halving."""
    long, short, double = np.float32(1 / 64), np.float32(1 / 16), np.float32(2)
    for i in range(len(out)):
        first = wide[2 * i] + wide[2 * i + 1]
        middle = wide[2 * i + 2] + wide[2 * i + 3]
        last = wide[2 * i + 4] + wide[2 * i + 5]
        box = near[2 * i + 1] + near[2 * i + 2] + near[2 * i + 3] + near[2 * i + 4]
        out[i] = long * (first + last + double * middle) + short * box


@_jit
def _down_rows(
    first: int, last: int, source: Any, out: Any, bright: bool, threshold: Any, knee: Any, ceiling: Any
) -> None:
    height, width = source.shape[1], source.shape[2]
    wide, near = np.empty(width + 5, np.float32), np.empty(width + 5, np.float32)
    ring = np.empty((3, 8, width), np.float32)
    ready = max(2 * first - 2, 0)  # rows before this one are in the ring, or not needed
    for y in range(first, last):
        if bright:
            end = min(2 * y + 3, height - 1)
            for row in range(ready, end + 1):
                at = row & 7
                _light_row(
                    source[0, row], source[1, row], source[2, row], threshold, knee, ceiling,
                    ring[0, at], ring[1, at], ring[2, at],
                )  # fmt: skip
            ready = end + 1
        a, b = max(2 * y - 2, 0), max(2 * y - 1, 0)
        c, d = 2 * y, min(2 * y + 1, height - 1)
        e, f = min(2 * y + 2, height - 1), min(2 * y + 3, height - 1)
        for k in range(3):
            if bright:
                p = ring[k]
                _tall(p[a & 7], p[b & 7], p[c & 7], p[d & 7], p[e & 7], p[f & 7], wide, near)
            else:
                q = source[k]
                _tall(q[a], q[b], q[c], q[d], q[e], q[f], wide, near)
            _across(wide, near, out[k, y])


@_jit
def _up_rows(first: int, last: int, small: Any, large: Any, weight: Any) -> None:
    rows, columns = small.shape[1], small.shape[2]
    width = large.shape[2]
    w0, w1, w2, w3 = np.float32(0.1875), np.float32(0.4375), np.float32(0.3125), np.float32(0.0625)
    line, grown = np.empty(columns + 5, np.float32), np.empty(2 * columns, np.float32)
    for y in range(first, last):
        i, step = y >> 1, 1 if y & 1 else -1
        a, b = min(max(i - step, 0), rows - 1), min(i, rows - 1)
        c, d = min(max(i + step, 0), rows - 1), min(max(i + 2 * step, 0), rows - 1)
        for k in range(3):
            p, q, r, s = small[k, a], small[k, b], small[k, c], small[k, d]
            for x in range(columns):
                line[x + 2] = w0 * p[x] + w1 * q[x] + w2 * r[x] + w3 * s[x]
            line[0] = line[1] = line[2]
            line[columns + 2] = line[columns + 3] = line[columns + 1]
            for x in range(columns):
                grown[2 * x] = w0 * line[x + 3] + w1 * line[x + 2] + w2 * line[x + 1] + w3 * line[x]
                grown[2 * x + 1] = w0 * line[x + 1] + w1 * line[x + 2] + w2 * line[x + 3] + w3 * line[x + 4]
            out = large[k, y]
            for x in range(width):
                out[x] = weight * out[x] + grown[x]
