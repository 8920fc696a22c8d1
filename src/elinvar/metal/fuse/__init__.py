"""``@elinvar.fuse``: a Python function of tensors as one kernel, with its gradient as another.

The function is recorded once per kind of arguments; its element-wise arithmetic, broadcasting, ``where`` and reductions
along one axis become one numba kernel on a CPU and one Metal kernel on a GPU. Values are read in their storage dtype,
computed in float32 (float64 when an input is), and rounded once at the store. What cannot be recorded runs as plain
torch, and :meth:`Fused.explain` says why.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, overload

import torch

from elinvar.errors import InputError
from elinvar.metal.fuse import calls, cpu, derivative, gpu
from elinvar.metal.fuse.calls import Case, form_of
from elinvar.metal.fuse.expression import NotFusable, Program, record
from elinvar.metal.fuse.layout import STORAGE

__all__ = ["Fused", "fuse"]

_log = logging.getLogger("elinvar.fuse")
_MOST_CASES = 256
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
        Takes tensors and Python numbers positionally, returns one tensor or a tuple of tensors computed from them by
        arithmetic, comparisons, ``torch.where``, the usual math functions and activations, and ``sum``, ``mean``,
        ``amax``, ``amin`` or ``softmax`` along one axis. Numbers stay arguments: new values need no new compile.
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
        self._recorded: dict[tuple[str, ...], _Recorded] = {}
        self._ready: dict[Any, _Ready] = {}
        self._reasons: dict[str, None] = {}
        self._handle = derivative.enrol(self)

    def __call__(self, *args: Any, out: torch.Tensor | None = None) -> Any:
        """Run the function.

        Parameters
        ----------
        *args
            Tensors (float32, float64, float16, bfloat16 or bool; any strides; broadcast like numpy's) and numbers.
        out : Tensor, optional
            Receives the result when the function returns one tensor, rounded to its dtype; refused together with a
            gradient.

        Raises
        ------
        InputError
            Shapes do not broadcast, devices differ, or ``out`` does not fit.
        """
        if _is_compiling():
            return self._traced(args, out)
        # A transform's tensors have no memory for a kernel to read; forward-mode tangents would be dropped.
        if _transforming() or _forward._current_level >= 0:  # noqa: SLF001
            if out is not None:
                raise InputError(f"{self.name}: out= was given inside a transform of torch.func; drop it there")
            return self._plain(args)
        key = [form_of(a) if isinstance(a, torch.Tensor) else type(a) for a in args]
        if out is not None:
            key.append(form_of(out))
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

    def _first(self, args: tuple[Any, ...], out: torch.Tensor | None, key: Any) -> Any:
        """A call of a form not met before, or with gradients."""
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
            self._fall_back(reason or "")
            result = self._plain(args)
            return result if out is None else calls.store_in(out, result, self.name)
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

    def _traced(self, args: tuple[Any, ...], out: torch.Tensor | None) -> Any:
        """The call inside ``torch.compile``: one custom operation, with its gradient as another."""
        kinds = "".join("t" if isinstance(a, torch.Tensor) else "s" for a in args)
        handle = self._handle + ""  # dynamo hands over a constant only once something was done with it
        if not derivative.traceable(handle, kinds):
            result = self._plain(args)
            return result if out is None else out.copy_(result)
        results = derivative.traced(handle, kinds, args)
        if out is not None:
            return out.copy_(results[0])
        return results[0] if derivative.single(handle, kinds) else tuple(results)

    def _plain(self, args: tuple[Any, ...]) -> Any:
        """The function as it stands, its results in the dtype a kernel would store."""
        result = self.function(*args)
        if self.like is None:
            return result
        dtype = [a for a in args if isinstance(a, torch.Tensor)][self.like].dtype
        if isinstance(result, tuple):
            return tuple(r.to(dtype) if isinstance(r, torch.Tensor) else r for r in result)
        return result.to(dtype) if isinstance(result, torch.Tensor) else result

    def stored_as(self, tensors: Sequence[torch.Tensor]) -> torch.dtype | None:
        """Dtype results are stored in, None for the promoted one."""
        return None if self.like is None else tensors[self.like].dtype

    def recorded(self, kinds: tuple[str, ...]) -> _Recorded:
        """Record the function for one kind of arguments, once."""
        found = self._recorded.get(kinds)
        if found is None:
            try:
                found = _Recorded(record(self.function, kinds), None)
            except NotFusable as reason:
                found = _Recorded(None, str(reason))
            self._recorded[kinds] = found
        return found

    def _plan(self, args: tuple[Any, ...], tensors: list[torch.Tensor]) -> tuple[Program | None, str | None]:
        kinds = tuple("tensor" if isinstance(a, torch.Tensor) else "scalar" for a in args)
        for k, a in enumerate(args):
            if kinds[k] == "scalar" and not isinstance(a, (bool, int, float)):
                raise InputError(f"{self.name}: argument {k} is a {type(a).__name__}; give tensors and numbers")
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
        return recorded.program, None

    def _fall_back(self, reason: str) -> None:
        if reason not in self._reasons:
            self._reasons[reason] = None
            _log.warning("%s runs as plain torch because it uses %s", self.name, reason)

    def explain(self, *args: Any) -> str:
        """Say in one line how a call with these arguments runs, and why."""
        tensors = [a for a in args if isinstance(a, torch.Tensor)]
        program, reason = self._plan(args, tensors)
        if program is None:
            return f"{self.name}: plain torch, because it uses {reason}"
        backend = "numba" if tensors[0].device.type == "cpu" else "Metal"
        shape = calls.broadcast(program, tensors, self.name)
        arrays = f"{len(tensors)} input(s), {len(program.outputs)} output(s)"
        return f"{self.name}: one {backend} kernel over {shape}, {arrays}"

    def source(self, *args: Any, backend: str | None = None) -> str:
        """Return the text of the kernel a call with these arguments runs.

        ``backend`` "numba" or "metal" asks for that text wherever the arguments are.
        """
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

    def metal(self, *args: Any) -> Any:
        """Run the Metal kernel wherever the arguments are: on CPU tensors that is the emulator, for verification."""
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
