"""Y'CbCr: formats, matrices, ranges, siting, and exact code values.

A code is ``round(v)`` of ``v = scale Y + offset`` and of the colour differences, for n bits (ITU-T H.273, 8.3):

======== ============================ =====================================
range    luma                         chroma
======== ============================ =====================================
limited  (219 Y + 16) 2^(n-8)         (224 C + 128) 2^(n-8)
full     (2^n - 1) Y                  (2^n - 1) C + 2^(n-1)
======== ============================ =====================================

``Y = Kr R + Kg G + Kb B``, ``Cb = (B - Y) / (2 (1 - Kb))``, ``Cr = (R - Y) / (2 (1 - Kr))``.
"""

# ruff: noqa: A002  (format and range are what the field calls them)

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray

from elinvar.video._check import choice

__all__ = ["FORMATS", "MATRICES", "RANGES", "SITINGS", "Coding", "PixelFormat", "coding"]

MATRICES = {
    "bt601": (0.299, 0.114),
    "bt709": (0.2126, 0.0722),
    "bt2020": (0.2627, 0.0593),
}
"""Kr and Kb (ITU-R BT.601-7, BT.709-6, BT.2020-2 non-constant luminance)."""
RANGES = ("limited", "full")
SITINGS = {"left": 0, "center": 1, "topleft": 2}
"""Where a chroma sample sits among its pixels: beside the left column, in the middle, on the upper left pixel."""


@dataclass(frozen=True)
class PixelFormat:
    """How codes lie in memory.

    Attributes
    ----------
    name
        What this library calls it.
    av
        FFmpeg's name of it.
    across, down
        Pixels per chroma sample.
    bits, shift
        Bits of a code, and how far it is shifted up in its word.
    interleaved
        Cb and Cr alternate in one plane.
    """

    name: str
    av: str
    across: int
    down: int
    bits: int
    shift: int = 0
    interleaved: bool = False

    @property
    def dtype(self) -> torch.dtype:
        """uint8 or uint16."""
        return torch.uint8 if self.bits == 8 else torch.uint16

    def shapes(self, width: int, height: int) -> tuple[tuple[int, ...], ...]:
        """Return the planes' shapes: luma, then Cb and Cr, or both as [.., .., 2]."""
        chroma = (-(-height // self.down), -(-width // self.across))
        return ((height, width), (*chroma, 2)) if self.interleaved else ((height, width), chroma, chroma)

    def frame_bytes(self, width: int, height: int) -> int:
        """Return the bytes of one frame."""
        words = sum(int(np.prod(shape)) for shape in self.shapes(width, height))
        return words * (1 if self.bits == 8 else 2)

    def empty(self, width: int, height: int, device: torch.device | str = "cpu") -> tuple[torch.Tensor, ...]:
        """Return uninitialised planes."""
        return tuple(torch.empty(s, dtype=self.dtype, device=device) for s in self.shapes(width, height))


FORMATS = {
    f.name: f
    for f in (
        PixelFormat("nv12", "nv12", 2, 2, 8, interleaved=True),
        PixelFormat("p010", "p010le", 2, 2, 10, shift=6, interleaved=True),
        PixelFormat("yuv420p", "yuv420p", 2, 2, 8),
        PixelFormat("yuv420p10", "yuv420p10le", 2, 2, 10),
        PixelFormat("yuv422p", "yuv422p", 2, 1, 8),
        PixelFormat("yuv422p10", "yuv422p10le", 2, 1, 10),
        PixelFormat("yuv422p12", "yuv422p12le", 2, 1, 12),
        PixelFormat("yuv444p", "yuv444p", 1, 1, 8),
        PixelFormat("yuv444p10", "yuv444p10le", 1, 1, 10),
        PixelFormat("yuv444p12", "yuv444p12le", 1, 1, 12),
        PixelFormat("yuv420p12", "yuv420p12le", 2, 2, 12),
    )
}


@dataclass(frozen=True)
class Coding:
    """A format with its matrix, range and siting: everything between R'G'B' and codes."""

    format: PixelFormat
    matrix: str
    range: str
    siting: str
    dither: bool = False

    def vector(self) -> NDArray[np.float32]:
        """Return kr, kg, kb, luma scale and offset, top code, dither, Cb and Cr scale, chroma offset."""
        kr, kb = MATRICES[self.matrix]
        n = self.format.bits
        top = float((1 << n) - 1)
        if self.range == "limited":
            unit = float(1 << (n - 8))
            scale, offset, chroma, middle = 219 * unit, 16 * unit, 224 * unit, 128 * unit
        else:
            scale, offset, chroma, middle = top, 0.0, top, float(1 << (n - 1))
        values = (
            kr, 1.0 - kr - kb, kb, scale, offset, top, float(self.dither),
            chroma / (2 * (1 - kb)), chroma / (2 * (1 - kr)), middle,
        )  # fmt: skip
        return np.array(values, np.float32)


def coding(
    format: str = "nv12",
    matrix: str = "bt709",
    range: str = "limited",
    siting: str | None = None,
    dither: bool = False,
) -> Coding:
    """Check and collect how codes are made.

    Parameters
    ----------
    format
        One of `FORMATS`.
    matrix
        One of `MATRICES`.
    range
        "limited" or "full".
    siting
        "left", "center" or "topleft"; None takes what decoders assume: "topleft" with bt2020 at 4:2:0, else "left".
    dither
        Add uniform noise of one code before rounding down. Exact codes stay exact, gradients lose their bands.
    """
    try:
        return _coding(format, matrix, range, siting, bool(dither))
    except TypeError:  # what cannot be hashed is no name either: the same says so
        return _coding.__wrapped__(format, matrix, range, siting, bool(dither))


@lru_cache(maxsize=256)
def _coding(format: str, matrix: str, range: str, siting: str | None, dither: bool) -> Coding:
    operation = "color.to_yuv"
    choice(operation, "format", format, FORMATS)
    choice(operation, "matrix", matrix, MATRICES)
    choice(operation, "range", range, RANGES)
    if siting is None:
        siting = "topleft" if matrix == "bt2020" and FORMATS[format].down == 2 else "left"
    choice(operation, "siting", siting, SITINGS)
    return Coding(FORMATS[format], matrix, range, siting, dither)
