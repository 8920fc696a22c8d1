"""``vision.nearest`` version v2: float16 estimates say where the winner can be, exact products there find it.

Let e_q = |q - q'| be the length of what rounding to float16 took from a query, E_k the largest such length of the keys,
and |k| <= K. Then |q.k - q'.k'| <= e_q K + |q'| E_k (Cauchy and Schwarz), and the float32 sums of both add less than
2**-18 |q| K; an estimate is stored with a relative error of 2**-11. Twice the sum of these is the margin: a block whose
estimate falls short of the best by more cannot hold the winner. So the result is v1's, bit for bit, for any input; a
margin that is too wide only costs time.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from elinvar import metal

from .estimate import BLOCK, SPAN, estimator, with_torch
from .metal import nearest as direct

__all__ = ["nearest", "through_estimates"]

_HERE = Path(__file__).parent
_ROWS, _GROUPS = 128, 4  # queries per program of the first half, per group of the second
_SUM, _STORED = 2.0**-18, 2.0**-11
_ESTIMATES = 1 << 26  # at once: 134 MB
_LEAST = 1 << 26  # products below which estimating does not pay
_MOST_ROWS = 1 << 24


@lru_cache(maxsize=16)
def _library(device: Any, name: str, width4: int, more: int) -> Any:
    defines = {"WIDTH4": width4, "BLOCK" if name == "recheck" else "OUT4": more}
    return metal.compile(_HERE / f"{name}.metal", device, defines=defines)


def _halves(x: Tensor, rows: int, width: int, device: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Return float16 rows scaled to length 1 at most and padded, the rounding's length per row, and each length.

    Rows are padded with copies of the last: a key that is there twice changes no maximum.
    """
    library = _library(device, "halves", x.shape[1] // 4, width // 4)
    length, lost, after = (x.new_empty(len(x)) for _ in range(3))
    library.lengths(x, length, threads=len(x))
    half = x.new_empty((-(-len(x) // rows) * rows, width), dtype=torch.float16)
    library.halves(x, length, length.amax().view(1), half, lost, after, len(x), threads=len(half))
    return half, lost, after


def through_estimates(
    queries: Tensor, keys: Tensor, *, device: Any, estimate: Any = with_torch
) -> tuple[Tensor, Tensor]:
    """Find each query's best key by the two halves, whatever the size; `estimate` is the first."""
    n, m, channels = len(queries), len(keys), queries.shape[1]
    pad = -channels % 4
    if pad:
        queries, keys = functional.pad(queries, (0, pad)), functional.pad(keys, (0, pad))
    queries, keys = queries.contiguous(), keys.contiguous()
    width = max(16, 1 << (channels - 1).bit_length())
    their, lost_k, long_k = _halves(keys, BLOCK, width, device)
    mine, lost_q, long_q = _halves(queries, _ROWS, width, device)
    bounds = torch.stack([lost_k.amax(), long_k.amax()])
    index = torch.empty(n, dtype=torch.int32, device=queries.device)
    score = torch.empty(n, dtype=torch.float32, device=queries.device)
    blocks = len(their) // BLOCK
    step = min(len(mine), max(_ROWS, _ESTIMATES // blocks // _ROWS * _ROWS))
    room = torch.empty(blocks - (-blocks // SPAN), step, dtype=torch.float16, device=queries.device)
    fine, coarse = room[:blocks], room[blocks:]
    recheck = _library(device, "recheck", (channels + pad) // 4, BLOCK).recheck
    for start in range(0, n, step):
        some = mine[start : start + step]
        estimate(some, their, fine[:, : len(some)], coarse[:, : len(some)])
        stop = min(start + step, n)
        recheck(
            queries[start:stop], keys, fine, coarse, lost_q[start:stop], long_q[start:stop], bounds, index[start:stop],
            score[start:stop], stop - start, m, blocks, step, _SUM + _STORED,
            threads=-(-(stop - start) // _GROUPS) * _GROUPS * 32, group_size=_GROUPS * 32,
        )  # fmt: skip
    return index.long(), score


def nearest(queries: Tensor, keys: Tensor, *, device: Any) -> tuple[Tensor, Tensor]:
    """Find each query's best key; arguments and results as ``nearest.run``."""
    n, m, channels = len(queries), len(keys), queries.shape[1]
    if queries.device.type == "cpu":  # the emulator, where small tiles stand for all
        return through_estimates(queries, keys, device=device)
    if n * m >= _LEAST and min(n, m) >= _ROWS and channels <= 128 and max(n, m) <= _MOST_ROWS:
        width = max(16, 1 << (channels - 1).bit_length())
        estimate = estimator(queries.device, width)
        if estimate is not None:
            return through_estimates(queries, keys, device=device, estimate=estimate)
    return direct(queries, keys, device=device)
