"""Layers for audio networks that run as the sound arrives: torch modules with streaming state and bounded buffers.

Every layer is its torch counterpart with the same parameters, state-dict names and results; what is added is what live
use needs: one step of a recurrent layer without repacking its weights, outputs that are reused instead of allocated,
norms with a chosen summation, sequences whose buffers are planned once, and sessions that allocate nothing per call.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from elinvar._lazy import lazy

_HOME = {
    "Attention": "attention",
    "ChunkedInference": "chunked",
    "Conv1d": "convolutional",
    "Conv2d": "convolutional",
    "ConvTranspose1d": "convolutional",
    "GRU": "recurrent",
    "GroupNorm": "norms",
    "InferenceSession": "session",
    "LSTM": "recurrent",
    "Linear": "linear",
    "Sequential": "sequential",
    "half_storage": "storage",
    "memory_bytes": "storage",
}

__all__ = [
    "GRU",
    "LSTM",
    "Attention",
    "ChunkedInference",
    "Conv1d",
    "Conv2d",
    "ConvTranspose1d",
    "GroupNorm",
    "InferenceSession",
    "Linear",
    "Sequential",
    "half_storage",
    "memory_bytes",
]

if TYPE_CHECKING:
    from .attention import Attention
    from .chunked import ChunkedInference
    from .convolutional import Conv1d, Conv2d, ConvTranspose1d
    from .linear import Linear
    from .norms import GroupNorm
    from .recurrent import GRU, LSTM
    from .sequential import Sequential
    from .session import InferenceSession
    from .storage import half_storage, memory_bytes

__getattr__, __dir__ = lazy(__name__, _HOME)
