"""Layers on a GPU that were called before with operands of the same kind: nothing is looked at twice.

torch.compile's own guards say in one call what a dozen attributes would, each at the cost of a Python call: types,
dtypes, device, sizes, strides, gradient flags, and every mode that changes what a call means (autocast, functorch,
dispatch modes, inference mode, tracing). What they do not see is asked beside them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

__all__ = ["Layer", "empty", "known", "remember"]

_guards: Any = getattr(getattr(torch._C, "_dynamo", None), "guards", None)  # noqa: SLF001
empty: Callable[..., torch.Tensor] | None = getattr(_guards, "_empty_strided_cuda", None)
"""Memory on the current device by sizes, strides and dtype, for a third of new_empty's time; None without."""
_grad_enabled = torch.is_grad_enabled
_TENSORS = (torch.Tensor, torch.nn.Parameter)
_MOST, _MOST_SHAPES = 4, 512
Layer = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor | None]
known: tuple[dict[torch.Size, tuple[Layer, ...]], ...] = ({}, {})
"""Without and with relu, by the shape of x: functions of (x, w, bias) that answer None where they do not apply."""


def remember(x: torch.Tensor, w: torch.Tensor, bias: torch.Tensor, serve: Layer, *, relu: bool) -> None:
    """Let a function serve all calls whose operands are like these.

    Parameters
    ----------
    x, w, bias
        (m, k), (n, k) and (n,): operands of a call without a gradient that was found to be right.
    serve
        Computes the layer of such operands, wherever they lie; it may answer None.
    relu
        Which calls it serves.
    """
    given = (x, w, bias)
    found = known[relu]
    before = found.get(x.shape, ())
    if _guards is None or len(before) >= _MOST or any(type(t) not in _TENSORS for t in given):
        return
    sizes, strides = [list(t.shape) for t in given], [list(t.stride()) for t in given]
    other = x.new_empty((len(x) + 1, x.shape[1]))  # None among the sizes would leave one open: asked, not believed
    try:
        made = _guards.TensorGuards(*given, dynamic_dims_sizes=sizes, dynamic_dims_strides=strides)
        check: Callable[..., bool] = made.check
        if not check(*given) or check(other, w, bias):
            return
    except (RuntimeError, TypeError, AttributeError):  # a torch that has them otherwise
        return
    learns = any(t.requires_grad for t in given)

    def again(x: torch.Tensor, w: torch.Tensor, bias: torch.Tensor) -> torch.Tensor | None:
        if not check(x, w, bias) or (learns and _grad_enabled()):
            return None
        return serve(x, w, bias)

    if len(found) >= _MOST_SHAPES:  # shapes that never come back must not pile up
        found.clear()
    found[x.shape] = (*before, again)
