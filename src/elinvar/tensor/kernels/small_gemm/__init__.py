"""Kernel ``tensor.small_gemm``: ``relu?(x @ w.T + bias?)`` in float32 where a library's call costs as much as its work.

For 64×64×64 on one Zen 5 core torch's BLAS takes 1.5 to 2.3 times as long, and up to 160×160×160 no library that torch
calls is faster (``benchmarks/results/tensor_small_gemm.json``).
"""

from __future__ import annotations

from typing import Any

import torch

from elinvar.runtime.kernels import register

__all__ = ["NAME", "example", "run"]

NAME = "tensor.small_gemm"
_HERE = "elinvar.tensor.kernels.small_gemm"


def run(x: torch.Tensor, w: torch.Tensor, bias: torch.Tensor | None, *, relu: bool = False) -> torch.Tensor:
    """Run the numba kernel.

    Parameters
    ----------
    x : Tensor[m, k] float32
        On the CPU; the elements of a row are neighbours. m, k and n are at least 1.
    w : Tensor[n, k] float32
        Any strides.
    bias : Tensor[n] float32, contiguous, or None
    relu
        Whether negative results become 0; NaN stays.
    """
    from elinvar.tensor.gemm import small

    return small(x, w, bias, None, relu=relu)


def example(seed: int) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Sizes around the tile's edges; weights by rows or by columns, with and without what follows."""
    m, k, n = ((13, 35, 70), (8, 16, 32), (21, 1, 5), (9, 33, 64))[seed % 4]
    make = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=make, dtype=torch.float32, device="cpu")

    w = normal(n, k) if seed % 2 == 0 else normal(k, n).t()
    bias = normal(n) if seed != 1 else None
    return (normal(m, k), w, bias), {"relu": seed % 3 == 0}


register(
    NAME,
    "v1",
    reference=f"{_HERE}.reference:product",
    cpu=f"{_HERE}:run",
    example=f"{_HERE}:example",
    tolerance=2e-6,
    summary="small float32 products in registers: rank-one updates of 8 x 32 tiles",
    default=True,
)
