"""The streaming convolver anyone would write first: uniform partitions in numpy. For the tour, not for work."""

from __future__ import annotations

import numpy as np

from ._check import Array

__all__ = ["UniformConvolver"]


class UniformConvolver:
    """Overlap-save with partitions of one block, all multiplied at every call; blocks of one length only.

    Parameters
    ----------
    ir
        [taps].
    block
        Samples per call.
    """

    def __init__(self, ir: Array, block: int) -> None:
        self.block = block
        parts = -(-len(ir) // block)
        padded = np.zeros(parts * block, np.float32)
        padded[: len(ir)] = ir
        self._spectra = np.fft.rfft(padded.reshape(parts, block), 2 * block)
        self._past = np.zeros_like(self._spectra)
        self._window = np.zeros(2 * block, np.float32)

    def process(self, x: Array) -> Array:
        """Convolve one block [n]."""
        self._window = np.concatenate([self._window[self.block :], x])
        self._past = np.concatenate([np.fft.rfft(self._window)[None], self._past[:-1]])
        y = np.fft.irfft((self._past * self._spectra).sum(axis=0))[self.block :]
        return np.asarray(y, np.float32)
