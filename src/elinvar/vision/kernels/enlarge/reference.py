"""``vision.enlarge`` in plain torch."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

__all__ = ["enlarge"]


def enlarge(x: Tensor, bias: Tensor, *, size: tuple[int, int]) -> Tensor:
    """Enlarge; arguments and results as ``enlarge.run``, float64 included."""
    wide = torch.promote_types(x.dtype, torch.float32)
    out = functional.interpolate(x.to(wide).permute(0, 3, 1, 2), size=size, mode="bilinear", align_corners=True)
    return (out.permute(0, 2, 3, 1) + bias.to(wide)).to(x.dtype).contiguous()
