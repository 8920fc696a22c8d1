"""SEG-Y in and out, through segyio: headers on opening, samples when asked for."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from elinvar.errors import InputError
from elinvar.runtime.files import atomic_write

from ._check import choice, number, optional_library

if TYPE_CHECKING:
    from .survey import Survey

__all__ = ["FORMATS", "HEADER_BYTES", "SegyHeaders", "SegyTraces", "read_headers", "write_segy"]

Floats = NDArray[np.float64]
FOOT = 0.3048
#: Sample format codes that are read.
FORMATS = {1: "IBM float", 2: "int32", 3: "int16", 5: "IEEE float", 6: "IEEE double", 8: "int8"}
#: Where each trace header word is by the standard (1-based bytes), and what it is.
HEADER_BYTES = {
    "sx": 73,  # source x, y and receiver x, y, with scalco
    "sy": 77,
    "gx": 81,
    "gy": 85,
    "scalco": 71,  # positive multiplies, negative divides, 0 means 1
    "counit": 89,  # 1 length, 2-4 geographic
    "offset": 37,  # signed, metres or feet; scalco does not apply
    "trid": 29,  # 1 seismic, 0 not said, 2 dead ...
    "delrt": 109,  # ms, with the time scalar
    "scalt": 215,
}
_BINARY_DT, _BINARY_FORMAT, _BINARY_SYSTEM, _TRACE_DT = 3217, 3225, 3255, 117
_LIVE_CODES = (0, 1, *range(11, 18))  # not said, seismic, and multi-component seismic of revision 1
_HEADER_END = 3600


@dataclass(frozen=True)
class SegyTraces:
    """Samples of a SEG-Y file. Each read opens the file anew: safe from any thread, after a fork, and once pickled."""

    path: Path
    endian: str
    shape: tuple[int, int]

    def read(self, index: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return the traces at ascending positions `index`, float32."""
        out = np.empty((len(index), self.shape[1]), np.float32)
        with _opened(self.path, self.endian) as file:
            if (file.tracecount, len(file.samples)) != self.shape:
                raise InputError(f"{self.path.name}: the file changed since it was opened; open it again.")
            for place, part in _runs(index):
                out[place] = file.trace.raw[part]
        return out


@dataclass(frozen=True)
class SegyHeaders:
    """What the headers of a file say, in metres and seconds."""

    traces: SegyTraces
    source: Floats
    receiver: Floats
    dt: float
    delay: Floats
    live: NDArray[np.bool_]
    notes: tuple[str, ...]
    warnings: tuple[str, ...]


def _runs(index: NDArray[np.int64]) -> list[tuple[slice, slice]]:
    """Split ascending positions into evenly spaced runs: pairs of (slice of the output, slice of the file)."""
    runs, first = [], 0
    while first < len(index):
        step = int(index[first + 1] - index[first]) if first + 1 < len(index) else 1
        if step <= 0:
            step, last = 1, first + 1
        else:
            breaks = np.flatnonzero(np.diff(index[first:]) != step)
            last = first + 1 + (int(breaks[0]) if breaks.size else len(index) - first - 1)
        runs.append((slice(first, last), slice(int(index[first]), int(index[last - 1]) + 1, step)))
        first = last
    return runs


def _opened(path: Path, endian: str) -> Any:
    """Open with segyio, turning its errors into one sentence."""
    segyio = optional_library("segyio", "open_segy")
    try:
        return segyio.open(os.fspath(path), ignore_geometry=True, endian=endian)
    except (RuntimeError, ValueError, IndexError) as error:
        text = str(error)
        if "no data traces" in text or "trace index out of range" in text:
            raise InputError(f"{path.name}: there are headers but no traces in the file; nothing to open.") from error
        if "trace count inconsistent" in text:
            raise InputError(
                f"{path.name}: {path.stat().st_size} bytes are not a whole number of traces of the length its header "
                "gives; the file is cut off, corrupt, or its traces differ in length. Copy it again, or repair the "
                "sample count (bytes 3221-3222)."
            ) from error
        raise InputError(f"{path.name}: not readable as SEG-Y ({text}).") from error


def _byte_order(path: Path, endian: str) -> str:
    """Return the byte order in which the sample format code makes sense."""
    choice("open_segy", "endian", endian, ("auto", "big", "little"))
    try:
        with path.open("rb") as file:
            head = file.read(_HEADER_END)
    except FileNotFoundError:
        raise InputError(f"open_segy: there is no file {path}; check the name.") from None
    except IsADirectoryError:
        raise InputError(f"open_segy: {path} is a folder; give the SEG-Y file in it.") from None
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
    return fitting[0] if endian == "auto" else endian


def read_headers(
    path: str | os.PathLike[str], *, endian: str, dt: float | None, header_bytes: Mapping[str, int]
) -> SegyHeaders:
    """Read a file's geometry; arguments and errors as in :func:`elinvar.seismic.open_segy`."""
    place = Path(path)
    unknown = sorted(set(header_bytes) - set(HEADER_BYTES))
    if unknown:
        raise InputError(
            f"open_segy: {', '.join(unknown)} is no header name; these can be moved: {', '.join(HEADER_BYTES)}."
        )
    where = {**HEADER_BYTES, **header_bytes}
    order = _byte_order(place, endian)
    with _opened(place, order) as file:
        word = {name: _attribute(file, place, name, byte) for name, byte in where.items()}
        trace_dt = np.unique(_attribute(file, place, "dt", _TRACE_DT))
        interval = _interval(place, int(file.bin[_BINARY_DT]), trace_dt, dt)
        shape = (int(file.tracecount), len(file.samples))
        feet = int(file.bin[_BINARY_SYSTEM]) == 2
        label = FORMATS[int(file.format)]
    scale = _scalar(word["scalco"]) * (FOOT if feet else 1.0)
    source = np.stack([word["sx"] * scale, word["sy"] * scale], axis=1)
    receiver = np.stack([word["gx"] * scale, word["gy"] * scale], axis=1)
    _check_coordinates(place, word, source, receiver, where)
    live = np.isin(word["trid"], _LIVE_CODES)
    notes = [f"{label}, {order}-endian"]
    if feet:
        notes.append("feet converted to metres")
    if not live.all():
        notes.append(f"{int((~live).sum())} traces are not live seismic traces (trid)")
    offset = np.abs(word["offset"]) * (FOOT if feet else 1.0)
    warning = _offset_warning(place, offset, np.hypot(*(receiver - source).T), live, word["scalco"])
    return SegyHeaders(
        traces=SegyTraces(place, order, shape),
        source=source,
        receiver=receiver,
        dt=interval,
        delay=word["delrt"] * _scalar(word["scalt"]) * 1e-3,
        live=live,
        notes=tuple(notes),
        warnings=() if warning is None else (warning,),
    )


def _attribute(file: Any, path: Path, name: str, byte: int) -> Floats:
    try:
        return np.asarray(file.attributes(byte)[:], dtype=np.float64)
    except (RuntimeError, KeyError, ValueError, TypeError, IndexError) as error:
        raise InputError(
            f"{path.name}: {name}={byte!r} is not where a trace header word begins; give a byte from 1 to 237 that "
            "starts a word of the standard."
        ) from error


def _scalar(word: Floats) -> Floats:
    """Apply SEG-Y's rule: positive multiplies, negative divides, 0 means 1."""
    magnitude = np.where(word == 0, 1.0, np.abs(word))
    return np.where(word < 0, 1.0 / magnitude, magnitude)


def _interval(path: Path, binary: int, trace: Floats, given: float | None) -> float:
    """Return the sample interval in seconds; headers hold microseconds, 0 meaning not said."""
    if given is not None:
        return number("open_segy", "dt", given, low=0.0, high=1.0, open_low=True)
    said = {float(binary), *trace.tolist()} - {0.0}
    if not said:
        raise InputError(f"{path.name}: the sample interval is 0 in every header; pass dt= in seconds.")
    if len(said) > 1 or min(said) < 0:
        shown = ", ".join(f"{value:g}" for value in trace[:4])
        raise InputError(
            f"{path.name}: the sample interval contradicts itself: {binary} µs in the binary header, {shown} µs in the "
            "trace headers; pass dt= in seconds."
        )
    return float(said.pop() * 1e-6)


def _check_coordinates(
    path: Path, word: Mapping[str, Floats], source: Floats, receiver: Floats, where: Mapping[str, int]
) -> None:
    remedy = "name their bytes, for example open_segy(path, sx=..., sy=..., gx=..., gy=...)."
    if not source.any() and not receiver.any():
        places = ", ".join(f"{name} {where[name]}" for name in ("sx", "sy", "gx", "gy"))
        raise InputError(f"{path.name}: all source and receiver coordinates are zero (bytes {places}); {remedy}")
    for name, mine, other in (("receiver", receiver, source), ("source", source, receiver)):
        if not mine.any() and not (other == other[0]).all():
            raise InputError(
                f"{path.name}: all {name} coordinates are zero, the others are not: a stacked file, or words in "
                f"another place; {remedy}"
            )
    geographic = word["counit"] > 1
    # Real files say "degrees" over plain metres; only what can be degrees is refused.
    if geographic.any() and max(np.abs(source).max(), np.abs(receiver).max()) <= 360.0:
        raise InputError(
            f"{path.name}: coordinates are geographic (counit {int(word['counit'].max())}); project them to metres "
            "first, nothing is reprojected silently."
        )


def _offset_warning(
    path: Path, header: Floats, distance: Floats, live: NDArray[np.bool_], scalco: Floats
) -> str | None:
    """Compare the offset words with the coordinates; one sentence when they disagree for more than 1 % of traces."""
    if not header[live].any():
        return None
    wrong = live & (np.abs(header - distance) > 1.0 + 0.01 * distance)
    if wrong.sum() <= 0.01 * live.sum():
        return None
    first = int(np.flatnonzero(wrong)[0])
    scale = _scalar(scalco)
    # Offsets written as centimetres, or divided by a hundred and rounded to a whole number.
    scaled = np.median((np.abs(header * scale - distance) - 0.5 * scale)[wrong]) < 1.0
    inverse = np.median((np.abs(header / scale - distance) - 0.5 / scale)[wrong]) < 1.0
    hint = " (scalco was applied to them, which the standard does not do)" if scaled or inverse else ""
    return (
        f"{path.name}: the offset words of {int(wrong.sum())} traces disagree with the coordinates{hint}, first at "
        f"trace {first}: {header[first]:g} m against {distance[first]:.1f} m; the coordinates are used."
    )


def write_segy(
    survey: Survey,
    path: str | os.PathLike[str],
    *,
    sample_format: int = 5,
    endian: str = "big",
    block: int = 2048,
    progress: Callable[[int, int | None], object] | None = None,
) -> None:
    """Write a survey as SEG-Y revision 1: whole, or not at all.

    Coordinates are centimetres with scalco -100, dead traces carry trid 2, and the delay is in delrt.

    Parameters
    ----------
    survey
        What to write.
    path
        The file; replaced when it exists.
    sample_format
        1 (IBM float) or 5 (IEEE float).
    endian
        ``"big"`` (the standard) or ``"little"``.
    block
        Traces held in memory at a time.
    progress
        Called with (traces written, traces in all).

    Raises
    ------
    InputError
        Something does not fit a header word: samples, interval, delay or coordinates.
    """
    segyio = optional_library("segyio", "write_segy")
    if sample_format not in {1, 5}:
        raise InputError(
            f"write_segy: sample_format is {sample_format!r}; 1 (IBM float) or 5 (IEEE float) is accepted."
        )
    choice("write_segy", "endian", endian, ("big", "little"))
    interval = round(survey.dt * 1e6)
    if abs(survey.dt * 1e6 - interval) > 1e-3 or not 0 < interval < 32768 or survey.n_samples > 32767:
        raise InputError(
            f"write_segy: {survey.n_samples} samples at {survey.dt * 1e3:g} ms do not fit revision 1, which holds at "
            "most 32767 samples and whole microseconds up to 32767."
        )
    headers = _header_words(survey)
    spec = segyio.spec()
    spec.format, spec.endian = sample_format, endian
    spec.samples = np.arange(survey.n_samples) * survey.dt * 1e3
    spec.tracecount = survey.n_traces
    with atomic_write(path) as temporary:
        with segyio.create(os.fspath(temporary), spec) as file:
            file.text[0] = segyio.tools.create_text_header(_text(survey))
            file.bin.update(
                {3217: interval, 3221: survey.n_samples, 3225: sample_format, 3255: 1, 3501: 1, 3503: 1, 3213: 1}
            )
            for first in range(0, survey.n_traces, block):
                index = np.arange(first, min(first + block, survey.n_traces))
                file.trace.raw[first : first + len(index)] = survey.read(index)
                for i in index:
                    file.header[int(i)] = {byte: int(values[i]) for byte, values in headers.items()}
                if progress is not None:
                    progress(first + len(index), survey.n_traces)


def _text(survey: Survey) -> dict[int, str]:
    return {
        1: f"{survey.name}"[:76],
        2: f"{survey.n_traces} PRESTACK TRACES, {survey.n_samples} SAMPLES, {survey.dt * 1e3:g} MS",
        3: "SOURCE X 73-76 Y 77-80, RECEIVER X 81-84 Y 85-88, SCALCO 71-72 (CENTIMETRES)",
        4: "OFFSET 37-40 IN METRES, MIDPOINT X 181-184 Y 185-188, DELAY 109-110 IN MS",
        39: "SEG Y REV1",
        40: "END TEXTUAL HEADER",
    }


def _header_words(survey: Survey) -> dict[int, NDArray[np.int64]]:
    """Return the value of each trace header word, by its byte."""
    n = survey.n_traces
    _, shot = np.unique(survey.source, axis=0, return_inverse=True)
    _, cdp = np.unique(np.round(survey.midpoint, 2), axis=0, return_inverse=True)
    delay_word, delay_scalar = _delay_words(survey.delay)
    centimetres = {
        73: survey.source[:, 0], 77: survey.source[:, 1], 81: survey.receiver[:, 0], 85: survey.receiver[:, 1],
        181: survey.midpoint[:, 0], 185: survey.midpoint[:, 1],
    }  # fmt: skip
    words = {byte: np.round(100.0 * metres).astype(np.int64) for byte, metres in centimetres.items()}
    worst = max(int(np.abs(word).max()) for word in words.values())
    if worst >= 2**31:
        raise InputError(
            f"write_segy: a coordinate reaches {worst / 100:g} m; centimetres in 32 bits end at 21474836 m."
        )
    number_of = np.arange(1, n + 1)
    return {
        **words,
        1: number_of,
        5: number_of,
        9: shot.ravel() + 1,
        13: number_of,
        21: cdp.ravel() + 1,
        29: np.where(survey.live, 1, 2),
        37: np.round(survey.offset).astype(np.int64),
        71: np.full(n, -100),
        89: np.ones(n, np.int64),
        109: delay_word,
        115: np.full(n, survey.n_samples),
        117: np.full(n, round(survey.dt * 1e6)),
        215: np.full(n, delay_scalar),
    }


def _delay_words(delay: Floats) -> tuple[NDArray[np.int64], int]:
    """Return the delays as 16-bit words and the scalar that turns them into milliseconds."""
    for scalar in (1, 10, 100, 1000):
        word = np.round(delay * 1e3 * scalar)
        if np.abs(word - delay * 1e3 * scalar).max() < 1e-4 * scalar and np.abs(word).max() < 2**15:
            return word.astype(np.int64), 1 if scalar == 1 else -scalar
    raise InputError(
        f"write_segy: delays up to {np.abs(delay).max():g} s do not fit 16 bits of milliseconds; shift the data first."
    )
