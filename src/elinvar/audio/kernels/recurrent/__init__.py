r"""Kernels ``audio.lstm_step`` and ``audio.gru_step``: one time step of a recurrent layer, for audio as it arrives.

torch's layers repack their weights on every call, which is nothing for a sequence and everything for one step. Here
the weights are laid out once and a step is two matrix-vector products and the gates.

LSTM (Hochreiter and Schmidhuber, 1997), gates i, f, g, o: :math:`c' = \sigma(f) c + \sigma(i)\tanh(g)`,
:math:`h' = \sigma(o)\tanh(c')`. GRU (Cho et al., 2014), gates r, z, n with the reset after the product:
:math:`n = \tanh(W_n x + b_n + \sigma(r) (U_n h + d_n))`, :math:`h' = (1 - \sigma(z)) n + \sigma(z) h`. Both as in
torch.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from elinvar.runtime.kernels import register

__all__ = ["GRU", "LSTM", "example"]

LSTM, GRU = "audio.lstm_step", "audio.gru_step"
_HERE = "elinvar.audio.kernels.recurrent"


def example(gates: int) -> Callable[[int], tuple[tuple[Any, ...], dict[str, Any]]]:
    """Return an example of a layer with so many gates; sizes are no multiples of a vector, the batch varies."""

    def tile(seed: int) -> tuple[tuple[Any, ...], dict[str, Any]]:
        make = torch.Generator().manual_seed(seed)
        batch, inputs, hidden = ((1, 20, 37), (3, 5, 16), (1, 64, 64), (2, 1, 3))[seed % 4]
        x = torch.randn(batch, inputs, generator=make, dtype=torch.float32, device="cpu")
        states = [
            torch.randn(batch, hidden, generator=make, dtype=torch.float32, device="cpu").tanh()
            for _ in range(2 if gates == 4 else 1)
        ]
        weights = [
            torch.randn(gates * hidden, n, generator=make, dtype=torch.float32, device="cpu") / n**0.5
            for n in (inputs, hidden)
        ]
        biases = [torch.randn(gates * hidden, generator=make, dtype=torch.float32, device="cpu") for _ in range(2)]
        return (x, *states, *weights, *biases), {}

    return tile


register(
    LSTM,
    "v1",
    reference=f"{_HERE}.reference:lstm_step",
    cpu=f"{_HERE}.cpu:lstm_step",
    example=example(4),
    tolerance=2e-6,
    summary="one LSTM step, states in place",
    default=True,
)
register(
    GRU,
    "v1",
    reference=f"{_HERE}.reference:gru_step",
    cpu=f"{_HERE}.cpu:gru_step",
    example=example(3),
    tolerance=2e-6,
    summary="one GRU step, state in place",
    default=True,
)
