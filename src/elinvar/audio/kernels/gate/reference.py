"""What ``audio.gate`` must compute, in torch operations."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

__all__ = ["gate", "norm_gelu", "normalise"]


def normalise(y: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """Normalise each ``y[b, f]`` over time and channels; statistics in float32 or better, the result in its dtype."""
    wide = y if y.dtype.itemsize >= 4 else y.float()
    rows = wide.reshape(*y.shape[:-2], -1)
    normal = functional.layer_norm(rows, rows.shape[-1:], eps=eps).reshape(y.shape)
    return (normal * weight.to(wide.dtype) + bias.to(wide.dtype)).to(y.dtype)


def gate(
    y: Tensor,
    into: Tensor | None = None,
    *,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    scale: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    """Return ``glu(y)``, or ``into`` after ``scale * glu(norm(y))`` was added to it.

    Parameters
    ----------
    y : Tensor[b, f, t, 2c]
        Contiguous float32 or bfloat16 (the reference takes float64 too).
    into : Tensor[b, f, t, c] or None
        Added to in place.
    weight, bias : Tensor[2c] or None
        Of the norm; None leaves the norm out.
    scale : Tensor[c] or None
        Of what is added.
    eps : float
        Of the norm.
    """
    if weight is not None and bias is not None:
        y = normalise(y, weight, bias, eps)
    gated = functional.glu(y, dim=-1)
    if into is None:
        return gated
    return into.add_(gated if scale is None else gated * scale.to(gated.dtype))


def norm_gelu(y: Tensor, weight: Tensor, bias: Tensor, eps: float = 1e-5) -> Tensor:
    """Replace ``y [b, f, t, c]`` by ``gelu(norm(y))``, with the error function, and return it.

    Parameters
    ----------
    y : Tensor[b, f, t, c]
        Contiguous float32 or bfloat16 (the reference takes float64 too).
    weight, bias : Tensor[c]
        Of the norm.
    """
    return y.copy_(functional.gelu(normalise(y, weight, bias, eps)))
