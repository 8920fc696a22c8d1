"""Kernel ``vision.join``: a convolution's bias, one or two maps added to it, and the sum cut at zero for the next one.

cuDNN's convolutions leave the bias to a pass of its own, and so do additions and the cut; this is all of them in one.
There is no separate CPU kernel: a CPU's convolutions fuse what follows them.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from elinvar.errors import InputError
from elinvar.runtime.kernels import kernel, register

__all__ = ["NAME", "example", "run"]

NAME = "vision.join"
_HERE = "elinvar.vision.kernels.join"


def run(
    x: Tensor, bias: Tensor, first: Tensor, second: Tensor | None = None, *, cut: bool = False, device: Any = None
) -> tuple[Tensor, Tensor]:
    """Return ``x + bias + first + second`` and, if asked for, the same without its negative values.

    Parameters
    ----------
    x, first, second : Tensor[pixels, channels] float32, float16 or bfloat16
        Of one shape and dtype; channels are a multiple of 4. `second` may be absent.
    bias : Tensor[channels]
        Of the same dtype.
    cut
        Whether the second result is wanted; else it is empty.
    device
        Where the tensors are; by default where `x` is.

    Returns
    -------
    sum, cut : Tensor[pixels, channels]
        Of x's dtype; summed in float32 and rounded once.

    Raises
    ------
    InputError
        Shapes or dtypes do not fit.
    """
    others = [first] if second is None else [first, second]
    if x.dim() != 2 or x.shape[1:] != bias.shape or x.shape[1] % 4 or any(
        t.shape != x.shape or t.dtype != x.dtype for t in others
    ) or bias.dtype != x.dtype:  # fmt: skip
        shapes = [tuple(t.shape) for t in (x, bias, *others)]
        raise InputError(f"{NAME}: shapes {shapes} or their dtypes do not fit together; see vision.kernels.join.run.")
    chosen = kernel(NAME, str(x.device) if device is None else device)
    out: tuple[Tensor, Tensor] = chosen(
        x.contiguous(), bias, first.contiguous(), None if second is None else second.contiguous(), cut=cut
    )
    return out


def example(seed: int) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """One map or two, with and without the cut."""
    make = torch.Generator().manual_seed(seed)
    pixels, channels = ((7, 8), (3, 4), (5, 12), (33, 4))[seed % 4]
    x, first, second = (torch.randn(pixels, channels, generator=make) for _ in range(3))
    return (x, torch.randn(channels, generator=make), first, second if seed % 2 else None), {"cut": seed % 4 < 2}


register(
    NAME,
    "v1",
    reference=f"{_HERE}.reference:join",
    metal=f"{_HERE}.metal:join",
    source="elinvar/vision/kernels/join/join.metal",
    example=example,
    tolerance=1e-6,
    summary="bias, residual and cut of a convolution in one pass",
    default=True,
    defines={"T4": "half4"},
)
