"""Aggregated selective match kernels: images compared by the visual words their local features fall into.

A codebook's words cut feature space into cells. In each cell an image keeps the signs of the sum of its features'
offsets from the cell's centre; two images are as similar as the signs agree in the cells they share, small agreement
counting little: ``u ** alpha`` for agreement u in (threshold, 1]. (Tolias, Avrithis and Jegou, 2013; the binary
kernel.)
"""

from __future__ import annotations

import dataclasses
import io
import os
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from elinvar.errors import InputError, WeightsError
from elinvar.runtime import weights

__all__ = ["Codebook", "Words"]

_TILE = 1 << 24  # products at once
_ALLOWED = {
    ("numpy", "dtype"),
    ("numpy", "ndarray"),
    ("numpy.core.multiarray", "_reconstruct"),
    ("numpy.core.multiarray", "scalar"),
    ("numpy._core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "scalar"),
    ("_codecs", "encode"),
}


class _Plain(pickle.Unpickler):
    """Reads numbers, strings, containers and numpy arrays; refuses to run anything else."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            raise WeightsError(
                f"The codebook wants to run {module}.{name}; nothing of it is read. Ask for a safetensors file."
            )
        return super().find_class(module, name)


@dataclasses.dataclass(frozen=True, eq=False)
class Words:
    """What an image keeps: its words and, for each, the signs of its features' summed offsets.

    Attributes
    ----------
    index
        int64 [n], rising: rows of the codebook.
    signs
        bool [n, width]: where the sum is positive.
    """

    index: NDArray[np.int64]
    signs: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.index)


class Codebook:
    """Visual words, and similarities of images through them.

    Parameters
    ----------
    centroids
        float32 [words, width].
    alpha, threshold
        See the module; the published tools use 3 and 0.
    """

    def __init__(self, centroids: Any, *, alpha: float = 3.0, threshold: float = 0.0) -> None:
        self.centroids = np.ascontiguousarray(centroids, np.float32)
        if self.centroids.ndim != 2 or 0 in self.centroids.shape or not np.isfinite(self.centroids).all():
            raise InputError(f"Codebook: centroids of shape {np.shape(centroids)}; pass finite numbers [words, width].")
        if not (alpha > 0 and 0 <= threshold < 1):
            raise InputError(
                f"Codebook: alpha={alpha}, threshold={threshold}; pass alpha > 0 and a threshold in [0, 1)."
            )
        self.alpha, self.threshold = float(alpha), float(threshold)
        self._half = 0.5 * np.einsum("ij,ij->i", self.centroids, self.centroids, dtype=np.float64)

    @classmethod
    def load(cls, path: str | os.PathLike[str], **options: Any) -> Codebook:
        """Read a codebook: the published tools' ``.pkl`` (as data, nothing in it runs), ``.npy``, or safetensors.

        Raises
        ------
        WeightsError
            Missing, damaged, or it wants to run something.
        """
        where = Path(path).expanduser()
        if not where.is_file():
            raise WeightsError(f"Codebook {where} does not exist; pass the path of a .pkl, .npy or .safetensors file.")
        try:
            if where.suffix == ".npy":
                found: Any = np.load(where, allow_pickle=False)
            elif where.suffix == ".safetensors":
                found = weights.load(where).get("centroids")
                found = None if found is None else found.float().numpy()
            else:
                state = _Plain(io.BytesIO(where.read_bytes())).load()
                found = state["state"]["centroids"] if "state" in state else state["centroids"]
        except (OSError, EOFError, ValueError, KeyError, TypeError, pickle.UnpicklingError, AttributeError) as error:
            raise WeightsError(f"Codebook {where} cannot be read ({error}); download it again.") from error
        if found is None or np.ndim(found) != 2:
            raise WeightsError(f"Codebook {where} holds no table of centroids; pass the codebook, not the whitening.")
        return cls(found, **options)

    def nearest(self, features: Any, count: int = 1) -> NDArray[np.int64]:
        """Return the `count` nearest words of features [n, width], nearest first: int64 [n, count]."""
        given = np.ascontiguousarray(features, np.float32)
        if given.ndim != 2 or given.shape[1] != self.centroids.shape[1]:
            raise InputError(
                f"Codebook: features of shape {given.shape} for words of {self.centroids.shape[1]} channels; pass "
                "[n, width] with the same width."
            )
        if not 1 <= count <= len(self.centroids):
            raise InputError(f"Codebook: count={count}; there are {len(self.centroids)} words.")
        words, half = torch.from_numpy(self.centroids), torch.from_numpy(self._half).float()
        step = max(1, _TILE // len(words))
        parts = [
            torch.topk(torch.from_numpy(given[k : k + step]) @ words.T - half, count, 1).indices
            for k in range(0, len(given), step)
        ]
        return torch.cat(parts).numpy() if parts else np.zeros((0, count), np.int64)

    def aggregate(self, features: Any, count: int = 1) -> Words:
        """Aggregate an image's local features [n, width], each into its `count` nearest words."""
        given = np.asarray(features, np.float64)
        word = self.nearest(given, count)
        index, place = np.unique(word.reshape(-1), return_inverse=True)
        offset = given[:, None] - self.centroids[word].astype(np.float64)
        sums = np.zeros((len(index), self.centroids.shape[1]))
        np.add.at(sums, place.reshape(-1), offset.reshape(-1, offset.shape[2]))
        return Words(index.astype(np.int64), sums > 0)

    def compare(self, one: Words, two: Words) -> float:
        """Return the similarity of two images: 1 for the same words with the same signs, 0 where none is shared."""
        shared, a, b = np.intersect1d(one.index, two.index, assume_unique=True, return_indices=True)
        if len(shared) == 0:
            return 0.0
        agree = 1.0 - 2.0 * (one.signs[a] != two.signs[b]).mean(1)
        agree = agree[agree > self.threshold]
        return float((agree**self.alpha).sum() / np.sqrt(float(len(one)) * float(len(two))))

    def similarity(self, images: Sequence[Any], *, count: int = 5) -> NDArray[np.float64]:
        """Return similarities of all images [n, n] from their local features, each [k, width].

        As published, an image asks with its features in their `count` nearest words and answers with the nearest one;
        the two directions are averaged, and an image is 1 to itself.
        """
        answers = [self.aggregate(features) for features in images]
        asks = [self.aggregate(features, min(count, len(self.centroids))) for features in images]
        table = np.array([[self.compare(ask, answer) for answer in answers] for ask in asks], np.float64)
        table = 0.5 * (table + table.T)
        np.fill_diagonal(table, 1.0)
        return table
