"""Layers for training and inference that run the fused operations; torch's optimisers and state dicts fit them."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch

from elinvar.errors import InputError
from elinvar.runtime.memory import Pool
from elinvar.runtime.plan import Precision
from elinvar.tensor.activation import named
from elinvar.tensor.dense import linear
from elinvar.tensor.storage import resolve

__all__ = ["FusedLinear", "FusedMLP"]


_ACTIVATIONS: dict[type[torch.nn.Module], str] = {
    torch.nn.ReLU: "relu",
    torch.nn.SiLU: "silu",
    torch.nn.Sigmoid: "sigmoid",
    torch.nn.Tanh: "tanh",
}


class FusedLinear(torch.nn.Linear):
    """``activation(x @ weight.T + bias + residual)``: `torch.nn.Linear` with what usually follows it.

    Parameters
    ----------
    in_features, out_features, bias, device, dtype
        As for `torch.nn.Linear`; its state dicts load.
    activation
        None, "relu", "gelu_tanh" ("gelu"), "gelu_erf", "silu", "sigmoid" or "tanh".
    pool
        Where temporaries, and results without a gradient, take their memory. Results belong to the
        ``pool.frame()`` around the call. Not part of copies and pickles of the layer.
    precision
        Storage of the weights and the arithmetic of their products: a format name or an `elinvar.Precision`.

    Raises
    ------
    InputError
        An unknown activation or precision.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        activation: str | None = None,
        *,
        pool: Pool | None = None,
        precision: str | Precision | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        found = None if precision is None else resolve(precision, device or "cpu", "FusedLinear")
        super().__init__(in_features, out_features, bias, device, found.storage_dtype if found else dtype)
        self.activation = named(activation, "FusedLinear")
        self.pool = pool
        self.precision = found

    def forward(self, x: torch.Tensor, residual: torch.Tensor | None = None) -> torch.Tensor:
        """Run the layer; shapes as for `elinvar.tensor.linear`."""
        return linear(x, self.weight, self.bias, self.activation, residual, pool=self.pool, precision=self.precision)

    def extra_repr(self) -> str:
        """Say which activation."""
        return f"{super().extra_repr()}, activation={self.activation}"

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "pool": None}

    @classmethod
    def of(cls, layer: torch.nn.Linear, activation: str | None = None, *, pool: Pool | None = None) -> FusedLinear:
        """Return a fused layer that shares an ordinary one's parameters."""
        if not isinstance(layer, torch.nn.Linear):
            raise InputError(f"FusedLinear.of: got a {type(layer).__name__}; give a torch.nn.Linear")
        fused = cls(layer.in_features, layer.out_features, layer.bias is not None, activation, pool=pool, device="meta")
        fused.weight, fused.bias = layer.weight, layer.bias
        return fused


class FusedMLP(torch.nn.Sequential):
    """Linear layers with an activation between them.

    Parameters
    ----------
    sizes
        Features in, hidden, ..., out: at least two numbers.
    activation
        After every layer but the last.
    final
        After the last layer.
    bias, pool, precision, device, dtype
        As for `FusedLinear`, for all layers.

    Raises
    ------
    InputError
        Fewer than two sizes, or an unknown activation or precision.
    """

    def __init__(
        self,
        sizes: Sequence[int],
        activation: str | None = "relu",
        final: str | None = None,
        *,
        bias: bool = True,
        pool: Pool | None = None,
        precision: str | Precision | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        if len(sizes) < 2 or any(not isinstance(n, int) or n < 1 for n in sizes):
            raise InputError(f"FusedMLP: sizes={tuple(sizes)}; give at least two numbers of features from 1")
        pairs = list(pairwise(sizes))
        super().__init__(
            *(
                FusedLinear(
                    n,
                    m,
                    bias,
                    activation if k + 1 < len(pairs) else final,
                    pool=pool,
                    precision=precision,
                    device=device,
                    dtype=dtype,
                )
                for k, (n, m) in enumerate(pairs)
            )
        )

    @classmethod
    def of(cls, model: torch.nn.Sequential, *, pool: Pool | None = None) -> FusedMLP:
        """Return a fused model that shares the parameters of linear layers with activations between them.

        Its state dict counts layers alone: "1.weight" is the second linear layer's, "2.weight" in a model whose
        activations are modules.

        Raises
        ------
        InputError
            The model holds something else than linear layers, activations that can be fused, and identities.
        """
        if not isinstance(model, torch.nn.Sequential):
            raise InputError(f"FusedMLP.of: got a {type(model).__name__}; give a torch.nn.Sequential")
        layers: list[tuple[torch.nn.Linear, str | None]] = []
        for k, module in enumerate(model):
            if isinstance(module, torch.nn.Linear):
                layers.append((module, getattr(module, "activation", None)))
                continue
            activation = _activation(module)
            if activation is None or not layers or (activation and layers[-1][1] is not None):
                raise InputError(
                    f"FusedMLP.of: module {k} is {module}; give linear layers, each with at most one of ReLU, GELU, "
                    "SiLU, Sigmoid and Tanh after it"
                )
            layers[-1] = (layers[-1][0], activation or layers[-1][1])
        if not layers:
            raise InputError("FusedMLP.of: the model has no linear layer")
        fused = cls.__new__(cls)
        torch.nn.Sequential.__init__(fused, *(FusedLinear.of(layer, name, pool=pool) for layer, name in layers))
        return fused.train(model.training)


def _activation(module: torch.nn.Module) -> str | None:
    """The name of an activation module, "" of one that does nothing, None of anything else."""
    if isinstance(module, torch.nn.GELU):
        return "gelu_tanh" if module.approximate == "tanh" else "gelu_erf"
    if isinstance(module, torch.nn.Identity) or (isinstance(module, torch.nn.Dropout) and module.p == 0):
        return ""
    return next((name for kind, name in _ACTIVATIONS.items() if isinstance(module, kind)), None)
