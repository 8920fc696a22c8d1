"""Prestack SEG-Y files, read through segyio: headers on opening, samples when asked for."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from elinvar.errors import InputError

from ._check import choice
from .headers import HEADER_BYTES
from .tracefile import TRACE_DT, Geometry, SegyTraces, geometry, interval, moved, opened, words

__all__ = ["FORMATS", "HEADER_BYTES", "SegyHeaders", "SegyTraces", "byte_order", "read_headers", "text_header"]

#: Sample format codes that are read and written.
FORMATS = {1: "IBM float", 2: "int32", 3: "int16", 5: "IEEE float", 6: "IEEE double", 8: "int8"}
BINARY_DT, _BINARY_FORMAT, BINARY_SYSTEM = 3217, 3225, 3255
_HEADER_END = 3600
_TEXT = 3200


@dataclass(frozen=True)
class SegyHeaders:
    """What the headers of a file say, in metres and seconds."""

    traces: SegyTraces
    geometry: Geometry
    dt: float
    text: tuple[str, ...]


def byte_order(path: Path, endian: str, operation: str = "open_segy") -> str:
    """Return the byte order in which the sample format code makes sense."""
    choice(operation, "endian", endian, ("auto", "big", "little"))
    try:
        with path.open("rb") as file:
            head = file.read(_HEADER_END)
    except FileNotFoundError:
        raise InputError(f"{operation}: there is no file {path}; check the name.") from None
    except IsADirectoryError:
        raise InputError(f"{operation}: {path} is a folder; give the SEG-Y file in it.") from None
    if len(head) < _HEADER_END:
        raise InputError(
            f"{path.name}: the file has {len(head)} bytes; SEG-Y starts with {_HEADER_END} bytes of headers, so this "
            "is another kind of file or a cut-off one."
        )
    word = head[_BINARY_FORMAT - 1 : _BINARY_FORMAT + 1]
    codes = {order: int.from_bytes(word, order) for order in ("big", "little")}
    fitting = [order for order, code in codes.items() if code in FORMATS]
    accepted = ", ".join(f"{code} ({name})" for code, name in FORMATS.items())
    if not fitting:
        raise InputError(
            f"{path.name}: sample format code {codes['big']} (bytes 3225-3226) is not one that can be read: {accepted}."
        )
    if endian != "auto" and endian not in fitting:
        raise InputError(
            f"{path.name}: in {endian}-endian order the sample format code is {codes[endian]}, which does not exist; "
            f"the file is {fitting[0]}-endian, so pass endian={fitting[0]!r} or leave it out."
        )
    order = fitting[0] if endian == "auto" else endian
    _refuse_layout(path, head, order)
    return order


def _refuse_layout(path: Path, head: bytes, order: Any) -> None:
    """Stop at traces without samples, and at what segyio cannot skip: revision 2's additional trace headers."""
    if not any(head[3220:3222]) and not any(head[3268:3272]):
        raise InputError(
            f"{path.name}: the binary header says that traces have 0 samples; repair the sample count (bytes "
            "3221-3222)."
        )
    # Revision 2.0 counts them in four bytes, 2.1 in the first two, with the type of the survey in the others.
    extra = int.from_bytes(head[3506:3508], order)
    if head[3501] == 0 and not extra:
        extra = int.from_bytes(head[3506:3510], order)
    if head[3500] == 2 and extra > 0:
        raise InputError(
            f"{path.name}: a revision 2 file with {extra} additional header(s) per trace, which segyio cannot read; "
            "write it as revision 1, with one header of 240 bytes per trace."
        )


def read_headers(
    path: str | os.PathLike[str], *, endian: str, dt: float | None, header_bytes: Mapping[str, int]
) -> SegyHeaders:
    """Read a file's geometry; arguments and errors as in :func:`elinvar.seismic.open_segy`."""
    place = Path(path)
    where = moved("open_segy", HEADER_BYTES, header_bytes)
    order = byte_order(place, endian)
    with opened(place, order) as file:
        trace_dt = np.unique(words(file, place, {"dt": TRACE_DT})["dt"])
        step = interval("open_segy", place, int(file.bin[BINARY_DT]), trace_dt, dt)
        shape = (int(file.tracecount), len(file.samples))
        feet = int(file.bin[BINARY_SYSTEM]) == 2
        label = FORMATS[int(file.format)]
        found = geometry(file, place, "segy", order, where, feet=feet)
    found = replace(found, notes=(f"{label}, {order}-endian", *found.notes))
    return SegyHeaders(SegyTraces(place, order, shape), found, step, text_header(place, order))


def text_header(path: Path, endian: str = "big") -> tuple[str, ...]:
    """Return the lines of the text headers, EBCDIC or ASCII, trailing blanks and empty lines removed."""
    with path.open("rb") as file:
        block = file.read(_TEXT)
        more = int.from_bytes(file.read(400)[304:306], "big" if endian == "big" else "little", signed=True)
        blocks = [block, *(file.read(_TEXT) for _ in range(max(0, min(more, 100))))]
    lines: list[str] = []
    for block in blocks:
        text = _decoded(block)
        rows = text.splitlines() if "\n" in text else [text[i : i + 80] for i in range(0, len(text), 80)]
        lines += [row.rstrip() for row in rows]
    return tuple(line for line in lines if line and not _numbered_only(line))


def _decoded(block: bytes) -> str:
    """Decode as whichever of EBCDIC and ASCII gives more letters, digits and blanks."""

    def sense(text: str) -> int:
        return sum(c.isascii() and (c.isalnum() or c == " ") for c in text)

    text = max((block.decode("cp037"), block.decode("latin-1")), key=sense)
    return "".join(c if c.isprintable() or c == "\n" else " " for c in text)


def _numbered_only(line: str) -> bool:
    """Tell an empty card: ``C`` and its number, nothing else."""
    rest = line.removeprefix("C").strip()
    return line.startswith("C") and (not rest or (rest.isdigit() and len(rest) <= 2))
