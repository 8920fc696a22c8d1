"""Windows for overlapping frames, and whether they add up: COLA and NOLA.

Windows are periodic (DFT-even): a symmetric one is never exactly constant under overlap-add.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from elinvar.errors import InputError

from ._check import count, optional_library

__all__ = ["check_cola", "check_nola", "cola_ripple", "window"]

_COSINES = {
    "boxcar": (1.0,),
    "hann": (0.5, -0.5),
    "hamming": (0.54, -0.46),
    "blackman": (0.42, -0.5, 0.08),
}
_NAMES = {"hanning": "hann", "rect": "boxcar", "rectangular": "boxcar", "ones": "boxcar"}


def window(name: str | tuple[str, float] | ArrayLike, length: int) -> NDArray[np.float64]:
    """Return a periodic window of `length` samples.

    Parameters
    ----------
    name
        "hann", "hamming", "blackman", "boxcar", any other name or (name, parameter) that scipy.signal.get_window
        knows, or the samples themselves.
    length
        Samples, from 1.

    Raises
    ------
    InputError
        When the name is unknown or the samples are not `length` finite numbers.
    """
    n = count("window", "length", length)
    if isinstance(name, str) and _NAMES.get(name, name) in _COSINES:
        angle = 2.0 * np.pi * np.arange(n) / n
        terms = _COSINES[_NAMES.get(name, name)]
        total: NDArray[np.float64] = np.sum([a * np.cos(k * angle) for k, a in enumerate(terms)], axis=0)
        return total
    if isinstance(name, (str, tuple)):
        signal = optional_library("scipy.signal", f"window({name!r})")
        try:
            found: NDArray[np.float64] = signal.get_window(name, n, fftbins=True)
        except (ValueError, TypeError) as error:
            raise InputError(
                f"window: {name!r} is not known ({error}); use hann, hamming, blackman, boxcar or scipy's names."
            ) from None
        return found
    samples = np.asarray(name, np.float64)
    if samples.shape != (n,) or not np.isfinite(samples).all():
        raise InputError(f"window: samples of shape {samples.shape}; give {n} finite numbers or a name.")
    return samples


def _folded(samples: NDArray[np.float64], hop: int) -> NDArray[np.float64]:
    """Sum of all copies of the samples, `hop` apart, over one hop."""
    padded = np.zeros(-(-len(samples) // hop) * hop)
    padded[: len(samples)] = samples
    folded: NDArray[np.float64] = padded.reshape(-1, hop).sum(axis=0)
    return folded


def cola_ripple(name: str | tuple[str, float] | ArrayLike, length: int, hop_length: int) -> float:
    """Return how far the sum of overlapping windows is from constant: (max - min) / mean; 0 is constant."""
    folded = _folded(window(name, length), count("cola_ripple", "hop_length", hop_length))
    return float(np.ptp(folded) / max(abs(folded.mean()), 1e-300))


def check_cola(
    name: str | tuple[str, float] | ArrayLike, length: int, hop_length: int, tolerance: float = 1e-10
) -> bool:
    """Return whether overlapping windows add up to a constant ("constant overlap-add")."""
    return cola_ripple(name, length, hop_length) <= tolerance


def check_nola(
    name: str | tuple[str, float] | ArrayLike, length: int, hop_length: int, tolerance: float = 1e-10
) -> bool:
    """Return whether the squares of overlapping windows are nowhere zero: then frames can be turned back into sound.

    This ("nonzero overlap-add"), not COLA, is what an inverse that divides by that sum needs (Griffin and Lim 1984).
    """
    folded = _folded(window(name, length) ** 2, count("check_nola", "hop_length", hop_length))
    return bool(folded.min() > tolerance)
