"""Launches of ``nearest.metal``: on Apple GPUs, on NVIDIA GPUs and, for verification, on the emulator."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from elinvar import metal

__all__ = ["nearest"]

_HERE = Path(__file__).parent
_GROUP = 128
_THREADS = 1 << 18  # enough to fill any GPU: few queries are spread over slices of the keys
_LEAST_SLICE = 512
_MOST_CHANNELS = 128  # tiles of 64 keys with more do not fit into threadgroup memory
_MOST_ROWS = 1 << 24  # keeps the kernel's 32-bit products of row and width in range


@lru_cache(maxsize=16)
def _library(device: Any, width4: int) -> Any:
    return metal.compile(_HERE / "nearest.metal", device, defines={"WIDTH4": width4})


def nearest(queries: Tensor, keys: Tensor, *, device: Any) -> tuple[Tensor, Tensor]:
    """Find each query's best key; arguments and results as ``nearest.run``."""
    n, m, channels = len(queries), len(keys), queries.shape[1]
    if max(n, m) > _MOST_ROWS or channels > _MOST_CHANNELS:
        from .reference import nearest as tiled

        return tiled(queries, keys)
    pad = -channels % 4
    if pad:
        queries, keys = functional.pad(queries, (0, pad)), functional.pad(keys, (0, pad))
    slices = max(1, min(m // _LEAST_SLICE, _THREADS // max(n, 1)))
    slice_ = -(-m // slices)
    slices = -(-m // slice_)
    index = torch.empty((slices, n), dtype=torch.int32, device=queries.device)
    score = torch.empty((slices, n), dtype=torch.float32, device=queries.device)
    rows = -(-n // _GROUP) * _GROUP
    _library(device, (channels + pad) // 4).nearest(
        queries.contiguous(),
        keys.contiguous(),
        index,
        score,
        n,
        m,
        slice_,
        threads=(rows, slices),
        group_size=(_GROUP, 1),
    )
    if slices == 1:
        return index[0].long(), score[0]
    best = score.amax(0)
    # Slices hold rising rows: the first of equal keys is the smallest row.
    return torch.where(score == best, index, m).amin(0).long(), best
