"""What lenses do: distortion, coloured edges, fall-off, depth of field."""

# ruff: noqa: D102  (what the methods do is written at Pass)

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from elinvar.errors import InputError
from elinvar.video import filters, ops
from elinvar.video._check import number
from elinvar.video.passes.base import Animated, Moment, Point, Spatial
from elinvar.video.passes.grade import _checked
from elinvar.video.shadecode import Op

__all__ = ["DepthOfField", "Dispersion", "Lens", "Vignette"]


def _grid(out: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, float]:
    """Return coordinates from the centre in half heights, [1, W] and [H, 1], and half a height in pixels."""
    _, height, width = out.shape
    half = 0.5 * height
    x = (torch.arange(width, device=out.device, dtype=torch.float32)[None] + 0.5 - 0.5 * width) / half
    y = (torch.arange(height, device=out.device, dtype=torch.float32)[:, None] + 0.5 - 0.5 * height) / half
    return x, y, half


def _read(
    frame: torch.Tensor,
    channel: int,
    x: torch.Tensor,
    y: torch.Tensor,
    scale: torch.Tensor,
    half: float,
    to: torch.Tensor,
) -> None:
    """Read one channel at scaled coordinates; pixel centres are at whole numbers plus a half."""
    _, height, width = frame.shape
    filters.bilinear_map(
        frame, channel, x * scale * half + 0.5 * width - 0.5, y * scale * half + 0.5 * height - 0.5, to
    )


@dataclass(frozen=True)
class Lens(Spatial):
    """Radial distortion and lateral chromatic aberration.

    A pixel at p (from the centre, in half heights) shows what is at ``p (1 - k1 r² - k2 r⁴)``; red and blue are read at
    that place times ``1 ∓ aberration r²``, green stays. Black outside.
    """

    k1: Animated = 0.0
    k2: Animated = 0.0
    aberration: Animated = 0.0

    def check(self) -> None:
        _checked("Lens", k1=(self.k1, -1, 1), k2=(self.k2, -1, 1), aberration=(self.aberration, -1, 1))

    def run(
        self, at: Moment, inputs: Sequence[torch.Tensor], out: torch.Tensor, scratch: Sequence[torch.Tensor]
    ) -> None:
        x, y, half = _grid(out)
        r2 = x * x + y * y
        scale = 1.0 - at.value(self.k1) * r2 - at.value(self.k2) * r2 * r2
        edge = at.value(self.aberration) * r2
        for channel, sign in enumerate((-1.0, 0.0, 1.0)):
            _read(inputs[0], channel, x, y, scale * (1.0 + sign * edge), half, out[channel])


@dataclass(frozen=True)
class Dispersion(Spatial):
    """Red and blue pulled apart along the radius by `spread` pixels at 1080 lines (animated), read bilinearly."""

    spread: Animated = 4.0

    def check(self) -> None:
        _checked("Dispersion", spread=(self.spread, -1000, 1000))

    def run(
        self, at: Moment, inputs: Sequence[torch.Tensor], out: torch.Tensor, scratch: Sequence[torch.Tensor]
    ) -> None:
        x, y, half = _grid(out)
        shift = at.value(self.spread) * at.unit / half / torch.sqrt(x * x + y * y).clamp(min=1e-6)
        for channel, sign in enumerate((-1.0, 0.0, 1.0)):
            _read(inputs[0], channel, x, y, 1.0 + sign * shift, half, out[channel])


@dataclass(frozen=True)
class Vignette(Point):
    """Natural fall-off of a lens of `focal` mm on a sensor `sensor` mm wide: cos^p of the field angle.

    Parameters
    ----------
    intensity
        0 none, 1 all of it (animated).
    smoothness
        p = mix(10, 2, smoothness); 0.75 is the natural cos⁴.
    roundness
        0 follows the frame, 1 is a circle.
    focal, sensor
        Millimetres.
    """

    intensity: Animated = 0.3
    smoothness: float = 0.5
    roundness: float = 0.8
    focal: float = 50.0
    sensor: float = 36.0

    def check(self) -> None:
        _checked("Vignette", intensity=(self.intensity, 0, 1))
        for name, low, high in (("smoothness", 0, 1), ("roundness", 0, 1), ("focal", 1, 10000), ("sensor", 1, 1000)):
            number("Vignette", name, getattr(self, name), low, high)

    def ops(self, at: Moment) -> list[Op]:
        values = {"focal": self.focal, "half_width": 0.5 * self.sensor, "intensity": at.value(self.intensity)}
        power = 10.0 - 8.0 * self.smoothness
        if self.roundness == 1.0 and power == 4.0:
            return [Op(ops.natural_vignette, values)]
        return [Op(ops.vignette, values | {"power": power, "roundness": self.roundness})]


_GOLDEN = math.pi * (3.0 - math.sqrt(5.0))


@dataclass(frozen=True)
class DepthOfField(Spatial):
    """Blur by depth: the second input's first channel is depth; what is `focus` away is sharp.

    The circle of confusion is ``aperture |depth - focus| / depth`` pixels in radius at 1080 lines, at most `radius`.
    Each pixel gathers `taps` points of a golden-angle disc (Vogel, 1979), weighted by whether their own circle reaches
    it.

    Parameters
    ----------
    focus
        In units of the depth (animated).
    """

    inputs = 2
    focus: Animated = 1.0
    aperture: float = 20.0
    radius: float = 16.0
    taps: int = 64

    def check(self) -> None:
        _checked("DepthOfField", focus=(self.focus, 1e-6, 1e9))
        number("DepthOfField", "aperture", self.aperture, 0, 1000)
        number("DepthOfField", "radius", self.radius, 0, 200)
        if not 1 <= self.taps <= 1024:
            raise InputError(f"DepthOfField: taps is {self.taps}; give 1 to 1024.")

    def run(
        self, at: Moment, inputs: Sequence[torch.Tensor], out: torch.Tensor, scratch: Sequence[torch.Tensor]
    ) -> None:
        frame, depth = inputs[0][:3], inputs[1][0].clamp(min=1e-6)
        size = (self.aperture * (depth - at.value(self.focus)).abs() / depth).clamp(max=self.radius) * at.unit
        data = torch.cat([frame, size[None]])
        _, height, width = data.shape
        reach = max(1, math.ceil(self.radius * at.unit))
        padded = torch.nn.functional.pad(data[None], (reach,) * 4, mode="replicate")[0]
        total, weight = frame.clone(), torch.ones_like(size)
        for k in range(1, self.taps):
            r = math.sqrt(k / self.taps)
            far = r * self.radius * at.unit
            dx, dy = round(far * math.cos(k * _GOLDEN)), round(far * math.sin(k * _GOLDEN))
            there = padded[:, reach + dy : reach + dy + height, reach + dx : reach + dx + width]
            # A sharp foreground must not take part; a blurred neighbour reaches as far as its own circle.
            w = (torch.minimum(there[3], size) - math.hypot(dx, dy) + 0.5).clamp(0, 1)
            total += there[:3] * w
            weight += w
        out.copy_(total / weight)
