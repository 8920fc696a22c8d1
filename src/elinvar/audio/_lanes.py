"""Sixteen lanes at a time, written as LLVM instructions: the butterflies and products of the audio kernels.

A butterfly reads eight arrays and writes eight. LLVM vectorises such a loop only after checking that none of them
overlap, and gives up when there are too many to check, so the vectors are written out here. Machines with narrower
registers split them. Multiply-adds may be fused ("contract"); nothing else may be changed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

__all__ = [
    "LANES",
    "butterfly",
    "butterfly_1",
    "butterfly_4",
    "butterfly_plain",
    "call",
    "compare_and_swap",
    "double_pointer",
    "float_pointer",
    "int_pointer",
    "merge",
    "merge_add",
    "multiply_add",
    "pack",
    "split",
    "split_window",
    "sum_difference",
    "taps",
    "twist",
    "unpack",
    "untwist",
]

LANES = 16
_FLOAT = ir.FloatType()
_VECTOR = ir.VectorType(_FLOAT, LANES)
_MAY = ("contract",)
Vector = Any


class _Lanes:
    """Loads, stores and arithmetic of one intrinsic's body; arrays are C-contiguous float32."""

    def __init__(self, builder: Any) -> None:
        self.b = builder

    def load(self, data: Any, at: Any, offset: int = 0) -> Vector:
        place = self.b.gep(data, [self.plus(at, offset)])
        found = self.b.load(self.b.bitcast(place, _VECTOR.as_pointer()))
        found.align = 4
        return found

    def save(self, value: Vector, data: Any, at: Any, offset: int = 0) -> None:
        place = self.b.gep(data, [self.plus(at, offset)])
        self.b.store(value, self.b.bitcast(place, _VECTOR.as_pointer())).align = 4

    def plus(self, at: Any, offset: int) -> Any:
        return at if offset == 0 else self.b.add(at, ir.Constant(at.type, offset))

    def spread(self, data: Any, at: Any) -> Vector:
        """One element in all lanes."""
        value = self.b.load(self.b.gep(data, [at]))
        one = self.b.insert_element(ir.Constant(_VECTOR, ir.Undefined), value, ir.Constant(ir.IntType(32), 0))
        zeros = ir.Constant(ir.VectorType(ir.IntType(32), LANES), [0] * LANES)
        return self.b.shuffle_vector(one, ir.Constant(_VECTOR, ir.Undefined), zeros)

    def shuffle(self, first: Vector, second: Vector, order: list[int]) -> Vector:
        mask = ir.Constant(ir.VectorType(ir.IntType(32), len(order)), order)
        return self.b.shuffle_vector(first, second, mask)

    def add(self, x: Vector, y: Vector) -> Vector:
        return self.b.fadd(x, y, flags=_MAY)

    def sub(self, x: Vector, y: Vector) -> Vector:
        return self.b.fsub(x, y, flags=_MAY)

    def mul(self, x: Vector, y: Vector) -> Vector:
        return self.b.fmul(x, y, flags=_MAY)

    def times(self, x: tuple[Vector, Vector], w: tuple[Vector, Vector]) -> tuple[Vector, Vector]:
        """Complex product."""
        (xr, xi), (wr, wi) = x, w
        return self.sub(self.mul(xr, wr), self.mul(xi, wi)), self.add(self.mul(xr, wi), self.mul(xi, wr))

    def four(self, x: list[tuple[Vector, Vector]]) -> list[tuple[Vector, Vector]]:
        """Transform of four complex numbers, forward."""
        (ar, ai), (br, bi), (cr, ci), (dr, di) = x
        sr, si, tr, ti = self.add(ar, cr), self.add(ai, ci), self.sub(ar, cr), self.sub(ai, ci)
        ur, ui, vr, vi = self.add(br, dr), self.add(bi, di), self.sub(bi, di), self.sub(dr, br)
        return [
            (self.add(sr, ur), self.add(si, ui)),
            (self.add(tr, vr), self.add(ti, vi)),
            (self.sub(sr, ur), self.sub(si, ui)),
            (self.sub(tr, vr), self.sub(ti, vi)),
        ]


def _intrinsic(arrays: int, emit: Callable[[_Lanes, list[Any], list[Any]], None]) -> Any:
    """A function for kernels, of one tuple: some float32 arrays, then indices into them."""

    def typed(typingctx: Any, values: Any) -> Any:
        del typingctx

        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            kinds = signature.args[0]
            given = [builder.extract_value(arguments[0], i) for i in range(len(kinds))]
            data = [context.make_array(kinds[i])(context, builder, given[i]).data for i in range(arrays)]
            emit(_Lanes(builder), data, given[arrays:])
            return context.get_dummy_value()

        return types.void(values), generate

    return cast("Any", intrinsic(typed))


_WEAVE = {
    1: [[(k % 2) * LANES + (k // 2) * 2 * LANES + 4 * b + p for p in range(4) for k in range(4)] for b in range(4)],
    4: [[(k % 2) * LANES + (k // 2) * 2 * LANES + 4 * b + q for k in range(4) for q in range(4)] for b in range(4)],
}


def _weave(v: _Lanes, four: list[Vector], granule: int) -> list[Vector]:
    """Sixteen of each of four vectors to 64 in the order of a pass's output: stride 1 or 4."""
    low = v.shuffle(four[0], four[1], list(range(2 * LANES)))
    high = v.shuffle(four[2], four[3], list(range(2 * LANES)))
    return [v.shuffle(low, high, order) for order in _WEAVE[granule]]


def _legs(v: _Lanes, f: Any, x: Any, xi: Any, leg: Any) -> list[tuple[Vector, Vector]]:
    found = []
    for k in range(4):
        if k:
            x, xi = v.b.add(x, leg), v.b.add(xi, leg)
        found.append((v.load(f, x), v.load(f, xi)))
    return v.four(found)


def _flat(granule: int) -> Callable[[_Lanes, list[Any], list[Any]], None]:
    def emit(v: _Lanes, arrays: list[Any], at: list[Any]) -> None:
        (f,), (x, xi, leg, y, yi, w) = arrays, at
        out = _legs(v, f, x, xi, leg)
        for k in range(1, 4):
            wi = v.b.add(w, leg)
            out[k] = v.times(out[k], (v.load(f, w), v.load(f, wi)))
            w = v.b.add(wi, leg)
        for part, base in ((0, y), (1, yi)):
            for b, block in enumerate(_weave(v, [z[part] for z in out], granule)):
                v.save(block, f, base, b * LANES)

    return emit


def _grouped(turned: bool) -> Callable[[_Lanes, list[Any], list[Any]], None]:
    def emit(v: _Lanes, arrays: list[Any], at: list[Any]) -> None:
        (f,), (x, xi, leg, y, yi, stride, w, groups) = arrays, at
        out = _legs(v, f, x, xi, leg)
        for k in range(4):
            if turned and k:
                wi = v.b.add(w, groups)
                out[k] = v.times(out[k], (v.spread(f, w), v.spread(f, wi)))
                w = v.b.add(wi, groups)
            v.save(out[k][0], f, y)
            v.save(out[k][1], f, yi)
            y, yi = v.b.add(y, stride), v.b.add(yi, stride)

    return emit


def _sum_difference(v: _Lanes, arrays: list[Any], at: list[Any]) -> None:
    (f,), (x, y, half) = arrays, at
    a, b = v.load(f, x), v.load(f, v.b.add(x, half))
    v.save(v.add(a, b), f, y)
    v.save(v.sub(a, b), f, v.b.add(y, half))


def _twist(v: _Lanes, arrays: list[Any], at: list[Any]) -> None:
    (f,), (old, new, w, wi, y, yi) = arrays, at
    zr, zi = v.times((v.load(f, old), v.load(f, new)), (v.load(f, w), v.load(f, wi)))
    v.save(zr, f, y)
    v.save(zi, f, yi)


def _untwist(v: _Lanes, arrays: list[Any], at: list[Any]) -> None:
    (f,), (x, xi, w, wi, y) = arrays, at
    v.save(v.sub(v.mul(v.load(f, xi), v.load(f, w)), v.mul(v.load(f, x), v.load(f, wi))), f, y)


def _multiply_add(v: _Lanes, arrays: list[Any], at: list[Any]) -> None:
    (f, h), (y, yi, x, xi, k, ki) = arrays, at
    xr, xm, hr, hm = v.load(f, x), v.load(f, xi), v.load(h, k), v.load(h, ki)
    v.save(v.sub(v.add(v.load(f, y), v.mul(xr, hr)), v.mul(xm, hm)), f, y)
    v.save(v.add(v.add(v.load(f, yi), v.mul(xr, hm)), v.mul(xm, hr)), f, yi)


def _taps(v: _Lanes, arrays: list[Any], at: list[Any]) -> None:
    (f, h), (y, x, k) = arrays, at
    # in the order of the plain loop that does what is left over: the same bits
    total = v.mul(v.spread(h, k), v.load(f, x))
    for n in range(1, LANES):
        total = v.add(total, v.mul(v.spread(h, v.plus(k, n)), v.load(f, v.plus(x, -n))))
    v.save(v.add(v.load(f, y), total), f, y)


def _pair(v: _Lanes, data: Any, at: Any) -> tuple[Vector, Vector]:
    """Even and odd elements of 32."""
    a, b = v.load(data, at), v.load(data, at, LANES)
    return v.shuffle(a, b, list(range(0, 2 * LANES, 2))), v.shuffle(a, b, list(range(1, 2 * LANES, 2)))


def _interleaved(v: _Lanes, even: Vector, odd: Vector) -> tuple[Vector, Vector]:
    order = [n // 2 + LANES * (n % 2) for n in range(2 * LANES)]
    return v.shuffle(even, odd, order[:LANES]), v.shuffle(even, odd, order[LANES:])


def _reversed(v: _Lanes, x: Vector) -> Vector:
    return v.shuffle(x, x, list(range(LANES - 1, -1, -1)))


def _split(v: _Lanes, arrays: list[Any], at: list[Any]) -> None:
    (x, f), (source, re, im) = arrays, at
    even, odd = _pair(v, x, source)
    v.save(even, f, re)
    v.save(odd, f, im)


def _split_window(v: _Lanes, arrays: list[Any], at: list[Any]) -> None:
    (x, w, f), (source, weight, re, im) = arrays, at
    (even, odd), (we, wo) = _pair(v, x, source), _pair(v, w, weight)
    v.save(v.mul(even, we), f, re)
    v.save(v.mul(odd, wo), f, im)


def _merge(v: _Lanes, arrays: list[Any], at: list[Any]) -> None:
    (f, y), (re, im, to) = arrays, at
    low, high = _interleaved(v, v.load(f, re), v.load(f, im))
    v.save(low, y, to)
    v.save(high, y, to, LANES)


def _merge_add(v: _Lanes, arrays: list[Any], at: list[Any]) -> None:
    (f, w, y), (re, im, weight, to) = arrays, at
    for n, part in enumerate(_interleaved(v, v.load(f, re), v.load(f, im))):
        v.save(v.add(v.load(y, to, n * LANES), v.mul(part, v.load(w, weight, n * LANES))), y, to, n * LANES)


def _halves(
    v: _Lanes, near: tuple[Vector, Vector], far: tuple[Vector, Vector]
) -> tuple[tuple[Vector, Vector], tuple[Vector, Vector]]:
    """Near + conj(far) and near - conj(far)."""
    (a, b), (c, d) = near, far
    return (v.add(a, c), v.sub(b, d)), (v.sub(a, c), v.add(b, d))


def _unpack(v: _Lanes, arrays: list[Any], at: list[Any]) -> None:
    # Z, the transform of even + i odd samples, to X: X[k] = E + w O, X[M - k] = conj(E - w O)
    (f, y), (re, im, k, mirror, w, wi, to) = arrays, at
    near = v.load(f, v.b.add(re, k)), v.load(f, v.b.add(im, k))
    far = _reversed(v, v.load(f, v.b.add(re, mirror))), _reversed(v, v.load(f, v.b.add(im, mirror)))
    (er, ei), (sr, si) = _halves(v, near, far)
    half = ir.Constant(_VECTOR, [0.5] * LANES)
    er, ei = v.mul(er, half), v.mul(ei, half)
    tr, ti = v.times((sr, si), (v.load(f, v.b.add(w, k)), v.load(f, v.b.add(wi, k))))  # w holds -i/2 exp(-i pi k / M)
    two = ir.Constant(k.type, 2)
    low, high = _interleaved(v, v.add(er, tr), v.add(ei, ti))
    place = v.b.add(to, v.b.mul(two, k))
    v.save(low, y, place)
    v.save(high, y, place, LANES)
    low, high = _interleaved(v, _reversed(v, v.sub(er, tr)), _reversed(v, v.sub(ti, ei)))
    place = v.b.add(to, v.b.mul(two, mirror))
    v.save(low, y, place)
    v.save(high, y, place, LANES)


def _pack(v: _Lanes, arrays: list[Any], at: list[Any]) -> None:
    # the way back: Z[k] = E + i w* O with E = X[k] + conj X[M - k], O = X[k] - conj X[M - k]; twice as large
    (x, f), (source, k, mirror, w, wi, re, im) = arrays, at
    two = ir.Constant(k.type, 2)
    near = _pair(v, x, v.b.add(source, v.b.mul(two, k)))
    c, d = _pair(v, x, v.b.add(source, v.b.mul(two, mirror)))
    (er, ei), (sr, si) = _halves(v, near, (_reversed(v, c), _reversed(v, d)))
    wr, wm = v.load(f, v.b.add(w, k)), v.load(f, v.b.add(wi, k))  # w holds -i/2 exp(-i pi k / M)
    minus, double = ir.Constant(_VECTOR, [-0.0] * LANES), ir.Constant(_VECTOR, [2.0] * LANES)
    tr, ti = v.times((sr, si), (v.mul(wr, double), v.mul(v.sub(minus, wm), double)))  # i exp(+i pi k / M)
    v.save(v.add(er, tr), f, v.b.add(re, k))
    v.save(v.add(ei, ti), f, v.b.add(im, k))
    v.save(_reversed(v, v.sub(er, tr)), f, v.b.add(re, mirror))
    v.save(_reversed(v, v.sub(ti, ei)), f, v.b.add(im, mirror))


butterfly_1 = _intrinsic(1, _flat(1))
"""``((f, x, xi, leg, y, yi, w))``: a pass of stride 1; legs and rows of twiddles are `leg` apart."""
butterfly_4 = _intrinsic(1, _flat(4))
"""The same, stride 4; every twiddle stands four times."""
butterfly = _intrinsic(1, _grouped(turned=True))
"""``((f, x, xi, leg, y, yi, stride, w, groups))``: strides from 16 on; one twiddle for all lanes."""
butterfly_plain = _intrinsic(1, _grouped(turned=False))
"""The same where all twiddles are 1."""
sum_difference = _intrinsic(1, _sum_difference)
"""``((f, x, y, half))``: a last pass of radix 2, one of the two parts."""
twist = _intrinsic(1, _twist)
"""``((f, old, new, w, wi, y, yi))``: (old + i new) w."""
untwist = _intrinsic(1, _untwist)
"""``((f, x, xi, w, wi, y))``: the imaginary part of x conj(w)."""
multiply_add = _intrinsic(2, _multiply_add)
"""``((f, h, y, yi, x, xi, k, ki))``: y += x h, complex."""
taps = _intrinsic(2, _taps)
"""``((f, h, y, x, k))``: y[n] += h[k + i] x[n - i] for 16 taps i."""

split = _intrinsic(2, _split)
"""``((x, f, source, re, im))``: 32 samples into even and odd ones."""
split_window = _intrinsic(3, _split_window)
"""``((x, w, f, source, weight, re, im))``: the same, windowed."""
merge = _intrinsic(2, _merge)
"""``((f, y, re, im, to))``: the reverse of `split`."""
merge_add = _intrinsic(3, _merge_add)
"""``((f, w, y, re, im, weight, to))``: windowed, and added to what is there."""
unpack = _intrinsic(2, _unpack)
"""``((f, y, re, im, k, mirror, w, wi, to))``: bins k.. and mirror.. of a real transform, mirror = M - k - 15."""
pack = _intrinsic(2, _pack)
"""``((x, f, source, k, mirror, w, wi, re, im))``: the reverse of `unpack`, times two."""


def _pointer(kind: Any) -> Callable[[Any, Any], Any]:
    def typed(typingctx: Any, address: Any) -> Any:
        del typingctx

        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            return builder.inttoptr(arguments[0], context.get_value_type(signature.return_type))

        pointer: Any = types.CPointer
        return pointer(kind)(address), generate

    return typed


def _swap(typingctx: Any, array: Any, index: Any, expected: Any, new: Any) -> Any:
    del typingctx, index, expected, new

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        place = builder.gep(data, [arguments[1]])
        result = builder.cmpxchg(place, arguments[2], arguments[3], "seq_cst", "seq_cst")
        return builder.zext(builder.extract_value(result, 1), ir.IntType(64))

    return types.int64(array, types.int64, types.int64, types.int64), generate


def _call(typingctx: Any, address: Any, state: Any, source: Any, sink: Any, frames: Any) -> Any:
    del typingctx, address, state, source, sink, frames

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        del context, signature
        word = ir.IntType(64)
        kind = ir.FunctionType(word, [word.as_pointer(), _FLOAT.as_pointer(), _FLOAT.as_pointer(), word])
        function = builder.inttoptr(arguments[0], kind.as_pointer())
        given = [builder.inttoptr(arguments[1], word.as_pointer())]
        given += [builder.inttoptr(a, _FLOAT.as_pointer()) for a in arguments[2:4]]
        return builder.call(function, [*given, arguments[4]])

    return types.int64(*[types.int64] * 5), generate


int_pointer = cast("Callable[[int], Any]", intrinsic(_pointer(types.int64)))
float_pointer = cast("Callable[[int], Any]", intrinsic(_pointer(types.float32)))
double_pointer = cast("Callable[[int], Any]", intrinsic(_pointer(types.float64)))
compare_and_swap = cast("Callable[[Any, int, int, int], int]", intrinsic(_swap))
"""``compare_and_swap(array, index, expected, new)``: 1 if array[index] was `expected` and is `new` now; atomic."""
call = cast("Callable[[int, int, int, int, int], int]", intrinsic(_call))
"""``call(address, state, input, output, frames)``: another kernel's C entry."""
