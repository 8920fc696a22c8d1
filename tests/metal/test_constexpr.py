"""Integer constant expressions against Python's own arithmetic with C's rules for division."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from elinvar.metal.constexpr import evaluate
from elinvar.metal.lexer import tokenize


def value(text: str, **names: int) -> int | None:
    words = [t.text for t in tokenize(text) if t.kind != "newline"]
    return evaluate(words, names.get, lambda kind: {"float4": 16}.get("".join(kind)))


@pytest.mark.parametrize(
    ("text", "result"),
    [
        ("1 + 2 * 3 - 4 / 2", 5),
        ("-7 / 2", -3),
        ("-7 % 3", -1),
        ("1 << 2 + 1", 8),
        ("5 & 3 | 8 ^ 1", 9),
        ("1 < 2 == 1 && !0", 1),
        ("0 ? 1 : 1 ? 2 : 3", 2),
        ("~0 & 0xFFu", 255),
        ("(uint)7 + ushort(1)", 8),
        ("sizeof(float4) * N", 64),
        ("metal::deep::N", 4),
        ("true + 'A'", 66),
        ("0 && 1 / 0", 0),
        ("1 || unknown", 1),
        ("1 ? 2 : unknown", 2),
        ("unknown && 0", None),
        ("1 / 0", None),
        ("1 << 99999999999", None),
        ("unknown", None),
        ("1.5", None),
        ("f(1)", None),
        ("1 +", None),
        ("(1", None),
        ("sizeof(unknown)", None),
        ("", None),
    ],
)
def test_values(text: str, result: int | None) -> None:
    assert value(text, N=4) == result


@settings(deadline=None)
@given(
    st.recursive(
        st.integers(0, 99).map(str),
        lambda inner: st.tuples(inner, st.sampled_from("+-*&|^"), inner).map(lambda t: f"({t[0]} {t[1]} {t[2]})"),
        max_leaves=12,
    )
)
def test_agrees_with_python(text: str) -> None:
    assert value(text) == eval(text)
