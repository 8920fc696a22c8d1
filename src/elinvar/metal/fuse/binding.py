"""Fused functions called by keywords, with flags, and as methods: what becomes an argument of the kernel and what not.

Tensors and numbers are arguments. None, flags and text choose between programs: each combination is a fused function
of its own. As a method a fused function takes the tensors and floats that it reads from its object as arguments too,
gradients included; whole numbers, flags, text and None of the object choose.
"""

from __future__ import annotations

import inspect
import types
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch

from elinvar.metal.fuse.captured import PLAIN
from elinvar.metal.fuse.expression import NotFusable, Symbol, record

if TYPE_CHECKING:
    from elinvar.metal.fuse import Fused

__all__ = ["CHOICES", "Attributes", "Method", "Partly", "by_position", "parameters"]

CHOICES = (bool, str, type(None))
_MOST_ATTRIBUTES = 64
_MOST_STATES = 32


def parameters(function: Callable[..., Any]) -> tuple[str, ...]:
    """Return the names of the arguments that can be given by position; none where Python does not know them."""
    try:
        found = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return ()
    return tuple(p.name for p in found if p.kind is p.POSITIONAL_OR_KEYWORD)


def by_position(names: Sequence[str], given: int, keywords: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the keywords that can follow the positional arguments, and those that have to stay keywords."""
    positional = []
    for name in names[given:]:
        if name not in keywords:
            break
        positional.append(name)
    order = {name: k for k, name in enumerate(names)}
    rest = sorted((n for n in keywords if n not in positional), key=lambda n: order.get(n, len(order)))
    return positional, rest


class Partly:
    """A function some of whose arguments are fixed and some are given by name.

    Parameters
    ----------
    function
        What to call.
    count
        Its positional arguments, the fixed ones included.
    names
        Names of the arguments behind them.
    fixed
        Values by position among all of them.
    """

    def __init__(self, function: Callable[..., Any], count: int, names: Sequence[str], fixed: dict[int, Any]) -> None:
        self.fused_function = function
        self.__name__ = getattr(function, "__name__", "function")
        self._count, self._names, self._fixed = count, tuple(names), fixed

    def __call__(self, *args: Any) -> Any:
        """Call it with the arguments that are not fixed, all by position."""
        rest = iter(args)
        every = [self._fixed[k] if k in self._fixed else next(rest) for k in range(len(args) + len(self._fixed))]
        named = dict(zip(self._names, every[self._count :], strict=True)) if self._names else {}
        return self.fused_function(*(every[: self._count] if self._names else every), **named)


# --- methods ---------------------------------------------------------------------------------------------------------
class _Wanted(NotFusable):
    """The method reads an attribute of its object that is not an argument yet."""

    def __init__(self, name: str) -> None:
        super().__init__(f"self.{name}")
        self.name = name


class _Plainly(Exception):
    """There is no kernel: the method has to run on its object."""


class _Stand:
    """Stands for the object while its method is being recorded."""

    def __init__(self, kind: type, values: dict[str, Any], refused: dict[str, str]) -> None:
        self.__dict__.update(_kind=kind, _values=values, _refused=refused)

    def __getattr__(self, name: str) -> Any:
        if name in self._values:
            return self._values[name]
        found = inspect.getattr_static(self._kind, name, None)
        if hasattr(found, "fused_function"):
            return types.MethodType(found.fused_function, self)
        if isinstance(found, types.FunctionType):
            return types.MethodType(found, self)
        if isinstance(found, property) and found.fget is not None:
            return found.fget(self)
        if name in self._refused:
            raise NotFusable(f"self.{name}, a {self._refused[name]}")
        raise _Wanted(name)

    def __setattr__(self, name: str, value: Any) -> None:
        raise NotFusable(f"assigning to self.{name}")


class _Lifted:
    """A method as a function of its arguments and of attributes of its object."""

    def __init__(self, bound: Attributes, count: int, names: tuple[str, ...], fixed: dict[str, Any]) -> None:
        self.fused_function = bound.function
        self.__name__ = getattr(bound.function, "__name__", "method")
        self._bound, self._count, self._names, self._fixed = bound, count, names, fixed
        self._live = tuple(n for n in bound.names if n not in fixed)

    def __call__(self, *args: Any) -> Any:
        """Record the method; refuse to run it."""
        if not any(isinstance(a, Symbol) for a in args):
            raise _Plainly
        first = len(args) - len(self._live)
        values = {**self._fixed, **dict(zip(self._live, args[first:], strict=True))}
        stand = _Stand(self._bound.kind, values, self._bound.refused)
        named = dict(zip(self._names, args[self._count : first], strict=True))
        return self._bound.function(stand, *args[: self._count], **named)


class Attributes:
    """What a method reads of objects of one class, and its fused functions by what chooses between them."""

    def __init__(self, fused: Fused, kind: type) -> None:
        self.fused, self.kind, self.function = fused, kind, fused.function
        self.names: tuple[str, ...] = ()
        self.refused: dict[str, str] = {}
        self.children: dict[Any, Fused] = {}

    def bind(self, owner: Any, args: Sequence[Any], names: tuple[str, ...]) -> tuple[Fused, list[Any]]:
        """Return the fused function for an object in its present state, and the attributes it takes."""
        values = {n: getattr(owner, n) for n in self.names}
        fixed = {n: v for n, v in values.items() if isinstance(v, (int, *CHOICES))}
        count = len(args) - len(names)
        choices = tuple((k, type(a), a) for k, a in enumerate(args) if isinstance(a, CHOICES))
        key = (count, names, self.names, tuple(fixed.items()), choices)
        found = self.children.get(key)
        if found is None:
            if len(self.children) >= _MOST_STATES:
                self.fused.fall_back(
                    "whole numbers, flags or text of its object that keep changing; make them arguments"
                )
                raise _Plainly
            lifted = _Lifted(self, count, names, fixed)
            live = [v for n, v in values.items() if n not in fixed]
            if self._learn(owner, lifted, [*args, *live]):
                return self.bind(owner, args, names)
            found = self.children[key] = self.fused.like_me(lifted)
        return found, [v for n, v in values.items() if n not in fixed]

    def _learn(self, owner: Any, lifted: _Lifted, args: Sequence[Any]) -> bool:
        """Look for an attribute the method reads that is no argument yet."""
        choices = {k: a for k, a in enumerate(args) if isinstance(a, CHOICES)}
        others = [a for a in args if not isinstance(a, CHOICES)]
        kinds = tuple("tensor" if isinstance(a, torch.Tensor) else "scalar" for a in others)
        try:
            record(Partly(lifted, len(args), (), choices), kinds)
        except _Wanted as wanted:
            value = getattr(owner, wanted.name, self)  # what is not there is refused here, and an error of the object
            if isinstance(value, (torch.Tensor, *PLAIN)) and len(self.names) < _MOST_ATTRIBUTES:
                self.names = (*self.names, wanted.name)
            else:
                self.refused[wanted.name] = type(value).__name__
            return True
        except NotFusable:
            pass
        return False


class Method:
    """A fused function bound to an object."""

    def __init__(self, fused: Fused, owner: Any) -> None:
        self.__func__, self.__self__ = fused, owner
        self.__doc__, self.__name__ = fused.__doc__, getattr(fused.function, "__name__", "method")

    def __call__(self, *args: Any, out: torch.Tensor | None = None, **keywords: Any) -> Any:
        """Run the method; arguments as for the fused function."""
        fused: Any = self.__func__
        if not fused.plainly_now(out):
            names, every = self._arranged(args, keywords)
            try:
                child, live = fused.attributes(type(self.__self__)).bind(self.__self__, every, names)
                return child(*every, *live, out=out)
            except _Plainly:
                pass
        return fused.into(out, fused.plain((self.__self__, *args), keywords))

    def _arranged(self, args: Sequence[Any], keywords: dict[str, Any]) -> tuple[tuple[str, ...], list[Any]]:
        if not keywords:
            return (), list(args)
        positional, rest = by_position(self.__func__.parameters[1:], len(args), tuple(keywords))
        return tuple(rest), [*args, *(keywords[n] for n in (*positional, *rest))]

    def explain(self, *args: Any) -> str:
        """Say in one line how a call with these arguments runs, and why."""
        child, live = self.__func__.attributes(type(self.__self__)).bind(self.__self__, args, ())
        return child.explain(*args, *live)

    def source(self, *args: Any, backend: str | None = None) -> str:
        """Return the text of the kernel a call with these arguments runs."""
        child, live = self.__func__.attributes(type(self.__self__)).bind(self.__self__, args, ())
        return child.source(*args, *live, backend=backend)
