"""What a Metal text declares, and what its types mean: functions, structs, constants, aliases, instantiations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from . import types
from .constexpr import evaluate
from .lexer import Token, fail
from .types import Type

__all__ = [
    "CLOSING",
    "QUALIFIERS",
    "Declarations",
    "Environment",
    "Function",
    "Instantiation",
    "Shared",
    "dimensions",
    "match",
    "match_angle",
    "split",
    "type_end",
]

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
    head: tuple[int, int]  # the template<...> before it
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
    bodies: dict[str, list[tuple[int, int]]] = field(
        default_factory=dict
    )  # of functions and structs, specialised or not
    aliases: dict[str, tuple[tuple[str, ...], tuple[Token, ...]]] = field(default_factory=dict)
    constants: dict[str, tuple[Token, ...]] = field(default_factory=dict)
    instantiations: list[Instantiation] = field(default_factory=list)
    type_names: set[str] = field(default_factory=set)  # type parameters of templates
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

    def holds_pointer(self, name: str) -> bool:
        """Tell whether a struct has a member that points to device or constant memory."""
        if name not in self.structs:
            return False
        start, end = self.structs[name][1]
        spaces = [i for i in range(start, end) if self.tokens[i].text in {"device", "constant"}]
        return any(self.tokens[type_end(self.tokens, i)].text in {"*", "&"} for i in spaces)

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


def dimensions(tokens: Sequence[Token], index: int) -> tuple[list[tuple[int, int]], int]:
    """Return the ranges inside the brackets that follow a name, and the index past them."""
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
        dims, index = dimensions(tokens, index + 1)
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
