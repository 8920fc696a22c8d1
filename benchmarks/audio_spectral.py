"""Transforms and spectrograms on one thread beside librosa, scipy, torch and numpy.

Rows
----
rFFT n x 1024
    Real transforms of 1024 rows of float32, n from 512 to 16384: ``audio.rfft`` (which picks the library it measured
    fastest, its own kernels included), scipy.fft, torch.fft and numpy.fft.
STFT, ISTFT
    10 s of stereo at 48 kHz, 2048 samples every 512, float32, centred, as each library does it.

CPU time of one thread, interleaved; errors against float64.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from elinvar import audio
from elinvar.audio import fourier
from elinvar.bench import Result, Samples, compare, interleave
from elinvar.runtime.parallel import set_threads

RATE = 48_000
Calls = dict[str, Callable[[], Any]]


def transforms(n: int, device: str) -> Calls:
    import scipy.fft

    x = np.random.default_rng(0).standard_normal((1024, n)).astype(np.float32)
    tensor = torch.from_numpy(x)
    if device != "cpu":
        there = tensor.to(device)
        return {"elinvar": lambda: audio.rfft(there), "torch": lambda: torch.fft.rfft(there)}
    return {
        "elinvar": lambda: audio.rfft(x), "scipy": lambda: scipy.fft.rfft(x), "torch": lambda: torch.fft.rfft(tensor),
        "numpy": lambda: np.fft.rfft(x),
    }  # fmt: skip


def spectrograms() -> tuple[Calls, Calls]:
    import scipy.signal

    x = np.random.default_rng(0).uniform(-0.5, 0.5, (2, 10 * RATE)).astype(np.float32)
    tensor, window = torch.from_numpy(x), torch.hann_window(2048)
    ours = audio.STFT(2048, 512)
    spectrum = ours(x)
    there = torch.from_numpy(spectrum)
    theirs = scipy.signal.ShortTimeFFT(audio.window("hann", 2048), 512, RATE)
    at_scipy = theirs.stft(x)
    forward: Calls = {
        "elinvar": lambda: ours(x),
        "torch": lambda: torch.stft(tensor, 2048, 512, window=window, return_complex=True),
        "scipy": lambda: theirs.stft(x),
    }
    inverse: Calls = {
        "elinvar": lambda: ours.inverse(spectrum, x.shape[1]),
        "torch": lambda: torch.istft(there, 2048, 512, window=window, length=x.shape[1]),
        "scipy": lambda: theirs.istft(at_scipy, k1=x.shape[1]),
    }
    try:
        import librosa

        at_librosa = librosa.stft(x, n_fft=2048, hop_length=512, pad_mode="reflect")
        forward["librosa"] = lambda: librosa.stft(x, n_fft=2048, hop_length=512, pad_mode="reflect")
        inverse["librosa"] = lambda: librosa.istft(at_librosa, hop_length=512, length=x.shape[1])
    except ImportError:
        pass
    return forward, inverse


def errors() -> dict[str, float]:
    x = np.random.default_rng(1).uniform(-0.5, 0.5, (2, RATE)).astype(np.float32)
    wide = torch.from_numpy(x).double()
    want = torch.stft(wide, 2048, 512, window=torch.hann_window(2048, dtype=torch.float64), return_complex=True).numpy()
    found = audio.stft(x, 2048, 512)
    row = np.fft.rfft(x.astype(np.float64)[:, :16384])
    return {
        "STFT, largest error over largest magnitude": float(np.abs(found - want).max() / np.abs(want).max()),
        "round trip, largest error": float(np.abs(audio.istft(found, 512, length=RATE) - x).max()),
        "rFFT 16384, largest error over largest magnitude": float(
            np.abs(audio.rfft(x[:, :16384]) - row).max() / np.abs(row).max()
        ),
    }


def run(*, runs: int = 31, warmup: int = 3, device: str = "cpu") -> Result:
    before, torch_before = set_threads(1), torch.get_num_threads()
    torch.set_num_threads(1)
    clock = "thread_cpu" if device == "cpu" else "cuda_events"
    samples: dict[str, Samples] = {}
    ratios: dict[str, Any] = {}
    try:
        groups = {f"rFFT {2**p} x 1024": transforms(2**p, device) for p in range(9, 15)}
        if device == "cpu":
            groups["STFT"], groups["ISTFT"] = spectrograms()
        for name, calls in groups.items():
            measured = interleave(calls, runs=runs, warmup=warmup, clock=clock)
            samples |= {f"{name}, {who}": row for who, row in measured.items()}
            others = {who: row for who, row in measured.items() if who != "elinvar"}
            best = min(others, key=lambda who: others[who].median)
            verdict = compare(others[best], measured["elinvar"])
            ratios[name] = {who: row.median / measured["elinvar"].median for who, row in others.items()}
            ratios[name]["against the best of them"] = f"{best}: {verdict.word}"
    finally:
        set_threads(before)
        torch.set_num_threads(torch_before)
    chosen = {str(2**p): fourier.backend("rfft", 2**p) for p in range(9, 15)}
    extras = {"times as fast as": ratios, "rFFT by": chosen, "errors": errors()}
    return Result(name="audio_spectral", samples=samples, extras=extras)


if __name__ == "__main__":
    result = run()
    result.write(Path(__file__).parent / "results" / "audio_spectral.json")
    print(json.dumps(result.extras, indent=1))
