"""Which traces can reach which pillars: both in Morton order, batches of neighbours bounded by circles."""

from __future__ import annotations

from dataclasses import dataclass

import torch

__all__ = ["Batches", "batches", "gaps", "morton", "neighbourly"]

_BITS = 15  # of each coordinate, so that codes fit float-free int32 arithmetic on every device
_GOOD = 1.25  # times the Morton order's circles
# What float32 distances may be off by, relatively and in metres: circles are widened by it, never too small.
_SLACK, _ROOM = 1e-5, 0.05


def morton(places: torch.Tensor) -> torch.Tensor:
    """Return the order of places [n, 2] along a Morton curve (Morton 1966): neighbours follow one another.

    Equal codes keep their order, so the result is the same on every device.
    """
    low = places.amin(0)
    extent = (places.amax(0) - low).amax().clamp(min=1e-6)
    cell = ((places - low) * ((2**_BITS - 1) / extent)).int().clamp(0, 2**_BITS - 1)
    code = torch.zeros(len(places), dtype=torch.int32, device=places.device)
    for bit in range(_BITS):
        for axis in range(2):
            code |= ((cell[:, axis] >> bit) & 1) << (2 * bit + axis)
    return torch.argsort(code, stable=True)


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
    n = -(-len(places) // size)
    padded = torch.cat([places, places[-1:].expand(n * size - len(places), 2)]).reshape(n, size, 2)
    centre = 0.5 * (padded.amin(1) + padded.amax(1))
    radius = (padded - centre[:, None]).square().sum(-1).amax(1).sqrt()
    return Batches(centre, radius * (1 + _SLACK) + _ROOM)


def neighbourly(places: torch.Tensor, size: int) -> torch.Tensor | None:
    """Return an order in which runs of ``size`` places are neighbours; None saves a copy where they already are."""
    order = morton(places)
    as_given, sorted_ = (batches(x, size).radius.sum() for x in (places, places[order]))
    return None if bool(as_given <= _GOOD * sorted_) else order


def gaps(a: Batches, b: Batches) -> torch.Tensor:
    """Return [len(a), len(b)]: no place of one is nearer than this to a place of the other; negative when they meet."""
    apart = (a.centre[:, None] - b.centre[None]).square().sum(-1).sqrt()
    return apart * (1 - _SLACK) - a.radius[:, None] - b.radius[None]
