"""``@elinvar.fuse``: a Python function of tensors as one kernel, with its gradient as another.

The function is recorded once per kind of arguments; its element-wise arithmetic, broadcasting, ``where`` and reductions
along one axis become one numba kernel on a CPU and one Metal kernel on a GPU. Values are read in their storage dtype,
computed in float32 (float64 when an input is), and rounded once at the store. What cannot be recorded runs as plain
torch, and :meth:`Fused.explain` says why.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from elinvar.errors import InputError
from elinvar.metal.fuse import cpu, gpu
from elinvar.metal.fuse.expression import NotFusable, Program, record
from elinvar.metal.fuse.gradient import gradient
from elinvar.metal.fuse.layout import STORAGE, arrange

__all__ = ["Fused", "fuse"]

_log = logging.getLogger("elinvar.fuse")
_MOST_CASES = 256
_broadcast_shapes: Callable[..., tuple[int, ...]] = torch.broadcast_shapes


def fuse(function: Callable[..., Any]) -> Fused:
    """Return ``function`` as one kernel per device; a decorator.

    Parameters
    ----------
    function
        Takes tensors and Python numbers positionally, returns one tensor or a tuple of tensors computed from them by
        arithmetic, comparisons, ``torch.where``, the usual math functions and activations, and ``sum``, ``mean``,
        ``amax``, ``amin`` or ``softmax`` along one axis. Numbers stay arguments: new values need no new compile.

    Examples
    --------
    >>> import torch, elinvar
    >>> @elinvar.fuse
    ... def affine_relu(x, scale, bias):
    ...     return torch.relu(x * scale + bias)
    >>> affine_relu(torch.tensor([1.0, -2.0]), torch.tensor(2.0), torch.tensor(1.0))
    tensor([3., 0.])
    """
    return Fused(function)


@dataclass(frozen=True)
class _Recorded:
    program: Program | None
    reason: str | None


class Fused:
    """A fused function; call it like the function it was made from."""

    def __init__(self, function: Callable[..., Any]) -> None:
        if not callable(function):
            raise InputError(f"fuse: {function!r} is a {type(function).__name__}; decorate a function of tensors")
        functools.update_wrapper(self, function)
        self.function = function
        self._recorded: dict[tuple[str, ...], _Recorded] = {}
        self._reasons: dict[str, None] = {}

    def __call__(self, *args: Any, out: torch.Tensor | None = None) -> Any:
        """Run the function.

        Parameters
        ----------
        *args
            Tensors (float32, float64, float16, bfloat16 or bool; any strides; broadcast like numpy's) and numbers.
        out : Tensor, optional
            Receives the result when the function returns one tensor; refused together with a gradient.

        Raises
        ------
        InputError
            Shapes do not broadcast, devices differ, or ``out`` does not fit.
        """
        tensors = [a for a in args if isinstance(a, torch.Tensor)]
        program, reason = self._plan(args, tensors)
        needs_grad = torch.is_grad_enabled() and any(t.requires_grad for t in tensors)
        if out is not None and needs_grad:
            raise InputError(
                f"{self._name}: out= was given while an input requires grad; drop out= or use torch.no_grad()"
            )
        if program is None:
            self._fall_back(reason or "")
            result = self.function(*args)
            return result if out is None else out.copy_(result)
        scalars = [float(a) for a in args if not isinstance(a, torch.Tensor)]
        if needs_grad:
            _gradient(program)  # before anything runs: every operation has to have a derivative
            results = _apply(program, scalars, self._name, *tensors)
        else:
            results = _run(program, tensors, scalars, self._name, out)
        return results[0] if program.single else results

    @property
    def _name(self) -> str:
        return f"fuse({getattr(self.function, '__name__', 'function')})"

    def _plan(self, args: tuple[Any, ...], tensors: list[torch.Tensor]) -> tuple[Program | None, str | None]:
        kinds = tuple("tensor" if isinstance(a, torch.Tensor) else "scalar" for a in args)
        for k, a in enumerate(args):
            if kinds[k] == "scalar" and not isinstance(a, (bool, int, float)):
                raise InputError(f"{self._name}: argument {k} is a {type(a).__name__}; give tensors and numbers")
        if not tensors:
            raise InputError(f"{self._name}: no argument is a tensor; give at least one")
        recorded = self._recorded.get(kinds)
        if recorded is None:
            recorded = self._recorded[kinds] = self._record(kinds)
        if recorded.program is None:
            return None, recorded.reason
        for t in tensors:
            if t.device != tensors[0].device:
                raise InputError(
                    f"{self._name}: tensors on {tensors[0].device} and {t.device}; move them to one device"
                )
            if t.dtype not in STORAGE:
                return None, f"an input of dtype {t.dtype}"
            if t.device.type not in ("cpu", "cuda", "mps"):
                return None, f"tensors on {t.device.type}"
            if t.dtype == torch.float64 and t.device.type != "cpu":
                return None, "float64 on a GPU, which Metal does not have"
        return recorded.program, None

    def _record(self, kinds: tuple[str, ...]) -> _Recorded:
        try:
            return _Recorded(record(self.function, kinds), None)
        except NotFusable as reason:
            return _Recorded(None, str(reason))

    def _fall_back(self, reason: str) -> None:
        if reason not in self._reasons:
            self._reasons[reason] = None
            _log.warning("%s runs as plain torch because it uses %s", self._name, reason)

    def explain(self, *args: Any) -> str:
        """Say in one line how a call with these arguments runs, and why."""
        tensors = [a for a in args if isinstance(a, torch.Tensor)]
        program, reason = self._plan(args, tensors)
        if program is None:
            return f"{self._name}: plain torch, because it uses {reason}"
        backend = "numba" if tensors[0].device.type == "cpu" else "Metal"
        shape = _shape(program, tensors, self._name)
        arrays = f"{len(tensors)} input(s), {len(program.outputs)} output(s)"
        return f"{self._name}: one {backend} kernel over {shape}, {arrays}"

    def source(self, *args: Any) -> str:
        """Return the text of the kernel a call with these arguments runs."""
        tensors = [a for a in args if isinstance(a, torch.Tensor)]
        program, reason = self._plan(args, tensors)
        if program is None:
            raise InputError(f"{self._name}: there is no kernel, because the function uses {reason}")
        with torch.no_grad():
            views, outputs, layout = _arrange(program, tensors, self._name, None)
        module = cpu if tensors[0].device.type == "cpu" else gpu
        written: str = module.text(program, views, outputs, layout)
        return written


def _shape(program: Program, tensors: list[torch.Tensor], name: str) -> tuple[int, ...]:
    try:
        shape = tuple(_broadcast_shapes(*(t.shape for t in tensors)))
    except RuntimeError:
        shapes = " and ".join(str(tuple(t.shape)) for t in tensors)
        raise InputError(f"{name}: shapes {shapes} do not broadcast together") from None
    if program.axis is not None and not -len(shape) <= program.axis < len(shape):
        raise InputError(f"{name}: reduces along axis {program.axis}, but the inputs broadcast to shape {shape}")
    return shape


@dataclass(frozen=True)
class _Case:
    """What every call with arguments of the same shapes, strides, types and device has in common."""

    outputs: tuple[tuple[int, ...], torch.dtype, torch.device]
    launch: Callable[[list[torch.Tensor], list[torch.Tensor], list[float]], None]


@functools.lru_cache(maxsize=4096)
def _cases(program: Program) -> dict[Any, _Case]:
    """Prepared calls of one program by the form of their arguments; bounded where it is filled."""
    del program  # the key alone
    return {}


def _form_of(x: torch.Tensor, device: torch.device) -> tuple[Any, ...]:
    # Vector loads need 16-byte alignment, on which the GPU's text depends.
    aligned = 0 if device.type == "cpu" else x.data_ptr() % 32
    return x.shape, x.stride(), x.dtype, x.device, aligned


def _arrange(program: Program, tensors: list[torch.Tensor], name: str, out: torch.Tensor | None) -> Any:
    """Views of the inputs and fresh outputs with the reduction axis last, and how they lie in memory."""
    shape = _shape(program, tensors, name)
    dtype = _result_type(tensors)
    axis = None if program.axis is None else program.axis % len(shape)
    result = tuple(1 if program.per_row and d == axis else n for d, n in enumerate(shape))
    if out is None:
        outputs = [torch.empty(result, dtype=dtype, device=tensors[0].device) for _ in program.outputs]
    else:
        outputs = [_fitting(out, result, dtype, tensors, program, axis, name)]
    views = [t.expand(shape) for t in tensors]
    full = [o.expand(shape) for o in outputs]
    if axis is not None:
        views, full = ([v.movedim(axis, -1) for v in group] for group in (views, full))
        shape = tuple(views[0].shape)
    return views, outputs, arrange([*views, *full], shape, keep_last=axis is not None)


def _result_type(tensors: list[torch.Tensor]) -> torch.dtype:
    """Promote as torch does: tensors without dimensions count only when there are no others."""
    floating = [t for t in tensors if t.dtype != torch.bool]
    deciding = [t.dtype for t in floating if t.dim()] or [t.dtype for t in floating] or [torch.get_default_dtype()]
    return functools.reduce(torch.promote_types, deciding)


def _fitting(
    out: torch.Tensor,
    shape: tuple[int, ...],
    dtype: torch.dtype,
    tensors: list[torch.Tensor],
    program: Program,
    axis: int | None,
    name: str,
) -> torch.Tensor:
    """Check ``out`` and return it with the reduced axis kept."""
    if not program.single:
        raise InputError(f"{name}: out= fits functions returning one tensor; this one returns {len(program.outputs)}")
    kept = out if program.keepdim or not program.per_row or axis is None else out.unsqueeze(axis)
    if tuple(kept.shape) != shape or out.dtype != dtype or out.device != tensors[0].device:
        raise InputError(
            f"{name}: out is {out.dtype} of shape {tuple(out.shape)} on {out.device}; "
            f"give {dtype} of shape {shape} on {tensors[0].device}"
        )
    _refuse_overlap(out, tensors, name)
    return kept


def _refuse_overlap(out: torch.Tensor, tensors: list[torch.Tensor], name: str) -> None:
    for t in tensors:
        same = t.data_ptr() == out.data_ptr() and t.stride() == out.stride() and t.shape == out.shape
        if not same and _overlap(t, out):
            raise InputError(f"{name}: out overlaps an input without being exactly it; give separate memory")


def _overlap(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Whether the memory between the first and the last element of two tensors of one device has bytes in common."""
    start, other = a.data_ptr(), b.data_ptr()
    if start <= other:
        return bool(a.numel() and b.numel()) and start + _reach(a) > other
    return bool(a.numel() and b.numel()) and other + _reach(b) > start


def _reach(x: torch.Tensor) -> int:
    """Bytes from a tensor's first element to behind its last."""
    if x.is_contiguous():
        return x.numel() * x.element_size()
    return (1 + sum((n - 1) * s for n, s in zip(x.shape, x.stride(), strict=True))) * x.element_size()


def _run(
    program: Program, tensors: list[torch.Tensor], scalars: list[float], name: str, out: torch.Tensor | None = None
) -> tuple[torch.Tensor, ...]:
    device = tensors[0].device
    key = (*(_form_of(t, device) for t in tensors), None if out is None else _form_of(out, device))
    cases = _cases(program)
    case = cases.get(key)
    if case is None:
        views, outputs, layout = _arrange(program, tensors, name, out)
        module = cpu if device.type == "cpu" else gpu
        launch = module.prepare(program, views, outputs, layout)
        if len(cases) >= _MOST_CASES:  # shapes that never come back must not pile up
            cases.clear()
        cases[key] = _Case((tuple(outputs[0].shape), outputs[0].dtype, device), launch)
    else:
        shape, dtype, device = case.outputs
        launch = case.launch
        if out is None:
            outputs = [torch.empty(shape, dtype=dtype, device=device) for _ in program.outputs]
        else:
            _refuse_overlap(out, tensors, name)
            outputs = [out]
    if outputs[0].numel():
        launch(tensors, outputs, scalars)
    if out is not None:
        return (out,)
    if program.per_row and not program.keepdim and program.axis is not None:
        outputs = [o.squeeze(program.axis) for o in outputs]
    return tuple(outputs)


class _Apply(torch.autograd.Function):
    """The program forward, its gradient program backward; the latter is differentiable in the same way."""

    @staticmethod
    def forward(ctx: Any, program: Program, scalars: list[float], name: str, *tensors: torch.Tensor) -> Any:
        ctx.save_for_backward(*tensors)
        ctx.program, ctx.scalars, ctx.name = program, scalars, name
        return _run(program, list(tensors), scalars, name)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> Any:
        program: Program = ctx.program
        tensors = ctx.saved_tensors
        if program.per_row and not program.keepdim and program.axis is not None:
            grads = tuple(g.unsqueeze(program.axis) for g in grads)
        backward = _gradient(program)
        inputs = [*tensors, *grads]
        needs_grad = torch.is_grad_enabled() and any(t.requires_grad for t in inputs)
        if needs_grad:
            full = _apply(backward, ctx.scalars, ctx.name, *inputs)
        else:
            full = _run(backward, inputs, ctx.scalars, ctx.name)
        results = [
            g.sum_to_size(t.shape).to(t.dtype) if t.requires_grad else None for g, t in zip(full, tensors, strict=True)
        ]
        return (None, None, None, *results)


_apply: Callable[..., tuple[torch.Tensor, ...]] = _Apply.apply


@functools.lru_cache(maxsize=256)
def _gradient(program: Program) -> Program:
    return gradient(program)
