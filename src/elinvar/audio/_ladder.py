"""Which partitions a streaming convolver uses: measured costs, every ladder tried, the cheapest taken.

A ladder is the sizes of its stages: the first, the tick, is due at once; stage k of block B_k covers taps from 2 B_k to
2 B_(k+1). Fewer taps per product with bigger blocks, more transform: which wins depends on the machine's caches, so
transforms, products and the direct filter are timed here, once per process.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from ._jit import jit
from ._lanes import LANES, multiply_add, taps
from ._passes import SMALLEST, transform, twiddles

__all__ = ["LARGEST", "Costs", "Ladder", "choose", "measured_costs", "partitions", "uniform"]

LARGEST = 65536
_RESIDENT = 512 * 1024  # bytes of spectra that stay near the core from one callback to the next
_PART = 6e-8  # seconds a stage costs per tick, whatever it does


@dataclass(frozen=True)
class Ladder:
    """Sizes of the stages in samples, smallest first; the first is the tick. `head` taps are a direct filter."""

    tick: int
    head: int
    stages: tuple[int, ...]

    def __str__(self) -> str:
        return " + ".join([f"{self.head} direct", *map(str, self.stages)])


@dataclass(frozen=True)
class Costs:
    """Seconds: of a complex transform by size, of one product by bin (near and far spectra), of one tap by sample."""

    transform: dict[int, float]
    product_near: float
    product_far: float
    tap: float


def partitions(ladder: Ladder, length: int) -> tuple[int, ...]:
    """How many partitions each stage has for an impulse response of `length` taps."""
    found = []
    for k, size in enumerate(ladder.stages):
        begin = ladder.head if k == 0 else 2 * size
        end = 2 * ladder.stages[k + 1] if k + 1 < len(ladder.stages) else length
        found.append(max(1, -(-(end - begin) // size)))
    return tuple(found)


def seconds_per_sample(
    ladder: Ladder, length: int, costs: Costs, inputs: int, outputs: int, paths: int, shapes: int
) -> float:
    """CPU time of one sample by the model."""
    total = paths * ladder.head * costs.tap
    for size, n in zip(ladder.stages, partitions(ladder, length), strict=True):
        near = 8 * n * size * (shapes + inputs) <= _RESIDENT
        product = costs.product_near if near else costs.product_far
        cycle = (inputs + outputs) * costs.transform[size] + paths * n * size * product
        total += cycle / size + _PART / ladder.tick
    return total


def uniform(tick: int, length: int) -> Ladder:
    """One stage of `tick`, or none when the direct taps are all there is."""
    return Ladder(tick, tick, (tick,) if length > tick else ())


def _ladders(length: int, ticks: tuple[int, ...]) -> list[Ladder]:
    found = []
    for tick in ticks:
        if length <= tick:
            found.append(uniform(tick, length))
            continue
        sizes = [2**p for p in range(tick.bit_length(), LARGEST.bit_length()) if 2 ** (p + 1) < length]
        for n in range(len(sizes) + 1):
            found += [Ladder(tick, tick, (tick, *more)) for more in itertools.combinations(sizes, n)]
    return found


def choose(
    length: int, ticks: tuple[int, ...], costs: Costs, inputs: int, outputs: int, paths: int, shapes: int
) -> Ladder:
    """Return the cheapest ladder for an impulse response of `length` taps with one of the given ticks."""
    return min(
        _ladders(length, ticks),
        key=lambda ladder: seconds_per_sample(ladder, length, costs, inputs, outputs, paths, shapes),
    )


@jit
def _transforms(f: Any, size: int, repeats: int) -> None:
    for _ in range(repeats):
        transform(f, 0, size, 2 * size, 4 * size, 6 * size, size)


@jit
def _products(f: Any, h: Any, size: int, rows: int, repeats: int) -> None:
    for _ in range(repeats):
        for p in range(rows):
            at = 2 * size * (p + 1)
            for j in range(0, size, LANES):
                multiply_add((f, h, j, size + j, at + j, at + size + j, at + j, at + size + j))


@jit
def _tapping(f: Any, h: Any, n: int, head: int, repeats: int) -> None:
    for _ in range(repeats):
        for j in range(0, head, LANES):
            for q in range(0, n, LANES):
                taps((f, h, q, 4 * n + q - j, j))


def _seconds(fn: Callable[[int], None], unit: float) -> float:
    """Time one repeat: the best of three of about 0.3 ms each."""
    fn(1)
    repeats, best = max(1, int(3e-4 / unit)), np.inf
    for _ in range(3):
        begin = time.perf_counter()
        fn(repeats)
        best = min(best, (time.perf_counter() - begin) / repeats)
    return float(best)


@cache
def measured_costs() -> Costs:
    """Time this machine; about 30 ms, once per process."""
    spectra: dict[int, float] = {}
    for power in range(SMALLEST.bit_length() - 1, LARGEST.bit_length()):
        size = 2**power
        f = np.concatenate([np.zeros(6 * size, np.float32), twiddles(size)])
        spectra[size] = _seconds(lambda n, f=f, size=size: _transforms(f, size, n), size * 2e-9)  # type: ignore[misc]
    products = []
    for rows in (6, 300):  # 50 KB, 2.4 MB of each
        f, h = np.zeros(2 * 512 * (rows + 1), np.float32), np.zeros(2 * 512 * (rows + 1), np.float32)
        products.append(
            _seconds(lambda n, f=f, h=h, rows=rows: _products(f, h, 512, rows, n), rows * 1e-7) / (512 * rows)  # type: ignore[misc]
        )
    f, h = np.zeros(1024, np.float32), np.zeros(256, np.float32)
    tap = _seconds(lambda n: _tapping(f, h, 64, 64, n), 2e-7) / 64 / 64
    return Costs(spectra, products[0], products[1], tap)
