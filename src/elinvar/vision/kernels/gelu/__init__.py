"""Kernel ``vision.gelu``: a product's bias and the exact GELU in one pass.

torch's own is bound by the arithmetic of its error function on an H200, not by memory, and a batched product has no
bias. The absolute error of the share of the normal distribution is below 1e-7, that of float16 thousands of times
larger. There is no separate CPU kernel: a CPU runs other paths.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from elinvar.errors import InputError
from elinvar.runtime.kernels import kernel, register

__all__ = ["NAME", "example", "run"]

NAME = "vision.gelu"
_HERE = "elinvar.vision.kernels.gelu"


def run(x: Tensor, bias: Tensor, *, device: Any = None) -> Tensor:
    """Return ``gelu(x + bias)``.

    Parameters
    ----------
    x : Tensor[rows, width] float32, float16 or bfloat16
        A product without its bias; width is a multiple of 4.
    bias : Tensor[groups, width]
        Of x's dtype; rows are divided among the groups in order.
    device
        Where the tensors are; by default where `x` is.

    Returns
    -------
    Tensor[rows, width]
        Of x's dtype; computed in float32 and rounded once.

    Raises
    ------
    InputError
        Shapes or dtypes do not fit.
    """
    fits = x.dim() == bias.dim() == 2 and x.shape[1] == bias.shape[1] and x.dtype == bias.dtype
    if not fits or x.shape[1] % 4 or len(x) % max(len(bias), 1):
        raise InputError(
            f"{NAME}: x {x.dtype} {tuple(x.shape)} and bias {bias.dtype} {tuple(bias.shape)} do not fit together; give "
            "[rows, width] and [groups, width], width a multiple of 4."
        )
    out: Tensor = kernel(NAME, str(x.device) if device is None else device)(x.contiguous(), bias)
    return out


def example(seed: int) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Values on both tails and around zero; rows that are no multiple of a thread's."""
    make = torch.Generator().manual_seed(seed)
    rows, width, groups = ((6, 64, 2), (5, 12, 1), (9, 8, 3))[seed % 3]
    x = 3.0 * torch.randn(rows, width, generator=make)
    x[0, 0], x[1, 1], x[2, 2] = 0.0, 12.0, -12.0
    return (x, torch.randn(groups, width, generator=make)), {}


register(
    NAME,
    "v1",
    reference=f"{_HERE}.reference:gelu",
    metal=f"{_HERE}.metal:gelu",
    source="elinvar/vision/kernels/gelu/gelu.metal",
    example=example,
    tolerance=1e-6,
    summary="bias and exact GELU in one pass, four rows a thread",
    default=True,
    defines={"T4": "half4"},
)
