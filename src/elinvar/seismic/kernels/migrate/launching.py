"""What launches of the ``.metal`` files share: libraries, tiles within 32-bit indices, rows of tables and traces."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from elinvar import metal
from elinvar.seismic.kernels.migrate.antialias import Bank
from elinvar.seismic.kernels.migrate.interpolation import TAPS, padded, pairs
from elinvar.seismic.kernels.migrate.physics import PHYSICS
from elinvar.seismic.kernels.migrate.tables import Tables

__all__ = ["bend_rows", "library", "middle_rows", "padded_rows", "physics_words", "table_rows", "tiles"]

_HERE = Path(__file__).parent
_INDEXABLE = 1 << 30  # elements that the kernels' 32-bit indices reach in one launch


def physics_words(physics: str, interpolation: str = "linear", bank: Bank | None = None) -> dict[str, int | str]:
    """Return preprocessor words.

    What the files are written for, straight and linear, takes none: one compiled library serves everyone.
    """
    words: dict[str, int | str] = {} if physics == "straight" else {"PHYSICS": PHYSICS.index(physics)}
    taps = TAPS[interpolation]
    if taps > 2:
        fitted = ", ".join(f"{{{', '.join(_numbers(one) for one in pair)}}}" for pair in pairs(taps))
        words |= {"TAPS": taps, "WEIGHTS": f"{{{fitted}}}"}
    if bank is not None:
        words["COPIES"] = bank.copies
    return words


def _numbers(values: Sequence[float]) -> str:
    return f"{{{', '.join(f'{value:.9e}f' for value in values)}}}"


@lru_cache(maxsize=64)
def _library(file: str, device: Any, defines: tuple[tuple[str, int | str], ...]) -> Any:
    return metal.compile(_HERE / file, device, defines=dict(defines) or None)


def library(file: str, device: Any, defines: Mapping[str, int | str] | None = None) -> Any:
    """Compile one of this package's ``.metal`` files for a device, once."""
    return _library(file, device, tuple(sorted((defines or {}).items())))


def tiles(image: torch.Tensor, traces: torch.Tensor, length: int, copies: int = 1) -> Iterator[tuple[slice, slice]]:
    """Cut pillars and traces so that every index fits 32 bits."""
    pillars, ntr = image.shape[0], traces.shape[0]
    rows, step = max(1, _INDEXABLE // length), max(1, _INDEXABLE // (traces.shape[1] + copies * max(TAPS.values())))
    for p in range(0, pillars, rows):
        for k in range(0, ntr, step):
            yield slice(p, min(p + rows, pillars)), slice(k, min(k + step, ntr))


def table_rows(tables: Tables, p: slice) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return legs, gain and blocks of some pillars, or those that all pillars share."""
    part = p if len(tables.legs) > 1 else slice(None)
    return tables.legs[part], tables.gain[part], tables.blocks[part]


def bend_rows(tables: Tables, p: slice) -> torch.Tensor:
    """Return some pillars' bends; of straight rays an entry nobody reads."""
    if tables.bends is None:
        return tables.centres[:1]
    return tables.bends[p] if len(tables.bends) > 1 else tables.bends


def middle_rows(tables: Tables, p: slice) -> torch.Tensor:
    """Return the middles of some pillars' spans; without filtered copies an entry nobody reads."""
    if tables.middles is None:
        return tables.centres[:1]
    return tables.middles[p] if len(tables.middles) > 1 else tables.middles


def padded_rows(traces: torch.Tensor, taps: int, bank: Bank) -> torch.Tensor:
    """Return traces and their copies between the zeros that interpolation needs."""
    return padded(traces.view(len(traces), bank.copies, -1), taps)
