"""Layers for live audio: one LSTM step beside torch's, GroupNorm's algorithms, linear layers by rows.

Rows
----
elinvar LSTM step, torch nn.LSTM step, torch nn.LSTMCell
    256 units, 256 inputs, a batch of 1, no gradients.
elinvar GRU step, torch nn.GRU step
    600 units, as in the speech denoiser.
GroupNorm standard / kahan / welford / float64, torch GroupNorm
    One group of 515,940 samples. The errors at six offsets are in the extras.
Linear, 1 row, torch Linear, 1 row
    512 x 512.

CPU time of one thread, interleaved.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from elinvar.audio import nn
from elinvar.bench import Result, Samples, interleave
from elinvar.runtime.parallel import set_threads

ALGORITHMS = ("standard", "kahan", "welford", "float64")
OFFSETS = ((0.0, 1.0), (100.0, 1.0), (1e3, 1.0), (1e4, 1.0), (1e5, 1.0), (3000.0, 0.01))


def steps() -> dict[str, Callable[[], object]]:
    torch.manual_seed(0)
    lstm, gru, cell = nn.LSTM(256, 256), nn.GRU(600, 600), torch.nn.LSTMCell(256, 256)
    torch_lstm, torch_gru = torch.nn.LSTM(256, 256), torch.nn.GRU(600, 600)
    x, y = torch.randn(1, 1, 256), torch.randn(1, 1, 600)
    lstm_stream, gru_stream = lstm.stream(), gru.stream()
    row, other = x[0], y[0]
    linear, torch_linear, z = nn.Linear(512, 512), torch.nn.Linear(512, 512), torch.randn(1, 512)
    return {
        "elinvar LSTM step": lambda: lstm_stream.step(row),
        "torch nn.LSTM step": lambda: torch_lstm(x),
        "torch nn.LSTMCell": lambda: cell(row),
        "elinvar GRU step": lambda: gru_stream.step(other),
        "torch nn.GRU step": lambda: torch_gru(y),
        "elinvar Linear, 1 row": lambda: linear(z),
        "torch Linear, 1 row": lambda: torch_linear(z),
    }


def norms() -> dict[str, Callable[[], object]]:
    x = torch.randn(1, 6, 85990)
    rows: dict[str, Callable[[], object]] = {}
    for name in ALGORITHMS:
        layer = nn.GroupNorm(1, 6, algorithm=name)
        rows[f"GroupNorm {name}"] = lambda layer=layer: layer(x)  # type: ignore[misc]
    plain = torch.nn.GroupNorm(1, 6)
    return {**rows, "torch GroupNorm": lambda: plain(x)}


def errors() -> list[dict[str, Any]]:
    """Largest error of the normalised output, against float64."""
    found = []
    for offset, sd in OFFSETS:
        x = (offset + sd * np.random.default_rng(0).standard_normal((1, 6, 85990))).astype(np.float32)
        wide = x.astype(np.float64)
        want = (wide - wide.mean()) / np.sqrt(wide.var() + 1e-5)
        layers = {name: nn.GroupNorm(1, 6, algorithm=name) for name in ALGORITHMS}
        row: dict[str, Any] = {"offset": offset, "sd": sd}
        for name, layer in {**layers, "torch": torch.nn.GroupNorm(1, 6)}.items():
            row[name] = float(np.abs(layer(torch.from_numpy(x)).numpy() - want).max())
        found.append(row)
    return found


def run(*, runs: int = 31, warmup: int = 3) -> Result:
    before = torch.get_num_threads(), set_threads(1)
    torch.set_num_threads(1)
    try:
        with torch.no_grad():
            samples: dict[str, Samples] = interleave(steps(), runs=runs, warmup=warmup, clock="thread_cpu", inner=100)
            samples |= interleave(norms(), runs=runs, warmup=warmup, clock="thread_cpu", inner=5)
            table = errors()
            thresholds = {
                f"{n} x {n}": {str(rows): {"vectors_s": few, "product_s": many} for rows, (few, many) in found.items()}
                for n in (64, 512)
                for found in (nn.Linear(n, n).tune(),)
            }
    finally:
        torch.set_num_threads(before[0])
        set_threads(before[1])
    s = {name: row.median for name, row in samples.items()}
    ratios = {
        "nn.LSTM step / elinvar": s["torch nn.LSTM step"] / s["elinvar LSTM step"],
        "nn.LSTMCell / elinvar": s["torch nn.LSTMCell"] / s["elinvar LSTM step"],
        "nn.GRU step / elinvar": s["torch nn.GRU step"] / s["elinvar GRU step"],
        "Linear, 1 row: torch / elinvar": s["torch Linear, 1 row"] / s["elinvar Linear, 1 row"],
    }
    return Result("audio_layers", samples, extras={"ratios": ratios, "GroupNorm": table, "Linear": thresholds})


if __name__ == "__main__":
    result = run()
    result.write(Path(__file__).parent / "results" / "audio_layers.json")
    for name, row in result.samples.items():
        print(f"{name:26s} {1e6 * row.median:9.1f} us")
    print(json.dumps(result.extras, indent=1))
