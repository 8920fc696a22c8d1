"""Launches of ``bloom.metal``: levels down, the two smallest at once, and back up."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from elinvar import metal

__all__ = ["aligned", "spread"]

_DOWN, _UP = 30, 28
"""Columns (pairs of them in ``bloom_first``) of a simdgroup of ``bloom_down`` and of ``bloom_up``."""
_OWN = 16
"""Side of what a group of ``bloom_tail`` makes."""
_MOST_ROWS = 16
_SIMDGROUPS = 2048
"""Rows a thread walks: the more, the less is computed twice; small levels take fewer, to have so many simdgroups."""


@lru_cache(maxsize=16)
def _library(device: Any, wide: bool) -> Any:
    return metal.compile(Path(__file__).with_name("bloom.metal"), device, defines={"WIDE": int(wide)})


def aligned(tensor: torch.Tensor, nbytes: int) -> bool:
    """Tell whether every row of a tensor begins at a multiple of `nbytes`, so that it can be read in such pieces."""
    size = tensor.element_size()
    start = tensor.storage_offset() * size if tensor.device.type == "mps" else tensor.data_ptr()
    return tensor.shape[-1] * size % nbytes == 0 and start % nbytes == 0


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
    source = frame.float().contiguous()
    tail = len(pyramid) - 2 if len(pyramid) > 2 else len(pyramid)
    for k, level in enumerate(pyramid[:tail]):
        (_, sh, sw), (_, h, w) = source.shape, level.shape
        gain = weights[-1] if k == len(pyramid) - 1 else 1.0
        if k == 0 and aligned(source, 16) and aligned(level, 8):
            across, rows = _walk(sw // 4, _DOWN, h, 2)
            _library(device, True).bloom_first(
                source, level, sw, sh, w, h, rows, threshold, knee, ceiling, gain,
                threads=(across, -(-h // rows)), group_size=(128, 1),
            )  # fmt: skip
        else:
            across, rows = _walk(w, _DOWN, h, 1)
            _library(device, aligned(source, 8)).bloom_down(
                source, level, sw, sh, w, h, rows, int(k == 0), threshold, knee, ceiling, gain,
                threads=(across, -(-h // rows)), group_size=(128, 1),
            )  # fmt: skip
        source = level
    if tail < len(pyramid):
        middle, smallest = pyramid[tail:]
        (_, sh, sw), (_, mh, mw), (_, h, w) = source.shape, middle.shape, smallest.shape
        _library(device, True).bloom_tail(
            source, middle, smallest, sw, sh, mw, mh, w, h, *weights[tail:],
            threads=(-(-mw // _OWN) * 256, -(-mh // _OWN), 3), group_size=(256, 1, 1),
        )  # fmt: skip
    for k in range(min(tail, len(pyramid) - 1) - 1, -1, -1):
        smaller, large = pyramid[k + 1], pyramid[k]
        (_, lines, columns), (_, h, w) = smaller.shape, large.shape
        across, rows = _walk(columns, _UP, lines, 3)
        _library(device, aligned(large, 8)).bloom_up(
            smaller, large, columns, lines, w, h, rows, weights[k],
            threads=(across, -(-lines // rows), 3), group_size=(128, 1, 1),
        )  # fmt: skip


def _walk(columns: int, each: int, lines: int, planes: int) -> tuple[int, int]:
    """Return threads along x, in groups of 128 whose simdgroups make so many columns each, and rows per thread."""
    groups = -(-columns // (4 * each))
    rows = 1
    while rows < _MOST_ROWS and 4 * groups * planes * -(-lines // (2 * rows)) >= _SIMDGROUPS:
        rows *= 2
    return 128 * groups, rows
