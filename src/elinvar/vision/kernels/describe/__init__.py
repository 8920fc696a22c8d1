"""Kernel ``vision.describe``: from a token's row of numbers to unit descriptors and their confidence per pixel.

Unfused it is six passes over maps of 25 channels at full resolution. There is no separate CPU kernel.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from elinvar.errors import InputError
from elinvar.runtime.kernels import kernel, register

__all__ = ["NAME", "example", "run"]

NAME = "vision.describe"
_HERE = "elinvar.vision.kernels.describe"


def run(x: Tensor, *, grid: tuple[int, int], patch: int, device: Any = None) -> tuple[Tensor, Tensor]:
    """Lay tokens out as pixels and finish their values.

    Parameters
    ----------
    x : Tensor[batch, tokens, patch * patch * (channels + 1)] float32, float16 or bfloat16
        Per pixel of the patch, row by row, the descriptor and then the logarithm of its confidence.
    grid
        Tokens per column and per row.
    patch
        Side of a patch.
    device
        Where the tensor is; by default where `x` is.

    Returns
    -------
    descriptors : Tensor[batch, height, width, channels] float32
        Of unit length; where the length is below 1e-12 the values over 1e-12.
    confidence : Tensor[batch, height, width] float32

    Raises
    ------
    InputError
        Shapes do not fit.
    """
    if x.dim() != 3 or x.shape[1] != grid[0] * grid[1] or x.shape[2] % patch**2 or x.shape[2] < 2 * patch**2:
        raise InputError(f"{NAME}: {tuple(x.shape)} does not fit a grid {grid} of patches of {patch}.")
    chosen = kernel(NAME, str(x.device) if device is None else device)
    out: tuple[Tensor, Tensor] = chosen(x.contiguous(), grid=grid, patch=patch)
    return out


def example(seed: int) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Two small images; a descriptor of zeros."""
    make = torch.Generator().manual_seed(seed)
    (h, w), patch, channels = (((2, 3), 4, 24), ((3, 1), 2, 5), ((4, 5), 3, 24))[seed % 3]
    x = torch.randn(2, h * w, patch * patch * (channels + 1), generator=make)
    x[0, 0, :channels] = 0.0
    return (x,), {"grid": (h, w), "patch": patch}


register(
    NAME,
    "v1",
    reference=f"{_HERE}.reference:describe",
    metal=f"{_HERE}.metal:describe",
    source="elinvar/vision/kernels/describe/describe.metal",
    example=example,
    tolerance=2e-6,
    summary="pixels of tokens, unit descriptors, confidence: through threadgroup memory",
    default=True,
    group_size=128,
    defines={"T1": "half", "CHANNELS": 24},
)
