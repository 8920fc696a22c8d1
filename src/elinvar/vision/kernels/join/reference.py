"""``vision.join`` in plain torch."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["join"]


def join(x: Tensor, bias: Tensor, first: Tensor, second: Tensor | None, *, cut: bool) -> tuple[Tensor, Tensor]:
    """Add and cut; arguments and results as ``join.run``, float64 included."""
    wide = torch.promote_types(x.dtype, torch.float32)
    total = (x.to(wide) + bias.to(wide)) + first.to(wide)
    if second is not None:
        total = total + second.to(wide)
    return total.to(x.dtype), (total.clamp_min(0) if cut else total[:0]).to(x.dtype)
