"""Kernel ``vision.enlarge``: bilinear enlargement of channels-last maps, corners on corners, and a bias.

torch's own was measured at a tenth of an H200's memory bandwidth in float16, a third of the dense head's time. The
bias is that of the product or convolution before: weights of an interpolation add up to one, so it may come after.
There is no separate CPU kernel: a CPU runs other paths.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from elinvar.errors import InputError
from elinvar.runtime.kernels import kernel, register

__all__ = ["NAME", "example", "run"]

NAME = "vision.enlarge"
_HERE = "elinvar.vision.kernels.enlarge"


def run(x: Tensor, bias: Tensor, *, size: tuple[int, int], device: Any = None) -> Tensor:
    """Enlarge maps and add a bias.

    Parameters
    ----------
    x : Tensor[batch, height, width, channels] float32, float16 or bfloat16
        Channels are a multiple of 4.
    bias : Tensor[channels]
        Of x's dtype.
    size
        (height, width) of the result, which must not be smaller; the corner pixels keep their values (plus the bias).
    device
        Where the tensors are; by default where `x` is.

    Returns
    -------
    Tensor[batch, *size, channels]
        Of x's dtype; computed in float32 and rounded once.

    Raises
    ------
    InputError
        Shapes or dtypes do not fit.
    """
    if x.dim() != 4 or x.shape[3:] != bias.shape or x.shape[3] % 4 or bias.dtype != x.dtype or min(x.shape) < 1:
        raise InputError(
            f"{NAME}: x {x.dtype} {tuple(x.shape)} and bias {bias.dtype} {tuple(bias.shape)} do not fit together; give "
            "[batch, height, width, channels] and [channels], channels a multiple of 4."
        )
    if size[0] < x.shape[1] or size[1] < x.shape[2]:
        raise InputError(f"{NAME}: maps of {tuple(x.shape[1:3])} to {size}; the result must not be smaller.")
    out: Tensor = kernel(NAME, str(x.device) if device is None else device)(x.contiguous(), bias, size=size)
    return out


def example(seed: int) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Twice the size, an odd factor, one row."""
    make = torch.Generator().manual_seed(seed)
    shape, size = (((2, 3, 5, 8), (6, 10)), ((1, 4, 3, 4), (19, 7)), ((1, 1, 4, 12), (1, 6)))[seed % 3]
    return (torch.randn(shape, generator=make), torch.randn(shape[3], generator=make)), {"size": size}


register(
    NAME,
    "v1",
    reference=f"{_HERE}.reference:enlarge",
    metal=f"{_HERE}.metal:enlarge",
    source="elinvar/vision/kernels/enlarge/enlarge.metal",
    example=example,
    tolerance=1e-6,
    summary="bilinear enlargement of channels-last maps, four channels of eight rows a thread",
    default=True,
    defines={"T4": "half4", "CHANNELS4": 64},
)
