"""Small float32 products in registers: tiles of 8 rows by 32 columns as LLVM vectors inside numba.

A library spends a third of a 64×64×64 product deciding how to do it. This does one thing: for a panel of columns,
packed unless they lie side by side already, it adds rank-one updates into accumulators that stay in registers.
"""

# mypy: ignore-errors
# ruff: noqa: ARG001  (numba reads the names of an intrinsic)

from __future__ import annotations

import numpy as np
from llvmlite import ir
from numba import carray, njit, types
from numba.core import cgutils
from numba.core.registry import cpu_target
from numba.extending import intrinsic

__all__ = ["COLUMNS", "INSTRUCTIONS", "ROWS", "batch", "product"]

_FEATURES = set(cpu_target.target_context.codegen().magic_tuple()[2].split(","))
INSTRUCTIONS = "avx512" if "+avx512f" in _FEATURES else "avx2" if {"+avx2", "+fma"} <= _FEATURES else "none"
"""``"avx512"``, ``"avx2"``, or ``"none"`` where nothing is gained."""

# Accumulators: 8 x 2 of 32 registers, or 6 x 2 of 16, leave room for the columns and one broadcast row.
LANES, ROWS = (16, 8) if INSTRUCTIONS == "avx512" else (8, 6)
COLUMNS = 2 * LANES
_F, _I = ir.FloatType(), ir.IntType(64)
_V = ir.VectorType(_F, LANES)


def _tile(rows: int):
    """Emit ``c[rows, COLUMNS] = a[rows, depth] @ b[depth, COLUMNS]``; strides in elements, depth at least 1."""

    @intrinsic
    def tile(context, a, lda, b, ldb, c, ldc, depth):
        def generate(context, builder, _signature, args):
            a, lda, b, ldb, c, ldc, depth = args
            four = _I(4)
            kind = ir.FunctionType(_V, [_V] * 3)
            fma = cgutils.get_or_insert_function(builder.module, kind, f"llvm.fma.v{LANES}f32")
            zeros = ir.Constant(_V, [ir.Constant(_F, 0.0)] * LANES)
            everywhere = ir.Constant(ir.VectorType(ir.IntType(32), LANES), [0] * LANES)
            starts = [builder.add(a, builder.mul(builder.mul(lda, _I(i)), four)) for i in range(rows)]
            before = builder.block
            loop, done = builder.append_basic_block("depth"), builder.append_basic_block("done")
            builder.branch(loop)
            builder.position_at_end(loop)
            k = builder.phi(_I)
            k.add_incoming(_I(0), before)
            sums = [[builder.phi(_V) for _ in range(2)] for _ in range(rows)]
            across = builder.add(b, builder.mul(builder.mul(k, ldb), four))
            columns = [
                builder.load(builder.inttoptr(builder.add(across, _I(4 * LANES * j)), _V.as_pointer()), align=4)
                for j in range(2)
            ]
            along = builder.mul(k, four)
            new = []
            for i in range(rows):
                one = builder.load(builder.inttoptr(builder.add(starts[i], along), _F.as_pointer()), align=4)
                wide = builder.insert_element(ir.Constant(_V, ir.Undefined), one, ir.IntType(32)(0))
                wide = builder.shuffle_vector(wide, ir.Constant(_V, ir.Undefined), everywhere)
                new.append([builder.call(fma, [wide, columns[j], sums[i][j]]) for j in range(2)])
            following = builder.add(k, _I(1))
            builder.cbranch(builder.icmp_signed("<", following, depth), loop, done)
            k.add_incoming(following, loop)
            for i in range(rows):
                for j in range(2):
                    sums[i][j].add_incoming(zeros, before)
                    sums[i][j].add_incoming(new[i][j], loop)
            builder.position_at_end(done)
            for i in range(rows):
                row = builder.add(c, builder.mul(builder.mul(ldc, _I(i)), four))
                for j in range(2):
                    place = builder.inttoptr(builder.add(row, _I(4 * LANES * j)), _V.as_pointer())
                    builder.store(new[i][j], place, align=4)
            return context.get_dummy_value()

        return types.void(*[types.int64] * 7), generate

    return tile


_whole, _half, _one = _tile(ROWS), _tile(ROWS // 2), _tile(1)


@intrinsic
def _transpose(context, source, step, target):
    """Copy LANES rows of LANES neighbours, `step` elements apart, to as many columns, COLUMNS elements apart."""

    def generate(context, builder, _signature, args):
        source, step, target = args
        rows = []
        for i in range(LANES):
            place = builder.add(source, builder.mul(builder.mul(step, _I(i)), _I(4)))
            rows.append(builder.load(builder.inttoptr(place, _V.as_pointer()), align=4))
        numbers = ir.VectorType(ir.IntType(32), LANES)
        stage = 1
        while stage < LANES:  # exchange ever larger off-diagonal blocks
            low = ir.Constant(numbers, [x if not x & stage else LANES + x - stage for x in range(LANES)])
            high = ir.Constant(numbers, [x + stage if not x & stage else LANES + x for x in range(LANES)])
            for i in range(LANES):
                if not i & stage:
                    a, b = rows[i], rows[i + stage]
                    rows[i], rows[i + stage] = builder.shuffle_vector(a, b, low), builder.shuffle_vector(a, b, high)
            stage *= 2
        for i, row in enumerate(rows):
            place = builder.inttoptr(builder.add(target, _I(4 * COLUMNS * i)), _V.as_pointer())
            builder.store(row, place, align=4)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64), generate


@intrinsic
def _float32_at(_context, address):
    def generate(target, builder, signature, args):
        return builder.inttoptr(args[0], target.get_value_type(signature.return_type))

    return types.CPointer(types.float32)(types.int64), generate


@njit(nogil=True, error_model="numpy", inline="always")
def _pack(packed, w, left, width, k, along_n, along_k):
    """Put a panel's columns side by side, zeros beyond the last: squares in registers, the rest one by one."""
    weights = carray(_float32_at(w), ((left + width - 1) * along_n + (k - 1) * along_k + 1,))
    wide, deep = 0, 0
    if along_k == 1:
        wide, deep = width // LANES * LANES, k // LANES * LANES
    for j in range(0, wide, LANES):
        for d in range(0, deep, LANES):
            start = packed.ctypes.data + 4 * (d * COLUMNS + j)
            _transpose(w + 4 * ((left + j) * along_n + d), along_n, np.int64(start))
    for d in range(k):
        for j in range(wide if d < deep else 0, width):
            packed[d * COLUMNS + j] = weights[(left + j) * along_n + d * along_k]
        for j in range(width, COLUMNS):
            packed[d * COLUMNS + j] = np.float32(0.0)


@njit(nogil=True, error_model="numpy", inline="always")
def _rows(rows, x, lda, b, ldb, y, ldy, k):
    if rows == ROWS:
        _whole(x, lda, b, ldb, y, ldy, k)
    elif rows == 1:
        _one(x, lda, b, ldb, y, ldy, k)
    else:
        _half(x, lda, b, ldb, y, ldy, k)


@njit(nogil=True, error_model="numpy", inline="always")
def _finish(result, m, n, ldc, bias, relu):
    """Add the bias and cut off below zero; NaN stays."""
    zero = np.float32(0.0)
    if bias != 0:
        shift = carray(_float32_at(bias), (n,))
        for i in range(m):
            row = result[i * ldc : i * ldc + n]
            for j in range(n):
                v = row[j] + shift[j]
                row[j] = v if (v > zero or v != v or not relu) else zero
    elif relu:
        for i in range(m):
            row = result[i * ldc : i * ldc + n]
            for j in range(n):
                v = row[j]
                row[j] = v if (v > zero or v != v) else zero


@njit(nogil=True, error_model="numpy", cache=True)
def product(m, n, k, a, lda, w, along_n, along_k, c, ldc, bias, relu):
    """Compute ``c = relu?(a @ w.T + bias?)``; addresses, and strides in elements.

    Parameters
    ----------
    m, n, k
        Rows, columns, and length of the sums, each at least 1.
    a, lda
        Rows whose elements are neighbours, `lda` apart.
    w, along_n, along_k
        (n, k) by any strides.
    c, ldc
        Where the result goes; its rows' elements are neighbours.
    bias
        Address of n numbers, or 0 for none.
    relu
        Whether negative results become 0; NaN stays.
    """
    packed = np.empty(k * COLUMNS, np.float32)
    edge = np.empty(ROWS * COLUMNS, np.float32)
    result = carray(_float32_at(c), ((m - 1) * ldc + n,))
    for left in range(0, n, COLUMNS):
        width = min(COLUMNS, n - left)
        whole = width == COLUMNS
        if along_n == 1 and whole:
            b, ldb = w + 4 * left, along_k
        else:
            _pack(packed, w, left, width, k, along_n, along_k)
            b, ldb = np.int64(packed.ctypes.data), np.int64(COLUMNS)
        top = 0
        while top < m:
            rows = ROWS if m - top >= ROWS else ROWS // 2 if m - top >= ROWS // 2 else 1
            x = a + 4 * top * lda
            if whole:
                _rows(rows, x, lda, b, ldb, c + 4 * (top * ldc + left), ldc, k)
            else:
                _rows(rows, x, lda, b, ldb, np.int64(edge.ctypes.data), np.int64(COLUMNS), k)
                for i in range(rows):
                    for j in range(width):
                        result[(top + i) * ldc + left + j] = edge[i * COLUMNS + j]
            top += rows
    _finish(result, m, n, ldc, bias, relu)


@njit(nogil=True, error_model="numpy", cache=True)
def batch(first, last, m, n, k, a, a_step, lda, w, w_step, along_n, along_k, c, c_step, ldc):
    """Run `product` for the items [first, last) of a batch, whose starts are so many elements apart."""
    for item in range(first, last):
        product(
            m, n, k, a + 4 * item * a_step, lda, w + 4 * item * w_step, along_n, along_k, c + 4 * item * c_step, ldc,
            0, False,
        )  # fmt: skip
