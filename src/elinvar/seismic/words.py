"""Which trace header words a file uses: for finding the geometry when it is not where the standard has it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from elinvar.errors import InputError

from ._check import optional_library
from .headers import WORDS
from .tracefile import opened

__all__ = ["header_words"]


def header_words(path: str | os.PathLike[str], endian: str = "auto") -> list[dict[str, Any]]:
    """Return a row for every standard trace header word that is not zero throughout.

    Parameters
    ----------
    path
        SEG-Y, or Seismic Unix when the name ends in ``.su``.
    endian
        ``"auto"``, ``"big"`` or ``"little"``.

    Returns
    -------
    list of dict
        ``byte``, ``name`` (as ``open_segy`` calls it, when it has a name), ``about`` (segyio's name for it), ``low``,
        ``high``, ``values`` (how many different ones) and ``trace 0``, all as stored: no scalar is applied.

    Raises
    ------
    InputError
        The file cannot be read.
    """
    import numpy as np

    from .segy import byte_order
    from .su import su_byte_order

    segyio = optional_library("segyio", "header_words")
    place = Path(path)
    unix = place.suffix.lower() == ".su"
    order = su_byte_order(place, endian) if unix else byte_order(place, endian, "info")
    names = {word.byte: name for name, word in WORDS.items()}
    rows = []
    with opened(place, order, "su" if unix else "segy") as file:
        for byte in sorted(int(key) for key in segyio.tracefield.keys.values()):
            column = file.attributes(byte)[:]
            if column.any():
                rows.append(
                    {
                        "byte": byte,
                        "name": names.get(byte, ""),
                        "about": str(segyio.TraceField(byte)),
                        "low": int(column.min()),
                        "high": int(column.max()),
                        "values": len(np.unique(column)),
                        "trace 0": int(column[0]),
                    }
                )
    if not rows:
        raise InputError(f"{place.name}: every trace header word is zero; the file has no trace headers to speak of.")
    return rows
