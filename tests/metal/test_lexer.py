"""The preprocessor against what the C standard (6.10) and real kernels ask of it."""

from __future__ import annotations

import pytest

from elinvar.errors import MetalSyntaxError
from elinvar.metal.lexer import preprocess, tokenize


def expand(text: str, **defines: str) -> str:
    return " ".join(token.text for token in preprocess(text, defines))


def test_tokens() -> None:
    text = "a+=0x1F'00u*.5e-3f// c\n/* x\n */ b<<=1.5h->*\"s\\\"\" 'c' ...::\n"
    found = [(t.text, t.line) for t in tokenize(text) if t.kind != "newline"]
    assert [word for word, _ in found[:6]] == ["a", "+=", "0x1F'00u", "*", ".5e-3f", "b"]
    assert [word for word, _ in found[6:]] == ["<<=", "1.5h", "->", "*", '"s\\""', "'c'", "...", "::"]
    assert {line for _, line in found} == {1, 3}


def test_a_continued_line_is_one_line() -> None:
    tokens = preprocess("#define A 1 + \\\n 2\nA\nx \\\n y\n", {})
    assert [(t.text, t.line) for t in tokens] == [("1", 3), ("+", 3), ("2", 3), ("x", 4), ("y", 5)]


@pytest.mark.parametrize(
    ("text", "result"),
    [
        ("#define A B\n#define B A\nA B", "A B"),  # neither expands for ever
        ("#define f(x) x + f(x)\nf(f(1))", "1 + f ( 1 ) + f ( 1 + f ( 1 ) )"),
        ("#define f(x) <x>\n#define g f\ng(1) g f", "< 1 > f f"),
        ("#define f() z\nf() f ()", "z z"),
        ("#define f(a, b) b a\nf((1, 2), 3) f(,) f([4, 5], 6)", "MACRO"),
        ("#define cat(a, b) a ## b\ncat(x, 1) cat(, y) cat(1, .5f)", "x1 y 1.5f"),
        ('#define str(x) #x\nstr(a  +"b")', '"a +\\"b\\""'),
        ("#define s(x) #x\n#define e(x) s(x)\n#define N 3\ns(N) e(N)", '"N" "3"'),
        ("#define v(f, ...) f(__VA_ARGS__)\nv(g) v(g, 1, 2)", "g ( ) g ( 1 , 2 )"),
        ("#define v(f, ...) f(0, ##__VA_ARGS__)\nv(g) v(g, 1)", "g ( 0 ) g ( 0 , 1 )"),
        ("#define N 4\n#undef N\nN", "N"),
        ("#define T(x) x __LINE__\n\nT(a\n)", "a 3"),
        ("#define EMPTY\nEMPTY x EMPTY", "x"),
    ],
)
def test_macros(text: str, result: str) -> None:
    if result == "MACRO":
        with pytest.raises(MetalSyntaxError, match="takes 2 arguments, 3 given"):
            expand(text + "\n")
    else:
        assert expand(text + "\n") == result


@pytest.mark.parametrize(
    ("condition", "truth"),
    [
        ("1", True),
        ("0 || N > 3 && !defined(M)", True),
        ("defined N && defined(N)", True),
        ("UNKNOWN", False),
        ("(N << 1) == 0x8 ? 0 : 1", False),
        ("-1 < 0u", True),
        ("07 / 2 * 2 % 4 == 2", True),
        ("__METAL_VERSION__ >= 310", True),
        ("'a' == 97", True),
        ("__has_include(<metal_tensor>)", False),
        ("twice(2) == N", True),
    ],
)
def test_conditions(condition: str, truth: bool) -> None:
    text = f"#define N 4\n#define twice(x) (2 * (x))\n#if {condition}\nyes\n#else\nno\n#endif\n"
    assert expand(text) == ("yes" if truth else "no")


def test_nested_conditions_and_elif() -> None:
    text = """#if defined(A)
a
# if B == 1
b1
# elif B == 2
b2
# else
b
# endif
#elif defined(C) && 1 / 0
never
#else
z
#endif
"""
    assert expand(text, A="1", B="2") == "a b2"
    assert expand(text, A="1", B="7") == "a b"
    assert expand(text) == "z"
    with pytest.raises(MetalSyntaxError, match=r":10: .*not an integer"):
        expand(text, C="1")


def test_directives_in_skipped_branches_are_not_obeyed() -> None:
    assert expand("#if 0\n#error no\n#include <vector>\n#define N 1\n#nonsense\n#endif\nN\n") == "N"


def test_pragmas_survive_in_place() -> None:
    tokens = preprocess('#pragma unroll\nfor\n#define U _Pragma("clang loop unroll(full)")\nU do\n', {})
    assert [(t.kind, t.text, t.line) for t in tokens if t.kind == "pragma"] == [
        ("pragma", "unroll", 1),
        ("pragma", "clang loop unroll(full)", 4),
    ]


def test_line_directives_move_lines_and_files() -> None:
    tokens = preprocess('a\n#line 40 "other.h"\nb\nc\n#line 7\nd\n', {})
    assert [(t.text, t.line, t.file) for t in tokens] == [
        ("a", 1, ""),
        ("b", 40, "other.h"),
        ("c", 41, "other.h"),
        ("d", 7, "other.h"),
    ]


def test_torchs_own_headers_are_there() -> None:
    text = expand("#include <c10/metal/atomic.h>\n#include <c10/metal/atomic.h>\nx\n")
    assert text.count("struct AtomicType < float >") == 1
    assert text.endswith("x")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("#define\n", "1: #define needs a name"),
        ("#define f(x\n", "1: the parameter list of macro f"),
        ("#define f(x) x\nf(1\n", "2: the call of macro f"),
        ("#else\n", "1: #else without"),
        ("#if\n#endif\n", "1: #if needs"),
        ("#if 1 +\n#endif\n", "1: this #if condition"),
        ("#elephant\n", "1: #elephant"),
        ("#define c(a, b) a ## b\nc(+, x)\n", "2: ## cannot join"),
        ('x "y\n', "never closed"),
        ("x @\n", "'@'"),
    ],
)
def test_errors(text: str, says: str) -> None:
    with pytest.raises(MetalSyntaxError) as caught:
        expand(text)
    assert says in str(caught.value)
