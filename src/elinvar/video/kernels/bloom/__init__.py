r"""Kernel ``video.bloom``: the light of bright parts, spread by a pyramid, at half resolution.

1. *Prefilter*: with :math:`b = \max(r, g, b)`, threshold T and knee k,
   :math:`c \max(s, b - T) / \max(b, 10^{-4})`, :math:`s = clamp(b - T + k, 0, 2k)^2 / (4k + 10^{-4})`.
   NaN and negative values count as 0, values above `ceiling` as `ceiling`.
2. *Down*: every level halves with the 13-tap filter of Jimenez (SIGGRAPH 2014, "Next generation post processing in Call
of
   Duty"), as the sum of two separable filters; edges repeat.
3. *Up*: from the smallest, ``level = weight * level + tent(next)`` with the 3 x 3 tent of bilinear samples.

The weights add up to 1, so the response to a flat field is the prefilter's: gain 1 for constant light.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from elinvar.errors import InputError
from elinvar.runtime.kernels import kernel, register

__all__ = ["NAME", "example", "run", "shapes"]

NAME = "video.bloom"
_HERE = "elinvar.video.kernels.bloom"


def shapes(width: int, height: int, levels: int) -> list[tuple[int, int, int]]:
    """Return the pyramid's shapes [3, h, w], half resolution first; it stops when a side would fall below 2."""
    result: list[tuple[int, int, int]] = []
    for _ in range(levels):
        if result and min(width, height) < 4:
            break
        width, height = -(-width // 2), -(-height // 2)
        result.append((3, height, width))
    return result


def run(
    frame: torch.Tensor,
    pyramid: Sequence[torch.Tensor],
    *,
    threshold: float,
    knee: float,
    ceiling: float = 100.0,
    weights: Sequence[float],
    device: Any = "auto",
) -> torch.Tensor:
    """Compute the bloom of a frame into the first level of a pyramid.

    Parameters
    ----------
    frame : Tensor[3 or 4, H, W] float32
        Linear light.
    pyramid : list of Tensor float32
        Memory in the shapes of `shapes`; all of it is overwritten.
    threshold, knee, ceiling : float
        See above; in units of the frame.
    weights : list of float
        One for each level.

    Returns
    -------
    Tensor
        ``pyramid[0]``.
    """
    wanted = shapes(frame.shape[2], frame.shape[1], len(pyramid))
    if [tuple(level.shape) for level in pyramid] != wanted or len(weights) != len(pyramid) or not pyramid:
        raise InputError(f"{NAME}: the pyramid or its weights do not fit a frame {tuple(frame.shape)}; give {wanted}.")
    spread = kernel(NAME, device)
    spread(frame, list(pyramid), [float(w) for w in weights], threshold=threshold, knee=knee, ceiling=ceiling)
    return pyramid[0]


def example(seed: int) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """A frame with a few lights, a negative value and a NaN; in two, the last simdgroup has one column left."""
    make = torch.Generator().manual_seed(seed)
    width, height, levels = ((113, 92, 3), (244, 19, 2), (35, 50, 3), (18, 19, 1))[seed % 4]
    frame = torch.rand(3, height, width, generator=make) ** 4 * 6.0
    frame[0, 0, 0], frame[1, 3, 5], frame[2, height - 1, width - 1] = -3.0, float("nan"), 1e6
    pyramid = [torch.zeros(shape) for shape in shapes(width, height, levels)]
    weights = [(k + 1) / sum(range(1, levels + 1)) for k in range(levels)]
    return (frame, pyramid, weights), {"threshold": 1.0, "knee": 0.5, "ceiling": 100.0}


register(
    NAME,
    "v1",
    reference=f"{_HERE}.reference:spread",
    cpu=f"{_HERE}.cpu:spread",
    metal=f"{_HERE}.metal:spread",
    source="elinvar/video/kernels/bloom/bloom.metal",
    example=example,
    tolerance=2e-6,
    summary="prefilter, 13-tap pyramid down, tent up, at half resolution",
    default=True,
    group_size={"bloom_first": 128, "bloom_down": 128, "bloom_up": 128, "bloom_tail": 256},
    defines={"WIDE": 1},
    occupancy_reason="a thread keeps the next pair of rows on its way: bounded to 40 registers it spills and takes 1.9 "
    "times as long on an H200",
)
