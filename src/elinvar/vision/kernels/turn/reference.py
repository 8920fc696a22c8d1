"""``vision.turn`` in plain torch."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["turn"]


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
) -> Tensor:
    """Add the bias and turn; arguments and results as ``turn.run``, float64 included."""
    rows, parts, width = x.shape
    wide = torch.promote_types(x.dtype, torch.float32)
    groups, tokens = len(bias), len(cosine)
    y = (x.to(wide).view(groups, -1, parts, width) + bias.to(wide)[:, None]).view(
        -1, tokens, parts, heads, 4, width // heads // 4
    )
    out = y.clone()
    cos, sin = (t.to(wide).view(1, tokens, 1, 2, -1) for t in (cosine, sine))
    for part in range(parts):
        if turned >> part & 1:
            a, b = y[:, :, part, :, 0::2], y[:, :, part, :, 1::2]
            out[:, :, part, :, 0::2] = a * cos - b * sin
            out[:, :, part, :, 1::2] = b * cos + a * sin
    out = out.view(rows, parts, width)
    if moved < parts:
        out[:, moved:] = out[:, moved:].roll(shift, 0)
    return out.to(x.dtype)
