"""Kernel ``vision.nearest``: for every query the key with the largest dot product, without storing the products.

For descriptors of unit length this is the nearest neighbour. Of equal products the first key wins. Products are summed
in float32, so keys whose products differ by less than rounding may change places between implementations.
"""

from __future__ import annotations

import contextlib
from typing import Any

import torch
from torch import Tensor

from elinvar.errors import InputError, KernelRejected
from elinvar.runtime.kernels import Kernel, kernel, register

from .estimate import BLOCK, shape

__all__ = ["NAME", "both", "example", "run"]

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
    _check(queries, keys)
    if len(queries) == 0:
        return queries.new_empty(0, dtype=torch.int64), queries.new_empty(0)
    found: tuple[Tensor, Tensor] = _chosen(queries, keys, device, version)(queries.contiguous(), keys.contiguous())
    return found


def both(queries: Tensor, keys: Tensor) -> tuple[Tensor, Tensor, Tensor] | None:
    """Find each query's best key and each key's best query from the same products, where that is faster.

    Parameters
    ----------
    queries, keys
        As for `run`.

    Returns
    -------
    index, score
        As `run` returns them.
    back : Tensor[m] int64
        For each key the first query with the largest product. All three are None where two calls of `run` are faster.
    """
    _check(queries, keys)
    from .filtered import both as search
    from .filtered import fits

    if queries.device.type == "cpu" or not fits(len(queries), len(keys), queries.shape[1]) or len(queries) == 0:
        return None
    if _chosen(queries, keys, None, None).version != "v2":
        return None

    return search(queries.contiguous(), keys.contiguous(), device=str(queries.device))


def _check(queries: Tensor, keys: Tensor) -> None:
    for name, x in (("queries", queries), ("keys", keys)):
        if not isinstance(x, Tensor) or x.dim() != 2 or x.dtype != torch.float32:
            got = f"{x.dtype} {tuple(x.shape)}" if isinstance(x, Tensor) else type(x).__name__
            raise InputError(f"{NAME}: {name} is {got}; give a 2-D float32 tensor.")
    if queries.shape[1] != keys.shape[1] or keys.shape[0] == 0 or queries.shape[1] == 0:
        raise InputError(f"{NAME}: queries {tuple(queries.shape)} and keys {tuple(keys.shape)} do not fit together.")
    if queries.device != keys.device:
        raise InputError(f"{NAME}: queries are on {queries.device}, keys on {keys.device}; move them to one device.")


def _chosen(queries: Tensor, keys: Tensor, device: Any, version: str | None) -> Kernel:
    """Return the kernel; where nobody asked for a version and estimates do not pay, version v1."""
    place = str(queries.device) if device is None else device
    chosen = kernel(NAME, place, version)
    if version is None and chosen.version == "v2" and chosen.backend == "metal":
        from .filtered import pays

        if not pays(queries.device, len(queries), len(keys), queries.shape[1]):
            with contextlib.suppress(KernelRejected):
                chosen = kernel(NAME, place, "v1")
    return chosen


def example(seed: int) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Unit descriptors; sizes that are no multiple of any block, a width that is one (seed 0) or is not."""
    make = torch.Generator().manual_seed(seed)
    n, m, d = ((37, 301, 24), (5, 1030, 24), (130, 77, 17), (4, 1, 32), (261, 530, 3))[seed % 5]
    queries, keys = (torch.nn.functional.normalize(torch.randn(k, d, generator=make), dim=1) for k in (n, m))
    if m > 40 and n > 4:
        keys[m - 1], keys[7] = queries[1], queries[3]  # a best key at the very end, and one near the start
        keys[11] = keys[39] = keys[7]  # the first of equal keys wins, also of those that one lane looks at
    return (queries, keys), {}


def example_of_two_groups(seed: int) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """As `example`; of seed 0 more queries than a group of the first half takes, and more keys than two blocks."""
    (queries, keys), kwargs = example(seed)
    if seed % 5 == 0:
        make = torch.Generator().manual_seed(seed)
        more = torch.nn.functional.normalize(torch.randn(330, queries.shape[1], generator=make), dim=1)
        queries, keys = torch.cat([more[:100], queries]), torch.cat([keys, more[100:]])
    return (queries, keys), kwargs


def example_of_estimates(seed: int) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """float16 rows of length 1 at most, whole blocks of them: for the keys several, for the queries several groups."""
    make = torch.Generator().manual_seed(seed)
    groups, blocks, width = ((2, 2, 24), (1, 1, 8), (1, 1, 32), (1, 2, 64), (1, 1, 128))[seed % 5]
    queries, keys = (
        torch.nn.functional.normalize(torch.randn(n, width, generator=make), dim=1).half()
        for n in (groups * shape(width).rows, blocks * BLOCK)
    )
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
    example=example_of_two_groups,
    tolerance=1e-5,
    summary="matrix units estimate which blocks of keys can hold the winner, exact products there find it",
    default=True,
    occupancy_reason=(
        "a query's 24 channels stay in registers; the first half of this version, on the matrix units, takes most of "
        "the time"
    ),
    group_size=128,
    defines={"WIDTH4": 6, "BLOCK": 256},
)
register(
    "vision.estimate",
    "v1",
    reference=f"{_HERE}.estimate:reference",
    metal=f"{_HERE}.estimate:estimates",
    source="elinvar/vision/kernels/nearest/estimate.metal",
    example=example_of_estimates,
    tolerance=1e-3,
    summary="the first half of vision.nearest v2: the largest product in each block, on the matrix units, both ways",
    default=True,
    occupancy_reason=(
        "128 queries of 24 channels stay in registers, so that three loads of keys serve 48 products of the matrix "
        "units, which are what it waits for: with 64 queries (44 %) both directions take 10.2 ms instead of 10.3, one "
        "9.6 instead of 9.2 (2 x 384 x 512 x 24, H200)"
    ),
    group_size=128,
    defines={"WIDTH": 24, "TILES": 16, "STAGE": 256, "BOTH": 1, "SUM": "half"},
)
