"""Declarations in preprocessed Metal text: functions, structs, constants, aliases, instantiations.

This is not a C++ front end. It follows scopes and declarations, which is all that signatures and layouts need; bodies
of functions stay token ranges. What it does not understand it skips, and reports where a kernel needs it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from . import types
from .constexpr import evaluate
from .lexer import Token, fail
from .types import Type

__all__ = ["Declarations", "Function", "Instantiation", "Shared", "match", "read", "split", "type_end"]

Environment = Mapping[str, "Type | int"]
CLOSING = {"(": ")", "[": "]", "{": "}"}
QUALIFIERS = frozenset(
    {"const", "volatile", "restrict", "__restrict", "__restrict__", "device", "constant", "thread", "threadgroup"}
    | {"coherent", "static", "inline", "constexpr", "extern", "struct", "class", "union", "enum", "typename"}
    | {"register", "mutable", "kernel", "explicit", "friend"}
)
_MULTIWORD = frozenset({"unsigned", "signed", "long", "short", "int", "char"})


@dataclass(frozen=True)
class Shared:
    """A threadgroup variable declared in a kernel: ``threadgroup <type> <name><dims>;``."""

    statement: tuple[int, int]  # tokens [first, past the semicolon)
    type: tuple[int, int]
    names: tuple[tuple[int, tuple[tuple[int, int], ...]], ...]  # (name's index, ranges between each pair of brackets)


@dataclass
class Function:
    """A function with a body, by ranges of tokens."""

    name: str
    qualified: str
    start: int  # first token of the declaration, after any template<...>
    params: tuple[int, int]  # between the parentheses
    body: tuple[int, int]  # between the braces
    is_kernel: bool
    template: tuple[str, ...] | None
    attributes: dict[str, list[Token]]
    shared: list[Shared] = field(default_factory=list)


@dataclass(frozen=True)
class Instantiation:
    """``template [[host_name("x")]] kernel void f<float>(...);``"""

    host_name: str
    function: str
    arguments: tuple[tuple[Token, ...], ...]
    span: tuple[int, int]


@dataclass
class Declarations:
    """Everything declared at namespace scope."""

    tokens: list[Token]
    functions: list[Function] = field(default_factory=list)
    structs: dict[str, tuple[tuple[str, ...], tuple[int, int], bool]] = field(default_factory=dict)
    aliases: dict[str, tuple[tuple[str, ...], tuple[Token, ...]]] = field(default_factory=dict)
    constants: dict[str, tuple[Token, ...]] = field(default_factory=dict)
    instantiations: list[Instantiation] = field(default_factory=list)
    program_constants: set[int] = field(default_factory=set)  # tokens ``constant`` that declare a variable
    _busy: set[str] = field(default_factory=set)

    def constant(self, name: str, env: Environment) -> int | None:
        """Return the value of an integer constant, template parameter or enumerator; None when there is none."""
        bound = env.get(name)
        if isinstance(bound, int):
            return bound
        if name not in self.constants or name in self._busy:
            return None
        self._busy.add(name)
        try:
            return self.integer(self.constants[name], env)
        finally:
            self._busy.discard(name)

    def integer(self, tokens: Sequence[Token], env: Environment) -> int | None:
        """Return the value of an integer constant expression; None when it is not one."""

        def size_of(words: Sequence[str]) -> int | None:
            found = self.resolve([Token("name" if w[0].isalpha() else "mark", w, 0) for w in words], env)
            return None if found is None else found.size

        return evaluate([t.text for t in tokens], lambda name: self.constant(name, env), size_of)

    def resolve(self, tokens: Sequence[Token], env: Environment) -> Type | None:
        """Return the type that `tokens` name (qualifiers ignored, no pointers); None when it is unknown."""
        words = [t for t in tokens if t.text not in QUALIFIERS and t.kind != "pragma"]
        while len(words) > 2 and words[1].text == "::":
            words = words[2:]
        if words and words[0].text == "::":
            return self.resolve(words[1:], env)
        if not words:
            return None
        name = words[0].text
        if len(words) > 1 and words[1].text != "<":
            return types.builtin(" ".join(w.text for w in words))
        if len(words) > 1:
            return self._templated(name, split(words[2 : match_angle(words, 1)]), env)
        bound = env.get(name)
        if isinstance(bound, Type):
            return bound
        if name in self.structs:
            return self.struct_type(name)
        if name in self.aliases and name not in self._busy:
            self._busy.add(name)
            try:
                return self.resolve(self.aliases[name][1], env)
            finally:
                self._busy.discard(name)
        return types.builtin(name)

    def bind(
        self, params: Sequence[str], arguments: Sequence[Sequence[Token]], env: Environment
    ) -> dict[str, Type | int]:
        """Return template parameters bound to what the argument tokens mean."""
        bound: dict[str, Type | int] = {}
        for param, argument in zip(params, arguments, strict=False):
            value = self.resolve(argument, env) or self.integer(argument, env)
            if value is not None:
                bound[param] = value
        return bound

    def _templated(self, name: str, arguments: list[list[Token]], env: Environment) -> Type | None:
        if name in self.aliases:
            params, body = self.aliases[name]
            return self.resolve(body, {**env, **self.bind(params, arguments, env)})
        if name in self.structs:
            return self.struct_type(name, self.bind(self.structs[name][0], arguments, env))
        values = [self.resolve(a, env) or self.integer(a, env) for a in arguments]
        return types.templated(name, values)

    def struct_type(self, name: str, env: Environment | None = None) -> Type | None:
        """Return a struct's layout, or None when a member's type or size cannot be worked out."""
        params, (start, end), union = self.structs[name]
        key = f"struct {name}"
        if key in self._busy or (params and env is None):
            return None
        self._busy.add(key)
        try:
            members = _members(self, start, end, env or {})
        finally:
            self._busy.discard(key)
        return None if members is None else types.layout(name, members, union=union)


def match(tokens: Sequence[Token], start: int) -> int:
    """Return the index of the bracket that closes the one at `start`."""
    stack: list[str] = []
    for index in range(start, len(tokens)):
        text = tokens[index].text
        if text in CLOSING and tokens[index].kind == "mark":
            stack.append(CLOSING[text])
        elif text in {")", "]", "}"} and tokens[index].kind == "mark":
            if text != stack.pop():
                raise fail(tokens[index], f"this {text!r} closes nothing")
            if not stack:
                return index
    raise fail(tokens[start], f"this {tokens[start].text!r} is never closed")


def match_angle(tokens: Sequence[Token], start: int) -> int:
    """Return the index of the ``>`` that closes the ``<`` at `start` (a ``>>`` may close two)."""
    depth, index = 0, start
    while index < len(tokens):
        text = tokens[index].text
        if text in CLOSING:
            index = match(tokens, index)
        elif text == "<":
            depth += 1
        elif text in {">", ">>"}:
            depth -= len(text)
            if depth <= 0:
                return index
        elif text in {";", "{"}:
            break
        index += 1
    raise fail(tokens[start], "this '<' is never closed")


def split(tokens: Sequence[Token], separator: str = ",") -> list[list[Token]]:
    """Split at top-level commas (brackets of all four kinds protect theirs)."""
    parts: list[list[Token]] = [[]]
    depth = 0
    for token in tokens:
        if token.text in {"(", "[", "{", "<"}:
            depth += 1
        elif token.text in {")", "]", "}", ">"}:
            depth -= 1
        elif token.text == ">>":
            depth -= 2
        if token.text == separator and depth == 0:
            parts.append([])
        else:
            parts[-1].append(token)
    return parts if parts != [[]] else []


def type_end(tokens: Sequence[Token], start: int) -> int:
    """Return the index just past a type (qualifiers, name, template arguments) that begins at `start`."""
    index = start
    seen = False
    while index < len(tokens):
        token = tokens[index]
        if token.text in QUALIFIERS or (token.text == "::" and not seen):
            index += 1
        elif token.kind == "name" and token.text in _MULTIWORD and (not seen or tokens[index - 1].text in _MULTIWORD):
            seen = True
            index += 1
        elif token.kind == "name" and not seen:
            seen = True
            index += 1
            while index + 1 < len(tokens) and tokens[index].text == "::" and tokens[index + 1].kind == "name":
                index += 2
            if index < len(tokens) and tokens[index].text == "<":
                index = match_angle(tokens, index) + 1
                if index + 1 < len(tokens) and tokens[index].text == "::" and tokens[index + 1].kind == "name":
                    index += 2
        else:
            break
    return index


def _dims(tokens: Sequence[Token], index: int) -> tuple[list[tuple[int, int]], int]:
    found = []
    while index < len(tokens) and tokens[index].text == "[" and tokens[index + 1].text != "[":
        close = match(tokens, index)
        found.append((index + 1, close))
        index = close + 1
    return found, index


def _members(known: Declarations, start: int, end: int, env: Environment) -> list[tuple[str, Type]] | None:
    """Return the data members of a struct body, or None when one of them has no known layout."""
    tokens, index = known.tokens, start
    members: list[tuple[str, Type]] = []
    while index < end:
        stop = index
        called = False
        while stop < end and tokens[stop].text not in {";", "{"}:
            called = called or tokens[stop].text == "("
            stop = match(tokens, stop) + 1 if tokens[stop].text in CLOSING else stop + 1
        first = tokens[index].text
        if stop < end and tokens[stop].text == "{":
            stop = match(tokens, stop)
            if not called and first not in {"struct", "class", "union", "enum"}:
                return None
            if first in {"struct", "class", "union"} and tokens[stop + 1].text != ";":
                return None
        elif first not in {"static", "using", "typedef", "template", "friend", ";"} and not called:
            found = _member(known, index, stop, env)
            if found is None:
                return None
            members.extend(found)
        index = stop + 1
        if index < end and tokens[index - 1].text in {"public", "private"}:
            index += 1
    return members


def _member(known: Declarations, start: int, stop: int, env: Environment) -> list[tuple[str, Type]] | None:
    tokens = known.tokens
    index = type_end(tokens, start)
    kind = known.resolve(tokens[start:index], env)
    found: list[tuple[str, Type]] = []
    while kind is not None and index < stop and tokens[index].kind == "name":
        name = tokens[index].text
        dims, index = _dims(tokens, index + 1)
        whole = kind
        for low, high in reversed(dims):
            count = known.integer(tokens[low:high], env)
            if count is None:
                return None
            whole = types.make_array(whole, count)
        found.append((name, whole))
        while index < stop and tokens[index].text == "[":  # [[id(0)]] and the like
            index = match(tokens, index) + 1
        if index < stop and tokens[index].text == "=":
            while index < stop and tokens[index].text != ",":
                index = match(tokens, index) + 1 if tokens[index].text in CLOSING else index + 1
        if index < stop and tokens[index].text == ",":
            index += 1
        elif index < stop:
            return None
    return found if kind is not None and index >= stop and found else None


# ---- namespace scope ------------------------------------------------------------------------------------------------
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
            params += [name for part in split(tokens[start + 2 : close]) if (name := _param_name(part))]
            start = close + 1
        return self.plain(start, index, end, prefix, tuple(params))

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
        return self.function_or_variable(index, end, prefix, template)

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

    def function_or_variable(self, index: int, end: int, prefix: str, template: tuple[str, ...] | None) -> int:
        tokens = self.tokens
        at = index
        attributes: dict[str, list[Token]] = {}
        params: tuple[int, int] | None = None
        name = ""
        assigned: int | None = None
        while at < end and tokens[at].text not in {";", "{"}:
            text = tokens[at].text
            if text == "[" and tokens[at + 1].text == "[":
                close = match(tokens, at)
                for part in split(tokens[at + 2 : close - 1]):
                    attributes[part[0].text] = part[2:-1]
                at = close + 1
            elif text == "<" and tokens[at - 1].kind == "name" and assigned is None:
                at = match_angle(tokens, at) + 1
            elif text == "(":
                close = match(tokens, at)
                before = tokens[at - 1]
                if params is None and assigned is None and before.text not in {"__attribute__", "alignas", "decltype"}:
                    params, name = (at + 1, close), before.text
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
            function = Function(name, prefix + name, index, params, (at + 1, close), kernel, template, attributes)
            function.shared = list(_shared(tokens, at + 1, close, kernel=kernel))
            self.found.functions.append(function)
            return close + 1
        stop = self.past_statement(index, end)
        if params is None:
            self.variable(index, assigned, stop, attributes)
        return stop

    def variable(self, index: int, assigned: int | None, stop: int, attributes: dict[str, list[Token]]) -> None:
        tokens = self.tokens
        if "function_constant" in attributes:
            raise fail(tokens[index], "function constants are refused on every device; pass defines={...} instead")
        words = {t.text for t in tokens[index : assigned or stop]}
        if words & {"threadgroup"}:
            raise fail(tokens[index], "a threadgroup variable can only be declared inside a kernel")
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
            dims, past = _dims(tokens, at + 1)
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
