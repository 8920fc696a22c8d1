"""The expression tree a fused function is turned into: nodes, the recorder, and what each operation means.

A function of tensors is recorded by calling it with :class:`Symbol` arguments. Python's operators and the torch
functions listed in `elinvar.metal.fuse.vocabulary` build :class:`Node` objects; anything else raises
:class:`NotFusable`, whose text is the reason the caller reports before running the function as it is.
"""

from __future__ import annotations

import numbers
import threading
import weakref
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch

__all__ = [
    "BOOLEAN",
    "REDUCTIONS",
    "Node",
    "NotFusable",
    "Program",
    "Recording",
    "Symbol",
    "const",
    "is_row",
    "make",
    "op",
    "record",
    "topological",
]

_TRUTHS = frozenset({"and", "or", "where"})  # operations for which True is a truth value rather than 1
BOOLEAN = frozenset({"lt", "le", "gt", "ge", "eq", "ne", "and", "or", "not", "isnan"})
REDUCTIONS = frozenset({"sum", "amax", "amin"})


class NotFusable(Exception):
    """The function uses something that is not element-wise arithmetic; the message says what."""


@dataclass(frozen=True, eq=False)
class Node:
    """One operation. Make nodes with :func:`make`: equal trees are then one object, and compare by identity.

    Attributes
    ----------
    op : str
        ``"input"``, ``"scalar"``, ``"const"``, ``"length"``, an element-wise operation or one of :data:`REDUCTIONS`.
    args : tuple of Node
        Operands.
    value : float | bool | None
        The input's or scalar's position, the constant, or what is taken off the length.
    """

    op: str
    args: tuple[Node, ...] = ()
    value: float | bool | None = None

    @property
    def boolean(self) -> bool:
        """Whether the value is a truth value rather than a number."""
        return self.op in BOOLEAN or (self.op == "const" and isinstance(self.value, bool))


_nodes: weakref.WeakValueDictionary[Any, Node] = weakref.WeakValueDictionary()
_lock = threading.Lock()


def make(op: str, args: tuple[Node, ...] = (), value: float | bool | None = None) -> Node:
    """Return the one node with this operation, operands and value."""
    # hex() keeps -0.0 apart from 0.0 and makes NaN equal to itself.
    key = (op, args, value.hex() if isinstance(value, float) else (type(value), value))
    with _lock:
        node = _nodes.get(key)
        if node is None:
            node = _nodes[key] = Node(op, args, value)
        return node


@dataclass(frozen=True)
class Program:
    """A recorded function.

    Attributes
    ----------
    outputs : tuple of Node
        What the function returned.
    inputs : int
        Number of tensor arguments.
    scalars : int
        Number of Python-number arguments; they stay arguments of the kernel, so new values need no new compile.
    axis : int or None
        The one axis reductions run along, as the function wrote it (negative counts from the end).
    per_row : bool
        Whether the outputs have one value per row (they are reductions) rather than one per element.
    keepdim : bool
        Whether per-row outputs keep the reduced axis with length 1.
    single : bool
        Whether the function returned one tensor rather than a tuple.
    """

    outputs: tuple[Node, ...]
    inputs: int
    scalars: int
    axis: int | None = None
    per_row: bool = False
    keepdim: bool = True
    single: bool = True


def topological(roots: Iterable[Node]) -> list[Node]:
    """Nodes below ``roots``, each once, operands before their users."""
    seen: dict[Node, None] = {}
    for root in roots:
        stack: list[tuple[Node, bool]] = [(root, False)]
        while stack:
            node, ready = stack.pop()
            if ready:
                seen.setdefault(node)
            elif node not in seen:
                stack.append((node, True))
                stack.extend((a, False) for a in reversed(node.args))
    return list(seen)


def is_row(node: Node) -> bool:
    """Whether a value is constant along the reduction axis by construction (a reduction, or made of nothing else)."""
    if node.op in REDUCTIONS:
        return True
    if not node.args:
        return False
    parts = [a for a in node.args if a.op not in ("const", "scalar", "length")]
    return bool(parts) and all(is_row(a) for a in parts)


def const(value: float | bool) -> Node:
    """Return a constant; integers become floats, because every kernel computes in floating point."""
    return make("const", (), value if isinstance(value, bool) else float(value))


def op(name: str, *args: Node) -> Node:
    """Return an operation, folded when it is trivially one of its operands."""
    if name == "add" and args[1] == const(0.0):
        return args[0]
    if name == "add" and args[0] == const(0.0):
        return args[1]
    if name == "mul" and args[1] == const(1.0):
        return args[0]
    if name == "mul" and args[0] == const(1.0):
        return args[1]
    return make(name, args)


class Recording:
    """What one call of the user's function needs to remember: the single reduction axis."""

    def __init__(self) -> None:
        self.axis: int | None = None
        self.keepdim: bool | None = None

    def reduce(self, name: str, x: Symbol, dim: Any, keepdim: bool) -> Symbol:
        """Return a reduction along the one axis there may be."""
        if isinstance(dim, (tuple, list)):
            if len(dim) != 1:
                raise NotFusable(f"{name} over dims {tuple(dim)}; fused reductions run along one axis")
            dim = dim[0]
        if dim is None:
            raise NotFusable(f"{name} over all elements; fused reductions run along one axis")
        if self.axis is not None and dim != self.axis:
            raise NotFusable(f"reductions along both axis {self.axis} and axis {dim}")
        if not keepdim:
            self.keepdim = False
        elif self.keepdim is None:
            self.keepdim = True
        if not isinstance(dim, int) or isinstance(dim, bool):
            raise NotFusable(f"{name} along the axis {dim!r}, which is no whole number known when it is recorded")
        self.axis = dim
        return Symbol(op(name, x.node), self, kept=keepdim)


class Symbol:
    """Stands for a tensor, or a number, while a function is being recorded."""

    def __init__(self, node: Node, recording: Recording, *, kept: bool = True) -> None:
        self.node = node
        self.recording = recording
        self.kept = kept

    def __repr__(self) -> str:
        return "<a tensor of a function that elinvar.fuse is recording>"

    # --- operators -------------------------------------------------------------------------------------------
    def _make(self, name: str, *others: Any, reflected: bool = False) -> Symbol:
        nodes = [self.node, *(self._lift(o, name) for o in others)]
        return Symbol(op(name, *(reversed(nodes) if reflected else nodes)), self.recording)

    def _lift(self, value: Any, name: str) -> Node:
        if not self.kept:
            raise NotFusable(f"{name} after a reduction without keepdim=True")
        if isinstance(value, Symbol):
            if not value.kept:
                raise NotFusable(f"{name} after a reduction without keepdim=True")
            return value.node
        if isinstance(value, bool):
            return const(value if name in _TRUTHS else float(value))
        if isinstance(value, numbers.Real):  # NumPy's too
            return const(float(value))
        if isinstance(value, torch.Tensor):
            raise NotFusable(f"{name} with a tensor that is not an argument; pass it in")
        raise NotFusable(f"{name} with a {type(value).__name__}")

    def __add__(self, other: Any) -> Symbol:
        return self._make("add", other)

    def __radd__(self, other: Any) -> Symbol:
        return self._make("add", other, reflected=True)

    def __sub__(self, other: Any) -> Symbol:
        return self._make("sub", other)

    def __rsub__(self, other: Any) -> Symbol:
        return self._make("sub", other, reflected=True)

    def __mul__(self, other: Any) -> Symbol:
        return self._make("mul", other)

    def __rmul__(self, other: Any) -> Symbol:
        return self._make("mul", other, reflected=True)

    def __truediv__(self, other: Any) -> Symbol:
        return self._make("div", other)

    def __rtruediv__(self, other: Any) -> Symbol:
        return self._make("div", other, reflected=True)

    def __pow__(self, other: Any) -> Symbol:
        from elinvar.metal.fuse.vocabulary import power

        return power(self, other)

    def __rpow__(self, other: Any) -> Symbol:
        return self._make("pow", other, reflected=True)

    def __lt__(self, other: Any) -> Symbol:
        return self._make("lt", other)

    def __le__(self, other: Any) -> Symbol:
        return self._make("le", other)

    def __gt__(self, other: Any) -> Symbol:
        return self._make("gt", other)

    def __ge__(self, other: Any) -> Symbol:
        return self._make("ge", other)

    def __eq__(self, other: object) -> Symbol:  # type: ignore[override]
        return self._make("eq", other)

    def __ne__(self, other: object) -> Symbol:  # type: ignore[override]
        return self._make("ne", other)

    def __and__(self, other: Any) -> Symbol:
        return self.logical("and", other)

    def __or__(self, other: Any) -> Symbol:
        return self.logical("or", other)

    def __invert__(self) -> Symbol:
        return self.logical("not")

    def __neg__(self) -> Symbol:
        return self._make("neg")

    def __pos__(self) -> Symbol:
        return self

    def __abs__(self) -> Symbol:
        return self._make("abs")

    def logical(self, name: str, *others: Any) -> Symbol:
        """Return "and", "or" or "not" of truth values."""
        nodes = [self.node, *(self._lift(o, name) for o in others)]
        if not all(n.boolean or n.op == "input" for n in nodes):
            raise NotFusable(f"bitwise {name} of numbers")
        return self._make(name, *others)

    def __bool__(self) -> bool:
        raise NotFusable("a branch that depends on tensor values; use torch.where")

    def __iter__(self) -> Any:
        raise NotFusable("iteration over a tensor")

    def __getitem__(self, key: Any) -> Any:
        raise NotFusable("indexing")

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        from elinvar.metal.fuse.vocabulary import METHODS

        function = METHODS.get(name)
        if function is None:
            raise NotFusable(f"the attribute or method .{name}")
        return lambda *args, **kwargs: function(self, *args, **kwargs)

    @classmethod
    def __torch_function__(
        cls, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        from elinvar.metal.fuse.vocabulary import FUNCTIONS

        function = FUNCTIONS.get(func)
        if function is None:
            raise NotFusable(f"torch function {getattr(func, '__name__', func)}")
        return function(*args, **(kwargs or {}))

    __hash__ = None  # type: ignore[assignment]


def record(function: Callable[..., Any], kinds: tuple[str, ...]) -> Program:
    """Record ``function`` called with one symbol per entry of ``kinds``.

    Parameters
    ----------
    function
        The user's function.
    kinds
        ``"tensor"`` or ``"scalar"`` for each positional argument.

    Raises
    ------
    NotFusable
        With the reason, when the function is not element-wise arithmetic with reductions along one axis.
    """
    recording = Recording()
    counters = {"tensor": 0, "scalar": 0}
    symbols = []
    for kind in kinds:
        symbols.append(Symbol(make("input" if kind == "tensor" else "scalar", (), counters[kind]), recording))
        counters[kind] += 1
    try:
        result = function(*symbols)
    except NotFusable:
        raise
    except (
        Exception
    ) as error:  # whatever Python made of a symbol; if the fault is the caller's, plain torch meets it too
        told = " ".join(str(error).replace("'Symbol'", "a tensor that is being recorded").split())
        raise NotFusable(f"code that cannot be recorded ({type(error).__name__}: {told})") from error
    results = result if isinstance(result, tuple) else (result,)
    if not results or not all(isinstance(r, Symbol) for r in results):
        raise NotFusable(f"a return value of type {type(result).__name__}; return tensors computed from the arguments")
    nodes = tuple(r.node for r in results)
    if any(node.boolean for node in nodes):
        raise NotFusable("a boolean output")
    rows = [is_row(node) for node in nodes]
    if len(set(rows)) != 1 or len({r.kept for r in results}) != 1:
        raise NotFusable("outputs of which some are reduced and some are not")
    return Program(
        outputs=nodes,
        inputs=counters["tensor"],
        scalars=counters["scalar"],
        axis=recording.axis,
        per_row=rows[0],
        keepdim=results[0].kept,
        single=not isinstance(result, tuple),
    )
