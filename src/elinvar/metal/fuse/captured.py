"""What a fused function reads beside its arguments: numbers, flags and names in closures, modules and objects.

They are constants of a recorded program, so a program is recorded again when one of them changes. They are found in the
function's bytecode, and in that of functions of the same module which it calls: ``rate``, ``settings.rate``,
``self.rate`` of a bound method. What is reached otherwise, through a container or a call, is read once.
"""

from __future__ import annotations

import dis
import functools
import types
from collections.abc import Callable, Iterator
from typing import Any

__all__ = ["PLAIN", "readers"]

PLAIN = (bool, int, float, str, type(None))
_CONSTANT_MODULES = ("math", "torch", "numpy", "elinvar", "builtins", "typing", "collections")
_ROOTS = ("LOAD_GLOBAL", "LOAD_NAME", "LOAD_DEREF", "LOAD_CLASSDEREF", "LOAD_FAST")
_STEPS = ("LOAD_ATTR", "LOAD_METHOD")
_MISSING = object()


def readers(function: Callable[..., Any]) -> tuple[Callable[[], Any], ...]:
    """Return functions that read what `function` reads now: what are numbers, flags, text and None by now."""
    found: dict[Any, Callable[[], Any]] = {}
    _collect(function, found, set())
    return tuple(found.values())


def _collect(function: Any, found: dict[Any, Callable[[], Any]], seen: set[int]) -> None:
    function, roots = _plain_function(function)
    if not isinstance(function, types.FunctionType) or id(function) in seen:
        return
    seen.add(id(function))
    for root, path in _references(function, roots):
        value = _read(root, path)
        if value is _MISSING:
            continue
        if isinstance(value, PLAIN):
            found.setdefault((root.args, path), functools.partial(_now, root, path))
        elif getattr(_plain_function(value)[0], "__module__", None) == function.__module__:
            _collect(value, found, seen)


def _plain_function(function: Any) -> tuple[Any, dict[str, Any]]:
    """The Python function inside, and the object a method is bound to, by the name of its first argument."""
    roots: dict[str, Any] = {}
    for _ in range(8):
        if isinstance(function, types.MethodType):
            inside = function.__func__
            code = getattr(inside, "__code__", None)
            if code is not None and code.co_argcount:
                roots[code.co_varnames[0]] = function.__self__
            function = inside
        elif isinstance(function, functools.partial):
            function = function.func
        elif hasattr(function, "fused_function"):  # a fused function, or what binds arguments of one
            function = function.fused_function
        else:
            break
    return function, roots


def _references(
    function: types.FunctionType, roots: dict[str, Any]
) -> Iterator[tuple[functools.partial[Any], tuple[str, ...]]]:
    """Names the function reads and the attributes read of them."""
    cells = dict(zip(function.__code__.co_freevars, function.__closure__ or (), strict=True))
    for code in _codes(function.__code__):
        steps = list(dis.get_instructions(code))
        for k, step in enumerate(steps):
            if step.opname not in _ROOTS or not isinstance(step.argval, str):
                continue
            name = step.argval
            if name in cells:
                root: functools.partial[Any] = functools.partial(_cell, _Same(cells[name]))
            elif step.opname == "LOAD_GLOBAL" and name in function.__globals__:
                root = functools.partial(_named, _Same(function.__globals__), name)
            elif step.opname == "LOAD_FAST" and name in roots and code is function.__code__:
                root = functools.partial(_itself, _Same(roots[name]))
            else:
                continue
            path: list[str] = []
            for later in steps[k + 1 :]:
                if later.opname not in _STEPS:
                    break
                path.append(later.argval)
            yield root, tuple(path)


def _codes(code: types.CodeType) -> Iterator[types.CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _codes(constant)


class _Same:
    """Anything, as part of a key: equal to itself."""

    __slots__ = ("thing",)

    def __init__(self, thing: Any) -> None:
        self.thing = thing

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and other.thing is self.thing

    def __hash__(self) -> int:
        return id(self.thing)


def _cell(cell: _Same) -> Any:
    return cell.thing.cell_contents


def _named(names: _Same, name: str) -> Any:
    return names.thing[name]


def _itself(owner: _Same) -> Any:
    return owner.thing


def _now(root: Callable[[], Any], path: tuple[str, ...]) -> Any:
    value = _read(root, path)
    return value if isinstance(value, PLAIN) else type(value)


def _read(root: Callable[[], Any], path: tuple[str, ...]) -> Any:
    try:
        value = root()
        for k, name in enumerate(path):
            if isinstance(value, types.ModuleType) and value.__name__.partition(".")[0] in _CONSTANT_MODULES:
                return _MISSING
            if k and isinstance(value, PLAIN):
                return value  # a method of a number
            value = getattr(value, name)
    except (ValueError, KeyError, AttributeError):  # not there, or not yet
        return _MISSING
    return value if isinstance(value, PLAIN) or not path or callable(value) else _MISSING
