"""What ``audio.resynthesis`` must compute, in torch operations."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from elinvar.audio.kernels.analysis.reference import window

__all__ = ["resynthesis"]


def resynthesis(y: Tensor, gain: Tensor, shift: Tensor) -> Tensor:
    """Return float32 ``[batch, rows, (frames + 3) * bins / 2]``.

    Parameters
    ----------
    y : Tensor[batch, bins, frames, 2 * rows]
        Contiguous float32, bfloat16 or float16: real and imaginary parts side by side.
    gain, shift : Tensor[batch] float32
        Of both parts.
    """
    batch, bins, frames, width = y.shape
    n, hop, rows = 2 * bins, bins // 2, width // 2
    spectrum = torch.zeros(batch, rows, frames, bins + 1, dtype=torch.complex64, device=y.device)
    parts = torch.view_as_real(spectrum)
    factor = math.sqrt(n) / 1.5
    turned = y.view(batch, bins, frames, rows, 2).permute(0, 3, 2, 1, 4)
    column = (-1, 1, 1, 1, 1)
    wide = turned.float()
    if torch.is_grad_enabled():
        parts[..., :bins, :] = torch.addcmul((factor * shift).view(column), wide, (factor * gain).view(column))
    else:
        torch.addcmul((factor * shift).view(column), wide, (factor * gain).view(column), out=parts[..., :bins, :])
    parts[..., 0, 1] = 0
    waves = torch.fft.irfft(spectrum, n) * window(n, y.device)
    x = torch.zeros(batch, rows, frames + 3, hop, dtype=torch.float32, device=y.device)
    for quarter in range(4):
        x[:, :, quarter : quarter + frames] += waves[..., quarter * hop : (quarter + 1) * hop]
    return x.view(batch, rows, -1)
