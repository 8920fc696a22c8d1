"""torch's functions and methods as a fused function may call them: each builds the nodes that compute it."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch.nn import functional

from elinvar.metal.fuse.expression import NotFusable, Recording, Symbol, const, make, op

__all__ = ["FUNCTIONS", "METHODS", "power"]


def _recording(*args: Any) -> Recording:
    return next(a.recording for a in args if isinstance(a, Symbol))


def _symbol(value: Any, like: Recording) -> Symbol:
    return value if isinstance(value, Symbol) else Symbol(const(value), like)


def _refuse_inplace(inplace: bool, name: str) -> None:
    if inplace:
        raise NotFusable(f"{name}(inplace=True)")


def _refuse_dtype(name: str, other: dict[str, Any]) -> None:
    if other.pop("dtype", None) is not None:
        raise NotFusable(f"{name} with a dtype")
    other.pop("_stacklevel", None)
    if other:
        raise NotFusable(f"{name} with {', '.join(other)}")


# --- one and two operands --------------------------------------------------------------------------------------------
def _unary(name: str) -> Callable[..., Symbol]:
    def function(x: Symbol) -> Symbol:
        return x._make(name)

    return function


def _two(name: str) -> Callable[..., Symbol]:
    def function(a: Any, b: Any) -> Symbol:
        where = _recording(a, b)
        return _symbol(a, where)._make(name, b)

    return function


def _truth(x: Symbol) -> Symbol:
    return x if x.node.boolean else x._make("ne", 0.0)


def _logical(name: str) -> Callable[..., Symbol]:
    def function(a: Any, b: Any) -> Symbol:
        where = _recording(a, b)
        return _truth(_symbol(a, where)).logical(name, _truth(_symbol(b, where)))

    return function


def _scaled(name: str) -> Callable[..., Symbol]:
    """``a + alpha b`` and its like."""

    def function(a: Any, b: Any, *, alpha: Any = 1) -> Symbol:
        return _two(name)(a, b if isinstance(alpha, (int, float)) and alpha == 1 else _two("mul")(_any(a, b), alpha))

    def _any(a: Any, b: Any) -> Symbol:
        return _symbol(b, _recording(a, b))

    return function


def _div(a: Any, b: Any, *, rounding_mode: str | None = None) -> Symbol:
    quotient = _two("div")(a, b)
    if rounding_mode is None:
        return quotient
    raise NotFusable(f"div with rounding_mode={rounding_mode!r}, which has to be exact")


def _rsub(a: Any, b: Any, *, alpha: Any = 1) -> Symbol:
    return _scaled("sub")(b, a, alpha=alpha)


def power(x: Any, exponent: Any) -> Symbol:
    """Return ``x ** exponent``; the exponents for which torch does not call pow do not here."""
    if isinstance(x, Symbol) and isinstance(exponent, (int, float)):
        short = _POWERS.get(float(exponent))
        if short is not None:
            return short(x)
    return _two("pow")(x, exponent)


_POWERS: dict[float, Callable[[Symbol], Symbol]] = {
    0.5: lambda x: x._make("sqrt"),
    2.0: lambda x: x * x,
    3.0: lambda x: x * x * x,
    -0.5: lambda x: x._make("rsqrt"),
    -1.0: lambda x: x._make("reciprocal"),
}


# --- choice ----------------------------------------------------------------------------------------------------------
def _where(condition: Any, a: Any, b: Any) -> Symbol:
    where = _recording(condition, a, b)
    return _symbol(condition, where)._make("where", a, b)


def _clamp(x: Symbol, min: Any = None, max: Any = None) -> Symbol:  # noqa: A002  (torch's names)
    """Bounds by choice, not by maximum and minimum: at a bound torch's gradient is whole, not half."""
    result = x
    if min is not None:
        result = _where(_outside(result, "lt", min), min, result)
    if max is not None:
        result = _where(_outside(result, "gt", max), max, result)
    return result


def _outside(x: Symbol, comparison: str, bound: Any) -> Symbol:
    """Whether the bound is the result: where x is beyond it, and where it is NaN."""
    beyond = x._make(comparison, bound)
    if isinstance(bound, (int, float)) and not math.isnan(bound):
        return beyond
    bound = _symbol(bound, x.recording)
    return beyond.logical("or", bound._make("ne", bound))


def _clamp_min(x: Symbol, min: Any) -> Symbol:  # noqa: A002
    return _clamp(x, min)


def _masked_fill(x: Symbol, mask: Any, value: Any) -> Symbol:
    return _where(mask, value, x)


def _isinf(x: Symbol) -> Symbol:
    return x._make("abs") == math.inf


def _isfinite(x: Symbol) -> Symbol:
    return x._make("abs") < math.inf


def _sign(x: Symbol) -> Symbol:
    # torch's sign of NaN is NaN on some devices and 0 on others; here it is 0.
    return _where(x > 0, 1.0, _where(x < 0, -1.0, 0.0))


def _trunc(x: Symbol) -> Symbol:
    return _where(x < 0, x._make("ceil"), x._make("floor"))


def _full(value: float) -> Callable[..., Symbol]:
    def function(x: Symbol, **other: Any) -> Symbol:
        _refuse_dtype("a filled tensor", {k: v for k, v in other.items() if v is not None})
        return Symbol(const(value), x.recording)

    return function


def _full_like(x: Symbol, fill_value: Any, **other: Any) -> Symbol:
    _refuse_dtype("full_like", {k: v for k, v in other.items() if v is not None})
    return _symbol(fill_value, x.recording)


# --- products --------------------------------------------------------------------------------------------------------
def _addcmul(x: Symbol, a: Any, b: Any, *, value: Any = 1) -> Symbol:
    return _scaled("add")(x, _two("mul")(a, b), alpha=value)


def _addcdiv(x: Symbol, a: Any, b: Any, *, value: Any = 1) -> Symbol:
    return _scaled("add")(x, _two("div")(a, b), alpha=value)


def _lerp(start: Symbol, end: Any, weight: Any) -> Symbol:
    way = _two("sub")(end, start)
    near = start + way * weight
    far: Symbol = _symbol(end, start.recording) - way * (1 - weight)  # torch's, exact at weight 1
    if isinstance(weight, (int, float)):
        return near if abs(weight) < 0.5 else far
    return _where(abs(weight) < 0.5, near, far)


# --- activations -----------------------------------------------------------------------------------------------------
def _relu(x: Symbol, inplace: bool = False) -> Symbol:
    _refuse_inplace(inplace, "relu")
    return x._make("relu")


def _sigmoid(x: Symbol) -> Symbol:
    return x._make("sigmoid", 0.0)


def _silu(x: Symbol, inplace: bool = False) -> Symbol:
    _refuse_inplace(inplace, "silu")
    return x._make("silu", 0.0)


def _gelu(x: Symbol, approximate: str = "none") -> Symbol:
    """GELU (Hendrycks and Gimpel, 2016), exact or in its tanh form."""
    return x._make("gelu_tanh" if approximate == "tanh" else "gelu_erf", 0.0)


def _softplus(x: Symbol, beta: Any = 1, threshold: Any = 20) -> Symbol:
    # log(1 + e^x) without overflow: max(x, 0) + log1p(e^-|x|). Beyond torch's threshold that is x as well.
    if isinstance(threshold, (int, float)) and threshold < 15:
        raise NotFusable(f"softplus with threshold={threshold}")
    if isinstance(beta, (int, float)) and beta == 1:
        above = x >= 0  # by choice: the slopes of relu and abs at 0 would not add up to one half
        return _where(above, x, 0.0) + _where(above, -x, x)._make("exp")._make("log1p")
    return _softplus(x * beta)._make("div", beta)


def _logsigmoid(x: Symbol) -> Symbol:
    return _softplus(-x)._make("neg")


def _mish(x: Symbol, inplace: bool = False) -> Symbol:
    _refuse_inplace(inplace, "mish")
    return x * _softplus(x)._make("tanh")


def _leaky_relu(x: Symbol, negative_slope: Any = 0.01, inplace: bool = False) -> Symbol:
    _refuse_inplace(inplace, "leaky_relu")
    return _where(x > 0, x, x * negative_slope)


def _below_zero(x: Symbol) -> Symbol:
    """``e^x - 1`` for x <= 0, without cancellation: 2 t / (1 - t) with t = tanh(x / 2)."""
    t = (_where(x > 0, 0.0, x) * 0.5)._make("tanh")
    return (t + t) / (1.0 - t)


def _elu(x: Symbol, alpha: Any = 1.0, inplace: bool = False) -> Symbol:
    _refuse_inplace(inplace, "elu")
    return _where(x > 0, x, alpha * _below_zero(x))


def _selu(x: Symbol, inplace: bool = False) -> Symbol:
    """SELU (Klambauer et al., 2017), with the paper's constants."""
    _refuse_inplace(inplace, "selu")
    scale, alpha = 1.0507009873554804934193349852946, 1.6732632423543772848170429916717
    return _where(x > 0, x * scale, scale * alpha * _below_zero(x))


def _between(x: Symbol, least: Any, most: Any) -> Symbol:
    """Bounds at which the slope is 0, as torch's activations have it."""
    return _where(x <= least, least, _where(x >= most, most, x))


def _hardtanh(x: Symbol, min_val: Any = -1.0, max_val: Any = 1.0, inplace: bool = False) -> Symbol:
    _refuse_inplace(inplace, "hardtanh")
    return _between(x, min_val, max_val)


def _relu6(x: Symbol, inplace: bool = False) -> Symbol:
    _refuse_inplace(inplace, "relu6")
    return _between(x, 0.0, 6.0)


def _hardsigmoid(x: Symbol, inplace: bool = False) -> Symbol:
    _refuse_inplace(inplace, "hardsigmoid")
    return _between(x + 3.0, 0.0, 6.0) / 6.0


def _hardswish(x: Symbol, inplace: bool = False) -> Symbol:
    _refuse_inplace(inplace, "hardswish")
    return _where(x >= 3, x, _where(x <= -3, x * 0.0, x * (x + 3.0) / 6.0))


# --- along one axis --------------------------------------------------------------------------------------------------
def _reduction(name: str) -> Callable[..., Symbol]:
    def function(x: Symbol, dim: Any = None, keepdim: bool = False, **other: Any) -> Symbol:
        _refuse_dtype(name, other)
        return x.recording.reduce(name, x, dim, keepdim)

    return function


def _mean(x: Symbol, dim: Any = None, keepdim: bool = False, **other: Any) -> Symbol:
    _refuse_dtype("mean", other)
    total = x.recording.reduce("sum", x, dim, keepdim)
    return Symbol(op("div", total.node, make("length")), x.recording, kept=keepdim)


def _variance(x: Symbol, dim: Any, correction: Any, keepdim: bool) -> Symbol:
    """Around the mean, not from squares."""
    if correction not in (0, 1):
        raise NotFusable(f"var with correction={correction}")
    centred = x - _mean(x, dim, keepdim=True)
    total = x.recording.reduce("sum", centred * centred, dim, keepdim)
    length = make("length", (), 1) if correction else make("length")
    return Symbol(op("div", total.node, length), x.recording, kept=keepdim)


def _var(x: Symbol, dim: Any = None, unbiased: bool = True, keepdim: bool = False, *, correction: Any = None) -> Symbol:
    return _variance(x, dim, int(unbiased) if correction is None else correction, keepdim)


def _std(x: Symbol, dim: Any = None, unbiased: bool = True, keepdim: bool = False, *, correction: Any = None) -> Symbol:
    found = _var(x, dim, unbiased, keepdim, correction=correction)
    return Symbol(op("sqrt", found.node), x.recording, kept=keepdim)


def _softmax(x: Symbol, dim: Any = None, **other: Any) -> Symbol:
    _refuse_dtype("softmax", other)
    shifted = x - x.recording.reduce("amax", x, dim, True)
    grown = shifted._make("exp")
    return grown / grown.recording.reduce("sum", grown, dim, True)


def _log_softmax(x: Symbol, dim: Any = None, **other: Any) -> Symbol:
    _refuse_dtype("log_softmax", other)
    shifted = x - x.recording.reduce("amax", x, dim, True)
    return shifted - x.recording.reduce("sum", shifted._make("exp"), dim, True)._make("log")


def _logsumexp(x: Symbol, dim: Any = None, keepdim: bool = False) -> Symbol:
    top = x.recording.reduce("amax", x, dim, True)
    top = _where(_isinf(top), 0.0, top)  # rows of -inf, and rows that hold inf, as torch has them
    total = x.recording.reduce("sum", (x - top)._make("exp"), dim, True)
    if not keepdim:
        x.recording.keepdim = False
    return Symbol((total._make("log") + top).node, x.recording, kept=keepdim)


# --- what torch calls them -------------------------------------------------------------------------------------------
_UNARY = ("exp", "log", "sqrt", "rsqrt", "sin", "cos", "tanh", "erf", "log1p", "floor", "ceil", "isnan", "reciprocal")
_COMPARISONS = ("lt", "le", "gt", "ge", "eq", "ne")
_SHARED: dict[str, Callable[..., Symbol]] = {  # functions of torch that are methods as well
    **{name: _unary(name) for name in (*_UNARY, "abs", "neg")},
    **{name: _two(name) for name in ("mul", "maximum", "minimum", *_COMPARISONS)},
    **{name: _scaled(name) for name in ("add", "sub")},
    "addcdiv": _addcdiv,
    "addcmul": _addcmul,
    "amax": _reduction("amax"),
    "amin": _reduction("amin"),
    "clamp": _clamp,
    "clamp_max": lambda x, max: _clamp(x, None, max),  # noqa: A006
    "clamp_min": _clamp_min,
    "clip": _clamp,
    "clone": lambda x: Symbol(x.node, x.recording, kept=x.kept),
    "div": _div,
    "isfinite": _isfinite,
    "isinf": _isinf,
    "lerp": _lerp,
    "log_softmax": _log_softmax,
    "logical_and": _logical("and"),
    "logical_not": lambda x: _truth(x).logical("not"),
    "logical_or": _logical("or"),
    "logsumexp": _logsumexp,
    "masked_fill": _masked_fill,
    "mean": _mean,
    "pow": power,
    "relu": _relu,
    "sigmoid": _sigmoid,
    "sign": _sign,
    "softmax": _softmax,
    "square": lambda x: x * x,
    "std": _std,
    "sum": _reduction("sum"),
    "trunc": _trunc,
    "var": _var,
}
FUNCTIONS: dict[Any, Callable[..., Symbol]] = {
    **{getattr(torch, name): function for name, function in _SHARED.items()},
    torch.true_divide: _div,
    torch.where: _where,
    torch.rsub: _rsub,
    torch.zeros_like: _full(0.0),
    torch.ones_like: _full(1.0),
    torch.full_like: _full_like,
    functional.elu: _elu,
    functional.gelu: _gelu,
    functional.hardsigmoid: _hardsigmoid,
    functional.hardswish: _hardswish,
    functional.hardtanh: _hardtanh,
    functional.leaky_relu: _leaky_relu,
    functional.log_softmax: _log_softmax,
    functional.logsigmoid: _logsigmoid,
    functional.mish: _mish,
    functional.relu: _relu,
    functional.relu6: _relu6,
    functional.selu: _selu,
    functional.sigmoid: _sigmoid,
    functional.silu: _silu,
    functional.softmax: _softmax,
    functional.softplus: _softplus,
    functional.tanh: _unary("tanh"),
    torch.selu: _selu,
}
METHODS: dict[str, Callable[..., Symbol]] = {
    **_SHARED,
    "where": lambda a, condition, b: _where(condition, a, b),
}
