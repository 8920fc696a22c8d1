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

__all__ = ["BLOCK", "estimator", "with_torch"]

BLOCK = 128
_ROWS, _PROGRAMS = 128, 1056  # queries per program; programs that fill any GPU
_log = logging.getLogger("elinvar.kernels")
Estimator = Callable[[Tensor, Tensor, Tensor], None]


def with_torch(queries: Tensor, keys: Tensor, out: Tensor) -> None:
    """Write estimates [blocks, n] for float16 queries [n, c] and keys [blocks * BLOCK, c]; any device."""
    products = queries.float() @ keys.float().T
    out.copy_(products.view(len(queries), -1, BLOCK).amax(2).T)


@functools.lru_cache(maxsize=1)
def _program():
    import triton
    import triton.language as tl

    @triton.jit
    def estimate(queries, keys, out, stride, tiles, per, ROWS: tl.constexpr, KEYS: tl.constexpr, WIDTH: tl.constexpr):
        rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
        channels = tl.arange(0, WIDTH)
        mine = tl.load(queries + rows[:, None] * WIDTH + channels[None, :])
        first = tl.program_id(1) * per
        for tile in range(first, min(first + per, tiles)):
            columns = tile * KEYS + tl.arange(0, KEYS)
            theirs = tl.load(keys + columns[None, :] * WIDTH + channels[:, None])
            best = tl.max(tl.dot(mine, theirs), 1)
            tl.store(out + tile * stride + rows, best.to(tl.float16))

    return estimate


def _with_triton(queries: Tensor, keys: Tensor, out: Tensor) -> None:
    """Do what `with_torch` does; n is a multiple of 128 and c is 16, 32, 64 or 128."""
    tiles, groups = len(keys) // BLOCK, len(queries) // _ROWS
    per = max(1, tiles * groups // _PROGRAMS)
    per = min(per, tiles)
    _program()[(groups, -(-tiles // per))](
        queries, keys, out, out.stride(0), tiles, per, ROWS=_ROWS, KEYS=BLOCK, WIDTH=queries.shape[1],
        num_warps=4, num_stages=2,
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
        queries, keys = (torch.randn(n, width, generator=make, device=device).half() for n in (256, 5 * BLOCK))
        got, want = (torch.zeros(5, 256, dtype=torch.float16, device=device) for _ in range(2))
        _with_triton(queries, keys, got)
        with_torch(queries, keys, want)
        if torch.allclose(got.float(), want.float(), rtol=2e-3, atol=1e-3):
            return _with_triton
        _log.warning("vision.nearest v2: Triton's estimates are wrong on %s; version v1 is used.", device)
    except Exception as error:  # noqa: BLE001  no Triton, no compiler for it, a GPU it does not know
        _log.info("vision.nearest v2: no Triton on %s (%s); version v1 is used.", device, error)
    return None
