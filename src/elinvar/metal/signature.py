"""Signatures of kernels: what each argument is, and what a launch has to provide."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from .declarations import Declarations, Environment, Function, match, split, type_end
from .lexer import Token, fail
from .types import Type, make_array
from .words import ATTRIBUTES, BARRIERS, is_simd

__all__ = ["MAX_BUFFERS", "MAX_THREADGROUP_BYTES", "Attribute", "Buffer", "Signature", "signatures"]

Arguments = Sequence[Sequence[Token]]  # of a template
MAX_THREADGROUP_BYTES = 32 * 1024
MAX_BUFFERS = 31


@dataclass(frozen=True)
class Buffer:
    """One argument the caller passes.

    Attributes
    ----------
    index
        Its ``[[buffer(n)]]`` index.
    name
        Its name in the kernel.
    space
        ``"device"`` or ``"constant"``.
    type
        What it points to; None for a struct whose layout only a compiler knows (bit fields, ``alignas``).
    type_name
        The type as written, for messages and for generated code.
    is_const
        True when the kernel cannot write it.
    is_reference
        True for ``constant uint& n``: one value, which a caller may pass as a Python number or bytes.
    line
        Where it stands.
    """

    index: int
    name: str
    space: str
    type: Type | None
    type_name: str
    is_const: bool
    is_reference: bool
    line: int

    @property
    def kind(self) -> str:
        """Return ``scalar``, ``vector``, ``struct``, ... as `Type.kind`; ``opaque`` when the layout is unknown."""
        return "opaque" if self.type is None else self.type.kind

    def __str__(self) -> str:
        constant = "const " if self.is_const and self.space != "constant" else ""
        return f"{self.space} {constant}{self.type_name}{'&' if self.is_reference else '*'} {self.name}"


@dataclass(frozen=True)
class Attribute:
    """One argument the launch fills in.

    Attributes
    ----------
    position
        Place among all of the kernel's arguments, from 0.
    name
        The argument's name in the kernel.
    attribute
        ``thread_position_in_grid`` and the like.
    scalar
        ``"uint"`` or ``"ushort"``.
    count
        1, 2 or 3 components.
    """

    position: int
    name: str
    attribute: str
    scalar: str
    count: int

    @property
    def type_name(self) -> str:
        """Return ``uint``, ``ushort2``, ..."""
        return self.scalar if self.count == 1 else f"{self.scalar}{self.count}"


@dataclass(frozen=True)
class Signature:
    """One callable kernel.

    Attributes
    ----------
    name
        What it is called by.
    function
        The C++ expression that names it: ``scale``, ``detail::scale``, ``scale<float, 4>``.
    buffers
        Arguments the caller passes, by ascending buffer index.
    attributes
        Arguments the launch fills in, in the kernel's order.
    order
        For each argument of the kernel in order, the `Buffer` or `Attribute` it is.
    needs_group
        True when a launch must say ``group_size``: the kernel (or a function it calls) uses threadgroup memory,
        barriers, simd operations, or asks where it stands in its group.
    uses_threadgroup, uses_barrier, uses_simd
        Which of those, transitively through the functions it calls.
    threadgroup_bytes
        Bytes of threadgroup memory it declares, at Metal's 16-byte granularity; None when a size depends on
        something only a compiler can work out.
    max_threads
        From ``[[max_total_threads_per_threadgroup(n)]]``; None without it.
    line, file
        Where it stands.
    """

    name: str
    function: str
    buffers: tuple[Buffer, ...]
    attributes: tuple[Attribute, ...]
    order: tuple[Buffer | Attribute, ...]
    needs_group: bool
    uses_threadgroup: bool
    uses_barrier: bool
    uses_simd: bool
    threadgroup_bytes: int | None
    max_threads: int | None
    line: int
    file: str = field(default="", compare=False)

    def __str__(self) -> str:
        """What a caller passes, as the kernel declares it, and whether it has to say ``group_size``."""
        takes = ", ".join(str(buffer) for buffer in self.buffers)
        group = "; needs group_size=" if self.needs_group else ""
        return f"{self.name}({takes}){group}"


def signatures(known: Declarations) -> dict[str, Signature]:
    """Return the signature of every kernel that can be called, in the order of the text.

    Raises
    ------
    MetalSyntaxError
        With file and line, for an argument Metal or torch's Metal binding cannot take.
    """
    kernels = [f for f in known.functions if f.is_kernel]
    found: dict[str, Signature] = {}
    for function in kernels:
        if function.template is None:
            jobs: list[tuple[str, Arguments]] = [(_host_name(function), ())]
        else:
            jobs = [(one.host_name, one.arguments) for one in known.instantiations if one.function == function.name]
        for name, arguments in jobs:
            where = known.tokens[function.start]
            if name in found:
                raise fail(where, f"there are two kernels called {name} (the first is in line {found[name].line})")
            found[name] = _signature(known, function, name, arguments)
    return found


def _host_name(function: Function) -> str:
    named = function.attributes.get("host_name")
    return named[0].text.strip('"') if named else function.name


def _join(tokens: Sequence[Token]) -> str:
    return " ".join(t.text for t in tokens)


def _signature(known: Declarations, function: Function, name: str, arguments: Arguments) -> Signature:
    where = known.tokens[function.start]
    env = known.bind(function.template or (), arguments, {})
    expression = function.qualified
    if function.template is not None:
        expression += f"<{', '.join(_join(argument) for argument in arguments)}>"
    order: list[Buffer | Attribute] = []
    taken: set[int] = set()
    parts = split(known.tokens[function.params[0] : function.params[1]])
    if parts and [t.text for t in parts[0]] == ["void"]:
        parts = []
    claimed = {index for part in parts if (index := _explicit_index(known, part, env)) is not None}
    for part in parts:
        order.append(_argument(known, part, len(order), (taken, claimed), env, name))
    _check_attributes([a for a in order if isinstance(a, Attribute)], where)
    buffers = sorted((b for b in order if isinstance(b, Buffer)), key=lambda b: b.index)
    if len(buffers) > MAX_BUFFERS:
        raise fail(where, f"kernel {name} has {len(buffers)} buffer arguments; Metal has {MAX_BUFFERS}")
    words = _reach(known, function, arguments)
    grouped = any(isinstance(a, Attribute) and ATTRIBUTES[a.attribute].group for a in order)
    uses = (bool(function.shared), bool(words & BARRIERS), any(is_simd(word) for word in words))
    limit = function.attributes.get("max_total_threads_per_threadgroup")
    return Signature(
        name=name,
        function=expression,
        buffers=tuple(buffers),
        attributes=tuple(a for a in order if isinstance(a, Attribute)),
        order=tuple(order),
        needs_group=grouped or any(uses),
        uses_threadgroup=uses[0],
        uses_barrier=uses[1],
        uses_simd=uses[2],
        threadgroup_bytes=_threadgroup_bytes(known, function, env, name),
        max_threads=known.integer(limit, env) if limit else None,
        line=where.line,
        file=where.file,
    )


# ---- arguments ------------------------------------------------------------------------------------------------------
def _argument(
    known: Declarations,
    part: list[Token],
    position: int,
    taken: tuple[set[int], set[int]],
    env: Environment,
    kernel: str,
) -> Buffer | Attribute:
    words, attributes = _strip_attributes(part)
    texts = [t.text for t in words]
    where = part[0] if part else None
    if where is None:
        raise fail(known.tokens[0], f"kernel {kernel} has an empty argument")
    if "threadgroup" in texts or "threadgroup" in attributes:
        raise fail(
            where,
            "threadgroup memory as an argument is refused on every device: torch's Metal binding cannot set its length;"
            " declare `threadgroup float name[SIZE];` inside the kernel and pass SIZE with defines={...}",
        )
    if "stage_in" in attributes:
        raise fail(where, "[[stage_in]] belongs to render pipelines; pass a buffer")
    end = type_end(words, 0)
    marks = [t for t in words[end:] if t.text in {"*", "&"}]
    names = [
        t.text for t in words[end:] if t.kind == "name" and t.text not in {"const", "volatile", "restrict", "device"}
    ]
    names = [n for n in names if not n.startswith("__restrict") and n not in {"constant", "thread"}]
    name = names[-1] if names else f"argument {position}"
    known_attribute = next((a for a in attributes if a in ATTRIBUTES), None)
    if known_attribute is not None:
        return _position(known, words[:end], position, name, known_attribute, env)
    if not marks:
        hint = f"[[{next(iter(attributes))}]] is not an attribute of a compute kernel" if attributes else ""
        raise fail(where, hint or f"argument {name} of kernel {kernel} is neither a buffer nor carries an attribute")
    return _buffer(known, words, end, marks, name, attributes, taken, env)


def _explicit_index(known: Declarations, part: list[Token], env: Environment) -> int | None:
    stated = _strip_attributes(part)[1].get("buffer")
    return None if stated is None else known.integer(stated, env)


def _strip_attributes(part: Sequence[Token]) -> tuple[list[Token], dict[str, list[Token]]]:
    words: list[Token] = []
    attributes: dict[str, list[Token]] = {}
    index = 0
    while index < len(part):
        if part[index].text == "[" and index + 1 < len(part) and part[index + 1].text == "[":
            close = match(part, index)
            for piece in split(part[index + 2 : close - 1]):
                attributes[piece[0].text] = piece[2:-1]
            index = close + 1
        else:
            words.append(part[index])
            index += 1
    return words, attributes


def _position(
    known: Declarations, words: list[Token], position: int, name: str, attribute: str, env: Environment
) -> Attribute:
    kind = known.resolve(words, env)
    dims = ATTRIBUTES[attribute].dims
    fits = kind is not None and kind.scalar in {"uint", "ushort"} and kind.kind in {"scalar", "vector"}
    if kind is None or not fits or kind.count > dims:
        vectors = " or a vector of two or three of them" if dims == 3 else ""
        raise fail(words[0], f"[[{attribute}]] is uint or ushort{vectors}, not {_join(words)}")
    return Attribute(position, name, attribute, kind.scalar, kind.count)


def _buffer(
    known: Declarations,
    words: list[Token],
    end: int,
    marks: list[Token],
    name: str,
    attributes: dict[str, list[Token]],
    indices: tuple[set[int], set[int]],
    env: Environment,
) -> Buffer:
    taken, claimed = indices
    texts = [t.text for t in words]
    where = words[0]
    space = next((s for s in ("device", "constant") if s in texts), None)
    if space is None:
        raise fail(where, f"argument {name} needs an address space: device or constant")
    if len(marks) > 1:
        raise fail(
            where, f"argument {name} is a pointer to a pointer; torch's Metal binding passes one buffer an argument"
        )
    if "buffer" in attributes:
        index = known.integer(attributes["buffer"], env)
        if index is None or not 0 <= index < MAX_BUFFERS:
            raise fail(
                where, f"[[buffer({_join(attributes['buffer'])})]] of {name}: an index from 0 to {MAX_BUFFERS - 1}"
            )
    else:
        index = next(i for i in range(2 * MAX_BUFFERS) if i not in taken | claimed)
    if index in taken:
        raise fail(where, f"two arguments claim [[buffer({index})]]; the second is {name}")
    taken.add(index)
    mark = words.index(marks[0])
    kind = known.resolve(words[:end], env)
    spelled = _join([t for t in words[:end] if t.text not in {"device", "constant", "const", "volatile", "coherent"}])
    if kind is None and spelled == "void":
        raise fail(where, f"argument {name} is a void pointer; say what it points to")
    if kind is None and known.holds_pointer(spelled):
        raise fail(where, f"struct {spelled} holds a pointer; torch's Metal binding passes buffers as arguments only")
    reference = marks[0].text == "&"
    if reference and mark + 1 < len(words) and texts[-1] == "]" and kind is not None:
        kind = _array_reference(known, words, mark, kind, env)
    constant = space == "constant" or "const" in texts[:mark]
    return Buffer(index, name, space, kind, spelled, constant, reference, where.line)


def _array_reference(known: Declarations, words: list[Token], mark: int, kind: Type, env: Environment) -> Type | None:
    """Return the type of ``constant float (&w)[9]``."""
    opened = next((i for i in range(mark, len(words)) if words[i].text == "["), None)
    count = None if opened is None else known.integer(words[opened + 1 : match(words, opened)], env)
    return None if count is None else make_array(kind, count)


_SAME_TYPE = (
    {"thread_position_in_grid", "threads_per_grid"},
    {"thread_position_in_threadgroup", "threads_per_threadgroup", "dispatch_threads_per_threadgroup"},
)


def _check_attributes(found: list[Attribute], where: Token) -> None:
    """Apply the rules Apple's compiler has on how attributes may be combined (Metal specification, 5.2.3.6)."""
    seen: dict[str, Attribute] = {}
    for one in found:
        key = "threads_per_simdgroup" if one.attribute == "thread_execution_width" else one.attribute
        if key in seen:
            raise fail(where, f"[[{one.attribute}]] is asked for twice, as {seen[key].name} and as {one.name}")
        seen[key] = one
    vectors = [a for a in found if ATTRIBUTES[a.attribute].dims == 3 and a.count > 1]
    for one in vectors[1:]:
        if one.count != vectors[0].count:
            raise fail(
                where,
                f"{vectors[0].name} is {vectors[0].type_name} but {one.name} is {one.type_name}: vectors of "
                "positions in one kernel must have the same number of components",
            )
    for together in _SAME_TYPE:
        members = [a for a in found if a.attribute in together]
        for one in members[1:]:
            if one.type_name != members[0].type_name:
                raise fail(
                    where,
                    f"{members[0].name} is {members[0].type_name} but {one.name} is {one.type_name}: "
                    f"[[{members[0].attribute}]] and [[{one.attribute}]] must have one type",
                )


# ---- bodies ---------------------------------------------------------------------------------------------------------
def _reach(known: Declarations, kernel: Function, arguments: Arguments) -> set[str]:
    """Return every word in a kernel and in whatever it may call, transitively.

    A function or struct counts as called when it is named, also as an argument of the kernel's template.
    """
    tokens = known.tokens
    words: set[str] = set()
    waiting: list[Sequence[Token]] = [tokens[low:high] for low, high in (kernel.head, kernel.params, kernel.body)]
    waiting += arguments
    while waiting:
        for token in waiting.pop():
            if token.kind == "name" and token.text not in words:
                words.add(token.text)
                waiting += [tokens[low:high] for low, high in known.bodies.get(token.text, ())]
                waiting += [known.aliases[token.text][1]] if token.text in known.aliases else []
    return words


def _threadgroup_bytes(known: Declarations, function: Function, env: Environment, name: str) -> int | None:
    tokens = known.tokens
    local = {**_local_constants(known, function, env), **env}
    total: int | None = 0
    for shared in function.shared:
        kind = known.resolve(tokens[shared.type[0] : shared.type[1]], local)
        if kind is not None and kind.kind == "matrix":
            raise fail(
                tokens[shared.statement[0]], "Metal has no matrices in threadgroup memory; declare arrays of columns"
            )
        for _, dims in shared.names:
            size = None if kind is None else kind.size
            for low, high in dims:
                count = known.integer(tokens[low:high], local)
                size = None if size is None or count is None else size * count
            total = None if total is None or size is None else total + -(-size // 16) * 16
    if total is not None and total > MAX_THREADGROUP_BYTES:
        raise fail(
            tokens[function.shared[0].statement[0]],
            f"kernel {name} declares {total} bytes of threadgroup memory; Metal has {MAX_THREADGROUP_BYTES}",
        )
    return total


def _local_constants(known: Declarations, function: Function, env: Environment) -> dict[str, Type | int]:
    """Return ``constexpr uint TILE = 16;`` and ``const int N = 4;`` of a kernel's body."""
    found: dict[str, Type | int] = {}
    tokens = known.tokens
    start, end = function.body
    for index in range(start, end):
        if tokens[index].text in {"constexpr", "const"}:
            at = type_end(tokens, index)
            while at + 1 < end and tokens[at].kind == "name" and tokens[at + 1].text == "=":
                stop = next(i for i in range(at, end) if tokens[i].text in {";", ","})
                value = known.integer(tokens[at + 2 : stop], {**env, **found})
                if value is not None:
                    found[tokens[at].text] = value
                at = stop + 1
        elif tokens[index].text == "using" and tokens[index + 2].text == "=":
            stop = next(i for i in range(index, end) if tokens[i].text == ";")
            kind = known.resolve(tokens[index + 3 : stop], {**env, **found})
            if kind is not None:
                found[tokens[index + 1].text] = kind
    return found
