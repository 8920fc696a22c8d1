"""Biquad cascades as streams, and long convolutions, on one thread beside scipy and pedalboard.

Rows
----
4 biquads, stereo, n
    Four peaking filters over blocks of n = 64, 256 and 1024 samples of two channels, state kept: ``Cascade.process``
    with ``out``, ``scipy.signal.sosfilt`` with ``zi`` on float32 samples, a ``pedalboard`` chain of four peak filters
    with ``reset=False`` (GPL 3; left out when it is not installed). 200 blocks per sample.
convolution, 60 s by 10 s
    Mono, 48 kHz: ``audio.convolve`` (the response transformed each time), ``scipy.signal.oaconvolve``, fftconvolve,
    pedalboard.

CPU time of one thread, interleaved; errors against scipy in float64.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import scipy.signal

from elinvar import audio
from elinvar.bench import Result, Samples, interleave
from elinvar.runtime.parallel import set_threads

RATE = 48_000
BLOCKS = 200
Calls = dict[str, Callable[[], Any]]


def cascade() -> audio.Cascade:
    return audio.Cascade([audio.Biquad.peaking(200.0 * 3**k, 1.0, 3.0, RATE) for k in range(4)])


def streams(block: int) -> Calls:
    live = cascade().prepare(RATE, block, 2)
    x = np.random.default_rng(0).uniform(-0.5, 0.5, (2, block)).astype(np.float32)
    y, sos, state = np.empty_like(x), cascade().sos, np.zeros((4, 2, 2))

    def scipys() -> None:
        zi = state
        for _ in range(BLOCKS):
            _, zi = scipy.signal.sosfilt(sos, x, axis=-1, zi=zi)

    def ours() -> None:
        for _ in range(BLOCKS):
            live.process(x, y)

    found: Calls = {"elinvar": ours, "sosfilt": scipys}
    try:
        import pedalboard

        board = pedalboard.Pedalboard([pedalboard.PeakFilter(200.0 * 3**k, 3.0, 1.0) for k in range(4)])

        def boards() -> None:
            for _ in range(BLOCKS):
                board.process(x, RATE, buffer_size=block, reset=False)

        found["pedalboard"] = boards
    except ImportError:
        pass
    return found


def long_convolution() -> Calls:
    rng = np.random.default_rng(0)
    x = rng.uniform(-0.5, 0.5, 60 * RATE).astype(np.float32)
    ir = (rng.standard_normal(10 * RATE) * np.exp(-6.9 * np.arange(10 * RATE) / (10 * RATE))).astype(np.float32)
    found: Calls = {
        "elinvar": lambda: audio.convolve(x, ir),
        "oaconvolve": lambda: scipy.signal.oaconvolve(x, ir),
        "fftconvolve": lambda: scipy.signal.fftconvolve(x, ir),
    }
    try:
        import pedalboard

        found["pedalboard"] = lambda: pedalboard.Convolution(ir[None], 1.0, RATE)(x[None], RATE)
    except ImportError:
        pass
    return found


def relative(found: np.ndarray, want: np.ndarray) -> float:
    return float(np.sqrt(((found - want) ** 2).mean() / (want**2).mean()))


def errors() -> dict[str, float]:
    x = np.random.default_rng(1).uniform(-0.5, 0.5, 4 * RATE).astype(np.float32)
    hard = audio.Biquad.peaking(20, 10, 12, RATE)
    want = scipy.signal.sosfilt(hard.sos, x.astype(np.float64))
    ir = np.random.default_rng(2).standard_normal(RATE).astype(np.float32)
    full = scipy.signal.fftconvolve(x.astype(np.float64), ir.astype(np.float64))
    return {
        "biquad at 20 Hz, Q 10, +12 dB": relative(hard(x), want),
        "convolution, 4 s by 1 s": relative(audio.convolve(x, ir), full),
    }


def run(*, runs: int = 21, warmup: int = 2) -> Result:
    before = set_threads(1)
    samples: dict[str, Samples] = {}
    ratios: dict[str, Any] = {}
    try:
        groups = {f"4 biquads, stereo, {block}": streams(block) for block in (64, 128, 256, 512, 1024)}
        groups["convolution, 60 s by 10 s"] = long_convolution()
        for name, calls in groups.items():
            measured = interleave(calls, runs=runs, warmup=warmup, clock="thread_cpu")
            samples |= {f"{name}, {who}": row for who, row in measured.items()}
            mine = measured["elinvar"].median
            ratios[name] = {who: row.median / mine for who, row in measured.items() if who != "elinvar"}
            if name.startswith("4"):
                ratios[name]["us per block"] = 1e6 * mine / BLOCKS
    finally:
        set_threads(before)
    return Result(name="audio_filters", samples=samples, extras={"times as fast as": ratios, "errors": errors()})


if __name__ == "__main__":
    result = run()
    result.write(Path(__file__).parent / "results" / "audio_filters.json")
    print(json.dumps(result.extras, indent=1))
