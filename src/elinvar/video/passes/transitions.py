"""From one clip to another: two frames and how far the change has come."""

# ruff: noqa: D102  (what the methods do is written at Pass)

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from elinvar.video import ops
from elinvar.video._check import choice, number
from elinvar.video.passes.base import Animated, Moment, Point, Spatial
from elinvar.video.passes.grade import _checked
from elinvar.video.shadecode import Op

__all__ = ["EASINGS", "Crossfade", "Dip", "Iris", "Push", "Slide", "Wipe"]

EASINGS: dict[str, Callable[[float], float]] = {
    "linear": lambda t: t,
    "in": lambda t: t * t,
    "out": lambda t: t * (2.0 - t),
    "in-out": lambda t: 2 * t * t if t < 0.5 else 1.0 - 2 * (1.0 - t) ** 2,
    "smoothstep": lambda t: t * t * (3.0 - 2.0 * t),
}
"""How progress becomes place."""
_WAYS = {"right": (1.0, 0.0), "left": (-1.0, 0.0), "down": (0.0, 1.0), "up": (0.0, -1.0)}


@dataclass(frozen=True)
class Crossfade(Point):
    """Mix the second frame in, in linear light; `progress` from 0 to 1 is animated."""

    inputs = 2
    progress: Animated = 0.5
    easing: str = "linear"

    def check(self) -> None:
        _checked(self.name, progress=(self.progress, 0, 1))
        choice(self.name, "easing", self.easing, EASINGS)

    def _t(self, at: Moment) -> float:
        return EASINGS[self.easing](min(max(at.value(self.progress), 0.0), 1.0))

    def ops(self, at: Moment) -> list[Op]:
        return [Op(ops.blend, {"t": self._t(at)}, ("full",))]


@dataclass(frozen=True)
class Dip(Crossfade):
    """To a colour (linear ACEScg) and from it to the second frame."""

    colour: tuple[float, float, float] = (0.0, 0.0, 0.0)

    def ops(self, at: Moment) -> list[Op]:
        t = self._t(at)
        colour = dict(zip(("cr", "cg", "cb"), self.colour, strict=True))
        return [
            Op(ops.blend, {"t": 0.0 if t < 0.5 else 1.0}, ("full",)),
            Op(ops.toward, colour | {"t": 1.0 - abs(2.0 * t - 1.0)}),
        ]


@dataclass(frozen=True)
class Wipe(Crossfade):
    """A soft edge moving right, left, down or up; `soft` is its width relative to the frame."""

    direction: str = "right"
    soft: float = 0.05

    def check(self) -> None:
        super().check()
        choice("Wipe", "direction", self.direction, _WAYS)
        number("Wipe", "soft", self.soft, 1e-4, 1)

    def ops(self, at: Moment) -> list[Op]:
        dx, dy = _WAYS[self.direction]
        place = {"dx": dx, "dy": dy, "c": 1.0 if dx < 0 or dy < 0 else 0.0}
        return [Op(ops.wipe, place | {"t": self._t(at), "soft": self.soft}, ("full",))]


@dataclass(frozen=True)
class Iris(Crossfade):
    """A circle opening from the centre."""

    soft: float = 0.05

    def ops(self, at: Moment) -> list[Op]:
        return [Op(ops.iris, {"t": self._t(at), "soft": self.soft}, ("full",))]


@dataclass(frozen=True)
class Push(Spatial):
    """The second frame pushes the first out."""

    inputs = 2
    progress: Animated = 0.5
    easing: str = "linear"
    direction: str = "left"
    moves = True
    """Whether the first frame moves too."""

    def check(self) -> None:
        _checked(self.name, progress=(self.progress, 0, 1))
        choice(self.name, "easing", self.easing, EASINGS)
        choice(self.name, "direction", self.direction, _WAYS)

    def run(
        self, at: Moment, inputs: Sequence[torch.Tensor], out: torch.Tensor, scratch: Sequence[torch.Tensor]
    ) -> None:
        t = EASINGS[self.easing](min(max(at.value(self.progress), 0.0), 1.0))
        old, new = inputs
        dx, dy = _WAYS[self.direction]
        dim = 2 if dx else 1
        n = out.shape[dim]
        shift = round(t * n)
        if not self.moves:
            out.copy_(old[:3])
        if dx > 0 or dy > 0:  # the new one comes from the left or the top
            out.narrow(dim, 0, shift).copy_(new[:3].narrow(dim, n - shift, shift))
            if self.moves:
                out.narrow(dim, shift, n - shift).copy_(old[:3].narrow(dim, 0, n - shift))
        else:
            out.narrow(dim, n - shift, shift).copy_(new[:3].narrow(dim, 0, shift))
            if self.moves:
                out.narrow(dim, 0, n - shift).copy_(old[:3].narrow(dim, shift, n - shift))


@dataclass(frozen=True)
class Slide(Push):
    """The second frame slides over the first."""

    moves = False
