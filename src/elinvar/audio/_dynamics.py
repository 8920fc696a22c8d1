"""Kernels of level-dependent gain, look-ahead and delay lines; one gain for all channels."""

from __future__ import annotations

import math
from typing import Any

from ._jit import BLOCK_ENTRY, carray, entry, jit
from ._lanes import double_pointer, float_pointer, int_pointer

__all__ = ["compress", "compress_entry", "delay", "delay_entry", "gate", "gate_entry", "limit", "limit_entry"]

CHANNELS, SIZE, AT, HELD, BAD, ACTIVE = range(6)  # m
WIDTH = 16  # parameters per set; d: two sets, then state
STATE = 2 * WIDTH
LOWEST = 1e-9  # -180 dB
TO_DB = 20.0 / math.log(10.0)


@jit
def _clean(m: Any, v: float) -> float:
    if v - v == 0.0:
        return v
    m[BAD] += 1
    return 0.0


@jit
def compress(m: Any, d: Any, f: Any, x: Any, y: Any) -> None:  # noqa: ARG001  (one signature for all)
    """Parameters: threshold (dB), 1 - 1 / ratio, knee (dB), attack and release coefficients, make-up (dB)."""
    s = WIDTH * m[ACTIVE]
    threshold, slope, knee, attack, release, makeup = d[s], d[s + 1], d[s + 2], d[s + 3], d[s + 4], d[s + 5]
    reduction = d[STATE]
    for i in range(x.shape[1]):
        peak = LOWEST
        for c in range(x.shape[0]):
            peak = max(peak, abs(_clean(m, x[c, i])))
        over = TO_DB * math.log(peak) - threshold
        if 2.0 * over <= -knee:
            wanted = 0.0
        elif 2.0 * over < knee:
            wanted = slope * (over + 0.5 * knee) ** 2 / (2.0 * knee)
        else:
            wanted = slope * over
        speed = attack if wanted > reduction else release
        reduction = wanted + speed * (reduction - wanted)
        gain = math.exp((makeup - reduction) / TO_DB)
        for c in range(x.shape[0]):
            v = x[c, i]
            y[c, i] = gain * v if v - v == 0.0 else 0.0
    d[STATE] = reduction if reduction > 1e-12 else 0.0


@jit
def gate(m: Any, d: Any, f: Any, x: Any, y: Any) -> None:  # noqa: ARG001
    """Parameters: open and close levels (linear), floor gain, attack and release coefficients, hold (samples)."""
    s = WIDTH * m[ACTIVE]
    opens, closes, floor, attack, release, hold = d[s], d[s + 1], d[s + 2], d[s + 3], d[s + 4], int(d[s + 5])
    gain, level_release = d[STATE], d[s + 6]
    level = d[STATE + 1]
    for i in range(x.shape[1]):
        peak = 0.0
        for c in range(x.shape[0]):
            peak = max(peak, abs(_clean(m, x[c, i])))
        level = max(peak, level * level_release)
        if level >= opens:
            m[HELD] = hold + 1
        elif level < closes and m[HELD] > 0:
            m[HELD] -= 1
        wanted = 1.0 if m[HELD] > 0 else floor
        gain = wanted + (attack if wanted > gain else release) * (gain - wanted)
        for c in range(x.shape[0]):
            v = x[c, i]
            y[c, i] = gain * v if v - v == 0.0 else 0.0
    d[STATE], d[STATE + 1] = gain, level if level > 1e-20 else 0.0


@jit
def limit(m: Any, d: Any, f: Any, x: Any, y: Any) -> None:
    """Look-ahead limiter. Parameters: ceiling (linear), release coefficient.

    The gain is the minimum of what the next SIZE samples need, averaged over SIZE samples: it reaches every peak's
    need in time, and never overshoots. f: [channels][SIZE] delay, then the needs of the last SIZE samples, then their
    minima. The running minimum is found again only when the smallest leaves the window.
    """
    s = WIDTH * m[ACTIVE]
    ceiling, release, size, channels = d[s], d[s + 1], m[SIZE], x.shape[0]
    at, held, total, lowest = m[AT], d[STATE], d[STATE + 1], d[STATE + 2]
    needs, minima = f[channels * size : channels * size + size], f[channels * size + size : channels * size + 2 * size]
    for i in range(x.shape[1]):
        peak = 0.0
        for c in range(channels):
            peak = max(peak, abs(_clean(m, x[c, i])))
        need = ceiling / peak if peak > ceiling else 1.0
        gone = needs[at]
        needs[at] = need
        need = float(needs[at])
        if need <= lowest:
            lowest = need
        elif gone <= lowest:
            lowest = 1.0
            for j in range(size):
                lowest = min(lowest, float(needs[j]))
        held = lowest if lowest < held else min(lowest, 1.0 - (1.0 - held) * release)
        total += held - float(minima[at])
        minima[at] = held
        total = total + (held - float(minima[at]))  # what rounding to float32 left out
        gain = min(1.0, total / size)
        for c in range(channels):
            place = c * size + at
            v = x[c, i]
            late = gain * f[place]
            f[place] = v if v - v == 0.0 else 0.0
            y[c, i] = min(max(late, -ceiling), ceiling)
        at = at + 1 if at + 1 < size else 0
    m[AT], d[STATE], d[STATE + 1], d[STATE + 2] = at, held, total, lowest


@jit
def delay(m: Any, d: Any, f: Any, x: Any, y: Any) -> None:
    """Parameters: feedback, dry, wet. f: [channels][SIZE], SIZE the delay."""
    s = WIDTH * m[ACTIVE]
    feedback, dry, wet, size = d[s], d[s + 1], d[s + 2], m[SIZE]
    at = m[AT]
    for i in range(x.shape[1]):
        for c in range(x.shape[0]):
            v = _clean(m, x[c, i])
            late = f[c * size + at] if size > 0 else v
            y[c, i] = dry * v + wet * late
            if size > 0:
                kept = v + feedback * late
                f[c * size + at] = kept if abs(kept) > 1e-20 else 0.0
        at = at + 1 if at + 1 < size else 0
    m[AT] = at


@jit
def _arrays(state: Any, source: Any, sink: Any, frames: int) -> Any:
    s = carray(state, 6)
    m, d = carray(int_pointer(s[0]), s[1]), carray(double_pointer(s[2]), s[3])
    f = carray(float_pointer(s[4]), s[5])
    return m, d, f, carray(source, (m[CHANNELS], frames)), carray(sink, (m[CHANNELS], frames))


@entry(BLOCK_ENTRY)
def compress_entry(state: Any, source: Any, sink: Any, frames: int) -> int:
    """`compress` for C."""
    m, d, f, x, y = _arrays(state, source, sink, frames)
    compress(m, d, f, x, y)
    return 0


@entry(BLOCK_ENTRY)
def gate_entry(state: Any, source: Any, sink: Any, frames: int) -> int:
    """`gate` for C."""
    m, d, f, x, y = _arrays(state, source, sink, frames)
    gate(m, d, f, x, y)
    return 0


@entry(BLOCK_ENTRY)
def limit_entry(state: Any, source: Any, sink: Any, frames: int) -> int:
    """`limit` for C."""
    m, d, f, x, y = _arrays(state, source, sink, frames)
    limit(m, d, f, x, y)
    return 0


@entry(BLOCK_ENTRY)
def delay_entry(state: Any, source: Any, sink: Any, frames: int) -> int:
    """`delay` for C."""
    m, d, f, x, y = _arrays(state, source, sink, frames)
    delay(m, d, f, x, y)
    return 0
