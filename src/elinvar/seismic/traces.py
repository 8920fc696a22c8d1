"""Where samples come from: memory, a choice of other traces; files are in :mod:`elinvar.seismic.tracefile`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

__all__ = ["ArrayTraces", "ChosenTraces", "Indices", "Samples", "Traces"]

Samples = NDArray[np.float32]
Indices = NDArray[np.int64]


class Traces(Protocol):
    """Where samples come from. Implementations may be called from several threads at once."""

    @property
    def shape(self) -> tuple[int, int]:
        """``(traces, samples)``."""

    def read(self, index: Indices) -> Samples:
        """Return the traces at ascending positions `index` as a new float32 array (len(index), samples)."""


@dataclass(frozen=True)
class ArrayTraces:
    """Traces held in memory."""

    data: NDArray[Any]

    @property
    def shape(self) -> tuple[int, int]:
        """``(traces, samples)``."""
        return int(self.data.shape[0]), int(self.data.shape[1])

    def read(self, index: Indices) -> Samples:
        """Return the traces at `index` as a new float32 array."""
        return np.ascontiguousarray(self.data[index], dtype=np.float32)


@dataclass(frozen=True)
class ChosenTraces:
    """Some traces of another source, in any order."""

    traces: Traces
    index: Indices

    @property
    def shape(self) -> tuple[int, int]:
        """``(traces, samples)``."""
        return len(self.index), self.traces.shape[1]

    def read(self, index: Indices) -> Samples:
        """Return the chosen traces at `index`, read in the order of their source."""
        wanted = self.index[index]
        order = np.argsort(wanted, kind="stable")
        if (order == np.arange(len(order))).all():
            return self.traces.read(wanted)
        out = np.empty((len(wanted), self.shape[1]), np.float32)
        out[order] = self.traces.read(wanted[order])
        return out
