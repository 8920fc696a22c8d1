r"""Kernel ``audio.analysis``: from sound to the channels-last spectra a network reads, without storing what is between.

With hop :math:`h = n / 4` and a periodic Hann window :math:`w`,

.. math:: y_{k t, 2r} + i\, y_{k t, 2r + 1} = \frac 1 {\sqrt n} \sum_{j < n} w_j\, x_r[t h + j]\, e^{-2 \pi i j k / n},
   \qquad k < n / 2
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from elinvar.errors import InputError
from elinvar.runtime.kernels import register

__all__ = ["NAME", "check", "example"]

NAME = "audio.analysis"
_HERE = "elinvar.audio.kernels.analysis"


def check(x: Tensor, n: int) -> None:
    """Refuse what no version could do."""
    if x.dim() != 3 or not x.is_contiguous() or x.dtype != torch.float32 or n % 4 or x.shape[-1] < n:
        raise InputError(
            f"{NAME}: x is {x.dtype} of shape {tuple(x.shape)}; give contiguous float32 [batch, rows, time] with {n} "
            "samples or more, and a window that is a multiple of 4."
        )


def example(seed: int) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Frames that are no multiple of a tile, samples that fill no frame, a size the CPU version cannot transform."""
    shape, n = (((1, 2, 1000), 128), ((2, 1, 512), 512), ((1, 4, 5000), 256), ((1, 2, 200), 60))[seed % 4]
    return (torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float32, device="cpu"), n), {}


register(
    NAME,
    "v1",
    reference=f"{_HERE}.reference:analysis",
    cpu=f"{_HERE}.cpu:analysis",
    example=example,
    tolerance=2e-6,
    summary="window, transform and turn frames that stay in cache",
    default=True,
)
