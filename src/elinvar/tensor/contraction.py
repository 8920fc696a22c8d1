"""Gradients of linear layers, and the custom operations compiled graphs call.

The backward pass of ``y = act(x w' + b + r)`` is one element-wise step into a workspace and two products:
``g = dy * act'``, ``dx = g w``, ``dw = g' x``, ``db`` the column sums of g, ``dr = g``. The workspace and the float32
copies of 16-bit operands come from the pool and go back before the pass ends; results belong to autograd.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from elinvar.runtime.memory import Pool
from elinvar.tensor import activation as act
from elinvar.tensor.gemm import choose, product
from elinvar.tensor.modes import autocasting
from elinvar.tensor.workspace import Scratch

__all__ = ["apply", "traced"]

_Maybe = torch.Tensor | None


class _Contraction(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        w: torch.Tensor,
        bias: _Maybe,
        residual: _Maybe,
        activation: str | None,
        pool: Pool | None,
        native: bool,
    ) -> torch.Tensor:
        result, saved = _forward(x, w, bias, residual, activation, pool, native=native)
        ctx.activation, ctx.pool, ctx.native = activation, pool, native
        ctx.has = (bias is not None, residual is not None)
        ctx.save_for_backward(x, w, bias, residual, saved)
        return result

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> Any:
        if autocasting():  # the operands are in the dtype they shall have
            with torch.autocast(grads[0].device.type, enabled=False):
                return _Contraction._differentiate(ctx, grads[0])
        return _Contraction._differentiate(ctx, grads[0])

    @staticmethod
    def _differentiate(ctx: Any, grad: torch.Tensor) -> Any:
        x, w, bias, residual, saved = ctx.saved_tensors
        wanted = tuple(ctx.needs_input_grad[:4])
        if torch.is_grad_enabled():  # a gradient of the gradient was asked for
            found = _again(x, w, bias, residual, ctx.activation, grad, wanted)
        else:
            with Scratch(ctx.pool) as scratch:
                found = _backward(grad, x, w, saved, ctx.activation, wanted, scratch, native=ctx.native)
        return (*found, None, None, None)


apply: Callable[..., torch.Tensor] = _Contraction.apply


def _forward(
    x: torch.Tensor,
    w: torch.Tensor,
    bias: _Maybe,
    residual: _Maybe,
    activation: str | None,
    pool: Pool | None,
    *,
    native: bool,
) -> tuple[torch.Tensor, _Maybe]:
    """Return the result, and what the activation's gradient needs."""
    from elinvar.tensor.dense import forward

    before = None
    if act.needs_input(activation):
        before = torch.empty(x.shape[0], w.shape[0], dtype=x.dtype, device=x.device)
    with Scratch(pool) as scratch:
        # The pool is for temporaries: autograd keeps results longer than any frame.
        result = forward(x, w, bias, residual, activation, None, None, scratch, native=native, before=before)
    return result, before if before is not None else None if activation is None else result


def _backward(
    grad: torch.Tensor,
    x: torch.Tensor,
    w: torch.Tensor,
    saved: _Maybe,
    activation: str | None,
    wanted: tuple[bool, ...],
    scratch: Scratch,
    *,
    native: bool = False,
) -> tuple[_Maybe, ...]:
    """Return the gradients of x, w, bias and residual, None where not wanted."""
    g = grad
    if activation is not None:
        assert saved is not None
        # The residual's gradient is this very tensor, and then it has to outlive the workspace.
        into = torch.empty_like(saved) if wanted[3] else scratch.empty(saved.shape, saved.dtype, saved.device)
        g = act.backward(grad.contiguous(), saved, activation, into)
    to_x = _times(g, w.t(), scratch, native=native) if wanted[0] else None
    to_w = _times(g.t(), x.t(), scratch, native=native) if wanted[1] else None
    to_bias = g.sum(0) if wanted[2] else None
    return to_x, to_w, to_bias, g if wanted[3] else None


def _times(x: torch.Tensor, w: torch.Tensor, scratch: Scratch, *, native: bool) -> torch.Tensor:
    """Return ``x @ w.T`` in the operands' dtype, in memory of its own."""
    size = (x.shape[0], x.shape[1], w.shape[0])
    route = choose(x.dtype, x.device, size, None, residual=False, native=native)
    y = product(route, x, w, None, None if route.compute == x.dtype else _wide(route, size, x, scratch), scratch)
    return y if y.dtype == x.dtype else y.to(x.dtype)


def _wide(route: Any, size: tuple[int, int, int], x: torch.Tensor, scratch: Scratch) -> _Maybe:
    return None if route.library == "onednn" else scratch.empty((size[0], size[2]), route.compute, x.device)


def _again(
    x: torch.Tensor,
    w: torch.Tensor,
    bias: _Maybe,
    residual: _Maybe,
    activation: str | None,
    grad: torch.Tensor,
    wanted: tuple[bool, ...],
) -> tuple[_Maybe, ...]:
    """The same gradients by differentiable operations."""
    wide = torch.float32 if x.dtype in (torch.float16, torch.bfloat16) else x.dtype
    before = x.to(wide) @ w.to(wide).t()
    for term in (bias, residual):
        before = before if term is None else before + term
    g = grad.to(wide)
    if activation is not None:
        (g,) = torch.autograd.grad(act.apply(before, activation), before, g, create_graph=True)
    return (
        (g @ w.to(wide)).to(x.dtype) if wanted[0] else None,
        (g.t() @ x.to(wide)).to(w.dtype) if wanted[1] else None,
        g.sum(0).to(x.dtype) if wanted[2] else None,
        g.to(x.dtype) if wanted[3] else None,
    )


# --- torch.compile ---------------------------------------------------------------------------------------------------
@torch.library.custom_op("elinvar::linear", mutates_args=())
def _linear(x: torch.Tensor, w: torch.Tensor, bias: _Maybe, residual: _Maybe, activation: str) -> torch.Tensor:
    with torch.no_grad():
        result = _forward(x, w, bias, residual, activation or None, None, native=False)[0]
    return result.clone() if residual is not None and result.data_ptr() == residual.data_ptr() else result


@_linear.register_fake
def _(x: torch.Tensor, w: torch.Tensor, bias: _Maybe, residual: _Maybe, activation: str) -> torch.Tensor:
    del bias, residual, activation
    return x.new_empty(x.shape[0], w.shape[0])


@torch.library.custom_op("elinvar::linear_backward", mutates_args=())
def _linear_backward(
    grad: torch.Tensor, x: torch.Tensor, w: torch.Tensor, bias: _Maybe, residual: _Maybe, activation: str
) -> list[torch.Tensor]:
    with torch.no_grad(), Scratch(None) as scratch:
        saved = None
        if activation:
            result, saved = _forward(x, w, bias, residual, activation, None, native=False)
            saved = result if saved is None else saved
        wanted = (True, True, bias is not None, residual is not None)
        found = _backward(grad, x, w, saved, activation or None, wanted, scratch)
        shared = found[3] is not None and found[3].data_ptr() == grad.data_ptr()
    return [f.clone() if k == 3 and shared else f.contiguous() for k, f in enumerate(found) if f is not None]


@_linear_backward.register_fake
def _(
    grad: torch.Tensor, x: torch.Tensor, w: torch.Tensor, bias: _Maybe, residual: _Maybe, activation: str
) -> list[torch.Tensor]:
    del activation
    found = [x.new_empty(x.shape), w.new_empty(w.shape)]
    found += [] if bias is None else [bias.new_empty(bias.shape)]
    return found + ([] if residual is None else [grad.new_empty(grad.shape)])


def _setup(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
    del output
    *tensors, ctx.activation = inputs
    ctx.save_for_backward(*tensors)


def _traced_backward(ctx: Any, grad: torch.Tensor) -> tuple[Any, ...]:
    x, w, bias, residual = ctx.saved_tensors
    found = iter(_linear_backward(grad.contiguous(), x, w, bias, residual, ctx.activation))
    return (next(found), next(found), *(None if t is None else next(found) for t in (bias, residual)), None)


_linear.register_autograd(_traced_backward, setup_context=_setup)


def traced(x: torch.Tensor, w: torch.Tensor, bias: _Maybe, residual: _Maybe, activation: str | None) -> torch.Tensor:
    """The call a compiled graph contains."""
    result: torch.Tensor = torch.ops.elinvar.linear(x, w, bias, residual, activation or "")
    return result
