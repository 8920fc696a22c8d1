"""The trunk for GPUs: between two products there is one pass, and both decoder branches are in one product.

The scale and offset of a normalisation are folded into the product after it (`Build.linear` does that), so that one
normalised stream serves both what a branch does with its own tokens and what the other branch reads from them. A
decoder block then is: one product for queries, keys and values of its own attention and the other branch's keys and
values, ``vision.turn``, attention, a product, ``vision.addnorm``, and so on. What it computes is `plain`'s network.
"""

# torch leaves Tensor.split and Tensor.unflatten without types.
# mypy: disable-error-code="no-untyped-call, no-any-return"

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional

from .kernels import addnorm, gelu, turn
from .layers import Crossing, Linear, StackedLinear

if TYPE_CHECKING:
    from .network import Block

__all__ = ["decode", "encode", "fits"]

Tables = tuple[Tensor, Tensor]
_EPSILON = 1e-6


def fits(head: int, decoder_head: int) -> bool:
    """Whether the kernels can serve heads of these widths."""
    return turn.fits(head) and turn.fits(decoder_head)


def _product(layer: Linear | StackedLinear, x: Tensor) -> Tensor:
    """Multiply rows [rows, in] without adding the bias."""
    if isinstance(layer, Linear):
        return functional.linear(x, layer.weight)
    return torch.bmm(x.view(2, -1, x.shape[-1]), layer.weight).view(len(x), -1)


def _bias(layer: Linear | StackedLinear) -> Tensor:
    """Return the bias as [branches, out]."""
    return layer.bias.view(-1, layer.bias.shape[-1])


def _heads(x: Tensor, batch: int, heads: int) -> list[Tensor]:
    """View parts [rows, parts, width] as [batch, heads, tokens, channels] each."""
    split = x.view(batch, -1, x.shape[1], heads, x.shape[2] // heads).permute(2, 0, 3, 1, 4)
    return list(split)


def _attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attention of [batch, heads, tokens, channels]: [batch * tokens, heads * channels]."""
    return functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(q.shape[0] * q.shape[2], -1)


def _mlp(block: Block, x: Tensor, n: Tensor) -> tuple[Tensor, Tensor]:
    hidden = _product(block.fc1, n)
    if hidden.dtype == torch.float32:  # the kernel's error function is made for smaller formats
        rows = hidden.view(len(_bias(block.fc1)), -1, hidden.shape[1])
        hidden = functional.gelu(rows + _bias(block.fc1)[:, None]).view(hidden.shape)
    else:
        hidden = gelu.run(hidden, _bias(block.fc1))
    return addnorm.run(x, _product(block.fc2, hidden), _bias(block.fc2), epsilon=_EPSILON)


def _normalised(x: Tensor) -> Tensor:
    return functional.layer_norm(x, x.shape[-1:], eps=_EPSILON)


def encode(blocks: list[Block], x: Tensor, heads: int, tables: Tables | None) -> Tensor:
    """Run an encoder's blocks on [batch, tokens, width]."""
    batch, tokens, width = x.shape
    x = x.reshape(-1, width)
    if tables is None:  # learned positions: nothing turns, but biases are added all the same
        empty = torch.zeros(tokens, width // heads // 2, device=x.device)
        tables = (empty, empty)
        turned = 0
    else:
        turned = 0b011
    n = _normalised(x)
    for block in blocks:
        assert isinstance(block.qkv, Linear)
        assert isinstance(block.proj, Linear)
        parts = _product(block.qkv, n).view(-1, 3, width)
        parts = turn.run(parts, block.qkv.bias.view(1, 3, width), *tables, heads=heads, turned=turned)
        y = _attend(*_heads(parts, batch, heads))
        x, n = addnorm.run(x, _product(block.proj, y), _bias(block.proj), epsilon=_EPSILON)
        x, n = _mlp(block, x, n)
    return x.view(batch, tokens, width)


def decode(
    pairs: list[Block], crossings: list[Crossing], x: Tensor, heads: int, tables: Tables, wanted: set[int]
) -> list[Tensor]:
    """Run both branches on [2 * batch, tokens, width], view 1 first; return the states after the blocks in `wanted`."""
    batch, tokens, width = x.shape
    x = x.reshape(-1, width)
    half = len(x) // 2
    n = _normalised(x)
    out = []
    for i, (block, crossing) in enumerate(zip(pairs, crossings, strict=True), 1):
        assert isinstance(block.cross_q, StackedLinear)
        assert isinstance(block.cross_proj, StackedLinear)
        assert isinstance(block.proj, StackedLinear)
        both = crossing.both
        parts = _product(both, n).view(-1, 5, width)
        # The last two are what the other branch asks for: they go to its rows.
        parts = turn.run(parts, both.bias.view(2, 5, width), *tables, heads=heads, turned=0b01011, moved=3, shift=half)
        q, k, v, cross_k, cross_v = _heads(parts, batch, heads)
        x, n = addnorm.run(x, _product(block.proj, _attend(q, k, v)), _bias(block.proj), epsilon=_EPSILON)
        asked = _product(block.cross_q, n).view(-1, 1, width)
        asked = turn.run(asked, block.cross_q.bias.view(2, 1, width), *tables, heads=heads, turned=1)
        y = _attend(_heads(asked, batch, heads)[0], cross_k, cross_v)
        x, n = addnorm.run(x, _product(block.cross_proj, y), _bias(block.cross_proj), epsilon=_EPSILON)
        x, n = _mlp(block, x, n)
        if i in wanted:
            out.append(x.view(batch, tokens, width))
    return out
