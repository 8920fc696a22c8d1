"""Names and shapes of a network's tensors, and how the published layouts spell them.

The names are those of the published MASt3R checkpoints. DUNE's come in two spellings (``dune_backbone.*`` beside
``mast3r.*`` in one file; ``encoder.*`` and ``norm.*``, ``mast3r.*`` in two), read as ``encoder.*``, ``norm.*`` and the
decoder's names without prefix.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Mapping
from typing import Any

from elinvar.errors import WeightsError

from .catalogue import Variant

__all__ = ["Shape", "canonical", "derive", "expected", "optional"]

_BLOCK = re.compile(r"encoder\.blocks\.0\.(\d+)\.")
_RN = re.compile(r"(.*\.dpt\.scratch\.)layer_rn\.(\d)\.weight")
_UNUSED = re.compile(
    r"(mask_token|encoder\.mask_token|encoder\.norm\.(weight|bias)|imagenet_(mean|std)|(projectors|teacher_norms)\..*"
    r"|prediction_head\..*)"
)


@dataclasses.dataclass(frozen=True)
class Shape:
    """A tensor's shape without the tensor."""

    shape: tuple[int, ...]


def canonical(name: str, kind: Variant) -> str | None:
    """Return our name of a stored tensor, or None for one the network does not use.

    Both names of an aliased tensor (``layer_rn.0`` and ``layer1_rn``) give the same one.
    """
    if kind.encoder == "dino":
        if name.startswith(("mast3r.patch_embed.", "mast3r.enc_norm.", "patch_embed.", "enc_norm.")):
            return None  # left over from the decoder's own training
        name = name.removeprefix("mast3r.")
        if name.startswith("dune_backbone."):
            name = "encoder." + name.removeprefix("dune_backbone.")
        name = _BLOCK.sub(r"encoder.blocks.\1.", name)
    if _UNUSED.fullmatch(name):
        return None
    alias = _RN.fullmatch(name)
    return f"{alias[1]}layer{int(alias[2]) + 1}_rn.weight" if alias else name


def optional(name: str) -> bool:
    """Whether the published file has this tensor although nothing uses it."""
    return ".refinenet4.resConfUnit1." in name


def _affine(out: dict[str, Shape], name: str, *shape: int) -> None:
    out[f"{name}.weight"] = Shape(shape)
    out[f"{name}.bias"] = Shape(shape[:1])


def _block(out: dict[str, Shape], name: str, width: int, norms: Iterable[str], cross: bool) -> None:
    for norm in norms:
        _affine(out, f"{name}.{norm}", width)
    _affine(out, f"{name}.attn.qkv", 3 * width, width)
    _affine(out, f"{name}.attn.proj", width, width)
    for part in ("projq", "projk", "projv", "proj") if cross else ():
        _affine(out, f"{name}.cross_attn.{part}", width, width)
    _affine(out, f"{name}.mlp.fc1", 4 * width, width)
    _affine(out, f"{name}.mlp.fc2", width, 4 * width)


def _head(out: dict[str, Shape], name: str, kind: Variant) -> None:
    d, e = kind.width, kind.decoder_width
    dpt = f"{name}.dpt"
    f, last = kind.features, kind.features // 2
    for k, (source, width) in enumerate(zip((d, e, e, e), kind.dense, strict=True)):
        _affine(out, f"{dpt}.act_postprocess.{k}.0", width, source, 1, 1)
        out[f"{dpt}.scratch.layer{k + 1}_rn.weight"] = Shape((f, width, 3, 3))
        _affine(out, f"{dpt}.scratch.refinenet{k + 1}.out_conv", f, f, 1, 1)
        for unit in (1, 2):
            for conv in (1, 2):
                _affine(out, f"{dpt}.scratch.refinenet{k + 1}.resConfUnit{unit}.conv{conv}", f, f, 3, 3)
    for k, side in ((0, 4), (1, 2), (3, 3)):
        _affine(out, f"{dpt}.act_postprocess.{k}.1", kind.dense[k], kind.dense[k], side, side)
    _affine(out, f"{dpt}.head.0", last, f, 3, 3)
    _affine(out, f"{dpt}.head.2", last, last, 3, 3)
    _affine(out, f"{dpt}.head.4", 4, last, 1, 1)
    local = f"{name}.head_local_features"
    _affine(out, f"{local}.fc1", kind.local_width, d + e)
    _affine(out, f"{local}.fc2", (kind.descriptor + 1) * kind.patch**2, kind.local_width)


def expected(kind: Variant, *, registers: int = 4, grid: int | None = None, scaled: bool = True) -> dict[str, Shape]:
    """Return the names and shapes of a network's tensors, each alias once.

    Parameters
    ----------
    kind
        Which network.
    registers, grid, scaled
        Register tokens, side of the table of positions and whether blocks have LayerScale: they belong to a "dino"
        checkpoint, see `derive`.
    """
    out: dict[str, Shape] = {}
    d = kind.width
    if kind.encoder == "croco":
        _affine(out, "patch_embed.proj", d, 3, kind.patch, kind.patch)
        for i in range(kind.depth):
            _block(out, f"enc_blocks.{i}", d, ("norm1", "norm2"), cross=False)
        _affine(out, "enc_norm", d)
    else:
        _affine(out, "encoder.patch_embed.proj", d, 3, kind.patch, kind.patch)
        out["encoder.cls_token"] = Shape((1, 1, d))
        out["encoder.pos_embed"] = Shape((1, 1 + (grid or kind.grid) ** 2, d))
        if registers:
            out["encoder.register_tokens"] = Shape((1, registers, d))
        for i in range(kind.depth):
            _block(out, f"encoder.blocks.{i}", d, ("norm1", "norm2"), cross=False)
            for k in (1, 2) if scaled else ():
                out[f"encoder.blocks.{i}.ls{k}.gamma"] = Shape((d,))
        _affine(out, "norm", d)
    _affine(out, "decoder_embed", kind.decoder_width, d)
    for stack in ("dec_blocks", "dec_blocks2"):
        for i in range(kind.decoder_depth):
            _block(out, f"{stack}.{i}", kind.decoder_width, ("norm1", "norm2", "norm3", "norm_y"), cross=True)
    _affine(out, "dec_norm", kind.decoder_width)
    for view in (1, 2):
        _head(out, f"downstream_head{view}", kind)
    return out


def derive(kind: Variant, given: Mapping[str, Any]) -> dict[str, Any]:
    """Read from a checkpoint's own tensors what `expected` cannot know: registers, grid, LayerScale.

    Raises
    ------
    WeightsError
        The table of positions is not square.
    """
    if kind.encoder != "dino":
        return {}
    registers = given.get("encoder.register_tokens")
    found: dict[str, Any] = {
        "registers": 0 if registers is None else int(registers.shape[1]),
        "scaled": any(name.endswith(".ls1.gamma") for name in given),
    }
    table = given.get("encoder.pos_embed")
    if table is not None:
        grid = round((int(table.shape[1]) - 1) ** 0.5)
        if grid * grid + 1 != int(table.shape[1]):
            raise WeightsError(
                f"encoder.pos_embed has {table.shape[1]} rows, not a square and one; use the published encoder."
            )
        found["grid"] = grid
    return found
