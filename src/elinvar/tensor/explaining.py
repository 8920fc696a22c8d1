"""What an operation would run for given arguments, in words."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from elinvar.errors import InputError
from elinvar.runtime.plan import Precision
from elinvar.tensor import elementwise
from elinvar.tensor.activation import named
from elinvar.tensor.gemm import choose
from elinvar.tensor.storage import native as insists
from elinvar.tensor.storage import resolve
from elinvar.tensor.workspace import check_same

__all__ = ["explain"]


def explain(operation: Callable[..., Any] | str, *args: Any, **kwargs: Any) -> str:
    """Say what a call would run, and why, without running it.

    Parameters
    ----------
    operation
        One of this engine's operations, or its name.
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
    name = operation if isinstance(operation, str) else getattr(operation, "__name__", str(operation))
    if name in ("linear", "matmul"):
        return _product(name, *args, **kwargs)
    kwargs.pop("out", None)
    kwargs.pop("pool", None)
    if name in ("add_relu", "sub_relu", "mul_relu", "div_relu"):
        fused = elementwise.binary_program(name.partition("_")[0], "relu")
    elif name == "affine":
        activation = kwargs.get("activation", args[3] if len(args) > 3 else None)
        fused, args = elementwise.affine_program(named(activation, "affine")), args[:3]
    else:
        known = "linear, matmul, affine, add_relu, sub_relu, mul_relu, div_relu"
        raise InputError(f"explain: {name} is not explained; choose one of {known}, or a fused function's own .explain")
    said = fused.explain(*args).partition(": ")[2]
    dtype = str(args[0].dtype).removeprefix("torch.")
    return f"{name}: {said}; computed in {'float64' if dtype == 'float64' else 'float32'}, rounded once to {dtype}"


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
    route = choose(a.dtype, a.device, (m, k, n), activation, residual=residual is not None, native=native)
    if a.is_cuda and residual is None and activation in (None, "relu"):
        from elinvar.tensor.kernels.small_linear.metal import chosen

        if chosen(m, n, k, a.dtype, a.get_device()) is not None:
            route = route._replace(why="small enough for the kernel tensor.small_linear")
    after = [word for word, there in (("bias", bias is not None), ("residual", residual is not None)) if there]
    after += [activation] if activation else []
    follows = " + ".join(after) or "nothing"
    how = "in one pass from float32, rounded once" if route.epilogue else "with the product or in place"
    return f"{name}: {size}: {route.library}, {route.why}; {follows} {how}".replace("torch.", "")
