"""What Apple's compiler refuses and C++ does not, refused everywhere."""

from __future__ import annotations

from pathlib import Path

import pytest

import elinvar
from elinvar.errors import MetalSyntaxError
from elinvar.metal import parse

KERNEL = "\nkernel void k() {}\n"


@pytest.mark.parametrize(
    "text",
    [
        "void f(float* p) {}",
        "void f(const float4 &p) {}",
        "void f(int i, metal::float2 *p);",
        "struct S { float a; };\nvoid f(S& s) {}",
        "template <typename T> void f(T* p) {}",
        "typedef float real;\nvoid f(real* p) {}",
        "void f() { float x = 1; float* p = 0; }",
        "void f() { for (const uint& i = 0; i < 1;) {} }",
        "void f(device uint* p) { auto q = (float*)p; }",
        "void f(device uint* p) { auto q = reinterpret_cast<float*>(p); }",
        "struct S { float a; void add(float& x) { a += x; } };",
        "float* f();",
    ],
)
def test_pointers_and_references_say_their_address_space(text: str) -> None:
    with pytest.raises(MetalSyntaxError, match=r"<source>:[12]: this (pointer|reference) to \w+ has no address space"):
        parse(text + KERNEL)


@pytest.mark.parametrize(
    "text",
    [
        "void f(device float* p, thread const int& i, threadgroup float4 *const s, constant uint* restrict n) {}",
        "template <typename T, int N> T f(T x) { int y = N; return x * T(y) * T(N); }",
        "void f(float a, float b) { float c = a * b; int n = 2; uint m = uint(n) * 3 & 1; bool t = m & n; }",
        "template <typename T> struct P { device T* p; threadgroup T& r; };",
        "float f(float (*op)(float)) { return op(1); }",
        "template <typename T> void f(T&& x) {}",
        "constant float table[2] = {1, 2}; constant constexpr int n = 3; static constant uint m = n * 2;",
        'struct S; enum E { a, b }; void f(float); using T = float; static_assert(sizeof(float) == 4, "x");',
        "void f(thread float* x) { x[0] = x[(1)]; int y[2] = {0}; y[y[0]] = 1; }",
    ],
)
def test_what_metal_accepts(text: str) -> None:
    parse(text + KERNEL)


@pytest.mark.parametrize(
    "text", ["int counter;", "float table[3] = {1, 2, 3};", "static const float x = 1;", "constexpr int n = 4;"]
)
def test_variables_at_program_scope_are_constant(text: str) -> None:
    with pytest.raises(
        MetalSyntaxError, match=r"<source>:1: a variable at program scope must be in the constant address"
    ):
        parse(text + KERNEL)


@pytest.mark.parametrize(
    "text", ["auto f = [](int x) { return x; };", "g([&] { return 1; });", "return [=](int y) { return y; }(1);"]
)
def test_lambdas(text: str) -> None:
    with pytest.raises(MetalSyntaxError, match=r"<source>:2: lambdas are refused"):
        parse(f"void f() {{\n{text}\n}}{KERNEL}")


def test_this_packages_own_kernels_pass() -> None:
    files = sorted(Path(elinvar.__file__).parent.rglob("*.metal"))
    for file in files:
        assert parse(file, {"SIMDGROUPS": 2, "SAMPLES": 2, "UNROLL": 1, "PAIRS": 0, "WEIGHTED": 1}).kernels
