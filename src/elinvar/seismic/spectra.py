"""Amplitude spectra of migrated traces: over frequency, and over frequency and wavenumber."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from elinvar.errors import InputError

from ._check import number

__all__ = ["amplitude_spectrum", "decibels", "frequency_wavenumber"]

Floats = NDArray[np.float64]


def _section(operation: str, values: ArrayLike) -> Floats:
    a = np.asarray(values, np.float64)
    if a.ndim != 2 or a.shape[1] < 2 or not np.isfinite(a).all():
        raise InputError(f"{operation}: a section of shape {a.shape} is given; (traces, samples), finite, is needed.")
    return a


def _taper(n: int) -> Floats:
    """Return a window that is 1 but for a cosine over a twentieth at either end: a cut-off trace must not ring."""
    edge = max(1, n // 20)
    ramp = 0.5 - 0.5 * np.cos(np.pi * (np.arange(edge) + 0.5) / edge)
    window = np.ones(n)
    window[:edge], window[n - edge :] = ramp, ramp[::-1]
    return window


def amplitude_spectrum(values: ArrayLike, dt: float) -> tuple[Floats, Floats]:
    """Return frequencies in Hz and the rms over traces of the amplitude there; silent traces are left out.

    Scaled so that a sine of amplitude 1 with whole periods in the window has the value 1.

    Parameters
    ----------
    values
        Traces (n, nt).
    dt
        Sample interval in seconds.
    """
    a = _section("amplitude_spectrum", values)
    step = number("amplitude_spectrum", "dt", dt, low=0.0, open_low=True)
    sounding = a[a.any(axis=1)]
    frequency = np.asarray(np.fft.rfftfreq(a.shape[1], step), np.float64)
    if not len(sounding):
        return frequency, np.zeros(len(frequency))
    window = _taper(a.shape[1])
    spectrum = np.abs(np.fft.rfft(sounding * window, axis=1)) * (2.0 / window.sum())
    return frequency, np.asarray(np.sqrt(np.square(spectrum).mean(axis=0)), np.float64)


def frequency_wavenumber(values: ArrayLike, dx: float, dt: float) -> tuple[Floats, Floats, Floats]:
    """Return wavenumbers (1/m), frequencies (Hz) and the amplitude at each pair, (wavenumbers, frequencies).

    An event at time ``t0 + p x`` lies on the line ``k = f p``: positive wavenumbers dip with growing x.

    Parameters
    ----------
    values
        A section (n, nt), traces `dx` metres and samples `dt` seconds apart.
    """
    a = _section("frequency_wavenumber", values)
    steps = [number("frequency_wavenumber", name, v, low=0.0, open_low=True) for name, v in (("dx", dx), ("dt", dt))]
    window = _taper(a.shape[0])[:, None] * _taper(a.shape[1])
    time = np.fft.rfft(a * window, axis=1)
    # In frequency an event at t0 + p x has the phase exp(-i w p x); the inverse transform over x finds it at k = f p.
    both = np.abs(np.fft.fftshift(np.fft.ifft(time, axis=0), axes=0)) * (2.0 * a.shape[0] / window.sum())
    k = np.asarray(np.fft.fftshift(np.fft.fftfreq(a.shape[0], steps[0])), np.float64)
    return k, np.asarray(np.fft.rfftfreq(a.shape[1], steps[1]), np.float64), np.asarray(both, np.float64)


def decibels(amplitude: ArrayLike, floor: float = -80.0) -> Floats:
    """Return amplitudes in dB below the largest one, not lower than `floor`."""
    a = np.abs(np.asarray(amplitude, np.float64))
    top = float(a.max(initial=0.0))
    if top == 0.0:
        return np.full(a.shape, floor)
    return np.maximum(20.0 * np.log10(np.maximum(a / top, 1e-300)), floor)
