"""``vision.gelu`` in plain torch."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

__all__ = ["gelu"]


def gelu(x: Tensor, bias: Tensor) -> Tensor:
    """Add the bias and apply the GELU; arguments and results as ``gelu.run``, float64 included."""
    wide = torch.promote_types(x.dtype, torch.float32)
    y = x.to(wide).view(len(bias), -1, x.shape[1]) + bias.to(wide)[:, None]
    return functional.gelu(y).view(x.shape).to(x.dtype)
