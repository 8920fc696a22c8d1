"""Float32 math that LLVM vectorises: branch-free polynomials, each within 2 ulp of the exact value.

The polynomials are weighted least-squares (Lawson) fits made for this file with numpy in float64: ``exp`` on
|r| <= ln 2 / 2, ``log1p`` on [sqrt(1/2) - 1, sqrt 2 - 1], ``tanh`` on |x| <= 0.625, ``erf`` on |x| <= 1 and
``log erfc`` on [1, 4.1]. Range reductions follow Cody and Waite (1980).

This file's text is put in front of every generated kernel, because a cached numba function and all it inlines have to
live in one file. Imported as a module it gives the tests the same functions.
"""

# ruff: noqa: ARG001, D103, FURB136  (numba reads the names; min and max would drop a NaN)
# mypy: ignore-errors
import math

import numpy as np
from llvmlite import ir
from numba import carray, njit, types  # noqa: F401  (kernels behind this text use carray)
from numba.extending import intrinsic

f4 = np.float32
_CONTRACT = {"contract"}
_REASSOCIATE = {"reassoc", "contract"}


@intrinsic
def float_bits(_context, x):
    def generate(_target, builder, _signature, args):
        return builder.bitcast(args[0], ir.IntType(32))

    return types.int32(types.float32), generate


@intrinsic
def bits_float(_context, i):
    def generate(_target, builder, _signature, args):
        return builder.bitcast(args[0], ir.FloatType())

    return types.float32(types.int32), generate


@intrinsic
def half_to_float(_context, h):
    def generate(_target, builder, _signature, args):
        return builder.fpext(builder.bitcast(args[0], ir.HalfType()), ir.FloatType())

    return types.float32(types.int16), generate


@intrinsic
def float_to_half(_context, x):
    def generate(_target, builder, _signature, args):
        return builder.bitcast(builder.fptrunc(args[0], ir.HalfType()), ir.IntType(16))

    return types.int16(types.float32), generate


def _pointer_to(kind):
    @intrinsic
    def at(_context, address):
        def generate(target, builder, signature, args):
            return builder.inttoptr(args[0], target.get_value_type(signature.return_type))

        return types.CPointer(kind)(types.uintp if address == types.uint64 else address), generate

    return at


# Passing addresses instead of arrays spares each call its conversions of tensors.
float32_at = _pointer_to(types.float32)
float64_at = _pointer_to(types.float64)
int16_at = _pointer_to(types.int16)
uint8_at = _pointer_to(types.uint8)


@njit(fastmath=_CONTRACT, forceinline=True)
def bfloat_to_float(h):
    return bits_float(np.int32(np.int32(h) << np.int32(16)))


@njit(fastmath=_CONTRACT, forceinline=True)
def float_to_bfloat(x):
    # Round to nearest even; a NaN keeps its sign and becomes quiet instead of rounding up to infinity.
    i = float_bits(x)
    rounded = np.int32(i + np.int32(0x7FFF) + ((i >> np.int32(16)) & np.int32(1)))
    quiet = np.int32(i | np.int32(0x00400000))
    return np.int16((rounded if x == x else quiet) >> np.int32(16))


@njit(fastmath=_REASSOCIATE, forceinline=True)
def accumulate(total, x):
    # The only place where additions may be reordered: it lets a sum use vector lanes.
    return total + x


@njit(fastmath=_CONTRACT, forceinline=True)
def larger(a, b):
    return a if (a > b or a != a) else b


@njit(fastmath=_CONTRACT, forceinline=True)
def smaller(a, b):
    return a if (a < b or a != a) else b


@njit(fastmath=_CONTRACT, forceinline=True)
def exp_parts_f4(x):
    """Return t, a, b with e^x = (1 + t) a b; a and b are powers of two."""
    y = f4(89.0) if x > f4(89.0) else x
    y = f4(-104.5) if y < f4(-104.5) else y
    y = f4(0.0) if y != y else y
    n = np.floor(y * f4(1.44269504) + f4(0.5))
    r = (y - n * f4(0.693359375)) + n * f4(2.12194440e-4)
    p = f4(0.000199075692)
    p = p * r + f4(0.0013933643)
    p = p * r + f4(0.00833328603)
    p = p * r + f4(0.041666465)
    p = p * r + f4(0.166666668)
    p = p * r + f4(0.5)
    t = p * r * r + r
    # 2^n in two factors, so that results near overflow and denormal results are reached.
    k = np.int32(n)
    k1 = np.int32(k >> np.int32(1))
    k2 = np.int32(k - k1)
    low = bits_float(np.int32((k1 + np.int32(127)) << np.int32(23)))
    high = bits_float(np.int32((k2 + np.int32(127)) << np.int32(23)))
    return t, low, high


@njit(fastmath=_CONTRACT, forceinline=True)
def exp_f4(x):
    t, low, high = exp_parts_f4(x)
    result = (f4(1.0) + t) * low * high
    return x if x != x else result


@njit(fastmath=_CONTRACT, forceinline=True)
def log_f4(x):
    tiny = x < f4(1.17549435e-38)
    y = x * f4(8388608.0) if tiny else x
    i = float_bits(y)
    # Mantissa in [sqrt(1/2), sqrt 2): subtract the bits of sqrt(1/2) and keep the exponent that is left.
    e = np.int32((i - np.int32(0x3F3504F3)) >> np.int32(23))
    f = bits_float(np.int32(i - np.int32(e << np.int32(23)))) - f4(1.0)
    n = f4(e) - (f4(23.0) if tiny else f4(0.0))
    p = f4(0.0733243733)
    p = p * f + f4(-0.116598872)
    p = p * f + f4(0.116346772)
    p = p * f + f4(-0.123967073)
    p = p * f + f4(0.142511549)
    p = p * f + f4(-0.166691507)
    p = p * f + f4(0.200006881)
    p = p * f + f4(-0.249999812)
    p = p * f + f4(0.333333313)
    s = f * f
    tail = p * f * s + n * f4(-2.12194440e-4) - f4(0.5) * s
    result = (f + tail) + n * f4(0.693359375)
    result = f4(-np.inf) if x == f4(0.0) else result
    result = f4(np.nan) if x < f4(0.0) else result
    return result if x < f4(np.inf) else x


@njit(fastmath=_CONTRACT, forceinline=True)
def log1p_f4(x):
    # What rounding 1 + x lost is put back to first order; it is exact because u - 1 is.
    u = f4(1.0) + x
    lost = x - (u - f4(1.0))
    result = log_f4(u) + lost / u
    result = x if abs(x) < f4(1e-7) else result
    return result if f4(0.0) < u < f4(np.inf) else log_f4(u)


@njit(fastmath=_CONTRACT, forceinline=True)
def tanh_f4(x):
    a = abs(x)
    s = x * x
    p = f4(-0.00611318939)
    p = p * s + f4(0.0210100799)
    p = p * s + f4(-0.0538540695)
    p = p * s + f4(0.133327945)
    p = p * s + f4(-0.333333292)
    near = x + x * s * p
    far = f4(1.0) - f4(2.0) / (exp_f4(a + a) + f4(1.0))
    far = -far if x < f4(0.0) else far
    near = x if a < f4(1e-4) else near
    return near if a < f4(0.625) else far


@njit(fastmath=_CONTRACT, forceinline=True)
def sigmoid_f4(x):
    # 1 / (1 + e^-x) with the roundings of e^-x's last sum and of 1 + e^-x carried to first order.
    t, low, high = exp_parts_f4(-x)
    scale = low * high
    hi = f4(1.0) + t
    lo = t - (hi - f4(1.0))
    e = hi * scale
    d = f4(1.0) + e
    rest = (f4(1.0) - (d - e)) if e > f4(1.0) else (e - (d - f4(1.0)))
    q = f4(1.0) / d
    better = q - q * (q * (rest + lo * scale))
    result = better if e < f4(1e30) else q
    return x if x != x else result


@njit(fastmath=_CONTRACT, forceinline=True)
def erf_f4(x):
    a = abs(x)
    s = x * x
    p = f4(-9.6801369e-06)
    p = p * s + f4(0.000112705447)
    p = p * s + f4(-0.00084847115)
    p = p * s + f4(0.00522107488)
    p = p * s + f4(-0.0268654458)
    p = p * s + f4(0.112837827)
    p = p * s + f4(-0.376126385)
    p = p * s + f4(0.12837917)
    near = x * p + x
    b = f4(4.1) if a > f4(4.1) else a
    q = f4(1.55722587e-06)
    q = q * b + f4(-4.44646641e-05)
    q = q * b + f4(0.000583251469)
    q = q * b + f4(-0.00469546465)
    q = q * b + f4(0.0262369061)
    q = q * b + f4(-0.109751703)
    q = q * b + f4(-0.632180074)
    q = q * b + f4(-1.13002269)
    q = q * b + f4(0.000267154358)
    far = f4(1.0) - exp_f4(q)
    far = -far if x < f4(0.0) else far
    result = near if a < f4(1.0) else far
    return x if x != x else result


@njit(fastmath=_CONTRACT, forceinline=True)
def pow_f4(x, y):
    return f4(math.pow(x, y))
