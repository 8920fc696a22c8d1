"""The transformer in the middle of HTDemucs: two streams of tokens that attend to themselves and to each other."""

from __future__ import annotations

import functools
import math
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from elinvar.audio.htdemucs_layers import LayerScale
from elinvar.audio.htdemucs_ops import as_compute, attend, norm_jointly, project

__all__ = ["Attention", "CrossTransformer", "Layer", "positions_1d", "positions_2d"]


def positions_1d(length: int, channels: int, max_period: float) -> Tensor:
    """Return ``[length, channels]``: cosines, then sines, of ``t / max_period ** (i / (channels / 2 - 1))``."""
    half = channels // 2
    i = torch.arange(half, dtype=torch.float32, device="cpu")
    phase = torch.arange(length, dtype=torch.float32, device="cpu")[:, None] / max_period ** (i / (half - 1))
    return torch.cat([torch.cos(phase), torch.sin(phase)], dim=-1)


def positions_2d(times: int, frequencies: int, channels: int, max_period: float) -> Tensor:
    """Return ``[times * frequencies, channels]``: the first half of the channels says when, the second which bin.

    Sines and cosines alternate, after "Translating math formula images to LaTeX sequences" (Wang and Liu, 2019).
    """
    half = channels // 2
    rate = torch.exp(torch.arange(0, half, 2, dtype=torch.float32, device="cpu") * -(math.log(max_period) / half))

    def waves(n: int) -> Tensor:
        phase = torch.arange(n, dtype=torch.float32, device="cpu")[:, None] * rate
        return torch.stack([torch.sin(phase), torch.cos(phase)], dim=-1).reshape(n, half)

    when = waves(times)[:, None].expand(times, frequencies, half)
    which = waves(frequencies)[None].expand(times, frequencies, half)
    return torch.cat([when, which], dim=-1).reshape(times * frequencies, channels)


@functools.lru_cache(maxsize=16)
def _positions(
    times: int, frequencies: int, channels: int, max_period: float, device: torch.device, dtype: torch.dtype
) -> Tensor:
    """Positions where they are used: a copy from the host could not be part of a recorded CUDA graph."""
    if frequencies:
        return positions_2d(times, frequencies, channels, max_period).to(device, dtype)
    return positions_1d(times, channels, max_period).to(device, dtype)


class Attention(nn.Module):
    """Multi-head attention with the parameter names of ``torch.nn.MultiheadAttention``."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.in_proj_weight = nn.Parameter(torch.empty(3 * channels, channels))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * channels))
        self.out_proj = nn.Linear(channels, channels)
        nn.init.xavier_uniform_(self.in_proj_weight)

    def forward(self, query: Tensor, other: Tensor | None = None) -> Tensor:
        """Attend from ``query [batch, n, channels]`` to ``other [batch, m, channels]``; None means to itself."""
        channels = query.shape[-1]
        weight, bias = self.in_proj_weight, self.in_proj_bias
        if other is None:
            q, k, v = project(query, weight, bias).chunk(3, dim=-1)
        else:
            q = project(query, weight[:channels], bias[:channels])
            k, v = project(other, weight[channels:], bias[channels:]).chunk(2, dim=-1)
        return project(attend(q, k, v, self.heads), self.out_proj.weight, self.out_proj.bias)


class Layer(nn.Module):
    """One pre-norm transformer layer of one stream; ``cross`` attends to the other stream."""

    def __init__(self, channels: int, heads: int, hidden: int, *, cross: bool) -> None:
        super().__init__()
        self.cross = cross
        attention = Attention(channels, heads)
        if cross:
            self.cross_attn = attention
        else:
            self.self_attn = attention
        self.linear1 = nn.Linear(channels, hidden)
        self.linear2 = nn.Linear(hidden, channels)
        self.norm1 = nn.LayerNorm(channels)
        self.norm2 = nn.LayerNorm(channels)
        if cross:
            self.norm3 = nn.LayerNorm(channels)
        self.norm_out = nn.GroupNorm(1, channels)
        self.gamma_1 = LayerScale(channels)
        self.gamma_2 = LayerScale(channels)

    def forward(self, x: Tensor, other: Tensor | None = None) -> Tensor:
        """Return the stream after this layer; both are ``[batch, tokens, channels]``."""
        if self.cross:
            assert other is not None
            attended = self.cross_attn(_norm(x, self.norm1), _norm(other, self.norm2))
        else:
            attended = self.self_attn(_norm(x, self.norm1))
        x = torch.addcmul(x, attended, as_compute(self.gamma_1.scale, x))
        y = _norm(x, self.norm3 if self.cross else self.norm2)
        y = project(y, self.linear1.weight, self.linear1.bias, gelu=True)
        y = project(y, self.linear2.weight, self.linear2.bias)
        x = torch.addcmul(x, y, as_compute(self.gamma_2.scale, x))
        return norm_jointly(x, self.norm_out.weight, self.norm_out.bias, self.norm_out.eps)


def _norm(x: Tensor, norm: nn.LayerNorm) -> Tensor:
    return functional.layer_norm(x, x.shape[-1:], as_compute(norm.weight, x), as_compute(norm.bias, x), norm.eps)


class CrossTransformer(nn.Module):
    """Layers that alternate between self-attention (even) and attention to the other stream (odd)."""

    def __init__(self, channels: int, layers: int, heads: int, hidden_scale: float, max_period: float) -> None:
        super().__init__()
        self.max_period = max_period
        self.norm_in = nn.LayerNorm(channels)
        self.norm_in_t = nn.LayerNorm(channels)
        hidden = int(channels * hidden_scale)
        self.layers = nn.ModuleList(Layer(channels, heads, hidden, cross=i % 2 == 1) for i in range(layers))
        self.layers_t = nn.ModuleList(Layer(channels, heads, hidden, cross=i % 2 == 1) for i in range(layers))

    def forward(self, x: Tensor, xt: Tensor) -> tuple[Tensor, Tensor]:
        """Transform ``x [batch, frequency, time, channels]`` and ``xt [batch, 1, time', channels]``."""
        batch, frequencies, times, channels = x.shape
        tokens = x.transpose(1, 2).reshape(batch, times * frequencies, channels)
        place = (channels, self.max_period, x.device, x.dtype)
        tokens = _norm(tokens, self.norm_in) + _positions(times, frequencies, *place)
        tokens_t = _norm(xt[:, 0], self.norm_in_t) + _positions(xt.shape[2], 0, *place)
        for layer, layer_t in zip(self.layers, self.layers_t, strict=True):
            if cast("Layer", layer).cross:
                tokens, tokens_t = layer(tokens, tokens_t), layer_t(tokens_t, tokens)
            else:
                tokens, tokens_t = layer(tokens), layer_t(tokens_t)
        return tokens.reshape(batch, times, frequencies, channels).transpose(1, 2), tokens_t[:, None]
