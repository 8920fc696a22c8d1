"""Kernel ``vision.turn``: what stands between the product that makes queries, keys and values and the attention.

One pass adds the product's bias, turns queries and keys by their positions (Su et al., 2021, in the two-axis form of
CroCo v2) and, for a decoder with two branches, hands each branch the keys and values made from the other one's tokens.
Unfused it is seventeen passes. There is no separate CPU kernel: a CPU runs other paths (`elinvar.vision.choices`).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from elinvar.errors import InputError
from elinvar.runtime.kernels import kernel, register

__all__ = ["NAME", "example", "fits", "run"]

NAME = "vision.turn"
_HERE = "elinvar.vision.kernels.turn"


def fits(head: int) -> bool:
    """Whether heads of this many channels can be turned: their quarters are made of fours."""
    return head % 16 == 0


def run(
    x: Tensor,
    bias: Tensor,
    cosine: Tensor,
    sine: Tensor,
    *,
    heads: int,
    turned: int,
    moved: int | None = None,
    shift: int = 0,
    device: Any = None,
) -> Tensor:
    """Add the bias, turn some parts, and write some parts to other rows.

    Parameters
    ----------
    x : Tensor[rows, parts, width] float32, float16 or bfloat16
        A product without its bias. Row r is token ``r % tokens``; contiguous.
    bias : Tensor[groups, parts, width]
        Of x's dtype; rows are divided among the groups in order.
    cosine, sine : Tensor[tokens, width / heads / 2] float32
        See `elinvar.vision.layers.Rotary`.
    heads
        In each part; a head has a multiple of 16 channels.
    turned
        Bit p says whether part p turns.
    moved, shift
        Parts from `moved` on are written to row ``(r + shift) % rows``; None moves none.
    device
        Where the tensors are; by default where `x` is.

    Returns
    -------
    Tensor[rows, parts, width]
        Of x's dtype; computed in float32 and rounded once.

    Raises
    ------
    InputError
        Shapes or dtypes do not fit.
    """
    groups, tokens = len(bias), len(cosine)
    rows, parts, width = x.shape
    if (
        bias.shape[1:] != x.shape[1:]
        or bias.dtype != x.dtype
        or rows % max(groups, 1)
        or rows % max(tokens, 1)
        or width % heads
        or not fits(width // heads)
        or cosine.shape != (tokens, width // heads // 2)
        or sine.shape != cosine.shape
    ):
        raise InputError(
            f"{NAME}: x {tuple(x.shape)}, bias {tuple(bias.shape)}, tables {tuple(cosine.shape)} and {heads} heads do "
            "not fit together; see vision.kernels.turn.run."
        )
    chosen = kernel(NAME, str(x.device) if device is None else device)
    out: Tensor = chosen(
        x.contiguous(),
        bias,
        cosine,
        sine,
        heads=heads,
        turned=turned,
        moved=parts if moved is None else moved,
        shift=shift,
    )
    return out


def example(seed: int) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Two images of a small grid: self-attention, a decoder's five parts, a query alone."""
    make = torch.Generator().manual_seed(seed)
    tokens, parts, heads, head, groups = ((6, 3, 2, 64, 1), (5, 5, 3, 32, 2), (7, 1, 1, 16, 2))[seed % 3]
    x = torch.randn(2 * tokens, parts, heads * head, generator=make)
    bias = torch.randn(groups, parts, heads * head, generator=make)
    angle = torch.rand(tokens, head // 2, generator=make) * 6.0
    options = {"heads": heads, "turned": (0b011, 0b01011, 0b1)[seed % 3], "moved": (3, 3, 1)[seed % 3], "shift": tokens}
    return (x, bias, angle.cos(), angle.sin()), options


register(
    NAME,
    "v1",
    reference=f"{_HERE}.reference:turn",
    metal=f"{_HERE}.metal:turn",
    source="elinvar/vision/kernels/turn/turn.metal",
    example=example,
    tolerance=1e-6,
    summary="bias, rotary positions and the exchange of branches in one pass",
    default=True,
    defines={"T4": "half4", "QUARTER4": 4},
)
