"""Launches of ``addnorm.metal``."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from elinvar import metal
from elinvar.vision.kernels.types import FOUR

__all__ = ["addnorm"]

_HERE = Path(__file__).parent
_ROWS = 4  # per group of threads


@lru_cache(maxsize=16)
def _library(device: Any, dtype: torch.dtype, width4: int) -> Any:
    return metal.compile(_HERE / "addnorm.metal", device, defines={"T4": FOUR[dtype], "WIDTH4": width4})


def addnorm(x: Tensor, y: Tensor, bias: Tensor, *, epsilon: float, device: Any) -> tuple[Tensor, Tensor]:
    """Add and normalise; arguments and results as ``addnorm.run``."""
    rows, width = x.shape
    sum_, normed = torch.empty_like(x), torch.empty_like(x)
    _library(device, x.dtype, width // 4).addnorm(
        x, y, bias, sum_, normed, rows, rows // len(bias), epsilon,
        threads=-(-rows // _ROWS) * _ROWS * 32, group_size=_ROWS * 32,
    )  # fmt: skip
    return sum_, normed
