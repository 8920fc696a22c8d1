"""What is in a picture: waveform, vectorscope, histogram, as counts and as pictures."""

from __future__ import annotations

import torch

from elinvar.video._check import choice, count, planar
from elinvar.video.yuv import MATRICES

__all__ = ["histogram", "picture", "vectorscope", "waveform"]


def _codes(values: torch.Tensor, bins: int) -> torch.Tensor:
    """Return bin numbers of values in [0, 1]; what lies outside counts at the ends, NaN at 0."""
    safe = torch.where(values == values, values, torch.zeros_like(values))
    return (safe.clamp(0, 1) * (bins - 1) + 0.5).long()


def _luma(frame: torch.Tensor, matrix: str) -> torch.Tensor:
    kr, kb = MATRICES[choice("video.scopes", "matrix", matrix, MATRICES)]
    return kr * frame[0] + (1 - kr - kb) * frame[1] + kb * frame[2]


def histogram(frame: torch.Tensor, bins: int = 256, matrix: str = "bt709") -> torch.Tensor:
    """Count values of display-referred pixels.

    Returns
    -------
    Tensor[4, bins] int64
        Red, green, blue, luma; every row adds up to the number of pixels.
    """
    frame = planar("video.scopes.histogram", frame)
    count("video.scopes.histogram", "bins", bins, 2, 65536)
    rows = [*frame[:3], _luma(frame, matrix)]
    return torch.stack([torch.bincount(_codes(row.flatten(), bins), minlength=bins) for row in rows])


def waveform(frame: torch.Tensor, columns: int = 256, bins: int = 256, matrix: str = "bt709") -> torch.Tensor:
    """Count luma by column of the picture.

    Returns
    -------
    Tensor[bins, columns] int64
        White is the last row.
    """
    frame = planar("video.scopes.waveform", frame)
    count("video.scopes.waveform", "columns", columns, 1, 8192)
    count("video.scopes.waveform", "bins", bins, 2, 8192)
    height, width = frame.shape[1:]
    place = (torch.arange(width, device=frame.device) * columns // width).expand(height, width)
    index = _codes(_luma(frame, matrix), bins) * columns + place
    return torch.bincount(index.flatten(), minlength=bins * columns).reshape(bins, columns)


def vectorscope(frame: torch.Tensor, bins: int = 256, matrix: str = "bt709") -> torch.Tensor:
    """Count colour differences: Cb to the right, Cr upwards.

    Returns
    -------
    Tensor[bins, bins] int64
        Row 0 is the largest Cr; the centre is grey.
    """
    frame = planar("video.scopes.vectorscope", frame)
    count("video.scopes.vectorscope", "bins", bins, 2, 8192)
    kr, kb = MATRICES[choice("video.scopes", "matrix", matrix, MATRICES)]
    luma = _luma(frame, matrix)
    cb, cr = (frame[2] - luma) / (2 * (1 - kb)) + 0.5, (frame[0] - luma) / (2 * (1 - kr)) + 0.5
    index = (bins - 1 - _codes(cr, bins)) * bins + _codes(cb, bins)
    return torch.bincount(index.flatten(), minlength=bins * bins).reshape(bins, bins)


def picture(counts: torch.Tensor, colour: tuple[float, float, float] = (0.4, 1.0, 0.5)) -> torch.Tensor:
    """Return counts [h, w] as a picture [3, h, w] in [0, 1]; brightness is the logarithm of the count.

    Waveforms are turned so that white is on top.
    """
    level = torch.log1p(counts.double())
    level = (level / level.max().clamp(min=1e-9)).float()
    return level[None] * torch.tensor(colour)[:, None, None]
