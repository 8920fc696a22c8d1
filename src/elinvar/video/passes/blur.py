"""Blurs, and averages over time."""

# ruff: noqa: D102  (what the methods do is written at Pass)

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import torch

from elinvar.errors import InputError
from elinvar.video import filters
from elinvar.video._check import count, number
from elinvar.video.passes.base import Animated, Moment, Spatial
from elinvar.video.passes.grade import _checked

__all__ = ["Bilateral", "BoxBlur", "GaussianBlur", "Temporal"]


@dataclass(frozen=True)
class GaussianBlur(Spatial):
    """Gaussian of standard deviation `sigma` pixels at 1080 lines (animated), cut at 4 sigma; edges repeat."""

    sigma: Animated = 4.0

    def check(self) -> None:
        _checked("GaussianBlur", sigma=(self.sigma, 0, 500))

    def run(
        self, at: Moment, inputs: Sequence[torch.Tensor], out: torch.Tensor, scratch: Sequence[torch.Tensor]
    ) -> None:
        filters.gaussian(inputs[0], at.value(self.sigma) * at.unit, None, out)


@dataclass(frozen=True)
class BoxBlur(Spatial):
    """Average over a box of (2 radius + 1)² pixels, `radius` at 1080 lines."""

    radius: int = 4

    def check(self) -> None:
        count("BoxBlur", "radius", self.radius, 0, 500)

    def run(
        self, at: Moment, inputs: Sequence[torch.Tensor], out: torch.Tensor, scratch: Sequence[torch.Tensor]
    ) -> None:
        r = round(self.radius * at.unit)
        filters.box(inputs[0], r, r, out)


@dataclass(frozen=True)
class Bilateral(Spatial):
    """Smooth, but not across edges: weights fall with distance and with colour difference (Tomasi and Manduchi,
    1998).
    """

    sigma: float = 3.0
    difference: float = 0.1

    def check(self) -> None:
        number("Bilateral", "sigma", self.sigma, 0.1, 20)
        number("Bilateral", "difference", self.difference, 1e-4, 1e4)

    def constants(self, at: Moment) -> Hashable:
        return self, at.unit

    def run(
        self, at: Moment, inputs: Sequence[torch.Tensor], out: torch.Tensor, scratch: Sequence[torch.Tensor]
    ) -> None:
        frame = inputs[0][:3]
        _, height, width = frame.shape
        sigma = max(0.3, self.sigma * at.unit)
        reach = math.ceil(2 * sigma)
        padded = torch.nn.functional.pad(frame[None], (reach,) * 4, mode="replicate")[0]
        total, weight = torch.zeros_like(frame), torch.zeros_like(frame[0])
        scale = -0.5 / self.difference**2
        for dy in range(-reach, reach + 1):
            for dx in range(-reach, reach + 1):
                near = math.exp(-0.5 * (dx * dx + dy * dy) / sigma**2)
                there = padded[:, reach + dy : reach + dy + height, reach + dx : reach + dx + width]
                w = near * torch.exp(scale * (there - frame).square().sum(0))
                total += w * there
                weight += w
        out.copy_(total / weight)


@dataclass(frozen=True)
class Temporal(Spatial):
    """A weighted average with the frames before: trails, motion blur, noise reduction.

    Parameters
    ----------
    weights
        Of this frame, the one before, and so on; normalised. What is before frame 0 counts as frame 0. Frames are
        rendered again rather than remembered, so that seeking changes nothing.
    """

    weights: tuple[float, ...] = (0.5, 0.3, 0.2)

    def check(self) -> None:
        if not 1 <= len(self.weights) <= 64 or min(self.weights) < 0 or sum(self.weights) <= 0:
            raise InputError(f"Temporal: weights {self.weights} are not 1 to 64 numbers from 0 with a positive sum.")

    def constants(self, at: Moment) -> Hashable:
        return self

    def run(
        self, at: Moment, inputs: Sequence[torch.Tensor], out: torch.Tensor, scratch: Sequence[torch.Tensor]
    ) -> None:
        scale = 1.0 / sum(self.weights)
        torch.mul(inputs[0], self.weights[0] * scale, out=out)
        for frame, w in zip(inputs[1:], self.weights[1:], strict=True):
            out.add_(frame, alpha=w * scale)
