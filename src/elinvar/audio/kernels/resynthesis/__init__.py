r"""Kernel ``audio.resynthesis``: from a network's channels-last spectra to sound, without storing what is between.

With hop :math:`h = n / 4`, a periodic Hann window :math:`w` and frames :math:`t`, every row :math:`r` is

.. math::

   x_r[t h + j] &\mathrel{+}= \frac{w_j}{1.5 \sqrt n} \sum_{k < n} S_{r t k}\, e^{2 \pi i j k / n} \\
   S_{r t k} &= \gamma_b (y_{k t, 2r} + i\, y_{k t, 2r + 1}) + \delta_b (1 + i), \quad k < n / 2

and :math:`S_{n - k} = \bar S_k`: the inverse of an orthonormal STFT where four windows overlap (the sum of their
squares is 1.5). The Nyquist frequency, which the network does not see, is 0, and :math:`S_0` is real: a real signal has
no other part there, and libraries differ in what they make of one.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from elinvar.errors import InputError
from elinvar.runtime.kernels import register

__all__ = ["NAME", "check", "example"]

NAME = "audio.resynthesis"
_HERE = "elinvar.audio.kernels.resynthesis"


def check(y: Tensor, gain: Tensor, shift: Tensor) -> None:
    """Refuse what no version could do."""
    accepted = (torch.float32, torch.bfloat16, torch.float16)
    if y.dim() != 4 or y.shape[-1] % 2 or not y.is_contiguous() or y.dtype not in accepted or y.shape[1] % 2:
        raise InputError(
            f"{NAME}: y is {y.dtype} of shape {tuple(y.shape)}; give contiguous float32 or 16-bit "
            "[batch, bins, frames, 2 * rows], an even number of bins."
        )
    for what, x in (("gain", gain), ("shift", shift)):
        if x.shape != (len(y),) or x.dtype != torch.float32:
            raise InputError(f"{NAME}: {what} is {x.dtype} of shape {tuple(x.shape)}; give float32 ({len(y)},).")


def example(seed: int) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Frames that are no multiple of a tile, sizes that the CPU version has no transform for."""
    make = torch.Generator().manual_seed(seed)
    shape = ((1, 64, 21, 16), (2, 256, 9, 4), (1, 128, 1, 2), (1, 30, 3, 6))[seed % 4]
    y, (gain, shift) = (
        torch.randn(shape, generator=make, dtype=torch.float32, device="cpu"),
        torch.randn(2, shape[0], generator=make, dtype=torch.float32, device="cpu"),
    )
    return (y, gain, shift), {}


register(
    NAME,
    "v1",
    reference=f"{_HERE}.reference:resynthesis",
    cpu=f"{_HERE}.cpu:resynthesis",
    example=example,
    tolerance=2e-6,
    summary="scale, turn, inverse transform, window and overlap-add of frames that stay in cache",
    default=True,
)
