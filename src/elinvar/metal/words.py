"""The one table of Metal words elinvar treats specially: what a kernel may ask for, and what is refused everywhere."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from .lexer import Token, fail

__all__ = ["ADDRESS_SPACES", "ATTRIBUTES", "BARRIERS", "Position", "is_simd", "refuse_words"]

ADDRESS_SPACES = ("device", "constant", "threadgroup", "thread")


@dataclass(frozen=True)
class Position:
    """One attribute of a kernel argument that the launch fills in.

    Attributes
    ----------
    dims
        3 where the argument may be a vector of up to three components, 1 where it is a scalar.
    group
        True when the value depends on how threads are grouped, so that a launch must say ``group_size``.
    """

    dims: int
    group: bool


ATTRIBUTES: Mapping[str, Position] = {
    "thread_position_in_grid": Position(3, False),
    "threads_per_grid": Position(3, False),
    "grid_size": Position(3, False),
    "grid_origin": Position(3, False),
    "thread_position_in_threadgroup": Position(3, True),
    "threadgroup_position_in_grid": Position(3, True),
    "threads_per_threadgroup": Position(3, True),
    "dispatch_threads_per_threadgroup": Position(3, True),
    "threadgroups_per_grid": Position(3, True),
    "thread_index_in_threadgroup": Position(1, True),
    "thread_index_in_simdgroup": Position(1, True),
    "simdgroup_index_in_threadgroup": Position(1, True),
    "simdgroups_per_threadgroup": Position(1, True),
    "dispatch_simdgroups_per_threadgroup": Position(1, True),
    "threads_per_simdgroup": Position(1, True),
    "thread_execution_width": Position(1, True),
    "thread_index_in_quadgroup": Position(1, True),
    "quadgroup_index_in_threadgroup": Position(1, True),
    "quadgroups_per_threadgroup": Position(1, True),
    "dispatch_quadgroups_per_threadgroup": Position(1, True),
}

BARRIERS = frozenset({"threadgroup_barrier", "simdgroup_barrier"})
_SIMD = re.compile(
    r"(simd|quad)_(sum|product|min|max|and|or|xor|all|any|ballot|broadcast|broadcast_first|is_first"
    r"|active_threads_mask|prefix_(in|ex)clusive_(sum|product)|shuffle(_(up|down|xor|rotate_up|rotate_down"
    r"|and_fill_up|and_fill_down))?)|simdgroup_(load|store|multiply|multiply_accumulate)|make_filled_simdgroup_matrix"
)

_FLOAT_ATOMIC = "floating-point atomics exist in device memory only; use atomic_uint, or reduce with barriers"
_REFUSED: Mapping[str, str] = {
    "double": "Metal has no double; use float, or two floats",
    "sampler": "samplers cannot be bound by torch's Metal binding; read from a buffer and interpolate by hand",
    "imageblock": "imageblocks belong to Apple's tile shaders; use threadgroup memory",
    "threadgroup_imageblock": "imageblocks belong to Apple's tile shaders; use threadgroup memory",
    "vertex": "only compute kernels are run; this is a vertex function",
    "fragment": "only compute kernels are run; this is a fragment function",
    "function_constant": "function constants cannot be set through torch's Metal binding; pass defines={...} instead",
    "visible_function_table": "function tables cannot be bound by torch's Metal binding; call the function directly",
    "intersection_function_table": "ray tracing is not supported",
    "atomic_ulong": "64-bit atomics are not on every Apple GPU; use two atomic_uint",
    "atomic_long": "64-bit atomics are not on every Apple GPU; use two atomic_uint",
    "throw": "Metal has no exceptions",
    "try": "Metal has no exceptions",
    "catch": "Metal has no exceptions",
    "new": "Metal has no dynamic memory; use an array, or a buffer argument",
    "delete": "Metal has no dynamic memory",
    "virtual": "Metal has no virtual functions",
    "dynamic_cast": "Metal has no run-time type information",
    "typeid": "Metal has no run-time type information",
    "thread_local": "Metal has no thread_local; a plain variable is already private to its thread",
    "goto": "Metal has no goto",
    "std": "Metal has no std::; the same names live in metal::",
}
_REFUSED_PATTERNS: Sequence[tuple[re.Pattern[str], str]] = (
    (
        re.compile(r"(texture|depth)(1d|2d|3d|cube)(_array|_ms|_ms_array)?|texture_buffer"),
        "textures cannot be bound by torch's Metal binding; read from a buffer and interpolate by hand",
    ),
    (
        re.compile(r"simdgroup_(async_copy|event)"),
        "asynchronous copies exist on Apple GPUs only; copy with the group's threads and wait at a barrier",
    ),
    (re.compile(r"__\w*asm\w*|asm"), "Metal has no inline assembly"),
)
# Words that are refused only where they cannot be a member's or a variable's name.
_ONLY_AS_KEYWORD = {"sampler", "vertex", "fragment", "std"}


def is_simd(name: str) -> bool:
    """Tell whether a name is one of Metal's simdgroup or quadgroup operations."""
    return _SIMD.fullmatch(name) is not None


def _is_keyword_use(tokens: Sequence[Token], index: int) -> bool:
    after = tokens[index + 1] if index + 1 < len(tokens) else None
    before = tokens[index - 1].text if index else ""
    if before in {".", "->", "::"} or after is None:
        return False
    if tokens[index].text == "std":
        return after.text == "::"
    return after.kind == "name" or after.text in {"<", "&"}


def refuse_words(tokens: Sequence[Token]) -> None:
    """Raise for the first word no device-independent kernel may use.

    Raises
    ------
    MetalSyntaxError
        With the word's file and line, why, and what to write instead.
    """
    for index, token in enumerate(tokens):
        if token.kind != "name":
            continue
        name = token.text
        reason = _REFUSED.get(name)
        if reason is not None and name in _ONLY_AS_KEYWORD and not _is_keyword_use(tokens, index):
            reason = None
        if reason is None:
            reason = next((why for pattern, why in _REFUSED_PATTERNS if pattern.fullmatch(name)), None)
        if reason is not None:
            raise fail(token, f"`{name}` is refused on every device: {reason}")
        if name == "threadgroup":
            _refuse_float_atomic(tokens, index)


def _refuse_float_atomic(tokens: Sequence[Token], index: int) -> None:
    words = [t.text for t in tokens[index + 1 : index + 8]]
    while words and words[0] in {"metal", "::", "const", "volatile", "coherent"}:
        words.pop(0)
    floats = {"float", "half", "bfloat"}
    if words[:1] == ["atomic_float"] or (words[:2] in (["atomic", "<"], ["_atomic", "<"]) and words[2] in floats):
        raise fail(tokens[index], f"`threadgroup {words[0]}` is refused on every device: {_FLOAT_ATOMIC}")


def first_of(tokens: Iterable[Token], names: frozenset[str]) -> Token | None:
    """Return the first token whose text is in `names`."""
    return next((token for token in tokens if token.text in names), None)
