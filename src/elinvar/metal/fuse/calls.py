"""Calls of recorded programs: arguments checked and arranged once per form, then only addresses change."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from elinvar.errors import InputError
from elinvar.metal.fuse import cpu, gpu
from elinvar.metal.fuse.expression import Program
from elinvar.metal.fuse.layout import STORAGE, Layout, arrange, overwritten, reach

__all__ = ["Case", "arranged", "broadcast", "check_overlap", "form_of", "run", "store_in"]

_MOST_CASES = 256
_broadcast_shapes: Callable[..., tuple[int, ...]] = torch.broadcast_shapes


def broadcast(program: Program, tensors: Sequence[torch.Tensor], name: str) -> tuple[int, ...]:
    """Return the common shape of the inputs, or raise `InputError` naming them."""
    try:
        shape = tuple(_broadcast_shapes(*(t.shape for t in tensors)))
    except RuntimeError:
        shapes = " and ".join(str(tuple(t.shape)) for t in tensors)
        raise InputError(f"{name}: shapes {shapes} do not broadcast together") from None
    if program.axis is not None and not -len(shape) <= program.axis < len(shape):
        raise InputError(f"{name}: reduces along axis {program.axis}, but the inputs broadcast to shape {shape}")
    return shape


def form_of(x: torch.Tensor) -> tuple[Any, ...]:
    """What a prepared call depends on. On a GPU the text's vector loads depend on alignment too."""
    return x.shape, x.stride(), x.dtype, x.device, x.is_neg(), 0 if x.is_cpu else x.data_ptr() % 32


@dataclass(frozen=True)
class Case:
    """What every call with arguments of the same form has in common.

    Attributes
    ----------
    shape, dtype, device
        Of each output, with the reduced axis kept.
    like : int
        Input whose memory order the outputs take over; -1 makes them contiguous.
    squeeze : int or None
        Axis the outputs lose.
    reaches : tuple of int
        Bytes from the first element of each input, and of the output, to behind its last.
    launch
        ``launch(inputs, outputs, scalars)``.
    """

    shape: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device
    like: int
    squeeze: int | None
    count: int
    reaches: tuple[int, ...]
    forms: tuple[Any, ...]
    launch: Callable[[Sequence[torch.Tensor], Sequence[torch.Tensor], Sequence[float]], None]

    def fresh(self, tensors: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Allocate the outputs."""
        if self.like >= 0:
            like = tensors[self.like]
            return [torch.empty_like(like, dtype=self.dtype, requires_grad=False) for _ in range(self.count)]
        return [torch.empty(self.shape, dtype=self.dtype, device=self.device) for _ in range(self.count)]

    def __call__(
        self, tensors: Sequence[torch.Tensor], scalars: Sequence[float], out: torch.Tensor | None, name: str
    ) -> list[torch.Tensor]:
        """Run on tensors of this form."""
        if out is None:
            outputs = self.fresh(tensors)
        else:
            self._check_overlap(tensors, out, name)
            if out.requires_grad and torch.is_grad_enabled():
                raise InputError(f"{name}: out= requires a gradient itself; give other memory or use torch.no_grad()")
            overwritten(out)
            outputs = [out]
        if self.reaches[-1]:
            self.launch(tensors, outputs, scalars)
        if self.squeeze is not None and out is None:
            return [o.squeeze(self.squeeze) for o in outputs]
        return outputs

    def _check_overlap(self, tensors: Sequence[torch.Tensor], out: torch.Tensor, name: str) -> None:
        start = out.data_ptr()
        end = start + self.reaches[-1]
        for k, t in enumerate(tensors):
            other = t.data_ptr()
            if other < end and start < other + self.reaches[k] and (other != start or self.forms[k] != self.forms[-1]):
                raise _overlap(name)


def _overlap(name: str) -> InputError:
    return InputError(f"{name}: out overlaps an input without being exactly it; give separate memory")


def check_overlap(out: torch.Tensor, tensors: Sequence[torch.Tensor], name: str) -> None:
    """Refuse an `out` that shares memory with an input without being exactly it.

    Two tensors overlap when the spans from their first to their last element do.
    """
    start, size = out.data_ptr(), reach(out) * out.element_size()
    for t in tensors:
        other = t.data_ptr()
        if other < start + size and start < other + reach(t) * t.element_size():
            same = other == start and t.shape == out.shape and t.stride() == out.stride() and t.dtype == out.dtype
            if not same:
                raise _overlap(name)


@functools.lru_cache(maxsize=4096)
def _cases(program: Program) -> dict[Any, Case]:
    """Prepared calls of one program by the form of their arguments; bounded where it is filled."""
    del program  # the key alone
    return {}


def result_type(tensors: Sequence[torch.Tensor]) -> torch.dtype:
    """Promote as torch does: tensors without dimensions count only when there are no others."""
    floating = [t for t in tensors if t.dtype != torch.bool]
    deciding = [t.dtype for t in floating if t.dim()] or [t.dtype for t in floating] or [torch.get_default_dtype()]
    return functools.reduce(torch.promote_types, deciding)


def _dense(x: torch.Tensor) -> bool:
    """Whether a tensor fills its memory without holes, in whatever order of dimensions."""
    expected = 1
    for stride, size in sorted(zip(x.stride(), x.shape, strict=True)):
        if size != 1:
            if stride != expected:
                return False
            expected *= size
    return True


def _model(tensors: Sequence[torch.Tensor], shape: tuple[int, ...], device: torch.device) -> int:
    """Input whose order of dimensions (channels last, say) the result takes over, or -1."""
    for k, t in enumerate(tensors):
        if tuple(t.shape) == shape:
            return k if t.device == device and _dense(t) else -1
    return -1


def arranged(
    program: Program,
    tensors: Sequence[torch.Tensor],
    name: str,
    out: torch.Tensor | None = None,
    dtype: torch.dtype | None = None,
) -> tuple[list[torch.Tensor], list[torch.Tensor], Layout, int]:
    """Views of the inputs and outputs with the reduction axis last, how they lie in memory, and the model input."""
    shape = broadcast(program, tensors, name)
    dtype = dtype or result_type(tensors)
    device = tensors[0].device
    axis = None if program.axis is None else program.axis % len(shape)
    result = tuple(1 if program.per_row and d == axis else n for d, n in enumerate(shape))
    model = -1 if result != shape else _model(tensors, shape, device)
    if out is not None:
        outputs = [_fitting(out, result, dtype, device, program, axis, name)]
        check_overlap(out, tensors, name)
    elif model >= 0:
        outputs = [torch.empty_like(tensors[model], dtype=dtype, requires_grad=False) for _ in program.outputs]
    else:
        outputs = [torch.empty(result, dtype=dtype, device=device) for _ in program.outputs]
    views = [t.expand(shape) for t in tensors]
    full = [o.expand(shape) for o in outputs]
    if axis is not None:
        views, full = ([v.movedim(axis, -1) for v in group] for group in (views, full))
        shape = tuple(views[0].shape)
    return views, outputs, arrange([*views, *full], shape, keep_last=axis is not None), model


def _fitting(
    out: torch.Tensor,
    shape: tuple[int, ...],
    dtype: torch.dtype,
    device: torch.device,
    program: Program,
    axis: int | None,
    name: str,
) -> torch.Tensor:
    """Check ``out`` and return it with the reduced axis kept."""
    if not program.single:
        raise InputError(f"{name}: out= fits functions returning one tensor; this one returns {len(program.outputs)}")
    kept = out if program.keepdim or not program.per_row or axis is None else out.unsqueeze(axis)
    if tuple(kept.shape) != shape or out.device != device or not out.dtype.is_floating_point:
        raise InputError(
            f"{name}: out is {out.dtype} of shape {tuple(out.shape)} on {out.device}; "
            f"give {dtype} of shape {shape} on {device}"
        )
    if out.dtype not in STORAGE or (out.dtype == torch.float64 and device.type != "cpu"):
        raise InputError(f"{name}: out is {out.dtype}, which a fused kernel does not store on {device}; give {dtype}")
    if any(n > 1 and s == 0 for n, s in zip(out.shape, out.stride(), strict=True)):
        raise InputError(f"{name}: out of shape {tuple(out.shape)} is expanded; give memory of its own")
    if out.is_neg():
        raise InputError(f"{name}: out is a view of what is to be negated; give memory of its own")
    return kept


def run(
    program: Program,
    tensors: Sequence[torch.Tensor],
    scalars: Sequence[float],
    name: str,
    out: torch.Tensor | None = None,
    dtype: torch.dtype | None = None,
) -> list[torch.Tensor]:
    """Run a program.

    Parameters
    ----------
    program, tensors, scalars
        What to run on what.
    name
        Of the operation, for errors.
    out
        Receives the only output, in its own dtype.
    dtype
        Of the outputs; by default the inputs' promoted type.
    """
    if any(t.is_neg() for t in tensors):  # memory that stands for its negative: gradients of complex numbers
        tensors = [t.resolve_neg() for t in tensors]
    forms = tuple([form_of(t) for t in tensors])
    key = (forms, dtype, None if out is None else form_of(out))
    cases = _cases(program)
    case = cases.get(key)
    if case is None:
        case = prepared(program, tensors, name, out, dtype)
        if len(cases) >= _MOST_CASES:  # shapes that never come back must not pile up
            cases.clear()
        cases[key] = case
    return case(tensors, scalars, out, name)


def _nothing(_i: Sequence[torch.Tensor], _o: Sequence[torch.Tensor], _s: Sequence[float]) -> None:
    """Do what there is to do for results without elements."""


def prepared(
    program: Program,
    tensors: Sequence[torch.Tensor],
    name: str,
    out: torch.Tensor | None,
    dtype: torch.dtype | None,
) -> Case:
    """Arrange a call and compile its kernel."""
    wanted = out.dtype if out is not None and dtype is None else dtype
    views, outputs, layout, model = arranged(program, tensors, name, out, wanted)
    module = cpu if tensors[0].device.type == "cpu" else gpu
    first = outputs[0]
    sizes = [reach(t) * t.element_size() for t in (*tensors, first)]
    drops = program.per_row and not program.keepdim and program.axis is not None
    return Case(
        shape=tuple(first.shape),
        dtype=first.dtype,
        device=first.device,
        like=model,
        squeeze=program.axis if drops else None,
        count=len(outputs),
        reaches=tuple(sizes),
        forms=tuple(form_of(t) for t in (*tensors, first if out is None else out)),
        launch=module.prepare(program, views, outputs, layout) if sizes[-1] else _nothing,
    )


def store_in(out: torch.Tensor, value: torch.Tensor, name: str) -> torch.Tensor:
    """Copy a result computed by plain torch into `out`, checked as a kernel's would be."""
    if out.shape != value.shape or out.device != value.device:
        raise InputError(
            f"{name}: out has shape {tuple(out.shape)} on {out.device}; give {tuple(value.shape)} on {value.device}"
        )
    return out.copy_(value)
