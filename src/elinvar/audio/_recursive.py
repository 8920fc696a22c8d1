"""Kernel of second-order sections in series: float32 samples, float64 coefficients and state.

Direct form I, so that what a sample waits for is as short as can be: the part without recursion is done first, for
the whole block; then y[n] = (v[n] - a2 y[n-2]) - a1 y[n-1] is one multiply-add behind y[n-1]. Two channels run side by
side. With float64 the form does not matter for accuracy.
"""

from __future__ import annotations

from typing import Any

from ._jit import BLOCK_ENTRY, carray, entry, jit
from ._lanes import double_pointer, int_pointer

__all__ = ["TABLE", "process", "process_entry"]

SECTIONS, CHANNELS, ACTIVE, BAD = range(4)  # m
BUFFER = 256  # samples of two channels kept in float64 between sections
SILENT = 1e-30  # state below this is zero: a decaying filter must not reach denormal numbers
PAST = 2 * BUFFER
TABLE = PAST + BUFFER + 8
# d: [2 x BUFFER] samples, [BUFFER + 8] scratch, [2][sections][5] coefficients b0 b1 b2 a1 a2, then state
# [sections][channels][x[n-1], x[n-2], y[n-1], y[n-2]]


@jit
def _ahead(d: Any, row: int, k: int, s: int, n: int) -> None:
    """Replace the samples of a row by b0 x[n] + b1 x[n-1] + b2 x[n-2]: no recursion, so the compiler vectorises it."""
    b0, b1, b2 = d[k], d[k + 1], d[k + 2]
    keep, x = d[PAST : PAST + BUFFER + 2], d[row : row + n]
    keep[0], keep[1] = d[s + 1], d[s]
    for i in range(n):
        keep[i + 2] = x[i]
    for i in range(n):
        x[i] = (b0 * keep[i + 2] + b1 * keep[i + 1]) + b2 * keep[i]
    d[s], d[s + 1] = keep[n + 1], keep[n]


@jit
def _two(d: Any, k: int, s: int, n: int) -> None:
    """One section over n samples of both channels in the buffer; coefficients at k, states at s."""
    _ahead(d, 0, k, s, n)
    _ahead(d, BUFFER, k, s + 4, n)
    a1, a2 = d[k + 3], d[k + 4]
    u, v = d[0:n], d[BUFFER : BUFFER + n]
    y1, y2, z1, z2 = d[s + 2], d[s + 3], d[s + 6], d[s + 7]
    for i in range(n):
        y = (u[i] - a2 * y2) - a1 * y1
        z = (v[i] - a2 * z2) - a1 * z1
        y2, z2, y1, z1 = y1, z1, y, z
        u[i], v[i] = y, z
    d[s + 2], d[s + 3], d[s + 6], d[s + 7] = _kept(y1), _kept(y2), _kept(z1), _kept(z2)


@jit
def _one(d: Any, k: int, s: int, n: int) -> None:
    """The same for one channel."""
    _ahead(d, 0, k, s, n)
    a1, a2 = d[k + 3], d[k + 4]
    u = d[0:n]
    y1, y2 = d[s + 2], d[s + 3]
    for i in range(n):
        y = (u[i] - a2 * y2) - a1 * y1
        y2, y1 = y1, y
        u[i] = y
    d[s + 2], d[s + 3] = _kept(y1), _kept(y2)


@jit
def _kept(v: float) -> float:
    return v if abs(v) > SILENT else 0.0


@jit
def _load(d: Any, at: int, x: Any) -> int:
    """Samples to float64; NaN and infinity become silence. Return how many."""
    bad = 0
    to = d[at : at + len(x)]
    for i in range(len(x)):
        v = x[i]
        fine = v - v == 0.0
        to[i] = v if fine else 0.0
        bad += not fine
    return bad


@jit
def process(m: Any, d: Any, x: Any, y: Any) -> None:
    """Filter x [channels, n] into y, which may be x, continuing where the last call ended."""
    sections, channels, n = m[SECTIONS], x.shape[0], x.shape[1]
    coefficients = TABLE + 5 * sections * m[ACTIVE]
    states = TABLE + 10 * sections
    for begin in range(0, n, BUFFER):
        end = min(n, begin + BUFFER)
        c = 0
        while c < channels:
            both = c + 1 < channels
            m[BAD] += _load(d, 0, x[c, begin:end])
            if both:
                m[BAD] += _load(d, BUFFER, x[c + 1, begin:end])
            for k in range(sections):
                s = states + 4 * (k * channels + c)
                if both:
                    _two(d, coefficients + 5 * k, s, end - begin)
                else:
                    _one(d, coefficients + 5 * k, s, end - begin)
            for row in range(1 + both):
                to, source = y[c + row, begin:end], d[row * BUFFER : row * BUFFER + end - begin]
                for i in range(end - begin):
                    to[i] = source[i]
            c += 2


@entry(BLOCK_ENTRY)
def process_entry(state: Any, source: Any, sink: Any, frames: int) -> int:
    """`process` for C; `state` points to addresses and lengths of m and d."""
    s = carray(state, 4)
    m, d = carray(int_pointer(s[0]), s[1]), carray(double_pointer(s[2]), s[3])
    process(m, d, carray(source, (m[CHANNELS], frames)), carray(sink, (m[CHANNELS], frames)))
    return 0
