"""Kernel ``vision.addnorm``: what stands between two products of a transformer's residual stream.

One pass adds a product and its bias to the stream and normalises the sum (without the learned scale and offset, which
are folded into the next product's weights). There is no separate CPU kernel: a CPU runs other paths.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from elinvar.errors import InputError
from elinvar.runtime.kernels import kernel, register

__all__ = ["NAME", "example", "run"]

NAME = "vision.addnorm"
_HERE = "elinvar.vision.kernels.addnorm"


def run(x: Tensor, y: Tensor, bias: Tensor, *, epsilon: float = 1e-6, device: Any = None) -> tuple[Tensor, Tensor]:
    """Return ``x + y + bias`` and its layer normalisation.

    Parameters
    ----------
    x, y : Tensor[rows, width] float32, float16 or bfloat16
        The residual stream and what is added to it; width is a multiple of 4.
    bias : Tensor[groups, width]
        Of x's dtype; rows are divided among the groups in order.
    epsilon
        Added to the variance.
    device
        Where the tensors are; by default where `x` is.

    Returns
    -------
    sum, normed : Tensor[rows, width]
        Of x's dtype. Sums are formed in float32 and rounded once; the rounded sum is what is normalised.

    Raises
    ------
    InputError
        Shapes or dtypes do not fit.
    """
    if (
        x.shape != y.shape
        or x.shape[1:] != bias.shape[1:]
        or len(x) % max(len(bias), 1)
        or x.shape[1] % 4
        or (not x.dtype == y.dtype == bias.dtype)
    ):
        raise InputError(
            f"{NAME}: x {x.dtype} {tuple(x.shape)}, y {y.dtype} {tuple(y.shape)} and bias {bias.dtype} "
            f"{tuple(bias.shape)} do not fit together; see vision.kernels.addnorm.run."
        )
    chosen = kernel(NAME, str(x.device) if device is None else device)
    out: tuple[Tensor, Tensor] = chosen(x.contiguous(), y.contiguous(), bias, epsilon=epsilon)
    return out


def example(seed: int) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Rows that are no multiple of a group's, widths above and below one step of a SIMD group; a large mean."""
    make = torch.Generator().manual_seed(seed)
    rows, width, groups = ((6, 64, 2), (5, 260, 1), (9, 768, 3))[seed % 3]
    x, y = (torch.randn(rows, width, generator=make) * 3.0 + offset for offset in (5.0, 0.0))
    return (x, y, torch.randn(groups, width, generator=make)), {"epsilon": 1e-6}


register(
    NAME,
    "v1",
    reference=f"{_HERE}.reference:addnorm",
    metal=f"{_HERE}.metal:addnorm",
    source="elinvar/vision/kernels/addnorm/addnorm.metal",
    example=example,
    tolerance=2e-6,
    summary="residual, bias and layer normalisation in one pass, a SIMD group per row",
    default=True,
    group_size=128,
    occupancy_reason=(
        "a row of 1,024 channels stays in a SIMD group's registers between sum, mean and deviation; reading it again "
        "would cost more than the occupancy"
    ),
    defines={"T4": "half4", "WIDTH4": 256},
)
