"""Launches of ``gelu.metal``."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from elinvar import metal
from elinvar.vision.kernels.types import FOUR

__all__ = ["gelu"]

_HERE = Path(__file__).parent
_ROWS = 4  # per thread


@lru_cache(maxsize=8)
def _library(device: Any, dtype: torch.dtype) -> Any:
    return metal.compile(_HERE / "gelu.metal", device, defines={"T4": FOUR[dtype]})


def gelu(x: Tensor, bias: Tensor, *, device: Any) -> Tensor:
    """Add the bias and apply the GELU; arguments and results as ``gelu.run``."""
    groups, width4 = len(bias), x.shape[1] // 4
    share = len(x) // groups
    out = torch.empty_like(x)
    _library(device, x.dtype).gelu(x, bias, out, share, width4, threads=(width4, -(-share // _ROWS), groups))
    return out
