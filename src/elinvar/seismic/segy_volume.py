"""Regular volumes as SEG-Y: one trace per bin (and offset), inline numbers at 189, crossline numbers at 193.

What is written opens in segyio's strict mode, that is, with its inline and crossline geometry. What is read may be in
any order, turned, one line wide, or have holes.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from elinvar.errors import InputError
from elinvar.runtime.files import atomic_write

from ._check import optional_library
from .headers import FOOT, HEADER_BYTES, scalar
from .segy import BINARY_DT, BINARY_SYSTEM, byte_order, text_header
from .segy_write import as_format, check_axis, scaled_words, time_words
from .tracefile import TRACE_DT, interval, moved, opened, words

__all__ = ["Layout", "SegyVolume", "read_volume", "write_volume"]

Floats = NDArray[np.float64]
Numbers = NDArray[np.int64]
Brick = Callable[[slice, slice], NDArray[Any]]
#: Words that a volume's file may have elsewhere.
VOLUME_BYTES = {name: HEADER_BYTES[name] for name in ("inline", "xline", "cdp_x", "cdp_y", "scalco", "delrt", "scalt")}
_BRICK = 64  # bins per side that are in memory at a time; a chunk of the Zarr images


@dataclass(frozen=True, eq=False)
class Layout:
    """Where the samples of a volume are.

    Attributes
    ----------
    inlines, crosslines
        Line numbers, (nx,) and (ny,).
    places
        Map coordinates in metres, (nx, ny, 2).
    t
        Two-way times in seconds, evenly spaced, (nt,).
    offsets
        Whole numbers that tell the traces of one bin apart (byte 37), rising, or one zero for a stack.
    """

    inlines: Numbers
    crosslines: Numbers
    places: Floats
    t: Floats
    offsets: Numbers

    @property
    def dt(self) -> float:
        """Sample interval in seconds."""
        return float(self.t[-1] - self.t[0]) / (len(self.t) - 1) if len(self.t) > 1 else 0.004


@dataclass(frozen=True, eq=False)
class SegyVolume:
    """One-trace-per-bin file, read whole.

    Attributes
    ----------
    samples
        float32 (n, nt), in the order of the file.
    inlines, crosslines
        Of each trace, (n,).
    places
        Map coordinates in metres, (n, 2); all zero when the file has none.
    dt, t0
        Sample interval and time of the first sample in seconds.
    feet
        The file's unit of length is the foot; `places` are metres all the same.
    """

    samples: NDArray[np.float32]
    inlines: Numbers
    crosslines: Numbers
    places: Floats
    dt: float
    t0: float
    feet: bool
    text: tuple[str, ...]


def read_volume(
    path: str | os.PathLike[str],
    *,
    operation: str = "read_volume",
    endian: str = "auto",
    dt: float | None = None,
    **header_bytes: int,
) -> SegyVolume:
    """Read a file of one trace per bin.

    Parameters
    ----------
    path
        The file.
    operation
        For messages.
    endian, dt
        As in :func:`~elinvar.seismic.open_segy`.
    **header_bytes
        Where words are, of :data:`VOLUME_BYTES`. Coordinates are taken from 73 and 77 when those of the CDP are zero.

    Raises
    ------
    InputError
        Not such a file, two traces in one bin, or traces that start at different times.
    """
    place = Path(path)
    where = moved(operation, VOLUME_BYTES, header_bytes)
    order = byte_order(place, endian, operation)
    with opened(place, order) as file:
        word = words(file, place, where)
        step = interval(
            operation, place, int(file.bin[BINARY_DT]), np.unique(words(file, place, {"dt": TRACE_DT})["dt"]), dt
        )
        feet = int(file.bin[BINARY_SYSTEM]) == 2
        if not word["cdp_x"].any() and not word["cdp_y"].any():
            source = words(file, place, {"cdp_x": HEADER_BYTES["sx"], "cdp_y": HEADER_BYTES["sy"]})
            word |= source
        samples = np.asarray(file.trace.raw[:], np.float32)
    scale = scalar(word["scalco"]) * (FOOT if feet else 1.0)
    start = np.unique(word["delrt"] * scalar(word["scalt"]) * 1e-3)
    if len(start) > 1:
        raise InputError(
            f"{place.name}: traces start at {start[0]:g} to {start[-1]:g} s (delrt); a volume starts at one time."
        )
    numbers = np.stack([word["inline"], word["xline"]], axis=1).astype(np.int64)
    if numbers.any():
        _, first, count = np.unique(numbers, axis=0, return_index=True, return_counts=True)
        if count.max() > 1:
            twice = numbers[first[int(count.argmax())]]
            raise InputError(
                f"{place.name}: {int(count.max())} traces have inline {twice[0]} and crossline {twice[1]}; a volume "
                "has one trace per bin, so name the bytes of its line numbers (inline=..., xline=...)."
            )
    places = np.stack([word["cdp_x"] * scale, word["cdp_y"] * scale], axis=1)
    return SegyVolume(
        samples, numbers[:, 0], numbers[:, 1], places, step, float(start[0]), feet, text_header(place, order)
    )


def write_volume(
    path: str | os.PathLike[str],
    layout: Layout,
    brick: Brick,
    *,
    operation: str,
    text: Sequence[str],
    sample_format: int = 5,
    endian: str = "big",
    progress: Callable[[int, int | None], object] | None = None,
) -> None:
    """Write a volume as SEG-Y revision 1, inline by inline: whole, or not at all.

    Parameters
    ----------
    path
        The file; replaced when it exists.
    layout
        Where the samples are.
    brick
        Returns the samples of a range of inlines and crosslines, (rows, columns, offsets, nt).
    operation
        For messages.
    text
        Lines of the text header, 35 at most, 76 characters each.
    sample_format, endian, progress
        As for surveys; progress counts traces.

    Raises
    ------
    InputError
        Something does not fit the format.
    """
    segyio = optional_library("segyio", operation)
    nx, ny, nb, nt = len(layout.inlines), len(layout.crosslines), len(layout.offsets), len(layout.t)
    check_axis(operation, sample_format, endian, nt, layout.dt)
    constant = {
        **time_words({109: np.array([layout.t[0]])}, 1),
        29: np.ones(1), 89: np.ones(1), 115: np.full(1, nt), 117: np.full(1, round(layout.dt * 1e6)),
    }  # fmt: skip
    varying = {
        **scaled_words({181: layout.places[..., 0].ravel(), 185: layout.places[..., 1].ravel()}, 71, nx * ny),
        189: np.repeat(layout.inlines, ny),
        193: np.tile(layout.crosslines, nx),
        21: np.arange(1, nx * ny + 1),
    }
    spec = segyio.spec()
    spec.format, spec.endian = sample_format, endian
    spec.samples = 1e3 * layout.t
    # Unstructured on writing: the headers below say the same, and segyio reads the geometry back from them.
    spec.tracecount = nx * ny * nb
    with atomic_write(path) as temporary, segyio.create(os.fspath(temporary), spec) as file:
        file.text[0] = segyio.tools.create_text_header(_cards(text))
        file.bin.update(
            {3213: nb, 3217: round(layout.dt * 1e6), 3221: nt, 3225: sample_format, 3229: 4, 3255: 1, 3501: 1, 3503: 1}
        )
        for first in range(0, nx, _BRICK):
            rows = slice(first, min(first + _BRICK, nx))
            for left in range(0, ny, _BRICK):
                columns = slice(left, min(left + _BRICK, ny))
                _write_brick(file, brick(rows, columns), rows, columns, layout, constant, varying, sample_format)
            if progress is not None:
                progress(rows.stop * ny * nb, nx * ny * nb)


def _write_brick(
    file: Any,
    samples: NDArray[Any],
    rows: slice,
    columns: slice,
    layout: Layout,
    constant: Mapping[int, NDArray[Any]],
    varying: Mapping[int, NDArray[Any]],
    sample_format: int,
) -> None:
    ny, nb = len(layout.crosslines), len(layout.offsets)
    same = {byte: int(value[0]) for byte, value in constant.items()}
    for i, row in zip(range(rows.start, rows.stop), samples, strict=True):
        start = (i * ny + columns.start) * nb
        flat = row.reshape(-1, row.shape[-1])
        file.trace.raw[start : start + len(flat)] = as_format(
            np.ascontiguousarray(flat, np.float32), sample_format, start
        )
        for trace in range(start, start + len(flat)):
            pillar, which = divmod(trace, nb)
            here = {byte: int(value[pillar]) for byte, value in varying.items()}
            file.header[trace] = {
                **same, **here, 1: trace + 1, 5: trace + 1, 25: which + 1, 37: int(layout.offsets[which]),
            }  # fmt: skip


def _cards(text: Sequence[str]) -> dict[int, str]:
    """Number the lines of a text header; what EBCDIC has no letter for becomes a question mark."""
    plain = [line.replace("·", "*").encode("ascii", "replace").decode()[:76] for line in text][:35]
    return {**dict(enumerate(plain, 1)), 39: "SEG Y REV1", 40: "END TEXTUAL HEADER"}
