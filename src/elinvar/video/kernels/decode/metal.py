"""Launch of ``decode.metal``, compiled for each way codes lie in memory."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from elinvar import metal
from elinvar.video.kernels.bloom.metal import aligned
from elinvar.video.yuv import SITINGS, Coding

__all__ = ["decode"]


@lru_cache(maxsize=64)
def _library(device: Any, word: str, across: int, down: int, siting: int, pairs: bool, shift: int, wide: bool) -> Any:
    names = {"WORD": word, "PAIR": f"{word}2", "QUAD": f"{word}4"}
    numbers = {
        "ACROSS": across, "DOWN": down, "SITING": siting, "PAIRS": int(pairs), "SHIFT": shift, "WIDE": int(wide),
    }  # fmt: skip
    return metal.compile(Path(__file__).with_name("decode.metal"), device, defines={**names, **numbers})


def decode(planes: Sequence[torch.Tensor], out: torch.Tensor, how: Coding, *, device: Any) -> None:
    """Write R'G'B' into `out` [3, H, W] float32."""
    form, k = how.format, [float(v) for v in how.vector()]
    (height, width), (rows, columns) = planes[0].shape, planes[1].shape[:2]
    planes = [plane.contiguous() for plane in planes]
    size = planes[0].element_size()
    wide = width % 4 == 0 and aligned(planes[0], 4 * size) and aligned(out, 16)
    siting = SITINGS[how.siting] if form.across == 2 or form.down == 2 else 0
    library = _library(
        device, "uchar" if size == 1 else "ushort", form.across, form.down, siting, form.interleaved, form.shift, wide
    )
    library.decode(
        planes[0], planes[1], planes[-1], out, width, height, columns, rows, k[4], 1.0 / k[3], k[9], 1.0 / k[7],
        1.0 / k[8], k[2] / (k[1] * k[7]), k[0] / (k[1] * k[8]), threads=(-(-width // 4), height),
    )  # fmt: skip
