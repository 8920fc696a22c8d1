"""Float32 math that LLVM vectorises: branch-free polynomials, each within 2 ulp of the exact value.

The polynomials are weighted least-squares (Lawson) fits made for this file with numpy in float64: ``exp`` on
|r| <= ln 2 / 2, ``log1p`` on [sqrt(1/2) - 1, sqrt 2 - 1], ``tanh`` on |x| <= 0.625, ``erf`` on |x| <= 1,
``log erfc`` on [1, 4.1] and ``(a + 3) erfcx(a / sqrt 2) / 2`` on 0 <= a <= 14.6 in (a - 3) / (a + 3). Range reductions
follow Cody and Waite (1980).

Activations take their argument as an unevaluated sum ``x + low``: far out on an exponential tail, what rounding the
argument to float32 loses is many ulp of the result. The error-free sums and products behind that are Moller's, Knuth's
and Dekker's; the error of a fused multiply-add is Boldo and Muller's (2011).

This file's text is put in front of every generated kernel, because a cached numba function and all it inlines have to
live in one file. Imported as a module it gives the tests the same functions.
"""

# ruff: noqa: ARG001, D103, FURB136  (numba reads the names; min and max would drop a NaN)
# mypy: ignore-errors
import math

import numpy as np
from llvmlite import ir
from numba import carray, njit, types  # noqa: F401  (kernels behind this text use carray)
from numba.core import cgutils
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


@intrinsic
def fma_f4(_context, a, b, c):
    """One rounding, whether or not the compiler would contract; LLVM vectorises it."""

    def generate(_target, builder, _signature, args):
        kind = ir.FloatType()
        fma = cgutils.get_or_insert_function(builder.module, ir.FunctionType(kind, [kind] * 3), "llvm.fma.f32")
        return builder.call(fma, args)

    return types.float32(types.float32, types.float32, types.float32), generate


@njit(fastmath=_CONTRACT, forceinline=True)
def exp_parts_f4(x, low):
    """Return t, a, b with e^(x + low) = (1 + t) a b; a and b are powers of two, low is tiny beside x."""
    y = f4(89.0) if x > f4(89.0) else x
    y = f4(-120.0) if y < f4(-120.0) else y
    y = f4(0.0) if y != y else y
    n = np.floor(y * f4(1.44269504) + f4(0.5))
    r = fma_f4(n, f4(-0.693359375), y) + (n * f4(2.12194440e-4) + low)
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
    t, low, high = exp_parts_f4(x, f4(0.0))
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


# ---- what rounding lost ------------------------------------------------------------------------------------------
@njit(fastmath=_CONTRACT, forceinline=True)
def sum_rest_f4(a, b, total):
    """A + b - total, exactly, where total is the rounded sum."""
    back = total - a
    return (a - (total - back)) + (b - back)


@njit(fastmath=_CONTRACT, forceinline=True)
def small_rest_f4(rest, result):
    # A rest is nothing beside what it belongs to, and makes no sense where that is infinite.
    return rest if abs(rest) < abs(result) < f4(3.0e38) else f4(0.0)


@njit(fastmath=_CONTRACT, forceinline=True)
def fma_rest_f4(x, y, z, result):
    """X y + z - result, to first order, where result is the fused multiply-add."""
    product = fma_f4(x, y, f4(0.0))  # which no compiler contracts into the sums below, as it may x * y
    lost = fma_f4(x, y, -product)
    inner = z + lost
    outer = product + inner
    rest = ((outer - result) + sum_rest_f4(product, inner, outer)) + sum_rest_f4(z, lost, inner)
    return small_rest_f4(rest, result)


@njit(fastmath=_CONTRACT, forceinline=True)
def add_rest_f4(x, y, result):
    return small_rest_f4(sum_rest_f4(x, y, result), result)


@njit(fastmath=_CONTRACT, forceinline=True)
def mul_rest_f4(x, y, result):
    return small_rest_f4(fma_f4(x, y, -result), result)


@njit(fastmath=_CONTRACT, forceinline=True)
def div_rest_f4(x, y, result):
    return small_rest_f4(fma_f4(-result, y, x) / y, result)


# ---- activations of x + low --------------------------------------------------------------------------------------
@njit(fastmath=_CONTRACT, forceinline=True)
def tanh_of_f4(x, low):
    y = tanh_f4(x)
    return y + (f4(1.0) - y * y) * low


@njit(fastmath=_CONTRACT, forceinline=True)
def times_sigmoid_f4(f, f_low, x, low):
    """(f + f_low) / (1 + e^-(x + low)), rounded about once; below zero as f e^x / (1 + e^x), which loses nothing."""
    below = x < f4(0.0)
    t, a, b = exp_parts_f4(x if below else -x, low if below else -low)
    h = f4(1.0) + t
    h_low = t - (h - f4(1.0))
    e = h * a * b
    d = f4(1.0) + e
    d_low = (e - (d - f4(1.0))) + h_low * a * b
    q = f4(1.0) / d
    q_low = q * (fma_f4(-d, q, f4(1.0)) - d_low * q)
    n = h if below else f4(1.0)
    n_low = h_low if below else f4(0.0)
    p = n * q
    p_low = fma_f4(n, q, -p) + (n * q_low + n_low * q)
    y = fma_f4(f, p, f * p_low + f_low * p) if f < f4(np.inf) else f * p
    # The powers of two come last, so that a result below the smallest normal number is rounded there, once.
    y = y * a * b if below else y
    return y if x > f4(-116.0) else f * (x * f4(0.0))  # NaN for NaN, and as torch for silu and gelu of -inf


@njit(fastmath=_CONTRACT, forceinline=True)
def sigmoid_f4(x, low):
    y = times_sigmoid_f4(f4(1.0), f4(0.0), x, low)
    return f4(0.0) if x < f4(-116.0) else y


@njit(fastmath=_CONTRACT, forceinline=True)
def silu_f4(x, low):
    return times_sigmoid_f4(x, low, x, low)


@njit(fastmath=_CONTRACT, forceinline=True)
def gelu_tanh_f4(x, low):
    """X sigmoid(u) with u = k (x + 0.044715 x^3) and k = 2 sqrt(2 / pi), all of u in two float32."""
    c = f4(13.0) if x > f4(13.0) else x
    c = f4(-13.0) if c < f4(-13.0) else c
    s = c * c
    s_low = fma_f4(c, c, -s)
    v = fma_f4(f4(0.07135481387), s, f4(0.0))
    v_low = fma_f4(f4(0.07135481387), s, -v) + (f4(0.07135481387) * s_low + f4(2.39883247e-09) * s)
    w = f4(1.59576916695) + v
    w_low = sum_rest_f4(f4(1.59576916695), v, w) + (v_low + f4(-4.53406805e-08))
    u = c * w
    u_low = fma_f4(c, w, -u) + (c * w_low + low * fma_f4(f4(0.21406444), s, f4(1.5957691)))
    return times_sigmoid_f4(x, low, u, u_low)


@njit(fastmath=_CONTRACT, forceinline=True)
def gelu_erf_f4(x, low):
    """X Q(-x), where the normal distribution's tail is Q(a) = e^(-a^2 / 2) g(a) with g(a) = erfcx(a / sqrt 2) / 2."""
    below = x < f4(0.0)
    a = abs(x)
    a = a if a < f4(14.6) else f4(14.6)
    a_low = -low if below else low
    s = a * a
    s_low = fma_f4(a, a, -s) + f4(2.0) * a * a_low
    t, low_power, high_power = exp_parts_f4(f4(-0.5) * s, f4(-0.5) * s_low)
    h = f4(1.0) + t
    h_low = t - (h - f4(1.0))
    d = a + f4(3.0)
    m = f4(1.0) / d
    m_low = m * (fma_f4(-d, m, f4(1.0)) - sum_rest_f4(a, f4(3.0), d) * m)
    v = fma_f4(f4(-6.0), m, f4(1.0))
    p = f4(5.44636169e-05)
    p = p * v + f4(0.00013127302)
    p = p * v + f4(-0.000244748546)
    p = p * v + f4(-0.00103253650)
    p = p * v + f4(0.00102477660)
    p = p * v + f4(0.00696930476)
    p = p * v + f4(-0.0104625188)
    p = p * v + f4(-0.0472626872)
    p = p * v + f4(0.230017707)
    p = p * v + f4(-0.509332001)
    slope = p
    p = fma_f4(slope, v, f4(0.729083717))
    rest = fma_f4(f4(-6.0), m, f4(1.0) - v) - f4(6.0) * m_low  # what v lost
    p_low = fma_f4(slope, v, f4(0.729083717) - p) + (slope * rest + f4(9.801316e-09) * v - f4(2.6497867e-08))
    g = p * m
    g_low = fma_f4(p, m, -g) + (p * m_low + p_low * m) + (a * g - f4(0.39894228)) * a_low
    z = g * h
    z_low = fma_f4(g, h, -z) + (g * h_low + g_low * h)
    tail = fma_f4(x, z, x * z_low + low * z) * low_power * high_power
    z = z * low_power * high_power
    z_low = z_low * low_power * high_power
    w = f4(1.0) - z
    w_low = ((f4(1.0) - w) - z) - z_low
    y = tail if below else fma_f4(x, w, x * w_low + low * w)
    y = x if x > f4(14.6) else y
    return y if x > f4(-14.6) else x * f4(0.0)
