"""Samples to WAV, for the page's audio players."""

from __future__ import annotations

import io
import wave
from typing import Any

from elinvar.errors import InputError

__all__ = ["encode"]


def encode(samples: Any, rate: int) -> bytes:
    """Return 16-bit PCM WAV bytes of samples in [-1, 1], shape (n,) or (channels, n); louder samples are clipped."""
    import numpy as np

    data = np.atleast_2d(np.asarray(samples, dtype=np.float64))
    if data.ndim != 2 or data.size == 0 or data.shape[0] > 16:
        raise InputError(f"Page.audio: samples are (n,) or (channels, n) with at most 16 channels; got {data.shape}.")
    if not np.isfinite(data).all():
        raise InputError("Page.audio: the samples contain NaN or infinity; fix the signal before it is heard.")
    if not 1 <= rate <= 768_000:
        raise InputError(f"Page.audio: rate={rate!r} is not a sampling rate; pass samples per second, e.g. 44100.")
    pcm = np.rint(np.clip(data, -1, 1).T * 32767).astype("<i2")
    stream = io.BytesIO()
    with wave.open(stream, "wb") as file:
        file.setnchannels(data.shape[0])
        file.setsampwidth(2)
        file.setframerate(int(rate))
        file.writeframes(pcm.tobytes())
    return stream.getvalue()
