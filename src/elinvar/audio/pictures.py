"""Spectrograms as pictures, without a plotting library."""

from __future__ import annotations

import numpy as np

from elinvar.errors import InputError
from elinvar.report.png import colour

from ._check import Array, number
from .features import db, mel_filters, power
from .spectral import STFT

__all__ = ["spectrogram_levels", "spectrogram_png"]


def spectrogram_levels(
    x: Array, sample_rate: float, stft: STFT, *, mel: int | None = None, span: float = 90.0
) -> Array:
    """Return levels from 0 (`span` dB below the loudest) to 1, [frequencies, frames], lowest frequency first."""
    reach = number("spectrogram", "span", span, low=1.0, high=300.0)
    energy = power(stft(x))
    if mel is not None:
        energy = mel_filters(sample_rate, stft.n_fft, mel) @ energy
    if energy.size == 0:
        raise InputError(f"spectrogram: {x.shape[-1]} samples make no frame of {stft.n_fft}; give a longer signal.")
    level = db(energy, floor=1e-20)
    found: Array = np.clip((level - level.max()) / reach + 1.0, 0.0, 1.0).astype(np.float32)
    return found


def spectrogram_png(
    x: Array, sample_rate: float, stft: STFT, *, mel: int | None = None, span: float = 90.0
) -> tuple[bytes, tuple[int, int]]:
    """Return a PNG with high frequencies on top, and its (height, width); one pixel per frequency and frame."""
    levels = spectrogram_levels(x, sample_rate, stft, mel=mel, span=span)
    return colour(levels[::-1], "heat", (0.0, 1.0)), (levels.shape[0], levels.shape[1])
