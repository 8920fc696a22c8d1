"""What Apple's compiler asks of Metal and a C++ compiler does not: address spaces everywhere, no lambdas.

Without these a kernel could be green on the emulator and on NVIDIA and then not compile on a Mac.
"""

from __future__ import annotations

from .declarations import QUALIFIERS, Declarations, match, type_end
from .lexer import Token, fail
from .types import builtin
from .words import ADDRESS_SPACES

__all__ = ["check_rules"]

_BEFORE_A_TYPE = frozenset({"{", "}", ";", "(", ",", "<"})
_BEFORE_A_LAMBDA = frozenset({"=", "(", ",", "{", "}", ";", "?", ":", "return"})
_AFTER_A_POINTER = frozenset({")", ",", ">", "*", "&", "=", ";"})


def check_rules(known: Declarations) -> None:
    """Raise for the first pointer without an address space, and the first lambda.

    Raises
    ------
    MetalSyntaxError
        With file and line.
    """
    types = {*known.structs, *known.aliases, *known.type_names}
    tokens = known.tokens
    for index, token in enumerate(tokens):
        if token.text == "[":
            _refuse_lambda(tokens, index)
        elif token.kind == "name" and (token.text in types or builtin(token.text) is not None):
            _check_pointer(tokens, index)


def _refuse_lambda(tokens: list[Token], index: int) -> None:
    before = tokens[index - 1].text if index else ";"
    if before not in _BEFORE_A_LAMBDA or tokens[index + 1].text == "[":
        return
    after = match(tokens, index) + 1
    if tokens[after].text in {"(", "{"}:
        raise fail(tokens[index], "lambdas are refused on every device: Metal before 3.2 has none; write a function")


def _check_pointer(tokens: list[Token], index: int) -> None:
    """Check the declaration or cast whose type is named at `index`, if that is what stands there."""
    start = index
    while start and tokens[start - 1].text in QUALIFIERS | {"::", "metal"}:
        start -= 1
    if start and tokens[start - 1].text not in _BEFORE_A_TYPE and tokens[start - 1].kind != "pragma":
        return
    mark = type_end(tokens, start)
    if mark <= index or mark + 1 >= len(tokens) or tokens[mark].text not in {"*", "&"}:
        return
    after = tokens[mark + 1]
    declares = after.kind == "name" or after.text in _AFTER_A_POINTER
    if declares and not any(token.text in ADDRESS_SPACES for token in tokens[start:mark]):
        what = "pointer" if tokens[mark].text == "*" else "reference"
        raise fail(
            tokens[index],
            f"this {what} to {tokens[index].text} has no address space; in Metal every {what} says device, constant, "
            "threadgroup or thread",
        )
