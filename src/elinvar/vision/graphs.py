"""Which images to pair: the graphs by which many images become pairs."""

from __future__ import annotations

import re

import numpy as np
from numpy.typing import NDArray

from elinvar.errors import InputError

__all__ = ["GRAPHS", "image_pairs"]

GRAPHS = ("sequence", "swin-K", "complete", "oneref", "oneref-I", "retrieval-N-K")


def _window(n: int, k: int) -> list[tuple[int, int]]:
    return [(i, i + step) for i in range(n) for step in range(1, k + 1) if i + step < n]


def _farthest(similarity: NDArray[np.float64], count: int) -> list[int]:
    """Choose `count` images that are as unlike each other as possible (farthest-point sampling)."""
    distance = 1.0 - similarity
    chosen = [int(distance.sum(1).argmax())]
    nearest = distance[chosen[0]].copy()
    while len(chosen) < min(count, len(similarity)):
        nearest[chosen] = -np.inf
        chosen.append(int(nearest.argmax()))
        nearest = np.minimum(nearest, distance[chosen[-1]])
    return chosen


def _by_retrieval(n: int, keys: int, k: int, similarity: NDArray[np.float64] | None) -> list[tuple[int, int]]:
    if similarity is None:
        raise InputError("image_pairs: graph 'retrieval-N-K' needs a similarity matrix; load retrieval weights first.")
    similarity = np.asarray(similarity, np.float64)
    if similarity.shape != (n, n) or not np.isfinite(similarity).all():
        raise InputError(f"image_pairs: similarity has shape {similarity.shape}; pass finite [{n}, {n}].")
    found: set[tuple[int, int]] = set()

    def add(i: int, j: int) -> None:
        if i != j:
            found.add((min(i, j), max(i, j)))

    chosen = _farthest(similarity, keys)
    for a in range(len(chosen)):
        for b in range(a):
            add(chosen[a], chosen[b])
    for i in range(n):
        others = [j for j in chosen if j != i]
        if others:
            add(i, max(others, key=lambda j: similarity[i, j]))
        order = [int(j) for j in np.argsort(-similarity[i], kind="stable") if j != i]
        for j in order[:k]:
            add(i, j)
    return sorted(found)


def image_pairs(
    n: int, graph: str = "sequence", similarity: NDArray[np.float64] | None = None
) -> list[tuple[int, int]]:
    """Return the pairs (i, j) of a graph over n images, each once, first image first.

    Parameters
    ----------
    n
        Number of images, at least 2.
    graph
        ``sequence`` (each with the next), ``swin-K`` (each with the next K), ``complete`` (all with all), ``oneref`` or
        ``oneref-I`` (image I, by default 0, with all others), ``retrieval-N-K`` (N images as unlike as possible all
        with each other, every image with the most similar of them and with its K most similar images). An ``a`` after N
        is accepted, as in the published tools.
    similarity
        [n, n], for ``retrieval-N-K``.

    Raises
    ------
    InputError
        Fewer than two images, an unknown graph, an image that does not exist.
    """
    if isinstance(n, bool) or not isinstance(n, (int, np.integer)) or n < 2:
        raise InputError(f"image_pairs: {n!r} image(s) make no pair; pass at least two.")
    if not isinstance(graph, str):
        raise InputError(f"image_pairs: graph is {graph!r}; pass its name, such as 'sequence'.")
    if graph == "sequence":
        return _window(n, 1)
    if graph == "complete":
        return [(i, j) for i in range(n) for j in range(i + 1, n)]
    found = re.fullmatch(r"swin-(\d+)", graph)
    if found and int(found[1]) >= 1:
        return _window(n, int(found[1]))
    found = re.fullmatch(r"oneref(?:-(\d+))?", graph)
    if found:
        middle = int(found[1] or 0)
        if middle >= n:
            raise InputError(
                f"image_pairs: graph {graph!r} names image {middle}, but there are only {n}; count from 0."
            )
        return [(middle, i) for i in range(n) if i != middle]
    found = re.fullmatch(r"retrieval-(\d+)a?-(\d+)", graph)
    if found and int(found[1]) >= 1:
        return _by_retrieval(n, int(found[1]), int(found[2]), similarity)
    raise InputError(
        f"image_pairs: graph {graph!r} is unknown; use one of {', '.join(GRAPHS)} with numbers for capitals."
    )
