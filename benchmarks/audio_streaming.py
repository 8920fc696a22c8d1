"""Streaming convolution: CPU time per callback beside pedalboard, and a hostile Python thread beside a C timer.

Rows
----
elinvar, 10 s, 64 (and 2 s, 256)
    ``audio.Convolver(ir).process(block, out)``, mono, 48 kHz, called from Python; CPU time of the thread per call.
pedalboard, ...
    ``pedalboard.Convolution`` (GPL 3; a peer, not a dependency) with the same response, ``reset=False``. Left out when
    it is not installed. It renormalises the response; its output is compared after undoing that.
callback, ...
    The same response through ``Chain.portaudio_callback``, called by a C thread on a timer of 1.333 ms while Python's
    main thread spins; CPU time per callback. "empty" is the same timer without a callback: what the machine itself
    costs. Mallocs on that thread are counted by the preloaded library of the tests.

Every block's time is kept, so extras have mean, median, p99.9 and the largest, in microseconds.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from elinvar import audio
from elinvar.bench import Result, Samples, interleave
from elinvar.runtime.parallel import set_threads

RATE = 48_000
CASES = ((10.0, 64), (2.0, 256))
CALLS = 20_000
NATIVE = Path(__file__).parent.parent / "tests" / "audio" / "native.c"


def response(seconds: float) -> np.ndarray:
    n = round(seconds * RATE)
    noise = np.random.default_rng(1).standard_normal(n) * np.exp(-6.9 * np.arange(n) / n)
    return (noise / np.sqrt((noise**2).sum())).astype(np.float32)


def elinvar_row(seconds: float, block: int) -> Callable[[np.ndarray, np.ndarray], object]:
    live = audio.Convolver(response(seconds)).prepare(RATE, block, 1)
    return live.process


def pedalboard_row(seconds: float, block: int) -> Callable[[np.ndarray, np.ndarray], object]:
    import pedalboard

    effect = pedalboard.Convolution(response(seconds)[None], 1.0, RATE)
    return lambda x, y: effect.process(x, RATE, buffer_size=block, reset=False)  # noqa: ARG005


@contextlib.contextmanager
def undisturbed() -> Iterator[bool]:
    """Real-time priority, where it may be had: what other programs do to this core's caches is not ours to measure."""
    try:
        before = os.sched_getscheduler(0)
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(10))
    except (AttributeError, OSError):
        yield False
        return
    try:
        yield True
    finally:
        os.sched_setscheduler(0, before, os.sched_param(0))


def per_call(fn: Callable[[np.ndarray, np.ndarray], object], block: int, calls: int) -> np.ndarray:
    """CPU time in microseconds of each call, the clock's own taken off."""
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, (1, 64 * block)).astype(np.float32)
    blocks = [np.ascontiguousarray(noise[:, i : i + block]) for i in range(0, 64 * block, block)]
    y = np.empty((1, block), np.float32)
    clock, spent = time.thread_time_ns, np.empty(calls)
    for i in range(calls + 200):
        x = blocks[i % 64]
        begin = clock()
        fn(x, y)
        spent[max(0, i - 200)] = clock() - begin
    empty = np.empty(2000)
    for i in range(2000):
        begin = clock()
        empty[i] = clock() - begin
    return (spent - np.median(empty)) / 1e3


def worst_place(seconds: float, block: int) -> dict[str, float]:
    """The schedule's own peak: the median of each callback of the longest cycle, and the largest of these.

    What the machine adds (interrupts, other programs) hits every place alike and drops out of the medians.
    """
    live = audio.Convolver(response(seconds)).prepare(RATE, block, 1)
    cycle, repeats = max(live.ladder.stages) // block, 31
    us = per_call(live.process, block, cycle * repeats).reshape(repeats, cycle)
    each = np.median(us, axis=0)
    return {"callbacks_per_cycle": cycle, "mean_us": float(each.mean()), "worst_us": float(each.max())}


def summary(us: np.ndarray, block: int) -> dict[str, float]:
    budget = 1e6 * block / RATE
    return {
        "mean_us": float(us.mean()), "median_us": float(np.median(us)), "p99.9_us": float(np.quantile(us, 0.999)),
        "max_us": float(us.max()), "p99.9_share_of_budget": float(np.quantile(us, 0.999) / budget),
        "real_time_factor": float(budget / us.mean()),
    }  # fmt: skip


class Run(ctypes.Structure):
    _fields_ = [
        ("callback", ctypes.c_void_p), ("user", ctypes.c_void_p), ("input", ctypes.c_void_p),
        ("output", ctypes.c_void_p), ("frames", ctypes.c_uint64), ("channels_in", ctypes.c_uint64),
        ("channels_out", ctypes.c_uint64), ("blocks", ctypes.c_uint64), ("period_ns", ctypes.c_int64),
        ("done", ctypes.c_int64), ("late", ctypes.c_int64), ("allocations", ctypes.c_int64),
        ("realtime", ctypes.c_int64),
        ("cpu_ns", ctypes.c_void_p),
    ]  # fmt: skip


def on_the_timer(library: str, empty: bool, blocks: int) -> dict[str, Any]:
    """In this process, preloaded with `library`: 64-sample callbacks of a 10 s response beside a spinning thread."""
    native = ctypes.CDLL(library)
    chain = audio.Chain([audio.Convolver(response(10.0))]).prepare(RATE, 64, 1)
    x = np.random.default_rng(0).uniform(-0.5, 0.5, (64 * blocks, 1)).astype(np.float32)
    y, cpu = np.empty_like(x), np.zeros(blocks, np.int64)
    callback = None if empty else chain.portaudio_callback
    run = Run(callback, chain.root.ctypes.data, x.ctypes.data, y.ctypes.data, 64, 1, 1, blocks,
              round(64e9 / RATE), 0, 0, -1, 0, cpu.ctypes.data)  # fmt: skip
    native.start(ctypes.byref(run))
    count = 0
    while run.done < blocks:
        count += sum(i * i for i in range(100))
    native.join()
    return {
        "late": run.late,
        "blocks": blocks,
        "realtime_priority": bool(run.realtime),
        "mallocs": run.allocations,
        **summary(cpu[100:] / 1e3, 64),
    }


def timer(blocks: int, rounds: int) -> dict[str, Any]:
    """Both callbacks in processes of their own, in turn."""
    found: dict[str, Any] = {"empty": [], "convolver": []}
    with tempfile.TemporaryDirectory() as folder:
        library = f"{folder}/native.so"
        build = ["g++", "-O2", "-shared", "-fPIC", "-x", "c", str(NATIVE), "-o", library, "-ldl", "-lpthread"]
        subprocess.run(build, check=True)
        for _ in range(rounds):
            for name, told in found.items():
                command = [sys.executable, __file__, "--timer", library, name, str(blocks)]
                environment = {**os.environ, "LD_PRELOAD": library}
                done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
                told.append(json.loads(done.stdout.splitlines()[-1]))
    return found


def spinner(seconds: float, block: int) -> Callable[[np.ndarray, np.ndarray], object]:
    """A compiled loop that takes as long as the convolver and touches no memory: its p99.9 is the machine's."""
    import numba

    @numba.njit
    def spin(n: int) -> float:
        total = 0.0
        for _ in range(n):
            total = total * 1.0000001 + 1.0
        return total

    spin(1)
    fn = elinvar_row(seconds, block)
    one = np.median(per_call(lambda x, y: spin(10_000), block, 500))  # noqa: ARG005
    n = round(10_000 * np.median(per_call(fn, block, 500)) / one)
    return lambda x, y: spin(n)  # noqa: ARG005


def error(seconds: float, block: int) -> float:
    """Relative root mean square error of the stream against scipy in float64, over four seconds of noise."""
    from scipy.signal import fftconvolve

    x = np.random.default_rng(2).uniform(-0.5, 0.5, (1, 4 * RATE // block * block)).astype(np.float32)
    live = audio.Convolver(response(seconds)).prepare(RATE, block, 1)
    y = np.concatenate(
        [live.process(np.ascontiguousarray(x[:, i : i + block])) for i in range(0, x.shape[1], block)], 1
    )
    want = fftconvolve(x[0].astype(np.float64), response(seconds).astype(np.float64))[: x.shape[1]]
    return float(np.sqrt(((y[0] - want) ** 2).mean() / (want**2).mean()))


def run(*, runs: int = 15, warmup: int = 3, calls: int = CALLS, timed: bool = True) -> Result:
    before = set_threads(1)
    samples: dict[str, Samples] = {}
    extras: dict[str, Any] = {}
    try:
        for seconds, block in CASES:
            name = f"{seconds:g} s, {block}"
            made = {f"elinvar, {name}": elinvar_row(seconds, block)}
            try:
                made[f"pedalboard, {name}"] = pedalboard_row(seconds, block)
            except ImportError:
                extras["peer"] = "pedalboard is not installed"
            x, y = np.zeros((1, block), np.float32), np.empty((1, block), np.float32)
            many = {row: (lambda fn=fn: [fn(x, y) for _ in range(1000)]) for row, fn in made.items()}  # noqa: B023
            samples |= interleave(many, runs=runs, warmup=warmup, clock="thread_cpu")
            extras[name] = {row: summary(per_call(fn, block, calls), block) for row, fn in made.items()}
            spin = spinner(seconds, block)
            with undisturbed() as granted:  # a second at most: the others on this machine wait for it
                if granted:
                    fn = made[f"elinvar, {name}"]
                    extras[name]["elinvar, real-time priority"] = summary(per_call(fn, block, calls), block)
                    extras[name]["a loop as long, real-time priority"] = summary(per_call(spin, block, calls), block)
            extras[name]["schedule"] = worst_place(seconds, block)
            extras[name]["a loop as long, for comparison"] = summary(
                per_call(spinner(seconds, block), block, calls), block
            )
            extras[name]["relative_rms_error"] = error(seconds, block)
            if len(made) == 2:
                ours, theirs = (extras[name][row]["mean_us"] for row in made)
                extras[name]["times_less_cpu"] = theirs / ours
                medians = [samples[row].median for row in made]
                extras[name]["times_less_cpu_interleaved"] = medians[1] / medians[0]
    finally:
        set_threads(before)
    if timed and sys.platform == "linux":
        extras["C timer, spinning Python thread"] = timer(4000, 3)
    return Result(name="audio_streaming", samples=samples, extras=extras)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--timer"]:
        print(json.dumps(on_the_timer(sys.argv[2], sys.argv[3] == "empty", int(sys.argv[4]))))
    else:
        result = run()
        result.write(Path(__file__).parent / "results" / "audio_streaming.json")
        print(json.dumps(result.extras, indent=1))
