"""``vision.describe`` in plain torch."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

__all__ = ["describe"]


def describe(x: Tensor, *, grid: tuple[int, int], patch: int) -> tuple[Tensor, Tensor]:
    """Lay out and normalise; arguments and results as ``describe.run``, float64 included."""
    (h, w), wide = grid, torch.promote_types(x.dtype, torch.float32)
    y = x.unflatten(2, (patch, patch, -1)).unflatten(1, (h, w)).transpose(2, 3)  # type: ignore[no-untyped-call]
    y = y.reshape(len(x), h * patch, w * patch, -1).to(wide)
    return functional.normalize(y[..., :-1], dim=-1), y[..., -1].exp()
