"""Bloom in plain torch, in the pyramid's precision."""

from __future__ import annotations

import torch

__all__ = ["down", "prefilter", "spread", "up"]


def prefilter(frame: torch.Tensor, threshold: float, knee: float, ceiling: float) -> torch.Tensor:
    """Return what of a frame shines, [3, H, W]."""
    c = torch.where(frame[:3] > 0, frame[:3], torch.zeros_like(frame[:3])).clamp(max=ceiling)
    b = c.amax(0)
    s = (b - threshold + knee).clamp(0, 2 * knee) ** 2 / (4 * knee + 1e-4)
    return c * (torch.maximum(s, b - threshold) / b.clamp(min=1e-4))


def _axis(x: torch.Tensor, dim: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Halve along one axis with (1 1 2 2 1 1) / 2 and (1 1 1 1) / 2; edges repeat."""
    n = x.shape[dim]
    base = 2 * torch.arange(-(-n // 2), device=x.device)

    def at(offset: int) -> torch.Tensor:
        return x.index_select(dim, (base + offset).clamp(0, n - 1))

    wide = 0.5 * (at(-2) + at(-1) + at(2) + at(3)) + at(0) + at(1)
    return wide, 0.5 * (at(-1) + at(0) + at(1) + at(2))


def down(x: torch.Tensor) -> torch.Tensor:
    """Halve [3, H, W] with the 13-tap filter."""
    tall, short = _axis(x, 1)
    return _axis(tall, 2)[0] / 32 + _axis(short, 2)[1] / 8


def up(x: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Double [3, h, w] with the tent to [3, height, width]."""
    for dim, size in ((1, height), (2, width)):
        n, place = x.shape[dim], torch.arange(size, device=x.device)
        odd = place % 2
        shape = [1, 1, 1]
        shape[dim] = size
        total = torch.zeros(1, dtype=x.dtype, device=x.device)
        for offset, weight in ((-1, 0.1875), (0, 0.4375), (1, 0.3125), (2, 0.0625)):
            # An even place mirrors an odd one.
            index = torch.where(odd == 1, place // 2 + offset, place // 2 - offset).clamp(0, n - 1)
            total = total + weight * x.index_select(dim, index)
        x = total
    return x


def spread(
    frame: torch.Tensor,
    pyramid: list[torch.Tensor],
    weights: list[float],
    *,
    threshold: float,
    knee: float,
    ceiling: float,
) -> None:
    """Fill the pyramid; its first level is the result."""
    x = prefilter(frame.to(pyramid[0].dtype), threshold, knee, ceiling)
    for level in pyramid:
        x = down(x)
        level.copy_(x)
    pyramid[-1].mul_(weights[-1])
    for level, smaller, weight in zip(pyramid[-2::-1], pyramid[:0:-1], weights[-2::-1], strict=True):
        level.mul_(weight).add_(up(smaller, *level.shape[1:]))
