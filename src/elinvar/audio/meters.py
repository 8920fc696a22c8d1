"""Loudness as broadcasting measures it: ITU-R BS.1770-4, EBU R 128, EBU Tech 3342."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from elinvar.errors import InputError

from ._check import Signal, finite, number, optional_library, rate, signal
from .filters import Cascade

__all__ = ["Loudness", "k_weighting", "loudness", "normalize_loudness"]

_SURROUND = (1.0, 1.0, 1.0, 0.0, 1.41, 1.41)  # L R C LFE Ls Rs


@dataclass(frozen=True)
class Loudness:
    """What was measured; -inf for silence and for signals shorter than the window.

    Attributes
    ----------
    integrated
        LUFS of the whole, gated: what R 128 wants at -23.
    range
        LU between quiet and loud passages.
    momentary_max, short_term_max
        LUFS of the loudest 0.4 s and 3 s.
    true_peak
        dBTP: the loudest value between samples too, at four times the rate.
    sample_peak
        dBFS.
    """

    integrated: float
    range: float
    momentary_max: float
    short_term_max: float
    true_peak: float
    sample_peak: float


def k_weighting(sample_rate: float) -> Cascade:
    """Return BS.1770's two filters at any rate: its 48 kHz coefficients come from these analogue ones (De Man 2014)."""
    hertz = rate("k_weighting", sample_rate)
    k, q = math.tan(math.pi * 1681.974450955533 / hertz), 0.7071752369554196
    high = 10.0 ** (3.999843853973347 / 20.0)
    band = high**0.4996667741545416
    shelf = (
        high + band * k / q + k * k, 2.0 * (k * k - high), high - band * k / q + k * k,
        1.0 + k / q + k * k, 2.0 * (k * k - 1.0), 1.0 - k / q + k * k,
    )  # fmt: skip
    k, q = math.tan(math.pi * 38.13547087602444 / hertz), 0.5003270373238773
    scale = 1.0 + k / q + k * k
    low = (scale, -2.0 * scale, scale, scale, 2.0 * (k * k - 1.0), 1.0 - k / q + k * k)
    return Cascade([shelf, low])


def _lufs(energy: Any) -> Any:
    with np.errstate(divide="ignore"):
        return -0.691 + 10.0 * np.log10(energy)


def _windows(squares: NDArray[np.float64], length: int, hop: int) -> NDArray[np.float64]:
    """Mean of the weighted channel energies over windows of `length`, `hop` apart."""
    total = np.concatenate([[0.0], np.cumsum(squares)])
    starts = np.arange(0, len(squares) - length + 1, hop)
    mean: NDArray[np.float64] = (total[starts + length] - total[starts]) / length
    return np.asarray(np.maximum(mean, 0.0))


def _gated(blocks: NDArray[np.float64], below: float) -> NDArray[np.float64]:
    """Blocks above -70 LUFS and above their mean minus `below` LU."""
    loud: NDArray[np.float64] = blocks[_lufs(blocks) > -70.0]
    if len(loud) == 0:
        return loud
    kept: NDArray[np.float64] = loud[_lufs(loud) > _lufs(loud.mean()) - below]
    return kept


def loudness(x: Signal, sample_rate: float) -> Loudness:
    """Measure the loudness of a signal [channels, time] or [time].

    Parameters
    ----------
    x
        One to five channels count alike; six are 5.1 (L R C LFE Ls Rs), where surround counts 1.41 and LFE nothing.
    sample_rate
        Hz.
    """
    hertz = rate("loudness", sample_rate)
    samples, _ = signal("loudness", x)
    rows = np.atleast_2d(samples)
    if rows.ndim != 2 or len(rows) > 6:
        raise InputError(f"loudness: the signal has shape {samples.shape}; give [channels, time], at most 6.")
    finite("loudness", rows)
    weights = np.array(_SURROUND if len(rows) == 6 else (1.0,) * len(rows))
    weighted = k_weighting(hertz)(rows).astype(np.float64) if rows.shape[1] else rows.astype(np.float64)
    squares = weights @ (weighted**2)
    momentary = _windows(squares, round(0.4 * hertz), round(0.1 * hertz))
    short = _windows(squares, round(3.0 * hertz), round(0.1 * hertz))
    gated, spread = _gated(momentary, 10.0), _gated(short, 20.0)
    low, high = np.percentile(_lufs(spread), (10.0, 95.0)) if len(spread) else (0.0, 0.0)
    peak = float(np.abs(rows).max()) if rows.size else 0.0
    return Loudness(
        float(_lufs(gated.mean())) if len(gated) else -math.inf,
        float(high - low),
        float(_lufs(momentary.max())) if len(momentary) else -math.inf,
        float(_lufs(short.max())) if len(short) else -math.inf,
        _decibels(max(peak, _between(rows, hertz))),
        _decibels(peak),
    )


def _between(rows: NDArray[np.float32], hertz: float) -> float:
    """Largest magnitude at four times the rate (BS.1770 annex 2)."""
    if rows.shape[1] == 0:
        return 0.0
    soxr = optional_library("soxr", "loudness")
    times = 4 if hertz < 96_000 else 2
    return max(float(np.abs(soxr.resample(row, hertz, times * hertz, "HQ")).max(initial=0.0)) for row in rows)


def _decibels(value: float) -> float:
    return 20.0 * math.log10(value) if value > 0.0 else -math.inf


def normalize_loudness(
    x: Signal, sample_rate: float, target: float = -23.0, *, ceiling: float | None = -1.0
) -> tuple[Any, float]:
    """Return the signal at a loudness (LUFS), and the gain in dB that took it there.

    Parameters
    ----------
    target
        LUFS.
    ceiling
        dBTP that must not be exceeded: the gain is lowered to keep it. None lets peaks go anywhere.

    Raises
    ------
    InputError
        For silence, which no gain makes loud.
    """
    found = loudness(x, sample_rate)
    if found.integrated == -math.inf:
        raise InputError("normalize_loudness: the signal is silent or shorter than 0.4 s; nothing can be measured.")
    gain = number("normalize_loudness", "target", target, low=-100.0, high=0.0) - found.integrated
    if ceiling is not None:
        gain = min(gain, number("normalize_loudness", "ceiling", ceiling, low=-60.0, high=20.0) - found.true_peak)
    samples, back = signal("normalize_loudness", x)
    return back(samples * np.float32(10.0 ** (gain / 20.0))), gain
