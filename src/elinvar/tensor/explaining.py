"""What an operation would run for given arguments, in words."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch

from elinvar import tensor
from elinvar.errors import InputError
from elinvar.metal.fuse import Fused
from elinvar.metal.fuse.binding import Method
from elinvar.runtime.plan import Precision
from elinvar.tensor import elementwise, loss, norms
from elinvar.tensor.activation import named
from elinvar.tensor.custom import CustomKernel
from elinvar.tensor.gemm import choose
from elinvar.tensor.nn import FusedLinear, FusedMLP
from elinvar.tensor.storage import native as insists
from elinvar.tensor.storage import resolve
from elinvar.tensor.workspace import HALVES, check_same

__all__ = ["explain"]


def explain(operation: Callable[..., Any] | str, *args: Any, **kwargs: Any) -> str:
    """Say what a call would run, and why, without running it.

    Parameters
    ----------
    operation
        One of this engine's operations or its name, a layer of `elinvar.tensor.nn`, a fused function, or a registered
        kernel.
    *args, **kwargs
        As for the operation.

    Examples
    --------
    >>> import torch
    >>> from elinvar import tensor
    >>> print(tensor.explain("add_relu", torch.ones(4), torch.ones(4)))
    add_relu: one numba kernel over (4,), 2 input(s), 1 output(s); computed in float32, rounded once to float32

    Raises
    ------
    InputError
        The operation is not one that can be explained.
    """
    if isinstance(operation, str) and operation not in _EXPLAINED:
        raise InputError(f"explain: {operation} is unknown; choose one of {', '.join(_EXPLAINED)}")
    if isinstance(operation, (FusedLinear, FusedMLP)):
        return _layers(operation, *args, **kwargs)
    if isinstance(operation, (Fused, Method)):
        return operation.explain(*args, **kwargs)
    if isinstance(operation, CustomKernel):
        return operation.explain(*args)
    name = operation if isinstance(operation, str) else getattr(operation, "__name__", type(operation).__name__)
    if name not in _EXPLAINED:
        known = ", ".join(_EXPLAINED)
        raise InputError(f"explain: {name} is not explained; choose one of {known}, a layer, or a fused function")
    signature = inspect.signature(getattr(tensor, name))
    try:
        bound = signature.bind(*args, **kwargs)
    except TypeError as error:
        raise InputError(f"explain: {name}: {error}; give the arguments of {name}{signature}") from None
    bound.apply_defaults()
    return _EXPLAINED[name](name, bound.arguments)


def _layers(module: FusedLinear | FusedMLP, x: torch.Tensor) -> str:
    """One line per layer."""
    lines = []
    for layer in [module] if isinstance(module, FusedLinear) else list(module):
        assert isinstance(layer, FusedLinear)
        lines.append(_product("linear", x, layer.weight, layer.bias, layer.activation, precision=layer.precision))
        x = x.new_empty(1).expand(*x.shape[:-1], layer.out_features).to(layer.weight.dtype)
    return "\n".join(lines)


def _linear(name: str, given: dict[str, Any]) -> str:
    a, b = (given["x"], given["w"]) if name == "linear" else (given["a"], given["b"])
    return _product(name, a, b, given["bias"], given["activation"], given["residual"], precision=given["precision"])


def _said(name: str, fused: Fused, *args: Any) -> str:
    said = fused.explain(*args).partition(": ")[2]
    dtype = str(next(a for a in args if isinstance(a, torch.Tensor)).dtype).removeprefix("torch.")
    return f"{name}: {said}; computed in {'float64' if dtype == 'float64' else 'float32'}, rounded once to {dtype}"


def _binary(name: str, given: dict[str, Any]) -> str:
    operation, activation = given.get("operation"), named(given.get("activation", "relu"), name)
    if operation is None:
        operation = name.partition("_")[0]
    if operation not in elementwise.BINARY:
        raise InputError(f"binary: operation={operation!r} is unknown; choose one of {', '.join(elementwise.BINARY)}")
    return _said(name, elementwise.binary_program(operation, activation), given["a"], given["b"])


def _affine(name: str, given: dict[str, Any]) -> str:
    program = elementwise.affine_program(named(given["activation"], name))
    return _said(name, program, given["x"], given["scale"], given["bias"])


def _layer_norm(name: str, given: dict[str, Any]) -> str:
    x, shape = given["x"], given["normalized_shape"]
    dims = 1 if isinstance(shape, int) else len(shape)
    parameters = [t.reshape(-1) for t in (given["weight"], given["bias"]) if t is not None]
    program = norms.LAYER[named(given["activation"], name), given["weight"] is not None, given["bias"] is not None]
    rows = x if dims == 1 else x.reshape(*x.shape[: x.dim() - dims], -1)
    return _said(name, program, rows, *parameters, float(given["eps"]))


def _batch_norm(name: str, given: dict[str, Any]) -> str:
    x = given["x"]
    keys = ("running_mean", "running_var", "weight", "bias")
    parameters = [given[k].view(-1, *(1,) * (x.dim() - 2)) for k in keys if given[k] is not None]
    program = norms.BATCH[named(given["activation"], name), given["weight"] is not None, given["bias"] is not None]
    return _said(name, program, x, *parameters, float(given["eps"]))


def _cross_entropy(name: str, given: dict[str, Any]) -> str:
    logits = given["logits"]
    rows = logits.reshape(-1, logits.shape[-1])
    said = loss.log_sum().explain(rows).partition(": ")[2]
    wide = "float64" if logits.dtype == torch.float64 else "float32"
    return f"{name}: {said}, one {wide} number per row kept for the gradient, which is one more kernel and a scatter"


_EXPLAINED: dict[str, Callable[[str, dict[str, Any]], str]] = {
    "linear": _linear,
    "matmul": _linear,
    "affine": _affine,
    **dict.fromkeys(("add_relu", "sub_relu", "mul_relu", "div_relu", "binary"), _binary),
    "layer_norm": _layer_norm,
    "batch_norm": _batch_norm,
    "softmax_cross_entropy": _cross_entropy,
}


def _product(
    name: str,
    a: torch.Tensor,
    b: torch.Tensor,
    bias: torch.Tensor | None = None,
    activation: str | None = None,
    residual: torch.Tensor | None = None,
    out: torch.Tensor | None = None,
    *,
    pool: Any = None,
    precision: str | Precision | None = None,
) -> str:
    del out, pool
    check_same(name, a=a, b=b)
    activation = named(activation, name)
    native = False
    if precision is not None:
        found = resolve(precision, a.device, name)
        native = insists(found, a.device)
        a, b = a.to(found.storage_dtype), b.to(found.storage_dtype)
    w = b if name == "linear" else b.mT
    m, k, n = a.shape[:-1].numel(), a.shape[-1], w.shape[-2]
    size = f"{m}×{k} by {k}×{n} {a.dtype} on {a.device}".replace("torch.", "")
    if name == "matmul" and b.dim() > 2:
        return f"{name}: {size}: torch's batched product, then what follows in one fused pass"
    added, whole = residual is not None, not (k % 8 or n % 8)
    route = choose(a.dtype, a.device, (m, k, n), activation, residual=added, native=native, whole=whole)
    if a.is_cuda and residual is None and activation in (None, "relu"):
        from elinvar.tensor.kernels.small_linear.metal import chosen

        if chosen(m, n, k, a.dtype, a.get_device()) is not None:
            route = route._replace(epilogue=False, why="small enough for the kernel tensor.small_linear")
        elif a.dtype in HALVES and w.is_contiguous():
            why = f"cuBLASLt's right algorithm that was fastest, else {route.why}"
            route = route._replace(why=why)
    after = [word for word, there in (("bias", bias is not None), ("residual", residual is not None)) if there]
    after += [activation] if activation else []
    follows = " + ".join(after) or "nothing"
    how = "in one pass from float32, rounded once" if route.epilogue else "with the product or in place"
    return f"{name}: {size}: {route.library}, {route.why}; {follows} {how}".replace("torch.", "")
