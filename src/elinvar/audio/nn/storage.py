"""Weights of any module in 16 bits, used in 32."""

from __future__ import annotations

from typing import Any, TypeVar

import torch
from torch import nn

from elinvar.errors import InputError

__all__ = ["half_storage", "memory_bytes"]

M = TypeVar("M", bound=nn.Module)
_HALVES = (torch.float16, torch.bfloat16)


def memory_bytes(module: nn.Module) -> int:
    """Return the bytes of all parameters and buffers as they are stored now."""
    held = [*module.parameters(), *module.buffers()]
    return sum(t.numel() * t.element_size() for t in held)


def half_storage(module: M, dtype: torch.dtype = torch.float16) -> M:
    """Store a module's float32 parameters in 16 bits; each layer widens its own while it runs.

    The module computes in float32 as before, with weights that were rounded once (float16: to 11 bits). Names and
    shapes of the parameters stay. Memory beyond the weights is one layer's float32 copy. For inference: parameters
    stop requiring gradients, and one module must not run in two threads at once.

    Returns
    -------
    The module itself.
    """
    if dtype not in _HALVES:
        raise InputError(f"half_storage: dtype={dtype} is not float16 or bfloat16.")
    for part in list(module.modules()):
        own = [p for p in part.parameters(recurse=False) if p.dtype == torch.float32]
        for p in own:
            p.requires_grad_(False)
            p.data = p.data.to(dtype)
        if own:
            change = _Widened()
            part.register_forward_pre_hook(change.widen)
            part.register_forward_hook(change.narrow, always_call=True)
    return module


class _Widened:
    """What one layer's parameters are while it does not run."""

    def __init__(self) -> None:
        self._stored: list[list[tuple[nn.Parameter, torch.Tensor]]] = []

    def widen(self, part: nn.Module, args: Any) -> None:
        # All below, not only its own: some modules use their children's weights without calling them.
        held = [(p, p.data) for p in part.parameters() if p.dtype in _HALVES]
        self._stored.append(held)
        for p, data in held:
            p.data = data.float()

    def narrow(self, part: nn.Module, args: Any, result: Any) -> None:
        for p, data in self._stored.pop() if self._stored else ():
            p.data = data
