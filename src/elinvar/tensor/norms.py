"""Normalisation with an activation, in one pass over memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from elinvar.errors import InputError
from elinvar.metal.fuse import Fused
from elinvar.runtime.memory import Pool, refuse_grad
from elinvar.tensor.activation import ACTIVATIONS, expression, named
from elinvar.tensor.elementwise import call, check_parameter
from elinvar.tensor.modes import transforming
from elinvar.tensor.workspace import check_out, check_same

__all__ = ["BATCH", "LAYER", "batch_norm", "layer_norm"]


def layer_program(activation: str | None, weight: bool, bias: bool) -> Fused:
    def layer_norm(x: Any, *rest: Any) -> Any:
        *parameters, eps = rest
        centred = x - x.mean(-1, keepdim=True)
        y = centred * torch.rsqrt((centred * centred).mean(-1, keepdim=True) + eps)
        y = y * parameters[0] if weight else y
        y = y + parameters[-1] if bias else y
        return expression(y, activation)

    return Fused(layer_norm, like=0)


def _batch_program(activation: str | None, weight: bool, bias: bool) -> Fused:
    def batch_norm(x: Any, mean: Any, variance: Any, *rest: Any) -> Any:
        *parameters, eps = rest
        y = (x - mean) * torch.rsqrt(variance + eps)
        y = y * parameters[0] if weight else y
        y = y + parameters[-1] if bias else y
        return expression(y, activation)

    return Fused(batch_norm, like=0)


# Tables, not caches: torch.compile looks through a table while it traces.
_CASES = [(act, weight, bias) for act in (None, *ACTIVATIONS) for weight in (False, True) for bias in (False, True)]
LAYER = {case: layer_program(*case) for case in _CASES}
BATCH = {case: _batch_program(*case) for case in _CASES}


def layer_norm(
    x: torch.Tensor,
    normalized_shape: int | Sequence[int],
    weight: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
    eps: float = 1e-5,
    activation: str | None = None,
    *,
    out: torch.Tensor | None = None,
    pool: Pool | None = None,
) -> torch.Tensor:
    """Normalise over the last dimensions (Ba, Kiros and Hinton, 2016) and apply an activation, in one kernel.

    Parameters
    ----------
    x
        Data, floating point.
    normalized_shape
        The last dimensions' sizes, as `torch.nn.functional.layer_norm` takes them; a number is one dimension.
    weight, bias : Tensor[normalized_shape], optional
        Of `x`'s dtype, or float32 beside 16-bit data.
    eps
        Added to the variance.
    activation
        None, "relu", "gelu_tanh" ("gelu"), "gelu_erf", "silu", "sigmoid" or "tanh".
    out, pool
        As for `add_relu`.

    Returns
    -------
    Tensor
        Like `x`. Mean, variance (around the mean, not from squares) and everything after are float32 or wider.

    Raises
    ------
    InputError
        Shapes, dtypes or devices do not fit.
    """
    activation = named(activation, "layer_norm")
    check_same("layer_norm", x=x)
    shape = (normalized_shape,) if isinstance(normalized_shape, int) else tuple(normalized_shape)
    if not shape or tuple(x.shape[-len(shape) :]) != shape:
        raise InputError(f"layer_norm: x of shape {tuple(x.shape)} does not end in normalized_shape {shape}")
    given = [("weight", weight), ("bias", bias)]
    flat = []
    for name, t in given:
        if t is not None:
            check_parameter("layer_norm", x, name, t)
            if tuple(t.shape) != shape:
                raise InputError(f"layer_norm: {name} has shape {tuple(t.shape)}; give {shape}")
            flat.append(t.reshape(-1))
    if out is not None and not (torch.compiler.is_compiling() or transforming()):
        _check_out(out, x, *flat)
    if not x.numel():
        return torch.empty_like(x) if out is None else out
    lead = x.shape[: x.dim() - len(shape)]
    rows = x if len(shape) == 1 else x.reshape(*lead, -1)
    into = out
    if out is not None and len(shape) > 1:
        into = out.view(*lead, -1) if out.is_contiguous() else None
    program = LAYER[activation, weight is not None, bias is not None]
    done = call(program, (rows, *flat, float(eps)), into, pool, "layer_norm")
    if out is None:
        return done.reshape(x.shape)
    return out.copy_(done.reshape(x.shape)) if into is None else out


def _check_out(out: torch.Tensor, x: torch.Tensor, *parameters: torch.Tensor) -> None:
    refuse_grad(x, *parameters, operation="layer_norm: out=")
    exactly = isinstance(out, torch.Tensor) and out.data_ptr() == x.data_ptr() and out.stride() == x.stride()
    check_out(out, x.shape, x, "layer_norm", None if exactly else x, *parameters)


def batch_norm(
    x: torch.Tensor,
    running_mean: torch.Tensor,
    running_var: torch.Tensor,
    weight: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
    eps: float = 1e-5,
    activation: str | None = None,
    *,
    out: torch.Tensor | None = None,
    pool: Pool | None = None,
) -> torch.Tensor:
    """Normalise channels with known statistics (Ioffe and Szegedy, 2015, inference) and apply an activation.

    Parameters
    ----------
    x : Tensor[N, C, ...]
        Any memory order; channels-last data stay channels-last.
    running_mean, running_var, weight, bias : Tensor[C]
        Of `x`'s dtype, or float32 beside 16-bit data. The variance is not negative.
    eps, activation, out, pool
        As for `layer_norm`.

    Raises
    ------
    InputError
        Shapes, dtypes or devices do not fit.
    """
    activation = named(activation, "batch_norm")
    check_same("batch_norm", x=x)
    if x.dim() < 2:
        raise InputError(f"batch_norm: x has shape {tuple(x.shape)}; give (N, C, ...)")
    channels = (x.shape[1],)
    parameters = []
    if running_mean is None or running_var is None:
        raise InputError("batch_norm: running_mean and running_var are both needed; a batch's own are training's")
    for name, t in (("running_mean", running_mean), ("running_var", running_var), ("weight", weight), ("bias", bias)):
        if t is not None:
            check_parameter("batch_norm", x, name, t)
            if tuple(t.shape) != channels:
                raise InputError(f"batch_norm: {name} has shape {tuple(t.shape)}, x {channels[0]} channels")
            parameters.append(t.view(-1, *(1,) * (x.dim() - 2)))
    program = BATCH[activation, weight is not None, bias is not None]
    return call(program, (x, *parameters, float(eps)), out, pool, "batch_norm")
