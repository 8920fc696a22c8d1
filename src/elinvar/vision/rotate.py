"""Turning q and k by their positions, and laying their heads out for the products, in one pass."""

# torch leaves Tensor.split and Tensor.unflatten without types.
# mypy: disable-error-code="no-untyped-call, no-any-return"

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

__all__ = ["apply"]


def apply(x: Tensor, cos: Tensor, sin: Tensor, scale: float, how: str = "torch") -> Tensor:
    """Rotate pairs of channels and scale.

    Parameters
    ----------
    x
        [batch, heads, tokens, channels]; any strides with contiguous channels.
    cos, sin
        float32 [tokens, channels / 2], see `elinvar.vision.layers.Rotary`.
    scale
        Factor applied to the result.
    how
        ``"torch"``, or ``"numba"`` on the CPU in float32 and bfloat16.

    Returns
    -------
    Tensor
        Contiguous, of x's shape and dtype; computed in float32 (float64 for float64) and rounded once.
    """
    if how == "numba" and x.device.type == "cpu" and x.dtype in (torch.float32, torch.bfloat16):
        return _with_numba(x, cos, sin, scale)
    wide = x if x.dtype == torch.float64 else x.float()
    quarter = x.shape[-1] // 4
    a, b, c, d = wide.split(quarter, -1)
    cos, sin = cos * scale, sin * scale
    cy, cx = cos.split(quarter, -1)
    sy, sx = sin.split(quarter, -1)
    parts = [a * cy - b * sy, b * cy + a * sy, c * cx - d * sx, d * cx + c * sx]
    return torch.cat(parts, -1).to(x.dtype)


def _with_numba(x: Tensor, cos: Tensor, sin: Tensor, scale: float) -> Tensor:
    from elinvar.runtime.parallel import parallel_for

    from . import rotate_numba

    batch, heads, tokens, channels = x.shape
    out = torch.empty((batch, heads, tokens, channels), dtype=x.dtype)
    half = x.dtype == torch.bfloat16
    strides = x.stride()
    # A flat view from x's first element: numba then sees one contiguous array whatever the strides.
    reach = 1 + sum((n - 1) * s for n, s in zip(x.shape, strides, strict=True))
    flat: Any = x.as_strided((reach,), (1,))
    source = (flat.view(torch.int16).numpy().view(np.uint16)) if half else flat.numpy()
    target = out.view(torch.int16).numpy().view(np.uint16) if half else out.numpy()
    kernel = rotate_numba.bfloat if half else rotate_numba.single
    c, s = cos.numpy(), sin.numpy()
    factor = np.float32(scale)

    def rows(start: int, stop: int) -> None:
        kernel(source, strides[0], strides[1], strides[2], c, s, factor, target, start, stop)

    parallel_for(tokens, rows, chunk=64)
    return out
