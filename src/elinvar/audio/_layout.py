"""Memory of a streaming convolver: where everything lies in the three arrays of `_partition`, and the IR's spectra."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import _partition as p
from ._check import Array
from ._jit import jit
from ._ladder import Costs, Ladder, partitions
from ._lanes import LANES, compare_and_swap
from ._passes import passes, twiddles

__all__ = ["State", "build", "claim", "fill", "publish", "reset"]


@dataclass(frozen=True)
class State:
    """The arrays of one convolver, and `root`: their addresses, for C."""

    m: NDArray[np.int64]
    f: Array
    h: Array
    root: NDArray[np.int64]
    ladder: Ladder
    length: int
    shapes: int
    signal_begin: int
    """Where tables end and signals begin in `f`."""


class _Space:
    """Hands out consecutive ranges."""

    def __init__(self, begin: int = 0) -> None:
        self.end = begin

    def take(self, n: int) -> int:
        """Return the start of a range of n, on a multiple of 16 (64 bytes of float32)."""
        at = self.end
        self.end += -(-n // LANES) * LANES
        return at


def _schedule(inputs: int, outputs: int, paths: int, size: int, parts: int, tick: int, costs: Costs) -> list[int]:
    """Units done after each tick of a cycle, so that every tick costs about the same."""
    chunks = max(1, size // p.CHUNK)
    one_pass = costs.transform[size] / passes(size) / chunks
    product = paths * costs.product_far * size / chunks
    n = (passes(size) + 1) * chunks
    unit = np.concatenate(
        [np.full(inputs * n, one_pass), np.full(parts * chunks, product), np.full(outputs * n, one_pass)]
    )
    spent = np.cumsum(unit)
    period = size // tick
    share = spent[-1] * np.arange(1, period + 1) / period
    done = np.searchsorted(spent, share * (1 + 1e-9), side="right")
    done[-1] = len(unit)
    return [int(d) for d in done]


def build(
    paths: list[tuple[int, int, int]], shapes: int, inputs: int, outputs: int, length: int, ladder: Ladder,
    costs: Costs, fade: int,
) -> State:  # fmt: skip
    """Lay out a convolver whose paths are (input, output, response); all signals are zero.

    Parameters
    ----------
    shapes
        How many distinct responses a bank holds.
    length
        Taps of the longest impulse response it will hold.
    fade
        Samples of a cross-fade between impulse responses.
    """
    counts = partitions(ladder, length)
    head = -(-ladder.head // LANES) * LANES
    ints, tables, bank = _Space(p.PART_AT + p.PART * (len(counts) + 1)), _Space(), _Space()
    bank.take(shapes * head)
    schedules: list[list[int]] = []
    values: dict[int, int] = {
        p.INPUTS: inputs, p.OUTPUTS: outputs, p.PATHS: len(paths), p.TICK: ladder.tick, p.STAGES: len(counts),
        p.HEAD: head, p.RING: max(4 * max(ladder.stages, default=0), 2 * ladder.tick), p.FADE: fade, p.TARGET: -1,
        p.MAILBOX: 4 * 1 + p.NOTHING, p.SHAPES: shapes, p.PATH_AT: ints.take(3 * len(paths)),
    }  # fmt: skip
    for k, (size, n) in enumerate(zip(ladder.stages, counts, strict=True), 1):
        part = p.PART_AT + k * p.PART
        schedules.append(_schedule(inputs, outputs, len(paths), size, n, ladder.tick, costs))
        values |= {
            part + p.SIZE: size, part + p.PARTITIONS: n, part + p.PASSES: passes(size),
            part + p.TWIST: tables.take(2 * size), part + p.TWIDDLE: tables.take(len(twiddles(size))),
            part + p.SCHEDULE: ints.take(len(schedules[-1])), part + p.EMPTY: ints.take(p.BANKS * shapes * n),
            part + p.IR_AT: bank.take(2 * size * shapes * n),
        }  # fmt: skip
    signals = _Space(tables.end)
    values[p.HEAD_AT] = signals.take(inputs * (head + ladder.tick + LANES))
    values[p.RING_AT] = signals.take(inputs * values[p.RING])
    values[p.SCRATCH] = signals.take(2 * outputs * ladder.tick + ladder.tick)
    for k, (size, n) in enumerate(zip(ladder.stages, counts, strict=True), 1):
        part = p.PART_AT + k * p.PART
        values |= {
            part + p.SPECTRA: signals.take(2 * size * inputs * n), part + p.SUM: signals.take(4 * size * outputs),
            part + p.WORK: signals.take(8 * size), part + p.OUT: signals.take(4 * size * outputs),
        }  # fmt: skip
    values[p.BANK_SIZE] = bank.end
    m, f, h = np.zeros(ints.end, np.int64), np.zeros(signals.end, np.float32), np.zeros(p.BANKS * bank.end, np.float32)
    for at, value in values.items():
        m[at] = value
    m[p.FADES : p.FADES + p.BANKS] = fade
    m[values[p.PATH_AT] : values[p.PATH_AT] + 3 * len(paths)] = np.asarray(paths).ravel()
    for k, (size, schedule) in enumerate(zip(ladder.stages, schedules, strict=True), 1):
        part = p.PART_AT + k * p.PART
        m[m[part + p.SCHEDULE] : m[part + p.SCHEDULE] + len(schedule)] = schedule
        f[m[part + p.TWIST] : m[part + p.TWIST] + 2 * size] = _twist(size).view(np.float64).reshape(-1, 2).T.ravel()
        f[m[part + p.TWIDDLE] : m[part + p.TWIDDLE] + len(twiddles(size))] = twiddles(size)
    root = np.array([m.ctypes.data, m.size, f.ctypes.data, f.size, h.ctypes.data, h.size, inputs, outputs], np.int64)
    return State(m, f, h, root, ladder, length, shapes, tables.end)


def _twist(size: int) -> NDArray[np.complex128]:
    turned: NDArray[np.complex128] = np.exp(0.5j * np.pi * np.arange(size) / size)
    return turned


def fill(state: State, bank: int, responses: NDArray[np.floating[Any]]) -> None:
    """Write impulse responses [shapes, taps] into a bank that the audio thread does not use: head taps and spectra."""
    m, h, shapes = state.m, state.h, state.shapes
    full = np.zeros((shapes, max(state.length, int(m[p.HEAD]))), np.float64)
    full[:, : responses.shape[1]] = responses
    base, head, direct = bank * int(m[p.BANK_SIZE]), int(m[p.HEAD]), state.ladder.head
    taps = np.zeros((shapes, head))
    taps[:, :direct] = np.where(np.abs(full[:, :direct]) > p.TINY, full[:, :direct], 0.0)  # no denormal numbers
    h[base : base + shapes * head] = taps.ravel()
    for k, (size, n) in enumerate(zip(state.ladder.stages, partitions(state.ladder, state.length), strict=True), 1):
        part = p.PART_AT + k * p.PART
        begin = direct if k == 1 else 2 * size
        block = np.zeros((shapes, n * size))
        found = full[:, begin : begin + n * size]  # a whole number of blocks, to where the next stage begins
        block[:, : found.shape[1]] = found
        rows = block.reshape(shapes * n, size)
        at = base + int(m[part + p.IR_AT])
        for r, row in enumerate(rows):  # row by row: a long response must not need several times its size
            spectrum = np.fft.fft(row * _twist(size)) / size
            h[at + 2 * size * r : at + 2 * size * r + size] = spectrum.real
            h[at + 2 * size * r + size : at + 2 * size * (r + 1)] = spectrum.imag
        empty = int(m[part + p.EMPTY]) + bank * shapes * n
        m[empty : empty + shapes * n] = ~rows.any(axis=1)


def reset(state: State) -> None:
    """Forget all signals; end a cross-fade at its new impulse response. Not while another thread processes."""
    m = state.m
    state.f[state.signal_begin :] = 0.0
    active = int(m[p.TARGET]) if m[p.TARGET] >= 0 else int(m[p.ACTIVE])
    if m[p.MAILBOX] % 4 == p.FULL:
        active = int(m[p.MAILBOX]) // 4
    m[p.ACTIVE], m[p.TARGET], m[p.POSITION], m[p.TICKS] = active, -1, 0, 0
    m[p.MAILBOX] = 4 * ((active + 1) % p.BANKS) + p.NOTHING
    for k in range(int(m[p.STAGES]) + 1):
        part = p.PART_AT + k * p.PART
        for name in (p.NEWEST, p.FLIP, p.STATE, p.FADED, p.SLOT, p.DUAL, p.DONE):
            m[part + name] = 0
        m[part + p.BANK0] = m[part + p.BANK1] = active
        if k >= 1:
            m[part + p.DONE] = m[m[part + p.SCHEDULE] + m[part + p.SIZE] // m[p.TICK] - 1]  # the cycle before: done


@jit
def claim(m: Any) -> int:
    """Take the mailbox's bank for writing, from the audio thread too; it never waits for us."""
    while True:
        word = m[p.MAILBOX]
        if word % 4 == p.WRITING:
            return -1
        if compare_and_swap(m, p.MAILBOX, word, word // 4 * 4 + p.WRITING):
            return int(word // 4)


@jit
def publish(m: Any, bank: int) -> None:
    """Offer a filled bank to the audio thread."""
    compare_and_swap(m, p.MAILBOX, 4 * bank + p.WRITING, 4 * bank + p.FULL)
