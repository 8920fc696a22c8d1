"""Results of many pairs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from elinvar.errors import InputError

from .images import Prepared
from .result import PairResult

__all__ = ["Pairs"]


class Pairs(Sequence[PairResult]):
    """Results of a graph of pairs, in the graph's order.

    Attributes
    ----------
    indices
        The pair (i, j) of each result.
    images
        Every image at network size.
    """

    def __init__(self, indices: list[tuple[int, int]], results: list[PairResult], images: list[Prepared]) -> None:
        self.indices, self._results, self.images = indices, results, images

    def __len__(self) -> int:
        return len(self._results)

    def __getitem__(self, k: Any) -> Any:
        return self._results[k]

    def of(self, i: int, j: int) -> PairResult:
        """Return the result of pair (i, j).

        Raises
        ------
        InputError
            The graph has no such pair.
        """
        if (i, j) not in self.indices:
            raise InputError(f"Pairs.of: the graph has no pair ({i}, {j}); it has {len(self)} pairs, see .indices.")
        return self._results[self.indices.index((i, j))]
