"""Activations: their names, what they are in float64, in place, inside a fused kernel, and their gradients."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch.nn import functional

from elinvar.errors import InputError
from elinvar.metal.fuse.rounding import activate

__all__ = ["ACTIVATIONS", "NAMES", "apply", "apply_", "backward", "expression", "named", "needs_input"]

ACTIVATIONS = ("relu", "gelu_tanh", "gelu_erf", "silu", "sigmoid", "tanh")
NAMES: dict[str | None, str | None] = {
    None: None,
    "none": None,
    "gelu": "gelu_tanh",
    **{name: name for name in ACTIVATIONS},
}
_aten = torch.ops.aten


def named(activation: str | None, operation: str) -> str | None:
    """Return an activation's own name, None for none.

    ``"gelu"`` means ``"gelu_tanh"`` (Hendrycks and Gimpel, 2016, eq. with tanh); PyTorch's default is ``"gelu_erf"``.

    Raises
    ------
    InputError
        There is no such activation.
    """
    try:
        return NAMES[activation]
    except (KeyError, TypeError):
        raise InputError(
            f"{operation}: activation={activation!r} is unknown; choose None, {', '.join(ACTIVATIONS)} or gelu"
        ) from None


_IN_PLACE: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "relu": torch.relu_,
    "gelu_tanh": lambda x: _aten.gelu_.default(x, approximate="tanh"),
    "gelu_erf": lambda x: _aten.gelu_.default(x, approximate="none"),
    "silu": _aten.silu_.default,
    "sigmoid": torch.sigmoid_,
    "tanh": torch.tanh_,
}
_PLAIN: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "relu": torch.relu,
    "gelu_tanh": lambda x: functional.gelu(x, approximate="tanh"),
    "gelu_erf": functional.gelu,
    "silu": functional.silu,
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
}


def apply_(x: torch.Tensor, activation: str | None) -> torch.Tensor:
    """Apply an activation in place."""
    return x if activation is None else _IN_PLACE[activation](x)


def apply(x: torch.Tensor, activation: str | None) -> torch.Tensor:
    """Apply an activation: the reference, differentiable, also in float64."""
    return x if activation is None else _PLAIN[activation](x)


def expression(x: Any, activation: str | None, low: Any = None) -> Any:
    """Write an activation into a function that is being fused.

    Parameters
    ----------
    x
        A symbol of the function; or a tensor, for which this is the reference.
    activation
        Its own name.
    low
        What rounding `x` lost (`elinvar.metal.fuse.rounding`), which an exponential tail multiplies.

    Notes
    -----
    Of a tensor, the tanh form of GELU is ``x sigmoid(2 u)``, equal to ``x (1 + tanh u) / 2`` without its cancellation
    for x < 0.
    """
    if low is not None and activation not in (None, "relu"):
        return activate(activation, x, low)
    if activation == "gelu_tanh" and isinstance(x, torch.Tensor):
        return x * torch.sigmoid((x + x * x * x * 0.044715) * (2.0 * math.sqrt(2.0 / math.pi)))
    return apply(x, activation)


def needs_input(activation: str | None) -> bool:
    """Whether the gradient needs what went into the activation rather than what came out."""
    return activation in ("gelu_tanh", "gelu_erf", "silu")


def backward(grad: torch.Tensor, saved: torch.Tensor, activation: str, into: torch.Tensor) -> torch.Tensor:
    """Multiply `grad` by the activation's slope, writing into given memory.

    Parameters
    ----------
    grad
        Gradient of the activation's result.
    saved
        What came out of it, or went in where `needs_input` says so.
    activation
        Its own name.
    into
        Receives the gradient of what went in.
    """
    if activation == "relu":
        return _aten.threshold_backward.grad_input(grad, saved, 0, grad_input=into)  # type: ignore[no-any-return]
    if activation in ("gelu_tanh", "gelu_erf"):
        form = "tanh" if activation == "gelu_tanh" else "none"
        return _aten.gelu_backward.grad_input(  # type: ignore[no-any-return]
            grad, saved, approximate=form, grad_input=into
        )
    if activation == "silu":
        return _aten.silu_backward.grad_input(grad, saved, grad_input=into)  # type: ignore[no-any-return]
    if activation == "sigmoid":
        return _aten.sigmoid_backward.grad_input(grad, saved, grad_input=into)  # type: ignore[no-any-return]
    return _aten.tanh_backward.grad_input(grad, saved, grad_input=into)  # type: ignore[no-any-return]
