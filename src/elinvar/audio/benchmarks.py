"""Measures for ``elinvar audio bench``: CPU time of one thread for the building blocks of this engine."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from elinvar.bench import Result, Samples, Work, interleave
from elinvar.runtime.parallel import set_threads

from . import fourier
from ._check import Array
from .convolution import Convolver, convolve
from .filters import Biquad, Cascade
from .fourier import FFT, rfft
from .rooms import room
from .spectral import STFT

__all__ = ["rate", "run"]

RATE = 48_000
Row = tuple[Callable[[], object], Work]
Make = Callable[[], Row]


def _noise(*shape: int) -> Array:
    return np.random.default_rng(0).uniform(-0.5, 0.5, shape).astype(np.float32)


def _transform(n: int, rows: int) -> Row:
    x = _noise(rows, n)
    return lambda: rfft(x), Work(items=float(rows), unit="transforms")


def _single(n: int) -> Row:
    plan, x, y = FFT(n), _noise(n), np.empty(n // 2 + 1, np.complex64)
    return lambda: plan.forward(x, y), Work(items=1.0, unit="transforms")


def _stft(hop: int, inverse: bool) -> Row:
    x, stft = _noise(2, 10 * RATE), STFT(2048, hop)
    spectrum = stft(x)
    fn = (lambda: stft.inverse(spectrum, x.shape[1])) if inverse else (lambda: stft(x))
    return fn, Work(items=2.0 * stft.frames(x.shape[1]), unit="frames")


def _stream(seconds: float, block: int) -> Row:
    live = Convolver(room(seconds, RATE, channels=1)[0]).prepare(RATE, block, 1)
    x, y = _noise(1, block), np.empty((1, block), np.float32)
    return lambda: live.process(x, y), Work(items=float(block), unit="samples")


def _long() -> Row:
    x, ir = _noise(60 * RATE), room(10.0, RATE, channels=1)[0]
    return lambda: convolve(x, ir), Work(items=float(x.size), unit="samples")


def _biquads(block: int) -> Row:
    live = Cascade([Biquad.peaking(200.0 * 3**k, 1.0, 3.0, RATE) for k in range(4)]).prepare(RATE, block, 2)
    x, y = _noise(2, block), np.empty((2, block), np.float32)
    return lambda: live.process(x, y), Work(items=float(block), unit="samples")


def _conv1d() -> Row:
    import torch

    layer, x = torch.nn.Conv1d(64, 64, 8, 4).eval(), torch.from_numpy(_noise(1, 64, 4096))

    def call() -> object:
        with torch.inference_mode():
            return layer(x)

    return call, Work(items=1024.0, unit="steps")


def _lstm() -> Row:
    import torch

    layer, x = torch.nn.LSTM(256, 256, batch_first=True).eval(), torch.from_numpy(_noise(1, 100, 256))

    def call() -> object:
        with torch.inference_mode():
            return layer(x)

    return call, Work(items=100.0, unit="steps")


def _rows() -> dict[str, Make]:
    found: dict[str, Make] = {}
    for power in range(9, 15):
        n = 2**power
        found[f"rFFT {n}, one"] = lambda n=n: _single(n)  # type: ignore[misc]
        found[f"rFFT {n}, 1024 rows"] = lambda n=n: _transform(n, 1024)  # type: ignore[misc]
    for overlap, hop in (("50", 1024), ("75", 512), ("87.5", 256)):
        name = f"STFT 2048, {overlap} % overlap, 10 s stereo"
        found[name] = lambda hop=hop: _stft(hop, inverse=False)  # type: ignore[misc]
    found["ISTFT 2048, 75 % overlap, 10 s stereo"] = lambda: _stft(512, inverse=True)
    for seconds, block in ((10.0, 64), (2.0, 256)):
        name = f"streaming convolution, {seconds:g} s response, blocks of {block}"
        found[name] = lambda seconds=seconds, block=block: _stream(seconds, block)  # type: ignore[misc]
    found["convolution, 60 s by 10 s"] = _long
    for block in (64, 256, 1024):
        found[f"4 biquads, stereo, blocks of {block}"] = lambda block=block: _biquads(block)  # type: ignore[misc]
    found["Conv1d 64 to 64, 8 taps, 4096 samples (torch)"] = _conv1d
    found["LSTM 256, 100 steps (torch)"] = _lstm
    return found


def run(
    *,
    runs: int = 15,
    warmup: int = 2,
    only: str | None = None,
    progress: Callable[[int, int | None], None] | None = None,
) -> Result:
    """Measure every row whose name contains `only`, on one thread.

    Returns
    -------
    Result
        `extras` has the library that `fourier.backend` chose for each length.
    """
    import torch

    chosen = {name: make for name, make in _rows().items() if only is None or only.lower() in name.lower()}
    samples: dict[str, Samples] = {}
    before, torch_before = set_threads(1), torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for done, (name, make) in enumerate(chosen.items(), 1):
            fn, work = make()
            samples |= interleave(
                {name: fn}, runs=runs, warmup=warmup, work={name: work}, clock="thread_cpu", inner="auto"
            )
            if progress is not None:
                progress(done, len(chosen))
    finally:
        set_threads(before)
        torch.set_num_threads(torch_before)
    backends: dict[str, Any] = {}
    for power in range(9, 15):
        backends[str(2**power)] = {
            "one": fourier.backend("rfft", 2**power, batch=False), "many": fourier.backend("rfft", 2**power)
        }  # fmt: skip
    return Result(name="audio", samples=samples, extras={"transforms by": backends})


def rate(row: Samples) -> str:
    """Return a row's throughput in words."""
    if row.work is None or row.work.items is None:
        return ""
    return f"{row.work.items / row.median:,.0f} {row.work.unit}/s"
