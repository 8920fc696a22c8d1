"""The level of a whole track, which is taken out before separation and given back after it."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Iterator
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from elinvar.audio.files import BLOCK

__all__ = ["Level"]

_STEP = 1 << 24  # samples of a GPU's track in float64 at a time


@dataclasses.dataclass(frozen=True)
class Level:
    """Mean and standard deviation of a track's mono mix, over its whole length.

    The network adds 1e-5 to the deviation of every segment: without a common level, quiet tracks would come out
    differently from loud ones. One level for the whole track, and not one per segment, is what lets a file that is read
    piece by piece give the same samples as one in memory.
    """

    mean: float = 0.0
    deviation: float = 1.0

    @classmethod
    def of(cls, blocks: Iterable[NDArray[np.float32]]) -> Self:
        """Measure ``[channels, n]`` blocks of a track in float64; silence, and less than two samples, stay as is."""
        n, total, squares = 0, 0.0, 0.0
        for block in blocks:
            mono = block.astype(np.float64).mean(axis=0)
            n += mono.size
            total += float(mono.sum())
            squares += float(mono @ mono)
        return cls._from(n, total, squares)

    @classmethod
    def _from(cls, n: int, total: float, squares: float) -> Self:
        if n < 2:
            return cls()
        mean = total / n
        variance = (squares - n * mean * mean) / (n - 1)
        # Sums of n squares are off by n times the last place; less than that is a constant, not a sound.
        if variance <= 1e-15 * squares:
            return cls()
        return cls(float(np.float32(mean)), float(np.float32(math.sqrt(variance))))

    @classmethod
    def of_tensor(cls, track: Tensor) -> Self:
        """Measure ``[channels, time]``, in the blocks in which a file is read: the same numbers."""
        if track.device.type == "cuda":  # measured where it is; two numbers travel
            sums = torch.zeros(2, dtype=torch.float64, device=track.device)
            for at in range(0, track.shape[1], _STEP):
                mono = track[:, at : at + _STEP].mean(dim=0, dtype=torch.float64)
                sums += torch.stack([mono.sum(), mono.dot(mono)])
            total, squares = sums.tolist()
            return cls._from(track.shape[1], total, squares)
        samples = track.cpu().numpy()
        return cls.of(samples[:, at : at + BLOCK] for at in range(0, samples.shape[1], BLOCK))

    @property
    def _factor(self) -> float:
        return float(np.float32(1.0 / self.deviation))

    def take(self, x: Any) -> Any:
        """Return samples without the level; the same arithmetic for arrays and tensors."""
        if self == Level():
            return x
        mean, factor = self.mean, self._factor
        if isinstance(x, Tensor):
            return x.sub(mean).mul_(factor)
        return (x - np.float32(mean)) * np.float32(factor)

    def take_from(self, blocks: Iterable[NDArray[np.float32]]) -> Iterator[NDArray[np.float32]]:
        """Take the level from every block."""
        for block in blocks:
            yield self.take(block)

    def give(self, stems: Tensor) -> Tensor:
        """Return stems at the track's level."""
        return stems if self == Level() else stems.mul(self.deviation).add_(self.mean)
