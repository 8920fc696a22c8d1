"""Launches of ``turn.metal``."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from elinvar import metal
from elinvar.vision.kernels.types import FOUR

__all__ = ["turn"]

_HERE = Path(__file__).parent


@lru_cache(maxsize=16)
def _library(device: Any, dtype: torch.dtype, quarter4: int) -> Any:
    return metal.compile(_HERE / "turn.metal", device, defines={"T4": FOUR[dtype], "QUARTER4": quarter4})


def turn(
    x: Tensor,
    bias: Tensor,
    cosine: Tensor,
    sine: Tensor,
    *,
    heads: int,
    turned: int,
    moved: int,
    shift: int,
    device: Any,
) -> Tensor:
    """Add the bias and turn; arguments and results as ``turn.run``."""
    rows, parts, width = x.shape
    quarter4 = width // heads // 16
    out = torch.empty_like(x)
    _library(device, x.dtype, quarter4).turn(
        x, bias, cosine, sine, out, rows, heads, parts, len(cosine), rows // len(bias), turned, moved, shift,
        threads=(parts * heads * 2 * quarter4, rows),
    )  # fmt: skip
    return out
