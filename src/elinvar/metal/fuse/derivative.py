"""Autograd and ``torch.compile`` for fused functions: the gradient of a program is another program."""

from __future__ import annotations

import functools
import itertools
import weakref
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import torch

from elinvar.metal.fuse.calls import broadcast, result_type, run
from elinvar.metal.fuse.expression import Program
from elinvar.metal.fuse.gradient import gradient
from elinvar.metal.fuse.shapes import difference

if TYPE_CHECKING:
    from elinvar.metal.fuse import Fused

__all__ = ["apply", "enrol", "gradient_of", "shape_pattern", "single", "traceable", "traced"]

F = TypeVar("F", bound=Callable[..., Any])
_HALVES = (torch.float16, torch.bfloat16)


@functools.lru_cache(maxsize=256)
def gradient_of(program: Program, wanted: tuple[bool, ...]) -> Program:
    """Return the program that computes the gradients of the wanted inputs."""
    return gradient(program, wanted)


class _Apply(torch.autograd.Function):
    """The program forward, its gradient program backward; the latter is differentiable in the same way."""

    @staticmethod
    def forward(
        ctx: Any,
        program: Program,
        scalars: Sequence[float],
        name: str,
        dtype: torch.dtype | None,
        *tensors: torch.Tensor,
    ) -> Any:
        ctx.save_for_backward(*tensors)
        ctx.program, ctx.scalars, ctx.name = program, scalars, name
        return tuple(run(program, tensors, scalars, name, dtype=dtype))

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> Any:
        wanted = tuple(ctx.needs_input_grad[4:])
        results = differentiate(ctx.program, ctx.saved_tensors, ctx.scalars, grads, wanted, ctx.name)
        return (None, None, None, None, *results)


apply: Callable[..., tuple[torch.Tensor, ...]] = _Apply.apply


def differentiate(
    program: Program,
    tensors: Sequence[torch.Tensor],
    scalars: Sequence[float],
    grads: Sequence[torch.Tensor],
    wanted: tuple[bool, ...],
    name: str,
) -> list[torch.Tensor | None]:
    """Return the gradients of the wanted inputs: each in its own dtype, rounded once, after it was summed."""
    if program.per_row and not program.keepdim and program.axis is not None:
        grads = [g.unsqueeze(program.axis) for g in grads]
    wanted = tuple(w and t.dtype.is_floating_point for w, t in zip(wanted, tensors, strict=True))
    if not any(wanted):
        return [None] * len(tensors)
    backward = gradient_of(program, wanted)
    inputs = [*tensors, *grads]
    mine = [t for t, w in zip(tensors, wanted, strict=True) if w]
    shape = broadcast(program, tensors, name)
    summed = any(tuple(t.shape) != shape for t in mine)
    half = any(t.dtype in _HALVES for t in mine)
    dtype = torch.float32 if summed and half and result_type(inputs) in _HALVES else None
    if torch.is_grad_enabled() and any(t.requires_grad for t in inputs):
        full = list(apply(backward, scalars, name, dtype, *inputs))
    else:
        full = run(backward, inputs, scalars, name, dtype=dtype)
    found = iter(full)
    return [next(found).sum_to_size(t.shape).to(t.dtype) if w else None for t, w in zip(tensors, wanted, strict=True)]


# --- torch.compile: one custom operation for every fused function ----------------------------------------------------
_numbers = itertools.count()
_enrolled: weakref.WeakValueDictionary[str, Fused] = weakref.WeakValueDictionary()


def enrol(fused: Fused) -> str:
    """Give a fused function the handle by which compiled graphs call it: text, which is never a symbolic number."""
    handle = str(next(_numbers))
    _enrolled[handle] = fused
    return handle


def _kinds(kinds: str) -> tuple[str, ...]:
    return tuple("tensor" if k == "t" else "scalar" for k in kinds)


def _constant(function: F) -> F:
    """Mark a function as `torch.compiler.assume_constant_result` does, whose import of torch._dynamo takes seconds."""
    function._dynamo_marked_constant = True  # type: ignore[attr-defined]  # noqa: SLF001
    return function


@_constant
def traceable(handle: str, kinds: str, pattern: str) -> bool:
    """Say whether one kernel does what the function does; asked while a graph is being traced.

    `pattern` is that of `shape_pattern`: sizes may still be symbols then.
    """
    program = _enrolled[handle].recorded(_kinds(kinds)).program
    shapes = tuple(tuple(1 if size == "1" else 2 for size in one) for one in pattern.split(",")[1:])
    return program is not None and difference(program, shapes) is None


def shape_pattern(args: Sequence[Any]) -> str:
    """Which sizes of the tensors among the arguments are 1: shapes that broadcast agree in all others."""
    pattern = ""
    for a in args:
        if isinstance(a, torch.Tensor):
            pattern += ","
            for size in a.shape:
                pattern += "1" if size == 1 else "n"
    return pattern


@_constant
def single(handle: str, kinds: str) -> bool:
    """Say whether the function returns one tensor rather than a tuple; asked while a graph is being traced."""
    return _program(handle, kinds)[1].single


def _program(handle: str, kinds: str) -> tuple[Fused, Program]:
    fused = _enrolled[handle]
    program = fused.recorded(_kinds(kinds)).program
    assert program is not None
    return fused, program


@torch.library.custom_op("elinvar::fused", mutates_args=())
def _fused(handle: str, kinds: str, tensors: Sequence[torch.Tensor], scalars: Sequence[float]) -> list[torch.Tensor]:
    fused, program = _program(handle, kinds)
    with torch.no_grad():
        return list(run(program, tensors, scalars, fused.name, dtype=fused.stored_as(tensors)))


@_fused.register_fake
def _(handle: str, kinds: str, tensors: Sequence[torch.Tensor], scalars: Sequence[float]) -> list[torch.Tensor]:
    fused, program = _program(handle, kinds)
    del scalars
    shape = list(broadcast(program, tensors, fused.name))
    if program.per_row and program.axis is not None:
        axis = program.axis % len(shape)
        shape = shape[:axis] + ([1] if program.keepdim else []) + shape[axis + 1 :]
    dtype = fused.stored_as(tensors) or result_type(tensors)
    return [tensors[0].new_empty(shape, dtype=dtype) for _ in program.outputs]


@torch.library.custom_op("elinvar::fused_backward", mutates_args=())
def _fused_backward(
    handle: str,
    kinds: str,
    tensors: Sequence[torch.Tensor],
    scalars: Sequence[float],
    grads: Sequence[torch.Tensor],
) -> list[torch.Tensor]:
    fused, program = _program(handle, kinds)
    wanted = (True,) * len(tensors)
    with torch.no_grad():
        found = differentiate(program, tensors, scalars, grads, wanted, fused.name)
    return [torch.zeros_like(t) if g is None else g.contiguous() for g, t in zip(found, tensors, strict=True)]


@_fused_backward.register_fake
def _(
    handle: str,
    kinds: str,
    tensors: Sequence[torch.Tensor],
    scalars: Sequence[float],
    grads: Sequence[torch.Tensor],
) -> list[torch.Tensor]:
    del handle, kinds, scalars, grads
    return [t.new_empty(t.shape) for t in tensors]


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    del output
    ctx.handle, ctx.kinds, tensors, ctx.scalars = inputs
    ctx.save_for_backward(*tensors)


def _backward(ctx: Any, grads: list[torch.Tensor]) -> tuple[Any, ...]:
    tensors = list(ctx.saved_tensors)
    found = _fused_backward(ctx.handle, ctx.kinds, tensors, ctx.scalars, [g.contiguous() for g in grads])
    # Numbers are one leaf of the arguments unless there are none: then they are an empty list of tensors.
    return None, None, list(found), None if ctx.scalars else []


_fused.register_autograd(_backward, setup_context=_setup)


def traced(handle: str, kinds: str, args: Sequence[Any]) -> list[torch.Tensor]:
    """The call a compiled graph contains."""
    tensors = [a for a in args if isinstance(a, torch.Tensor)]
    scalars = [float(a) for a in args if not isinstance(a, torch.Tensor)]
    found: list[torch.Tensor] = torch.ops.elinvar.fused(handle, kinds, tensors, scalars)
    return found
