"""One question for a dozen attributes: are these tensors like those of an earlier call?

torch.compile's guards ask it in one call: type, dtype, device, sizes, strides, whether a gradient is wanted, and every
mode that changes what a call means (autocast, functorch, inference mode, views that stand for a negative). Forward-mode
differentiation and tracing they do not see.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

__all__ = ["alike"]

_guards: Any = getattr(getattr(torch._C, "_dynamo", None), "guards", None)  # noqa: SLF001


def alike(*tensors: torch.Tensor) -> Callable[..., bool] | None:
    """Return ``check(*others)`` for tensors exactly like these; None where torch has no such question.

    The others have to be tensors.
    """
    if _guards is None or any(t.requires_grad for t in tensors):
        return None
    sizes, strides = [list(t.shape) for t in tensors], [list(t.stride()) for t in tensors]
    first = tensors[0]
    shorter = first.narrow(0, 0, len(first) - 1) if first.ndim and len(first) else None  # believed only if it is asked
    try:
        made = _guards.TensorGuards(*tensors, dynamic_dims_sizes=sizes, dynamic_dims_strides=strides)
        check: Callable[..., bool] = made.check
        if not check(*tensors) or (shorter is not None and check(shorter, *tensors[1:])):
            return None
    except (RuntimeError, TypeError, AttributeError):  # a torch that has them otherwise
        return None
    return check
