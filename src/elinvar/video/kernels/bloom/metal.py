"""Launches of ``bloom.metal``."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from elinvar import metal

__all__ = ["spread"]

_TILE = (32, 8)


@lru_cache(maxsize=8)
def _library(device: Any) -> Any:
    return metal.compile(Path(__file__).with_name("bloom.metal"), device)


def spread(
    frame: torch.Tensor,
    pyramid: list[torch.Tensor],
    weights: list[float],
    *,
    threshold: float,
    knee: float,
    ceiling: float,
    device: Any,
) -> None:
    """Fill the pyramid; its first level is the result."""
    library = _library(device)
    source = frame.float().contiguous()
    for k, level in enumerate(pyramid):
        (_, sh, sw), (_, h, w) = source.shape, level.shape
        across, down = -(-w // _TILE[0]), -(-h // _TILE[1])
        library.bloom_down(
            source, level, sw, sh, w, h, int(k == 0), threshold, knee, ceiling, across,
            threads=across * down * 256, group_size=256,
        )  # fmt: skip
        source = level
    for k in range(len(pyramid) - 1, -1, -1):
        _, h, w = pyramid[k].shape
        smaller = pyramid[min(k + 1, len(pyramid) - 1)]
        rows = 0 if k == len(pyramid) - 1 else smaller.shape[1]
        library.bloom_up(smaller, pyramid[k], smaller.shape[2], rows, w, h, weights[k], threads=(w, h, 3))
