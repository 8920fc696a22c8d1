"""Kernel ``vision.nearest``: for every query the key with the largest dot product, without storing the products.

For descriptors of unit length this is the nearest neighbour. Of equal products the first key wins. Products are summed
in float32, so keys whose products differ by less than rounding may change places between implementations.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from elinvar.errors import InputError
from elinvar.runtime.kernels import kernel, register

__all__ = ["NAME", "example", "run"]

NAME = "vision.nearest"
_HERE = "elinvar.vision.kernels.nearest"


def run(queries: Tensor, keys: Tensor, *, version: str | None = None, device: Any = None) -> tuple[Tensor, Tensor]:
    """Find each query's best key.

    Parameters
    ----------
    queries : Tensor[n, d] float32
        Finite.
    keys : Tensor[m, d] float32
        On the same device; m from 1.
    version
        Kernel version; None takes the default for the device.
    device
        Where the tensors are; by default the queries'.

    Returns
    -------
    index : Tensor[n] int64
        Row of `keys`.
    score : Tensor[n] float32
        The dot product.

    Raises
    ------
    InputError
        Shapes, dtypes or devices do not fit, or there is no key.
    """
    for name, x in (("queries", queries), ("keys", keys)):
        if not isinstance(x, Tensor) or x.dim() != 2 or x.dtype != torch.float32:
            got = f"{x.dtype} {tuple(x.shape)}" if isinstance(x, Tensor) else type(x).__name__
            raise InputError(f"{NAME}: {name} is {got}; give a 2-D float32 tensor.")
    if queries.shape[1] != keys.shape[1] or keys.shape[0] == 0 or queries.shape[1] == 0:
        raise InputError(f"{NAME}: queries {tuple(queries.shape)} and keys {tuple(keys.shape)} do not fit together.")
    if queries.device != keys.device:
        raise InputError(f"{NAME}: queries are on {queries.device}, keys on {keys.device}; move them to one device.")
    if len(queries) == 0:
        return queries.new_empty(0, dtype=torch.int64), queries.new_empty(0)
    chosen = kernel(NAME, str(queries.device) if device is None else device, version)
    found: tuple[Tensor, Tensor] = chosen(queries.contiguous(), keys.contiguous())
    return found


def example(seed: int) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Unit descriptors; sizes that are no multiple of any block, a width that is one (seed 0) or is not."""
    make = torch.Generator().manual_seed(seed)
    n, m, d = ((37, 301, 24), (5, 1030, 24), (130, 77, 17), (4, 1, 32), (261, 530, 3))[seed % 5]
    queries, keys = (torch.nn.functional.normalize(torch.randn(k, d, generator=make), dim=1) for k in (n, m))
    if m > 40 and n > 4:
        keys[m - 1], keys[7] = queries[1], queries[3]  # a best key at the very end, and one near the start
        keys[11] = keys[7]  # the first of two equal keys wins
    return (queries, keys), {}


register(
    NAME,
    "v1",
    reference=f"{_HERE}.reference:nearest",
    cpu=f"{_HERE}.cpu:nearest",
    metal=f"{_HERE}.metal:nearest",
    source="elinvar/vision/kernels/nearest/nearest.metal",
    example=example,
    tolerance=1e-5,
    occupancy_reason=(
        "the channels of a query and of a key, 24 each, are in registers, so that a product costs six loads of "
        "threadgroup memory; arithmetic hides the rest (by its instruction count; not timed on a GPU yet)"
    ),
    summary="dot products and running argmax in one pass: keys in blocks, queries in registers",
    default=True,
    group_size=128,
    defines={"WIDTH4": 6},
)
register(
    NAME,
    "v2",
    reference=f"{_HERE}.reference:nearest",
    cpu=f"{_HERE}.cpu:nearest",
    metal=f"{_HERE}.filtered:nearest",
    source="elinvar/vision/kernels/nearest/recheck.metal",
    example=example,
    tolerance=1e-5,
    summary="matrix units estimate which blocks of keys can hold the winner, exact products there find it (NVIDIA)",
    default=True,
    occupancy_reason=(
        "a query's 24 channels stay in registers; the first half of this version, on the matrix units, takes most of "
        "the time"
    ),
    group_size=128,
    defines={"WIDTH4": 6, "BLOCK": 256},
)
