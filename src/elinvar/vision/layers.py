"""Linear layers, attention, rotary positions and convolutions, each with several ways to compute the same thing.

Which way is fastest depends on the processor: on AMD, oneDNN's packed product was measured 2.3 times as fast as
torch's own linear layer in float32 and 1.2 times in bfloat16; in bfloat16 a chunked product 2.4 times as fast as
torch's fused attention. `elinvar.vision.choices` measures and decides when weights are loaded.
"""

# torch leaves Tensor.split and Tensor.unflatten without types.
# mypy: disable-error-code="no-untyped-call, no-any-return"

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from .rotate import apply as rotate_pair

__all__ = [
    "Conv",
    "Crossing",
    "Linear",
    "Norm",
    "Paths",
    "Rotary",
    "StackedLinear",
    "StackedNorm",
    "attend",
    "packed_available",
    "turned",
]


@dataclasses.dataclass(frozen=True)
class Paths:
    """How to compute.

    Attributes
    ----------
    linear
        ``"torch"``, ``"packed"`` (oneDNN, weights packed at load; CPU) or ``"conv"`` (oneDNN through a 1x1
        convolution; CPU).
    attention
        ``"sdpa"`` (torch's fused attention) or a number: heads per chunk of an explicit product.
    channels_last
        Whether heads run in channels-last memory order.
    rotate
        ``"torch"`` or ``"numba"``: how q and k are turned.
    fused
        Whether elinvar's own kernels do what lies between products and convolutions (GPUs); normalisations' scales are
        then folded into weights.
    on_cpu
        Names of `elinvar.vision.safe` whose operations run on the CPU, as they are wrong on the device.
    """

    linear: str = "torch"
    attention: str | int = "sdpa"
    channels_last: bool = False
    rotate: str = "torch"
    fused: bool = False
    on_cpu: tuple[str, ...] = ()


def packed_available() -> bool:
    """Whether this torch has oneDNN's packed products."""
    ops = getattr(torch.ops, "mkldnn", None)
    return (
        ops is not None
        and torch.backends.mkldnn.is_available()
        and hasattr(ops, "_linear_pointwise")
        and hasattr(ops, "_reorder_linear_weight")
    )


def _ops() -> Any:
    return torch.ops.mkldnn


class Linear:
    """``x @ weight.T + bias``, optionally followed by the exact GELU or an addition, fused where that is possible."""

    __slots__ = ("bias", "path", "weight")

    def __init__(self, weight: Tensor, bias: Tensor, path: str) -> None:
        self.path = path
        self.bias = bias
        if path == "packed":
            weight = _ops()._reorder_linear_weight(weight.contiguous(), 1024)  # noqa: SLF001
        elif path == "conv":
            weight = weight[:, :, None, None].contiguous(memory_format=torch.channels_last)
        self.weight = weight

    def __call__(self, x: Tensor, *, gelu: bool = False, add: Tensor | None = None) -> Tensor:
        """Apply to [..., in]; `add` has the output's shape."""
        if self.path == "packed":
            run = _ops()._linear_pointwise  # noqa: SLF001
            if add is not None:
                return run.binary(x, add, self.weight, self.bias, "add")
            name, how = ("gelu", "none") if gelu else ("none", "")
            return run(x, self.weight, self.bias, name, [], how)
        if self.path == "conv":
            flat = x.reshape(1, -1, 1, x.shape[-1]).permute(0, 3, 1, 2)
            y = functional.conv2d(flat, self.weight, self.bias).permute(0, 2, 3, 1).reshape(*x.shape[:-1], -1)
        else:
            y = functional.linear(x, self.weight, self.bias)
        if gelu:
            y = functional.gelu(y)
        return y if add is None else y + add


class Norm:
    """Layer normalisation; without scale and offset where those are folded into the next product."""

    __slots__ = ("bias", "eps", "weight")

    def __init__(self, weight: Tensor | None, bias: Tensor | None, eps: float = 1e-6) -> None:
        self.weight, self.bias, self.eps = weight, bias, eps

    def __call__(self, x: Tensor) -> Tensor:
        """Normalise the last axis."""
        return functional.layer_norm(x, x.shape[-1:], self.weight, self.bias, self.eps)

    def part(self, k: int) -> Norm:
        """Return one branch's: the same, as there is nothing learned left in it."""
        del k
        return self


class Conv:
    """A convolution with "same" padding; oneDNN's packed form fuses what follows it.

    Parameters
    ----------
    weight, bias
        [out, in, side, side], [out] or None.
    paths
        Memory order and packing.
    stride
        1 or 2.
    """

    __slots__ = ("bias", "fused", "packed", "padding", "stride", "weight")

    def __init__(self, weight: Tensor, bias: Tensor | None, paths: Paths, *, stride: int = 1) -> None:
        self.bias, self.stride = bias, stride
        self.padding = weight.shape[-1] // 2
        if paths.channels_last:
            weight = weight.contiguous(memory_format=torch.channels_last)
        self.packed, self.fused = paths.linear == "packed", paths.fused
        if self.packed:
            pad, size = [self.padding] * 2, [1, weight.shape[1], 64, 64]
            weight = _ops()._reorder_convolution_weight(weight, pad, [stride] * 2, [1, 1], 1, size)  # noqa: SLF001
        self.weight = weight

    def __call__(self, x: Tensor, *, relu: bool = False, add: Tensor | None = None) -> Tensor:
        """Apply to [batch, in, height, width]; then add, then cut negative values."""
        if self.packed:
            run = _ops()._convolution_pointwise  # noqa: SLF001
            pad, stride, one = [self.padding] * 2, [self.stride] * 2, [1, 1]
            if add is None:
                unary = "relu" if relu else "none"
                return run(x, self.weight, self.bias, pad, stride, one, 1, unary, [], "")
            after = "relu" if relu else None
            return run.binary(x, add, self.weight, self.bias, pad, stride, one, 1, "add", 1.0, after, [], "")
        if self.fused and relu and add is None and x.is_cuda:
            pad, stride = [self.padding] * 2, [self.stride] * 2
            return torch.cudnn_convolution_relu(x, self.weight, self.bias, stride, pad, [1, 1], 1)
        y = functional.conv2d(x, self.weight, self.bias, self.stride, self.padding)
        if add is not None:
            y = y + add
        return functional.relu_(y) if relu else y

    def bare(self, x: Tensor) -> Tensor:
        """Apply without adding the bias; not for the packed form."""
        return functional.conv2d(x, self.weight, None, self.stride, self.padding)


class StackedLinear:
    """Two linear layers of equal shape in one product: the first for the first half of the batch."""

    __slots__ = ("bias", "weight")

    def __init__(self, weights: list[Tensor], biases: list[Tensor]) -> None:
        self.weight = torch.stack([w.t() for w in weights]).contiguous()
        self.bias = torch.stack(biases)[:, None]

    def __call__(self, x: Tensor, *, gelu: bool = False, add: Tensor | None = None) -> Tensor:
        """Apply to [2 * batch, tokens, in]."""
        y = torch.baddbmm(self.bias, x.reshape(2, -1, x.shape[-1]), self.weight)
        y = y.reshape(*x.shape[:-1], -1)
        if gelu:
            y = functional.gelu(y)
        return y if add is None else y + add

    def part(self, k: int) -> Linear:
        """Return one of the two layers, sharing memory."""
        return Linear(self.weight[k].t(), self.bias[k, 0], "torch")


class Crossing:
    """What both branches of a decoder block make of a stream: queries, keys, values, and the other's keys and values.

    Attributes
    ----------
    both
        One product for all five: [2, in, 5 * width]; keys and values of the other branch come from its own weights.
    """

    __slots__ = ("both", "width")

    def __init__(self, qkv: StackedLinear, cross: StackedLinear) -> None:
        self.width = cross.weight.shape[2]
        self.both = StackedLinear.__new__(StackedLinear)
        self.both.weight = torch.cat([qkv.weight, cross.weight.flip(0)], 2)
        self.both.bias = torch.cat([qkv.bias, cross.bias.flip(0)], 2)

    def _slice(self, k: int, columns: slice) -> Linear:
        return Linear(self.both.weight[k, :, columns].t(), self.both.bias[k, 0, columns], "torch")

    def own(self, k: int) -> Linear:
        """Return branch k's queries, keys and values, sharing memory."""
        return self._slice(k, slice(None, -self.width))

    def other(self, k: int) -> Linear:
        """Return what branch k makes of the other branch's tokens, sharing memory."""
        return self._slice(1 - k, slice(-self.width, None))


class StackedNorm:
    """Two layer normalisations: the first for the first half of the batch."""

    __slots__ = ("bias", "eps", "weight")

    def __init__(self, weights: list[Tensor], biases: list[Tensor], eps: float = 1e-6) -> None:
        self.weight, self.bias = (torch.stack(t)[:, None, None] for t in (weights, biases))
        self.eps = eps

    def __call__(self, x: Tensor) -> Tensor:
        """Normalise the last axis of [2 * batch, tokens, width]."""
        y = functional.layer_norm(x, x.shape[-1:], eps=self.eps).unflatten(0, (2, -1))
        return torch.addcmul(self.bias, y, self.weight).flatten(0, 1)

    def part(self, k: int) -> Norm:
        """Return one of the two."""
        return Norm(self.weight[k, 0, 0], self.bias[k, 0, 0], self.eps)


class Rotary:
    """Tables of cosines and sines for rotary positions over a grid, float32, kept per grid.

    A head's channels are four quarters a, b, c, d: (a, b) turn with y, (c, d) with x:
    ``t * C + (-b, a, -d, c) * S`` (Su et al., 2021, in the two-axis form of CroCo v2).
    """

    def __init__(self, channels: int, device: torch.device, base: float = 100.0) -> None:
        self._channels, self._device, self._base = channels, device, base
        self._tables: dict[tuple[int, int], tuple[Tensor, Tensor]] = {}

    def __call__(self, height: int, width: int) -> tuple[Tensor, Tensor]:
        """Return cosines and signed sines, each [height * width, channels / 2]: one column per turning pair."""
        key = (height, width)
        if key not in self._tables:
            quarter = self._channels // 4
            rates = self._base ** (-torch.arange(quarter, dtype=torch.float32) * 2 / (2 * quarter))
            y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
            angle = torch.cat([y.reshape(-1, 1) * rates, x.reshape(-1, 1) * rates], 1)
            self._tables[key] = (angle.cos().to(self._device), angle.sin().to(self._device))
        return self._tables[key]


def attend(q: Tensor, k: Tensor, v: Tensor, how: str | int) -> Tensor:
    """Attention of [batch, heads, tokens, channels]: [batch, tokens, heads * channels].

    q has been multiplied by channels**-0.5 already.
    """
    if how == "sdpa":
        return functional.scaled_dot_product_attention(q, k, v, scale=1.0).transpose(1, 2).flatten(2)
    batch, heads, tokens, width = q.shape
    out = q.new_empty(batch, tokens, heads, width)
    step = int(how)
    for b in range(batch):
        for h in range(0, heads, step):
            some = slice(h, h + step)
            scores = torch.bmm(q[b, some], k[b, some].transpose(1, 2))
            weights = torch.softmax(scores, -1)
            out[b, :, some] = torch.bmm(weights, v[b, some]).transpose(0, 1)
    return out.flatten(2)


def turned(x: Tensor, heads: int, tables: tuple[Tensor, Tensor] | None, scale: float, how: str) -> Tensor:
    """Split [batch, tokens, heads * channels] into heads, turn and scale them: [batch, heads, tokens, channels]."""
    split = x.unflatten(2, (heads, x.shape[2] // heads)).transpose(1, 2)
    if tables is None:
        return (split * scale).contiguous() if scale != 1.0 else split.contiguous()
    return rotate_pair(split, tables[0], tables[1], scale, how)
