"""Callbacks for sound cards (PaStreamCallback): a ring through a chain to the card, and the card to a ring."""

from __future__ import annotations

from typing import Any

import numba

from . import _chain as chain
from . import _ring as ring
from ._jit import carray, entry
from ._lanes import float_pointer, int_pointer

__all__ = ["player_entry", "recorder_entry"]


@entry(chain.PORTAUDIO_ENTRY)
def player_entry(_source: Any, sink: Any, frames: int, _time: Any, _flags: int, user: Any) -> int:
    """Read planar samples from a ring, send them through a chain, write them interleaved. `user`: both roots."""
    s = carray(user, 8)
    m = carray(int_pointer(s[0]), s[1])
    rm, rf = carray(int_pointer(s[4]), s[5]), carray(float_pointer(s[6]), s[7])
    n, outputs = numba.int64(frames), m[chain.OUTPUTS]
    y = carray(sink, (n, outputs))
    for begin in range(0, n, m[chain.BLOCK]):
        count = min(m[chain.BLOCK], n - begin)
        ring.read(rm, rf, carray(float_pointer(m[chain.BUFFER]), (m[chain.INPUTS], count)), False)
        found = carray(float_pointer(chain.run(m, count)), outputs * count)
        for c in range(outputs):
            for i in range(count):
                y[begin + i, c] = found[c * count + i]
    return 0


@entry(chain.PORTAUDIO_ENTRY)
def recorder_entry(source: Any, _sink: Any, frames: int, _time: Any, _flags: int, user: Any) -> int:
    """Write interleaved samples to a ring. `user`: the ring's root."""
    s = carray(user, 4)
    m, f = carray(int_pointer(s[0]), s[1]), carray(float_pointer(s[2]), s[3])
    ring.write(m, f, carray(source, (numba.int64(frames), m[ring.CHANNELS])).T)
    return 0
