"""What rounding an activation's argument loses, carried into the activation.

Far out on an exponential tail the rounding of an argument to float32 is many units of the result: of ``sigmoid(-80)``
some forty. A fused function that says ``activate(name, y, rest("fma", y, a, b, c))`` after ``y = fma(a, b, c)`` gets
the activation of the exact sum to about one unit. Float64 takes the rest for zero.
"""

from __future__ import annotations

from typing import Any

from elinvar.metal.fuse.expression import Symbol

__all__ = ["activate", "fma", "rest"]


def fma(x: Any, y: Any, z: Any) -> Any:
    """Return ``x * y + z``, rounded once where it is fused; x is a symbol or a tensor."""
    return x._make("fma", y, z) if isinstance(x, Symbol) else x * y + z


def rest(operation: str, result: Any, *operands: Any) -> Any:
    """Return what rounding the result of "add", "mul", "div" or "fma" lost; None of tensors."""
    return operands[0]._make(f"{operation}_rest", *operands[1:], result) if isinstance(result, Symbol) else None


def activate(name: str, x: Symbol, low: Symbol) -> Symbol:
    """Return "tanh", "sigmoid", "silu", "gelu_tanh" or "gelu_erf" of ``x + low``; low is what rounding x lost."""
    return x._make("tanh_of" if name == "tanh" else name, low)
