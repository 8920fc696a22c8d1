"""Matches between two images' descriptors: reciprocal nearest neighbours, of all pixels or grown from seeds."""

from __future__ import annotations

import dataclasses
import time
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from elinvar.errors import InputError

from .kernels import nearest
from .safe import detour, tested

__all__ = ["Matches", "match"]

_ROUNDS = 10  # of the fixed-point iteration; what has not settled by then is given up


@dataclasses.dataclass(frozen=True, eq=False)
class Matches:
    """Matches of two images, best first.

    Attributes
    ----------
    idx_1, idx_2
        int64 [n]: pixels as row * width + column.
    xy_1, xy_2
        float32 [n, 2]: the same as (x, y).
    pts3d_1, pts3d_2
        float32 [n, 3], or None where no points were given.
    similarity
        float32 [n]: dot product of the descriptors.
    confidence
        float32 [n]: the smaller of the two descriptors' confidences, or the similarity where none were given.
    match_ms
        What it took.
    """

    idx_1: NDArray[np.int64]
    idx_2: NDArray[np.int64]
    xy_1: NDArray[np.float32]
    xy_2: NDArray[np.float32]
    pts3d_1: NDArray[np.float32] | None
    pts3d_2: NDArray[np.float32] | None
    similarity: NDArray[np.float32]
    confidence: NDArray[np.float32]
    match_ms: float = 0.0

    def __len__(self) -> int:
        return len(self.idx_1)

    def to_original(self, prepared_1: Any, prepared_2: Any) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return the matches' pixel positions in the two original pictures."""
        return prepared_1.to_original(self.xy_1), prepared_2.to_original(self.xy_2)


def _tensor(name: str, x: Any) -> Tensor:
    """Return an output of the engine, a tensor or an array as a tensor."""
    if isinstance(x, Tensor):
        return x
    if hasattr(x, "torch"):
        return x.torch()  # type: ignore[no-any-return]
    array = np.ascontiguousarray(x)
    if array.dtype.kind not in "fiub":
        raise InputError(f"match: {name} is {type(x).__name__} of {array.dtype}; pass an array or tensor of numbers.")
    return torch.from_numpy(array)


def _rows(name: str, x: Any) -> tuple[Tensor, tuple[int, int]]:
    """Return descriptors as [n, d] float32 and the image's (height, width)."""
    tensor = _tensor(name, x)
    if tensor.dim() == 4 and tensor.shape[0] == 1:
        tensor = tensor[0]
    if tensor.dim() not in (2, 3) or 0 in tensor.shape or not tensor.is_floating_point():
        raise InputError(
            f"match: {name} is {tensor.dtype} {tuple(tensor.shape)}; pass descriptors [height, width, d] or [n, d]."
        )
    size = (tensor.shape[0], tensor.shape[1]) if tensor.dim() == 3 else (1, tensor.shape[0])
    flat = tensor.detach().reshape(-1, tensor.shape[-1]).float()
    # Also catches what an untrained network makes; a sum is finite only if every term is.
    if not bool(torch.isfinite(flat.sum())) and not bool(torch.isfinite(flat).all()):
        raise InputError(f"match: {name} holds values that are not finite; check the weights that made it.")
    return flat, size


def _values(name: str, x: Any, count: int, tail: tuple[int, ...], device: torch.device) -> Tensor | None:
    if x is None:
        return None
    tensor = _tensor(name, x)
    if tensor.numel() != count * int(np.prod(tail or (1,))):
        raise InputError(f"match: {name} has shape {tuple(tensor.shape)}; pass one value for each of {count} pixels.")
    return tensor.detach().reshape(count, *tail).float().to(device)


def _counts(n: Any) -> bool:
    """Whether an option is None or a whole number from 1."""
    return n is None or (isinstance(n, (int, np.integer)) and not isinstance(n, bool) and bool(n >= 1))


def _seeds(size: tuple[int, int], step: int, device: torch.device) -> Tensor:
    """Return flat indices of a grid of pixels, ``step // 2`` from the edge and `step` apart."""
    height, width = size
    first = step // 2
    y = torch.arange(min(first, height - 1), height, step, device=device)
    x = torch.arange(min(first, width - 1), width, step, device=device)
    return (y[:, None] * width + x).reshape(-1)


def _settle(d1: Tensor, d2: Tensor, start: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Follow nearest neighbours there and back until they stay; return the pairs that did, each once.

    Fast reciprocal matching (Leroy et al., 2024, section 3.3).
    """
    kept: list[tuple[Tensor, Tensor, Tensor]] = []
    here = start
    for _ in range(_ROUNDS):
        if len(here) == 0:
            break
        there, similarity = nearest.run(d1[here], d2)
        back, _ = nearest.run(d2[there], d1)
        still = back == here
        kept.append((here[still], there[still], similarity[still]))
        again = torch.zeros(len(d1), dtype=torch.bool, device=d1.device)
        again[back[~still]] = True
        here = torch.nonzero(again).flatten()  # each once, in order, without torch.unique's mistakes on some GPUs
    one, two, similarity = (torch.cat(parts) for parts in zip(*kept, strict=True))
    order = torch.argsort(one, stable=True)
    one, two, similarity = one[order], two[order], similarity[order]
    new = torch.ones(len(one), dtype=torch.bool, device=one.device)
    new[1:] = one[1:] != one[:-1]  # a settled pixel has one partner: equal firsts are equal pairs
    return one[new], two[new], similarity[new]


def _mutual(d1: Tensor, d2: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return all pairs of pixels that are each other's nearest neighbours."""
    found = nearest.both(d1, d2)
    if found is None:
        there, similarity = nearest.run(d1, d2)
        # Only keys somebody chose can be half of a mutual pair: the way back is asked for those alone.
        asked = torch.zeros(len(d2), dtype=torch.bool, device=d1.device)
        asked[there] = True
        chosen = torch.nonzero(asked).flatten()
        returns = torch.full((len(d2),), -1, dtype=torch.int64, device=d1.device)
        returns[chosen] = nearest.run(d2[chosen], d1)[0]
    else:
        there, similarity, returns = found
    one = torch.arange(len(d1), device=d1.device)
    one = torch.nonzero(returns[there] == one).flatten()
    return one, there[one], similarity[one]


def match(
    desc_1: Any,
    desc_2: Any,
    *,
    conf_1: Any = None,
    conf_2: Any = None,
    pts3d_1: Any = None,
    pts3d_2: Any = None,
    top_k: int | None = None,
    reciprocal: bool = True,
    threshold: float = 0.0,
    subsample: int | None = None,
) -> Matches:
    """Match two images by their descriptors' dot products.

    Parameters
    ----------
    desc_1, desc_2
        [height, width, d] or [n, d], arrays or tensors on one device; sizes may differ.
    conf_1, conf_2
        One confidence per pixel: those of a match are combined by their minimum.
    pts3d_1, pts3d_2
        One point per pixel, returned for the matched pixels.
    top_k
        Return at most this many, of the highest confidence; None returns all.
    reciprocal
        Only pairs that are each other's nearest neighbours; otherwise every pixel of image 1 (or every seed) with its
        nearest.
    threshold
        Drop matches of lower confidence.
    subsample
        None looks at every pixel: exact, and quadratic in their number. A number S starts from pixels S apart and
        follows nearest neighbours there and back until they stay: about 1/S² of the matches at about 1/S² of the cost.

    Returns
    -------
    Matches
        Sorted by confidence, then by pixel.

    Raises
    ------
    InputError
        Shapes do not fit together, values are not finite, or an option is out of range.
    """
    start = time.perf_counter()
    (d1, size_1), (d2, size_2) = _rows("desc_1", desc_1), _rows("desc_2", desc_2)
    if d1.shape[1] != d2.shape[1] or d1.device != d2.device:
        raise InputError(
            f"match: descriptors have {d1.shape[1]} channels on {d1.device} and {d2.shape[1]} on {d2.device}; "
            "they must agree."
        )
    if not _counts(top_k):
        raise InputError(f"match: top_k={top_k!r}; pass a whole number from 1, or None for all matches.")
    if not _counts(subsample):
        raise InputError(f"match: subsample={subsample!r}; pass a distance in whole pixels from 1, or None.")
    if np.isnan(threshold):
        raise InputError("match: threshold is not a number; pass the least confidence to keep.")
    if (conf_1 is None) != (conf_2 is None):
        raise InputError("match: confidences of one image only; pass conf_1 and conf_2, or neither.")
    values = [
        _values(name, x, n, tail, d1.device)
        for name, x, n, tail in (
            ("conf_1", conf_1, len(d1), ()),
            ("conf_2", conf_2, len(d2), ()),
            ("pts3d_1", pts3d_1, len(d1), (3,)),
            ("pts3d_2", pts3d_2, len(d2), (3,)),
        )
    ]
    with torch.no_grad(), detour(tested(d1.device, torch.float32)):
        seeds = None if subsample is None else _seeds(size_1, subsample, d1.device)
        if not reciprocal:
            one = torch.arange(len(d1), device=d1.device) if seeds is None else seeds
            two, similarity = nearest.run(d1[one], d2)
        elif seeds is not None:
            one, two, similarity = _settle(d1, d2, seeds)
        else:
            one, two, similarity = _mutual(d1, d2)
        confidence = similarity
        if values[0] is not None and values[1] is not None:
            confidence = torch.minimum(values[0][one], values[1][two])
        keep = torch.nonzero(confidence >= threshold).flatten()
        keep = keep[torch.argsort(-confidence[keep], stable=True)][:top_k]
        one, two, similarity, confidence = (x[keep] for x in (one, two, similarity, confidence))
        points = [None if v is None else v[k] for v, k in zip(values[2:], (one, two), strict=True)]
        out = _hosted([one, two, _xy(one, size_1), _xy(two, size_2), similarity, confidence, *points])
    took = 1e3 * (time.perf_counter() - start)
    return Matches(out[0], out[1], out[2], out[3], out[6], out[7], out[4], out[5], took)


def _xy(index: Tensor, size: tuple[int, int]) -> Tensor:
    return torch.stack([index % size[1], index // size[1]], 1).float()


def _hosted(tensors: list[Tensor | None]) -> list[Any]:
    """Bring tensors to arrays in host memory; from CUDA with one wait for all."""
    out: list[Tensor | None] = []
    for t in tensors:
        if t is not None and t.device.type == "cuda":
            out.append(torch.empty(t.shape, dtype=t.dtype, pin_memory=True).copy_(t, non_blocking=True))
        else:
            out.append(None if t is None else t.cpu())
    for device in {t.device for t in tensors if t is not None and t.device.type == "cuda"}:
        torch.cuda.synchronize(device)
    return [None if t is None else t.numpy() for t in out]
