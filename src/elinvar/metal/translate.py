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
from collections.abc import Iterator, Sequence

from elinvar.errors import MetalSyntaxError

from .declarations import CLOSING, QUALIFIERS, Function, match, match_angle
from .language import Source
from .lexer import Token
from .words import ADDRESS_SPACES

__all__ = ["translate"]

_SWIZZLE = re.compile(r"[xyzw]{2,4}|[rgba]{2,4}")
_COMPONENTS = re.compile(r"[xyzw]{1,4}|[rgba]{1,4}")
_WRITES = frozenset(
    {"=", "+=", "-=", "*=", "/=", "%=", "&=", "|=", "^=", "<<=", ">>=", "++", "--", "(", "[", ".", "->"}
)
_KEYWORDS = frozenset({"return", "else", "case", "do", "using", "operator", "template", "and", "or", "not"})
_SMALL = re.compile(r"(packed_)?(half|bfloat)([234](x[234])?)?$")
_FLOATING = re.compile(
    r"((?:\d+\.\d*|\.\d+|\d+(?=[eE]))(?:[eE][+-]?\d+)?|0[xX][0-9a-fA-F.]+[pP][+-]?\d+)([fFhH]|bf|BF)?"
)
_UNROLL = re.compile(r"clang loop unroll \( (?:full|enable) \)|unroll(?: \( full \))?")
_UNROLL_COUNT = re.compile(r"(?:clang loop unroll_count|unroll)(?: \()? ?(\d+)(?: \))?")


class _Writer:
    """Puts tokens out so that every one stays on its own line, with ``#line`` marks where lines jump."""

    def __init__(self, file: str, *, flat: bool = False) -> None:
        self.parts: list[str] = []
        self.line = 0
        self.file: str | None = None
        self.default = file or "source.metal"
        self.flat = flat

    def put(self, text: str, where: Token) -> None:
        if self.flat:
            self.parts.append(f"{text} ")
            return
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
    """Return names of struct members that look like swizzles: what follows one need not select from it."""
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
        self.small = any(t.kind == "name" and _SMALL.match(t.text) for t in self.tokens)

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
        if token.text == "::" and self.is_global(index):
            self.out.put(":: elinvar_msl ::", token)
            return index + 1
        if token.text == "?" and self.small and token.kind == "mark":
            return self.conditional(index)
        self.out.put(_number(token.text) if token.kind == "number" else token.text, token)
        return index + 1

    def is_global(self, index: int) -> bool:
        """Tell whether this ``::`` means the global namespace, which the translation has moved into elinvar_msl."""
        before = self.tokens[index - 1] if index else None
        if before is None or before.kind == "mark":
            return before is None or before.text not in {">", ">>"} or self.ends_template_head(index - 1)
        return before.text in _KEYWORDS or before.text in QUALIFIERS

    def ends_template_head(self, index: int) -> bool:
        """Tell whether the ``>`` at `index` closes ``template <...>``."""
        depth = 0
        while index > 0:
            depth += {">": 1, ">>": 2, "<": -1}.get(self.tokens[index].text, 0)
            if depth <= 0 or self.tokens[index].text in {";", "{", "}"}:
                break
            index -= 1
        return self.tokens[index - 1].text == "template"

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
        if before in {".", "->"} and _SWIZZLE.fullmatch(text):
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
        while (
            picked not in self.members and tokens[after].text == "." and _COMPONENTS.fullmatch(tokens[after + 1].text)
        ):
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

    # ---- a ? b : c where a half may meet a float (see elinvar_arm in msl_base.h) ----
    def conditional(self, index: int) -> int:
        arms, end = self.arms(index)
        kinds = ", ".join(f"decltype({self.flat(low, high)})" for low, high in arms)
        opens, closes = {low for low, _ in arms}, {high for _, high in arms}
        at = index
        while at < end:
            if at in opens:
                self.out.put(f"elinvar_arm<{kinds}>(", self.tokens[at])
            at = self.plain(at)
            if at in closes:
                self.out.put(")", self.tokens[at - 1])
        return end

    def plain(self, index: int) -> int:
        """Translate one token, or one bracketed range, without wrapping this level's ``?`` again."""
        if self.tokens[index].text in {"?", ":"} and self.tokens[index].kind == "mark":
            self.out.put(self.tokens[index].text, self.tokens[index])
            return index + 1
        if self.tokens[index].text not in CLOSING:
            return self.step(index)
        close = match(self.tokens, index)
        while index <= close:
            index = self.step(index)
        return index

    def flat(self, low: int, high: int) -> str:
        out, self.out = self.out, _Writer("", flat=True)
        try:
            while low < high:
                low = self.step(low)
            return "".join(self.out.parts)
        finally:
            self.out = out

    def arms(self, question: int) -> tuple[list[tuple[int, int]], int]:
        """Return the ranges of a conditional's values, nested conditionals flattened, and where it ends."""
        middle = self.past(question + 1)
        found: list[tuple[int, int]] = []
        end = self.past(middle + 1)
        for low, high in ((question + 1, middle), (middle + 1, end)):
            inner = next((i for i in self.top_level(low, high) if self.tokens[i].text == "?"), None)
            found += [(low, high)] if inner is None else self.arms(inner)[0]
        return found, end

    def top_level(self, low: int, high: int) -> Iterator[int]:
        while low < high:
            yield low
            low = self.skip(low)

    def skip(self, index: int) -> int:
        """Return the index past a token, a bracketed range, or ``name<arguments>``."""
        tokens = self.tokens
        if tokens[index].text in CLOSING and tokens[index].kind == "mark":
            return match(tokens, index) + 1
        if tokens[index].text == "<" and tokens[index - 1].kind == "name":
            try:
                close = match_angle(tokens, index)
            except MetalSyntaxError:
                return index + 1
            if tokens[close + 1].text in {"(", "{", "::"}:
                return close + 1
        return index + 1

    def past(self, index: int) -> int:
        """Return where one arm that starts at `index` ends."""
        depth = 0
        while index < len(self.tokens):
            text = self.tokens[index].text
            if depth == 0 and text in {",", ";", ")", "]", "}", ":"}:
                break
            depth += {"?": 1, ":": -1}.get(text, 0)
            index = self.skip(index)
        return index

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
