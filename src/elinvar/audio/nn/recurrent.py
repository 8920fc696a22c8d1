"""LSTM and GRU: torch's layers for sequences, and a stream that takes one step at a time."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from elinvar.errors import InputError

__all__ = ["GRU", "LSTM", "RecurrentStream"]

Floats: TypeAlias = NDArray[np.float32]


class RecurrentStream:
    """A recurrent layer between two time steps: its weights laid out once, its state, and room to work in.

    Made by ``LSTM.stream`` and ``GRU.stream``. A step allocates nothing and holds no GIL while it computes; it runs on
    the CPU in float32, whatever the layer's storage. It sees the weights as they were when it was made.

    Attributes
    ----------
    batch
        Sequences that advance together.
    """

    def __init__(self, layer: nn.RNNBase, batch: int) -> None:
        from elinvar.audio.kernels.recurrent import cpu

        if layer.bidirectional:
            raise InputError(f"{type(layer).__name__}.stream: a bidirectional layer needs the whole sequence; use it.")
        if getattr(layer, "proj_size", 0):
            raise InputError(f"{type(layer).__name__}.stream: proj_size={layer.proj_size} is not supported; use 0.")
        if batch < 1:
            raise InputError(f"{type(layer).__name__}.stream: batch={batch}; give at least 1.")
        self.batch = batch
        self._shape, hidden = (batch, layer.input_size), layer.hidden_size
        self._long = isinstance(layer, nn.LSTM)
        self._run: Any = cpu.lstm_layer if self._long else cpu.gru_layer
        count = 4 if self._long else 6
        self._room = np.zeros(count * hidden, np.float32)
        self._layers = []
        for k in range(layer.num_layers):
            names = [f"weight_ih_l{k}", f"weight_hh_l{k}"] + [f"bias_ih_l{k}", f"bias_hh_l{k}"] * layer.bias
            parts = [getattr(layer, name).detach().cpu().float().contiguous().numpy().copy() for name in names]
            if not layer.bias:
                parts += [np.zeros(len(parts[0]), np.float32)] * 2
            states = [np.zeros((batch, hidden), np.float32) for _ in range(2 if self._long else 1)]
            self._layers.append((states, parts))
        self._result = torch.from_numpy(self._layers[-1][0][0])

    def step(self, x: Tensor | Floats, out: Tensor | Floats | None = None) -> Any:
        """Advance by one time step.

        Parameters
        ----------
        x
            float32 ``[batch, input_size]`` (or ``[input_size]`` with a batch of 1), torch on the CPU or numpy.
        out
            Where to put the result; None returns the stream's own array, which the next step overwrites.

        Returns
        -------
        The last layer's output ``[batch, hidden_size]``, of the kind of `x`.
        """
        tensor = isinstance(x, Tensor)
        value: Floats = (x.detach() if x.requires_grad else x).numpy() if isinstance(x, Tensor) else x
        if value.shape != self._shape or value.dtype != np.float32 or not value.flags.c_contiguous:
            value = self._accept(value)
        run, room = self._run, self._room
        for states, parts in self._layers:
            run(value, *states, *parts, room)
            value = states[0]
        if out is None:
            return self._result if tensor else value
        (out.numpy() if isinstance(out, Tensor) else out)[...] = value
        return out

    def _accept(self, value: Floats) -> Floats:
        if value.shape != self._shape and (self.batch != 1 or value.shape != self._shape[1:]):
            raise InputError(f"step: x has shape {tuple(value.shape)}; give {list(self._shape)} float32.")
        return np.ascontiguousarray(value, np.float32).reshape(self._shape)

    def reset(self) -> None:
        """Go back to the state before the first step."""
        for states, _ in self._layers:
            for state in states:
                state.fill(0)

    @property
    def state(self) -> tuple[Tensor, ...]:
        """A copy of (h,) or (h, c) as ``[layers, batch, hidden]``, what torch's layers take and return."""
        kinds = range(2 if self._long else 1)
        return tuple(torch.stack([torch.from_numpy(states[k].copy()) for states, _ in self._layers]) for k in kinds)

    def set_state(self, *state: Tensor) -> None:
        """Continue from a state; takes what `state` returns."""
        for k, value in enumerate(state):
            for (states, _), row in zip(self._layers, value, strict=True):
                states[k][...] = row.detach().cpu().numpy()


class LSTM(nn.LSTM):
    """``torch.nn.LSTM`` with `stream`: one step of 256 units in tens of microseconds instead of hundreds."""

    def stream(self, batch: int = 1) -> RecurrentStream:
        """Return a stream that takes one step at a time, from a state of zeros.

        Raises
        ------
        InputError
            The layer is bidirectional or projects its output.
        """
        return RecurrentStream(self, batch)


class GRU(nn.GRU):
    """``torch.nn.GRU`` with `stream`."""

    def stream(self, batch: int = 1) -> RecurrentStream:
        """Return a stream that takes one step at a time, from a state of zeros.

        Raises
        ------
        InputError
            The layer is bidirectional.
        """
        return RecurrentStream(self, batch)
