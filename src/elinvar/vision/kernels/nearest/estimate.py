"""The first half of ``vision.nearest`` v2: every query's largest product in each block of keys, estimated in float16.

On NVIDIA GPUs the products run on the matrix units, through Triton, which comes with torch there: Metal's language has
no word for them that elinvar takes. Nothing is decided by an estimate: it only says where to look.
"""

# Triton's language is not Python's: names in a kernel are not what a type checker takes them for.
# mypy: ignore-errors

from __future__ import annotations

import functools
import logging
from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["BLOCK", "SPAN", "estimator", "with_torch"]

BLOCK = 256  # keys with one estimate
SPAN = 32  # blocks with one estimate of their best: a SIMD group's lanes
_ROWS = 128  # queries per program
_log = logging.getLogger("elinvar.kernels")
Estimator = Callable[[Tensor, Tensor, Tensor, Tensor], None]


def with_torch(queries: Tensor, keys: Tensor, fine: Tensor, coarse: Tensor) -> None:
    """Write estimates of queries [n, c] and keys [blocks * BLOCK, c], both float16; any device.

    `fine` is [blocks, n], the largest product in each block; `coarse` is [ceil(blocks / SPAN), n], the largest in each
    span of blocks; both float16.
    """
    products = queries.float() @ keys.float().T
    fine.copy_(products.view(len(queries), -1, BLOCK).amax(2).T)
    for k in range(len(coarse)):
        coarse[k] = fine[k * SPAN : (k + 1) * SPAN].amax(0)


@functools.lru_cache(maxsize=1)
def _program():
    import triton
    import triton.language as tl

    @triton.jit
    def estimate(
        queries, keys, fine, coarse, stride, tiles, ROWS: tl.constexpr, KEYS: tl.constexpr, WIDTH: tl.constexpr,
        SPAN: tl.constexpr,
    ):  # fmt: skip
        rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
        channels = tl.arange(0, WIDTH)
        mine = tl.load(queries + rows[:, None] * WIDTH + channels[None, :])
        first = tl.program_id(1) * SPAN
        top = tl.full((ROWS,), float("-inf"), tl.float16)
        for tile in range(first, min(first + SPAN, tiles)):
            columns = tile * KEYS + tl.arange(0, KEYS)
            theirs = tl.load(keys + columns[None, :] * WIDTH + channels[:, None])
            best = tl.max(tl.dot(mine, theirs), 1).to(tl.float16)
            tl.store(fine + tile.to(tl.int64) * stride + rows, best)
            top = tl.maximum(top, best)
        tl.store(coarse + tl.program_id(1).to(tl.int64) * stride + rows, top)

    return estimate


def _with_triton(queries: Tensor, keys: Tensor, fine: Tensor, coarse: Tensor, warps: int = 4, stages: int = 3) -> None:
    """Do what `with_torch` does; n is a multiple of 128, c is 16, 32, 64 or 128, both outputs have one row stride."""
    with torch.cuda.device(queries.device):
        _program()[(len(queries) // _ROWS, len(coarse))](
            queries, keys, fine, coarse, fine.stride(0), len(keys) // BLOCK,
            ROWS=_ROWS, KEYS=BLOCK, WIDTH=queries.shape[1], SPAN=SPAN, num_warps=warps, num_stages=stages,
        )  # fmt: skip


@functools.lru_cache(maxsize=16)
def estimator(device: torch.device, width: int) -> Estimator | None:
    """Return the way to estimate on a device for this many channels, or None where there is no fast one.

    A made-up problem is compared with `with_torch` first.
    """
    if device.type != "cuda":
        return None
    try:
        make = torch.Generator(device).manual_seed(0)
        blocks = SPAN + 3
        queries, keys = (torch.randn(n, width, generator=make, device=device).half() for n in (256, blocks * BLOCK))
        got, want = (torch.zeros(blocks + 2, 256, dtype=torch.float16, device=device) for _ in range(2))
        _with_triton(queries, keys, got[:blocks], got[blocks:])
        with_torch(queries, keys, want[:blocks], want[blocks:])
        if torch.allclose(got.float(), want.float(), rtol=2e-3, atol=1e-3):
            return _with_triton
        _log.warning("vision.nearest v2: Triton's estimates are wrong on %s; version v1 is used.", device)
    except Exception as error:  # noqa: BLE001  no Triton, no compiler for it, a GPU it does not know
        _log.info("vision.nearest v2: no Triton on %s (%s); version v1 is used.", device, error)
    return None
