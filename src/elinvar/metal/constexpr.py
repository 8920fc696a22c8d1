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
_INTEGER_TYPES = {"int", "uint", "short", "ushort", "char", "uchar", "long", "ulong", "size_t", "bool", "unsigned"}
_INTEGER_TYPES |= {f"{u}int{n}_t" for u in ("", "u") for n in (8, 16, 32, 64)}


class _Unknown(Exception):
    pass


class _Parser:
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
        token = self.peek()
        if not token or (wanted is not None and token != wanted):
            raise _Unknown
        self.at += 1
        return token

    def ternary(self) -> int:
        condition = self.binary(1)
        if self.peek() != "?":
            return condition
        self.take()
        yes = self.ternary()
        self.take(":")
        no = self.ternary()
        return yes if condition else no

    def binary(self, level: int) -> int:
        left = self.unary()
        while (entry := _BINARY.get(self.peek())) is not None and entry[0] >= level:
            sign = self.take()
            right = self.binary(entry[0] + 1)
            if sign in "/%" and right == 0:
                raise _Unknown
            left = int(entry[1](left, right))
        return left

    def unary(self) -> int:
        word = self.take()
        if word in {"-", "+", "!", "~"}:
            inner = self.unary()
            return {"-": -inner, "+": inner, "!": int(not inner), "~": ~inner}[word]
        if word == "(":
            if self.peek() in _INTEGER_TYPES and self.tokens[self.at + 1 : self.at + 2] == [")"]:
                self.at += 2
                return self.unary()
            inner = self.ternary()
            self.take(")")
            return inner
        if word == "sizeof":
            return self.sizeof()
        if word in _INTEGER_TYPES:
            self.take("(")
            inner = self.ternary()
            self.take(")")
            return inner
        if word[0].isdigit():
            return _number(word)
        if word[0] == "'" and len(word) == 3:
            return ord(word[1])
        if word in {"true", "false"}:
            return int(word == "true")
        while self.peek() == "::":
            self.take()
            word = self.take()
        value = self.value_of(word)
        if value is None:
            raise _Unknown
        return value

    def sizeof(self) -> int:
        self.take("(")
        inside: list[str] = []
        while self.peek() != ")":
            inside.append(self.take())
        self.take(")")
        size = self.size_of(inside)
        if size is None:
            raise _Unknown
        return size


def _number(text: str) -> int:
    digits = text.replace("'", "").rstrip("uUlL")
    try:
        if digits.startswith("0") and digits.isdigit():
            return int(digits, 8)
        return int(digits, 0)
    except ValueError:
        raise _Unknown from None


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
    except (_Unknown, RecursionError):
        return None
    return value if parser.at == len(parser.tokens) else None
