"""``vision.nearest`` on the CPU: four queries against a block of keys that stays in the first-level cache.

Keys are laid out [block, channel, key], so that a vector of products is a row of keys times a number. Products live in
registers only: eight vectors of them are summed over the channels and fed to a running maximum. Which key it was is
looked for only where a block beats what was best, a handful of times per query.
"""

# numba's compiler interface has no types.
# mypy: disable-error-code="no-untyped-call, call-arg, var-annotated, no-any-return"
# mypy: warn-unreachable=False

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic
from torch import Tensor

from elinvar.runtime.parallel import parallel_for

__all__ = ["nearest"]

_BLOCK = 256
_CHUNK = 32  # groups of four queries per piece
_LANES = 16 if "AVX512" in torch.backends.cpu.get_cpu_capability() else 8
_LOW = float(np.finfo(np.float32).min)


def _emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
    """Emit the block's products and their maxima: for each step of two vectors of keys, a loop over the channels."""
    single, lanes = ir.FloatType(), ir.VectorType(ir.FloatType(), _LANES)
    quad, block = (
        context.make_array(kind)(context, builder, value).data
        for kind, value in zip(signature.args[:2], arguments[:2], strict=True)
    )
    channels, width = arguments[2], arguments[3]
    number = width.type
    step = ir.Constant(number, 2 * _LANES)
    fma = cgutils.get_or_insert_function(builder.module, ir.FunctionType(lanes, [lanes] * 3), f"llvm.fma.v{_LANES}f32")
    greater = cgutils.get_or_insert_function(
        builder.module, ir.FunctionType(lanes, [lanes] * 2), f"llvm.maxnum.v{_LANES}f32"
    )
    zero, low = ir.Constant(lanes, [0.0] * _LANES), ir.Constant(lanes, [_LOW] * _LANES)
    most = [cgutils.alloca_once_value(builder, low) for _ in range(4)]
    sums = [cgutils.alloca_once(builder, lanes) for _ in range(8)]
    undefined = ir.Constant(lanes, ir.Undefined)
    mask = ir.Constant(ir.VectorType(ir.IntType(32), _LANES), [0] * _LANES)

    def vector(at: Any) -> Any:
        return builder.load(builder.bitcast(builder.gep(block, [at]), lanes.as_pointer()), align=4)

    with cgutils.for_range_slice(builder, number(0), width, step, inc=True) as (j, _):
        for place in sums:
            builder.store(zero, place)
        with cgutils.for_range(builder, channels) as loop:
            at = builder.add(builder.mul(loop.index, width), j)
            keys = (vector(at), vector(builder.add(at, number(_LANES))))
            for q in range(4):
                value = builder.load(builder.gep(quad, [builder.add(builder.mul(loop.index, number(4)), number(q))]))
                first = builder.insert_element(undefined, value, ir.IntType(32)(0))
                spread = builder.shuffle_vector(first, undefined, mask)
                for v in range(2):
                    place = sums[2 * q + v]
                    builder.store(builder.call(fma, [spread, keys[v], builder.load(place)]), place)
        for q in range(4):
            for v in range(2):
                best = builder.call(greater, [builder.load(most[q]), builder.load(sums[2 * q + v])])
                builder.store(best, most[q])
    out = cgutils.alloca_once(builder, ir.LiteralStructType([single] * 4))
    for q in range(4):
        vector_best = builder.load(most[q])
        best = builder.extract_element(vector_best, ir.IntType(32)(0))
        for lane in range(1, _LANES):
            other = builder.extract_element(vector_best, ir.IntType(32)(lane))
            best = builder.select(builder.fcmp_ordered(">", other, best), other, best)
        builder.store(best, cgutils.gep_inbounds(builder, out, 0, q))
    values = [builder.load(cgutils.gep_inbounds(builder, out, 0, q)) for q in range(4)]
    return context.make_tuple(builder, signature.return_type, values)


@intrinsic
def _best_of_block(typing: Any, quad: Any, block: Any, channels: Any, width: Any) -> Any:  # noqa: ARG001
    """Return the largest product of each of four queries [channels, 4] with a block of keys [channels, width]."""
    return types.UniTuple(types.float32, 4)(quad, block, types.intp, types.intp), _emit


@njit(nogil=True, cache=True, error_model="numpy", fastmath={"contract"})
def _first(quad: Any, q: int, block: Any, last: int, products: Any) -> Any:
    """Return the first key of the block with the largest product, and the product."""
    products[:] = 0.0
    for c in range(block.shape[0]):
        row, a = block[c], quad[c, q]
        for j in range(row.shape[0]):
            products[j] += a * row[j]
    best, where = products[0], 0
    for j in range(1, last):
        if products[j] > best:
            best, where = products[j], j
    return best, where


@njit(nogil=True, cache=True, error_model="numpy")
def _search(quads: Any, blocks: Any, count: int, index: Any, score: Any, start: int, stop: int) -> None:
    """Search groups [start, stop) of four queries in all blocks."""
    n_blocks, channels, width = blocks.shape
    products = np.empty(width, np.float32)
    for b in range(n_blocks):
        block = blocks[b]
        last = min(width, count - b * width)
        for i in range(start, stop):
            quad = quads[i]
            found = _best_of_block(quad, block, channels, width)
            for q in range(4):
                # Padding is zeros: it may seem best where all products are negative, so the keys are asked again.
                if found[q] > score[4 * i + q]:
                    best, where = _first(quad, q, block, last, products)
                    if best > score[4 * i + q]:
                        score[4 * i + q], index[4 * i + q] = best, b * width + where


def nearest(queries: Tensor, keys: Tensor) -> tuple[Tensor, Tensor]:
    """Find each query's best key; arguments and results as ``nearest.run``, float32."""
    n, m, channels = len(queries), len(keys), queries.shape[1]
    blocks = torch.zeros(-(-m // _BLOCK), channels, _BLOCK)
    whole = m // _BLOCK
    blocks[:whole] = keys[: whole * _BLOCK].view(whole, _BLOCK, channels).transpose(1, 2)
    if whole < len(blocks):
        blocks[whole, :, : m - whole * _BLOCK] = keys[whole * _BLOCK :].T
    padded = torch.zeros(-(-n // 4) * 4, channels)
    padded[:n] = queries
    quads = padded.view(-1, 4, channels).transpose(1, 2).contiguous().numpy()
    laid = blocks.numpy()
    index = np.zeros(len(padded), np.int64)
    score = np.full(len(padded), -np.inf, np.float32)
    parallel_for(len(quads), lambda a, b: _search(quads, laid, m, index, score, a, b), chunk=_CHUNK)
    return torch.from_numpy(index[:n]), torch.from_numpy(score[:n])
