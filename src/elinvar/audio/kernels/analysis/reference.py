"""What ``audio.analysis`` must compute, in torch operations."""

from __future__ import annotations

import functools

import torch
from torch import Tensor

__all__ = ["analysis", "window"]


@functools.lru_cache(maxsize=8)
def window(n: int, device: torch.device) -> Tensor:
    """Return the periodic Hann window on a device."""
    return torch.hann_window(n, dtype=torch.float32, device=device)


def analysis(x: Tensor, n: int) -> Tensor:
    """Return float32 ``[batch, n / 2, frames, 2 * rows]``, contiguous.

    Parameters
    ----------
    x : Tensor[batch, rows, time] float32
        Contiguous.
    n : int
        Window; the hop is a quarter of it.
    """
    batch, rows, _ = x.shape
    turns = window(n, x.device)
    z = torch.stft(x.flatten(0, 1), n, n // 4, window=turns, center=False, normalized=True, return_complex=True)
    parts = torch.view_as_real(z[:, :-1]).reshape(batch, rows, n // 2, -1, 2)
    return parts.permute(0, 2, 3, 1, 4).reshape(batch, n // 2, -1, 2 * rows)
