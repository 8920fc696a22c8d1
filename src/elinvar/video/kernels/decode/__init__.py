"""Kernel ``video.decode``: R'G'B' [3, H, W] from planes of Y'CbCr codes, chroma interpolated linearly from where it
sits (ITU-T H.273; formats, ranges and sitings are described in `elinvar.video.yuv`).

What crosses the bus for a decoded frame are then its codes, 1.5 or 3 bytes a pixel instead of 12.
"""

from __future__ import annotations

from typing import Any

import torch

from elinvar.runtime.kernels import register
from elinvar.video.yuv import coding

__all__ = ["NAME", "example"]

NAME = "video.decode"
_HERE = "elinvar.video.kernels.decode"
_TILES = (
    ("nv12", "bt709", "limited", "left", 24, 10),
    ("yuv420p", "bt601", "full", "center", 21, 13),
    ("p010", "bt2020", "limited", "topleft", 36, 7),
    ("yuv422p10", "bt709", "limited", "left", 18, 6),
    ("yuv444p12", "bt2020", "full", "left", 7, 5),
    ("yuv420p12", "bt2020", "limited", "left", 2, 2),
)


def example(seed: int) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Random codes of one of several formats, sizes odd among them."""
    form, matrix, range_, siting, width, height = _TILES[seed % len(_TILES)]
    how = coding(form, matrix, range_, siting)
    make = torch.Generator().manual_seed(seed)
    planes = [
        (torch.randint(0, 1 << how.format.bits, shape, generator=make) << how.format.shift).to(how.format.dtype)
        for shape in how.format.shapes(width, height)
    ]
    return (planes, torch.zeros(3, height, width), how), {}


register(
    NAME,
    "v1",
    reference=f"{_HERE}.reference:decode",
    cpu=f"{_HERE}.cpu:decode",
    metal=f"{_HERE}.metal:decode",
    source="elinvar/video/kernels/decode/decode.metal",
    example=example,
    tolerance=2e-6,
    summary="R'G'B' of Y'CbCr codes, chroma interpolated from where it sits",
    default=True,
)
