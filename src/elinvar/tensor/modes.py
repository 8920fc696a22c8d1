"""torch's modes that change what a call means: ``torch.autocast``, and the transforms of ``torch.func``.

Autocast: products take their operands in its dtype, as torch's own do, and keep this engine's promise about rounding;
element-wise operations take the wider of two dtypes. vmap, grad, jvp and what is built of them see plain torch
operations: their tensors have no memory of their own for a kernel to read. So does all that runs inside a level of
forward-mode differentiation, where tensors carry tangents that a kernel would drop.
"""

from __future__ import annotations

from typing import Any

import torch

from elinvar.errors import InputError
from elinvar.tensor import activation as act
from elinvar.tensor.workspace import HALVES

__all__ = ["autocasting", "cast", "plain_product", "promote", "transforming"]

autocasting = torch._C._is_any_autocast_enabled  # noqa: SLF001  (a quarter of the public question's cost)
_functorch = torch._C._are_functorch_transforms_active  # noqa: SLF001
_forward = torch.autograd.forward_ad
_Maybe = torch.Tensor | None


def transforming() -> bool:
    """Whether a transform of torch.func is active, or a level of forward-mode differentiation."""
    return _functorch() or _forward._current_level >= 0  # noqa: SLF001


def cast(precision: object, *tensors: _Maybe) -> list[Any] | None:
    """Return a product's operands in the dtype autocast asks for on their device, None where it asks for nothing.

    A `precision` that was asked for by name wins over autocast; float64 and what is not floating point stay as they
    are, as torch does.
    """
    first = tensors[0]
    if not isinstance(first, torch.Tensor) or not torch.is_autocast_enabled(first.device.type):
        return None
    if precision is not None:
        return list(tensors)
    dtype = torch.get_autocast_dtype(first.device.type)
    able = (*HALVES, torch.float32)
    return [t.to(dtype) if isinstance(t, torch.Tensor) and t.dtype in able else t for t in tensors]


def promote(a: torch.Tensor, b: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return two operands in the wider of their dtypes where autocast mixes them, else as they are."""
    if a.dtype == b.dtype or not torch.is_autocast_enabled(a.device.type):
        return a, b
    if not (a.is_floating_point() and b.is_floating_point()):
        return a, b
    dtype = torch.promote_types(a.dtype, b.dtype)
    return a.to(dtype), b.to(dtype)


def plain_product(
    name: str,
    a: torch.Tensor,
    b: torch.Tensor,
    bias: _Maybe,
    activation: str | None,
    residual: _Maybe,
    out: _Maybe,
) -> torch.Tensor:
    """Return ``activation(a @ b + bias + residual)`` by operations that torch.func can transform, rounded once."""
    if out is not None:
        raise InputError(f"{name}: out= was given inside a transform of torch.func; drop it there")
    wide = torch.float32 if a.dtype in HALVES else a.dtype
    y = torch.matmul(a.to(wide), b.to(wide))
    for term in (bias, residual):
        y = y if term is None else y + term
    return act.apply(y, activation).to(a.dtype)
