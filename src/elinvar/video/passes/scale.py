"""Another size: fit, fill, stretch, crop; bilinear, bicubic, Lanczos, all with the right width when shrinking."""

# ruff: noqa: D102  (what the methods do is written at Pass)

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from elinvar.errors import InputError
from elinvar.video import filters
from elinvar.video._check import choice, count
from elinvar.video.passes.base import Moment, Spatial

__all__ = ["Scale"]

FILTERS = ("bilinear", "bicubic", "lanczos")
FITS = ("fit", "fill", "stretch", "crop")


@dataclass(frozen=True)
class Scale(Spatial):
    """Change the size of a frame.

    Parameters
    ----------
    width, height
        Of the result, pixels.
    filter
        "bilinear", "bicubic" (Catmull-Rom) or "lanczos" (3 lobes); widened when shrinking.
    fit
        "fit" keeps everything and adds black bars, "fill" cuts what sticks out, "stretch" ignores the aspect, "crop"
        takes `window` and stretches it.
    window
        For "crop": left, top, right, bottom as fractions of the input.
    """

    width: int
    height: int
    filter: str = "lanczos"
    fit: str = "fit"
    window: tuple[float, float, float, float] = (0.0, 0.0, 1.0, 1.0)

    def check(self) -> None:
        count("Scale", "width", self.width, 1, 1 << 16)
        count("Scale", "height", self.height, 1, 1 << 16)
        choice("Scale", "filter", self.filter, FILTERS)
        choice("Scale", "fit", self.fit, FITS)
        left, top, right, bottom = self.window
        if not (0 <= left < right <= 1 and 0 <= top < bottom <= 1):
            raise InputError(f"Scale: window {self.window} is not left < right, top < bottom within 0 to 1.")

    def output_size(self, width: int, height: int) -> tuple[int, int]:
        return self.width, self.height

    def run(
        self, at: Moment, inputs: Sequence[torch.Tensor], out: torch.Tensor, scratch: Sequence[torch.Tensor]
    ) -> None:
        frame = inputs[0][:3]
        h, w = (int(s) for s in frame.shape[1:])
        full = (0.0, 0.0, float(w), float(h))
        ratio = (self.width / w, self.height / h)
        if self.fit == "crop":
            left, top, right, bottom = self.window
            filters.resample(
                frame, (self.width, self.height), (left * w, top * h, right * w, bottom * h), self.filter, out
            )
        elif self.fit == "stretch" or ratio[0] == ratio[1]:
            filters.resample(frame, (self.width, self.height), full, self.filter, out)
        elif self.fit == "fill":
            scale = max(ratio)
            cw, ch = self.width / scale, self.height / scale
            window = (0.5 * (w - cw), 0.5 * (h - ch), 0.5 * (w + cw), 0.5 * (h + ch))
            filters.resample(frame, (self.width, self.height), window, self.filter, out)
        else:
            scale = min(ratio)
            iw, ih = min(self.width, max(1, round(w * scale))), min(self.height, max(1, round(h * scale)))
            part = torch.empty((3, ih, iw), dtype=torch.float32, device=out.device)
            filters.resample(frame, (iw, ih), full, self.filter, part)
            x, y = (self.width - iw) // 2, (self.height - ih) // 2
            out.zero_()
            out[:, y : y + ih, x : x + iw] = part
