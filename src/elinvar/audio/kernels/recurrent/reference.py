"""What a recurrent step must compute, in torch operations."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

__all__ = ["gru_step", "lstm_step"]


def lstm_step(x: Tensor, h: Tensor, c: Tensor, w: Tensor, u: Tensor, b: Tensor, d: Tensor) -> None:
    """Advance ``h`` and ``c`` in place by one step.

    Parameters
    ----------
    x : Tensor[batch, inputs]
    h, c : Tensor[batch, hidden]
    w, u : Tensor[4 * hidden, inputs], Tensor[4 * hidden, hidden]
        Gates i, f, g, o; torch's ``weight_ih`` and ``weight_hh``.
    b, d : Tensor[4 * hidden]
        torch's ``bias_ih`` and ``bias_hh``.
    """
    i, f, g, o = (functional.linear(x, w, b) + functional.linear(h, u, d)).chunk(4, dim=1)
    c.copy_(torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g))
    h.copy_(torch.sigmoid(o) * torch.tanh(c))


def gru_step(x: Tensor, h: Tensor, w: Tensor, u: Tensor, b: Tensor, d: Tensor) -> None:
    """Advance ``h`` in place by one step; gates r, z, n, otherwise as `lstm_step`."""
    r, z, n = functional.linear(x, w, b).chunk(3, dim=1)
    hr, hz, hn = functional.linear(h, u, d).chunk(3, dim=1)
    z = torch.sigmoid(z + hz)
    n = torch.tanh(n + torch.sigmoid(r + hr) * hn)
    h.copy_((1 - z) * n + z * h)
