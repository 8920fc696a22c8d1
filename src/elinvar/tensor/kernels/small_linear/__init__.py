"""Kernel ``tensor.small_linear``: ``relu?(x @ w.T + bias?)`` in 16-bit storage where a product is all latency.

A 256x256x256 product is a launch, a wait for memory, and a tenth of a microsecond of arithmetic. This fetches all terms
of a tile at once, and adds bias and relu before the only rounding; on an NVIDIA GPU its groups take their places while
the launch before it still runs. On an H200 it takes less time than the library's product alone, up to what one round of
tiles covers (``benchmarks/results/tensor_h200.json``).
"""

from __future__ import annotations

from typing import Any

import torch

from elinvar.runtime.kernels import kernel, register

__all__ = ["NAME", "example", "run"]

NAME = "tensor.small_linear"
_HERE = "elinvar.tensor.kernels.small_linear"


def run(x: torch.Tensor, w: torch.Tensor, bias: torch.Tensor | None = None, *, relu: bool = False) -> torch.Tensor:
    """Run the kernel of the tensors' device.

    Parameters
    ----------
    x : Tensor[m, k] float16 or bfloat16
        Contiguous; k is a multiple of 8, and 16 bytes divide its address.
    w : Tensor[n, k]
        Likewise, of `x`'s dtype and device.
    bias : Tensor[n], contiguous, or None
    relu
        Whether negative results become 0; NaN stays.

    Returns
    -------
    Tensor[m, n]
        Summed in float32, rounded once.
    """
    found: torch.Tensor = kernel(NAME, str(x.device))(x, w, bias, relu=relu)
    return found


def example(seed: int) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Sizes around the tile's edges, one and two steps of depth, with and without what follows."""
    m, k, n = ((33, 264, 17), (16, 40, 32), (5, 8, 3), (40, 256, 50))[seed % 4]
    make = torch.Generator().manual_seed(seed)
    dtype = torch.bfloat16 if seed % 2 else torch.float16
    x, w, b = (
        torch.randn(shape, generator=make, dtype=torch.float32, device="cpu").to(dtype)
        for shape in ((m, k), (n, k), (n,))
    )
    return (x, w, None if seed == 1 else b), {"relu": seed % 3 == 0}


register(
    NAME,
    "v1",
    reference=f"{_HERE}.reference:linear",
    metal=f"{_HERE}.metal:linear",
    source="elinvar/tensor/kernels/small_linear/small_linear.metal",
    example=f"{_HERE}:example",
    tolerance=4e-3,  # of a bfloat16's rounding; float16's is an eighth of it
    summary="small 16-bit products with bias and relu on matrix units: a tile's terms fetched at once",
    default=True,
    group_size=128,
    defines={"T": "half", "ROWS": 16, "COLUMNS": 16, "DEPTH": 256, "GROUP": 128},
    occupancy_reason=(
        "it is used for at most two groups per multiprocessor, and everything a simdgroup needs is fetched before "
        "anything is computed: registers hold what is under way (two groups of 128 threads take 2.1 us for "
        "256 x 256 x 256, two of 256 2.6)"
    ),
)
