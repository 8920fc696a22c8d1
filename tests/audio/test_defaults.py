"""What a program has made torch's default dtype and device changes no result."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from fractions import Fraction
from typing import Any

import pytest
import torch

from elinvar import audio
from elinvar.audio import nn
from elinvar.audio.denoise_weights import DenoiserSizes
from elinvar.audio.htdemucs_weights import Bag
from elinvar.runtime.kernels import kernels, versions

RATE = 8000


@contextlib.contextmanager
def hostile(dtype: torch.dtype) -> Iterator[None]:
    """Run with defaults nobody expects; "meta" tensors have no data, so that whatever lands there is seen."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device("meta"):
            yield
    finally:
        torch.set_default_dtype(before)


def leaves(value: Any) -> list[torch.Tensor]:
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, (tuple, list)):
        return [leaf for part in value for leaf in leaves(part)]
    if value is None or isinstance(value, (str, bool)):
        return []
    return [value if isinstance(value, torch.Tensor) else torch.tensor(value, dtype=torch.float64, device="cpu")]


def tone(*shape: int) -> torch.Tensor:
    make = torch.Generator(device="cpu").manual_seed(0)
    return 0.2 * torch.randn(*shape, generator=make, dtype=torch.float32, device="cpu")


SIGNALS: dict[str, Callable[[], Any]] = {
    "stft": lambda: audio.stft(tone(2, 3000), 256, 64),
    "istft": lambda: audio.istft(audio.stft(tone(2, 3000), 256, 64), 256, 64, length=3000),
    "stft with gradients": lambda: audio.stft(tone(2, 3000).requires_grad_(), 256, 64).detach(),
    "rfft": lambda: audio.rfft(tone(3, 1000)),
    "mel": lambda: audio.mel_spectrogram(tone(1, 3000), RATE, n_mels=20),
    "mfcc": lambda: audio.mfcc(tone(1, 3000), RATE, n_mels=20),
    "convolve": lambda: audio.convolve(tone(2, 3000), tone(500)),
    "convolve with gradients": lambda: audio.convolve(tone(2, 3000).requires_grad_(), tone(500)).detach(),
    "biquad": lambda: audio.Biquad.peaking(500, 2, 6, RATE)(tone(2, 3000)),
    "resample": lambda: audio.resample(tone(2, 3000), RATE, 6000),
    "loudness": lambda: audio.loudness(tone(2, 48000), 48000).integrated,
    "chain": lambda: audio.Chain([audio.Gain(3.0), audio.Biquad.lowpass(500, 0.7, RATE)])(tone(2, 3000), RATE),
    "lstm step": lambda: LSTM.stream().step(tone(1, 6)),
    "linear": lambda: LINEAR(tone(2, 6)),
    "norm": lambda: NORM(tone(2, 6, 50)),
    "chunked": lambda: nn.ChunkedInference(torch.tanh, 64, 16)(tone(1, 500)),
    "sequential": lambda: nn.Sequential(LINEAR, torch.nn.Tanh()).build((2, 6))(tone(2, 6)),
    "session": lambda: nn.InferenceSession(LINEAR, (2, 6)).run(tone(2, 6)),
    "convolution": lambda: CONV.reuse_outputs()(tone(1, 6, 40)).clone(),
}
with torch.random.fork_rng():
    torch.manual_seed(0)
    LSTM, LINEAR, NORM, CONV = nn.LSTM(6, 5), nn.Linear(6, 5), nn.GroupNorm(2, 6), nn.Conv1d(6, 5, 3, padding=1)
for layer in (LSTM, LINEAR, NORM, CONV):
    layer.requires_grad_(False)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
@pytest.mark.parametrize("name", SIGNALS)
def test_signals_and_layers(name: str, dtype: torch.dtype) -> None:
    if name == "resample":
        pytest.importorskip("soxr")
    want = leaves(SIGNALS[name]())
    with hostile(dtype):
        got = leaves(SIGNALS[name]())
    for one, other in zip(got, want, strict=True):
        assert one.dtype == other.dtype
        assert torch.equal(one, other)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_separation(make_htdemucs: Callable[..., Any], dtype: torch.dtype) -> None:
    sizes = {"channels": 8, "depth": 2, "n_fft": 128, "bottom_channels": 32, "layers": 2, "heads": 4}
    config = audio.HTDemucsConfig(sample_rate=800, segment=Fraction(29, 20), **sizes)
    torch.manual_seed(0)
    state = audio.HTDemucs(config=config).state_dict()

    def work() -> list[torch.Tensor]:
        with torch.device("cpu"):  # like all modules of torch it would be made where the default says
            model = audio.HTDemucs(config=config)
        assert all(p.dtype == torch.float32 for p in model.parameters())
        model.load_state_dict(state)
        bag = Bag([model, model])
        how: dict[str, Any] = {"device": "cpu", "shifts": 1}
        found = [audio.separate(tone(2, 3000), 800, bag, precision="bf16", **how)]
        found += [audio.separate(tone(2, 3000), 800, model, mode=mode, **how) for mode in ("full", "preview")]
        assert audio.plan_separation(5.0, model, device="cpu").runs > 0
        return leaves(found)

    with hostile(dtype):  # first: caches must not remember it
        got = work()
    for one, other in zip(got, work(), strict=True):
        assert one.dtype == torch.float32
        assert torch.equal(one, other)


def test_denoising() -> None:
    sizes = DenoiserSizes(sample_rate=RATE, window=128, n_fft=128, hop=64)
    torch.manual_seed(0)
    state = audio.Denoiser(sizes, 12, 16).state_dict()

    def work() -> list[torch.Tensor]:
        model = audio.Denoiser(sizes, 12, 16)
        model.load_state_dict(state)
        model.requires_grad_(False)
        live = model.stream()
        return leaves([audio.denoise(tone(2, 3000), RATE, model), live.process(tone(1, 700))])

    want = work()
    with hostile(torch.float64):
        got = work()
    for one, other in zip(got, want, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("name", sorted({k.name for k in kernels() if k.name.startswith("audio.")}))
def test_self_checks(name: str) -> None:
    """A kernel that is first used under such defaults must not fail its check and be replaced."""
    version = versions(name)[0]
    want = version.tile(1)
    with hostile(torch.float64):
        got = version.tile(1)
        results = leaves(version.implementation("reference")(*got[0], **got[1]))
    for one, other in zip(leaves([got[0], got[1]]), leaves([want[0], want[1]]), strict=True):
        assert one.dtype == other.dtype
        assert one.shape == other.shape
    assert all(leaf.device.type == "cpu" for leaf in results)
