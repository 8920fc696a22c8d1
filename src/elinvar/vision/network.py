"""The two-view network, fast: encoder, two-branch decoder and heads built from a checkpoint's tensors.

What it computes is written down plainly in `elinvar.vision.plain`; here weights are merged and packed once, positions
are tabulated, and each part can be asked for alone.
"""

# torch leaves Tensor.split and Tensor.unflatten without types.
# mypy: disable-error-code="no-untyped-call, no-any-return"

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable

import torch
from torch import Tensor
from torch.nn import functional

from . import fused
from .catalogue import Variant
from .checkpoint import Source
from .heads import DenseHead, LocalHead
from .heap import give_back
from .keys import Shape
from .layers import Crossing, Linear, Norm, Paths, Rotary, StackedLinear, StackedNorm, attend, turned
from .plain import IMAGENET_MEAN, IMAGENET_STD
from .safe import detour

__all__ = ["Block", "Build", "Network"]

Grid = tuple[int, int]
Tables = tuple[Tensor, Tensor]


class Build:
    """Takes tensors from a source group by group and converts each once."""

    def __init__(
        self, source: Source, names: Iterable[str], dtype: torch.dtype, device: torch.device, paths: Paths
    ) -> None:
        self._source, self._names = source, list(names)
        self.dtype, self.device, self.paths = dtype, device, paths
        self._held: dict[str, Tensor] = {}
        self.bytes = 0

    def group(self, prefix: str) -> None:
        """Read everything whose name starts with `prefix`, and forget the group before it."""
        self._held = {}
        if self.device.type == "cpu":
            give_back()
        self._held = self._source.get([name for name in self._names if name.startswith(prefix)])

    def tensor(self, name: str, dtype: torch.dtype | None = None) -> Tensor:
        """Take one tensor out of the group: on the device, in the network's dtype or the one given."""
        stored = self._held.pop(name)
        found = stored.to(device=self.device, dtype=dtype or self.dtype)
        self.bytes += found.numel() * found.element_size()
        # A mapped file must not stay behind a weight that happens to have the right dtype already.
        return found.clone() if found.data_ptr() == stored.data_ptr() else found

    def has(self, name: str) -> bool:
        """Whether the group has a tensor."""
        return name in self._held

    def linear(self, *names: str, scale: str | None = None, norm: str | None = None) -> Linear:
        """Return a linear layer; several names are stacked along the output.

        `scale` multiplies the output. `norm` names the normalisation before it, whose scale and offset become part of
        the weights; they were rounded to the network's dtype once instead of twice.
        """
        dtype = torch.float32 if scale or norm else None
        weights = [self.tensor(f"{name}.weight", dtype) for name in names]
        biases = [self.tensor(f"{name}.bias", dtype) for name in names]
        weight, bias = (torch.cat(part) if len(names) > 1 else part[0] for part in (weights, biases))
        del weights
        if dtype is not None:  # what stays is smaller than what was read
            spare = dtype.itemsize - self.dtype.itemsize
            self.bytes -= spare * (weight.numel() + bias.numel())
        if norm is not None:
            gain, offset = (self.tensor(f"{norm}.{part}", torch.float32) for part in ("weight", "bias"))
            bias = (bias.double() + weight.double() @ offset.double()).to(self.dtype)
            weight = (weight * gain).to(self.dtype)
        if scale is not None:
            gain = self.tensor(scale, torch.float32)
            weight, bias = (weight * gain[:, None]).to(self.dtype), (bias * gain).to(self.dtype)
        return Linear(weight.flatten(1), bias, self.paths.linear)

    def norm(self, name: str, eps: float = 1e-6) -> Norm:
        """Return a layer normalisation."""
        return Norm(self.tensor(f"{name}.weight"), self.tensor(f"{name}.bias"), eps)


@dataclasses.dataclass
class Block:
    """One transformer block; the cross-attention fields are None in an encoder."""

    norm1: Norm | StackedNorm
    qkv: Linear | StackedLinear | Crossing
    proj: Linear | StackedLinear
    norm2: Norm | StackedNorm
    fc1: Linear | StackedLinear
    fc2: Linear | StackedLinear
    norm_y: Norm | StackedNorm | None = None
    norm3: Norm | StackedNorm | None = None
    cross_q: Linear | StackedLinear | None = None
    cross_kv: Linear | StackedLinear | Crossing | None = None
    cross_proj: Linear | StackedLinear | None = None

    def part(self, k: int) -> Block:
        """Return one branch of a stacked block."""
        parts = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        whole = {name: value.part(k) for name, value in parts.items() if not isinstance(value, Crossing)}
        if isinstance(self.qkv, Crossing):
            whole |= {"qkv": self.qkv.own(k), "cross_kv": self.qkv.other(k)}
        return Block(**whole)


def _stack(first: Block, second: Block) -> Block:
    def join(name: str) -> StackedLinear | StackedNorm | Norm:
        a, b = getattr(first, name), getattr(second, name)
        if isinstance(a, Norm) and a.weight is None:
            return a
        kind = StackedNorm if isinstance(a, Norm) else StackedLinear
        return kind([a.weight, b.weight], [a.bias, b.bias])

    block = Block(**{field.name: join(field.name) for field in dataclasses.fields(Block)})  # type: ignore[arg-type]
    if isinstance(block.norm1, Norm):
        assert isinstance(block.qkv, StackedLinear)
        assert isinstance(block.cross_kv, StackedLinear)
        block.qkv = block.cross_kv = Crossing(block.qkv, block.cross_kv)
    return block


class Network:
    """A loaded network on one device.

    Parameters
    ----------
    kind
        Which one.
    source, names
        Its tensors, as `elinvar.vision.checkpoint.checked` returns them.
    dtype
        Of weights and activations; outputs are float32.
    device
        Where.
    paths
        How to compute.
    stacked
        Run both decoder branches in one batched product when the images have one size: for GPUs.
    progress
        Called with (groups read, groups in all).
    """

    def __init__(
        self,
        kind: Variant,
        source: Source,
        names: dict[str, Shape],
        *,
        dtype: torch.dtype = torch.float32,
        device: torch.device | None = None,
        paths: Paths | None = None,
        stacked: bool = False,
        progress: Callable[[int, int], None] | None = None,
    ) -> None:
        self.kind, self.dtype, self.device = kind, dtype, device or torch.device("cpu")
        self.paths = paths or Paths()
        if self.paths.fused and not fused.fits(kind.width // kind.heads, kind.decoder_head):
            self.paths = dataclasses.replace(self.paths, fused=False)
        self._stacked = stacked
        self._how = self.paths.attention
        build = Build(source, names, dtype, self.device, self.paths)
        total = kind.depth + kind.decoder_depth + 3
        tell = progress or (lambda _done, _total: None)
        self._read_encoder(build, lambda k: tell(k, total))
        self._read_decoder(build, lambda k: tell(kind.depth + 1 + k, total))
        self._dense = [DenseHead(build, view, kind) for view in (1, 2)]
        self._local = [LocalHead(build, view, kind) for view in (1, 2)]
        build.group("nothing of this name")
        self.bytes = build.bytes
        self._rotary = Rotary(kind.width // kind.heads, self.device)
        self._decoder_rotary = Rotary(kind.decoder_head, self.device)
        tell(total, total)

    # -- reading ----------------------------------------------------------------------------------------------------

    def _read_encoder(self, build: Build, tell: Callable[[int], None]) -> None:
        kind = self.kind
        croco = kind.encoder == "croco"
        prefix = "" if croco else "encoder."
        build.group(f"{prefix}patch_embed.")
        # In float32 whatever the network's dtype: pixels have eight bits and bfloat16 has eight, and it costs nothing.
        weight = build.tensor(f"{prefix}patch_embed.proj.weight", torch.float32).permute(0, 2, 3, 1).flatten(1)
        bias = build.tensor(f"{prefix}patch_embed.proj.bias", torch.float32)
        mean, std = ((0.5,) * 3, (0.5,) * 3) if croco else (IMAGENET_MEAN, IMAGENET_STD)
        self._mean, self._std = (torch.tensor(v, dtype=torch.float32, device=self.device) for v in (mean, std))
        if build.paths.fused:
            # Pixels less 128 are exact in any format; what they are multiplied with is rounded like any other weight.
            pixels = len(weight[0]) // 3
            weight = weight / self._std.repeat(pixels)
            bias = bias + weight @ (128 / 255 - self._mean).repeat(pixels)
            weight, bias = weight.to(self.dtype), bias.to(self.dtype)
        self._patches = Linear(weight, bias, build.paths.linear)
        self._tables: dict[Grid, Tensor] = {}
        if not croco:
            for name in ("cls_token", "pos_embed", "register_tokens"):
                build.group(f"encoder.{name}")
                value = build.tensor(f"encoder.{name}", torch.float32) if build.has(f"encoder.{name}") else None
                setattr(self, f"_{name}", value)
        self._encoder = []
        for i in range(kind.depth):
            name = f"enc_blocks.{i}." if croco else f"encoder.blocks.{i}."
            build.group(name)
            self._encoder.append(self._read_block(build, name, cross=False))
            tell(i + 1)
        build.group("enc_norm." if croco else "norm.")
        self._final = build.norm("enc_norm") if croco else build.norm("norm", 1e-5)

    @staticmethod
    def _read_block(build: Build, name: str, *, cross: bool) -> Block:
        scales = [f"{name}ls{k}.gamma" if build.has(f"{name}ls{k}.gamma") else None for k in (1, 2)]

        def after(norm: str, *names: str) -> tuple[Norm, Linear]:
            """Return a normalisation and the product after it."""
            full = [f"{name}{part}" for part in names]
            if build.paths.fused:
                return Norm(None, None), build.linear(*full, norm=f"{name}{norm}")
            return build.norm(f"{name}{norm}"), build.linear(*full)

        norm1, qkv = after("norm1", "attn.qkv")
        proj = build.linear(f"{name}attn.proj", scale=scales[0])
        last = "norm3" if cross else "norm2"
        before, fc1 = after(last, "mlp.fc1")
        fc2 = build.linear(f"{name}mlp.fc2", scale=scales[1])
        if not cross:
            return Block(norm1, qkv, proj, before, fc1, fc2)
        norm2, cross_q = after("norm2", "cross_attn.projq")
        norm_y, cross_kv = after("norm_y", "cross_attn.projk", "cross_attn.projv")
        cross_proj = build.linear(f"{name}cross_attn.proj")
        return Block(norm1, qkv, proj, norm2, fc1, fc2, norm_y, before, cross_q, cross_kv, cross_proj)

    def _read_decoder(self, build: Build, tell: Callable[[int], None]) -> None:
        build.group("decoder_embed.")
        self._embed = build.linear("decoder_embed")
        self._branches: tuple[list[Block], list[Block]] = ([], [])
        self._pairs: list[Block] = []
        for i in range(self.kind.decoder_depth):
            both = []
            for stack in ("dec_blocks", "dec_blocks2"):
                build.group(f"{stack}.{i}.")
                both.append(self._read_block(build, f"{stack}.{i}.", cross=True))
            if self._stacked:
                pair = _stack(both[0], both[1])
                self._pairs.append(pair)
                both = [pair.part(0), pair.part(1)]
            for line, block in zip(self._branches, both, strict=True):
                line.append(block)
            tell(i + 1)
        build.group("dec_norm.")
        self._decoder_norm = build.norm("dec_norm")

    # -- computing --------------------------------------------------------------------------------------------------

    def grid(self, height: int, width: int) -> Grid:
        """Return the token grid of a network size."""
        return height // self.kind.patch, width // self.kind.patch

    def _attention(self, block: Block, x: Tensor, heads: int, tables: Tables | None) -> Tensor:
        width = x.shape[-1]
        scale = (width // heads) ** -0.5
        assert not isinstance(block.qkv, Crossing)
        q, k, v = block.qkv(block.norm1(x)).split(width, -1)
        q = turned(q, heads, tables, scale, self.paths.rotate)
        k = turned(k, heads, tables, 1.0, self.paths.rotate)
        v = turned(v, heads, None, 1.0, self.paths.rotate)
        return block.proj(attend(q, k, v, self._how), add=x)

    def _positions(self, grid: Grid) -> Tensor:
        """Return the learned positions for a grid, computed on the CPU in float32, [1, tokens, width]."""
        if grid not in self._tables:
            table = self._pos_embed.cpu()  # type: ignore[attr-defined]
            side = round((table.shape[1] - 1) ** 0.5)
            rest = table[:, 1:]
            if grid != (side, side):
                square = rest.reshape(1, side, side, -1).permute(0, 3, 1, 2)
                factors = ((grid[0] + 0.1) / side, (grid[1] + 0.1) / side)
                rest = functional.interpolate(square, scale_factor=factors, mode="bicubic").flatten(2).transpose(1, 2)
            self._tables[grid] = rest.contiguous().to(self.device)
        return self._tables[grid]

    def encode(self, images: Tensor) -> Tensor:
        """Encode uint8 images [batch, height, width, 3] on the device: tokens [batch, n, width]."""
        with detour(self.paths.on_cpu):
            return self._encode(images)

    def _encode(self, images: Tensor) -> Tensor:
        patch, grid = self.kind.patch, self.grid(*images.shape[1:3])
        x = images if self.paths.fused else (images.to(torch.float32) / 255 - self._mean) / self._std
        x = x.unflatten(2, (grid[1], patch)).unflatten(1, (grid[0], patch)).transpose(2, 3)
        x = x.reshape(len(images), grid[0] * grid[1], -1)
        if self.paths.fused:
            rows = (x.to(self.dtype) - 128).flatten(0, 1)
            weight = self._patches.weight.t()
            x = torch.addmm(self._patches.bias, rows, weight, alpha=1 / 255).view(*x.shape[:2], -1)
        else:
            x = self._patches(x)
        tables = None
        if self.kind.encoder == "croco":
            tables = self._rotary(*grid)
        else:
            first = [self._cls_token + self._pos_embed[:, :1]]  # type: ignore[attr-defined]
            if self._register_tokens is not None:  # type: ignore[attr-defined]
                first.append(self._register_tokens)  # type: ignore[attr-defined]
            rest = x + self._positions(grid)
            x = torch.cat([*(t.expand(len(images), -1, -1) for t in first), rest], 1)
        x = x.to(self.dtype)
        if self.paths.fused:
            x = fused.encode(self._encoder, x, self.kind.heads, tables)
        else:
            for block in self._encoder:
                x = self._attention(block, x, self.kind.heads, tables)
                x = block.fc2(block.fc1(block.norm2(x), gelu=True), add=x)
        return self._final(x[:, x.shape[1] - grid[0] * grid[1] :])

    def _decoder_block(self, block: Block, x: Tensor, y: Tensor, at: tuple[Tables, Tables]) -> Tensor:
        assert block.norm_y is not None
        assert block.norm3 is not None
        assert block.cross_q is not None
        assert block.cross_kv is not None
        assert not isinstance(block.cross_kv, Crossing)
        assert block.cross_proj is not None
        heads, width = self.kind.decoder_heads, x.shape[-1]
        x = self._attention(block, x, heads, at[0])
        k, v = block.cross_kv(block.norm_y(y)).split(width, -1)
        q = turned(block.cross_q(block.norm2(x)), heads, at[0], (width // heads) ** -0.5, self.paths.rotate)
        k = turned(k, heads, at[1], 1.0, self.paths.rotate)
        v = turned(v, heads, None, 1.0, self.paths.rotate)
        x = block.cross_proj(attend(q, k, v, self._how), add=x)
        return block.fc2(block.fc1(block.norm3(x), gelu=True), add=x)

    def decode(self, first: Tensor, second: Tensor, grids: tuple[Grid, Grid]) -> tuple[list[Tensor], list[Tensor]]:
        """Run both branches on the tokens of a pair (or a batch of pairs).

        Returns
        -------
        tuple
            For each view the four states its heads read: tokens, two inner blocks, the normalised last block.
        """
        with detour(self.paths.on_cpu):
            return self._decode(first, second, grids)

    def _decode(self, first: Tensor, second: Tensor, grids: tuple[Grid, Grid]) -> tuple[list[Tensor], list[Tensor]]:
        at = (self._decoder_rotary(*grids[0]), self._decoder_rotary(*grids[1]))
        hooks: tuple[list[Tensor], list[Tensor]] = ([first], [second])
        wanted = set(self.kind.hooks)
        if self._stacked and grids[0] == grids[1]:
            x = self._embed(torch.cat([first, second]))
            half = len(first)
            if self.paths.fused:
                crossings = [block.qkv for block in self._pairs if isinstance(block.qkv, Crossing)]
                states = fused.decode(self._pairs, crossings, x, self.kind.decoder_heads, at[0], wanted)
                for state in states:
                    hooks[0].append(state[:half])
                    hooks[1].append(state[half:])
            for i, block in enumerate(() if self.paths.fused else self._pairs, 1):
                x = self._decoder_block(block, x, x.roll(half, 0), (at[0], at[0]))
                if i in wanted:
                    hooks[0].append(x[:half])
                    hooks[1].append(x[half:])
        else:
            a, b = self._embed(first), self._embed(second)
            for i, (mine, other) in enumerate(zip(*self._branches, strict=True), 1):
                a, b = (
                    self._decoder_block(mine, a, b, (at[0], at[1])),
                    self._decoder_block(other, b, a, (at[1], at[0])),
                )
                if i in wanted:
                    hooks[0].append(a)
                    hooks[1].append(b)
        for line in hooks:
            line[-1] = self._decoder_norm(line[-1])
        return hooks

    def dense(self, view: int, states: list[Tensor], grid: Grid) -> tuple[Tensor, Tensor]:
        """Return points [batch, height, width, 3] and confidence [batch, height, width] of view 1 or 2, float32."""
        with detour(self.paths.on_cpu):
            return self._dense[view - 1](states, grid)

    def local(self, view: int, states: list[Tensor], grid: Grid) -> tuple[Tensor, Tensor]:
        """Return unit descriptors [batch, height, width, c] and their confidence of view 1 or 2, float32."""
        with detour(self.paths.on_cpu):
            return self._local[view - 1](states, grid)
