"""Travel-time tables and half-precision velocity against knots: how far off, how fast; off by over 0.1 sample: refused.

One plain loop (linear reading, weights, 45 degree aperture, one thread) with six ways to know the travel time, in
V0 + k z = 1800 + 0.6 z m/s at 2 ms, distances to 3 km, straight rays:

exact
    Two square roots per sample, float32.
knots
    As kernels v2 and v3: exact at every 8th sample, a quadratic through three of them in between, and exact throughout
    where their third difference is not small.
table 10 m, table 25 m
    One-leg times by (distance, t0), float32, linear in distance; 10 m and 1,500 samples are 1.8 MB.
table 10 m, half precision
    The same rounded to float16. Errors only: numba has no float16, and the loads are the same.
half-precision velocity
    The exact loop with V rounded to float16. Its rate is that of the exact one.

Errors are of the whole travel time, in samples, against float64, over all contributions.

    python benchmarks/seismic_tables.py
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numba import njit

from elinvar.bench import Result, Work, interleave
from elinvar.seismic import Velocity
from elinvar.seismic.traveltime import straight_leg

DT, NT, V0, K = 0.002, 1500, 1800.0, 0.6
ALLOWED = 0.1  # samples
_FURTHEST = 3000.0
_KNOT, _BLOCK, _GENTLE = 8, 16, 0.002 / 0.0642  # a quadratic misses by 0.0642 third differences at most


@njit(nogil=True, fastmath=True)
def _add(image, data, time, first, stop, weight):
    """Add samples first to stop of one trace at travel times in samples: what all ways share."""
    last = len(data) - 2
    for i in range(first, stop):
        t = time[i]
        at = min(int(t), last)
        part = t - np.float32(at)
        inside = np.float32(1.0) if t < np.float32(last) else np.float32(0.0)
        sample = data[at] + part * (data[at + 1] - data[at])
        image[i] += inside * sample * (weight[i] / (t * t))


@njit(nogil=True, fastmath=True)
def exact(image, traces, legs, begin, half, slow, weight, time, table, spacing):  # noqa: ARG001
    """Two square roots per sample."""
    for p in range(image.shape[0]):
        for n in range(traces.shape[0]):
            s, r = legs[p, n, 0] ** 2, legs[p, n, 1] ** 2
            for i in range(begin[p, n], image.shape[1]):
                time[i] = math.sqrt(half[i] * half[i] + s * slow[i]) + math.sqrt(half[i] * half[i] + r * slow[i])
            _add(image[p], traces[n], time, begin[p, n], image.shape[1], weight)


@njit(nogil=True, fastmath=True)
def knots(image, traces, legs, begin, half, slow, weight, time, table, spacing):  # noqa: ARG001
    """Exact at knots, quadratics in between where they will do."""
    nt = image.shape[1]
    count = (nt - 1) // _KNOT + 1
    value = np.empty(count + 4, np.float32)
    for p in range(image.shape[0]):
        for n in range(traces.shape[0]):
            s, r = legs[p, n, 0] ** 2, legs[p, n, 1] ** 2
            start = begin[p, n] // _BLOCK * _BLOCK
            for k in range(start // _KNOT, count):
                i = k * _KNOT
                value[k] = math.sqrt(half[i] * half[i] + s * slow[i]) + math.sqrt(half[i] * half[i] + r * slow[i])
            for i in range(start, nt, _BLOCK):
                k = i // _KNOT
                bend = np.float32(1e9)
                if k + 3 < count:
                    bend = abs(value[k + 3] - 3 * value[k + 2] + 3 * value[k + 1] - value[k])
                if bend <= _GENTLE:
                    a, b = value[k + 1] - value[k], value[k + 2] - 2 * value[k + 1] + value[k]
                    for j in range(_BLOCK):
                        u = np.float32(j) * np.float32(1 / _KNOT)
                        time[i + j] = value[k] + u * (a + np.float32(0.5) * (u - 1) * b)
                else:
                    for j in range(i, min(i + _BLOCK, nt)):
                        time[j] = math.sqrt(half[j] * half[j] + s * slow[j]) + math.sqrt(
                            half[j] * half[j] + r * slow[j]
                        )
            _add(image[p], traces[n], time, begin[p, n], nt, weight)


@njit(nogil=True, fastmath=True)
def tabled(image, traces, legs, begin, half, slow, weight, time, table, spacing):  # noqa: ARG001
    """Rows of a table of one-leg times, linear in distance."""
    for p in range(image.shape[0]):
        for n in range(traces.shape[0]):
            s, r = legs[p, n, 0] / spacing, legs[p, n, 1] / spacing
            i0, j0 = int(s), int(r)
            u, v = np.float32(s - i0), np.float32(r - j0)
            a, b, c, d = table[i0], table[i0 + 1], table[j0], table[j0 + 1]
            for i in range(begin[p, n], image.shape[1]):
                time[i] = a[i] + u * (b[i] - a[i]) + c[i] + v * (d[i] - c[i])
            _add(image[p], traces[n], time, begin[p, n], image.shape[1], weight)


def table_of(spacing: float, v: np.ndarray, dtype: Any) -> np.ndarray:
    """Return one-leg times in samples by (distance, t0), in a precision, as float32."""
    distance = np.arange(0.0, _FURTHEST + 2 * spacing, spacing)
    legs = straight_leg(distance[:, None], 0.5 * DT * np.arange(NT), v) / DT
    return legs.astype(dtype).astype(np.float32)


def run(*, runs: int = 11, warmup: int = 2, traces: int = 96, pillars: int = 48) -> Result:
    rng = np.random.default_rng(5)
    t0 = DT * np.arange(NT)
    v = Velocity.linear(V0, K).rms(t0)
    middle, angle = rng.uniform(-1000, 1000, (traces, 2)), rng.uniform(0, np.pi, traces)
    arm = rng.uniform(50, 1000, traces)[:, None] * np.stack([np.sin(angle), np.cos(angle)], axis=1)
    place = rng.uniform(-500, 500, (pillars, 2))
    ends = [place[:, None] - (middle + sign * arm) for sign in (-1, 1)]
    legs = np.stack([np.hypot(*np.moveaxis(end, -1, 0)) for end in ends], axis=-1)
    away = np.hypot(*np.moveaxis(place[:, None] - middle, -1, 0))
    begin = np.argmax(0.5 * v * t0 >= away[..., None], axis=-1).astype(np.int64)  # 45 degrees
    begin[begin == 0] = NT
    begin = np.maximum(begin, 1)
    data = rng.standard_normal((traces, NT), dtype=np.float32)
    half = (0.5 * np.arange(NT)).astype(np.float32)
    weight = (half * 2 / (np.pi * v**2 * DT)).astype(np.float32)

    def slowness(speed: np.ndarray) -> np.ndarray:
        return (1 / (speed * DT) ** 2).astype(np.float32)

    ways: dict[str, tuple[Callable[..., None], np.ndarray, np.ndarray, float]] = {
        "exact": (exact, slowness(v), np.zeros((2, 2), np.float32), 1.0),
        "knots": (knots, slowness(v), np.zeros((2, 2), np.float32), 1.0),
        "table 10 m": (tabled, slowness(v), table_of(10.0, v, np.float32), 10.0),
        "table 25 m": (tabled, slowness(v), table_of(25.0, v, np.float32), 25.0),
        "table 10 m, half precision": (tabled, slowness(v), table_of(10.0, v, np.float16), 10.0),
        "half-precision velocity": (exact, slowness(v.astype(np.float16).astype(float)), np.zeros((2, 2), "f4"), 1.0),
    }
    room = np.zeros(NT + _BLOCK, np.float32)
    near = legs.astype(np.float32)

    def call(way: str) -> Callable[[], None]:
        function, slow, table, spacing = ways[way]
        image = np.zeros((pillars, NT), np.float32)
        return lambda: function(image, data, near, begin, half, slow, weight, room, table, np.float32(spacing))

    errors = {way: _errors(ways[way], legs, begin, half, v, room) for way in ways}
    work = Work(items=float((NT - begin).clip(0).sum()), unit="samples")
    timed = [way for way in ways if "half" not in way]
    samples = interleave(
        {way: call(way) for way in timed}, runs=runs, warmup=warmup, work=dict.fromkeys(timed, work), clock="thread_cpu"
    )
    rates = {way: work.items / samples[way].median for way in timed}
    return Result(
        "seismic_tables",
        samples=samples,
        extras={
            "samples per second": rates,
            "of knots": {way: rate / rates["knots"] for way, rate in rates.items()},
            "error in samples": errors,
            "refused": {way: error["largest"] > ALLOWED for way, error in errors.items()},
        },
    )


def _errors(
    way: tuple[Any, ...], legs: np.ndarray, begin: np.ndarray, half: np.ndarray, v: np.ndarray, room: np.ndarray
) -> dict[str, float]:
    """Run a way one pair at a time and hold the travel times that it leaves to float64."""
    function, slow, table, spacing = way
    nt = len(half)
    found = []
    for p in range(0, legs.shape[0], 3):
        for n in range(0, legs.shape[1], 3):
            if begin[p, n] >= nt:
                continue
            one = (slice(p, p + 1), slice(n, n + 1))
            image, data = np.zeros((1, nt), np.float32), np.ones((1, nt), np.float32)
            near = legs[one].astype(np.float32)
            function(image, data, near, begin[one], half, slow, half, room, table, np.float32(spacing))
            true = sum(straight_leg(legs[p, n, k], 0.5 * DT * np.arange(nt), v) for k in (0, 1)) / DT
            off = np.abs(room[:nt] - true)[begin[p, n] :]
            found.append(off[true[begin[p, n] :] < nt - 2])
    every = np.concatenate(found)
    return {"largest": float(every.max()), "rms": float(np.sqrt(np.mean(np.square(every))))}


if __name__ == "__main__":
    result = run()
    result.write("seismic_tables.json")
    for name, error in result.extras["error in samples"].items():
        rate = result.extras["of knots"].get(name)
        print(
            f"{name:28s} off by {error['largest']:8.4f} samples at most, {error['rms']:.4f} rms"
            f"{'' if rate is None else f'; {rate:.2f} x knots'}"
            f"{'; refused' if result.extras['refused'][name] else ''}"
        )
