"""The first half of ``vision.nearest`` v2: every query's largest product in each block of keys, estimated in float16.

``estimate.metal`` makes the products on the matrix units of NVIDIA and Apple GPUs. Nothing is decided by an estimate:
it only says where to look.
"""

from __future__ import annotations

import dataclasses
import struct
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from elinvar import metal

__all__ = [
    "BLOCK",
    "MOST_CHANNELS",
    "SPAN",
    "Room",
    "Shape",
    "estimate",
    "estimates",
    "reference",
    "room",
    "shape",
    "with_torch",
]

BLOCK = 256  # keys with one estimate
SPAN = 32  # blocks with one estimate of their best: a SIMD group's lanes
MOST_CHANNELS = 128
_HERE = Path(__file__).parent
_GROUP = 128  # threads
Room = tuple[Tensor, Tensor]
"""Estimates of blocks and of spans of them."""


@dataclasses.dataclass(frozen=True)
class Shape:
    """What a threadgroup of ``estimate.metal`` works on.

    Attributes
    ----------
    width
        Channels, padded.
    tiles
        Eights of queries of one SIMD group.
    stage
        Keys in threadgroup memory at once.
    half
        Whether products are summed in float16 as well: faster, and less exact the more channels there are.
    """

    width: int
    tiles: int
    stage: int
    half: bool = False

    @property
    def rows(self) -> int:
        """Queries of a group."""
        return 4 * 8 * self.tiles

    @property
    def together(self) -> int:
        """Queries with one estimate for each key."""
        return min(256, self.rows)

    @property
    def error(self) -> float:
        """How far an estimate, and the exact product it stands for, may be off for their sums, over |q| |k|.

        Matrix units may cut off what they add to float32 after 23 bits: at most nine terms for every eight channels.
        Version v1 rounds channels / 4 + 2 times, to half of that. With what both round last this is below 2**-22 a
        channel. Stored in float16, a float32 sum is rounded once more; a float16 sum was cut off after ten bits for
        every eight channels instead.
        """
        return max(self.width, 16) * 2.0**-22 + (1.01 * self.width / 8 * 2.0**-10 if self.half else 2.0**-11)


def shape(channels: int, queries: int = 1 << 24) -> Shape:
    """Return the shape for so many channels, `MOST_CHANNELS` at most: queries fill registers, keys 12 KB."""
    width = -(-channels // 8) * 8
    if width <= 24:
        return Shape(width, 16 if queries > 256 else 4, 256, half=True)
    return Shape(width, 8, 128) if width <= 40 else Shape(width, 8, 64) if width <= 64 else Shape(width, 4, 32)


def _largest(products: Tensor, size: int, fine: Tensor, coarse: Tensor) -> None:
    """Write the largest of `size` products each [blocks, n] and of `SPAN` blocks each [spans, n]."""
    n, blocks = len(products), products.shape[1] // size
    fine[:blocks, :n] = products.reshape(n, blocks, size).amax(2).T
    for k in range(-(-blocks // SPAN)):
        coarse[k, :n] = fine[k * SPAN : min(blocks, (k + 1) * SPAN), :n].amax(0)


def with_torch(
    queries: Tensor, keys: Tensor, there: Room, back: Room | None, how: Shape, *, device: Any = None
) -> None:
    """Do what `estimate` does, in plain torch."""
    del device
    wide = torch.promote_types(queries.dtype, torch.float32)
    products = queries.to(wide) @ keys.to(wide).T
    _largest(products, BLOCK, *there)
    if back is not None:
        _largest(products.T, how.together, *back)


@lru_cache(maxsize=32)
def _library(device: Any, how: Shape, both: bool) -> Any:
    defines = {
        "WIDTH": how.width,
        "TILES": how.tiles,
        "STAGE": how.stage,
        "BOTH": int(both),
        "SUM": ("float", "half")[how.half],
    }
    return metal.compile(_HERE / "estimate.metal", device, defines=defines)


def estimate(queries: Tensor, keys: Tensor, there: Room, back: Room | None, how: Shape, *, device: Any) -> None:
    """Write estimates of the products of queries [n, width] with keys [m, width].

    Parameters
    ----------
    queries, keys
        float16; n is a multiple of ``how.rows``, m of `BLOCK`.
    there
        Contiguous float16, for the queries: [m / BLOCK, n or more], the largest product in each block of keys, and
        [spans, n or more], the largest in each `SPAN` of blocks.
    back
        The same for the keys: [n / how.together or more, m] and [spans or more, m]. None is faster.
    """
    library = _library(device, how, back is not None)
    fine, coarse = there
    other = fine if back is None else back[0]
    spans = -(-len(keys) // (BLOCK * SPAN))
    library.estimate(
        queries, keys, fine, coarse, other, struct.pack("<3i", len(keys) // BLOCK, fine.shape[1], other.shape[1]),
        threads=(len(queries) // how.rows * _GROUP, spans), group_size=(_GROUP, 1),
    )  # fmt: skip
    if back is not None:
        rows = len(queries) // how.together
        library.spans(*back, rows, threads=(len(keys) // 2, -(-rows // SPAN)), group_size=(_GROUP, 1))


def room(blocks: int, n: int, device: torch.device, dtype: torch.dtype = torch.float16) -> Room:
    """Return memory for estimates of `n` rows in so many blocks."""
    both = torch.empty(blocks - (-blocks // SPAN), n, dtype=dtype, device=device)
    return both[:blocks], both[blocks:]


def _all(queries: Tensor, keys: Tensor, make: Any, device: Any) -> tuple[Tensor, ...]:
    how = shape(queries.shape[1])
    there = room(len(keys) // BLOCK, len(queries), queries.device, queries.dtype)
    back = room(len(queries) // how.together, len(keys), queries.device, queries.dtype)
    make(queries, keys, there, back, how, device=device)
    return (*there, *back)


def estimates(queries: Tensor, keys: Tensor, *, device: Any) -> tuple[Tensor, ...]:
    """Return all four estimates of float16 queries and keys: of blocks and spans of keys, and of queries."""
    return _all(queries, keys, estimate, device)


def reference(queries: Tensor, keys: Tensor) -> tuple[Tensor, ...]:
    """Do what `estimates` does, in plain torch; float64 included."""
    return _all(queries, keys, with_torch, None)
