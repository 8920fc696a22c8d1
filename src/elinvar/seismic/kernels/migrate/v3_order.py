"""Which traces can reach which pillars: both in Morton order, batches of neighbours bounded by circles."""

from __future__ import annotations

import weakref
from dataclasses import dataclass
from typing import Any

import torch

__all__ = ["Batches", "Tiles", "arranged", "batches", "gaps", "morton", "neighbourly", "tiles_of"]

_BITS = 15  # of each coordinate, so that codes fit float-free int32 arithmetic on every device
# Shifts and masks that put a zero between any two bits; launches are what this order takes its time for.
_SPREAD = ((8, 0x00FF00FF), (4, 0x0F0F0F0F), (2, 0x33333333), (1, 0x55555555))
_GOOD = 1.25  # times the Morton order's circles
# What float32 distances may be off by, relatively and in metres: circles are widened by it, never too small.
_SLACK, _ROOM = 1e-5, 0.05


def morton(places: torch.Tensor) -> torch.Tensor:
    """Return the order of places [n, 2] along a Morton curve (Morton 1966): neighbours follow one another.

    Equal codes keep their order, so the result is the same on every device.
    """
    low, high = torch.aminmax(places, dim=0)
    extent = (high - low).amax().clamp(min=1e-6)
    cell = ((places - low) * ((2**_BITS - 1) / extent)).int().clamp(max=2**_BITS - 1)
    for shift, kept in _SPREAD:
        cell = (cell | (cell << shift)) & kept
    return torch.argsort(cell[:, 0].add(cell[:, 1], alpha=2), stable=True)


@dataclass(frozen=True)
class Batches:
    """Runs of `size` places, the last one shorter.

    Attributes
    ----------
    centre : Tensor[n, 2]
        Middle of each one's bounding box.
    radius : Tensor[n]
        From there to its furthest place, rounded up.
    """

    centre: torch.Tensor
    radius: torch.Tensor


def batches(places: torch.Tensor, size: int) -> Batches:
    """Bound runs of ``size`` places [n, 2] by circles."""
    missing = -len(places) % size
    whole = torch.cat([places, places[-1:].expand(missing, 2)]) if missing else places
    runs = whole.reshape(-1, size, 2)
    low, high = torch.aminmax(runs, dim=1)
    centre = torch.lerp(low, high, 0.5)
    radius = torch.linalg.vector_norm(runs - centre[:, None], dim=-1).amax(1)
    return Batches(centre, radius * (1 + _SLACK) + _ROOM)


def neighbourly(places: torch.Tensor, size: int) -> torch.Tensor | None:
    """Return an order in which runs of ``size`` places are neighbours; None saves a copy where they already are."""
    return arranged(places, size)[0]


def arranged(places: torch.Tensor, size: int) -> tuple[torch.Tensor | None, Batches]:
    """Return an order in which runs of ``size`` places are neighbours, and the runs; None where they already are."""
    order = morton(places)
    as_given, by_morton = batches(places, size), batches(places[order], size)
    good = bool(as_given.radius.sum() <= _GOOD * by_morton.radius.sum())
    return (None, as_given) if good else (order, by_morton)


def gaps(a: Batches, b: Batches) -> torch.Tensor:
    """Return [len(a), len(b)]: no place of one is nearer than this to a place of the other; negative when they meet."""
    apart: torch.Tensor = torch.linalg.vector_norm(a.centre[:, None] - b.centre[None], dim=-1)
    return apart * (1 - _SLACK) - a.radius[:, None] - b.radius[None]


@dataclass(frozen=True)
class Tiles:
    """Pillars in Morton order, a threadgroup's to a tile.

    Attributes
    ----------
    order : Tensor[n] int32
        The pillars, tile by tile.
    circles : Batches
        What the tiles lie in.
    """

    order: torch.Tensor
    circles: Batches


def _arranged_tiles(pillars: torch.Tensor, size: int) -> Tiles:
    turns = morton(pillars)
    return Tiles(turns.int(), batches(pillars[turns], size))


_tiles: dict[tuple[Any, ...], tuple[int, Tiles, weakref.ref[torch.Tensor]]] = {}


def tiles_of(pillars: torch.Tensor, size: int) -> Tiles:
    """Return the tiles of ``pillars`` [n, 2], those of an earlier call while these exist unchanged."""
    if pillars.is_inference():  # which keep no count of their changes
        return _arranged_tiles(pillars, size)
    owner = pillars if pillars._base is None else pillars._base  # noqa: SLF001 - a view is gone before its job is
    where = (pillars.device, pillars.data_ptr(), pillars.shape, pillars.stride(), size)
    known = _tiles.get(where)
    if known is not None and known[0] == owner._version and known[2]() is owner:  # noqa: SLF001
        return known[1]
    made = _arranged_tiles(pillars, size)
    _tiles[where] = owner._version, made, weakref.ref(owner, lambda _: _tiles.pop(where, None))  # noqa: SLF001
    return made
