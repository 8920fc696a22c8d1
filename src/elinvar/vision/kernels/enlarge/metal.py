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


@lru_cache(maxsize=8)
def _library(device: Any, dtype: torch.dtype) -> Any:
    return metal.compile(_HERE / "enlarge.metal", device, defines={"T4": FOUR[dtype]})


def enlarge(x: Tensor, bias: Tensor, *, size: tuple[int, int], device: Any) -> Tensor:
    """Enlarge; arguments and results as ``enlarge.run``."""
    batch, height, width, channels = x.shape
    out = x.new_empty((batch, *size, channels))
    _library(device, x.dtype).enlarge(
        x, bias, out, height, width, *size, channels // 4, threads=(size[1] * channels // 4, size[0], batch)
    )
    return out
