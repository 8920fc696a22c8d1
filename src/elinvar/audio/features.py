"""Magnitudes, decibels, mel spectrograms and cepstral coefficients, as librosa defines them."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from elinvar.errors import InputError

from ._check import Array, Signal, choice, count, number, rate
from .spectral import STFT

__all__ = ["db", "magnitude", "mel_filters", "mel_spectrogram", "mfcc", "power"]


def magnitude(X: Any) -> Any:
    """Return the absolute value of a spectrogram, float32."""
    return X.abs() if hasattr(X, "abs") else np.abs(X)


def power(X: Any) -> Any:
    """Return the squared absolute value of a spectrogram, float32."""
    return X.real**2 + X.imag**2


def db(x: Any, reference: float = 1.0, *, floor: float = 1e-10, top: float | None = None, of: str = "power") -> Any:
    """Return decibels: 10 log10 of powers, 20 log10 of amplitudes.

    Parameters
    ----------
    x
        Non-negative numbers, numpy array or tensor.
    reference
        What counts as 0 dB.
    floor
        Smallest power (squared amplitude) told apart from silence.
    top
        Lift everything to at least this many dB below the loudest.
    of
        "power" or "amplitude".
    """
    choice("db", "of", of, ("power", "amplitude"))
    unit = number("db", "reference", reference, low=0.0, open_low=True)
    exponent = 1.0 if of == "power" else 2.0
    if isinstance(x, np.ndarray) or np.isscalar(x):
        level: Any = 10.0 * np.log10(np.maximum(floor, np.abs(x) ** exponent)) - 10.0 * exponent * np.log10(unit)
        level = np.asarray(level, np.asarray(x).dtype if np.asarray(x).dtype.kind == "f" else np.float64)
        return level if top is None or level.size == 0 else np.maximum(level, level.max() - top)
    import torch

    level = 10.0 * torch.log10(torch.clamp(x.abs() ** exponent, min=floor)) - 10.0 * exponent * float(np.log10(unit))
    return level if top is None or level.numel() == 0 else torch.maximum(level, level.max() - top)


def _to_mel(f: NDArray[np.float64], htk: bool) -> NDArray[np.float64]:
    if htk:
        return np.asarray(2595.0 * np.log10(1.0 + f / 700.0))
    # Slaney (1998): linear below 1 kHz, 27 steps per factor of 6.4 above
    logarithmic = 15.0 + np.log(np.maximum(f, 1e-10) / 1000.0) / (np.log(6.4) / 27.0)
    return np.where(f < 1000.0, f * 3.0 / 200.0, logarithmic)


def _from_mel(m: NDArray[np.float64], htk: bool) -> NDArray[np.float64]:
    if htk:
        return np.asarray(700.0 * (10.0 ** (m / 2595.0) - 1.0))
    return np.where(m < 15.0, m * 200.0 / 3.0, 1000.0 * np.exp((m - 15.0) * np.log(6.4) / 27.0))


@lru_cache(maxsize=16)
def _filters(hertz: float, n_fft: int, bands: int, low: float, high: float, htk: bool, normalized: bool) -> Array:
    edges = _to_mel(np.array([low, high]), htk)
    corners = _from_mel(np.linspace(edges[0], edges[1], bands + 2), htk)
    bins = np.fft.rfftfreq(n_fft, 1.0 / hertz)
    rising = (bins - corners[:-2, None]) / np.diff(corners)[:-1, None]
    falling = (corners[2:, None] - bins) / np.diff(corners)[1:, None]
    weights = np.maximum(0.0, np.minimum(rising, falling))
    if normalized:
        weights *= (2.0 / (corners[2:] - corners[:-2]))[:, None]
    found = weights.astype(np.float32)
    found.setflags(write=False)
    return found


def mel_filters(
    sample_rate: float, n_fft: int, n_mels: int = 128, fmin: float = 0.0, fmax: float | None = None, *,
    htk: bool = False, normalized: bool = True,
) -> Array:  # fmt: skip
    """Return triangular filters [n_mels, n_fft // 2 + 1], evenly spaced in mel.

    Parameters
    ----------
    sample_rate, fmin, fmax
        Hz; fmax is half the sampling rate by default.
    htk
        O'Shaughnessy's formula instead of Slaney's.
    normalized
        Area 1 per filter (Slaney) instead of height 1.
    """
    hertz = rate("mel_filters", sample_rate)
    top = hertz / 2 if fmax is None else number("mel_filters", "fmax", fmax, low=0.0, high=hertz / 2, open_low=True)
    low = number("mel_filters", "fmin", fmin, low=0.0, high=top, open_high=True)
    n, bands = count("mel_filters", "n_fft", n_fft, minimum=2), count("mel_filters", "n_mels", n_mels)
    return _filters(hertz, n, bands, low, top, htk, normalized)


def mel_spectrogram(
    x: Signal, sample_rate: float, *, stft: STFT | None = None, n_mels: int = 128, fmin: float = 0.0,
    fmax: float | None = None, htk: bool = False,
) -> Any:  # fmt: skip
    """Return the power in mel bands, float32 [..., n_mels, frames]; stft is ``STFT()`` by default."""
    transform = STFT() if stft is None else stft
    filters = mel_filters(sample_rate, transform.n_fft, n_mels, fmin, fmax, htk=htk)
    energy = power(transform(x))
    if isinstance(energy, np.ndarray):
        return np.matmul(filters, energy)
    import torch

    return torch.matmul(torch.from_numpy(filters.copy()).to(energy.device), energy)


def mfcc(x: Signal, sample_rate: float, n_mfcc: int = 20, **options: Any) -> Any:
    """Return cepstral coefficients [..., n_mfcc, frames]: the orthonormal cosine transform (II) of mel bands in dB.

    `options` are those of `mel_spectrogram`. Levels are lifted to at most 80 dB below the loudest, as in librosa.
    """
    bands = db(mel_spectrogram(x, sample_rate, **options), top=80.0)
    n, wanted = bands.shape[-2], count("mfcc", "n_mfcc", n_mfcc)
    if wanted > n:
        raise InputError(f"mfcc: n_mfcc is {wanted} and there are {n} mel bands; give at most as many.")
    table = np.cos(np.pi / n * np.outer(np.arange(wanted), np.arange(n) + 0.5)) * np.sqrt(2.0 / n)
    table[0] *= np.sqrt(0.5)
    if isinstance(bands, np.ndarray):
        return np.matmul(table.astype(np.float32), bands)
    import torch

    return torch.matmul(torch.from_numpy(table.astype(np.float32)).to(bands.device), bands)
