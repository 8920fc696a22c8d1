r"""Kernel ``audio.exponentials``: the part of a softmax that touches every score, in one pass over what caches hold.

For each row of scores :math:`s_{ij}`, with :math:`m_i = \max_j s_{ij}`:

.. math:: p_{ij} = e^{\alpha (s_{ij} - m_i)}, \qquad r_i = 1 / \sum_j p_{ij}

:math:`p` replaces the scores in their own number format; multiplying by :math:`r` is left to the product that follows,
which has many fewer columns. The sums are those of the rounded :math:`p`, so that the weights add up to 1.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from elinvar.errors import InputError
from elinvar.runtime.kernels import register

__all__ = ["NAME", "check", "example"]

NAME = "audio.exponentials"
_HERE = "elinvar.audio.kernels.exponentials"


def check(scores: Tensor) -> None:
    """Refuse what no version could do."""
    accepted = (torch.float32, torch.bfloat16)
    if scores.dim() != 2 or not scores.is_contiguous() or scores.dtype not in accepted or scores.shape[1] < 1:
        raise InputError(
            f"{NAME}: scores are {scores.dtype} of shape {tuple(scores.shape)}; give a contiguous float32 or bfloat16 "
            "[rows, columns] with a column or more."
        )


def example(seed: int) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Rows that are no multiple of a vector, offsets that would overflow without the maximum, one column."""
    make = torch.Generator().manual_seed(seed)
    rows, columns, offset = ((5, 37, 0.0), (3, 1000, 300.0), (4, 1, -50.0), (70, 16, 1e4))[seed % 4]
    return (offset + 8.0 * torch.randn(rows, columns, generator=make, dtype=torch.float32, device="cpu"), 0.35), {}


register(
    NAME,
    "v1",
    reference=f"{_HERE}.reference:exponentials",
    cpu=f"{_HERE}.cpu:exponentials",
    example=example,
    tolerance=2e-6,
    summary="softmax without its division: maximum, exponential and sum of a row while it is in cache",
    default=True,
)
