"""``vision.nearest`` in plain torch: tiles of products, an argmax over each."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["nearest"]

_QUERIES, _KEYS = 3072, 1024  # a tile of 12.6 MB stays in the cache; both are small enough for Metal's matmul


def nearest(queries: Tensor, keys: Tensor) -> tuple[Tensor, Tensor]:
    """Find each query's best key; arguments and results as ``nearest.run``, float64 included."""
    index = torch.zeros(len(queries), dtype=torch.int64, device=queries.device)
    score = torch.full((len(queries),), -torch.inf, dtype=queries.dtype, device=queries.device)
    for a in range(0, len(queries), _QUERIES):
        some = slice(a, a + _QUERIES)
        for b in range(0, len(keys), _KEYS):
            products = queries[some] @ keys[b : b + _KEYS].T
            best = products.amax(1)
            # The first of equal ones; torch's argmax may name any.
            where = (products == best[:, None]).to(torch.uint8).argmax(1) + b
            better = best > score[some]
            index[some] = torch.where(better, where, index[some])
            score[some] = torch.where(better, best, score[some])
    return index, score
