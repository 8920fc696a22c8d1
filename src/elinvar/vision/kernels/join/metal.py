"""Launches of ``join.metal``."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from elinvar import metal
from elinvar.vision.kernels.types import FOUR

__all__ = ["join"]

_HERE = Path(__file__).parent


@lru_cache(maxsize=8)
def _library(device: Any, dtype: torch.dtype) -> Any:
    return metal.compile(_HERE / "join.metal", device, defines={"T4": FOUR[dtype]})


def join(
    x: Tensor, bias: Tensor, first: Tensor, second: Tensor | None, *, cut: bool, device: Any
) -> tuple[Tensor, Tensor]:
    """Add and cut; arguments and results as ``join.run``."""
    total = torch.empty_like(x)
    clipped = torch.empty_like(x) if cut else x[:0]
    _library(device, x.dtype).join(
        x, bias, first, x if second is None else second, total, clipped if cut else total,
        x.shape[1] // 4, int(second is not None), int(cut), threads=x.numel() // 4,
    )  # fmt: skip
    return total, clipped
