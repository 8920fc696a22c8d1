"""Prestack SEG-Y out, through segyio: whole, or not at all."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from elinvar.errors import InputError
from elinvar.runtime.files import atomic_write

from ._check import choice, optional_library
from .headers import HEADER_BYTES
from .segy import FORMATS

if TYPE_CHECKING:
    from .survey import Survey

__all__ = ["INTEGERS", "as_format", "check_axis", "scaled_words", "time_words", "write_segy"]

Floats = NDArray[np.float64]
Words = dict[int, NDArray[Any]]
INTEGERS: dict[int, type[np.signedinteger[Any]]] = {2: np.int32, 3: np.int16, 8: np.int8}
_NUMBERS = ("fldr", "tracf", "ep", "cdp", "inline", "xline")
_LENGTHS = ("gelev", "selev", "sdepth", "gdel", "sdel", "swdep", "gwdep")
_TIMES = ("sstat", "gstat", "tstat", "muts", "mute")


def write_segy(
    survey: Survey,
    path: str | os.PathLike[str],
    *,
    sample_format: int = 5,
    endian: str = "big",
    block: int = 4096,
    progress: Callable[[int, int | None], object] | None = None,
) -> None:
    """Write a survey as SEG-Y revision 1: whole, or not at all.

    Coordinates are centimetres with scalco -100, elevations with scalel, dead traces carry trid 2, the delay is in
    delrt, and the survey's header columns are written where the standard has them.

    Parameters
    ----------
    survey
        What to write.
    path
        The file; replaced when it exists.
    sample_format
        1 (IBM float), 5 (IEEE float), 6 (IEEE double), or 2, 3, 8 (int32, int16, int8) for whole numbers.
    endian
        ``"big"`` (the standard) or ``"little"``.
    block
        Traces held in memory at a time.
    progress
        Called with (traces written, traces in all).

    Raises
    ------
    InputError
        Something does not fit a header word (samples, interval, delay, coordinates), or an integer format.
    """
    segyio = optional_library("segyio", "write_segy")
    check_axis("write_segy", sample_format, endian, survey.n_samples, survey.dt)
    headers = _header_words(survey)
    spec = segyio.spec()
    spec.format, spec.endian = sample_format, endian
    spec.samples = np.arange(survey.n_samples) * survey.dt * 1e3
    spec.tracecount = survey.n_traces
    with atomic_write(path) as temporary:
        with segyio.create(os.fspath(temporary), spec) as file:
            file.text[0] = segyio.tools.create_text_header(_text(survey))
            interval = round(survey.dt * 1e6)
            file.bin.update(
                {3217: interval, 3221: survey.n_samples, 3225: sample_format, 3255: 1, 3501: 1, 3503: 1, 3213: 1}
            )
            for first in range(0, survey.n_traces, block):
                index = np.arange(first, min(first + block, survey.n_traces))
                file.trace.raw[first : first + len(index)] = as_format(survey.read(index), sample_format, first)
                for i in index:
                    file.header[int(i)] = {byte: int(values[i]) for byte, values in headers.items()}
                if progress is not None:
                    progress(first + len(index), survey.n_traces)


def check_axis(operation: str, sample_format: int, endian: str, samples: int, dt: float) -> None:
    """Refuse a format that does not exist and a time axis that revision 1 cannot hold."""
    if sample_format not in FORMATS:
        known = ", ".join(f"{code} ({name})" for code, name in FORMATS.items())
        raise InputError(f"{operation}: sample_format is {sample_format!r}; choose one of {known}.")
    choice(operation, "endian", endian, ("big", "little"))
    interval = round(dt * 1e6)
    if abs(dt * 1e6 - interval) > 1e-3 or not 0 < interval < 32768 or samples > 32767:
        raise InputError(
            f"{operation}: {samples} samples at {dt * 1e3:g} ms do not fit revision 1, which holds at "
            "most 32767 samples and whole microseconds up to 32767."
        )


def as_format(samples: NDArray[np.float32], sample_format: int, first: int = 0) -> NDArray[Any]:
    """Return samples as the type of a format; `first` is the number of the first trace, for the message.

    Raises
    ------
    InputError
        An integer format cannot hold a sample as it is.
    """
    if sample_format not in INTEGERS:
        return samples.astype(np.float64 if sample_format == 6 else np.float32, copy=False)
    kind = INTEGERS[sample_format]
    limit = np.iinfo(kind)
    fits = (samples == np.rint(samples)) & (samples >= limit.min) & (samples <= float(limit.max))
    if sample_format == 2:
        fits &= samples < 2.0**31  # float32 has no 2^31 - 1, only 2^31
    if not fits.all():
        trace, sample = (int(i) for i in np.argwhere(~fits)[0])
        raise InputError(
            f"write_segy: format {sample_format} ({FORMATS[sample_format]}) holds whole numbers from {limit.min} to "
            f"{limit.max}; sample {sample} of trace {first + trace} is {samples[trace, sample]:g}. Scale and round the "
            "samples, or use format 5."
        )
    return samples.astype(kind)


def _text(survey: Survey) -> dict[int, str]:
    return {
        1: f"{survey.name}"[:76],
        2: f"{survey.n_traces} PRESTACK TRACES, {survey.n_samples} SAMPLES, {survey.dt * 1e3:g} MS",
        3: "SOURCE X 73-76 Y 77-80, RECEIVER X 81-84 Y 85-88, SCALCO 71-72 (CENTIMETRES)",
        4: "OFFSET 37-40 IN METRES, MIDPOINT X 181-184 Y 185-188, DELAY 109-110 IN MS",
        39: "SEG Y REV1",
        40: "END TEXTUAL HEADER",
    }


def _header_words(survey: Survey) -> Words:
    """Return the value of each trace header word, by its byte."""
    n = survey.n_traces
    _, shot = np.unique(survey.source, axis=0, return_inverse=True)
    _, cdp = np.unique(np.round(survey.midpoint, 2), axis=0, return_inverse=True)
    number_of = np.arange(1, n + 1)
    known = {name: survey.headers[name] for name in (*_NUMBERS, *_LENGTHS, *_TIMES) if name in survey.headers}
    known["selev"] = survey.source_elevation + known.get("sdepth", 0.0)
    known["gelev"] = survey.receiver_elevation
    if not ("gdel" in known and "sdel" in known and np.array_equal(known["gdel"] + known["sdel"], 2 * survey.datum)):
        known |= {"gdel": survey.datum, "sdel": survey.datum}
    known = {name: column for name, column in known.items() if column.any()}
    coordinates = {
        73: survey.source[:, 0], 77: survey.source[:, 1], 81: survey.receiver[:, 0], 85: survey.receiver[:, 1],
        181: survey.midpoint[:, 0], 185: survey.midpoint[:, 1],
    }  # fmt: skip
    times = {109: survey.delay} | {HEADER_BYTES[name]: known[name] for name in _TIMES if name in known}
    lengths = {HEADER_BYTES[name]: known[name] for name in _LENGTHS if name in known}
    return {
        1: number_of,
        5: number_of,
        9: shot.ravel() + 1,
        13: number_of,
        21: cdp.ravel() + 1,
        29: np.where(survey.live, 1, 2),
        37: np.round(survey.offset).astype(np.int64),
        89: np.ones(n, np.int64),
        115: np.full(n, survey.n_samples),
        117: np.full(n, round(survey.dt * 1e6)),
        **{HEADER_BYTES[name]: known[name].astype(np.int64) for name in _NUMBERS if name in known},
        **scaled_words(coordinates, 71, n),
        **(scaled_words(lengths, 69, n) if lengths else {}),
        **time_words(times, n),
    }


def scaled_words(metres: Mapping[int, Floats], scalar_byte: int, n: int) -> Words:
    """Return lengths in centimetres, by their byte, and the scalar word that says so."""
    worst = max(float(np.abs(values).max()) for values in metres.values())
    if not worst < 2**31 / 100:
        raise InputError(f"write_segy: a coordinate reaches {worst:g} m; centimetres in 32 bits end at 21474836 m.")
    words: Words = {byte: np.round(100.0 * values).astype(np.int64) for byte, values in metres.items()}
    words[scalar_byte] = np.full(n, -100)
    return words


def time_words(seconds: Mapping[int, Floats], n: int) -> Words:
    """Return times as 16-bit words of milliseconds, by their byte, and the scalar word that goes with all of them.

    The delay (byte 109) is exact, statics and mutes are rounded.
    """
    for factor in (1, 10, 100, 1000):
        words: Words = {byte: np.round(values * 1e3 * factor).astype(np.int64) for byte, values in seconds.items()}
        off = float(np.abs(words[109] - seconds[109] * 1e3 * factor).max())
        if off < 1e-4 * factor and max(int(np.abs(word).max()) for word in words.values()) < 2**15:
            return {**words, 215: np.full(n, 1 if factor == 1 else -factor)}
    worst = max(float(np.abs(values).max()) for values in seconds.values())
    raise InputError(f"write_segy: delays up to {worst:g} s do not fit 16 bits of milliseconds; shift the data first.")
