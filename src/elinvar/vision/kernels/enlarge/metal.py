"""Launches of ``enlarge.metal``."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from elinvar import metal
from elinvar.vision.kernels.types import FOUR

__all__ = ["enlarge"]

_HERE = Path(__file__).parent
_ROWS = 8  # per thread


@lru_cache(maxsize=16)
def _library(device: Any, dtype: torch.dtype, channels4: int) -> Any:
    return metal.compile(_HERE / "enlarge.metal", device, defines={"T4": FOUR[dtype], "CHANNELS4": channels4})


def _scale(inner: int, outer: int) -> float:
    return (inner - 1) / (outer - 1) if outer > 1 else 0.0


def enlarge(x: Tensor, bias: Tensor, *, size: tuple[int, int], device: Any) -> Tensor:
    """Enlarge; arguments and results as ``enlarge.run``."""
    batch, height, width, channels = x.shape
    tall, wide = size
    out = x.new_empty((batch, tall, wide, channels))
    _library(device, x.dtype, channels // 4).enlarge(
        x, bias, out, height, width, tall, wide, _scale(height, tall), _scale(width, wide),
        threads=(wide * channels // 4, -(-tall // _ROWS), batch),
    )  # fmt: skip
    return out
