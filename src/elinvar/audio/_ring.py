"""Kernels of the lock-free pool and ring: compare-and-swap on one word, so that neither ever waits for a thread.

numba knows no atomic load or store. x86 keeps loads and stores of aligned words in order; elsewhere the fence that
compare-and-swap brings with it does: every index is read and published through one.
"""

from __future__ import annotations

from typing import Any

from ._jit import BLOCK_ENTRY, carray, entry, jit
from ._lanes import compare_and_swap, float_pointer, int_pointer

__all__ = ["acquire", "generation", "read", "read_entry", "readable", "release", "skip", "write", "write_entry"]

# pool: m[0] = head of the free list as tag << 20 | index + 1; m[8 + i] = next free + 1; m[8 + count + i] = generation,
# odd while handed out
FREE, COUNT, NODE_AT = 0, 1, 8
_BITS = 20
_MASK = (1 << _BITS) - 1

# ring: m[0] written, m[8] read (samples since the beginning, a cache line apart), m[16] capacity, m[17] channels,
# m[18] overruns, m[19] underruns
WRITTEN, TAKEN, CAPACITY, CHANNELS, OVERRUNS, UNDERRUNS = 0, 8, 16, 17, 18, 19


@jit
def acquire(m: Any) -> int:
    """Take a buffer: generation << 20 | index, or -1 when there is none."""
    while True:
        head = m[FREE]
        index = (head & _MASK) - 1
        if index < 0:
            return -1
        # a tag that grows with every change: a head that came back meanwhile is not mistaken for the old one
        new = (((head >> _BITS) + 1) << _BITS) | m[NODE_AT + index]
        if compare_and_swap(m, FREE, head, new):
            at = NODE_AT + m[COUNT] + index
            m[at] += 1
            return int((m[at] << _BITS) | index)


@jit
def release(m: Any, handle: int) -> int:
    """Give a buffer back: 0 done, 1 given back before, 2 never was from here."""
    index, generation = handle & _MASK, handle >> _BITS
    if handle < 0 or index >= m[COUNT]:
        return 2
    at = NODE_AT + m[COUNT] + index
    if generation > m[at] or generation % 2 == 0:
        return 2
    if not compare_and_swap(m, at, generation, generation + 1):
        return 1
    while True:
        head = m[FREE]
        m[NODE_AT + index] = head & _MASK
        new = (((head >> _BITS) + 1) << _BITS) | (index + 1)
        if compare_and_swap(m, FREE, head, new):
            return 0


@jit
def generation(m: Any, index: int) -> int:
    """How often a buffer was handed out and given back."""
    return int(m[NODE_AT + m[COUNT] + index])


@jit
def _load(m: Any, at: int) -> int:
    """Read an index another thread publishes, with a fence."""
    value = m[at]
    compare_and_swap(m, at, value, value)
    return int(m[at])


@jit
def _publish(m: Any, at: int, old: int, new: int) -> None:
    compare_and_swap(m, at, old, new)


@jit
def readable(m: Any) -> int:
    """Samples that can be read."""
    return _load(m, WRITTEN) - _load(m, TAKEN)


@jit
def write(m: Any, f: Any, x: Any) -> int:
    """Append x [channels, n], as much as fits; return how much. One writer."""
    capacity, channels, written = m[CAPACITY], m[CHANNELS], m[WRITTEN]
    n = min(x.shape[1], capacity - (written - _load(m, TAKEN)))
    at = written % capacity
    first = min(n, capacity - at)
    for c in range(channels):
        row = f[c * capacity : (c + 1) * capacity]
        for i in range(first):
            row[at + i] = x[c, i]
        for i in range(first, n):
            row[i - first] = x[c, i]
    m[OVERRUNS] += x.shape[1] - n
    _publish(m, WRITTEN, written, written + n)
    return int(n)


@jit
def read(m: Any, f: Any, y: Any, keep: bool) -> int:
    """Copy the oldest samples into y [channels, n], silence behind them; return how many. One reader."""
    capacity, channels, taken = m[CAPACITY], m[CHANNELS], m[TAKEN]
    n = min(y.shape[1], _load(m, WRITTEN) - taken)
    at = taken % capacity
    first = min(n, capacity - at)
    for c in range(channels):
        row = f[c * capacity : (c + 1) * capacity]
        for i in range(first):
            y[c, i] = row[at + i]
        for i in range(first, n):
            y[c, i] = row[i - first]
        for i in range(n, y.shape[1]):
            y[c, i] = 0.0
    if not keep:
        m[UNDERRUNS] += y.shape[1] - n
        _publish(m, TAKEN, taken, taken + n)
    return int(n)


@jit
def skip(m: Any, n: int) -> int:
    """Drop up to n of the oldest samples; return how many. The reader's side."""
    taken = m[TAKEN]
    dropped = min(n, _load(m, WRITTEN) - taken)
    _publish(m, TAKEN, taken, taken + dropped)
    return int(dropped)


@entry(BLOCK_ENTRY)
def write_entry(state: Any, source: Any, _sink: Any, frames: int) -> int:
    """`write` for C, planar."""
    s = carray(state, 4)
    m, f = carray(int_pointer(s[0]), s[1]), carray(float_pointer(s[2]), s[3])
    return write(m, f, carray(source, (m[CHANNELS], frames)))


@entry(BLOCK_ENTRY)
def read_entry(state: Any, _source: Any, sink: Any, frames: int) -> int:
    """`read` for C, planar."""
    s = carray(state, 4)
    m, f = carray(int_pointer(s[0]), s[1]), carray(float_pointer(s[2]), s[3])
    return read(m, f, carray(sink, (m[CHANNELS], frames)), False)
