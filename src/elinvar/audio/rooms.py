"""Reverb by convolution with a made room: exponentially decaying noise that darkens as it fades (Moorer 1979)."""

from __future__ import annotations

import numpy as np

from ._check import Array, count, number, rate
from .convolution import Convolver

__all__ = ["reverb", "room"]


def room(
    seconds: float,
    sample_rate: float,
    *,
    channels: int = 2,
    predelay: float = 0.01,
    damping: float = 0.5,
    seed: int = 0,
) -> Array:
    """Return an impulse response [channels, taps] of energy 1 per channel.

    Parameters
    ----------
    seconds
        Time until it is 60 dB down.
    predelay
        Seconds before the first reflection.
    damping
        0: as bright at the end as at the beginning; 1: high frequencies die ten times as fast.
    seed
        Of the noise; the same seed is the same room. Channels differ.
    """
    hertz = rate("room", sample_rate)
    t60 = number("room", "seconds", seconds, low=0.01, high=60.0)
    before = round(number("room", "predelay", predelay, low=0.0, high=1.0) * hertz)
    dark = number("room", "damping", damping, low=0.0, high=1.0)
    n = round(t60 * hertz)
    noise = np.random.default_rng(seed).standard_normal((count("room", "channels", channels), n))
    spectrum = np.fft.rfft(noise)
    frequency = np.linspace(0.0, 1.0, spectrum.shape[1])
    low = np.fft.irfft(spectrum / (1.0 + (4.0 * frequency) ** 2), n)  # a one-pole's power, from a quarter of Nyquist
    time = np.arange(n) / n
    ir = low * 10.0 ** (-3.0 * time) + (noise - low) * 10.0 ** (-3.0 * time * (1.0 + 9.0 * dark))
    ir /= np.sqrt((ir**2).sum(axis=1, keepdims=True))
    return np.pad(ir, ((0, 0), (before, 0))).astype(np.float32)


def reverb(
    seconds: float, sample_rate: float, *, mix: float = 0.3, channels: int = 2, predelay: float = 0.01,
    damping: float = 0.5, seed: int = 0,
) -> Convolver:  # fmt: skip
    """Return a Convolver whose response is (1 - mix) of the dry sound plus mix of a `room`."""
    wet = number("reverb", "mix", mix, low=0.0, high=1.0)
    ir = wet * room(seconds, sample_rate, channels=channels, predelay=predelay, damping=damping, seed=seed)
    ir[:, 0] += 1.0 - wet
    return Convolver(ir, sample_rate=sample_rate)
