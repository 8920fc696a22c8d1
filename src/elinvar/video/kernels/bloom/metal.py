"""Launches of ``bloom.metal``: levels down, the two smallest at once, and back up."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from elinvar import metal

__all__ = ["aligned", "cores", "spread"]

_DOWN, _UP = 30, 28
"""Columns (pairs of them in ``bloom_first``) of a simdgroup of ``bloom_down`` and of ``bloom_up``."""
_OWN = 16
"""Side of what a group of ``bloom_tail`` makes."""
_MOST_ROWS = 17
_GROUPS = 3
"""Rows a thread walks at most, and groups that every processor should have at least: see `_walk`."""


@lru_cache(maxsize=16)
def _library(device: Any, wide: bool) -> Any:
    once = int(str(device).startswith("cuda"))
    return metal.compile(Path(__file__).with_name("bloom.metal"), device, defines={"WIDE": int(wide), "ONCE": once})


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
    source, many = frame.float().contiguous(), cores(frame.device)
    tail = len(pyramid) - 2 if len(pyramid) > 2 else len(pyramid)
    for k, level in enumerate(pyramid[:tail]):
        (_, sh, sw), (_, h, w) = source.shape, level.shape
        gain = weights[-1] if k == len(pyramid) - 1 else 1.0
        if k == 0 and aligned(source, 16) and aligned(level, 8):
            across, rows = _walk(sw // 4, _DOWN, h, 2, many)
            _library(device, True).bloom_first(
                source, level, sw, sh, w, h, rows, threshold, knee, ceiling, gain,
                threads=(across, -(-h // rows)), group_size=(128, 1),
            )  # fmt: skip
        else:
            across, rows = _walk(w, _DOWN, h, 2, many)
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
        across, rows = _walk(columns, _UP, lines, 4, many, planes=3)
        _library(device, aligned(large, 8)).bloom_up(
            smaller, large, columns, lines, w, h, rows, weights[k],
            threads=(across, -(-lines // rows), 3), group_size=(128, 1, 1),
        )  # fmt: skip


@lru_cache(maxsize=8)
def cores(device: torch.device) -> int:
    """Return how many multiprocessors share the groups of a launch; 32 where nobody says."""
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 32


@lru_cache(maxsize=256)
def _walk(columns: int, each: int, lines: int, more: int, cores: int, planes: int = 1) -> tuple[int, int]:
    """Return threads along x, in groups of 128 whose simdgroups make so many columns each, and rows per thread.

    The more rows, the fewer of the `more` rows around them are worked on twice, and the fewer groups there are. Of the
    numbers that give every processor some groups, the one is taken at which the busiest processor has least to do; a
    small level gets as many groups as it can.
    """
    across = -(-columns // (4 * each))
    best, least = 1, float("inf")
    for rows in range(1, _MOST_ROWS + 1):
        groups = across * planes * -(-lines // rows)
        if groups < _GROUPS * cores:
            break
        work = -(-groups // cores) * (rows + more)
        if work < least:
            best, least = rows, work
    return 128 * across, best
