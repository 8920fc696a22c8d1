"""``@elinvar.fuse``: a Python function of tensors as one kernel, with its gradient as another.

The function is recorded once per kind of arguments; its element-wise arithmetic, broadcasting, ``where`` and reductions
along one axis become one numba kernel on a CPU and one Metal kernel on a GPU. Values are read in their storage dtype,
computed in float32 (float64 when an input is), and rounded once at the store. What cannot be recorded runs as plain
torch, and :meth:`Fused.explain` says why.
"""

from __future__ import annotations

import functools
import logging
import numbers
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, overload

import torch

from elinvar.errors import InputError
from elinvar.metal.fuse import calls, cpu, derivative, gpu
from elinvar.metal.fuse.binding import CHOICES, Attributes, Method, Partly, by_position, parameters
from elinvar.metal.fuse.calls import Case, form_of
from elinvar.metal.fuse.captured import readers
from elinvar.metal.fuse.expression import NotFusable, Program, record
from elinvar.metal.fuse.layout import STORAGE
from elinvar.metal.fuse.shapes import difference

__all__ = ["Fused", "fuse"]

_log = logging.getLogger("elinvar.fuse")
_MOST_CASES = 256
_MOST_RECORDINGS = 32
_is_compiling = torch.compiler.is_compiling
_grad_enabled = torch.is_grad_enabled
_transforming = torch._C._are_functorch_transforms_active  # noqa: SLF001  (there is no public question)
_forward = torch.autograd.forward_ad


@overload
def fuse(function: Callable[..., Any], *, like: int | None = None) -> Fused: ...
@overload
def fuse(function: None = None, *, like: int | None = None) -> Callable[[Callable[..., Any]], Fused]: ...
def fuse(function: Callable[..., Any] | None = None, *, like: int | None = None) -> Any:
    """Return ``function`` as one kernel per device; a decorator.

    Parameters
    ----------
    function
        Takes tensors and numbers, by position or by name, and returns one tensor or a tuple of tensors computed from
        them by arithmetic, comparisons, ``torch.where``, the usual math functions and activations, and ``sum``,
        ``mean``, ``var``, ``amax``, ``amin``, ``softmax`` or ``logsumexp`` along one axis. Numbers stay arguments: new
        values need no new compile. None, flags and text choose between kernels, and so do numbers outside the
        arguments. It may be a method: tensors and floats of the object are arguments too.
    like
        Store results in the dtype of this tensor argument (its position among the tensors) instead of the promoted
        dtype of all: float16 data with float32 parameters stay float16.

    Examples
    --------
    >>> import torch, elinvar
    >>> @elinvar.fuse
    ... def affine_relu(x, scale, bias):
    ...     return torch.relu(x * scale + bias)
    >>> affine_relu(torch.tensor([1.0, -2.0]), torch.tensor(2.0), torch.tensor(1.0))
    tensor([3., 0.])
    """
    if function is None:
        return functools.partial(Fused, like=like)
    return Fused(function, like=like)


@dataclass(frozen=True)
class _Recorded:
    program: Program | None
    reason: str | None


@dataclass(frozen=True)
class _Ready:
    """A prepared call and where tensors and numbers stand among its arguments."""

    case: Case
    single: bool
    tensors: tuple[int, ...]
    scalars: tuple[int, ...]


class Fused:
    """A fused function; call it like the function it was made from."""

    def __init__(self, function: Callable[..., Any], *, like: int | None = None) -> None:
        if not callable(function):
            raise InputError(f"fuse: {function!r} is a {type(function).__name__}; decorate a function of tensors")
        functools.update_wrapper(self, function)
        self.function = function
        self.like = like
        self.name = f"fuse({getattr(function, '__name__', 'function')})"
        self._recorded: dict[Any, _Recorded] = {}
        self._ready: dict[Any, _Ready] = {}
        self._reasons: dict[str, None] = {}
        self._watched: tuple[Callable[[], Any], ...] | None = None
        self._children: dict[Any, Fused] = {}
        self._methods: dict[type, Attributes] = {}
        self._handle = derivative.enrol(self)

    def __call__(self, *args: Any, out: torch.Tensor | None = None, **keywords: Any) -> Any:
        """Run the function.

        Parameters
        ----------
        *args, **keywords
            Tensors (float32, float64, float16, bfloat16 or bool; any strides; broadcast like numpy's), numbers, None,
            flags and text.
        out : Tensor, optional
            Receives the result when the function returns one tensor, rounded to its dtype; refused together with a
            gradient.

        Raises
        ------
        InputError
            Shapes do not broadcast, devices differ, or ``out`` does not fit.
        """
        if _is_compiling():
            return self._traced(args, out, keywords)
        # A transform's tensors have no memory for a kernel to read; forward-mode tangents would be dropped.
        if _transforming() or _forward._current_level >= 0:  # noqa: SLF001
            self.plainly_now(out)
            return self.plain(args, keywords)
        if keywords:
            child, others = self.resolved(args, keywords)
            return child(*others, out=out)
        key = [form_of(a) if isinstance(a, torch.Tensor) else type(a) for a in args]
        if out is not None:
            key.append(form_of(out))
        watched = self._watched
        if watched is None:
            watched = self._watched = readers(self.function)
        if watched:
            key.append(self._seen())
        ready = self._ready.get((out is None, *key))
        if ready is None:
            return self._first(args, out, (out is None, *key))
        tensors = [args[k] for k in ready.tensors]
        if _grad_enabled():
            for t in tensors:
                if t.requires_grad:
                    return self._first(args, out, (out is None, *key))
        outputs = ready.case(tensors, [float(args[k]) for k in ready.scalars], out, self.name)
        if out is not None:
            return out
        return outputs[0] if ready.single else tuple(outputs)

    # --- other ways to call it ---------------------------------------------------------------------------------------
    @property
    def fused_function(self) -> Callable[..., Any]:
        """The function this was made from."""
        return self.function

    @functools.cached_property
    def parameters(self) -> tuple[str, ...]:
        """Names of the arguments that can be given by position."""
        return parameters(self.function)

    def __repr__(self) -> str:
        return f"<{self.name}>"

    def __deepcopy__(self, memo: Any) -> Fused:
        return self  # as functions do

    def __reduce__(self) -> Any:
        found: Any = sys.modules.get(self.function.__module__)
        for name in self.function.__qualname__.split("."):
            found = getattr(found, name, None)
        if found is self:
            return self.function.__qualname__  # a global name, as functions are
        return functools.partial(Fused, like=self.like), (self.function,)

    def __get__(self, owner: Any, kind: type | None = None) -> Any:
        return self if owner is None else Method(self, owner)

    def attributes(self, kind: type) -> Attributes:
        """What the function, as a method of a class, reads of its objects."""
        found = self._methods.get(kind)
        if found is None:
            found = self._methods[kind] = Attributes(self, kind)
        return found

    def like_me(self, function: Callable[..., Any]) -> Fused:
        """Return another function fused as this one is, under its name."""
        fused = Fused(function, like=self.like)
        fused.name, fused._reasons = self.name, self._reasons
        return fused

    def resolved(self, args: Sequence[Any], keywords: dict[str, Any]) -> tuple[Fused, list[Any]]:
        """The fused function for these names, flags, text and None, and its arguments: tensors and numbers."""
        if keywords:
            positional, rest = by_position(self.parameters, len(args), tuple(keywords))
            args = [*args, *(keywords[n] for n in positional)]
            if rest:
                child = self._child(len(args), rest, {})
                return child.resolved([*args, *(keywords[n] for n in rest)], {})
        fixed = {k: a for k, a in enumerate(args) if isinstance(a, CHOICES)}
        if not fixed:
            return self, list(args)
        return self._child(len(args), (), fixed), [a for k, a in enumerate(args) if k not in fixed]

    def _child(self, count: int, names: Sequence[str], fixed: dict[int, Any]) -> Fused:
        key = (count, tuple(names), tuple((k, type(v), v) for k, v in fixed.items()))
        child = self._children.get(key)
        if child is None:
            if len(self._children) >= _MOST_CASES:
                self._children.clear()
            child = self._children[key] = self.like_me(Partly(self.function, count, names, fixed))
        return child

    def plainly_now(self, out: torch.Tensor | None) -> bool:
        """Whether torch is compiling or transforming, which have to see plain operations; refuse ``out`` there."""
        transforming = _transforming() or _forward._current_level >= 0  # noqa: SLF001
        if transforming and out is not None:
            raise InputError(f"{self.name}: out= was given inside a transform of torch.func; drop it there")
        return transforming or _is_compiling()

    def into(self, out: torch.Tensor | None, result: Any) -> Any:
        """Return a result of plain torch, in ``out`` where that is given."""
        return result if out is None else calls.store_in(out, result, self.name)

    # --- running it --------------------------------------------------------------------------------------------------
    def _first(self, args: tuple[Any, ...], out: torch.Tensor | None, key: Any) -> Any:
        """A call of a form not met before, or with gradients."""
        if any(isinstance(a, CHOICES) for a in args):
            child, others = self.resolved(args, {})
            return child(*others, out=out)
        tensors = [a for a in args if isinstance(a, torch.Tensor)]
        if any(t.is_neg() for t in tensors):  # memory that stands for its negative, as of z.conj().imag
            return self(*[a.resolve_neg() if isinstance(a, torch.Tensor) else a for a in args], out=out)
        program, reason = self._plan(args, tensors)
        needs_grad = _grad_enabled() and any(t.requires_grad for t in tensors)
        if out is not None and needs_grad:
            raise InputError(
                f"{self.name}: out= was given while an input requires grad; drop out= or use torch.no_grad()"
            )
        if program is None:
            self.fall_back(reason or "")
            return self.into(out, self.plain(args))
        scalars = [float(a) for a in args if not isinstance(a, torch.Tensor)]
        dtype = self.stored_as(tensors)
        if needs_grad:
            wanted = tuple(t.requires_grad for t in tensors)
            derivative.gradient_of(program, wanted)  # before anything runs: every operation has to have a derivative
            results: Sequence[torch.Tensor] = derivative.apply(program, scalars, self.name, dtype, *tensors)
        else:
            case = calls.prepared(program, tensors, self.name, out, None if out is not None else dtype)
            results = case(tensors, scalars, out, self.name)
            where = [isinstance(a, torch.Tensor) for a in args]
            if len(self._ready) >= _MOST_CASES:  # shapes that never come back must not pile up
                self._ready.clear()
            self._ready[key] = _Ready(
                case,
                program.single,
                tuple(k for k, is_tensor in enumerate(where) if is_tensor),
                tuple(k for k, is_tensor in enumerate(where) if not is_tensor),
            )
            if out is not None:
                return out
        return results[0] if program.single else tuple(results)

    def _traced(self, args: tuple[Any, ...], out: torch.Tensor | None, keywords: dict[str, Any]) -> Any:
        """The call inside ``torch.compile``: one custom operation, with its gradient as another."""
        if keywords or any(isinstance(a, CHOICES) for a in args):
            result = self.plain(args, keywords)
            return result if out is None else out.copy_(result)
        kinds = "".join("t" if isinstance(a, torch.Tensor) else "s" for a in args)
        handle = self._handle + ""  # dynamo hands over a constant only once something was done with it
        if not derivative.traceable(handle, kinds, derivative.shape_pattern(args)):
            result = self.plain(args)
            return result if out is None else out.copy_(result)
        results = derivative.traced(handle, kinds, args)
        if out is not None:
            return out.copy_(results[0])
        return results[0] if derivative.single(handle, kinds) else tuple(results)

    def plain(self, args: tuple[Any, ...], keywords: dict[str, Any] | None = None) -> Any:
        """The function as it stands, its results in the dtype a kernel would store."""
        named = keywords or {}
        result = self.function(*args, **named)
        if self.like is None:
            return result
        dtype = [a for a in (*args, *named.values()) if isinstance(a, torch.Tensor)][self.like].dtype
        if isinstance(result, tuple):
            return tuple(r.to(dtype) if isinstance(r, torch.Tensor) else r for r in result)
        return result.to(dtype) if isinstance(result, torch.Tensor) else result

    def stored_as(self, tensors: Sequence[torch.Tensor]) -> torch.dtype | None:
        """Dtype results are stored in, None for the promoted one."""
        return None if self.like is None else tensors[self.like].dtype

    def _seen(self) -> tuple[Any, ...]:
        """What the function reads beside its arguments, now."""
        return tuple([read() for read in self._watched or ()])

    def recorded(self, kinds: tuple[str, ...]) -> _Recorded:
        """Record the function for one kind of arguments, once for every state of what else it reads."""
        if self._watched is None:
            self._watched = readers(self.function)
        key = (kinds, self._seen())
        found = self._recorded.get(key)
        if found is None:
            if len(self._recorded) >= _MOST_RECORDINGS and self._watched:
                return _Recorded(None, "numbers beside its arguments that keep changing; pass them in")
            try:
                found = _Recorded(record(self.function, kinds), None)
            except NotFusable as reason:
                found = _Recorded(None, str(reason))
            self._recorded[key] = found
        return found

    def _plan(self, args: Sequence[Any], tensors: list[torch.Tensor]) -> tuple[Program | None, str | None]:
        kinds = tuple("tensor" if isinstance(a, torch.Tensor) else "scalar" for a in args)
        for k, a in enumerate(args):
            if kinds[k] == "scalar" and not isinstance(a, numbers.Real):
                raise InputError(
                    f"{self.name}: argument {k} is a {type(a).__name__}; give tensors, numbers, flags, text or None"
                )
        if not tensors:
            raise InputError(f"{self.name}: no argument is a tensor; give at least one")
        recorded = self.recorded(kinds)
        if recorded.program is None:
            return None, recorded.reason
        for t in tensors:
            if t.device != tensors[0].device:
                raise InputError(f"{self.name}: tensors on {tensors[0].device} and {t.device}; move them to one device")
            if t.dtype not in STORAGE:
                return None, f"an input of dtype {t.dtype}"
            if t.device.type not in ("cpu", "cuda", "mps"):
                return None, f"tensors on {t.device.type}"
            if t.dtype == torch.float64 and t.device.type != "cpu":
                return None, "float64 on a GPU, which Metal does not have"
        differs = difference(recorded.program, tuple([t.shape for t in tensors]))
        return (recorded.program, None) if differs is None else (None, differs)

    def fall_back(self, reason: str) -> None:
        """Log, once, why a call runs as plain torch."""
        if reason not in self._reasons:
            self._reasons[reason] = None
            _log.warning("%s runs as plain torch because it uses %s", self.name, reason)

    def explain(self, *args: Any, **keywords: Any) -> str:
        """Say in one line how a call with these arguments runs, and why."""
        child, rest = self.resolved(args, keywords)
        if child is not self:
            return child.explain(*rest)
        args = tuple(rest)
        tensors = [a for a in args if isinstance(a, torch.Tensor)]
        program, reason = self._plan(args, tensors)
        if program is None:
            return f"{self.name}: plain torch, because it uses {reason}"
        backend = "numba" if tensors[0].device.type == "cpu" else "Metal"
        shape = calls.broadcast(program, tensors, self.name)
        arrays = f"{len(tensors)} input(s), {len(program.outputs)} output(s)"
        return f"{self.name}: one {backend} kernel over {shape}, {arrays}"

    def source(self, *args: Any, backend: str | None = None, **keywords: Any) -> str:
        """Return the text of the kernel a call with these arguments runs.

        ``backend`` "numba" or "metal" asks for that text wherever the arguments are.
        """
        child, rest = self.resolved(args, keywords)
        if child is not self:
            return child.source(*rest, backend=backend)
        args = tuple(rest)
        tensors = [a for a in args if isinstance(a, torch.Tensor)]
        program, reason = self._plan(args, tensors)
        if program is None:
            raise InputError(f"{self.name}: there is no kernel, because the function uses {reason}")
        with torch.no_grad():
            views, outputs, layout, _ = calls.arranged(program, tensors, self.name, None, self.stored_as(tensors))
        on_cpu = tensors[0].device.type == "cpu" if backend is None else backend == "numba"
        module = cpu if on_cpu else gpu
        written: str = module.text(program, views, outputs, layout)
        return written

    def metal(self, *args: Any, **keywords: Any) -> Any:
        """Run the Metal kernel wherever the arguments are: on CPU tensors that is the emulator, for verification."""
        child, rest = self.resolved(args, keywords)
        if child is not self:
            return child.metal(*rest)
        args = tuple(rest)
        tensors = [a for a in args if isinstance(a, torch.Tensor)]
        program, reason = self._plan(args, tensors)
        if program is None:
            raise InputError(f"{self.name}: there is no kernel, because the function uses {reason}")
        with torch.no_grad():
            views, outputs, layout, _ = calls.arranged(program, tensors, self.name, None, self.stored_as(tensors))
        scalars = [float(a) for a in args if not isinstance(a, torch.Tensor)]
        if outputs[0].numel():
            gpu.prepare(program, views, outputs, layout)(tensors, outputs, scalars)
        if program.per_row and not program.keepdim and program.axis is not None:
            outputs = [o.squeeze(program.axis) for o in outputs]
        return outputs[0] if program.single else tuple(outputs)

    def flat(self, dtype: torch.dtype) -> Callable[..., None]:
        """Return the bare CPU kernel for contiguous tensors of one shape and dtype.

        It is called ``kernel(start, stop, count, *addresses, *numbers)`` with the addresses of inputs and outputs, and
        checks nothing: for callers that have checked.
        """
        import inspect

        program = self.recorded(("tensor",) * len(inspect.signature(self.function).parameters)).program
        if program is None or program.axis is not None:
            raise InputError(f"{self.name}: flat() fits element-wise functions of tensors alone")
        return cpu.flat(program, dtype)
