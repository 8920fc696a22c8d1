"""Reads declarations from preprocessed Metal text.

This is not a C++ front end. It follows scopes and declarations, which is all that signatures and layouts need; bodies
of functions stay token ranges. What it does not understand it skips, and reports where a kernel needs it.
"""

from __future__ import annotations

from collections.abc import Sequence

from .declarations import (
    CLOSING,
    Declarations,
    Function,
    Instantiation,
    Shared,
    dimensions,
    match,
    match_angle,
    split,
    type_end,
)
from .lexer import Token, fail

__all__ = ["read"]


class _Reader:
    def __init__(self, tokens: list[Token]) -> None:
        self.tokens = tokens
        self.found = Declarations(tokens)

    def scope(self, index: int, end: int, prefix: str) -> None:
        while index < end:
            index = self.declaration(index, end, prefix)

    def declaration(self, index: int, end: int, prefix: str) -> int:
        tokens = self.tokens
        token = tokens[index]
        if token.kind == "pragma" or token.text in {";", "}"}:
            return index + 1
        if token.text in {"namespace", "extern"} and (opened := self.block(index, end)) is not None:
            name = tokens[index + 1].text if token.text == "namespace" else "{"
            inner = prefix if name == "{" or tokens[index + 1].kind == "string" else f"{prefix}{name}::"
            close = match(tokens, opened)
            self.scope(opened + 1, close, inner)
            return close + 1
        if token.text == "template":
            return self.template(index, end, prefix)
        return self.plain(index, index, end, prefix, None)

    def block(self, index: int, end: int) -> int | None:
        """Return where ``namespace x {`` or ``extern "C" {`` opens; None when it is something else."""
        stop = index + 1
        while stop < end and (self.tokens[stop].kind in {"name", "string"} or self.tokens[stop].text == "::"):
            stop += 1
        return stop if stop < end and self.tokens[stop].text == "{" and stop <= index + 2 else None

    def template(self, index: int, end: int, prefix: str) -> int:
        tokens = self.tokens
        if tokens[index + 1].text != "<":
            stop = self.past_statement(index, end)
            self.instantiation(index, stop)
            return stop
        params: list[str] = []
        start = index
        while tokens[start].text == "template" and tokens[start + 1].text == "<":
            close = match_angle(tokens, start + 1)
            for part in split(tokens[start + 2 : close]):
                params.append(_param_name(part))
                if part[0].text in {"typename", "class"}:
                    self.found.type_names.add(params[-1])
            start = close + 1
        return self.plain(start, index, end, prefix, tuple(name for name in params if name))

    def instantiation(self, index: int, stop: int) -> None:
        tokens = self.tokens
        host = next((i for i in range(index, stop) if tokens[i].text == "host_name"), None)
        angle = next((i for i in range(stop - 1, index, -1) if tokens[i].text in {">", ">>"}), None)
        if host is None or angle is None:
            return
        opened = next((i for i in range(index, stop) if tokens[i].text == "<" and tokens[i - 1].kind == "name"), None)
        if opened is None:
            return
        close = match_angle(tokens, opened)
        arguments = tuple(tuple(part) for part in split(tokens[opened + 1 : close]))
        name = tokens[host + 2].text.strip('"')
        joined = host + 3
        while tokens[joined].kind == "string":  # "a" "b" is one string
            name += tokens[joined].text.strip('"')
            joined += 1
        self.found.instantiations.append(Instantiation(name, tokens[opened - 1].text, arguments, (index, stop)))

    def past_statement(self, index: int, end: int) -> int:
        tokens = self.tokens
        start = index
        while index < end and tokens[index].text != ";":
            index = match(tokens, index) + 1 if tokens[index].text in CLOSING else index + 1
        if index >= end:
            raise fail(tokens[start], f"the declaration that starts with {tokens[start].text!r} has no ';'")
        return index + 1

    def plain(self, index: int, first: int, end: int, prefix: str, template: tuple[str, ...] | None) -> int:
        """Read one declaration whose specifiers start at `index`; return the index past it."""
        tokens = self.tokens
        word = tokens[index].text
        if word == "using":
            stop = self.past_statement(index, end)
            if tokens[index + 2].text == "=":
                self.found.aliases[tokens[index + 1].text] = (template or (), tuple(tokens[index + 3 : stop - 1]))
            return stop
        if word == "typedef":
            return self.typedef(index, end)
        if word in {"struct", "class", "union", "enum"} and (past := self.record(index, end, template)) is not None:
            return past
        return self.function_or_variable(index, first, end, prefix, template)

    def typedef(self, index: int, end: int) -> int:
        tokens = self.tokens
        stop = self.past_statement(index, end)
        name = tokens[stop - 2].text
        if tokens[index + 1].text in {"struct", "union", "enum"}:
            opened = next((i for i in range(index, stop) if tokens[i].text == "{"), None)
            if opened is not None:
                self.body_of(name, tokens[index + 1].text, opened, ())
                return stop
        self.found.aliases[name] = ((), tuple(tokens[index + 1 : stop - 2]))
        return stop

    def body_of(self, name: str, word: str, opened: int, template: tuple[str, ...]) -> int:
        close = match(self.tokens, opened)
        if word == "enum":
            self.enumerators(opened + 1, close)
            self.found.aliases.setdefault(name, ((), (Token("name", "int", 0),)))
        else:
            self.found.structs[name] = (template, (opened + 1, close), word == "union")
        return close

    def record(self, index: int, end: int, template: tuple[str, ...] | None) -> int | None:
        """Read ``struct X {...};`` and its kin; None when this is a declaration that merely starts with the word."""
        tokens = self.tokens
        word = tokens[index].text
        at = index + 1
        while tokens[at].text in {"class", "struct", "["} or tokens[at].text in {"alignas", "__attribute__"}:
            at = match(tokens, at) + 1 if tokens[at].text == "[" else at + 1
            if tokens[at].text == "(":
                at = match(tokens, at) + 1
        name = tokens[at].text if tokens[at].kind == "name" else ""
        opened = at
        while opened < end and tokens[opened].text not in {"{", ";", "(", "="}:
            opened += 1
        if opened >= end or tokens[opened].text != "{":
            return None
        close = match(tokens, opened)
        specialised = name and tokens[at + 1].text == "<"
        if name:
            self.found.bodies.setdefault(name, []).append((opened + 1, close))
        if name and not specialised:
            self.body_of(name, word, opened, template or ())
            aligned = any(t.text in {"alignas", "packed", "aligned"} for t in tokens[index:at])
            if aligned and word != "enum":  # its layout is the compiler's business
                self.found.structs.pop(name)
        elif word == "enum":
            self.enumerators(opened + 1, close)
        return self.past_statement(close, end)

    def enumerators(self, start: int, end: int) -> None:
        previous: tuple[Token, ...] = (Token("number", "-1", 0),)
        for part in split(self.tokens[start:end]):
            if not part:
                continue
            value = tuple(part[2:]) if len(part) > 2 and part[1].text == "=" else ()
            if not value:
                value = (Token("mark", "(", 0), *previous, Token("mark", ")", 0), Token("mark", "+", 0))
                value += (Token("number", "1", 0),)
            self.found.constants[part[0].text] = previous = value

    def function_or_variable(
        self, index: int, first: int, end: int, prefix: str, template: tuple[str, ...] | None
    ) -> int:
        tokens = self.tokens
        at = index
        attributes: dict[str, list[Token]] = {}
        params: tuple[int, int] | None = None
        name = specialised = ""
        assigned: int | None = None
        while at < end and tokens[at].text not in {";", "{"}:
            text = tokens[at].text
            if text == "[" and tokens[at + 1].text == "[":
                close = match(tokens, at)
                for part in split(tokens[at + 2 : close - 1]):
                    attributes[part[0].text] = part[2:-1]
                at = close + 1
            elif text == "<" and tokens[at - 1].kind == "name" and assigned is None:
                close = match_angle(tokens, at)
                specialised = tokens[at - 1].text if tokens[close + 1].text == "(" else ""
                at = close + 1
            elif text == "(":
                close = match(tokens, at)
                before = tokens[at - 1]
                if params is None and assigned is None and before.text not in {"__attribute__", "alignas", "decltype"}:
                    params, name = (at + 1, close), specialised or before.text
                at = close + 1
            elif text in CLOSING:
                at = match(tokens, at) + 1
            else:
                if text == "=" and assigned is None:
                    assigned = at
                at += 1
        if at < end and tokens[at].text == "{" and params is not None and assigned is None:
            close = match(tokens, at)
            words = {t.text for t in tokens[index : params[0]]}
            kernel = bool(words & {"kernel", "__kernel"}) or "kernel" in attributes
            function = Function(
                name, prefix + name, index, (first, index), params, (at + 1, close), kernel, template, attributes
            )
            function.shared = list(_shared(tokens, at + 1, close, kernel=kernel))
            self.found.functions.append(function)
            self.found.bodies.setdefault(name, []).append(function.body)
            return close + 1
        stop = self.past_statement(index, end)
        if params is None:
            self.variable(index, assigned, stop, attributes)
        return stop

    def is_variable(self, index: int, stop: int) -> bool:
        """Tell whether this statement at program scope is ``type name = ...;``, ``type name[...];``, ``type name;``."""
        if self.tokens[index].text in {"struct", "class", "union", "enum", "friend", "static_assert", "namespace"}:
            return False
        after = type_end(self.tokens, index)
        named = after + 1 < stop and self.tokens[after].kind == "name"
        return named and self.tokens[after + 1].text in {"=", "[", ";", "{", ","}

    def variable(self, index: int, assigned: int | None, stop: int, attributes: dict[str, list[Token]]) -> None:
        tokens = self.tokens
        if "function_constant" in attributes:
            raise fail(tokens[index], "function constants are refused on every device; pass defines={...} instead")
        words = {t.text for t in tokens[index : assigned or stop]}
        if words & {"threadgroup"}:
            raise fail(tokens[index], "a threadgroup variable can only be declared inside a kernel")
        if self.is_variable(index, stop) and "constant" not in words:
            raise fail(
                tokens[index], "a variable at program scope must be in the constant address space: say `constant`"
            )
        self.found.program_constants |= {i for i in range(index, assigned or stop) if tokens[i].text == "constant"}
        if assigned is not None and words & {"constant", "constexpr", "const"} and tokens[assigned - 1].kind == "name":
            self.found.constants[tokens[assigned - 1].text] = tuple(tokens[assigned + 1 : stop - 1])


def _param_name(part: Sequence[Token]) -> str:
    cut = next((i for i, t in enumerate(part) if t.text == "="), len(part))
    names = [t.text for t in part[:cut] if t.kind == "name"]
    return names[-1] if len(names) > 1 else ""


def _shared(tokens: Sequence[Token], start: int, end: int, *, kernel: bool) -> list[Shared]:
    found: list[Shared] = []
    for index in range(start, end):
        if tokens[index].text != "threadgroup":
            continue
        first = index
        while tokens[first - 1].text in {"const", "volatile", "static"}:
            first -= 1
        if tokens[first - 1].text not in {"{", "}", ";", ")", ":"} and tokens[first - 1].kind != "pragma":
            continue
        after = type_end(tokens, first)
        if after >= end or tokens[after].kind != "name":
            continue  # a pointer or reference into threadgroup memory
        if not kernel:
            raise fail(tokens[index], "a threadgroup variable can only be declared in a kernel; pass a pointer to it")
        names = []
        at = after
        while tokens[at].kind == "name":
            dims, past = dimensions(tokens, at + 1)
            names.append((at, tuple(dims)))
            if tokens[past].text == "=" or tokens[past].text == "{":
                raise fail(tokens[at], f"threadgroup variable {tokens[at].text} cannot have an initialiser")
            at = past + 1
            if tokens[past].text != ",":
                break
        found.append(Shared((first, at), (first, after), tuple(names)))
    return found


def read(tokens: list[Token]) -> Declarations:
    """Return what preprocessed Metal text declares.

    Raises
    ------
    MetalSyntaxError
        For unbalanced brackets, function constants, and threadgroup variables outside kernels.
    """
    reader = _Reader(tokens)
    reader.scope(0, len(tokens), "")
    return reader.found
