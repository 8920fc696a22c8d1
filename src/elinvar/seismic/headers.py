"""Trace header words of SEG-Y and SU: where they are, what they are, and columns of them that are read when used.

Names are Seismic Unix's key words where it has one. In a file, coordinates are scaled by ``scalco``, elevations by
``scalel`` and times (milliseconds) by ``scalt``: positive multiplies, negative divides, 0 means 1.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

__all__ = ["COLUMNS", "HEADER_BYTES", "WORDS", "Columns", "Word", "scalar", "scaled"]

Floats = NDArray[np.float64]
Column = NDArray[Any]
Indices = NDArray[np.int64]
FOOT = 0.3048


@dataclass(frozen=True)
class Word:
    """A trace header word: its standard place (1-based byte), what scales it, and what it is."""

    byte: int
    scale: Literal["", "scalco", "scalel", "scalt"]
    about: str


WORDS = {
    "sx": Word(73, "scalco", "source easting, m"),
    "sy": Word(77, "scalco", "source northing, m"),
    "gx": Word(81, "scalco", "receiver easting, m"),
    "gy": Word(85, "scalco", "receiver northing, m"),
    "scalco": Word(71, "", "scales coordinates"),
    "counit": Word(89, "", "unit of coordinates: 1 length, 2-4 geographic"),
    "offset": Word(37, "", "signed source-receiver distance; scalco does not apply"),
    "trid": Word(29, "", "trace identification: 1 seismic, 0 not said, 2 dead"),
    "delrt": Word(109, "scalt", "time of the first sample, s"),
    "scalt": Word(215, "", "scales times"),
    "scalel": Word(69, "", "scales elevations and depths"),
    "fldr": Word(9, "", "field record number"),
    "tracf": Word(13, "", "trace number in the field record"),
    "ep": Word(17, "", "energy source point number"),
    "cdp": Word(21, "", "ensemble (CDP) number"),
    "gelev": Word(41, "scalel", "receiver elevation, m"),
    "selev": Word(45, "scalel", "surface elevation at the source, m"),
    "sdepth": Word(49, "scalel", "source depth below the surface, m"),
    "gdel": Word(53, "scalel", "datum elevation at the receiver, m"),
    "sdel": Word(57, "scalel", "datum elevation at the source, m"),
    "swdep": Word(61, "scalel", "water depth at the source, m"),
    "gwdep": Word(65, "scalel", "water depth at the receiver, m"),
    "sstat": Word(99, "scalt", "source static, s"),
    "gstat": Word(101, "scalt", "receiver static, s"),
    "tstat": Word(103, "scalt", "total static applied, s"),
    "muts": Word(111, "scalt", "mute start, s"),
    "mute": Word(113, "scalt", "mute end, s"),
    "cdp_x": Word(181, "scalco", "CDP easting, m"),
    "cdp_y": Word(185, "scalco", "CDP northing, m"),
    "inline": Word(189, "", "inline number"),
    "xline": Word(193, "", "crossline number"),
}
#: Where each word is by the standard.
HEADER_BYTES = {name: word.byte for name, word in WORDS.items()}
#: Words that are per-trace columns of a survey; the others are the geometry itself, or only scale others.
COLUMNS = tuple(list(WORDS)[list(WORDS).index("fldr") :])


def scalar(word: Column) -> Floats:
    """Apply the rule of the standard: positive multiplies, negative divides, 0 means 1."""
    value = np.asarray(word, np.float64)
    magnitude = np.where(value == 0, 1.0, np.abs(value))
    return np.where(value < 0, 1.0 / magnitude, magnitude)


def scaled(name: str, word: Column, scale: Column | None, feet: float = 1.0) -> Column:
    """Return a word as metres or seconds, or, for a number, as it is.

    Parameters
    ----------
    name
        Of :data:`WORDS`.
    word
        As stored, (n,).
    scale
        The scale words, as stored; None for 1.
    feet
        Metres per unit of length.
    """
    kind = WORDS[name].scale
    if not kind:
        return word
    value = word * (1.0 if scale is None else scalar(scale))
    return value * (1e-3 if kind == "scalt" else feet)


class Columns(Mapping[str, Column]):
    """Named per-trace values, each read when it is first asked for, then kept.

    Parameters
    ----------
    read
        Returns one column, (n,); must survive pickling when the survey is to go to a cluster.
    names
        What there is.
    """

    def __init__(self, read: Callable[[str], Column], names: tuple[str, ...]) -> None:
        self._read = read
        self._names = names
        self._kept: dict[str, Column] = {}

    def __getitem__(self, name: str) -> Column:
        if name not in self._names:
            raise KeyError(name)
        if name not in self._kept:
            column = np.asarray(self._read(name))
            column.flags.writeable = False
            self._kept[name] = column
        return self._kept[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def __repr__(self) -> str:
        return f"<Columns {', '.join(self._names) or 'none'}>"

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_kept": {}}

    def at(self, index: Indices) -> Columns:
        """Return the columns of some traces."""
        if isinstance(self._read, _Some):  # one step from the file, however often a part of a part was taken
            return Columns(_Some(self._read.columns, self._read.index[index]), self._names)
        return Columns(_Some(self, index), self._names)


@dataclass(frozen=True, eq=False)
class _Some:
    """Reads some rows of other columns."""

    columns: Columns
    index: Indices

    def __call__(self, name: str) -> Column:
        return self.columns[name][self.index]
