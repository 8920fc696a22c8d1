"""The two-view network in plain PyTorch, written for reading: what the fast one is measured and tested against.

Every function takes a state dict with the names of `elinvar.vision.keys.expected` and computes in its dtype, float64
included. Nothing is cached, merged, reordered or fused; ``attention="sdpa"`` uses torch's fused attention, the default
forms the scores as the equations say.

Sources: rotary positions over two axes and the two-branch decoder from CroCo v2 (Weinzaepfel et al., 2023) and DUSt3R
(Wang et al., 2024); descriptors and their confidence from MASt3R (Leroy et al., 2024); dense head from DPT (Ranftl et
al., 2021); encoder with class and register tokens from DINOv2 (Oquab et al., 2023; Darcet et al., 2024).
"""

# torch leaves Tensor.split and Tensor.unflatten without types.
# mypy: disable-error-code="no-untyped-call, no-any-return"

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from .catalogue import Variant

__all__ = ["encode", "forward", "infer", "positions", "rotate"]

State = Mapping[str, Tensor]
Run = Callable[..., Any]
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def _called(part: Run, s: State, name: str, *arguments: Any) -> Any:
    """Compute a part of the network from the tensors whose names begin with its own; training compiles parts here."""
    return part(s, name, *arguments)


def _linear(s: State, name: str, x: Tensor) -> Tensor:
    return functional.linear(x, s[f"{name}.weight"], s[f"{name}.bias"])


def _norm(s: State, name: str, x: Tensor, eps: float = 1e-6) -> Tensor:
    return functional.layer_norm(x, x.shape[-1:], s[f"{name}.weight"], s[f"{name}.bias"], eps)


def _conv(s: State, name: str, x: Tensor, stride: int = 1) -> Tensor:
    weight = s[f"{name}.weight"]
    return functional.conv2d(x, weight, s.get(f"{name}.bias"), stride=stride, padding=weight.shape[-1] // 2)


def positions(height: int, width: int, device: torch.device | None = None) -> Tensor:
    """Return (y, x) of every token of a grid, row by row: int64 [height * width, 2]."""
    y, x = torch.meshgrid(torch.arange(height, device=device), torch.arange(width, device=device), indexing="ij")
    return torch.stack([y.reshape(-1), x.reshape(-1)], 1)


def rotate(t: Tensor, where: Tensor, base: float = 100.0) -> Tensor:
    """Rotary positions: the first half of a head's channels turns with y, the second with x.

    `t` is [..., tokens, channels]; angles are ``position * base**(-2j / half)``, evaluated in float32 or better.
    """
    half = t.shape[-1] // 2
    wide = torch.float64 if t.dtype == torch.float64 else torch.float32
    rates = base ** (-torch.arange(0, half, 2, dtype=wide, device=t.device) / half)
    parts = []
    for axis, part in enumerate(t.split(half, -1)):
        angle = where[:, axis, None].to(wide) * rates
        cos, sin = (torch.cat([f(angle), f(angle)], -1).to(t.dtype) for f in (torch.cos, torch.sin))
        a, b = part.chunk(2, -1)
        parts.append(part * cos + torch.cat([-b, a], -1) * sin)
    return torch.cat(parts, -1)


def _heads(x: Tensor, heads: int) -> Tensor:
    batch, tokens, width = x.shape
    return x.reshape(batch, tokens, heads, width // heads).transpose(1, 2)


def _attend(q: Tensor, k: Tensor, v: Tensor, how: str) -> Tensor:
    if how == "sdpa":
        out = functional.scaled_dot_product_attention(q, k, v)
    else:
        out = torch.softmax(q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5, -1) @ v
    return out.transpose(1, 2).flatten(2)


def _self_attention(s: State, name: str, x: Tensor, heads: int, where: Tensor | None, how: str) -> Tensor:
    q, k, v = (_heads(part, heads) for part in _linear(s, f"{name}.qkv", x).chunk(3, -1))
    if where is not None:
        q, k = rotate(q, where), rotate(k, where)
    return _linear(s, f"{name}.proj", _attend(q, k, v, how))


def _cross_attention(
    s: State, name: str, x: Tensor, y: Tensor, heads: int, at: tuple[Tensor, Tensor], how: str
) -> Tensor:
    q = rotate(_heads(_linear(s, f"{name}.projq", x), heads), at[0])
    k = rotate(_heads(_linear(s, f"{name}.projk", y), heads), at[1])
    v = _heads(_linear(s, f"{name}.projv", y), heads)
    return _linear(s, f"{name}.proj", _attend(q, k, v, how))


def _mlp(s: State, name: str, x: Tensor) -> Tensor:
    return _linear(s, f"{name}.fc2", functional.gelu(_linear(s, f"{name}.fc1", x)))


def _encoder_block(s: State, name: str, x: Tensor, heads: int, where: Tensor, how: str) -> Tensor:
    x = x + _self_attention(s, f"{name}.attn", _norm(s, f"{name}.norm1", x), heads, where, how)
    return x + _mlp(s, f"{name}.mlp", _norm(s, f"{name}.norm2", x))


def _croco(s: State, kind: Variant, x: Tensor, how: str, run: Run = _called) -> Tensor:
    weight = s["patch_embed.proj.weight"]
    x = functional.conv2d((x - 0.5) / 0.5, weight, s["patch_embed.proj.bias"], stride=kind.patch)
    height, width = x.shape[-2:]
    where = positions(height, width, x.device)
    x = x.flatten(2).transpose(1, 2)
    for i in range(kind.depth):
        x = run(_encoder_block, s, f"enc_blocks.{i}", x, kind.heads, where, how)
    return _norm(s, "enc_norm", x)


def _learned_positions(table: Tensor, height: int, width: int) -> Tensor:
    """Resize the table of positions as DINOv2 does: bicubic, by a scale factor with 0.1 added to the target size."""
    grid = round((table.shape[1] - 1) ** 0.5)
    if height == width == grid:
        return table[:, 1:]
    square = table[:, 1:].reshape(1, grid, grid, -1).permute(0, 3, 1, 2)
    factors = ((height + 0.1) / grid, (width + 0.1) / grid)
    return functional.interpolate(square, scale_factor=factors, mode="bicubic").flatten(2).transpose(1, 2)


def _dino(s: State, kind: Variant, x: Tensor, how: str) -> Tensor:
    mean, std = (torch.tensor(v, dtype=x.dtype, device=x.device)[:, None, None] for v in (IMAGENET_MEAN, IMAGENET_STD))
    x = functional.conv2d(
        (x - mean) / std, s["encoder.patch_embed.proj.weight"], s["encoder.patch_embed.proj.bias"], stride=kind.patch
    )
    where = _learned_positions(s["encoder.pos_embed"], *x.shape[-2:])
    x = x.flatten(2).transpose(1, 2) + where
    first = [(s["encoder.cls_token"] + s["encoder.pos_embed"][:, :1]).expand(len(x), -1, -1)]
    if "encoder.register_tokens" in s:
        first.append(s["encoder.register_tokens"].expand(len(x), -1, -1))
    x = torch.cat([*first, x], 1)
    for i in range(kind.depth):
        block = f"encoder.blocks.{i}"
        scale = [s.get(f"{block}.ls{k}.gamma", torch.ones((), dtype=x.dtype, device=x.device)) for k in (1, 2)]
        x = x + scale[0] * _self_attention(s, f"{block}.attn", _norm(s, f"{block}.norm1", x), kind.heads, None, how)
        x = x + scale[1] * _mlp(s, f"{block}.mlp", _norm(s, f"{block}.norm2", x))
    tokens = x.shape[1] - where.shape[1]
    return _norm(s, "norm", x[:, tokens:], 1e-5)


def encode(s: State, kind: Variant, images: Tensor, *, attention: str = "naive", run: Run = _called) -> Tensor:
    """Encode uint8 images [batch, height, width, 3] at network size: tokens [batch, n, width]."""
    weight = s["decoder_embed.weight"]
    x = images.permute(0, 3, 1, 2).to(weight.dtype) / 255
    return _croco(s, kind, x, attention, run) if kind.encoder == "croco" else _dino(s, kind, x, attention)


def _decoder_block(
    s: State, name: str, x: Tensor, y: Tensor, heads: int, at: tuple[Tensor, Tensor], how: str
) -> Tensor:
    x = x + _self_attention(s, f"{name}.attn", _norm(s, f"{name}.norm1", x), heads, at[0], how)
    seen = _norm(s, f"{name}.norm_y", y)
    x = x + _cross_attention(s, f"{name}.cross_attn", _norm(s, f"{name}.norm2", x), seen, heads, at, how)
    return x + _mlp(s, f"{name}.mlp", _norm(s, f"{name}.norm3", x))


def _decode(
    s: State, kind: Variant, tokens: list[Tensor], grids: list[tuple[int, int]], how: str, run: Run
) -> list[list[Tensor]]:
    at = [positions(height, width, tokens[0].device) for height, width in grids]
    a, b = (_linear(s, "decoder_embed", t) for t in tokens)
    states = [[tokens[0]], [tokens[1]]]
    for i in range(kind.decoder_depth):
        a, b = (
            run(_decoder_block, s, f"dec_blocks.{i}", a, b, kind.decoder_heads, (at[0], at[1]), how),
            run(_decoder_block, s, f"dec_blocks2.{i}", b, a, kind.decoder_heads, (at[1], at[0]), how),
        )
        states[0].append(a)
        states[1].append(b)
    for line in states:
        line[-1] = _norm(s, "dec_norm", line[-1])
    return states


def _unit(s: State, name: str, x: Tensor) -> Tensor:
    return x + _conv(s, f"{name}.conv2", functional.relu(_conv(s, f"{name}.conv1", functional.relu(x))))


def _refine(s: State, name: str, x: Tensor, y: Tensor | None) -> Tensor:
    if y is not None:
        x = x + _unit(s, f"{name}.resConfUnit1", y)
    x = functional.interpolate(_unit(s, f"{name}.resConfUnit2", x), scale_factor=2, mode="bilinear", align_corners=True)
    return _conv(s, f"{name}.out_conv", x)


def _dense(s: State, name: str, kind: Variant, states: list[Tensor], grid: tuple[int, int]) -> Tensor:
    """Return the four channels (x, y, z, confidence) before post-processing, [batch, 4, height, width]."""
    dpt = f"{name}.dpt"
    maps = []
    for k, hook in enumerate(kind.hooks):
        x = states[hook].transpose(1, 2).unflatten(2, grid)
        x = _conv(s, f"{dpt}.act_postprocess.{k}.0", x)
        name = f"{dpt}.act_postprocess.{k}.1"
        if k < 2:
            x = functional.conv_transpose2d(x, s[f"{name}.weight"], s[f"{name}.bias"], stride=(4, 2)[k])
        elif k == 3:
            x = _conv(s, name, x, stride=2)
        maps.append(_conv(s, f"{dpt}.scratch.layer{k + 1}_rn", x))
    path = _refine(s, f"{dpt}.scratch.refinenet4", maps[3], None)[:, :, : maps[2].shape[2], : maps[2].shape[3]]
    for k in (3, 2, 1):
        path = _refine(s, f"{dpt}.scratch.refinenet{k}", path, maps[k - 1])
    x = _conv(s, f"{dpt}.head.0", path)
    size = (grid[0] * kind.patch, grid[1] * kind.patch)
    x = functional.interpolate(x, size=size, mode="bilinear", align_corners=True)
    return _conv(s, f"{dpt}.head.4", functional.relu(_conv(s, f"{dpt}.head.2", x)))


def _local(s: State, name: str, kind: Variant, states: list[Tensor], grid: tuple[int, int]) -> Tensor:
    """Return descriptors and their confidence before post-processing, [batch, channels + 1, height, width]."""
    x = _mlp(s, f"{name}.head_local_features", torch.cat([states[0], states[-1]], -1))
    return functional.pixel_shuffle(x.transpose(1, 2).unflatten(2, grid), kind.patch)


def _finish(dense: Tensor, local: Tensor) -> dict[str, Tensor]:
    dense, local = dense.permute(0, 2, 3, 1), local.permute(0, 2, 3, 1)
    xyz, desc = dense[..., :3], local[..., :-1]
    distance = xyz.norm(dim=-1, keepdim=True)
    return {
        "pts3d": xyz / distance.clip(min=1e-8) * torch.expm1(distance),
        "conf": 1 + dense[..., 3].exp(),
        "desc": desc / desc.norm(dim=-1, keepdim=True),
        "desc_conf": local[..., -1].exp(),
    }


def _head(s: State, name: str, kind: Variant, states: list[Tensor], grid: tuple[int, int]) -> dict[str, Tensor]:
    return _finish(_dense(s, name, kind, states, grid), _local(s, name, kind, states, grid))


def forward(
    s: State, kind: Variant, first: Tensor, second: Tensor, *, attention: str = "naive", run: Run = _called
) -> dict[str, Tensor]:
    """Run a batch of pairs, uint8 [batch, height, width, 3] each; all eight outputs and both encoders' tokens.

    `run` calls the blocks and heads: ``run(function, state, name, *arguments)``.
    """
    if first.shape == second.shape:
        tokens = list(encode(s, kind, torch.cat([first, second]), attention=attention, run=run).chunk(2))
    else:
        tokens = [encode(s, kind, images, attention=attention, run=run) for images in (first, second)]
    grids = [(x.shape[1] // kind.patch, x.shape[2] // kind.patch) for x in (first, second)]
    states = _decode(s, kind, tokens, grids, attention, run)
    out = {"enc_1": tokens[0], "enc_2": tokens[1]}
    for view, (line, grid) in enumerate(zip(states, grids, strict=True), 1):
        found = run(_head, s, f"downstream_head{view}", kind, line, grid)
        out |= {f"{name}_{view}": value for name, value in found.items()}
    return out


def infer(s: State, kind: Variant, image_1: Tensor, image_2: Tensor, *, attention: str = "naive") -> dict[str, Tensor]:
    """Run one pair of uint8 images [height, width, 3]; as `forward`, without batch axis."""
    return {name: x[0] for name, x in forward(s, kind, image_1[None], image_2[None], attention=attention).items()}
