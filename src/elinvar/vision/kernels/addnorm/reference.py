"""``vision.addnorm`` in plain torch."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

__all__ = ["addnorm"]


def addnorm(x: Tensor, y: Tensor, bias: Tensor, *, epsilon: float) -> tuple[Tensor, Tensor]:
    """Add and normalise; arguments and results as ``addnorm.run``, float64 included."""
    wide = torch.promote_types(x.dtype, torch.float32)
    more = y.to(wide).view(len(bias), -1, x.shape[1]) + bias.to(wide)[:, None]
    sum_ = (x.to(wide) + more.view(x.shape)).to(x.dtype)
    return sum_, functional.layer_norm(sum_.to(wide), x.shape[1:], eps=epsilon).to(x.dtype)
