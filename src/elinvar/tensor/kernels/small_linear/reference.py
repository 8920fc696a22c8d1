"""The small 16-bit product in plain torch."""

from __future__ import annotations

import torch

__all__ = ["linear"]


def linear(x: torch.Tensor, w: torch.Tensor, bias: torch.Tensor | None = None, *, relu: bool = False) -> torch.Tensor:
    """Return ``relu?(x @ w.T + bias?)``, summed in float32 or wider and rounded once."""
    wide = torch.float64 if x.dtype == torch.float64 else torch.float32
    y = x.to(wide) @ w.to(wide).t()
    y = y if bias is None else y + bias.to(wide)
    return (torch.relu(y) if relu else y).to(x.dtype)
