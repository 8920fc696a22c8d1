"""Matching large pictures: coarsely as a whole, then window by window at full resolution."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from elinvar.errors import InputError

from .images import Prepared, read

if TYPE_CHECKING:
    from .engine import Engine

__all__ = ["FineMatches", "match_coarse_to_fine"]

Box = tuple[int, int, int, int]


@dataclasses.dataclass(frozen=True, eq=False)
class FineMatches:
    """Matches in the pixels of two original pictures, best first.

    Attributes
    ----------
    xy_1, xy_2
        float64 [n, 2].
    confidence
        float32 [n].
    windows
        Pairs of boxes (left, top, right, bottom) that were matched at full resolution.
    """

    xy_1: NDArray[np.float64]
    xy_2: NDArray[np.float64]
    confidence: NDArray[np.float32]
    windows: tuple[tuple[Box, Box], ...]

    def __len__(self) -> int:
        return len(self.xy_1)


def _boxes(size: tuple[int, int], window: tuple[int, int], overlap: float) -> list[Box]:
    """Cover a picture with windows of one size that overlap by at least `overlap`."""
    starts = []
    for length, side in zip(size, window, strict=True):
        side = min(side, length)
        step = max(1, int(side * (1 - overlap)))
        count = 1 + -(-(length - side) // step)
        starts.append([round(k * (length - side) / max(1, count - 1)) for k in range(count)])
    w, h = (min(a, b) for a, b in zip(window, size, strict=True))
    return [(x, y, x + w, y + h) for y in starts[1] for x in starts[0]]


def _inside(xy: NDArray[np.float64], box: Box) -> NDArray[np.bool_]:
    return np.asarray(((xy >= (box[0], box[1])) & (xy < (box[2], box[3]))).all(1))


def _chosen(
    one: NDArray[np.float64], two: NDArray[np.float64], boxes: tuple[list[Box], list[Box]], share: float, most: int
) -> list[tuple[Box, Box]]:
    """Choose pairs of windows, the one with most uncovered coarse matches first, until `share` of them is covered."""
    inside = [np.stack([_inside(xy, box) for box in some]) for xy, some in zip((one, two), boxes, strict=True)]
    uncovered = np.ones(len(one), np.bool_)
    out: list[tuple[Box, Box]] = []
    while uncovered.mean() > 1 - share and len(out) < most:
        counts = (inside[0] & uncovered).astype(np.float64) @ inside[1].astype(np.float64).T
        a, b = np.unravel_index(int(counts.argmax()), counts.shape)
        if counts[a, b] < 1:
            break
        out.append((boxes[0][int(a)], boxes[1][int(b)]))
        uncovered &= ~(inside[0][a] & inside[1][b])
    return out


def _cut(picture: Any, box: Box, engine: Engine) -> tuple[Prepared, NDArray[np.float64]]:
    return engine.prepare(picture.crop(box)), np.array(box[:2], np.float64)


def match_coarse_to_fine(
    engine: Engine,
    image_1: Any,
    image_2: Any,
    *,
    subsample: int = 8,
    overlap: float = 0.5,
    coverage: float = 0.9,
    max_windows: int = 16,
    top_k: int | None = None,
) -> FineMatches:
    """Match two pictures larger than the network.

    The pictures are matched at network size; windows of network size are laid over the originals, and pairs of windows
    that hold most coarse matches are matched again at full resolution (Leroy et al., 2024, section 3.4).

    Parameters
    ----------
    engine
        With weights.
    image_1, image_2
        As `Engine.infer` takes them.
    subsample
        Distance of the seeds, see `elinvar.vision.match`.
    overlap
        Of neighbouring windows, below 1.
    coverage
        Share of the coarse matches the windows must hold.
    max_windows
        Most pairs of windows.
    top_k
        Most matches to return.

    Raises
    ------
    InputError
        An option is out of range or a picture cannot be read.
    """
    if not 0 <= overlap < 1 or not 0 < coverage <= 1 or max_windows < 1:
        raise InputError(
            f"match_coarse_to_fine: overlap={overlap}, coverage={coverage}, max_windows={max_windows}; overlap is "
            "below 1, coverage above 0 and at most 1, and at least one window is needed."
        )
    pictures = (read(image_1), read(image_2))
    ready = tuple(engine.prepare(picture) for picture in pictures)
    coarse = engine.match(engine.infer(*ready), top_k=None, subsample=subsample)
    one, two = coarse.to_original(*ready)
    if all(max(picture.size) <= engine.resolution for picture in pictures):
        return FineMatches(one[:top_k], two[:top_k], coarse.confidence[:top_k], ())
    windows = [(p.array.shape[1], p.array.shape[0]) for p in ready]
    boxes = tuple(_boxes(p.size, w, overlap) for p, w in zip(pictures, windows, strict=True))
    chosen = _chosen(one, two, (boxes[0], boxes[1]), coverage, max_windows) if len(one) else []
    found: list[tuple[Any, Any, Any]] = []
    for first, second in chosen:
        (a, at), (b, bt) = _cut(pictures[0], first, engine), _cut(pictures[1], second, engine)
        fine = engine.match(engine.infer(a, b), top_k=None, subsample=subsample)
        xy_1, xy_2 = fine.to_original(a, b)
        found.append((xy_1 + at, xy_2 + bt, fine.confidence))
    if not found:
        return FineMatches(one[:top_k], two[:top_k], coarse.confidence[:top_k], ())
    xy_1, xy_2, confidence = (np.concatenate(column) for column in zip(*found, strict=True))
    # Windows overlap: the same pixels may have been matched twice; the more confident one stays.
    order = np.argsort(-confidence, kind="stable")
    _, first_of = np.unique(np.round(xy_1[order]).astype(np.int64), axis=0, return_index=True)
    keep = order[np.sort(first_of)][:top_k]
    return FineMatches(xy_1[keep], xy_2[keep], confidence[keep], tuple(chosen))
