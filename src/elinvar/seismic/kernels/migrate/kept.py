"""Tables that were made of velocities, for the next block of traces over the same ones."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from elinvar.seismic.kernels.migrate.tables import Tables, prepare

__all__ = ["kept_tables"]


@dataclass(frozen=True)
class _Kept:
    """Tables, and what they were made of: copies of the tensors, and everything else."""

    copies: tuple[torch.Tensor, ...]
    plain: tuple[Any, ...]
    made: Any
    alive: tuple[weakref.ref[torch.Tensor], ...]


#: By where the velocities are: several devices may be at work on one job, each on several parts of its image.
_kept: dict[tuple[torch.device, int, torch.Size], _Kept] = {}


def _itself(tables: Tables) -> Tables:
    return tables


def kept_tables(vrms: torch.Tensor, make: Callable[[Tables], Any] = _itself, **options: Any) -> Any:
    """Return ``make(prepare(vrms, **options))``: that of the last call with these velocities if it asked for the same.

    Blocks of traces follow one another with the same velocities, and where these differ from pillar to pillar the
    tables take longer to make than a block may take to migrate. They are kept as long as the velocities exist.
    """
    given = [vrms, *(value for value in options.values() if isinstance(value, torch.Tensor))]
    plain = (make, *((name, value) for name, value in options.items() if not isinstance(value, torch.Tensor)))
    where = vrms.device, vrms.data_ptr(), vrms.shape
    kept = _kept.get(where)
    known = kept is not None and kept.plain == plain and len(kept.copies) == len(given)
    if kept is not None and known and all(map(_same, kept.copies, given)):
        return kept.made
    made = make(prepare(vrms, **options))
    # A view is gone before its job is: its base stays.
    owners = (x if x._base is None else x._base for x in given)  # noqa: SLF001
    alive = tuple(weakref.ref(x, lambda _: _kept.pop(where, None)) for x in owners)
    _kept[where] = _Kept(tuple(x.clone() for x in given), plain, made, alive)
    return made


def _same(a: torch.Tensor, b: torch.Tensor) -> bool:
    return a.shape == b.shape and a.device == b.device and torch.equal(a, b)
