r"""Kernel ``audio.group_norm``: GroupNorm (Wu and He, 2018) with a choice of how the statistics are summed.

``standard``
    Two passes, float32 sums in the lanes of the processor over a few thousand samples, float64 beyond.
``kahan``
    Two passes, every lane compensated (Kahan, 1965).
``welford``
    One pass, running mean and squares per lane (Welford, 1962), lanes merged in pairs (Chan, Golub, LeVeque, 1979).
``float64``
    Two passes in float64.

All subtract the mean as a float32 and the float32 of what that leaves out, so that a large offset costs no accuracy.
"""

from __future__ import annotations

from typing import Any

import torch

from elinvar.runtime.kernels import register

__all__ = ["ALGORITHMS", "NAME", "example"]

NAME = "audio.group_norm"
ALGORITHMS = ("standard", "kahan", "welford", "float64")
_HERE = "elinvar.audio.kernels.group_norm"


def example(seed: int) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Another algorithm, size and offset for each seed."""
    make = torch.Generator().manual_seed(seed)
    batch, channels, time, groups = ((2, 6, 5003, 3), (1, 4, 2, 4), (3, 8, 130, 1), (1, 1, 17, 1))[seed % 4]
    x = torch.randn(batch, channels, time, generator=make, dtype=torch.float32, device="cpu") + (0.0, 100.0, 0.0, 0.0)[
        seed % 4
    ] * (time > 1)
    weight, bias = torch.randn(2, channels, generator=make, dtype=torch.float32, device="cpu")
    return (x, groups, weight, bias), {"eps": 1e-5, "algorithm": ALGORITHMS[seed % 4]}


register(
    NAME,
    "v1",
    reference=f"{_HERE}.reference:group_norm",
    cpu=f"{_HERE}.cpu:group_norm",
    example=example,
    tolerance=5e-6,
    summary="GroupNorm with standard, Kahan, Welford or float64 statistics",
    default=True,
)
