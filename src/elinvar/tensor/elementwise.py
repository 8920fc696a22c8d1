"""Element-wise operations with an activation: one pass over memory, rounded once.

Every operation is a fused function (`elinvar.fuse`): a numba kernel on a CPU, a Metal kernel on Apple and NVIDIA GPUs,
with a fused gradient. Contiguous CPU tensors of one shape go straight to the bare kernel, which costs about a
microsecond of Python.
"""

from __future__ import annotations

import functools
import numbers
from collections.abc import Callable
from typing import Any

import torch

from elinvar.errors import InputError
from elinvar.metal.fuse import Fused
from elinvar.metal.fuse.layout import overwritten
from elinvar.metal.fuse.rounding import fma, rest
from elinvar.runtime.memory import Pool, refuse_grad
from elinvar.runtime.parallel import cpu_threads, parallel_for
from elinvar.tensor.activation import ACTIVATIONS, expression, named
from elinvar.tensor.alike import alike
from elinvar.tensor.modes import autocasting, promote, transforming
from elinvar.tensor.workspace import FLOATS, HALVES, check_pool, check_same, new

__all__ = [
    "BINARY",
    "add_relu",
    "affine",
    "affine_program",
    "binary",
    "binary_program",
    "div_relu",
    "mul_relu",
    "sub_relu",
]

_SERIAL = 1 << 15
_CHUNK = 1 << 17
_MOST_SHAPES = 512
_is_compiling = torch.compiler.is_compiling
_forward = torch.autograd.forward_ad
_grad_enabled = torch.is_grad_enabled
_empty_like = torch.empty_like
_Tensor = torch.Tensor
_overwritten = torch._C._increment_version  # noqa: SLF001  (as elinvar.metal.fuse.layout.overwritten, one call less)

_SIGNS = {"add": "+", "sub": "-", "mul": "*", "div": "/"}
BINARY: dict[str, Callable[[Any, Any], Any]] = {
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "mul": lambda a, b: a * b,
    "div": lambda a, b: a / b,
}


def _binary(operation: str, activation: str | None) -> Fused:
    combine = BINARY[operation]

    def function(a: Any, b: Any) -> Any:
        if activation in (None, "relu"):
            return expression(combine(a, b), activation)
        # Where the product's rounding is carried it has to be rounded: a fused multiply-add cannot be contracted.
        y = fma(a, b, 0.0) if operation == "mul" else combine(a, b)
        low = rest("add", y, a, -b) if operation == "sub" else rest(operation, y, a, b)
        return expression(y, activation, low)

    function.__name__ = f"{operation}_{activation}" if activation else operation
    return _program(function)


def _affine(activation: str | None) -> Fused:
    def function(x: Any, scale: Any, bias: Any) -> Any:
        if activation in (None, "relu"):
            return expression(x * scale + bias, activation)
        y = fma(x, scale, bias)
        return expression(y, activation, rest("fma", y, x, scale, bias))

    function.__name__ = "affine"
    return _program(function, like=0)


def _program(function: Callable[..., Any], like: int | None = None) -> Fused:
    """A fused function that calls itself, in errors, by the operation's name."""
    fused = Fused(function, like=like)
    fused.name = function.__name__
    return fused


# Tables, not caches: torch.compile looks through a table while it traces.
_BINARIES = {(name, act): _binary(name, act) for name in BINARY for act in (None, *ACTIVATIONS)}
_AFFINES = {act: _affine(act) for act in (None, *ACTIVATIONS)}


def binary_program(operation: str, activation: str | None) -> Fused:
    """Return ``activation(a op b)`` as a fused function."""
    return _BINARIES[operation, activation]


def affine_program(activation: str | None) -> Fused:
    """Return ``activation(x * scale + bias)`` as a fused function."""
    return _AFFINES[activation]


class _Flat:
    """The bare kernels of one fused function by dtype, compiled on first use."""

    __slots__ = ("kernels", "program")

    def __init__(self, program: Callable[[], Fused]) -> None:
        self.program = program
        self.kernels: dict[torch.dtype, Callable[..., None]] = {}

    def missing(self, dtype: torch.dtype) -> Callable[..., None]:
        """Compile the kernel for a dtype."""
        kernel = self.kernels[dtype] = self.program().flat(dtype)
        return kernel


_AFFINE_FLAT = {act: _Flat(functools.partial(affine_program, act)) for act in (None, *ACTIVATIONS)}


def _fits(out: torch.Tensor, a: torch.Tensor, *others: torch.Tensor) -> bool:
    """Whether `out` is plain memory for a flat kernel: exactly an input, or apart from all of them."""
    if out.shape != a.shape or out.dtype is not a.dtype or not out.is_contiguous() or not out.is_cpu:
        return False
    if out.is_neg() or out.requires_grad:
        return False
    start, size = out.data_ptr(), out.numel() * out.element_size()
    return all(t.data_ptr() == start or abs(t.data_ptr() - start) >= size for t in (a, *others))


def _same_plain_cpu(a: object, b: object) -> bool:
    """Whether a flat kernel could serve two arguments, once it is compiled."""
    return (
        not (_is_compiling() or transforming())
        and type(a) is type(b) is torch.Tensor
        and a.is_cpu
        and b.is_cpu
        and a.dtype in FLOATS
        and a.dtype is b.dtype
        and a.shape == b.shape
        and a.is_contiguous()
        and b.is_contiguous()
        and not (a.is_neg() or b.is_neg())
    )


def _launch(kernel: Callable[..., None], n: int, *addresses: int) -> None:
    if n <= _SERIAL or cpu_threads() == 1:
        kernel(0, n, n, *addresses)
    else:
        parallel_for(n, lambda start, stop: kernel(start, stop, n, *addresses), chunk=_CHUNK)


_Known = tuple[Callable[..., bool], Callable[..., None], int, int]


def _remember(known: dict[torch.Size, _Known], kernel: Callable[..., None], *tensors: torch.Tensor) -> None:
    """Let calls whose tensors are like these, which were found to be right, go straight to the kernel."""
    a = tensors[0]
    if a.shape in known or not a.numel():
        return
    check = alike(*tensors)
    if check is not None:
        if len(known) >= _MOST_SHAPES:  # shapes that never come back must not pile up
            known.clear()
        known[a.shape] = (check, kernel, a.numel(), a.nbytes)


def _make(operation: str) -> Callable[..., torch.Tensor]:
    flat = _Flat(lambda: binary_program(operation, "relu"))
    kernels = flat.kernels
    name = f"{operation}_relu"
    given: dict[torch.Size, _Known] = {}
    fresh: dict[torch.Size, _Known] = {}

    def function(
        a: torch.Tensor, b: torch.Tensor | float, *, out: torch.Tensor | None = None, pool: Pool | None = None
    ) -> torch.Tensor:
        # What follows is written for speed: at a thousand elements every attribute that is looked at counts.
        if (
            _is_compiling()
            or _forward._current_level >= 0  # noqa: SLF001
            or type(a) is not _Tensor
            or type(b) is not _Tensor
        ):
            return binary(operation, a, b, "relu", out=out, pool=pool)
        if out is None:
            found = fresh.get(a.shape) if pool is None else None
            if found is not None and found[0](a, b):
                _check, kernel, n, _size = found
                out = _empty_like(a)
                if n <= _SERIAL:
                    kernel(0, n, n, a.data_ptr(), b.data_ptr(), out.data_ptr())
                else:
                    _launch(kernel, n, a.data_ptr(), b.data_ptr(), out.data_ptr())
                return out
        elif type(out) is _Tensor and (found := given.get(a.shape)) is not None and found[0](a, b, out):
            _check, kernel, n, size = found
            first, second, target = a.data_ptr(), b.data_ptr(), out.data_ptr()
            if (target == first or target >= first + size or first >= target + size) and (
                target == second or target >= second + size or second >= target + size
            ):
                _overwritten((out,))
                if n <= _SERIAL:
                    kernel(0, n, n, first, second, target)
                else:
                    _launch(kernel, n, first, second, target)
                return out
        if (
            _same_plain_cpu(a, b)
            and not (_grad_enabled() and (a.requires_grad or b.requires_grad))
            and (out is None or (isinstance(out, torch.Tensor) and _fits(out, a, b)))
        ):
            kernel = kernels.get(a.dtype) or flat.missing(a.dtype)
            if out is None:
                out = new(a.shape, a.dtype, a.device, pool, name)
                if pool is None:
                    _remember(fresh, kernel, a, b)
            else:
                _remember(given, kernel, a, b, out)
                overwritten(out)
            _launch(kernel, a.numel(), a.data_ptr(), b.data_ptr(), out.data_ptr())
            return out
        return binary(operation, a, b, "relu", out=out, pool=pool)

    function.__name__ = function.__qualname__ = name
    function.__doc__ = f"""Return ``relu(a {_SIGNS[operation]} b)`` in one pass.

    Parameters
    ----------
    a, b
        Tensors of one dtype and device that broadcast like numpy's, any strides; `b` may be a number. NaN stays NaN.
    out
        Receives the result; it may be exactly one of the inputs, otherwise it must not overlap them. Refused together
        with a gradient.
    pool
        Where the result's memory comes from (no gradient): it belongs to the ``pool.frame()`` around the call.

    Returns
    -------
    Tensor
        Of the broadcast shape; computed in float32 (float64 for float64) and rounded once.

    Raises
    ------
    InputError
        Shapes, dtypes or devices do not fit, or `out` does not.
    """
    return function


add_relu = _make("add")
sub_relu = _make("sub")
mul_relu = _make("mul")
div_relu = _make("div")


def binary(
    operation: str,
    a: torch.Tensor,
    b: torch.Tensor | float,
    activation: str | None = None,
    *,
    out: torch.Tensor | None = None,
    pool: Pool | None = None,
) -> torch.Tensor:
    """Return ``activation(a op b)`` in one pass over memory.

    Parameters
    ----------
    operation
        "add", "sub", "mul" or "div".
    a, b, out, pool
        As for `add_relu`.
    activation
        None, "relu", "gelu_tanh" ("gelu"), "gelu_erf", "silu", "sigmoid" or "tanh".
    """
    if operation not in BINARY:
        raise InputError(f"binary: operation={operation!r} is unknown; choose one of {', '.join(BINARY)}")
    activation = named(activation, operation)
    name = f"{operation}_{activation}" if activation else operation
    if isinstance(b, torch.Tensor):
        if autocasting() and isinstance(a, torch.Tensor):
            a, b = promote(a, b)
        check_same(name, a=a, b=b)
    else:
        check_same(name, a=a)
        if not _is_number(b):
            raise InputError(f"{name}: b is a {type(b).__name__}; give a tensor or a number")
    return call(binary_program(operation, activation), (a, b), out, pool, name)


def affine(
    x: torch.Tensor,
    scale: torch.Tensor | float,
    bias: torch.Tensor | float,
    activation: str | None = None,
    *,
    out: torch.Tensor | None = None,
    pool: Pool | None = None,
) -> torch.Tensor:
    """Return ``activation(x * scale + bias)`` in one pass over memory.

    Parameters
    ----------
    x
        Data, floating point, any strides.
    scale, bias
        Tensors that broadcast with `x` like numpy's, or numbers. Of `x`'s dtype, or float32 beside 16-bit data.
    activation
        None, "relu", "gelu_tanh" ("gelu"), "gelu_erf", "silu", "sigmoid" or "tanh".
    out, pool
        As for `add_relu`.

    Returns
    -------
    Tensor
        Of the broadcast shape and `x`'s dtype. Product and sum are one fused multiply-add in float32 where the
        processor has one (every GPU, every x86 since 2013), and rounded once: at most 2 units in the last place from
        the exact value.

    Raises
    ------
    InputError
        Shapes, dtypes or devices do not fit, or `out` does not.
    """
    activation = named(activation, "affine")
    if (
        not (_is_compiling() or transforming())
        and type(x) is type(scale) is type(bias) is torch.Tensor
        and x.shape == scale.shape == bias.shape
        and x.is_cpu
        and scale.is_cpu
        and bias.is_cpu
        and x.dtype is scale.dtype is bias.dtype
        and x.dtype in FLOATS
        and x.is_contiguous()
        and scale.is_contiguous()
        and bias.is_contiguous()
        and not (x.is_neg() or scale.is_neg() or bias.is_neg())
        and not (_grad_enabled() and (x.requires_grad or scale.requires_grad or bias.requires_grad))
        and (out is None or _fits(out, x, scale, bias))
    ):
        flat = _AFFINE_FLAT[activation]
        kernel = flat.kernels.get(x.dtype) or flat.missing(x.dtype)
        if out is None:
            out = new(x.shape, x.dtype, x.device, pool, "affine")
        else:
            overwritten(out)
        _launch(kernel, x.numel(), x.data_ptr(), scale.data_ptr(), bias.data_ptr(), out.data_ptr())
        return out
    check_same("affine", x=x)
    for name, t in (("scale", scale), ("bias", bias)):
        if isinstance(t, torch.Tensor):
            check_parameter("affine", x, name, t)
        elif not _is_number(t):
            raise InputError(f"affine: {name} is a {type(t).__name__}; give a tensor or a number")
    return call(affine_program(activation), (x, scale, bias), out, pool, "affine")


def _is_number(x: object) -> bool:
    return isinstance(x, numbers.Real)  # NumPy's too


def check_parameter(operation: str, x: torch.Tensor, name: str, t: torch.Tensor) -> None:
    """Parameters are of the data's dtype, or float32 beside 16-bit data."""
    if t.dtype == torch.float32 and x.dtype in (torch.float16, torch.bfloat16):
        if t.device != x.device:
            raise InputError(f"{operation}: x is on {x.device}, {name} on {t.device}; move them to one device")
        return
    check_same(operation, x=x, **{name: t})


def call(program: Fused, args: tuple[Any, ...], out: torch.Tensor | None, pool: Pool | None, name: str) -> torch.Tensor:
    """Run a fused function into `out`, pool memory or fresh memory."""
    tensors = [a for a in args if isinstance(a, torch.Tensor)]
    if transforming():
        if out is not None:
            raise InputError(f"{name}: out= was given inside a transform of torch.func; drop it there")
        wide = [a.float() if isinstance(a, torch.Tensor) and a.dtype in HALVES else a for a in args]
        transformed: torch.Tensor = program.function(*wide).to(tensors[0].dtype)
        return transformed
    if out is not None:
        refuse_grad(*tensors, out, operation=f"{name}: out=")
        if out.dtype != tensors[0].dtype:
            raise InputError(f"{name}: out is {out.dtype}, the result {tensors[0].dtype}; give memory of that dtype")
    elif pool is not None and not (_grad_enabled() and any(t.requires_grad for t in tensors)):
        check_pool(pool, tensors[0].device, name)
        try:
            shape = torch.broadcast_shapes(*(t.shape for t in tensors))  # type: ignore[no-untyped-call]
        except RuntimeError:
            shape = None  # the program says which shapes do not fit
        if shape is not None:
            out = new(shape, tensors[0].dtype, tensors[0].device, pool, name)
    result: torch.Tensor = program(*args, out=out)
    return result
