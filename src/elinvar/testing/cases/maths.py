"""Cases about arithmetic: precise and fast functions, fma, integers, comparisons with NaN, geometry, bit casts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from .case import MetalCase

__all__ = ["CASES", "PRECISE"]

Array = np.ndarray[Any, Any]

# name -> (float64 oracle, low, high). The bound on the error is one for all; Metal's own table allows 2-16 ulp.
PRECISE: dict[str, tuple[Callable[[Array], Array], float, float]] = {
    "sqrt": (np.sqrt, 0.0, 1e6),
    "rsqrt": (lambda x: 1 / np.sqrt(x), 1e-6, 1e6),
    "exp": (np.exp, -80.0, 80.0),
    "exp2": (np.exp2, -120.0, 120.0),
    "exp10": (lambda x: 10.0**x, -30.0, 30.0),
    "log": (np.log, 1.5, 1e6),
    "log2": (np.log2, 1.5, 1e6),
    "log10": (np.log10, 1.5, 1e6),
    "sin": (np.sin, 0.1, 3.0),
    "cos": (np.cos, -1.4, 1.4),
    "tan": (np.tan, 0.1, 1.4),
    "asin": (np.arcsin, 0.05, 0.999),
    "acos": (np.arccos, -0.99, 0.9),
    "atan": (np.arctan, 0.05, 100.0),
    "sinh": (np.sinh, 0.1, 20.0),
    "cosh": (np.cosh, -20.0, 20.0),
    "tanh": (np.tanh, 0.05, 10.0),
    "asinh": (np.arcsinh, 0.1, 100.0),
    "acosh": (np.arccosh, 1.2, 100.0),
    "atanh": (np.arctanh, 0.05, 0.95),
}
_PRECISE_SOURCE = (
    "kernel void precise_maths(device const float* x [[buffer(0)]], device float* out [[buffer(1)]],\n"
    "    constant uint& n [[buffer(2)]], uint i [[thread_position_in_grid]])\n{\n"
    + "".join(f"    out[{row}u * n + i] = {name}(x[{row}u * n + i]);\n" for row, name in enumerate(PRECISE))
    + "}\n"
)
_FAST = ("sqrt", "rsqrt", "exp", "exp2", "log", "log2", "sin", "cos", "tanh")
_FAST_SOURCE = (
    "kernel void fast_maths(device const float* x [[buffer(0)]], device float* out [[buffer(1)]],\n"
    "    constant uint& n [[buffer(2)]], uint i [[thread_position_in_grid]])\n{\n"
    + "".join(f"    out[{row}u * n + i] = fast::{name}(x[{row}u * n + i]);\n" for row, name in enumerate(_FAST))
    + "}\n"
)


def _ranges(names: tuple[str, ...]) -> list[Any]:
    rows = [np.linspace(PRECISE[name][1], PRECISE[name][2], 257).astype(np.float32) for name in names]
    return [torch.from_numpy(np.concatenate(rows)), torch.zeros(257 * len(rows)), 257]


def _oracles(names: tuple[str, ...]) -> Callable[[list[Any]], dict[int, torch.Tensor]]:
    def expect(arguments: list[Any]) -> dict[int, torch.Tensor]:
        rows = arguments[0].numpy().astype(np.float64).reshape(len(names), -1)
        values = [PRECISE[name][0](row) for name, row in zip(names, rows, strict=True)]
        return {1: torch.from_numpy(np.concatenate(values).astype(np.float32))}

    return expect


_TWO = """
kernel void binary(device const float* x [[buffer(0)]], device const float* y [[buffer(1)]],
    device float* out [[buffer(2)]], uint i [[thread_position_in_grid]])
{
    float a = x[i], b = y[i];
    device float* row = out + i * 12;
    row[0] = pow(a, b); row[1] = powr(a, b); row[2] = atan2(a, b); row[3] = a / b;
    row[4] = precise::sqrt(a) + precise::exp(-b); row[5] = fast::divide(a, b); row[6] = length(float2(a, b));
    row[7] = distance(float3(a, b, 1.0f), float3(0.0f, 0.0f, -1.0f)); row[8] = normalize(float2(a, b)).x;
    row[9] = smoothstep(0.0f, 4.0f, a); row[10] = mix(a, b, 0.25f); row[11] = fma(a, b, -a * b);
}
"""


def _binary(arguments: list[Any]) -> dict[int, torch.Tensor]:
    a, b = (arguments[k].numpy().astype(np.float64) for k in (0, 1))
    t = np.clip(a / 4, 0, 1)
    rounded = (a * b).astype(np.float32).astype(np.float64)
    rows = [
        a**b, a**b, np.arctan2(a, b), a / b, np.sqrt(a) + np.exp(-b), a / b, np.hypot(a, b),
        np.sqrt(a * a + b * b + 4), a / np.hypot(a, b), t * t * (3 - 2 * t), a + (b - a) * 0.25,
        np.where(True, a * b - rounded, 0),
    ]  # fmt: skip
    return {2: torch.from_numpy(np.stack(rows, axis=1).astype(np.float32).reshape(-1))}


def _positive(seed: int, low: float, high: float) -> torch.Tensor:
    # multiples of 1/64: products are exact in float32, so fma and its contraction agree
    values = np.random.default_rng(seed).integers(int(low * 64), int(high * 64), 300)
    return torch.from_numpy((values / 64).astype(np.float32))


_EXACT = """
kernel void exact(device const float* x [[buffer(0)]], device const float* y [[buffer(1)]],
    device float* out [[buffer(2)]], uint i [[thread_position_in_grid]])
{
    float a = x[i], b = y[i];
    device float* row = out + i * 20;
    row[0] = floor(a); row[1] = ceil(a); row[2] = round(a); row[3] = rint(a); row[4] = trunc(a);
    row[5] = fabs(a); row[6] = abs(a); row[7] = copysign(a, b); row[8] = sign(a); row[9] = fmax(a, b);
    row[10] = fmin(a, b); row[11] = isnan(a) ? 1.0f : 0.0f; row[12] = isinf(a) ? 1.0f : 0.0f;
    row[13] = isfinite(a) ? 1.0f : 0.0f; row[14] = signbit(a) ? 1.0f : 0.0f; row[15] = fma(a, b, 0.5f);
    row[16] = sqrt(fabs(a)); row[17] = 1.0f / a; row[18] = a < b ? 1.0f : 0.0f; row[19] = select(a, b, a > b);
}
"""


def _exact(arguments: list[Any]) -> dict[int, torch.Tensor]:
    a, b = (arguments[k].numpy() for k in (0, 1))
    with np.errstate(all="ignore"):
        away = np.copysign(np.floor(np.abs(a) + np.float32(0.5)), a)
        # |a| + 0.5 rounds up for the largest float below one half, which rounds to 0
        away = np.where(np.abs(a) == np.float32(0.49999997), np.copysign(0, a), away)
        away = np.where(np.abs(a) >= 2**23, a, away)
        fused = (a.astype(np.float64) * b + 0.5).astype(np.float32)
        rows = [
            np.floor(a), np.ceil(a), away, np.rint(a), np.trunc(a), np.abs(a), np.abs(a), np.copysign(a, b),
            np.nan_to_num(np.sign(a)), np.fmax(a, b), np.fmin(a, b), np.isnan(a), np.isinf(a), np.isfinite(a),
            np.signbit(a), fused, np.sqrt(np.abs(a)), np.float32(1) / a, a < b, np.where(a > b, b, a),
        ]  # fmt: skip
        return {2: torch.from_numpy(np.stack([r.astype(np.float32) for r in rows], axis=1).reshape(-1))}


def _specials() -> list[Any]:
    values = [0.0, -0.0, 0.5, -0.5, 1.5, 2.5, -2.5, 0.49999997, 3.7, -3.2, 8388609.0, 1e10, 1e-10, 6.25]
    inf = float("inf")
    a = torch.tensor([*values, inf, -inf, float("nan"), 2.0, float("nan")])
    b = torch.tensor([1.0, 2.0, -1.0, 3.0, -4.0, 0.25, 2.5, 1.0, float("nan"), -3.2, 1.0, -1.0, 1e10, 6.25,
                      1.0, 1.0, 2.0, -inf, float("nan")])  # fmt: skip
    return [a, b, torch.zeros(20 * a.numel())]


_INTEGERS = """
kernel void integers(device const int* x [[buffer(0)]], device const uint* y [[buffer(1)]],
    device int* out [[buffer(2)]], device uint* outu [[buffer(3)]], uint i [[thread_position_in_grid]])
{
    int a = x[i];
    uint b = y[i];
    device int* row = out + i * 8;
    device uint* rowu = outu + i * 9;
    row[0] = a / 7; row[1] = a % 7; row[2] = a >> 3; row[3] = abs(a); row[4] = clamp(a, -100, 100);
    row[5] = mulhi(a, 123456789); row[6] = max(a, int(b >> 1)); row[7] = int(char(a)) + int(short(a));
    rowu[0] = popcount(b); rowu[1] = clz(b); rowu[2] = ctz(b); rowu[3] = reverse_bits(b); rowu[4] = rotate(b, 7u);
    rowu[5] = mulhi(b, 4000000000u); rowu[6] = uint((ulong(b) * 10007ul) >> 9); rowu[7] = min(b, 12345u) * b;
    rowu[8] = absdiff(b, 1000000u);
}
"""


def _integers(arguments: list[Any]) -> dict[int, torch.Tensor]:
    a = arguments[0].numpy().astype(np.int64)
    b = arguments[1].numpy().view(np.uint32).astype(np.uint64)
    quotient = np.trunc(a / 7).astype(np.int64)
    signed = [
        quotient, a - 7 * quotient, a >> 3, np.abs(a), np.clip(a, -100, 100), (a * 123456789) >> 32,
        np.maximum(a, (b >> np.uint64(1)).astype(np.int64)), a.astype(np.int8).astype(np.int64) + a.astype(np.int16),
    ]  # fmt: skip
    text = [format(int(v), "032b") for v in b]
    rotated = ((b << np.uint64(7)) | (b >> np.uint64(25))) & np.uint64(0xFFFFFFFF)
    unsigned = [
        [t.count("1") for t in text],
        [32 - len(t.lstrip("0")) for t in text],
        [32 - len(t.rstrip("0")) for t in text],
        [int(t[::-1], 2) for t in text],
        rotated,
        (b * np.uint64(4_000_000_000)) >> np.uint64(32),
        ((b * np.uint64(10007)) >> np.uint64(9)) & np.uint64(0xFFFFFFFF),
        (np.minimum(b, 12345) * b) & np.uint64(0xFFFFFFFF),
        np.abs(b.astype(np.int64) - 1_000_000),
    ]
    wide = np.stack([np.asarray(u).astype(np.uint64) for u in unsigned], axis=1).astype(np.uint32)
    return {
        2: torch.from_numpy(np.stack(signed, axis=1).astype(np.int32).reshape(-1)),
        3: torch.from_numpy(wide.view(np.int32).reshape(-1)),
    }


def _integer_arguments() -> list[Any]:
    generator = np.random.default_rng(8)
    a = generator.integers(-(2**31) + 1, 2**31, 200).astype(np.int32)
    b = generator.integers(1, 2**32, 200, dtype=np.uint32)
    a[:4], b[:3] = [0, 1, -1, 6], [1, 2**31, 2**32 - 1]
    return [
        torch.from_numpy(a),
        torch.from_numpy(b.view(np.int32)),
        torch.zeros(1600, dtype=torch.int32),
        torch.zeros(1800, dtype=torch.int32),
    ]


_CASTS = """
kernel void casts(device const float* x [[buffer(0)]], device int* out [[buffer(1)]],
    device uchar4* pixels [[buffer(2)]], uint i [[thread_position_in_grid]])
{
    float v = x[i];
    out[i * 4] = int(v); out[i * 4 + 1] = as_type<int>(v);
    out[i * 4 + 2] = int(as_type<ushort>(half(v)));
    out[i * 4 + 3] = int(as_type<float>(as_type<uint>(v) ^ 0x80000000u));
    float4 colour = clamp(float4(v, -v, v * 0.5f, 255.0f), 0.0f, 255.0f);
    pixels[i] = uchar4(colour + 0.5f);
    pixels[i].w = uchar(as_type<uchar4>(0x04030201u).z);
}
"""


def _cast(arguments: list[Any]) -> dict[int, torch.Tensor]:
    x = arguments[0].numpy()
    half = x.astype(np.float16).view(np.uint16).astype(np.int32)
    out = np.stack([x.astype(np.int32), x.view(np.int32), half, (-x).astype(np.int32)], axis=1)
    pixels = np.stack([np.clip(v, 0, 255) + np.float32(0.5) for v in (x, -x, x / 2, x)], axis=1).astype(np.uint8)
    pixels[:, 3] = 3
    return {1: torch.from_numpy(out.reshape(-1)), 2: torch.from_numpy(pixels.reshape(-1))}


_GEOMETRY = """
kernel void geometry(device const float3* x [[buffer(0)]], device float* out [[buffer(1)]],
    constant float4x4& m [[buffer(2)]], uint i [[thread_position_in_grid]])
{
    float3 a = x[i], b = float3(1.0f, -2.0f, 0.5f);
    float3 c = cross(a, b);
    float4 moved = m * float4(a, 1.0f);
    float3 r = reflect(a, float3(0.0f, 1.0f, 0.0f));
    device float* row = out + i * 12;
    row[0] = dot(a, b); row[1] = c.x; row[2] = c.y; row[3] = c.z; row[4] = moved.x; row[5] = moved.y; row[6] = moved.w;
    row[7] = r.y; row[8] = any(a > b) ? 1.0f : 0.0f; row[9] = all(a > b) ? 1.0f : 0.0f;
    row[10] = length_squared(a); row[11] = max(max(a.x, a.y), a.z) + fract(a.x);
}
"""


def _geometry(arguments: list[Any]) -> dict[int, torch.Tensor]:
    a = arguments[0].reshape(-1, 4).numpy()[:, :3].astype(np.float64)
    b = np.array([1, -2, 0.5])
    columns = np.array(arguments[2].numpy(), np.float64).reshape(4, 4)
    moved = np.column_stack([a, np.ones(len(a))]) @ columns
    above = a > b
    rows = np.column_stack(
        [a @ b, np.cross(a, b), moved[:, [0, 1, 3]], -a[:, 1], above.any(1), above.all(1), (a * a).sum(1),
         a.max(1) + a[:, 0] - np.floor(a[:, 0])]
    )  # fmt: skip
    return {1: torch.from_numpy(rows.astype(np.float32).reshape(-1))}


CASES = [
    MetalCase(
        "precise functions",
        _PRECISE_SOURCE,
        "precise_maths",
        lambda: _ranges(tuple(PRECISE)),
        _oracles(tuple(PRECISE)),
        threads=257,
        tolerance=1.2e-6,
    ),
    MetalCase(
        "fast functions",
        _FAST_SOURCE,
        "fast_maths",
        lambda: _ranges(_FAST),
        _oracles(_FAST),
        threads=257,
        tolerance=3e-4,
    ),
    MetalCase(
        "functions of two arguments",
        _TWO,
        "binary",
        lambda: [_positive(1, 0.5, 8), _positive(2, 0.5, 4), torch.zeros(3600)],
        _binary,
        threads=300,
        tolerance=2e-6,
    ),
    MetalCase(
        "exactly rounded functions and NaN",
        _EXACT,
        "exact",
        _specials,
        _exact,
        threads=19,
    ),
    MetalCase("integer functions", _INTEGERS, "integers", _integer_arguments, _integers, threads=200),
    MetalCase(
        "conversions and bit casts",
        _CASTS,
        "casts",
        lambda: [
            torch.from_numpy(np.linspace(-300, 300, 97).astype(np.float32)),
            torch.zeros(388, dtype=torch.int32),
            torch.zeros(388, dtype=torch.uint8),
        ],
        _cast,
        threads=97,
    ),
    MetalCase(
        "vectors, matrices, geometry",
        _GEOMETRY,
        "geometry",
        lambda: [
            torch.arange(160, dtype=torch.float32) / 8 - 9,
            torch.zeros(480),
            torch.arange(16, dtype=torch.float32) - 4,
        ],
        _geometry,
        threads=40,
    ),
]
