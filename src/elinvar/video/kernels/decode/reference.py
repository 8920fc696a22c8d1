"""The same in plain torch, in the precision of `out`."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from elinvar.video.yuv import Coding

__all__ = ["decode"]


def decode(planes: Sequence[torch.Tensor], out: torch.Tensor, how: Coding) -> None:
    """Write R'G'B' into `out` [3, H, W]."""
    form, k = how.format, [float(v) for v in how.vector()]
    height, width = planes[0].shape
    luma = (planes[0].to(torch.int32) >> form.shift).to(out.dtype)
    pair = planes[1].movedim(-1, 0) if form.interleaved else torch.stack(tuple(planes[1:]))
    chroma = (pair.to(torch.int32) >> form.shift).to(out.dtype) - k[9]
    for dim, size, factor, co_sited in (
        (1, height, form.down, how.siting == "topleft"),
        (2, width, form.across, how.siting != "center"),
    ):
        if factor == 1:
            continue
        place = torch.arange(size, device=luma.device)
        position = place / 2 if co_sited else (place - 0.5) / 2
        low = position.floor().long()
        weight = (position - low).reshape((1, -1, 1) if dim == 1 else (1, 1, -1))
        top = chroma.shape[dim] - 1
        a = chroma.index_select(dim, low.clamp(0, top))
        chroma = a + (chroma.index_select(dim, (low + 1).clamp(0, top)) - a) * weight
    grey = (luma - k[4]) / k[3]
    blue, red = chroma[0] / k[7], chroma[1] / k[8]
    torch.stack([grey + red, grey - (k[2] * blue + k[0] * red) / k[1], grey + blue], out=out)
