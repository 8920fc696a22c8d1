"""Zero-phase source wavelets, evaluated exactly at any time."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ._check import number

__all__ = ["ricker", "ricker_derivative"]


def ricker(t: ArrayLike, frequency: float) -> NDArray[np.float64]:
    """Return the Ricker wavelet, unit peak at ``t = 0``.

    Parameters
    ----------
    t
        Times in seconds, any shape.
    frequency
        Peak frequency in hertz.

    Notes
    -----
    ``w = (1 - 2 a) exp(-a)`` with ``a = (pi f t)^2`` (Ricker 1953).
    """
    f = number("ricker", "frequency", frequency, low=0.0, open_low=True)
    a = np.square(np.pi * f * np.asarray(t, dtype=np.float64))
    return np.asarray((1.0 - 2.0 * a) * np.exp(-a))


def ricker_derivative(t: ArrayLike, frequency: float) -> NDArray[np.float64]:
    """Return ``dw/dt`` of :func:`ricker`, scaled to unit peak: what a point scatterer sends back.

    A plane of point scatterers must add up to the plane's own reflection ``w``. Summing a scatterer's response ``b``
    over a plane in three dimensions integrates it over time, so ``b = dw/dt`` (the Born approximation). Migration's
    ``-d/dt`` turns it into ``-d2w/dt2``, which is even: the image of the scatterer peaks at its own time.
    """
    f = number("ricker_derivative", "frequency", frequency, low=0.0, open_low=True)
    root = np.pi * f * np.asarray(t, dtype=np.float64)
    a = np.square(root)
    # -d/dx [(1 - 2 x^2) exp(-x^2)] = (6 x - 4 x^3) exp(-x^2); its extremum lies where 8 a^2 - 24 a + 6 = 0.
    peak_a = (24.0 - np.sqrt(576.0 - 192.0)) / 16.0
    peak = np.sqrt(peak_a) * (6.0 - 4.0 * peak_a) * np.exp(-peak_a)
    return np.asarray(-root * (6.0 - 4.0 * a) * np.exp(-a) / peak)
