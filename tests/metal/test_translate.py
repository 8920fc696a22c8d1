"""Metal into C++: what is rewritten, what is left alone, and that every token keeps its line."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from elinvar.metal import parse
from elinvar.metal.lexer import tokenize
from elinvar.metal.translate import translate


def body(statement: str, before: str = "") -> str:
    """Return the translation of one statement of a kernel, spaces squeezed."""
    text = translate(parse(f"{before}\nkernel void k() {{\nBEGIN; {statement} END;\n}}\n"))
    found = re.search(r"BEGIN ;(.*)END ;", text, re.DOTALL)
    assert found is not None
    return re.sub(r"\s+", " ", re.sub(r"\n#line[^\n]*", "", found[1])).strip()


@pytest.mark.parametrize(
    ("metal", "cpp"),
    [
        ("device float* p; thread int& i = j;", "float * p ; int & i = j ;"),
        (
            "constant float* p; const constant float* q; constant const float* r;",
            "const float * p ; const float * q ; const float * r ;",
        ),
        ("threadgroup float* p = s;", "float * p = s ;"),
        (
            "threadgroup float s[4][N + 1], t;",
            "ELINVAR_THREADGROUP(s, [4][N + 1], float); ELINVAR_THREADGROUP(t, , float);",
        ),
        ("threadgroup vec<half, 2> s[2];", "ELINVAR_THREADGROUP(s, [2], vec < half , 2 >);"),
        (
            "x = 1.0 + .5e-3 + 1e4 + 0x1.8p3 + 2.f + 3 + 0x1F + 1e5F;",
            "x = 1.0f + .5e-3f + 1e4f + 0x1.8p3f + 2.f + 3 + 0x1F + 1e5f ;",
        ),
        ("x = -1.5h + 2.0bf;", "x = - half(1.5f) + bfloat(2.0f) ;"),
        ("[[maybe_unused]] int x = a[b[0]];", "int x = a [ b [ 0 ] ] ;"),
        (
            "a.xy = b.yx; a.zw += c.rg; ++q;",
            "a . xy = b . yx ->* elinvar_read ; a . zw += c . rg ->* elinvar_read ; ++ q ;",
        ),
        ("f(a.wzyx.xy.y, a->xyz[1], a.x, a.bar());", "f ( a . z , a -> xyz [ 1 ] , a . x , a . bar ( ) ) ;"),
        ("x = ::metal::abs(y) + ns::f(z);", "x = :: elinvar_msl :: metal :: abs ( y ) + ns :: f ( z ) ;"),
        ("x = c ? 1 : 2;", "x = c ? 1 : 2 ;"),
    ],
)
def test_rewriting(metal: str, cpp: str) -> None:
    assert body(metal) == cpp


def test_conditionals_are_wrapped_only_where_halves_occur() -> None:
    def arm(value: str, *kinds: str) -> str:
        return f"elinvar_arm<{', '.join(f'decltype({k} )' for k in kinds)}>( {value} )"

    two = ("a", "f ( 1 , 2 )")
    assert body("half a; x = c ? a : f(1, 2);") == f"half a ; x = c ? {arm('a', *two)} : {arm('f ( 1 , 2 )', *two)} ;"
    three = ("a", "b", "d")
    nested = f"half a ; g ( c ? {arm('a', *three)} : e ? {arm('b', *three)} : {arm('d', *three)} , 3 ) ;"
    assert body("half a; g(c ? a : e ? b : d, 3);") == nested
    middle = body("half a; x = c ? e ? a : b : d;")
    assert middle.count("elinvar_arm<") == 3
    template = body("half a; x = c ? max<half, 2>(a, b) : d;")
    assert "max < half , 2 > ( a , b ) )" in template


def test_program_scope_constants_and_kernels() -> None:
    text = translate(parse("constant float x = 1; static constant constexpr int n = 2;\n[[kernel]] void k() {}\n"))
    assert "ELINVAR_CONSTANT float x" in text
    assert "static ELINVAR_CONSTANT constexpr int n" in text
    assert re.search(r"ELINVAR_KERNEL void k \( \) \{ \}", text)


def test_instantiations_are_left_out() -> None:
    text = translate(
        parse(
            "template <typename T> kernel void f(device T* x) {}\n"
            'template [[host_name("g")]] kernel void f<int>(device int*);\n'
        )
    )
    assert text.count("f (") == 1
    assert "host_name" not in text


@pytest.mark.parametrize(
    ("pragma", "result"),
    [
        ("unroll", "unroll"),
        ("unroll 4", "unroll 4"),
        ("unroll(4)", "unroll 4"),
        ("clang loop unroll(full)", "unroll"),
        ("clang loop unroll_count(8)", "unroll 8"),
        ("clang loop unroll(disable)", "unroll 1"),
        ('clang diagnostic ignored "-Wall"', None),
        ("METAL internals", None),
    ],
)
def test_pragmas(pragma: str, result: str | None) -> None:
    text = translate(parse(f"kernel void k() {{\n#pragma {pragma}\nfor (;;) {{}}\n}}\n"))
    assert re.findall(r"#pragma (.*)", text) == ([result] if result else [])
    assert re.search(r'#line 3 "source.metal"\n *for' if result else "for", text)


def lines_of(text: str) -> list[tuple[str, int]]:
    """Return words of translated text with the line a compiler would give them."""
    found: list[tuple[str, int]] = []
    line = 0
    for row in text.split("\n"):
        mark = re.match(r"#line (\d+)", row)
        if mark:
            line = int(mark[1])
            continue
        found += [(word, line) for word in re.findall(r"w\d+", row)]
        line += 1
    return found


@settings(deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 30), st.sampled_from(["w{} = 1;", "if (w{}) {{ }}", "/* \n\n */ w{}++;", "M(w{});"])),
        max_size=25,
    )
)
def test_every_token_keeps_its_line(pieces: list[tuple[int, str]]) -> None:
    text = "#define M(x) do { \\\n x += 1; } while (0)\nkernel void k() {\n"
    expected: list[tuple[str, int]] = []
    for number, (blank, form) in enumerate(pieces):
        text += "\n" * blank
        made = form.format(number)
        at = text.count("\n") + 1 + made[: made.index("w")].count("\n")
        text += made
        expected.append((f"w{number}", at))
    translated = translate(parse(text + "\n}\n"))
    assert lines_of(translated) == expected
    assert tokenize(translated)
