"""Text over the picture, drawn from the distance fields of `elinvar.video.text`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from elinvar.video._check import number
from elinvar.video.filters import gaussian
from elinvar.video.passes.base import Animated, Moment, Spatial
from elinvar.video.text import default_font, faces, line_field

__all__ = ["Text"]


@dataclass(frozen=True)
class Text(Spatial):
    """Text over the picture, on display-referred pixels.

    Parameters
    ----------
    text
        Lines separated by newlines.
    size
        Of the em square, pixels at 1080 lines.
    position
        Of the anchor as fractions of the frame (each animated).
    anchor
        (0, 0) puts the block's upper left corner there, (0.5, 0.5) its centre.
    colour, opacity
        Display-referred; the opacity is animated.
    outline, outline_colour
        Width in pixels at 1080 lines.
    shadow, shadow_blur, shadow_opacity
        Offset and standard deviation in pixels at 1080 lines.
    font
        Path of a .ttf or .otf file; None takes `default_font`.
    """

    display = True
    text: str
    size: float = 48.0
    position: tuple[Animated, Animated] = (0.5, 0.9)
    anchor: tuple[float, float] = (0.5, 0.5)
    colour: tuple[float, float, float] = (1.0, 1.0, 1.0)
    opacity: Animated = 1.0
    outline: float = 0.0
    outline_colour: tuple[float, float, float] = (0.0, 0.0, 0.0)
    shadow: tuple[float, float] = (0.0, 0.0)
    shadow_blur: float = 3.0
    shadow_opacity: float = 0.0
    spacing: float = 1.25
    font: str | None = None

    def check(self) -> None:
        """Raise InputError for sizes out of range or a font that is not there."""
        number("Text", "size", self.size, 1, 4000)
        number("Text", "outline", self.outline, 0, 200)
        number("Text", "shadow_blur", self.shadow_blur, 0, 200)
        number("Text", "shadow_opacity", self.shadow_opacity, 0, 1)
        faces(self.font or default_font())

    def run(
        self, at: Moment, inputs: Sequence[torch.Tensor], out: torch.Tensor, scratch: Sequence[torch.Tensor]
    ) -> None:
        """Draw over the first input."""
        out.copy_(inputs[0][:3])
        unit = at.unit
        size, font = self.size * unit, self.font or default_font()
        far = self.outline * unit + 3 * self.shadow_blur * unit + max(map(abs, self.shadow)) * unit
        margin = math.ceil(far) + 2
        lines = [line_field(line, font, size, margin) for line in self.text.split("\n")]
        step = self.spacing * size
        height = step * len(lines)
        x0, y0 = (at.value(p) * n for p, n in zip(self.position, (at.width, at.height), strict=True))
        opacity = min(max(at.value(self.opacity), 0.0), 1.0)
        for k, (field, width) in enumerate(lines):
            left = round(x0 - self.anchor[0] * width) - margin
            top = round(y0 - self.anchor[1] * height + k * step) - margin
            self._draw(out, field, left, top, unit, opacity)

    def _draw(self, out: torch.Tensor, field: torch.Tensor, left: int, top: int, unit: float, opacity: float) -> None:
        fill = (field + 0.5).clamp(0, 1)
        wide = (field + self.outline * unit + 0.5).clamp(0, 1) if self.outline > 0 else fill
        if self.shadow_opacity > 0:
            blurred = gaussian(wide[None], self.shadow_blur * unit)[0] if self.shadow_blur > 0 else wide
            dx, dy = (round(s * unit) for s in self.shadow)
            _over(out, blurred, left + dx, top + dy, (0.0, 0.0, 0.0), opacity * self.shadow_opacity)
        if self.outline > 0:
            _over(out, wide, left, top, self.outline_colour, opacity)
        _over(out, fill, left, top, self.colour, opacity)


def _over(out: torch.Tensor, mask: torch.Tensor, left: int, top: int, colour: Sequence[float], opacity: float) -> None:
    """Mix a colour in by a mask whose upper left corner is at (left, top)."""
    _, height, width = out.shape
    x0, y0 = max(0, left), max(0, top)
    x1, y1 = min(width, left + mask.shape[1]), min(height, top + mask.shape[0])
    if x1 <= x0 or y1 <= y0:
        return
    part = mask[y0 - top : y1 - top, x0 - left : x1 - left].to(out.device) * opacity
    area = out[:, y0:y1, x0:x1]
    pixel = torch.tensor(colour, device=out.device)[:, None, None]
    area.mul_(1.0 - part).add_(part * pixel)
