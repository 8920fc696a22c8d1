"""Change of sampling rate, through soxr: whole signals and streams."""

from __future__ import annotations

from typing import Any

import numpy as np

from elinvar.errors import InputError

from ._check import Array, Signal, choice, count, finite, optional_library, rate, rows_of, signal, write_out

__all__ = ["Resampler", "resample"]

_QUALITIES = {"quick": "QQ", "low": "LQ", "medium": "MQ", "high": "HQ", "best": "VHQ"}


def resample(x: Signal, from_rate: float, to_rate: float, *, quality: str = "high", out: Any = None) -> Any:
    """Return samples [..., time] at another rate; round(n * to_rate / from_rate) of them.

    Parameters
    ----------
    x
        Samples; finite ones, since a resampler would spread a NaN.
    from_rate, to_rate
        Hz.
    quality
        "quick", "low", "medium", "high" (error -134 dB) or "best" (-184 dB).
    out
        Where to write.
    """
    a, b = rate("resample", from_rate, "from_rate"), rate("resample", to_rate, "to_rate")
    kind = _QUALITIES[choice("resample", "quality", quality, tuple(_QUALITIES))]
    samples, back = signal("resample", x)
    finite("resample", samples)
    n = round(samples.shape[-1] * b / a)
    if a == b or samples.size == 0:
        return write_out("resample", back(np.resize(samples, (*samples.shape[:-1], n)) if a != b else samples), out)
    soxr = optional_library("soxr", "resample")
    rows = rows_of(samples)
    found = np.asarray(soxr.resample(rows.T, a, b, kind), np.float32).reshape(-1, len(rows)).T
    fitted = np.zeros((len(rows), n), np.float32)
    keep = min(n, found.shape[1])
    fitted[:, :keep] = found[:, :keep]
    return write_out("resample", back(fitted.reshape(*samples.shape[:-1], n)), out)


class Resampler:
    """Change of rate of a stream: blocks of any length in, as many samples as are ready out.

    Parameters
    ----------
    from_rate, to_rate
        Hz.
    channels
        Rows of every block.
    quality
        As in `resample`.
    """

    def __init__(self, from_rate: float, to_rate: float, channels: int = 1, *, quality: str = "high") -> None:
        soxr = optional_library("soxr", "Resampler")
        self.from_rate = rate("Resampler", from_rate, "from_rate")
        self.to_rate = rate("Resampler", to_rate, "to_rate")
        self.channels = count("Resampler", "channels", channels)
        kind = _QUALITIES[choice("Resampler", "quality", quality, tuple(_QUALITIES))]
        self._stream = soxr.ResampleStream(self.from_rate, self.to_rate, self.channels, "float32", kind)

    def process(self, block: Array, *, last: bool = False) -> Array:
        """Return what is ready, [channels, m], after the next block [channels, n]; with `last`, all that is left."""
        if block.ndim != 2 or block.shape[0] != self.channels or block.dtype != np.float32:
            raise InputError(
                f"Resampler.process: got {block.dtype} of shape {block.shape}; give float32 [{self.channels}, n]."
            )
        ready = self._stream.resample_chunk(np.ascontiguousarray(block.T), last=last)
        return np.ascontiguousarray(np.asarray(ready, np.float32).reshape(-1, self.channels).T)

    def reset(self) -> None:
        """Forget the past."""
        self._stream.clear()
