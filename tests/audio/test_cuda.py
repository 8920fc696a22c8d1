"""What an NVIDIA GPU changes: nothing but the speed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from elinvar import audio
from elinvar.audio._download import collect
from elinvar.audio._level import Level
from elinvar.audio.planning import plan_separation
from elinvar.audio.separation import separate
from elinvar.audio.separation_file import separate_file
from elinvar.runtime.transfers import transfers

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
RATE = 800


def relative(got: torch.Tensor, want: torch.Tensor) -> float:
    return float((got.cpu() - want).double().norm() / want.double().norm())


@pytest.fixture(scope="module")
def mix() -> torch.Tensor:
    return 0.3 * torch.randn(2, 9000, generator=torch.Generator().manual_seed(5))


@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 2e-5), ("fp16", 5e-3), ("bf16", 3e-2)])
@pytest.mark.parametrize("batch", [1, 5, None])  # a recorded graph; a last batch that is smaller; the default
def test_separation_equals_the_cpus(
    make_htdemucs: Callable[..., Any], mix: torch.Tensor, precision: str, tolerance: float, batch: int | None
) -> None:
    want = separate(mix, RATE, make_htdemucs(), device="cpu")
    model = make_htdemucs()
    got = separate(mix, RATE, model, device="cuda", precision=precision, batch=batch)
    assert got["voice"].device.type == "cpu"
    assert relative(got["voice"], want["voice"]) < tolerance
    again = separate(mix, RATE, model, device="cuda", precision=precision, batch=batch)
    assert relative(again["rest"], got["rest"]) < (1e-6 if precision == "fp32" else 1e-2)


def test_what_is_on_the_gpu_stays_there(make_htdemucs: Callable[..., Any], mix: torch.Tensor) -> None:
    model = make_htdemucs()
    want = separate(mix, RATE, model, device="cpu")["voice"]
    with transfers.count() as counter:
        got = separate(mix.cuda(), RATE, model, device="cuda")["voice"]
    assert got.device.type == "cuda"
    assert counter.d2h_bytes == 0
    assert relative(got, want) < 2e-5
    with transfers.count() as counter:
        separate(mix, RATE, model, device="cuda")
    assert counter.d2h_bytes == 2 * 2 * 9000 * 4  # every sample of every stem once


def test_plan_counts_the_batch(make_htdemucs: Callable[..., Any]) -> None:
    model = make_htdemucs()
    one = plan_separation(60.0, model, device="cuda", batch=4)
    many = plan_separation(60.0, model, device="cuda", batch=64)
    assert many.work_bytes > 4 * one.work_bytes
    assert many.runs == one.runs


def test_what_is_collected_keeps_its_order_and_waits_for_the_last() -> None:
    out = torch.full((2, 2, 10_000), float("nan"))
    parts = torch.randn(2, 2, 10_000, device="cuda")
    made = ((start, parts[..., start : start + 700] + 0.0) for start in range(0, 10_000, 700))
    collect(made, out, parts.device, ahead=3)
    assert torch.equal(out, parts.cpu())


def test_levels_of_the_gpu_are_the_cpus(mix: torch.Tensor) -> None:
    for track in (mix, mix[:1], 1e-4 * mix + 0.5, torch.full((2, 3000), 0.25), mix[:, :1], mix[:, :0]):
        assert Level.of_tensor(track.cuda()) == Level.of_tensor(track)


@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 2e-5), ("fp16", 5e-3)])
@pytest.mark.parametrize(("rate", "channels", "batch"), [(RATE, 2, 1), (RATE, 2, None), (1200, 1, 3)])
def test_files_of_the_gpu_are_the_cpus(
    make_htdemucs: Callable[..., Any], tmp_path: Path, precision: str, tolerance: float, rate: int, channels: int,
    batch: int | None,
) -> None:  # fmt: skip
    sf = pytest.importorskip("soundfile")
    sf.write(tmp_path / "a.wav", 0.2 * np.random.default_rng(0).standard_normal((20_000, channels)), rate, "FLOAT")
    found = []
    for device in ("cpu", "cuda"):
        how = {"precision": precision, "batch": batch} if device == "cuda" else {}
        done = separate_file(tmp_path / "a.wav", tmp_path / device, make_htdemucs(), device=device, **how)
        found.append({name: torch.from_numpy(sf.read(path)[0]) for name, path in done.stems.items()})
    for name, want in found[0].items():
        assert found[1][name].shape == want.shape
        assert relative(found[1][name], want) < tolerance


def test_signals_of_the_gpu_come_back_to_it(mix: torch.Tensor) -> None:
    """Recursive filters have nothing to spread over a GPU: they run on the CPU and say so; convolution runs there."""
    response = 0.1 * np.random.default_rng(0).standard_normal(500).astype(np.float32)
    here = mix.cuda()
    for run in (
        audio.Biquad.lowpass(100, 0.7, RATE),
        audio.butterworth(4, 100, RATE),
        lambda x: audio.convolve(x, response),
        lambda x: audio.resample(x, RATE, 600),
        lambda x: audio.STFT(256, 64).inverse(audio.STFT(256, 64)(x), length=9000),
    ):
        got = run(here)
        assert got.device == here.device
        assert relative(got, run(mix)) < 1e-6
