"""What SEG-Y and SU files have in common: traces of one length, each behind a header of 240 bytes. Read with segyio."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from elinvar.errors import InputError

from ._check import number, optional_library
from .headers import COLUMNS, FOOT, WORDS, Columns, scalar, scaled

__all__ = [
    "FileColumns",
    "Geometry",
    "SegyTraces",
    "assembled",
    "geometry",
    "interval",
    "moved",
    "opened",
    "runs",
    "words",
]

Floats = NDArray[np.float64]
Kind = Literal["segy", "su"]
TRACE_DT = 117
_LIVE_CODES = (0, 1, *range(11, 18))  # not said, seismic, and multi-component seismic of revision 1
_CDP_SLACK = 100.0  # metres: bin centres and slalom lines are that far from midpoints, mistakes are farther


@dataclass(frozen=True)
class SegyTraces:
    """Samples of a file. Each read opens the file anew: safe from any thread, after a fork, and once pickled."""

    path: Path
    endian: str
    shape: tuple[int, int]
    kind: Kind = "segy"

    def read(self, index: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return the traces at ascending positions `index`, float32."""
        out = np.empty((len(index), self.shape[1]), np.float32)
        with opened(self.path, self.endian, self.kind) as file:
            if (file.tracecount, len(file.samples)) != self.shape:
                raise InputError(f"{self.path.name}: the file changed since it was opened; open it again.")
            for place, part in runs(index):
                out[place] = file.trace.raw[part]
        return out


@dataclass(frozen=True)
class FileColumns:
    """Reads one column of the trace headers, in metres and seconds."""

    path: Path
    endian: str
    kind: Kind
    where: tuple[tuple[str, int], ...]
    feet: float

    def __call__(self, name: str) -> NDArray[Any]:
        """Return the column, (n,)."""
        where = dict(self.where)
        with opened(self.path, self.endian, self.kind) as file:
            word = words(file, self.path, {name: where[name]})[name]
            scale = WORDS[name].scale
            by = words(file, self.path, {scale: where[scale]})[scale] if scale in where else None
        return scaled(name, word, by, self.feet)


@dataclass(frozen=True)
class Geometry:
    """What the headers of a file say, in metres and seconds."""

    source: Floats
    receiver: Floats
    delay: Floats
    live: NDArray[np.bool_]
    columns: Columns
    notes: tuple[str, ...]
    warnings: tuple[str, ...]


def runs(index: NDArray[np.int64]) -> list[tuple[slice, slice]]:
    """Split ascending positions into evenly spaced runs: pairs of (slice of the output, slice of the file)."""
    found, first = [], 0
    while first < len(index):
        step = int(index[first + 1] - index[first]) if first + 1 < len(index) else 1
        if step <= 0:
            step, last = 1, first + 1
        else:
            breaks = np.flatnonzero(np.diff(index[first:]) != step)
            last = first + 1 + (int(breaks[0]) if breaks.size else len(index) - first - 1)
        found.append((slice(first, last), slice(int(index[first]), int(index[last - 1]) + 1, step)))
        first = last
    return found


def opened(path: Path, endian: str, kind: Kind = "segy") -> Any:
    """Open with segyio, turning its errors into one sentence."""
    segyio = optional_library("segyio.su" if kind == "su" else "segyio", f"open_{kind}")
    try:
        return segyio.open(os.fspath(path), ignore_geometry=True, endian=endian)
    except OSError as error:
        raise InputError(f"{path.name}: the file cannot be read ({error.strerror or error}).") from error
    except (RuntimeError, ValueError, IndexError) as error:
        text = str(error)
        if "no data traces" in text or "trace index out of range" in text:
            raise InputError(f"{path.name}: there are headers but no traces in the file; nothing to open.") from error
        if "trace count inconsistent" in text:
            raise InputError(
                f"{path.name}: {path.stat().st_size} bytes are not a whole number of traces of the length its header "
                "gives; the file is cut off, corrupt, or its traces differ in length. Copy it again, or repair the "
                f"sample count ({'bytes 115-116 of the first trace' if kind == 'su' else 'bytes 3221-3222'})."
            ) from error
        raise InputError(f"{path.name}: not readable as {'SU' if kind == 'su' else 'SEG-Y'} ({text}).") from error


def moved(operation: str, standard: Mapping[str, int], header_bytes: Mapping[str, int]) -> dict[str, int]:
    """Return where words are, some of them moved by the user."""
    unknown = sorted(set(header_bytes) - set(standard))
    if unknown:
        raise InputError(
            f"{operation}: {', '.join(unknown)} is no header name; these can be moved: {', '.join(standard)}."
        )
    return {**standard, **header_bytes}


def words(file: Any, path: Path, where: Mapping[str, int]) -> dict[str, NDArray[Any]]:
    """Return words of all traces as stored, int32 (n,)."""
    found = {}
    for name, byte in where.items():
        try:
            found[name] = np.asarray(file.attributes(byte)[:])
        except (RuntimeError, KeyError, ValueError, TypeError, IndexError) as error:
            raise InputError(
                f"{path.name}: {name}={byte!r} is not where a trace header word begins; give a byte from 1 to 237 that "
                "starts a word of the standard."
            ) from error
    return found


def interval(operation: str, path: Path, binary: int | None, trace: NDArray[Any], given: float | None) -> float:
    """Return the sample interval in seconds; headers hold microseconds, 0 meaning not said."""
    if given is not None:
        return number(operation, "dt", given, low=0.0, high=1.0, open_low=True)
    said = {float(binary or 0), *np.asarray(trace, np.float64).tolist()} - {0.0}
    if not said:
        raise InputError(f"{path.name}: the sample interval is 0 in every header; pass dt= in seconds (--dt in ms).")
    if len(said) > 1 or min(said) < 0:
        shown = ", ".join(f"{value:g}" for value in trace[:4])
        first = "" if binary is None else f"{binary} µs in the binary header, "
        raise InputError(
            f"{path.name}: the sample interval contradicts itself: {first}{shown} µs in the trace headers; pass dt= in "
            "seconds (--dt in ms)."
        )
    return float(said.pop() * 1e-6)


def geometry(file: Any, path: Path, kind: Kind, endian: str, where: Mapping[str, int], *, feet: bool) -> Geometry:
    """Read source and receiver positions, delays and which traces are live, and check them."""
    unit = FOOT if feet else 1.0
    reader = FileColumns(path.absolute(), endian, kind, tuple(where.items()), unit)
    return assembled(path, where, lambda names: words(file, path, {n: where[n] for n in names}), reader, feet=feet)


def assembled(
    path: Path,
    where: Mapping[str, object],
    read: Callable[[Sequence[str]], Mapping[str, NDArray[Any]]],
    reader: Callable[[str], NDArray[Any]],
    *,
    feet: bool,
) -> Geometry:
    """Make a geometry of trace header words, and check it.

    Parameters
    ----------
    path
        For messages.
    where
        The words there are, and where each is, for messages.
    read
        Returns words as stored.
    reader
        Reads one column in metres and seconds.
    feet
        Lengths are in feet.
    """
    needed = ("sx", "sy", "gx", "gy", "scalco", "counit", "offset", "trid", "delrt", "scalt")
    word = dict(read([name for name in needed if name in where]))
    for name in needed:
        word.setdefault(name, np.zeros(len(word["sx"]), np.int64))  # says nothing
    unit = FOOT if feet else 1.0
    scale = scalar(word["scalco"]) * unit
    source = np.stack([word["sx"] * scale, word["sy"] * scale], axis=1)
    receiver = np.stack([word["gx"] * scale, word["gy"] * scale], axis=1)
    live = np.isin(word["trid"], _LIVE_CODES)
    said = live if live.any() else np.ones(len(live), bool)  # dead traces may say anything
    _check_coordinates(path, word["counit"], source[said], receiver[said], where)
    notes = []
    if feet:
        notes.append("feet converted to metres")
    if not live.all():
        notes.append(f"{int((~live).sum())} traces are not live seismic traces (trid)")
    distance = np.hypot(*(receiver - source).T)
    told = [_offset_warning(path, np.abs(word["offset"]) * unit, distance, live, word["scalco"])]
    if "cdp_x" in where:
        place = read(["cdp_x", "cdp_y"])
        told.append(_cdp_warning(path, place, scale, unit, 0.5 * (source + receiver), live))
    return Geometry(
        source,
        receiver,
        scaled("delrt", word["delrt"], word.get("scalt")),
        live,
        Columns(reader, tuple(name for name in COLUMNS if name in where)),
        tuple(notes),
        tuple(text for text in told if text is not None),
    )


def _check_coordinates(
    path: Path, counit: NDArray[Any], source: Floats, receiver: Floats, where: Mapping[str, object]
) -> None:
    remedy = "name their bytes, for example open_segy(path, sx=..., sy=..., gx=..., gy=...) (--header sx=...)."
    if not source.any() and not receiver.any():
        places = ", ".join(f"{name} {where[name]}" for name in ("sx", "sy", "gx", "gy"))
        kind = "bytes" if isinstance(where["sx"], int) else "words"
        raise InputError(f"{path.name}: all source and receiver coordinates are zero ({kind} {places}); {remedy}")
    for name, mine, other in (("receiver", receiver, source), ("source", source, receiver)):
        if not mine.any() and not (other == other[0]).all():
            raise InputError(
                f"{path.name}: all {name} coordinates are zero, the others are not: a stacked file, or words in "
                f"another place; {remedy}"
            )
    # Real files say "degrees" over plain metres; only what can be degrees is refused.
    if (counit > 1).any() and max(np.abs(source).max(), np.abs(receiver).max()) <= 360.0:
        raise InputError(
            f"{path.name}: coordinates are geographic (counit {int(counit.max())}); project them to metres "
            "first, nothing is reprojected silently."
        )


def _offset_warning(
    path: Path, header: Floats, distance: Floats, live: NDArray[np.bool_], scalco: NDArray[Any]
) -> str | None:
    """Compare the offset words with the coordinates; one sentence when they disagree for more than 1 % of traces."""
    if not header[live].any():
        return None
    wrong = live & (np.abs(header - distance) > 1.0 + 0.01 * distance)
    if wrong.sum() <= 0.01 * live.sum():
        return None
    first = int(np.flatnonzero(wrong)[0])
    scale = scalar(scalco)
    # Offsets written as centimetres, or divided by a hundred and rounded to a whole number.
    off = [np.median((np.abs(header * s - distance) - 0.5 * s)[wrong]) < 1.0 for s in (scale, 1.0 / scale)]
    hint = " (scalco was applied to them, which the standard does not do)" if any(off) else ""
    return (
        f"{path.name}: the offset words of {int(wrong.sum())} traces disagree with the coordinates{hint}, first at "
        f"trace {first}: {header[first]:g} m against {distance[first]:.1f} m; the coordinates are used."
    )


def _cdp_warning(
    path: Path, place: Mapping[str, NDArray[Any]], scale: Floats, unit: float, midpoint: Floats, live: NDArray[np.bool_]
) -> str | None:
    """Compare the CDP coordinates with the midpoints; one sentence when more than 1 % of traces are far off."""
    raw = np.stack([place["cdp_x"], place["cdp_y"]], axis=1).astype(np.float64)
    said = live & raw.any(axis=1)
    wrong = said & (np.hypot(*(raw * scale[:, None] - midpoint).T) > _CDP_SLACK)
    if wrong.sum() <= 0.01 * said.sum():
        return None
    first = int(np.flatnonzero(wrong)[0])
    unscaled = np.median(np.hypot(*(raw * unit - midpoint).T)[wrong]) <= _CDP_SLACK
    hint = " (scalco does not seem to apply to them)" if unscaled else ""
    x, y = raw[first] * scale[first]
    return (
        f"{path.name}: the CDP coordinates of {int(wrong.sum())} traces are more than {_CDP_SLACK:g} m from the "
        f"midpoints{hint}, first at trace {first}: {x:.1f}, {y:.1f} against {midpoint[first, 0]:.1f}, "
        f"{midpoint[first, 1]:.1f}; the midpoints are used."
    )
