"""``vision.nearest`` version v2: float16 estimates say where the winner can be, exact products there find it.

Let e_q = |q - q'| be the length of what rounding to float16 took from a query, E_k the largest such length of the
keys, and |k| <= K. Then |q.k - q'.k'| <= e_q K + |q'| E_k (Cauchy and Schwarz), and summing and storing both products
adds less than `Shape.error` |q| K. Twice the sum of these is the margin: a block whose estimate falls short of the best
by more cannot hold the winner. So the result is v1's, bit for bit, for any input; a margin that is too wide only costs
time.

The same products serve both directions: `both` asks them for every query's best key and every key's best query.
"""

from __future__ import annotations

import dataclasses
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from elinvar import metal

from .estimate import BLOCK, MOST_CHANNELS, Room, Shape, estimate, room, shape
from .metal import nearest as direct

__all__ = ["both", "fits", "nearest", "pays"]

_HERE = Path(__file__).parent
_GROUPS = 4  # queries per group of the second half
_ESTIMATES = 1 << 26  # at once, in each direction: 134 MB
_LEAST = 1 << 26  # products below which estimating does not pay
_MOST_ROWS = 1 << 24


@lru_cache(maxsize=32)
def _library(device: Any, name: str, width4: int, more: int) -> Any:
    defines = {"WIDTH4": width4, "BLOCK" if name == "recheck" else "OUT4": more}
    return metal.compile(_HERE / f"{name}.metal", device, defines=defines)


@dataclasses.dataclass(frozen=True)
class _Rows:
    """Descriptors, and what the first half needs of them.

    Attributes
    ----------
    exact
        float32 [n, d], d a multiple of 4.
    half
        float16 [a multiple of the block, width], scaled to length 1 at most. Rows are padded with copies of the last: a
        key that is there twice changes no maximum.
    lost, reach, bounds
        Per row the length of what rounding took and the scaled row's own; [2], the largest of each.
    scale
        [1]: what rows were multiplied by.
    """

    exact: Tensor
    half: Tensor
    lost: Tensor
    reach: Tensor
    bounds: Tensor
    scale: Tensor


def _rows(x: Tensor, block: int, width: int, device: Any) -> _Rows:
    pad = -x.shape[1] % 4
    x = (functional.pad(x, (0, pad)) if pad else x).contiguous()
    library = _library(device, "halves", x.shape[1] // 4, width // 4)
    length, lost, reach = (x.new_empty(len(x)) for _ in range(3))
    scale = x.new_empty(1)
    library.lengths(x, length, threads=len(x))
    half = x.new_empty((-(-len(x) // block) * block, width), dtype=torch.float16)
    library.halves(x, length, length.amax().view(1), half, lost, reach, len(x), scale, threads=len(half))
    return _Rows(x, half, lost, reach, torch.stack([lost.amax(), reach.amax()]), scale)


@dataclasses.dataclass
class _Search:
    """The second half: exact products where estimates leave doubt."""

    queries: _Rows
    keys: _Rows
    block: int
    error: float
    device: Any

    def __post_init__(self) -> None:
        n, place = len(self.queries.exact), self.queries.exact.device
        self.index = torch.full((n,), 0x7FFFFFFF, dtype=torch.int32, device=place)
        self.score = torch.full((n,), -torch.inf, device=place)

    def look(self, space: Room, queries: tuple[int, int], keys: tuple[int, int]) -> None:
        """Look for the best of some keys for some queries, which are `space`'s; goes on from earlier keys."""
        mine, theirs, (start, stop), (first, last) = self.queries, self.keys, queries, keys
        width4 = mine.exact.shape[1] // 4
        _library(self.device, "recheck", width4, self.block).recheck(
            mine.exact[start:stop], theirs.exact[first:last], *space, mine.lost[start:stop], mine.reach[start:stop],
            theirs.bounds, self.index[start:stop], self.score[start:stop], stop - start, last - first,
            -(-(last - first) // self.block), space[0].shape[1], self.error, first,
            mine.scale, theirs.scale,
            threads=-(-(stop - start) // _GROUPS) * _GROUPS * 32, group_size=_GROUPS * 32,
        )  # fmt: skip


def _slabs(n: int, keys: int, how: Shape) -> int:
    """Return how many queries to look at together: alike slabs, of whole groups, that keep to `_ESTIMATES`."""
    most = max(how.rows, _ESTIMATES * BLOCK // keys // how.rows * how.rows)
    slabs = -(-n // most)
    return -(-n // (slabs * how.rows)) * how.rows


def _found(queries: Tensor, keys: Tensor, device: Any, make: Any, way_back: bool) -> tuple[_Search, _Search]:
    """Search with estimates, in both directions if asked; the second result is the way back."""
    how = shape(queries.shape[1], len(queries))
    mine, theirs = _rows(queries, how.rows, how.width, device), _rows(keys, BLOCK, how.width, device)
    n, m, padded = len(queries), len(keys), len(theirs.half)
    there, back = (
        _Search(mine, theirs, BLOCK, how.error, device),
        _Search(theirs, mine, how.together, how.error, device),
    )
    step = _slabs(len(mine.half), padded, how)
    space = room(padded // BLOCK, step, queries.device)
    space_back = room(step // how.together, padded, queries.device) if way_back else None
    for start in range(0, n, step):
        stop = min(start + step, n)
        make(mine.half[start : start + step], theirs.half, space, space_back, how, device=device)
        there.look(space, (start, stop), (0, m))
        if space_back is not None:
            back.look(space_back, (0, m), (start, stop))
    return there, back


def fits(n: int, m: int, channels: int) -> bool:
    """Whether this version can serve a size; `nearest` goes version v1's way where it cannot."""
    return channels <= MOST_CHANNELS and max(n, m) <= _MOST_ROWS


def pays(device: torch.device, n: int, m: int, channels: int) -> bool:
    """Whether estimates save time, as measured on an H200; on Apple GPUs nobody has measured."""
    return device.type == "cuda" and n * m >= _LEAST and fits(n, m, channels)


def nearest(queries: Tensor, keys: Tensor, *, device: Any, make: Any = estimate) -> tuple[Tensor, Tensor]:
    """Find each query's best key; arguments and results as ``nearest.run``; `make` is the first half."""
    if not fits(len(queries), len(keys), queries.shape[1]):
        return direct(queries, keys, device=device)
    there, _ = _found(queries, keys, device, make, False)
    return there.index.long(), there.score


def both(queries: Tensor, keys: Tensor, *, device: Any, make: Any = estimate) -> tuple[Tensor, Tensor, Tensor]:
    """Find each query's best key, its product, and each key's best query, where `fits` allows it."""
    there, back = _found(queries, keys, device, make, True)
    return there.index.long(), there.score, back.index.long()
