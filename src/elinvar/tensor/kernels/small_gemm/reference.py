"""The small product in plain torch."""

from __future__ import annotations

import torch

__all__ = ["product"]


def product(x: torch.Tensor, w: torch.Tensor, bias: torch.Tensor | None, *, relu: bool = False) -> torch.Tensor:
    """Return ``relu?(x @ w.T + bias?)``."""
    y = x @ w.t() if bias is None else torch.addmm(bias, x, w.t())
    return torch.relu(y) if relu else y
