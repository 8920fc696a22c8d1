"""How far two colours are apart: CIELAB and CIEDE2000, in float64."""

from __future__ import annotations

import math

import torch

from elinvar.video import shade
from elinvar.video.spaces import PRIMARIES, space, to_xyz

__all__ = ["ciede2000", "to_lab"]


def to_lab(frame: torch.Tensor, name: str) -> torch.Tensor:
    """Return CIE L*a*b* relative to the space's own white; [3, H, W] float64."""
    from elinvar.video.color import decode_ops

    where = space(name)
    linear = shade.reference(frame[:3].double(), decode_ops(name, where.primaries))
    xyz = torch.einsum("ij,jhw->ihw", torch.from_numpy(to_xyz(where.primaries)), linear)
    x, y = PRIMARIES[where.primaries][3]
    xyz = xyz / torch.tensor([x / y, 1.0, (1 - x - y) / y], dtype=torch.float64)[:, None, None]
    small = 216 / 24389
    f = torch.where(xyz > small, xyz.clamp(min=small) ** (1 / 3), (24389 / 27 * xyz + 16) / 116)
    return torch.stack([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


def _hue(b: torch.Tensor, a: torch.Tensor) -> torch.Tensor:
    return torch.rad2deg(torch.atan2(b, a)) % 360


def ciede2000(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """Return dE2000 of two L*a*b* frames (Sharma, Wu and Dalal, 2005)."""
    (l1, a1, b1), (l2, a2, b2) = first, second
    chroma = 0.5 * (torch.hypot(a1, b1) + torch.hypot(a2, b2))
    seven = chroma**7
    g = 1 + 0.5 * (1 - torch.sqrt(seven / (seven + 25.0**7)))
    c1, c2 = torch.hypot(g * a1, b1), torch.hypot(g * a2, b2)
    h1, h2 = _hue(b1, g * a1), _hue(b2, g * a2)
    grey = c1 * c2 == 0
    dh = torch.where(grey, torch.zeros_like(h1), (h2 - h1 + 180) % 360 - 180)
    dl, dc = l2 - l1, c2 - c1
    dhue = 2 * torch.sqrt(c1 * c2) * torch.sin(torch.deg2rad(dh / 2))
    lm, cm = 0.5 * (l1 + l2), 0.5 * (c1 + c2)
    total = h1 + h2
    hm = torch.where((h1 - h2).abs() <= 180, total / 2, torch.where(total < 360, (total + 360) / 2, (total - 360) / 2))
    hm = torch.where(grey, total, hm)

    def cos(factor: float, offset: float) -> torch.Tensor:
        return torch.cos((factor * hm + offset) * (math.pi / 180))

    t = 1 - 0.17 * cos(1, -30) + 0.24 * cos(2, 0) + 0.32 * cos(3, 6) - 0.20 * cos(4, -63)
    sl = 1 + 0.015 * (lm - 50) ** 2 / torch.sqrt(20 + (lm - 50) ** 2)
    sc, sh = 1 + 0.045 * cm, 1 + 0.015 * cm * t
    seven = cm**7
    turn = 30 * torch.exp(-(((hm - 275) / 25) ** 2))
    rt = -2 * torch.sqrt(seven / (seven + 25.0**7)) * torch.sin(torch.deg2rad(2 * turn))
    square = (dl / sl) ** 2 + (dc / sc) ** 2 + (dhue / sh) ** 2 + rt * (dc / sc) * (dhue / sh)
    return torch.sqrt(square.clamp(min=0))
