r"""Kernels ``audio.gate`` and ``audio.norm_gelu``: what stands between the convolutions of a residual branch.

``audio.gate`` is a gated linear unit, with the norm before it and the residual after it in the same pass;
``audio.norm_gelu`` is the same norm followed by a Gaussian error linear unit.

With ``y[b, f, t, 2c]`` split along its channels into :math:`a` and :math:`g`:

.. math:: out = a\, \sigma(g) \qquad\text{or}\qquad
   into \mathrel{+}= s\, \hat a\, \sigma(\hat g), \quad \hat y = \frac{y - \mu}{\sqrt{\sigma^2 + \epsilon}} w + b

where :math:`\mu, \sigma^2` are taken over time and channels of each ``(b, f)``: GroupNorm with one group. Gated linear
units: Dauphin et al., "Language Modeling with Gated Convolutional Networks" (2017).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from elinvar.errors import InputError
from elinvar.runtime.kernels import register

__all__ = ["GELU", "NAME", "check", "example", "example_gelu"]

NAME, GELU = "audio.gate", "audio.norm_gelu"
_HERE = "elinvar.audio.kernels.gate"


def check(y: Tensor, into: Tensor | None, *rows: Tensor | None, name: str = NAME) -> None:
    """Refuse what no version could do; `rows` are weight and bias (as wide as ``y``) and scale (half as wide)."""
    accepted = (torch.float32, torch.bfloat16, torch.float64)
    odd = name == NAME and y.dim() and y.shape[-1] % 2
    if y.dim() != 4 or odd or not y.is_contiguous() or y.dtype not in accepted:
        raise InputError(
            f"{name}: y is {y.dtype} of shape {tuple(y.shape)}; give a contiguous float32 or bfloat16 "
            "[batch, frequency, time, channels], an even number of channels for a gate."
        )
    wide, half = y.shape[-1], y.shape[-1] // 2
    for what, row, n in zip(("weight", "bias", "scale"), rows, (wide, wide, half), strict=False):
        if row is not None and row.shape != (n,):
            raise InputError(f"{name}: {what} has shape {tuple(row.shape)}; channels of y ask for ({n},).")
    if into is not None and (into.shape != (*y.shape[:-1], half) or into.dtype != y.dtype):
        raise InputError(
            f"{name}: into is {into.dtype} of shape {tuple(into.shape)}; y asks for {y.dtype} {(*y.shape[:-1], half)}."
        )


# What the tiles vary: batch, frequencies, times, channels, whether normed and added. Times beyond one block of the
# CPU version, a single time, channels that are no multiple of a vector.
_TILES = ((1, 5, 37, 6, True), (2, 1, 3001, 20, True), (1, 3, 1, 48, True), (2, 4, 19, 13, False))


def example(seed: int) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """One tile with an offset far from zero, where a careless variance would show."""
    make = torch.Generator().manual_seed(seed)
    batch, frequencies, times, channels, normed = _TILES[seed % len(_TILES)]
    y = 2.0 * torch.randn(batch, frequencies, times, 2 * channels, generator=make, dtype=torch.float32, device="cpu")
    if not normed:
        return (y,), {}
    into = torch.randn(batch, frequencies, times, channels, generator=make, dtype=torch.float32, device="cpu")
    weight, bias, scale = (
        torch.randn(n * channels, generator=make, dtype=torch.float32, device="cpu") for n in (2, 2, 1)
    )
    return (y + 30.0, into), {"weight": 1 + 0.1 * weight, "bias": 0.1 * bias, "scale": scale, "eps": 1e-5}


def example_gelu(seed: int) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The same shapes, narrow, at an offset."""
    make = torch.Generator().manual_seed(seed)
    batch, frequencies, times, channels, _ = ((1, 5, 37, 6, 0), (2, 1, 6001, 20, 0), (1, 3, 1, 48, 0), (1, 2, 9, 1, 0))[
        seed % 4
    ]
    y = 3.0 + 2.0 * torch.randn(batch, frequencies, times, channels, generator=make, dtype=torch.float32, device="cpu")
    weight, bias = torch.randn(2, channels, generator=make, dtype=torch.float32, device="cpu")
    return (y, weight, bias), {"eps": 1e-5}


register(
    NAME,
    "v1",
    reference=f"{_HERE}.reference:gate",
    cpu=f"{_HERE}.cpu:gate",
    example=example,
    tolerance=2e-6,
    summary="GroupNorm(1) + GLU + scaled residual in one or two passes over memory",
    default=True,
)
register(
    GELU,
    "v1",
    reference=f"{_HERE}.reference:norm_gelu",
    cpu=f"{_HERE}.cpu:norm_gelu",
    example=example_gelu,
    tolerance=2e-6,
    summary="GroupNorm(1) + GELU in place",
    default=True,
)
