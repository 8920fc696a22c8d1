"""What ``audio.group_norm`` must compute: torch's own."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

__all__ = ["group_norm"]


def group_norm(
    x: Tensor,
    groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    *,
    eps: float = 1e-5,
    algorithm: str = "kahan",
) -> Tensor:
    """Normalise ``x [batch, channels, ...]`` over each of `groups` groups of channels and everything after them.

    Parameters
    ----------
    weight, bias : Tensor[channels] or None
        Affine map after the norm.
    algorithm : str
        How the CPU version sums; torch has one way.
    """
    del algorithm
    return functional.group_norm(x, groups, weight, bias, eps)
