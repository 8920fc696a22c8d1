"""What a Metal source says: its kernels' signatures, what they need of a launch, and what is refused everywhere.

`parse` is the one reader of Metal text in elinvar; the three backends and the launch checks build on what it returns.
A kernel that passes here uses only words that all three ways of running it understand, so that a kernel which is green
on one device is callable on the others.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

from .declarations import Declarations, Function
from .lexer import Token, fail, preprocess, splice_includes
from .reader import read
from .rules import check_rules
from .signature import Attribute, Buffer, Signature, signatures
from .types import Field, Type
from .words import refuse_words

__all__ = ["Attribute", "Buffer", "Field", "Function", "Signature", "Source", "Type", "define_text", "load", "parse"]

Defines = Mapping[str, int | float | str | bool]


@dataclass(frozen=True)
class Source:
    """One parsed Metal source.

    Attributes
    ----------
    text
        The text to give a real Metal compiler: ``#define`` lines from `defines` first, quoted includes spliced in.
    file
        The file's name for messages; empty when the source was a string.
    tokens
        The preprocessed tokens.
    kernels
        Signature of every kernel that can be called, by the name it is called by (``host_name`` for instantiations).
    structs
        Layout of every struct whose layout is known.
    declarations
        Functions, constants and aliases by name: what translation to another dialect needs.
    """

    text: str
    file: str
    tokens: tuple[Token, ...] = field(repr=False)
    kernels: dict[str, Signature]
    structs: dict[str, Type]
    declarations: Declarations = field(repr=False)


def define_text(defines: Defines | None) -> dict[str, str]:
    """Return `defines` as macro bodies: True as 1, floats as Metal float literals, anything else as it prints.

    Raises
    ------
    MetalSyntaxError
        For a name that is no identifier or a value of several lines.
    """
    result: dict[str, str] = {}
    for name, value in (defines or {}).items():
        if not re.fullmatch(r"[A-Za-z_]\w*", name):
            raise fail(("<defines>", 1), f"{name!r} is not a macro name")
        text = str(int(value)) if isinstance(value, bool) else str(value)
        if isinstance(value, float):
            text = {"inf": "INFINITY", "-inf": "(-INFINITY)", "nan": "NAN"}.get(text, f"{value!r}f")
        if "\n" in text:
            raise fail(("<defines>", 1), f"the value of {name} has several lines")
        result[name] = f"({text})" if text.startswith("-") else text
    return result


def load(source: str | Path) -> tuple[str, str, Path | None]:
    """Return ``(text, file name, path)`` of a source given as text or as a file.

    A string that contains a newline or ``kernel void`` is source text; any other string, and a `Path`, is a file.

    Raises
    ------
    MetalSyntaxError
        If the file cannot be read or is not ASCII.
    """
    if isinstance(source, str) and ("\n" in source or "kernel void" in source):
        return source, "", None
    path = Path(source)
    try:
        return path.read_bytes().decode("utf-8"), path.name, path
    except OSError as error:
        raise fail((str(source), 0), f"cannot read this Metal file ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise fail((path.name, 0), "this file is not text") from error


def parse(source: str | Path, defines: Defines | None = None) -> Source:
    """Parse a Metal source into its kernels' signatures.

    Parameters
    ----------
    source
        Metal text, or the path of a ``.metal`` file (see `load`).
    defines
        Macros to define before the first line, on every device alike.

    Returns
    -------
    Source
        With `kernels` in the order of the text.

    Raises
    ------
    MetalSyntaxError
        With file and line: the text cannot be read, has no kernel, or uses a feature refused on every device
        (textures, samplers, ``[[threadgroup(n)]]`` arguments, ``double``, floating-point atomics in
        threadgroup memory, function constants, more than 32 KB of threadgroup memory, non-ASCII characters).
    """
    text, file, path = load(source)
    flat = splice_includes(text, path)  # before what is kept by its text: an included file may have been edited
    return _parse(flat, file, tuple(define_text(defines).items()))


@lru_cache(maxsize=64)
def _parse(flat: str, file: str, defines: tuple[tuple[str, str], ...]) -> Source:
    tokens = preprocess(flat, dict(defines), file)
    refuse_words(tokens)
    try:
        declarations = read(tokens)
        check_rules(declarations)
        kernels = signatures(declarations)
    except (IndexError, StopIteration):  # something looked for its continuation beyond the last token
        raise fail(tokens[-1] if tokens else (file, 1), "this source ends in the middle of a declaration") from None
    if not kernels:
        raise fail((file, 1), "there is no kernel in this source; a kernel is declared `kernel void name(...)`")
    head = "".join(f"#define {name} {value}\n" for name, value in defines)
    apple = f'{head}#line 1 "{file or "source.metal"}"\n{flat}' if head else flat
    structs = {name: kind for name in declarations.structs if (kind := declarations.struct_type(name)) is not None}
    return Source(apple, file, tuple(tokens), kernels, structs, declarations)
