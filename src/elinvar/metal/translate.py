"""Metal text into C++ text that the preludes understand, token by token, line for line.

Both C++ compilers (g++ for the emulator, NVRTC for NVIDIA) get the same translation; what differs between them sits in
macros the prelude defines:

``ELINVAR_KERNEL``
    stands before a kernel's declaration.
``ELINVAR_CONSTANT``
    stands for ``constant`` before a variable at program scope.
``ELINVAR_THREADGROUP(name, dims, type)``
    declares one threadgroup variable; `dims` is ``[16][17]`` or nothing.
``elinvar_read``
    ``v.xyz->*elinvar_read`` makes a value of a swizzle that is read: a ``float3`` to templates and ``auto``.

The remaining rewriting is what C++ cannot express: address spaces disappear (``constant`` becomes ``const``), so do
attributes, unsuffixed floating literals are single precision, ``1.5h`` and ``1.5bf`` become half and bfloat.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from .language import Source
from .lexer import Token
from .reader import Function, match
from .words import ADDRESS_SPACES

__all__ = ["translate"]

_SWIZZLE = re.compile(r"[xyzw]{2,4}|[rgba]{2,4}")
_COMPONENTS = re.compile(r"[xyzw]{1,4}|[rgba]{1,4}")
_WRITES = frozenset(
    {"=", "+=", "-=", "*=", "/=", "%=", "&=", "|=", "^=", "<<=", ">>=", "++", "--", "(", "[", ".", "->"}
)
_FLOATING = re.compile(
    r"((?:\d+\.\d*|\.\d+|\d+(?=[eE]))(?:[eE][+-]?\d+)?|0[xX][0-9a-fA-F.]+[pP][+-]?\d+)([fFhH]|bf|BF)?"
)
_UNROLL = re.compile(r"clang loop unroll \( (?:full|enable) \)|unroll(?: \( full \))?")
_UNROLL_COUNT = re.compile(r"(?:clang loop unroll_count|unroll)(?: \()? ?(\d+)(?: \))?")


class _Writer:
    """Puts tokens out so that every one stays on its own line, with ``#line`` marks where lines jump."""

    def __init__(self, file: str) -> None:
        self.parts: list[str] = []
        self.line = 0
        self.file: str | None = None
        self.default = file or "source.metal"

    def put(self, text: str, where: Token) -> None:
        file = where.file or self.default
        ahead = where.line - self.line
        if file != self.file or not 0 <= ahead <= 8:
            self.parts.append(f'\n#line {where.line} "{file}"\n')
            self.file, self.line = file, where.line
        elif ahead:
            self.parts.append("\n" * ahead)
            self.line = where.line
        self.parts.append(text)
        self.parts.append(" ")

    def pragma(self, text: str) -> None:
        """Write a pragma; its own line does not count, so the next token states its line again."""
        self.parts.append(f"\n#pragma {text}\n")
        self.file = None


def _pragma(text: str) -> str | None:
    spaced = " ".join(re.findall(r"\w+|[()]", text))
    if _UNROLL.fullmatch(spaced):
        return "unroll"
    if spaced in {"clang loop unroll ( disable )", "nounroll"}:
        return "unroll 1"
    count = _UNROLL_COUNT.fullmatch(spaced)
    return f"unroll {count[1]}" if count else None


def _number(text: str) -> str:
    found = _FLOATING.fullmatch(text)
    if found is None:
        return text
    suffix = (found[2] or "f").lower()
    if suffix == "f":
        return f"{found[1]}f"
    return f"{'half' if suffix == 'h' else 'bfloat'}({found[1]}f)"


def _member_names(source: Source) -> set[str]:
    """Return names of struct members that look like swizzles; those accesses stay as they are."""
    tokens = source.tokens
    names: set[str] = set()
    for _, (start, end), _ in source.declarations.structs.values():
        for index in range(start, end):
            plain = tokens[index - 1].text not in {".", "->"}
            if tokens[index].kind == "name" and plain and _SWIZZLE.fullmatch(tokens[index].text):
                names.add(tokens[index].text)
    return names


class _Translator:
    def __init__(self, source: Source) -> None:
        self.source = source
        self.tokens = source.tokens
        self.out = _Writer(source.file)
        self.members = _member_names(source)
        known = source.declarations
        self.kernels: dict[int, Function] = {f.start: f for f in known.functions if f.is_kernel}
        self.shared = {s.statement[0]: s for f in known.functions for s in f.shared}
        self.dropped = {one.span[0]: one.span[1] for one in known.instantiations}
        self.program_constants = known.program_constants

    def run(self) -> str:
        index, end = 0, len(self.tokens)
        while index < end:
            index = self.step(index)
        return "".join(self.out.parts)

    def step(self, index: int) -> int:
        """Translate the token at `index`; return the next index."""
        tokens = self.tokens
        token = tokens[index]
        if index in self.dropped:
            return self.dropped[index]
        if token.kind == "pragma":
            text = _pragma(token.text)
            if text is not None:
                self.out.pragma(text)
            return index + 1
        if index in self.kernels:
            self.out.put("ELINVAR_KERNEL", token)
        if index in self.shared:
            return self.threadgroup(index)
        if token.text == "[" and index + 1 < len(tokens) and tokens[index + 1].text == "[" and token.kind == "mark":
            return match(tokens, index) + 1
        if token.kind == "name":
            return self.name(index)
        self.out.put(_number(token.text) if token.kind == "number" else token.text, token)
        return index + 1

    def name(self, index: int) -> int:
        token = self.tokens[index]
        text = token.text
        if text in {"kernel", "__kernel"}:
            return index + 1
        if text in ADDRESS_SPACES:
            if text == "constant":
                self.constant(index)
            return index + 1
        before = self.tokens[index - 1].text if index else ""
        if before in {".", "->"} and _SWIZZLE.fullmatch(text) and text not in self.members:
            return self.swizzle(index)
        self.out.put(text, token)
        return index + 1

    def constant(self, index: int) -> None:
        around = {t.text for t in self.tokens[max(index - 1, 0) : index + 2]}
        if index in self.program_constants:
            self.out.put("ELINVAR_CONSTANT", self.tokens[index])
        elif not around & {"const", "constexpr"}:
            self.out.put("const", self.tokens[index])

    def swizzle(self, index: int) -> int:
        """Write a swizzle, folding ``v.zyx.xy`` into ``v.zy``; a swizzle that is read becomes a value."""
        tokens = self.tokens
        picked = tokens[index].text
        after = index + 1
        while tokens[after].text == "." and _COMPONENTS.fullmatch(tokens[after + 1].text):
            order = "xyzw" if tokens[after + 1].text[0] in "xyzw" else "rgba"
            places = [order.index(c) for c in tokens[after + 1].text]
            if max(places) >= len(picked):
                break
            picked = "".join(picked[place] for place in places)
            after += 2
        self.out.put(picked, tokens[index])
        if len(picked) > 1 and tokens[after].text not in _WRITES:
            self.out.put("->* elinvar_read", tokens[index])
        return after

    def threadgroup(self, index: int) -> int:
        tokens = self.tokens
        shared = self.shared[index]
        words = [t.text for t in tokens[shared.type[0] : shared.type[1]] if t.text not in {"threadgroup", "static"}]
        kind = " ".join(words)
        for at, dims in shared.names:
            spelled = "".join(f"[{_join(tokens[low:high])}]" for low, high in dims)
            self.out.put(f"ELINVAR_THREADGROUP({tokens[at].text}, {spelled}, {kind});", tokens[at])
        return shared.statement[1]


def _join(tokens: Sequence[Token]) -> str:
    return " ".join(_number(t.text) if t.kind == "number" else t.text for t in tokens)


def translate(source: Source) -> str:
    """Return a parsed source as C++ for the preludes.

    Parameters
    ----------
    source
        From `elinvar.metal.language.parse`.

    Returns
    -------
    str
        C++ in which every token stands in the user's own line and file (``#line``). Explicit instantiations of kernels
        are left out: a backend's wrapper names ``Signature.function``, which instantiates it.
    """
    return _Translator(source).run()
