"""Seismic Unix files, read through segyio: traces behind SEG-Y's 240-byte headers, float32, in either byte order."""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np

from elinvar.errors import InputError

from ._check import choice
from .headers import HEADER_BYTES
from .survey import Survey, from_file
from .tracefile import TRACE_DT, SegyTraces, geometry, interval, moved, opened, words

__all__ = ["open_su", "su_byte_order"]

#: Seismic Unix uses bytes 181 to 240 for other things than SEG-Y does.
SU_BYTES = {name: byte for name, byte in HEADER_BYTES.items() if byte <= 180}
_HEADER = 240


def open_su(
    path: str | os.PathLike[str],
    *,
    endian: str = "auto",
    dt: float | None = None,
    bin_size: tuple[float, float] | None = None,
    **header_bytes: int,
) -> Survey:
    """Open a prestack Seismic Unix file lazily: headers now, samples when they are needed.

    Parameters
    ----------
    path
        A file of traces of one length.
    endian
        ``"big"``, ``"little"``, or ``"auto"``: the order in which the file is a whole number of traces, this machine's
        when it is in both.
    dt, bin_size, **header_bytes
        As in :func:`~elinvar.seismic.open_segy`; words live in bytes 1 to 180.

    Raises
    ------
    InputError
        Not such a file, cut off, with all coordinates zero, or with a sample interval of 0 or one that contradicts
        itself.

    Warns
    -----
    SurveyWarning
        The offset words disagree with the coordinates, which are used.
    """
    place = Path(path)
    where = moved("open_su", SU_BYTES, header_bytes)
    order = su_byte_order(place, endian)
    with opened(place, order, "su") as file:
        trace_dt = np.unique(words(file, place, {"dt": TRACE_DT})["dt"])
        step = interval("open_su", place, None, trace_dt, dt)
        shape = (int(file.tracecount), len(file.samples))
        found = geometry(file, place, "su", order, where, feet=False)
    found = replace(found, notes=(f"Seismic Unix, {order}-endian", *found.notes))
    return from_file(SegyTraces(place, order, shape, "su"), found, step, bin_size=bin_size)


def su_byte_order(path: Path, endian: str) -> str:
    """Return the byte order in which the file is a whole number of traces."""
    choice("open_su", "endian", endian, ("auto", "big", "little"))
    try:
        with path.open("rb") as file:
            head = file.read(_HEADER)
        size = path.stat().st_size
    except FileNotFoundError:
        raise InputError(f"open_su: there is no file {path}; check the name.") from None
    except IsADirectoryError:
        raise InputError(f"open_su: {path} is a folder; give the SU file in it.") from None
    if len(head) < _HEADER:
        raise InputError(
            f"{path.name}: the file has {size} bytes; a trace of Seismic Unix starts with a header of {_HEADER}, so "
            "this is another kind of file or a cut-off one."
        )
    samples = {
        "big": int.from_bytes(head[114:116], "big"),
        "little": int.from_bytes(head[114:116], "little"),
    }
    fitting = [order for order, ns in samples.items() if ns > 0 and size % (_HEADER + 4 * ns) == 0]
    if endian != "auto" and endian not in fitting and fitting:
        raise InputError(
            f"{path.name}: in {endian}-endian order the first trace has {samples[endian]} samples, of which {size} "
            f"bytes are no multiple; the file is {fitting[0]}-endian, so leave endian out."
        )
    if not fitting:
        raise InputError(
            f"{path.name}: {size} bytes are not a whole number of traces of {samples['big']} or {samples['little']} "
            "samples (bytes 115-116, either byte order); the file is cut off, or is no Seismic Unix file."
        )
    if endian != "auto":
        return endian
    return sys.byteorder if sys.byteorder in fitting else fitting[0]
