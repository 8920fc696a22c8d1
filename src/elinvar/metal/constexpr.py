"""Integer constant expressions, from tokens: preprocessor conditions and the sizes of threadgroup arrays."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence

__all__ = ["evaluate"]


def _divide(a: int, b: int) -> int:
    quotient = abs(a) // abs(b)
    return quotient if (a < 0) == (b < 0) else -quotient


_BINARY: dict[str, tuple[int, Callable[[int, int], int]]] = {
    "*": (10, operator.mul),
    "/": (10, _divide),
    "%": (10, lambda a, b: a - _divide(a, b) * b),
    "+": (9, operator.add),
    "-": (9, operator.sub),
    "<<": (8, operator.lshift),
    ">>": (8, operator.rshift),
    "<": (7, operator.lt),
    ">": (7, operator.gt),
    "<=": (7, operator.le),
    ">=": (7, operator.ge),
    "==": (6, operator.eq),
    "!=": (6, operator.ne),
    "&": (5, operator.and_),
    "^": (4, operator.xor),
    "|": (3, operator.or_),
    "&&": (2, lambda a, b: int(bool(a) and bool(b))),
    "||": (1, lambda a, b: int(bool(a) or bool(b))),
}
_UNARY: dict[str, Callable[[int], int]] = {
    "-": operator.neg,
    "+": operator.pos,
    "!": lambda a: int(not a),
    "~": operator.invert,
}
_INTEGER_TYPES = {"int", "uint", "short", "ushort", "char", "uchar", "long", "ulong", "size_t", "bool", "unsigned"}
_INTEGER_TYPES |= {f"{u}int{n}_t" for u in ("", "u") for n in (8, 16, 32, 64)}
_LARGEST_SHIFT = 64


class _NotAnExpression(Exception):
    pass


class _Parser:
    """Values are None where they are unknown; ``0 && unknown`` is 0 all the same."""

    def __init__(
        self,
        tokens: Sequence[str],
        value_of: Callable[[str], int | None],
        size_of: Callable[[Sequence[str]], int | None],
    ) -> None:
        self.tokens = tokens
        self.at = 0
        self.value_of = value_of
        self.size_of = size_of

    def peek(self) -> str:
        return self.tokens[self.at] if self.at < len(self.tokens) else ""

    def take(self, wanted: str | None = None) -> str:
        word = self.peek()
        if not word or (wanted is not None and word != wanted):
            raise _NotAnExpression
        self.at += 1
        return word

    def ternary(self) -> int | None:
        condition = self.binary(1)
        if self.peek() != "?":
            return condition
        self.take()
        yes = self.ternary()
        self.take(":")
        no = self.ternary()
        return None if condition is None else yes if condition else no

    def binary(self, level: int) -> int | None:
        left = self.unary()
        while (entry := _BINARY.get(self.peek())) is not None and entry[0] >= level:
            sign = self.take()
            left = _combine(sign, left, self.binary(entry[0] + 1))
        return left

    def unary(self) -> int | None:
        word = self.take()
        if word in _UNARY:
            inner = self.unary()
            return None if inner is None else _UNARY[word](inner)
        if word == "(":
            if self.peek() in _INTEGER_TYPES and self.tokens[self.at + 1 : self.at + 2] == [")"]:
                self.at += 2
                return self.unary()
            return self.closed()
        if word == "sizeof":
            return self.sizeof()
        if word in _INTEGER_TYPES:
            self.take("(")
            return self.closed()
        if word[0].isdigit():
            return _number(word)
        if word[0] == "'" and len(word) == 3:
            return ord(word[1])
        if word in {"true", "false"}:
            return int(word == "true")
        if not (word[0].isalpha() or word[0] == "_"):
            raise _NotAnExpression
        while self.peek() == "::":
            self.take()
            word = self.take()
        return self.value_of(word)

    def closed(self) -> int | None:
        inner = self.ternary()
        self.take(")")
        return inner

    def sizeof(self) -> int | None:
        self.take("(")
        inside: list[str] = []
        while self.peek() != ")":
            inside.append(self.take())
        self.take(")")
        return self.size_of(inside)


def _combine(sign: str, left: int | None, right: int | None) -> int | None:
    if sign in {"&&", "||"}:
        decided = int(sign == "||")
        if left is not None and bool(left) == bool(decided):
            return decided
    if left is None or right is None or (sign in "/%" and right == 0):
        return None
    if sign in {"<<", ">>"} and not 0 <= right < _LARGEST_SHIFT:
        return None
    return int(_BINARY[sign][1](left, right))


def _number(text: str) -> int:
    digits = text.replace("'", "").rstrip("uUlL")
    try:
        if digits.startswith("0") and digits.isdigit():
            return int(digits, 8)
        return int(digits, 0)
    except ValueError:
        raise _NotAnExpression from None


def evaluate(
    tokens: Sequence[str],
    value_of: Callable[[str], int | None],
    size_of: Callable[[Sequence[str]], int | None] = lambda _: None,
) -> int | None:
    """Return the value of an integer constant expression, or None when it is not one.

    Parameters
    ----------
    tokens
        The expression's tokens.
    value_of
        Gives the value of a name, or None.
    size_of
        Gives the size in bytes of a type's tokens, or None.
    """
    parser = _Parser(list(tokens), value_of, size_of)
    try:
        value = parser.ternary()
    except (_NotAnExpression, RecursionError):
        return None
    return value if parser.at == len(parser.tokens) else None
