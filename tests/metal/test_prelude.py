"""Metal's types and functions as C++: layouts, swizzles, rounding, against NumPy, torch and exact fractions."""

from __future__ import annotations

import itertools
import struct
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch

from elinvar.metal.types import SCALARS, builtin

Compile = Callable[..., Any]
HEAD = "#include <metal_stdlib>\nusing namespace metal;\n"
NAMES = [*SCALARS, *(f"{p}{s}{n}" for p in ("", "packed_") for s in SCALARS for n in (2, 3, 4))]
NAMES += [f"{s}{c}x{r}" for s in ("half", "float") for c in (2, 3, 4) for r in (2, 3, 4)]
NAMES += [
    "atomic_int",
    "atomic_uint",
    "atomic_float",
    "atomic_bool",
    "size_t",
    "ptrdiff_t",
    "int8_t",
    "uint16_t",
    "int64_t",
]


def floats(emulator: Compile, body: str, count: int, before: str = "", **arrays: Any) -> np.ndarray[Any, Any]:
    """Run one thread of `body`, which writes ``out[...]``; `arrays` are device buffers by name."""
    declared = "".join(f", device const {kind}* {name}" for name, (kind, _) in arrays.items())
    lib = emulator(f"{HEAD}{before}\nkernel void k(device float* out{declared}) {{\n{body}\n}}\n")
    out = torch.full((count,), -12345.0)
    lib.k(out, *(array for _, array in arrays.values()), threads=1)
    return out.numpy()


# ---- layout ---------------------------------------------------------------------------------------------------------
def test_sizes_and_alignments_are_what_launches_assume(emulator: Compile) -> None:
    body = "".join(f"out[{2 * i}] = sizeof({n}); out[{2 * i + 1}] = alignof({n});\n" for i, n in enumerate(NAMES))
    got = floats(emulator, body, 2 * len(NAMES)).reshape(-1, 2)
    for name, (size, align) in zip(NAMES, got, strict=True):
        kind = builtin(name)
        assert kind is not None
        assert (kind.size, kind.align) == (size, align), name
    assert floats(emulator, "out[0] = sizeof(metal::float3) + 100 * sizeof(vec<half, 3>);", 1)[0] == 16 + 800


def test_struct_members_lie_where_launches_put_them(emulator: Compile) -> None:
    before = """struct In { half h; packed_float3 p; };
struct P { bool flag; float3 colour; int n[2][2]; In in; float2x2 m; uchar c; long l; };"""
    lib = emulator(
        f"{HEAD}{before}\nkernel void k(device float* out, constant P& p) {{ out[0] = p.colour.z; "
        "out[1] = p.n[1][0]; out[2] = p.in.p.y; out[3] = p.m[1][0]; out[4] = p.c; out[5] = p.l; out[6] = p.in.h; }"
    )
    out = torch.zeros(7)
    inner = {"h": 9, "p": [1, 2, 3]}
    p = {"flag": True, "colour": [4, 5, 6], "n": [[1, 2], [7, 8]], "in": inner, "m": [1, 2, 3, 4], "c": 200, "l": -5}
    lib.k(out, p, threads=1)
    assert out.tolist() == [6, 7, 2, 3, 200, -5, 9]


# ---- swizzles and constructors --------------------------------------------------------------------------------------
@pytest.mark.parametrize("packed", ["", "packed_"])
@pytest.mark.parametrize("size", [2, 3, 4])
def test_every_swizzle_reads(size: int, packed: str, emulator: Compile) -> None:
    values = [10.0, 20.0, 30.0, 40.0][:size]
    body = [f"const {packed}float{size} v = float{size}({', '.join(map(str, values))}); uint n = 0;"]
    expected: list[float] = []
    for letters in ("xyzw"[:size], "rgba"[:size]):
        for length in (2, 3, 4):
            for name in itertools.product(range(size), repeat=length):
                word = "".join(letters[i] for i in name)
                body.append(f"{{ auto s = v.{word}; " + "".join(f"out[n++] = s.{c};" for c in "xyzw"[:length]) + "}")
                expected += [values[i] for i in name]
    got = floats(emulator, "\n".join(body), len(expected))
    assert got.tolist() == expected


@pytest.mark.parametrize("size", [2, 3, 4])
def test_every_swizzle_writes(size: int, emulator: Compile) -> None:
    body, expected = ["uint n = 0;"], []
    for letters in ("xyzw"[:size], "rgba"[:size]):
        for length in range(2, size + 1):
            for name in itertools.permutations(range(size), length):
                word = "".join(letters[i] for i in name)
                body.append(
                    f"{{ float{size} v = 0; v.{word} = float{length}({', '.join(str(i + 1) for i in range(length))});"
                    f" v.{word} *= 2; v.{word} = v.{word}; v.{word} += 1.0;"
                    + "".join(f"out[n++] = v.{c};" for c in "xyzw"[:size])
                    + "}"
                )
                row = [0.0] * size
                for k, i in enumerate(name):
                    row[i] = 2 * (k + 1) + 1
                expected += row
    got = floats(emulator, "\n".join(body), len(expected))
    assert got.tolist() == expected


def test_swizzles_in_expressions(emulator: Compile) -> None:
    before = """template <typename T> T same(T x) { return x; }
struct S { float3 xy; float ab; float2 at(float2 p) { return p.yx; } };
inline float2 flip(float2 p) { return p.yx; }"""
    body = """
float4 v = float4(1, 2, 3, 4); float3 w = float3(5, 6, 7); S s; s.xy = w; s.ab = 9; int n = 0; bool yes = out[0] < 0;
float2 a = yes ? v.xy : w.zy; out[n++] = a.x; out[n++] = a.y;
float2 b = yes ? v.xy : v.zw; out[n++] = b.y;
out[n++] = v.wzyx.xy.y; out[n++] = v.xyz.bgr.r; out[n++] = same(v.zw).y; out[n++] = dot(v.xyz, w.zyx);
out[n++] = s.xy.z; out[n++] = s.ab; out[n++] = s.at(v.xy).x; out[n++] = flip(v.zw).x; out[n++] = v.yz[1];
out[n++] = (-v.xy).y; out[n++] = any(v.xy == float2(7, 2)); out[n++] = as_type<uint2>(v.xy).x == as_type<uint>(1.0f);
v.xy = v.yx; out[n++] = v.x; v.zw = v.xy + v.zw; out[n++] = v.w; v.x += v.yzw.z; out[n++] = v.x;
w.xz = float2(0); out[n++] = w.x + w.y + w.z; v.w++; out[n++] = v.w; v.xyz = s.xy; out[n++] = v.y;
thread float4* p = &v; p->xy = p->zz; out[n++] = p->y; (*p).yz = 3.0f; out[n++] = v.z; out[n++] = float3(v.xy, 8).z;
out[n++] = int2(v.xw * 1.5f).y; out[n++] = (float2(1, 2) * v.xy).y; out[n++] = length(v.xy - v.xy);
"""
    got = floats(emulator, body, 27, before)
    v = [1, 2, 2, 3, 3, 4, 1 * 7 + 2 * 6 + 3 * 5, 7, 9, 2, 4, 3, -2, 1, 1]
    # v = (2, 1, 3, 4); zw += xy -> (2, 1, 5, 5); x += w -> 7; w.xz = 0 -> 6; w++ -> 6; xyz = (5, 6, 7); ...
    v += [2, 5, 7, 6, 6, 6, 7, 3, 8, 9, 6, 0]
    assert got.tolist() == v


def test_every_constructor(emulator: Compile) -> None:
    body, expected = (
        ["uint n = 0; float2 v2 = float2(1, 2); float3 v3 = float3(3, 4, 5); float4 v4 = float4(6, 7, 8, 9);"],
        [],
    )
    sizes = {1: ("int(10)", [10]), 2: ("v2", [1, 2]), 3: ("v3", [3, 4, 5]), 4: ("v4", [6, 7, 8, 9])}
    for size in (2, 3, 4):
        for count in range(1, size + 1):
            for parts in itertools.product((1, 2, 3, 4), repeat=count):
                if sum(parts) != size:
                    continue
                body.append(
                    f"{{ float{size} v = float{size}({', '.join(sizes[p][0] for p in parts)});"
                    f" packed_float{size} q = v;"
                    + "".join(f"out[n++] = v.{c} + q[{i}];" for i, c in enumerate("xyzw"[:size]))
                    + "}"
                )
                expected += [2 * x for p in parts for x in sizes[p][1]]
        body.append(
            f"{{ float{size} v = 3; half{size} h = half{size}(v); int{size} i = {{1}}; bool{size} b = bool{size}(i);"
            f" const uchar{size} u{{}}; float{size} z = {{}}; constexpr short{size} c = short{size}(-7);"
            f" out[n++] = v.y + h.y + i.y + b.y + u.y + z.y + c.y + vec<float, {size}>(i).x; }}"
        )
        expected.append(3 + 3 + 1 + 1 + 0 + 0 - 7 + 1)
    got = floats(emulator, "\n".join(body), len(expected))
    assert got.tolist() == expected


# ---- operators ------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("scalar", ["int", "uint", "char", "uchar", "short", "ushort", "long", "ulong"])
def test_integer_vector_operators_wrap(scalar: str, emulator: Compile) -> None:
    dtype = np.dtype({"b": "?", "i": "i", "u": "u"}[SCALARS[scalar][1]] + str(SCALARS[scalar][0]))
    limits = np.iinfo(dtype)
    rng = np.random.default_rng(0)
    a = rng.integers(limits.min, limits.max, 40, dtype=dtype, endpoint=True)
    b = rng.integers(1, 7, 40, dtype=dtype)
    ops = ["a + b", "a - b", "a * b", "a / b", "a % b", "a & b", "a | b", "a ^ b", "a << b", "a >> b", "-a", "~a"]
    ops += ["a + 3", "2 * a", "max(a, b)", "min(a, b)", "clamp(a, b, b + 1)", "select(a, b, a < b)", "abs(b)"]
    stores = "".join(f"c[{10 * k} + i] = {op};\n" for k, op in enumerate(ops))
    lib = emulator(
        f"{HEAD}kernel void k(device const {scalar}4* x, device const {scalar}4* y, device {scalar}4* c,"
        f" uint i [[thread_position_in_grid]]) {{ {scalar}4 a = x[i], b = y[i];\n{stores} }}"
    )
    tensors = [torch.from_numpy(v.view(f"i{v.itemsize}")) for v in (a, b)]
    c = torch.zeros(len(ops), 40, dtype=tensors[0].dtype)
    lib.k(*tensors, c, threads=10)
    got = c.numpy().view(dtype)
    quotient = (
        np.trunc(a.astype(object) / b.astype(object))
        if False
        else np.array(
            [int(abs(int(p)) // int(q)) * (-1 if p < 0 else 1) for p, q in zip(a, b, strict=True)], dtype=object
        )
    )
    with np.errstate(over="ignore"):
        expected = [
            a + b,
            a - b,
            a * b,
            quotient.astype(dtype),
            (a.astype(object) - quotient * b.astype(object)).astype(dtype),
        ]
        expected += [a & b, a | b, a ^ b, a << b, a >> b, np.negative(a), ~a, a + dtype.type(3), a * dtype.type(2)]
    expected += [np.maximum(a, b), np.minimum(a, b), np.clip(a, b, b + dtype.type(1)), np.where(a < b, b, a), b]
    for op, ours, theirs in zip(ops, got, expected, strict=True):
        assert (ours == theirs.astype(dtype)).all(), op


def test_comparisons_and_logic(emulator: Compile) -> None:
    body = """
float3 a = float3(1, 2, 3), b = float3(3, 2, 1); uint n = 0;
bool3 t[] = {a < b, a <= b, a > b, a >= b, a == b, a != b,
 a < 2.0f, !(a < b), (a < b) && (a > 0.5), (a < b) || (a == b), (a < b) & (a > 5), (a < b) ^ true};
for (uint i = 0; i < 12; i++) for (uint k = 0; k < 3; k++) out[n++] = t[i][k];
out[n++] = all(a > 0); out[n++] = any(a > 2); out[n++] = all(a > 1); out[n++] = any(isnan(a / 0.0f - a / 0.0f));
int3 i = int3(1, 2, 3); i <<= 2; i |= 1; i -= int3(1); out[n++] = i.z; out[n++] = (+i).y; i++; --i;
out[n++] = i.x++; out[n++] = i.x;
"""
    got = floats(emulator, body, 44).tolist()
    rows = [
        [1, 0, 0],
        [1, 1, 0],
        [0, 0, 1],
        [0, 1, 1],
        [0, 1, 0],
        [1, 0, 1],
        [1, 0, 0],
        [0, 1, 1],
        [1, 0, 0],
        [1, 1, 0],
    ]
    rows += [[0, 0, 0], [0, 1, 1]]
    assert got[:36] == [float(x) for row in rows for x in row]
    assert got[36:] == [1, 1, 0, 1, 12, 8, 4, 5]


# ---- half and bfloat ------------------------------------------------------------------------------------------------
def patterns() -> torch.Tensor:
    return torch.arange(65536, dtype=torch.int32).to(torch.uint16).view(torch.float16)


def special_floats() -> torch.Tensor:
    """Return random floats of every exponent, every tie and near-tie of halves and bfloats, and the special ones."""
    rng = np.random.default_rng(0)
    bits = [rng.integers(0, 2**32, 200_000, dtype=np.uint32)]
    halves = patterns().float().numpy()
    middle = ((halves[:-1].astype(np.float64) + halves[1:]) / 2).astype(np.float32)
    middle = middle[np.isfinite(middle)].view(np.uint32)
    bits += [middle, middle + 1, middle - 1]
    wide = (np.arange(65536, dtype=np.uint32) << 16) + 0x8000
    bits += [wide, wide + 1, wide - 1, wide - 0x8000]
    bits.append(np.array([0x7F800000, 0xFF800000, 0x7FC00000, 0xFFC00001, 0x7F800001, 0, 0x80000000, 1], np.uint32))
    return torch.from_numpy(np.concatenate(bits).view(np.float32))


def same(ours: torch.Tensor, theirs: torch.Tensor) -> bool:
    a, b = ours.float(), theirs.float()
    signs = torch.signbit(a) == torch.signbit(b)
    return bool(((a == b) & signs | a.isnan() & b.isnan()).all())


def test_every_half_becomes_its_float(emulator: Compile) -> None:
    lib = emulator(
        HEAD + "kernel void k(device const half* x, device float* y, uint i [[thread_position_in_grid]])"
        " { y[i] = x[i]; }"
    )
    x, y = patterns(), torch.zeros(65536)
    lib.k(x, y)
    assert same(y, x.float())


@pytest.mark.parametrize(("name", "dtype"), [("half", torch.float16), ("bfloat", torch.bfloat16)])
def test_floats_round_to_nearest_even(name: str, dtype: torch.dtype, emulator: Compile) -> None:
    lib = emulator(
        f"{HEAD}kernel void k(device const float* x, device {name}* y, device {name}4* z,"
        " uint i [[thread_position_in_grid]]) { y[i] = x[i]; z[i / 4][i % 4] = float4(x[i]).x; }"
    )
    x = special_floats()
    x = x[: len(x) // 4 * 4]
    y, z = torch.zeros(len(x), dtype=dtype), torch.zeros(len(x), dtype=dtype)
    lib.k(x, y, z)
    assert same(y, x.to(dtype))
    assert same(z, x.to(dtype))


@pytest.mark.parametrize(("name", "dtype"), [("half", torch.float16), ("bfloat", torch.bfloat16)])
def test_small_arithmetic_rounds_once(name: str, dtype: torch.dtype, emulator: Compile) -> None:
    lib = emulator(f"""{HEAD}kernel void k(device const {name}* a, device const {name}* b, device {name}* out,
    constant uint& n, uint i [[thread_position_in_grid]])
{{
    uint k = 0;
    out[n * k++ + i] = a[i] + b[i]; out[n * k++ + i] = a[i] - b[i]; out[n * k++ + i] = a[i] * b[i];
    out[n * k++ + i] = a[i] / b[i]; out[n * k++ + i] = sqrt(a[i]); out[n * k++ + i] = -a[i];
out[n * k++ + i] = abs(a[i]);
    {name} c = a[i]; c += b[i]; c *= 2; out[n * k++ + i] = c;
out[n * k++ + i] = ({name}2(a[i], b[i]) + {name}2(b[i])).x;
    out[n * k++ + i] = min(a[i], b[i]); out[n * k++ + i] = max(a[i], b[i]); out[n * k++ + i] = a[i] * 3 + 1;
}}""")
    rng = np.random.default_rng(2)
    a, b = (torch.from_numpy(rng.integers(0, 65536, 60_000).astype(np.uint16)).view(dtype) for _ in range(2))
    a, b = (v.where(~v.isnan(), torch.nan) for v in (a, b))  # C's fmin makes a NaN of a signalling one
    out = torch.zeros(12, len(a), dtype=dtype)
    lib.k(a, b, out, len(a))
    x, y = a.double(), b.double()

    def once(v: torch.Tensor) -> torch.Tensor:
        return v.float().to(dtype)  # float has more than twice the digits: the second rounding changes nothing

    # NumPy's square root is the processor's; torch's vectorised one is not always the nearest float
    root = torch.from_numpy(np.sqrt(a.float().clamp(min=0).numpy())).to(dtype).where(~(a < 0), torch.nan)
    root = root.where(a != 0, a)
    total = once(x + y)
    expected = [total, once(x - y), once(x * y), (a.float() / b.float()).to(dtype), root, -a, a.abs()]
    expected += [once(total.double() * 2), total]
    expected += [extreme(a.float(), b.float()).to(dtype) for extreme in (torch.fmin, torch.fmax)]
    expected.append(once(once(x * 3).double() + 1))
    for k, theirs in enumerate(expected):
        ours = out[k]
        if k in {9, 10}:  # of equal zeros either may win
            ours, theirs = ours + 0, theirs + 0
        assert same(ours, theirs), k


@pytest.mark.parametrize(("name", "dtype"), [("half", torch.float16), ("bfloat", torch.bfloat16)])
def test_small_fma_is_exact(name: str, dtype: torch.dtype, emulator: Compile) -> None:
    lib = emulator(
        f"{HEAD}kernel void k(device const {name}* a, device const {name}* b, device const {name}* c, device {name}* o,"
        " uint i [[thread_position_in_grid]]) { o[i] = fma(a[i], b[i], c[i]); }"
    )
    rng = np.random.default_rng(3)
    # near cancellation and far-apart exponents: where a second rounding would show
    a = torch.from_numpy(rng.normal(size=4000)).to(dtype)
    b = torch.from_numpy(rng.normal(size=4000)).to(dtype)
    c = torch.from_numpy(rng.normal(size=4000) * 2.0 ** rng.integers(-14, 12, 4000)).to(dtype)
    c[:1000] = -(a[:1000].double() * b[:1000].double()).to(dtype)
    out = torch.zeros(4000, dtype=dtype)
    lib.k(a, b, c, out)
    finite = torch.arange(65536, dtype=torch.int32).to(torch.uint16).view(dtype)
    grid = finite[finite.isfinite()].double().sort().values.unique().numpy()
    for p, q, r, got in zip(a.tolist(), b.tolist(), c.tolist(), out.tolist(), strict=True):
        exact = Fraction(p) * Fraction(q) + Fraction(r)
        at = int(np.searchsorted(grid, float(exact)))
        near = [Fraction(float(grid[i])) for i in range(max(at - 2, 0), min(at + 2, len(grid)))]
        best = min(abs(exact - n) for n in near)
        assert abs(exact - Fraction(got)) == best


def test_halves_mix_with_other_numbers_as_metal_says(emulator: Compile) -> None:
    body = """
half h = 0.1h; float f = 0.1f; int i = 3; uint n = 0; const half third = half(1) / 3; bool yes = out[0] < 0;
out[n++] = sizeof(h + h); out[n++] = sizeof(h + i); out[n++] = sizeof(h + f); out[n++] = sizeof(h * 2.0);
out[n++] = sizeof(1.5);
out[n++] = h + f; out[n++] = yes ? h : 0.1f; out[n++] = yes ? 0.1f : h; out[n++] = yes ? h : 1;
out[n++] = sizeof(yes ? h : f);
out[n++] = i ? (yes ? third : f) : h; out[n++] = int(h * 30); i = h * 40; out[n++] = i; out[n++] = h < f;
out[n++] = h == 0.1h;
if (h) out[n++] = 5; half2 v = half2(h, 2); out[n++] = (v * 0.5).y; out[n++] = (v * f).y; out[n++] = float2(v).x;
out[n++] = 0.1bf;
h++; out[n++] = h; h /= 3; out[n++] = h; out[n++] = max(h, half(1)); out[n++] = bfloat(1.00390625f);
constexpr half c = 1.0h / 3;
out[n++] = c; out[n++] = as_type<ushort>(c); out[n++] = -c; out[n++] = !h;
"""
    got = floats(emulator, body, 28).tolist()
    tenth = float(np.float16(0.1))
    third = float(np.float16(1 / 3))
    assert got[:5] == [2, 2, 4, 4, 4]
    f = float(np.float32(0.1))
    expected = [float(np.float32(np.float32(tenth) + np.float32(f))), tenth, f, tenth, 4, third, 3, 4, 1, 1, 5, 1]
    assert got[5:17] == expected
    assert got[17] == float(np.float16(2) * np.float16(0.1))
    assert got[18:20] == [tenth, float(torch.tensor(0.1).bfloat16())]
    up = float(np.float16(tenth + 1))
    down = float(np.float16(np.float16(up) / np.float16(3)))
    assert got[20:24] == [up, down, 1.0, 1.0]
    assert got[24:28] == [third, struct.unpack("<H", np.float16(1 / 3).tobytes())[0], -third, 0]


# ---- functions ------------------------------------------------------------------------------------------------------
def test_rules_about_nan_zero_and_infinity(emulator: Compile) -> None:
    body = """
float nan = NAN, inf = INFINITY, n0 = -0.0f; uint n = 0;
out[n++] = min(nan, 1.0f); out[n++] = max(1.0f, nan); out[n++] = fmin(nan, nan); out[n++] = clamp(nan, 2.0f, 3.0f);
out[n++] = saturate(nan); out[n++] = sign(nan); out[n++] = sign(-3.0f); out[n++] = signbit(sign(n0));
out[n++] = fract(-0.25f);
out[n++] = fract(inf); out[n++] = fract(-1e-10f); out[n++] = signbit(max(n0, 0.0f));
out[n++] = signbit(min(0.0f, n0));
out[n++] = step(1.0f, 1.0f); out[n++] = step(1.0f, 0.5f); out[n++] = smoothstep(0.0f, 2.0f, 1.0f);
out[n++] = mix(1.0f, 3.0f, 0.25f);
out[n++] = isnan(nan) + 2 * isinf(-inf) + 4 * isfinite(1.0f) + 8 * isnormal(1e-40f)
 + 16 * isnan(half(nan)) + 32 * isinf(half(70000.0f));
out[n++] = round(-2.5f); out[n++] = rint(-2.5f); out[n++] = trunc(-2.7f); out[n++] = copysign(3.0f, n0);
out[n++] = fmod(-7.0f, 3.0f);
out[n++] = powr(2.0f, 3.0f); out[n++] = isnan(powr(-2.0f, 3.0f)); out[n++] = exp10(3.0f); out[n++] = sinpi(1.0f);
out[n++] = cospi(0.5f);
out[n++] = sinpi(0.5f); out[n++] = rsqrt(0.25f); out[n++] = fdim(5.0f, 3.0f); out[n++] = median3(3.0f, 1.0f, 2.0f);
int e; out[n++] = frexp(12.0f, e); out[n++] = e; float w; out[n++] = modf(-3.25f, w); out[n++] = w;
out[n++] = ldexp(0.75f, 4);
out[n++] = ilogb(9.0f); float c; out[n++] = sincos(0.0f, c); out[n++] = c; out[n++] = nextafter(1.0f, 2.0f) - 1;
out[n++] = divide(1.0f, 4.0f);
out[n++] = precise::sqrt(2.25f); out[n++] = fast::max(1.0f, 2.0f); out[n++] = fast::rsqrt(float2(4)).y;
out[n++] = precise::fma(2.0f, 3.0f, 4.0f);
"""
    got = floats(emulator, body, 46).tolist()
    nan = float("nan")
    expected = [
        1,
        1,
        nan,
        2,
        0,
        0,
        -1,
        1,
        0.75,
        0,
        0.999999940395355224609375,
        0,
        1,
        1,
        0,
        0.5,
        1.5,
        1 + 2 + 4 + 16 + 32,
    ]
    expected += [
        -3,
        -2,
        -2,
        -3,
        -1,
        8,
        1,
        1000,
        0,
        0,
        1,
        2,
        2,
        2,
        0.75,
        4,
        -0.25,
        -3,
        12,
        3,
        0,
        1,
        2.0**-23,
        0.25,
        1.5,
        2,
        0.5,
        10,
    ]
    np.testing.assert_array_equal(got, expected)


def test_integer_functions(emulator: Compile) -> None:
    body = """
uint n = 0; out[n++] = popcount(0xF0F0u); out[n++] = clz(1u); out[n++] = clz(0u); out[n++] = ctz(8);
out[n++] = ctz(short(0));
out[n++] = clz(uchar(1)); out[n++] = reverse_bits(uchar(1)); out[n++] = rotate(uchar(0x81), uchar(1));
out[n++] = rotate(1, 33);
out[n++] = mulhi(0x80000000u, 6u); out[n++] = mulhi(-1, 5); out[n++] = mulhi(long(1) << 40, long(1) << 30);
out[n++] = mulhi(-1L, 7L);
out[n++] = madhi(uchar(200), uchar(200), uchar(1)); out[n++] = mad24(-3, 5, 1); out[n++] = mul24(0x1000003u, 5u);
out[n++] = addsat(char(100), char(100)); out[n++] = addsat(uchar(200), uchar(100)); out[n++] = subsat(2u, 3u);
out[n++] = subsat(char(-100), char(100));
out[n++] = absdiff(-5, 7); out[n++] = absdiff(uchar(3), uchar(5)); out[n++] = hadd(char(127), char(125));
out[n++] = rhadd(3u, 4u);
out[n++] = extract_bits(0xABCDu, 4, 8); out[n++] = extract_bits(char(-16), 4, 4);
out[n++] = insert_bits(0u, 5u, 4, 2); out[n++] = abs(-7);
out[n++] = max3(1, 5, 3); out[n++] = min3(4u, 2u, 9u); out[n++] = median3(4, 2, 9);
out[n++] = popcount(uint2(3, 7)).y; out[n++] = abs(int3(-4)).z;
out[n++] = clamp(uint2(9, 1), 2u, 5u).x; out[n++] = select(1, 2, true); out[n++] = numeric_limits<char>::min();
out[n++] = UINT_MAX == ~0u;
"""
    got = floats(emulator, body, 37).tolist()
    expected = [
        8,
        31,
        32,
        3,
        16,
        7,
        128,
        3,
        2,
        3,
        -1,
        64,
        -1,
        157,
        -14,
        15,
        127,
        255,
        0,
        -128,
        12,
        2,
        126,
        4,
        0xBC,
        -1,
        16,
        7,
    ]
    assert got == [*expected, 5, 2, 4, 3, 4, 5, 2, -128, 1]


def test_geometry_and_matrices(emulator: Compile) -> None:
    body = """
uint n = 0; float3 a = float3(1, 2, 2), b = float3(2, 0, 1); out[n++] = dot(a, b); out[n++] = length(a);
out[n++] = distance(a, b);
out[n++] = cross(a, b).x; out[n++] = normalize(a).y; out[n++] = reflect(a, float3(0, 1, 0)).y;
out[n++] = length_squared(b);
out[n++] = faceforward(a, b, -b).x; out[n++] = refract(float3(0, -1, 0), float3(0, 1, 0), 0.5f).y;
out[n++] = dot(int2(3, 4), int2(2, 1));
float2x3 m = float2x3(a, b); out[n++] = m[1][2]; out[n++] = (m * float2(1, 10)).x; out[n++] = (a * m).y;
float3x2 t = transpose(m); out[n++] = t[2][1];
float2x2 p = t * m; out[n++] = p[0][0]; out[n++] = p[1][0]; float3x3 i = float3x3(2); out[n++] = (i * a).z;
out[n++] = determinant(i);
out[n++] = determinant(float2x2(1, 2, 3, 4)); float4x4 q = float4x4(1); q[3] = float4(5, 6, 7, 1);
out[n++] = (q * float4(1, 1, 1, 1)).y; out[n++] = determinant(q * 2);
half2x2 h = half2x2(half2(1, 2), half2(3, 4)); out[n++] = (h * half2(1, 1)).y; m += m; out[n++] = m[0].y;
out[n++] = (2 * m - m)[0].x; matrix<float, 2, 2> g = matrix<float, 2, 2>(1); g *= p; out[n++] = g[1][1];
"""
    got = floats(emulator, body, 25).tolist()
    expected = [
        4,
        3,
        np.float32(np.sqrt(6)),
        2,
        np.float32(2 / 3),
        -2,
        5,
        1,
        -1,
        10,
        1,
        21,
        4,
        1,
        9,
        4,
        4,
        8,
        -2,
        7,
        16,
        6,
        4,
        2,
        5,
    ]
    np.testing.assert_allclose(got, np.array(expected, np.float32), rtol=2e-7)


def test_packing_functions(emulator: Compile) -> None:
    body = """
uint n = 0; float4 v = unpack_unorm4x8_to_float(0xFF800133u); for (int k = 0; k < 4; k++) out[n++] = v[k] * 255;
out[n++] = pack_float_to_unorm4x8(float4(1, 0.5, -3, 0.25)); v = unpack_snorm4x8_to_float(0x7F810080u);
for (int k = 0; k < 4; k++) out[n++] = v[k];
out[n++] = pack_float_to_snorm4x8(float4(-1, 1, 0, 0)); out[n++] = unpack_unorm2x16_to_float(0xFFFF0000u).y;
out[n++] = pack_float_to_snorm2x16(float2(1, 0));
"""
    got = floats(emulator, body, 12).tolist()
    np.testing.assert_allclose(got[:4], [0x33, 1, 0x80, 255], rtol=1e-6)
    assert got[4] == float(np.float32(0x40008000 | 0xFF))
    assert got[5:9] == [-1, 0, -1, 1]
    assert got[9:] == [float(0x7F81), 1, 32767]


def test_traits_limits_and_arrays(emulator: Compile) -> None:
    before = """template <typename T, typename = enable_if_t<is_floating_point_v<T>>> int kind(T) { return 1; }
template <typename T, typename = enable_if_t<is_integral<T>::value>, typename = void> int kind(T) { return 2; }
constant float table[] = {1, 2, 3}; constant array<int, 2> pair = {4, 5}; constant half tiny = 1e-7h;
constant uint2 size = uint2(3, 4);"""
    body = """
uint n = 0; out[n++] = kind(1.0h); out[n++] = kind(bfloat(1)); out[n++] = kind(uchar(1)); out[n++] = kind(true);
out[n++] = is_same_v<make_unsigned_t<char>, uchar>;
out[n++] = numeric_limits<half>::max(); out[n++] = numeric_limits<float>::infinity() == INFINITY;
out[n++] = numeric_limits<bfloat>::epsilon();
out[n++] = numeric_limits<half>::lowest(); out[n++] = table[2] + pair[1] + size.y; out[n++] = tiny > 0;
array<float, 3> a = {{1, 2, 3}}; a[1] = 7; out[n++] = a[1] + a.size();
out[n++] = is_convertible_v<half, float> + 2 * is_signed_v<uint> + 4 * is_unsigned_v<uint>
 + 8 * is_pointer_v<device float*>; out[n++] = FLT_EPSILON == 1.1920929e-7f;
"""
    got = floats(emulator, body, 14, before).tolist()
    assert got == [1, 1, 2, 2, 1, 65504, 1, 0.0078125, -65504, 12, 1, 10, 1 + 4 + 8, 1]
