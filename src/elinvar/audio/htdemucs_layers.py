"""The convolutional half of HTDemucs: encoders, decoders and their dilated residual branches.

Both branches use the same code. Activations are ``[batch, frequency, time, channels]``, contiguous: what torch calls
channels_last of ``[batch, channels, frequency, time]``, the layout in which oneDNN's and cuDNN's convolutions are
fastest. The time branch has one frequency. Parameters keep the official names and shapes (Rouard, Massa, Défossez:
Hybrid Transformers for Music Source Separation, 2023).
"""

from __future__ import annotations

import dataclasses
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from elinvar.audio.htdemucs_ops import add_gated, convolve, glu, norm_gelu, project

__all__ = ["DConv", "Decoder", "Encoder", "LayerScale", "Shape"]


@dataclasses.dataclass(frozen=True)
class Shape:
    """What all levels have in common: kernel and stride of the strided axis, bottleneck and depth of the branches."""

    kernel: int = 8
    stride: int = 4
    compression: int = 8
    depth: int = 2

    @property
    def pad(self) -> int:
        """Samples added at both ends, so that ``stride`` inputs become exactly one output."""
        return (self.kernel - self.stride) // 2


class LayerScale(nn.Module):
    """One learned factor per channel; official name ``scale``."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.full((channels,), 1e-4))


class DConv(nn.Module):
    """Two residual branches of dilated convolutions with a bottleneck of ``channels / compression``."""

    def __init__(self, channels: int, compression: int, depth: int) -> None:
        super().__init__()
        hidden = int(channels / compression)
        self.layers = nn.ModuleList(
            nn.Sequential(
                nn.Conv1d(channels, hidden, 3, dilation=2**d, padding=2**d),
                nn.GroupNorm(1, hidden),
                nn.GELU(),
                nn.Conv1d(hidden, 2 * channels, 1),
                nn.GroupNorm(1, 2 * channels),
                nn.GLU(1),
                LayerScale(channels),
            )
            for d in range(depth)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return ``x`` plus its branches; every frequency is a sequence of its own.

        Parameters
        ----------
        x
            ``[batch, frequency, time, channels]``; overwritten when autograd is off.
        """
        for d, layer in enumerate(self.layers):
            narrow, norm_1, _, wide, norm_2, _, gain = cast("Any", layer)
            y = convolve(x, narrow.weight, narrow.bias, padding=(0, 2**d), dilation=(1, 2**d))
            y = norm_gelu(y, norm_1.weight, norm_1.bias, norm_1.eps)
            y = project(y, wide.weight, wide.bias)
            x = add_gated(x, y, norm_2.weight, norm_2.bias, norm_2.eps, gain.scale)
        return x


class Encoder(nn.Module):
    """Strided convolution, GELU, dilated branch, gated 1x1 convolution."""

    def __init__(self, channels_in: int, channels: int, shape: Shape, *, frequency: bool) -> None:
        super().__init__()
        self.frequency = frequency
        self.shape = shape
        if frequency:
            self.conv: nn.Module = nn.Conv2d(
                channels_in, channels, (shape.kernel, 1), (shape.stride, 1), (shape.pad, 0)
            )
            self.rewrite: nn.Module = nn.Conv2d(channels, 2 * channels, 1)
        else:
            self.conv = nn.Conv1d(channels_in, channels, shape.kernel, shape.stride, shape.pad)
            self.rewrite = nn.Conv1d(channels, 2 * channels, 1)
        self.dconv = DConv(channels, shape.compression, shape.depth)

    def forward(self, x: Tensor) -> Tensor:
        """Return ``[batch, f', t', channels]``; the strided axis is padded on the right to a multiple of the stride."""
        stride, pad = self.shape.stride, self.shape.pad
        axis = 1 if self.frequency else 2
        short = -x.shape[axis] % stride
        if short:
            x = functional.pad(x, (0, 0, 0, 0, 0, short) if self.frequency else (0, 0, 0, short))
        steps, pads = ((stride, 1), (pad, 0)) if self.frequency else ((1, stride), (0, pad))
        y = convolve(x, *_parameters(self.conv), stride=steps, padding=pads, gelu=True)
        y = self.dconv(y)
        return glu(project(y, *_parameters(self.rewrite)))


class Decoder(nn.Module):
    """Skip connection, gated convolution over its neighbours, dilated branch, strided transposed convolution."""

    def __init__(self, channels: int, channels_out: int, shape: Shape, *, frequency: bool, last: bool) -> None:
        super().__init__()
        self.frequency, self.last = frequency, last
        self.shape = shape
        if frequency:
            self.conv_tr: nn.Module = nn.ConvTranspose2d(channels, channels_out, (shape.kernel, 1), (shape.stride, 1))
            self.rewrite: nn.Module = nn.Conv2d(channels, 2 * channels, 3, 1, 1)
        else:
            self.conv_tr = nn.ConvTranspose1d(channels, channels_out, shape.kernel, shape.stride)
            self.rewrite = nn.Conv1d(channels, 2 * channels, 3, 1, 1)
        self.dconv = DConv(channels, shape.compression, shape.depth)

    def forward(self, x: Tensor, skip: Tensor, length: int) -> Tensor:
        """Return ``[batch, f', t', channels_out]``; ``length`` is what the strided axis must have afterwards."""
        stride, pad = self.shape.stride, self.shape.pad
        weight, bias = _parameters(self.rewrite)
        y = glu(convolve(x + skip, weight, bias, padding=(1, 1) if self.frequency else (0, 1)))
        y = self.dconv(y)
        steps, pads = ((stride, 1), (pad, 0)) if self.frequency else ((1, stride), (0, pad))
        z = convolve(y, *_parameters(self.conv_tr), stride=steps, padding=pads, transposed=True, gelu=not self.last)
        return z.narrow(1 if self.frequency else 2, 0, length)


def _parameters(layer: nn.Module) -> tuple[Tensor, Tensor]:
    return cast("Tensor", layer.weight), cast("Tensor", layer.bias)
