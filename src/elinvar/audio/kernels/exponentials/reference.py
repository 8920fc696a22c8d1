"""What ``audio.exponentials`` must compute, in torch operations."""

from __future__ import annotations

from torch import Tensor

__all__ = ["exponentials"]


def exponentials(scores: Tensor, scale: float = 1.0) -> tuple[Tensor, Tensor]:
    """Replace scores by the exponentials of ``scale`` times their distance from the row's largest.

    Parameters
    ----------
    scores : Tensor[rows, columns]
        Contiguous float32 or bfloat16; overwritten.
    scale : float
        Positive.

    Returns
    -------
    exponentials : Tensor[rows, columns]
        The same memory.
    reciprocals : Tensor[rows] float32
        One over each row's sum.
    """
    wide = scores.double()
    scores.copy_((scale * (wide - wide.amax(dim=1, keepdim=True))).exp())
    return scores, scores.double().sum(dim=1).reciprocal().float()
