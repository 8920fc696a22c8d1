"""Cases about bytes: scalar and struct arguments, vector layouts, swizzles, half, bfloat, atomics."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
import torch

from .case import MetalCase

__all__ = ["CASES"]

_SCALARS = """
kernel void scalars(device float* f [[buffer(0)]], device long* n [[buffer(1)]],
    constant bool& b [[buffer(2)]], constant char& c [[buffer(3)]], constant uchar& uc [[buffer(4)]],
    constant short& s [[buffer(5)]], constant ushort& us [[buffer(6)]], constant int& i [[buffer(7)]],
    constant uint& u [[buffer(8)]], constant long& l [[buffer(9)]], constant ulong& ul [[buffer(10)]],
    constant half& h [[buffer(11)]], constant bfloat& bf [[buffer(12)]], constant float& v [[buffer(13)]],
    constant float3& v3 [[buffer(14)]], constant short4& s4 [[buffer(15)]], constant half2& h2 [[buffer(16)]],
    uint at [[thread_position_in_grid]])
{
    if (at != 0) { return; }
    n[0] = b ? 1 : 0; n[1] = c; n[2] = uc; n[3] = s; n[4] = us; n[5] = i; n[6] = u; n[7] = l; n[8] = long(ul);
    n[9] = s4.x; n[10] = s4.w;
    f[0] = h; f[1] = float(bf); f[2] = v; f[3] = v3.x; f[4] = v3.y; f[5] = v3.z; f[6] = h2.x; f[7] = h2.y;
}
"""
_SCALAR_ARGUMENTS: list[Any] = [
    True, -100, 200, -30_000, 60_000, -2_000_000_000, 4_000_000_000, -(2**62), 2**64 - 1,
    0.333251953125, 0.33203125, -1.5, (1.0, 2.0, 3.0), (-1, 2, 3, -4), (0.5, -0.25),
]  # fmt: skip

_LAYOUT = """
struct Inner { float3 a; float b; };
struct Mixed { uchar tag; float3 p; half3 h; packed_float3 q; uchar4 c; Inner in[2]; ushort2 us; bool flag; long l; };
kernel void layout(device const Mixed* m [[buffer(0)]], device uint* out [[buffer(1)]],
    uint i [[thread_position_in_grid]])
{
    device const uchar* base = (device const uchar*)(m + i);
    out[0] = sizeof(Mixed); out[1] = (device const uchar*)&m[i].p - base; out[2] = (device const uchar*)&m[i].h - base;
    out[3] = (device const uchar*)&m[i].q - base; out[4] = (device const uchar*)&m[i].c - base;
    out[5] = (device const uchar*)&m[i].in[1].b - base; out[6] = (device const uchar*)&m[i].us - base;
    out[7] = (device const uchar*)&m[i].flag - base; out[8] = (device const uchar*)&m[i].l - base;
    out[9] = sizeof(float3) + 100 * sizeof(half3) + 10000 * sizeof(packed_float3) + 1000000 * sizeof(uchar3);
    out[10] = sizeof(bool4) + 100 * alignof(float2) + 10000 * sizeof(char2) + 1000000 * sizeof(float4);
}
"""
_STRUCT = """
struct Settings { float gain; int shape[3]; float4 tint; ushort taps[6]; half h; };
inline float pick(constant Settings& s, uint i) { return s.gain * float(s.shape[i % 3]) + s.tint[i % 4]; }
kernel void by_value(device float* out [[buffer(0)]], constant Settings& s [[buffer(1)]],
    uint i [[thread_position_in_grid]])
{
    out[i] = pick(s, i) + float(s.taps[i % 6]) + float(s.h);
}
"""


def _settings() -> bytes:
    return struct.pack("<fiii4f6He2x", 0.5, 2, 4, 6, 10.0, 20.0, 30.0, 40.0, 1, 2, 3, 4, 5, 6, 0.25)


def _struct_values(_arguments: list[Any]) -> dict[int, torch.Tensor]:
    i = np.arange(24)
    value = 0.5 * np.array([2, 4, 6])[i % 3] + np.array([10, 20, 30, 40])[i % 4] + np.arange(1, 7)[i % 6] + 0.25
    return {0: torch.from_numpy(value.astype(np.float32))}


_SWIZZLES = """
kernel void swizzles(device const float4* x [[buffer(0)]], device float4* out [[buffer(1)]],
    device packed_float3* small [[buffer(2)]], uint i [[thread_position_in_grid]])
{
    float4 v = x[i];
    float3 rgb = v.bgr;
    rgb.xz = rgb.zx * 2.0f;
    v.wz = float2(rgb.x, -rgb.y);
    v.x += 1.0f;
    v[1] = v.yyyy[2] * 3.0f;
    float4 joined = float4(v.xy, float2(v.w, v.z));
    joined = select(joined, -joined, joined > float4(5.0f));
    out[i] = joined + float4(float3(1.0f), 0.0f) * dot(rgb.xy, float2(1.0f, 0.0f));
    float3 p = float3(small[i]);
    small[i] = packed_float3(p.zyx + 1.0f);
}
"""


def _swizzled(arguments: list[Any]) -> dict[int, torch.Tensor]:
    x, small = arguments[0].reshape(-1, 4).numpy(), arguments[2].reshape(-1, 3).numpy()
    r, green = x[:, 0], x[:, 1]
    red = 2 * r  # rgb = (b, g, r); rgb.xz = rgb.zx * 2 -> (2r, g, 2b)
    joined = np.stack([r + 1, 3 * x[:, 1], red, -green], axis=1).astype(np.float32)
    joined = np.where(joined > 5, -joined, joined)
    joined[:, :3] += red[:, None]
    return {
        1: torch.from_numpy(joined.reshape(-1)),
        2: torch.from_numpy((small[:, ::-1] + 1).astype(np.float32).reshape(-1)),
    }


_HALF_IN = """
kernel void from_half(device const half* x [[buffer(0)]], device float* out [[buffer(1)]],
    device half* back [[buffer(2)]], uint i [[thread_position_in_grid]])
{
    float v = x[i];
    out[i] = v;
    back[i] = half(v);
}
"""
_ROUNDING = """
kernel void narrow(device const float* x [[buffer(0)]], device half* h [[buffer(1)]], device bfloat* b [[buffer(2)]],
    uint i [[thread_position_in_grid]])
{
    h[i] = half(x[i]);
    b[i] = bfloat(x[i]);
}
"""
_HALF_MATHS = """
kernel void half_maths(device const half* x [[buffer(0)]], device const half* y [[buffer(1)]],
    device half* out [[buffer(2)]], device float* wide [[buffer(3)]], uint i [[thread_position_in_grid]])
{
    half a = x[i], b = y[i];
    half s = a + b;
    s = s * b - a / b;
    s += 1.0h;
    half2 pair = half2(a, b) * 2.0h + half2(s);
    out[i] = max(pair.x, pair.y) > half(3) ? -s : s;
    wide[i] = a * 2.0f + float(b);
}
"""


def _half_maths(arguments: list[Any]) -> dict[int, torch.Tensor]:
    a, b = (arguments[k].numpy().astype(np.float64) for k in (0, 1))

    def r(v: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        return v.astype(np.float16).astype(np.float64)

    s = r(r(r(r(a + b) * b) - r(a / b)) + 1)
    pair = np.maximum(r(r(a * 2) + s), r(r(b * 2) + s))
    return {
        2: torch.from_numpy(np.where(pair > 3, -s, s).astype(np.float16)),
        3: torch.from_numpy((a * 2 + b).astype(np.float32)),
    }


_BFLOAT_MATHS = """
kernel void bfloat_maths(device const bfloat* x [[buffer(0)]], device const bfloat* y [[buffer(1)]],
    device bfloat* out [[buffer(2)]], uint i [[thread_position_in_grid]])
{
    bfloat a = x[i];
    float b = float(y[i]);
    out[i] = bfloat(float(a) * b) + a;
}
"""


def _bfloat_maths(arguments: list[Any]) -> dict[int, torch.Tensor]:
    a, b = arguments[0], arguments[1].float()
    product = (a.float() * b).to(torch.bfloat16)
    return {2: (product.float() + a.float()).to(torch.bfloat16)}


def _tricky_floats() -> torch.Tensor:
    """Ties, subnormals, overflow edges, infinities and NaN, and random bit patterns."""
    special = [
        0.0, -0.0, 1.0, 65504.0, 65519.996, 65520.0, 65536.0, -1e30, 6.1e-5, 5.96e-8, 2.98e-8, 2.9803e-8, 1e-9,
        1.00048828125, 1.00146484375, 1.0009765625, 2049.0, 2051.0, 1.00390625, 1.01171875, 3.3895314e38,
        float("inf"), -float("inf"), float("nan"), 1e-40, 1.17549435e-38,
    ]  # fmt: skip
    bits = np.random.default_rng(5).integers(0, 2**32, 1000, dtype=np.uint32).view(np.float32)
    bits = bits[~np.isnan(bits)]
    return torch.from_numpy(np.concatenate([np.array(special, np.float32), bits]))


def _every_half() -> torch.Tensor:
    return torch.from_numpy(np.arange(65536, dtype=np.uint16).view(np.float16))


def _pairs(dtype: torch.dtype) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    x, y = (torch.randn(500, generator=generator).to(dtype) for _ in range(2))
    return [x, y + torch.where(y >= 0, 0.5, -0.5).to(dtype), torch.zeros(500, dtype=dtype)]


_ATOMICS = """
kernel void atomics(device const int* x [[buffer(0)]], device atomic_int* sums [[buffer(1)]],
    device atomic_uint* bits [[buffer(2)]], device atomic_float* f [[buffer(3)]],
    device atomic_uint* more [[buffer(4)]],
    uint i [[thread_position_in_grid]], uint lid [[thread_position_in_threadgroup]])
{
    threadgroup atomic_uint histogram[8];
    if (lid < 8) { atomic_store_explicit(&histogram[lid], 0u, memory_order_relaxed); }
    threadgroup_barrier(mem_flags::mem_threadgroup);
    atomic_fetch_add_explicit(&histogram[uint(x[i]) & 7u], 1u, memory_order_relaxed);
    atomic_fetch_add_explicit(&sums[0], x[i], memory_order_relaxed);
    atomic_fetch_sub_explicit(&sums[1], x[i], memory_order_relaxed);
    atomic_fetch_max_explicit(&sums[2], x[i], memory_order_relaxed);
    atomic_fetch_min_explicit(&sums[3], x[i], memory_order_relaxed);
    atomic_fetch_or_explicit(&bits[0], 1u << (uint(x[i]) & 31u), memory_order_relaxed);
    atomic_fetch_and_explicit(&bits[1], ~(1u << (i & 7u)), memory_order_relaxed);
    atomic_fetch_xor_explicit(&bits[2], i, memory_order_relaxed);
    atomic_fetch_add_explicit(f, float(x[i]), memory_order_relaxed);
    uint expected = atomic_load_explicit(&more[0], memory_order_relaxed);
    while (!atomic_compare_exchange_weak_explicit(&more[0], &expected, expected + 2u, memory_order_relaxed,
                                                  memory_order_relaxed)) { }
    atomic_exchange_explicit(&more[1], 7u, memory_order_relaxed);
    threadgroup_barrier(mem_flags::mem_threadgroup);
    if (lid < 8) {
        uint seen = atomic_load_explicit(&histogram[lid], memory_order_relaxed);
        atomic_fetch_add_explicit(&bits[3 + lid], seen, memory_order_relaxed);
    }
}
"""


def _atomic_arguments() -> list[Any]:
    x = torch.from_numpy(np.random.default_rng(2).integers(-1000, 1000, 128).astype(np.int32))
    bits = torch.zeros(11, dtype=torch.int32)
    bits[1] = -1
    return [x, torch.zeros(4, dtype=torch.int32), bits, torch.zeros(1), torch.zeros(2, dtype=torch.int32)]


def _atomic_results(arguments: list[Any]) -> dict[int, torch.Tensor]:
    x = arguments[0].numpy()
    low = (x.astype(np.int64) & 31).astype(np.uint64)
    joined = int(np.bitwise_or.reduce(np.uint64(1) << low)) & 0xFFFFFFFF
    crossed = int(np.bitwise_xor.reduce(np.arange(128)))
    words = np.array([joined, 0xFFFFFF00, crossed, *np.bincount(x & 7, minlength=8)], np.uint32)
    sums = torch.tensor([x.sum(), -x.sum(), max(x.max(), 0), min(x.min(), 0)], dtype=torch.int32)
    more = torch.tensor([256, 7], dtype=torch.int32)
    return {1: sums, 2: torch.from_numpy(words.view(np.int32)), 3: torch.tensor([float(x.sum())]), 4: more}


_TICKETS = """
kernel void tickets(device atomic_uint* next [[buffer(0)]], device uint* taken [[buffer(1)]],
    uint i [[thread_position_in_grid]])
{
    uint ticket = atomic_fetch_add_explicit(next, 1u, memory_order_relaxed);
    taken[ticket] += 1u;
}
"""

CASES = [
    MetalCase(
        "scalars of every type reach the kernel exactly",
        _SCALARS,
        "scalars",
        lambda: [torch.zeros(8), torch.zeros(11, dtype=torch.int64), *_SCALAR_ARGUMENTS],
        lambda _: {
            0: torch.tensor([0.333251953125, 0.33203125, -1.5, 1, 2, 3, 0.5, -0.25]),
            1: torch.tensor([1, -100, 200, -30_000, 60_000, -2_000_000_000, 4_000_000_000, -(2**62), -1, -1, -4]),
        },
        threads=1,
    ),
    MetalCase(
        "vector and struct layouts are Metal's",
        _LAYOUT,
        "layout",
        lambda: [torch.zeros(144, dtype=torch.uint8), torch.zeros(11, dtype=torch.int32)],
        lambda _: {1: torch.tensor([144, 16, 32, 40, 52, 112, 128, 132, 136, 4120816, 16020804], dtype=torch.int32)},
        threads=1,
    ),
    MetalCase(
        "structs as bytes, their arrays indexed at run time",
        _STRUCT,
        "by_value",
        lambda: [torch.zeros(24), _settings()],
        _struct_values,
        threads=24,
    ),
    MetalCase(
        "swizzles read and written, packed vectors",
        _SWIZZLES,
        "swizzles",
        lambda: [
            torch.arange(80, dtype=torch.float32) / 4,
            torch.zeros(80),
            torch.arange(60, dtype=torch.float32),
        ],
        _swizzled,
        threads=20,
    ),
    MetalCase(
        "every half to float and back",
        _HALF_IN,
        "from_half",
        lambda: [_every_half(), torch.zeros(65536), torch.zeros(65536, dtype=torch.float16)],
        lambda given: {1: given[0].float(), 2: given[0]},
        threads=65536,
    ),
    MetalCase(
        "float to half and bfloat rounds to nearest even",
        _ROUNDING,
        "narrow",
        lambda: [
            _tricky_floats(),
            torch.zeros(_tricky_floats().numel(), dtype=torch.float16),
            torch.zeros(_tricky_floats().numel(), dtype=torch.bfloat16),
        ],
        lambda given: {1: given[0].half(), 2: given[0].bfloat16()},
        threads=int(_tricky_floats().numel()),
    ),
    MetalCase(
        "half arithmetic rounds after every operation",
        _HALF_MATHS,
        "half_maths",
        lambda: [*_pairs(torch.float16), torch.zeros(500)],
        _half_maths,
        threads=500,
    ),
    MetalCase(
        "bfloat arithmetic",
        _BFLOAT_MATHS,
        "bfloat_maths",
        lambda: _pairs(torch.bfloat16),
        _bfloat_maths,
        threads=500,
    ),
    MetalCase(
        "atomics in device and threadgroup memory",
        _ATOMICS,
        "atomics",
        _atomic_arguments,
        _atomic_results,
        threads=128,
        group_size=64,
    ),
    MetalCase(
        "fetch_add hands out every ticket once",
        _TICKETS,
        "tickets",
        lambda: [torch.zeros(1, dtype=torch.int32), torch.zeros(1000, dtype=torch.int32)],
        lambda _: {0: torch.tensor([1000], dtype=torch.int32), 1: torch.ones(1000, dtype=torch.int32)},
        threads=1000,
    ),
]
