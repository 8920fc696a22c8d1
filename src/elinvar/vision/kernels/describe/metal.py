"""Launches of ``describe.metal``."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from elinvar import metal
from elinvar.vision.kernels.types import ONE

__all__ = ["describe"]

_HERE = Path(__file__).parent
_GROUP = 128


@lru_cache(maxsize=8)
def _library(device: Any, dtype: torch.dtype, channels: int) -> Any:
    return metal.compile(_HERE / "describe.metal", device, defines={"T1": ONE[dtype], "CHANNELS": channels})


def describe(x: Tensor, *, grid: tuple[int, int], patch: int, device: Any) -> tuple[Tensor, Tensor]:
    """Lay out and normalise; arguments and results as ``describe.run``."""
    channels = x.shape[2] // patch**2 - 1
    size = (len(x), grid[0] * patch, grid[1] * patch)
    descriptors = x.new_empty((*size, channels), dtype=torch.float32)
    confidence = x.new_empty(size, dtype=torch.float32)
    pixels = confidence.numel()
    _library(device, x.dtype, channels).describe(
        x, descriptors, confidence, pixels, grid[1], patch, threads=-(-pixels // _GROUP) * _GROUP, group_size=_GROUP
    )
    return descriptors, confidence
