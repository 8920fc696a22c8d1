"""Kernels of a chain: processors called one after the other through their C entries, without Python in between."""

from __future__ import annotations

from typing import Any

import numba

from ._jit import BLOCK_ENTRY, carray, entry, jit
from ._lanes import call, float_pointer, int_pointer

__all__ = ["PORTAUDIO_ENTRY", "interleaved_entry", "portaudio_entry", "process", "process_entry", "run"]

NODES, INPUTS, OUTPUTS, BLOCK, BUFFER, WIDEST, CALLS = range(7)  # m; then per node: entry, root, outputs
NODE_AT = 8
PORTAUDIO_ENTRY = "int32(CPointer(float32), CPointer(float32), uint64, CPointer(int64), uint64, CPointer(int64))"
"""PaStreamCallback: input, output, frames, time information, status flags, user data."""


@jit
def run(m: Any, frames: int) -> int:
    """Send what is in the first buffer through all nodes; return the address of the result."""
    source = m[BUFFER]
    sink = source + 4 * m[WIDEST] * m[BLOCK]
    for k in range(m[NODES]):
        node = NODE_AT + 3 * k
        call(m[node], m[node + 1], source, sink, frames)
        source, sink = sink, source
    m[CALLS] += 1
    return int(source)


@jit
def process(m: Any, f: Any, x: Any, y: Any) -> None:
    """Process x [inputs, n] into y [outputs, n], at most BLOCK samples at a time; `f` holds the buffers."""
    for begin in range(0, x.shape[1], m[BLOCK]):
        frames = min(m[BLOCK], x.shape[1] - begin)
        for c in range(m[INPUTS]):
            for i in range(frames):
                f[c * frames + i] = x[c, begin + i]
        found = carray(float_pointer(run(m, frames)), m[OUTPUTS] * frames)
        for c in range(m[OUTPUTS]):
            for i in range(frames):
                y[c, begin + i] = found[c * frames + i]


@jit
def _interleaved(m: Any, f: Any, x: Any, y: Any) -> None:
    """The same for x [n, inputs] and y [n, outputs], as sound cards have it."""
    for begin in range(0, x.shape[0], m[BLOCK]):
        frames = min(m[BLOCK], x.shape[0] - begin)
        for c in range(m[INPUTS]):
            for i in range(frames):
                f[c * frames + i] = x[begin + i, c]
        found = carray(float_pointer(run(m, frames)), m[OUTPUTS] * frames)
        for c in range(m[OUTPUTS]):
            for i in range(frames):
                y[begin + i, c] = found[c * frames + i]


@entry(BLOCK_ENTRY)
def process_entry(state: Any, source: Any, sink: Any, frames: int) -> int:
    """`process` for C: planar."""
    s = carray(state, 4)
    m, f = carray(int_pointer(s[0]), s[1]), carray(float_pointer(s[2]), s[3])
    process(m, f, carray(source, (m[INPUTS], frames)), carray(sink, (m[OUTPUTS], frames)))
    return 0


@entry(BLOCK_ENTRY)
def interleaved_entry(state: Any, source: Any, sink: Any, frames: int) -> int:
    """`process` for C: interleaved ``[frames][channels]``."""
    s = carray(state, 4)
    m, f = carray(int_pointer(s[0]), s[1]), carray(float_pointer(s[2]), s[3])
    _interleaved(m, f, carray(source, (frames, m[INPUTS])), carray(sink, (frames, m[OUTPUTS])))
    return 0


@entry(PORTAUDIO_ENTRY)
def portaudio_entry(source: Any, sink: Any, frames: int, _time: Any, _flags: int, user: Any) -> int:
    """PortAudio's callback: `user` is the chain's root; returns 0, paContinue."""
    s = carray(user, 4)
    m, f = carray(int_pointer(s[0]), s[1]), carray(float_pointer(s[2]), s[3])
    n = numba.int64(frames)
    _interleaved(m, f, carray(source, (n, m[INPUTS])), carray(sink, (n, m[OUTPUTS])))
    return 0
