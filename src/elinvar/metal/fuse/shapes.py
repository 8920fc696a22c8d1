"""Whether one kernel over the broadcast shape of all inputs computes what torch would, shape by shape.

A fused kernel has one shape: that of all inputs broadcast together, and reductions run along its axis. torch gives
every intermediate result a shape of its own. ``x * s.sum(-1, keepdim=True)`` with s of shape (6, 1) sums one number per
row in torch, not eight equal ones.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch

from elinvar.metal.fuse.expression import REDUCTIONS, Node, Program, topological

__all__ = ["difference"]

_Shape = tuple[int, ...]
_broadcast_shapes: Callable[..., _Shape] = torch.broadcast_shapes


@lru_cache(maxsize=1024)
def difference(program: Program, shapes: tuple[_Shape, ...]) -> str | None:
    """Return what torch's shapes have that one kernel's have not, None where they agree or do not broadcast."""
    try:
        full = tuple(_broadcast_shapes(*shapes))
    except RuntimeError:
        return None  # refused elsewhere, with all shapes named
    axis = program.axis
    if axis is not None and not -len(full) <= axis < len(full):
        return None  # so is this
    found: dict[Node, _Shape] = {}
    for node in topological(program.outputs):
        if node.op == "input":
            found[node] = tuple(shapes[int(node.value or 0)])
        elif node.op in REDUCTIONS:
            assert axis is not None
            shape = found[node.args[0]]
            place = _from_end(axis, len(shape))
            if place is None or place != _from_end(axis, len(full)) or shape[place] != full[place]:
                return f"a reduction along axis {axis} of shape {shape}, while the inputs broadcast to {full}"
            found[node] = _collapsed(shape, place)
        else:
            found[node] = _common([found[a] for a in node.args])
    expected = full if axis is None or not program.per_row else _collapsed(full, axis % len(full) - len(full))
    for node in program.outputs:
        if found[node] != expected:
            return f"a result of shape {found[node]}, while the inputs broadcast to {full}"
    return None


def _from_end(axis: int, dims: int) -> int | None:
    """Place of an axis counted from the end, below zero; None where a tensor has no such axis."""
    return axis % dims - dims if dims and -dims <= axis < dims else None


def _collapsed(shape: _Shape, place: int) -> _Shape:
    sizes = list(shape)
    sizes[place] = 1
    return tuple(sizes)


def _common(shapes: list[Any]) -> _Shape:
    """Broadcast shapes that are known to fit."""
    some = [s for s in shapes if s]
    if not some or all(s == some[0] for s in some):
        return some[0] if some else ()
    return tuple(_broadcast_shapes(*some))
