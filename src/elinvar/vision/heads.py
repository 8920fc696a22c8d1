"""What turns tokens into pixels: points with confidence (DPT), descriptors with confidence (an MLP per token)."""

# torch leaves Tensor.split and Tensor.unflatten without types.
# mypy: disable-error-code="no-untyped-call, no-any-return"

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional

from .catalogue import Variant
from .kernels import describe, enlarge, join
from .layers import Conv, Linear

if TYPE_CHECKING:
    from .network import Build

__all__ = ["DenseHead", "LocalHead"]

Grid = tuple[int, int]


def _image(x: Tensor, height: int, width: int, last: bool) -> Tensor:
    """View [batch, height * width, channels] as an image; channels-last needs no copy."""
    image = x.unflatten(1, (height, width)).permute(0, 3, 1, 2)
    return image if last else image.contiguous()


def _rows(x: Tensor) -> Tensor:
    """View an image as [batch, height * width, channels]."""
    return x.permute(0, 2, 3, 1).flatten(1, 2)


def _pixels(x: Tensor) -> Tensor:
    """View a channels-last image [batch, channels, height, width] as [pixels, channels]."""
    return x.permute(0, 2, 3, 1).reshape(-1, x.shape[1])


class _Unit:
    """Two convolutions beside the identity, each after a cut of negative values."""

    def __init__(self, build: Build, name: str) -> None:
        self._convs = [_conv(build, f"{name}.conv{k}") for k in (1, 2)]

    def __call__(self, x: Tensor) -> Tensor:
        first, second = self._convs
        return second(first(functional.relu(x), relu=True), add=x)

    def joined(self, x: Tensor, cut: Tensor, more: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Do the same in fewer passes, given x without its negative values; add `more`; return the sum both ways.

        The second result is only there with `more`, whose sum is what the next unit starts from.
        """
        first, second = self._convs
        y = second.bare(first(cut, relu=True))
        batch, channels, height, width = y.shape
        bias = y.new_zeros(channels) if second.bias is None else second.bias
        others = [_pixels(t) for t in (x, more) if t is not None]
        both = join.run(_pixels(y), bias, *others, cut=more is not None)
        shape = (batch, height, width, channels)
        total, clipped = (t.view(shape).permute(0, 3, 1, 2) if len(t) else t for t in both)
        return total, clipped


def _conv(build: Build, name: str, stride: int = 1) -> Conv:
    bias = build.tensor(f"{name}.bias") if build.has(f"{name}.bias") else None
    return Conv(build.tensor(f"{name}.weight"), bias, build.paths, stride=stride)


class _Spread:
    """A transposed convolution whose stride is its side: every pixel becomes a square, so it is a product."""

    def __init__(self, build: Build, name: str) -> None:
        weight, bias = build.tensor(f"{name}.weight"), build.tensor(f"{name}.bias")
        self.side = weight.shape[-1]
        flat = weight.permute(2, 3, 1, 0).reshape(-1, weight.shape[0]).contiguous()
        self._product = Linear(flat, bias.repeat(self.side**2), build.paths.linear)

    def __call__(self, rows: Tensor, grid: Grid) -> Tensor:
        side, (h, w) = self.side, grid
        x = self._product(rows).unflatten(2, (side, side, -1)).unflatten(1, (h, w))
        return x.permute(0, 1, 3, 2, 4, 5).reshape(len(rows), h * side * w * side, -1)


class _Refine:
    """Add a map, one unit, a product per pixel, twice the size.

    The product comes before the enlargement: both are linear and interpolation weights add up to one, so the order does
    not matter to the result and this one is a quarter of the work.
    """

    def __init__(self, build: Build, name: str, *, joins: bool) -> None:
        self._first = _Unit(build, f"{name}.resConfUnit1") if joins else None
        self._second = _Unit(build, f"{name}.resConfUnit2")
        self._out = build.linear(f"{name}.out_conv")
        self._last = build.paths.channels_last
        self._fused = build.paths.fused

    def _joined(self, x: Tensor, y: Tensor | None) -> Tensor:
        """Do the same with elinvar's kernels."""
        cut: Tensor | None = None
        if y is not None and self._first is not None:
            x, cut = self._first.joined(y, functional.relu(y), x)
        x, _ = self._second.joined(x, functional.relu(x) if cut is None else cut)
        batch, _, height, width = x.shape
        rows = functional.linear(_pixels(x), self._out.weight).view(batch, height, width, -1)
        return enlarge.run(rows, self._out.bias, size=(2 * height, 2 * width)).permute(0, 3, 1, 2)

    def __call__(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        if self._fused:
            return self._joined(x, y)
        if y is not None and self._first is not None:
            x = self._first(y).add_(x)
        x = self._second(x)
        height, width = x.shape[-2:]
        x = _image(self._out(_rows(x)), height, width, self._last)
        return functional.interpolate(x, scale_factor=2, mode="bilinear", align_corners=True)


class DenseHead:
    """Points and confidence of one view (Ranftl et al., 2021)."""

    def __init__(self, build: Build, view: int, kind: Variant) -> None:
        name = f"downstream_head{view}.dpt"
        build.group(f"{name}.")
        self._patch = kind.patch
        self._last, self._fused = build.paths.channels_last, build.paths.fused
        self._inputs = [build.linear(f"{name}.act_postprocess.{k}.0") for k in range(4)]
        self._spread = [_Spread(build, f"{name}.act_postprocess.{k}.1") for k in (0, 1)]
        self._shrink = _conv(build, f"{name}.act_postprocess.3.1", stride=2)
        self._maps = [_conv(build, f"{name}.scratch.layer{k}_rn") for k in (1, 2, 3, 4)]
        self._refine = [_Refine(build, f"{name}.scratch.refinenet{k}", joins=k < 4) for k in (1, 2, 3, 4)]
        self._final = [_conv(build, f"{name}.head.{k}") for k in (0, 2)]
        self._out = build.linear(f"{name}.head.4")

    def _map(self, k: int, state: Tensor, grid: Grid) -> Tensor:
        rows, size = self._inputs[k](state), grid
        if k < 2:
            rows = self._spread[k](rows, grid)
            size = (grid[0] * self._spread[k].side, grid[1] * self._spread[k].side)
        x = _image(rows, *size, self._last)
        return self._maps[k](self._shrink(x) if k == 3 else x)

    def __call__(self, states: list[Tensor], grid: Grid) -> tuple[Tensor, Tensor]:
        """Return points [batch, height, width, 3] and confidence [batch, height, width], float32."""
        m3 = self._map(3, states[3], grid)
        m2 = self._map(2, states[2], grid)
        x = self._refine[3](m3)[:, :, : m2.shape[2], : m2.shape[3]]
        # A cropped view is in no order a convolution knows.
        x = x.contiguous(memory_format=torch.channels_last if self._last else torch.contiguous_format)
        x = self._refine[2](x, m2)
        for k in (1, 0):
            x = self._refine[k](x, self._map(k, states[k], grid))
        size = (grid[0] * self._patch, grid[1] * self._patch)
        x = self._enlarged(x, size)
        x = self._out(_rows(self._final[1](x, relu=True))).float().unflatten(1, size)
        # xyz / |xyz| * expm1(|xyz|): the network gives the logarithm of the distance.
        xyz = x[..., :3]
        distance = torch.linalg.vector_norm(xyz, dim=-1, keepdim=True)
        points = xyz * (torch.expm1(distance) / distance.clamp_min(1e-8))
        return points, x[..., 3].exp() + 1.0

    def _enlarged(self, x: Tensor, size: Grid) -> Tensor:
        """Run the first of the last convolutions and bring its map to full size."""
        first = self._final[0]
        if not self._fused or size[0] < x.shape[2] or size[1] < x.shape[3]:
            return functional.interpolate(first(x), size=size, mode="bilinear", align_corners=True)
        y = first.bare(x).permute(0, 2, 3, 1)
        bias = y.new_zeros(y.shape[3]) if first.bias is None else first.bias
        return enlarge.run(y, bias, size=size).permute(0, 3, 1, 2)


class LocalHead:
    """Unit descriptors and their confidence of one view (Leroy et al., 2024)."""

    def __init__(self, build: Build, view: int, kind: Variant) -> None:
        name = f"downstream_head{view}.head_local_features"
        self._patch, self._channels = kind.patch, kind.descriptor + 1
        self._fused = build.paths.fused
        build.group(f"{name}.fc1.")  # the largest tensors there are: one at a time
        self._fc1 = build.linear(f"{name}.fc1")
        build.group(f"{name}.fc2.")
        weight, bias = build.tensor(f"{name}.fc2.weight"), build.tensor(f"{name}.fc2.bias")
        # The published order is (channel, y, x); with (y, x, channel) the pixels fall into place without a shuffle.
        pixels = self._patch**2
        weight = weight.unflatten(0, (self._channels, pixels)).transpose(0, 1).flatten(0, 1).contiguous()
        bias = bias.unflatten(0, (self._channels, pixels)).t().flatten().contiguous()
        self._fc2 = Linear(weight, bias, build.paths.linear)

    def __call__(self, states: list[Tensor], grid: Grid) -> tuple[Tensor, Tensor]:
        """Return descriptors [batch, height, width, c] and confidence [batch, height, width], float32."""
        (h, w), p = grid, self._patch
        x = self._fc2(self._fc1(torch.cat([states[0], states[-1]], -1), gelu=True))
        if self._fused:
            return describe.run(x, grid=grid, patch=p)
        x = x.unflatten(2, (p, p, self._channels)).unflatten(1, (h, w)).transpose(2, 3)
        x = x.reshape(len(x), h * p, w * p, self._channels).float()
        desc = functional.normalize(x[..., :-1], dim=-1)
        return desc, x[..., -1].exp()
