"""Light that spreads: bloom, halation, streaks, diffusion, leaks. All in linear ACEScg, before the output transform."""

# ruff: noqa: D102  (what the methods do is written at Pass)

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from elinvar.errors import InputError
from elinvar.video import filters, ops, shade
from elinvar.video._check import count, number
from elinvar.video.kernels import bloom
from elinvar.video.passes.base import Animated, Moment, Pass, Point, Spatial
from elinvar.video.passes.grade import _checked
from elinvar.video.shadecode import Op
from elinvar.video.shading import where

if TYPE_CHECKING:
    from elinvar.video.graph import Graph, Node

__all__ = ["Anamorphic", "Bloom", "Diffusion", "Halation", "LightLeak"]

Triple = tuple[float, float, float]


@dataclass(frozen=True)
class _Pyramid(Spatial):
    """The bloom of a frame at half resolution."""

    threshold: float
    knee: float
    ceiling: float
    levels: int
    radius: float

    def output_size(self, width: int, height: int) -> tuple[int, int]:
        return -(-width // 2), -(-height // 2)

    def _shapes(self, width: int, height: int) -> list[tuple[int, int, int]]:
        return bloom.shapes(width, height, self.levels)

    def scratch(self, width: int, height: int) -> list[tuple[int, ...]]:
        return [*self._shapes(width, height)[1:]]

    def constants(self, at: Moment) -> Hashable:
        return self

    def run(
        self, at: Moment, inputs: Sequence[torch.Tensor], out: torch.Tensor, scratch: Sequence[torch.Tensor]
    ) -> None:
        weights = [self.radius**k for k in range(len(scratch) + 1)]
        total = sum(weights)
        bloom.run(
            inputs[0], [out, *scratch], threshold=self.threshold, knee=self.knee, ceiling=self.ceiling,
            weights=[w / total for w in weights], device=str(out.device),
        )  # fmt: skip


@dataclass(frozen=True)
class Bloom(Pass):
    """Glow around what is brighter than a threshold.

    A soft-knee prefilter, `levels` halvings with the 13-tap filter of Jimenez (2014), tents back up, and the sum added
    times `intensity`. The weights of the levels add up to 1, so constant light above the threshold is raised by
    exactly ``intensity`` times itself: the DC gain is 1 + intensity, whatever the number of levels.

    Parameters
    ----------
    intensity
        Animated.
    threshold, knee, ceiling
        In linear light; the knee is half the width of the soft start; light beyond `ceiling` counts as `ceiling`.
    levels
        2 to 10.
    radius
        Weight of each level relative to the one before: above 1 spreads wider.
    """

    intensity: Animated = 0.5
    threshold: float = 0.8
    knee: float = 0.5
    levels: int = 6
    radius: float = 1.0
    ceiling: float = 100.0

    def check(self) -> None:
        _checked("Bloom", intensity=(self.intensity, 0, 100))
        for name, low, high in (("threshold", 0, 1e4), ("knee", 0, 1e4), ("radius", 0.05, 8), ("ceiling", 1e-3, 65504)):
            number("Bloom", name, getattr(self, name), low, high)
        count("Bloom", "levels", self.levels, 1, 10)

    def build(self, graph: Graph, inputs: Sequence[Node]) -> Node:
        part = graph.add(_Pyramid(self.threshold, self.knee, self.ceiling, self.levels, self.radius), inputs[0])
        return graph.add(_Add(self.intensity, name_="Bloom"), inputs[0], part)


@dataclass(frozen=True)
class _Add(Point):
    """Add a half-resolution frame."""

    inputs = 2
    intensity: Animated = 1.0
    tint: Triple = (1.0, 1.0, 1.0)
    fade: bool = False
    name_: str = "Add"

    @property
    def name(self) -> str:
        return f"{self.name_} composite"

    def ops(self, at: Moment) -> list[Op]:
        k = at.value(self.intensity)
        values = {f"f{c}": k * t for c, t in zip("rgb", self.tint, strict=True)}
        return [Op(ops.halate if self.fade else ops.add, values, ("half",))]


@dataclass(frozen=True)
class Diffusion(Pass):
    """A black-mist filter: everything glows a little. A second bloom with a low threshold and a wide radius."""

    intensity: Animated = 0.15
    threshold: float = 0.2
    radius: float = 1.4
    levels: int = 6

    def build(self, graph: Graph, inputs: Sequence[Node]) -> Node:
        return graph.add(Bloom(self.intensity, self.threshold, self.threshold, self.levels, self.radius), inputs[0])


def _bright(r: Any, g: Any, b: Any, threshold: float) -> tuple[Any, Any, Any]:
    luma = 0.2722287168 * r + 0.6740817658 * g + 0.0536895174 * b
    keep = where(luma > threshold, 1.0, 0.0)
    return r * keep, g * keep, b * keep


def _brightest(r: Any, g: Any, b: Any, threshold: float) -> tuple[Any, Any, Any]:
    keep = where((r > threshold) | (g > threshold) | (b > threshold), 1.0, 0.0)
    return r * keep, g * keep, b * keep


@dataclass(frozen=True)
class _Halo(Spatial):
    """What is brighter than a threshold, blurred, at half resolution; wide blurs run at a lower one."""

    threshold: float
    sigma: float  # pixels at 1080 lines
    streak: float = 0.0  # horizontal standard deviation instead, pixels at 1080 lines

    def output_size(self, width: int, height: int) -> tuple[int, int]:
        return -(-width // 2), -(-height // 2)

    def scratch(self, width: int, height: int) -> list[tuple[int, ...]]:
        shapes: list[tuple[int, ...]] = [(3, height, width), (3, *self.output_size(width, height)[::-1])]
        for _ in range(3):
            width, height = -(-width // 2), -(-height // 2)
            shapes.append((3, height, width))
        return [*shapes, shapes[-1]]

    def run(
        self, at: Moment, inputs: Sequence[torch.Tensor], out: torch.Tensor, scratch: Sequence[torch.Tensor]
    ) -> None:
        light, half, *smaller, spare = scratch
        picks = _brightest if self.streak else _bright
        shade.apply(inputs[0], [Op(ops.finite, {}), Op(picks, {"threshold": self.threshold})], out=light)
        unit = at.unit
        level = filters.halve(light, smaller[0])
        for place in smaller[1:]:
            level = filters.halve(level, place)
        sx, sy = (self.streak, 0.0) if self.streak else (self.sigma, self.sigma)
        # Three halvings have blurred by a box of 8 (variance 63/12) already.
        left = [max((s * unit) ** 2 - 63 / 12, 0.25) ** 0.5 / 8 if s else 0.0 for s in (sx, sy)]
        filters.gaussian(level, left[0], left[1], spare)
        height, width = out.shape[1:]
        sh, sw = spare.shape[1:]
        filters.resample(spare, (width, height), (0.0, 0.0, float(sw), float(sh)), "bicubic", out)
        del half


@dataclass(frozen=True)
class Halation(Pass):
    """Red-orange halo of light that went through the film and back.

    Light whose AP1 luminance is above `threshold` is blurred with ``sigma = 20 radius`` pixels at 1080 lines, tinted,
    and added; it fades towards the corners.
    """

    intensity: Animated = 0.3
    threshold: float = 0.85
    radius: float = 1.0
    tint: Triple = (1.0, 0.3, 0.1)

    def check(self) -> None:
        _checked("Halation", intensity=(self.intensity, 0, 100))
        number("Halation", "threshold", self.threshold, 0, 1e4)
        number("Halation", "radius", self.radius, 0.01, 20)
        _colour("Halation", "tint", self.tint)

    def build(self, graph: Graph, inputs: Sequence[Node]) -> Node:
        halo = graph.add(_Halo(self.threshold, 20.0 * self.radius), inputs[0])
        return graph.add(_Add(self.intensity, self.tint, fade=True, name_="Halation"), inputs[0], halo)


@dataclass(frozen=True)
class Anamorphic(Pass):
    """Horizontal streaks from lights, `length` in units of 54 pixels standard deviation at 1080 lines."""

    intensity: Animated = 0.4
    threshold: float = 0.85
    length: float = 1.0
    tint: Triple = (0.7, 0.85, 1.0)

    def check(self) -> None:
        _checked("Anamorphic", intensity=(self.intensity, 0, 100))
        number("Anamorphic", "threshold", self.threshold, 0, 1e4)
        number("Anamorphic", "length", self.length, 0.05, 20)
        _colour("Anamorphic", "tint", self.tint)

    def build(self, graph: Graph, inputs: Sequence[Node]) -> Node:
        streaks = graph.add(_Halo(self.threshold, 0.0, 54.0 * self.length), inputs[0])
        return graph.add(_Add(self.intensity, self.tint, name_="Anamorphic"), inputs[0], streaks)


def _colour(operation: str, name: str, value: Sequence[float]) -> None:
    if len(value) != 3:
        raise InputError(f"{operation}: {name} is {value!r}; give three numbers.")
    for v in value:
        number(operation, name, v, 0, 1e4)


@dataclass(frozen=True)
class LightLeak(Point):
    """Coloured light leaking in, drifting slowly: an uneven ellipse, added in linear light."""

    intensity: Animated = 0.3
    centre: tuple[float, float] = (0.0, 0.3)
    radius: tuple[float, float] = (0.6, 0.9)
    colour: Triple = (1.0, 0.45, 0.15)
    speed: float = 0.1
    seed: int = 0

    def check(self) -> None:
        _checked("LightLeak", intensity=(self.intensity, 0, 100))
        _colour("LightLeak", "colour", self.colour)
        for r in self.radius:
            number("LightLeak", "radius", r, 1e-3, 100)

    def ops(self, at: Moment) -> list[Op]:
        k = at.value(self.intensity)
        values: dict[str, float] = {f"f{c}": k * v for c, v in zip("rgb", self.colour, strict=True)}
        values |= {"cx": self.centre[0], "cy": self.centre[1], "rx": self.radius[0], "ry": self.radius[1]}
        return [Op(ops.light_leak, values | {"scale": 3.0, "drift": self.speed * at.seconds, "seed": self.seed})]
