"""Passes on display-referred pixels, behind the output transform: grain, false colour, watermark, text."""

# ruff: noqa: D102  (what the methods do is written at Pass)

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from elinvar.errors import InputError
from elinvar.video import ops
from elinvar.video._check import choice, number
from elinvar.video.passes.base import Animated, Moment, Point, Spatial
from elinvar.video.passes.grade import _checked
from elinvar.video.shadecode import Op

__all__ = ["FalseColour", "Grain", "Watermark"]


@dataclass(frozen=True)
class Grain(Point):
    """Film grain: monochrome, stronger in the shadows, a function of seed, frame and pixel only.

    Parameters
    ----------
    amount
        Standard deviation in display units (animated).
    shadows
        How much stronger in the darks.
    size
        In pixels at 1080 lines; up to 1 the grain is one pixel.
    """

    display = True
    amount: Animated = 0.02
    shadows: float = 1.2
    size: float = 1.0
    seed: int = 0

    def check(self) -> None:
        _checked("Grain", amount=(self.amount, 0, 1))
        number("Grain", "shadows", self.shadows, 0, 10)
        number("Grain", "size", self.size, 0.1, 64)

    def ops(self, at: Moment) -> list[Op]:
        values: dict[str, float] = {"amount": at.value(self.amount), "shadows": self.shadows}
        values["seed"] = (self.seed * 1000003 + at.n) & 0x7FFFFFFF
        size = self.size * at.unit
        return [Op(ops.grain, values)] if size <= 1.0 else [Op(ops.coarse_grain, values | {"size": size})]


@dataclass(frozen=True)
class FalseColour(Point):
    """Exposure as colours: dark blue 0, green 0.5, red 1."""

    display = True

    def ops(self, at: Moment) -> list[Op]:
        return [Op(ops.false_colour, {})]


_CORNERS = {
    "top left": (0, 0),
    "top right": (1, 0),
    "bottom left": (0, 1),
    "bottom right": (1, 1),
    "center": (0.5, 0.5),
}


class Watermark(Spatial):
    """A picture with transparency over the frame.

    Parameters
    ----------
    image
        A path, or a tensor [4, h, w] with straight alpha in [0, 1].
    position
        "top left", "top right", "bottom left", "bottom right" or "center".
    opacity
        Animated.
    width
        Of the picture relative to the frame.
    margin
        Relative to the frame's height.
    """

    display = True

    def __init__(
        self,
        image: Any,
        position: str = "bottom right",
        opacity: Animated = 0.8,
        width: float = 0.15,
        margin: float = 0.03,
    ) -> None:
        self.position = choice("Watermark", "position", position, _CORNERS)
        self.opacity = opacity
        self.width = number("Watermark", "width", width, 0.001, 1)
        self.margin = number("Watermark", "margin", margin, 0, 0.5)
        self.image = _with_alpha(image)
        _checked("Watermark", opacity=(opacity, 0, 1))

    def run(
        self, at: Moment, inputs: Sequence[torch.Tensor], out: torch.Tensor, scratch: Sequence[torch.Tensor]
    ) -> None:
        from elinvar.video.filters import resample

        _, height, width = out.shape
        out.copy_(inputs[0][:3])
        w = max(1, round(self.width * width))
        h = max(1, round(w * self.image.shape[1] / self.image.shape[2]))
        picture = torch.empty(4, h, w)
        source = (0.0, 0.0, float(self.image.shape[2]), float(self.image.shape[1]))
        resample(self.image, (w, h), source, "bilinear", picture)
        ax, ay = _CORNERS[self.position]
        margin = round(self.margin * height)
        x = round(margin + ax * (width - w - 2 * margin))
        y = round(margin + ay * (height - h - 2 * margin))
        picture = picture[:, : height - max(y, 0), : width - max(x, 0)].to(out.device)
        part = out[:, max(y, 0) : max(y, 0) + picture.shape[1], max(x, 0) : max(x, 0) + picture.shape[2]]
        k = at.value(self.opacity)
        part.mul_(1.0 - k * picture[3:]).add_(k * picture[:3])


def _with_alpha(image: Any) -> torch.Tensor:
    """Return [4, h, w], colours multiplied by alpha."""
    if isinstance(image, (str, Path)):
        import numpy as np

        from elinvar.video._check import optional_library

        pillow = optional_library("PIL.Image", "Watermark")
        if not Path(image).is_file():
            raise InputError(f"Watermark: {image} is not there; give the path of a PNG.")
        with pillow.open(image) as picture:
            image = torch.from_numpy(np.array(picture.convert("RGBA"))).movedim(-1, 0).float() / 255
    if not isinstance(image, torch.Tensor) or image.dim() != 3 or image.shape[0] != 4:
        raise InputError("Watermark: give a path or a tensor [4, h, w] in [0, 1].")
    image = image.float()
    return torch.cat([image[:3] * image[3:], image[3:]]).contiguous()
