"""Pictures made of pictures: contact sheets, and a frame beside its scopes."""

from __future__ import annotations

import math

import torch

from elinvar.video import scopes
from elinvar.video._check import count
from elinvar.video.filters import resample
from elinvar.video.graph import Graph

__all__ = ["contact_sheet", "with_scopes"]


def _scaled(frame: torch.Tensor, width: int, height: int) -> torch.Tensor:
    out = torch.empty(3, height, width)
    return resample(frame, (width, height), (0.0, 0.0, float(frame.shape[2]), float(frame.shape[1])), "bilinear", out)


def contact_sheet(graph: Graph, pictures: int, width: int = 320, gap: int = 8) -> torch.Tensor:
    """Return evenly spaced frames of a graph as one picture, [3, H, W]."""
    count("video.contact_sheet", "pictures", pictures, 1, 400)
    total = graph.frame_count or pictures
    own_width, own_height = graph.size
    height = max(2, round(width * own_height / own_width))
    columns = math.ceil(math.sqrt(pictures))
    rows = math.ceil(pictures / columns)
    sheet = torch.full((3, rows * (height + gap) + gap, columns * (width + gap) + gap), 0.1)
    for k in range(pictures):
        n = min(total - 1, (2 * k + 1) * total // (2 * pictures))
        y, x = gap + k // columns * (height + gap), gap + k % columns * (width + gap)
        sheet[:, y : y + height, x : x + width] = graph.render(n, (width, height)).cpu()
    return sheet


def with_scopes(frame: torch.Tensor, height: int = 360) -> torch.Tensor:
    """Return a display-referred frame with its waveform and vectorscope to the right, [3, height, W]."""
    width = max(2, round(frame.shape[2] * height / frame.shape[1]))
    wave = scopes.picture(scopes.waveform(frame, columns=height, bins=height).flip(0))
    vector = scopes.picture(scopes.vectorscope(frame, bins=height), (0.9, 0.9, 1.0))
    return torch.cat([_scaled(frame, width, height), wave, vector], 2)
