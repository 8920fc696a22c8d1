"""Finding which images show the same place: whitened features of the encoder, and one descriptor per image."""

# torch leaves Tensor.split and Tensor.unflatten without types.
# mypy: disable-error-code="no-untyped-call, no-any-return"

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from elinvar.errors import InputError, WeightsError
from elinvar.runtime import weights

__all__ = ["Retrieval", "RetrievalResult", "similarity"]


@dataclasses.dataclass(frozen=True, eq=False)
class RetrievalResult:
    """What retrieval knows of one image.

    Attributes
    ----------
    features
        float32 [n, width]: whitened local features, in the order of the tokens.
    attention
        float32 [n]: their lengths.
    descriptor
        float32 [width]: their sum weighted by attention, of unit length (SPoC; Babenko and Lempitsky, 2015).
    timing
        preprocess_ms, encoder_ms, whiten_ms, total_ms.
    """

    features: NDArray[np.float32]
    attention: NDArray[np.float32]
    descriptor: NDArray[np.float32]
    timing: dict[str, float]

    def local(self, count: int = 300) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Return the `count` features with the highest attention, of unit length, and which tokens they are."""
        order = np.argsort(-self.attention, kind="stable")[:count]
        chosen = self.features[order]
        length = np.maximum(np.linalg.norm(chosen, axis=1, keepdims=True), 1e-12)
        return chosen / length, order.astype(np.int64)


def _whitening(state: Mapping[str, Tensor], name: str, width: int) -> tuple[Tensor, Tensor] | None:
    if f"{name}.m" not in state and f"{name}.p" not in state:
        return None
    m, p = state.get(f"{name}.m"), state.get(f"{name}.p")
    if m is None or p is None or m.numel() != width or p.dim() != 2 or p.shape[0] != width:
        raise WeightsError(
            f"Retrieval weights: {name}.m and {name}.p do not whiten {width} channels; they belong to another encoder."
        )
    return m.double().reshape(1, -1), p.double()


class _Projector:
    """Linear layers, normalisations and GELUs in order, optionally added to their input."""

    def __init__(self, state: Mapping[str, Tensor]) -> None:
        names = sorted({int(name.split(".")[1]) for name in state if name.startswith("projector.")})
        self._layers = [(state[f"projector.{k}.weight"].double(), state[f"projector.{k}.bias"].double()) for k in names]
        self._numbers = names

    def __call__(self, x: Tensor) -> Tensor:
        before = -1
        for number, (weight, bias) in zip(self._numbers, self._layers, strict=True):
            if before >= 0 and number > before + 1:
                x = functional.gelu(x)  # a layer without parameters lies between
            x = (
                functional.linear(x, weight, bias)
                if weight.dim() == 2
                else functional.layer_norm(x, weight.shape, weight, bias, 1e-5)
            )
            before = number
        return x


class Retrieval:
    """Whitening weights: ``(f - m) @ p`` in float64, a projector and a second whitening where the file has them.

    float64 runs on the CPU: Apple GPUs have none, and the matrix is small.
    """

    def __init__(self, state: Mapping[str, Tensor], width: int) -> None:
        before = _whitening(state, "prewhiten", width)
        if before is None:
            raise WeightsError("Retrieval weights hold no prewhiten.m and prewhiten.p; pass the retrieval checkpoint.")
        self._before = before
        self._projector = _Projector(state)
        self._residual = bool(state["residual"].item()) if "residual" in state else False
        out = before[1].shape[1]
        if self._projector._layers:  # noqa: SLF001
            out = next(w.shape[0] for w, _ in reversed(self._projector._layers) if True)  # noqa: SLF001
        self._after = _whitening(state, "postwhiten", out)

    @classmethod
    def load(cls, path: str | os.PathLike[str], width: int) -> Retrieval:
        """Read a retrieval checkpoint: safetensors, ``.pth``, or a folder with ``retrieval.safetensors``."""
        where = Path(path).expanduser()
        if where.is_dir() and (where / "retrieval.safetensors").exists():
            where = where / "retrieval.safetensors"
        if where.suffix in (".pth", ".pt"):
            from .checkpoint import _tensors

            state: dict[str, Tensor] = _tensors(weights.load_checkpoint(where, inert=("argparse.Namespace",)), where)
        else:
            state = weights.load(where)
        return cls({name.removeprefix("module."): value for name, value in state.items()}, width)

    @classmethod
    def random(cls, width: int, seed: int = 0) -> Retrieval:
        """Make up a whitening, a rotation: for smoke tests. What it finds alike means nothing."""
        make = torch.Generator().manual_seed(seed)
        turn, _ = torch.linalg.qr(torch.randn(width, width, generator=make, dtype=torch.float64))
        return cls({"prewhiten.m": torch.zeros(1, width), "prewhiten.p": turn}, width)

    def apply(self, tokens: Tensor, times: tuple[float, float]) -> RetrievalResult:
        """Whiten an image's tokens [n, width]."""
        start = time.perf_counter()
        f = tokens.detach().to("cpu").double()
        f = (f - self._before[0]) @ self._before[1]
        g = self._projector(f)
        f = f + g if self._residual else g
        if self._after is not None:
            f = (f - self._after[0]) @ self._after[1]
        attention = torch.linalg.vector_norm(f, dim=1)
        total = functional.normalize((f * attention[:, None]).sum(0), dim=0)
        took = 1e3 * (time.perf_counter() - start)
        return RetrievalResult(
            f.float().numpy(),
            attention.float().numpy(),
            total.float().numpy(),
            {"preprocess_ms": times[0], "encoder_ms": times[1], "whiten_ms": took, "total_ms": sum(times) + took},
        )


def similarity(descriptors: Sequence[Any]) -> NDArray[np.float64]:
    """Return the images' similarities [n, n]: dot products of their descriptors.

    Raises
    ------
    InputError
        No descriptors, or of different lengths.
    """
    rows = [np.asarray(d, np.float64).reshape(-1) for d in descriptors]
    if not rows or len({len(row) for row in rows}) != 1:
        raise InputError("similarity: pass one descriptor per image, all of one length.")
    table = np.stack(rows)
    return np.asarray(table @ table.T)
