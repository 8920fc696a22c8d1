"""Timing the engine beside the plain PyTorch rendition of the same network, with the same random weights."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from elinvar.bench import Samples, Work, interleave

from . import plain as rendition
from .catalogue import variant
from .checkpoint import Random
from .engine import Engine

__all__ = ["image_pair", "plain_call", "time_pair"]


def image_pair(kind: Any, size: int, seed: int = 0) -> tuple[Any, Any]:
    """Return two uint8 images at network size, 4:3, of smooth noise."""
    make = np.random.default_rng(seed)
    width = size // kind.patch * kind.patch
    height = max(kind.patch, size * 3 // 4 // kind.patch * kind.patch)
    return tuple(make.integers(0, 256, (height, width, 3), dtype=np.uint8) for _ in range(2))  # type: ignore[return-value]


@functools.lru_cache(maxsize=1)
def _state(kind: Any, seed: int) -> dict[str, torch.Tensor]:
    """Return random weights; once for several calls: a large network's are 2.7 GB."""
    source = Random(kind, seed)
    return source.get(source.shapes)


def plain_call(kind: Any, images: tuple[Any, Any], seed: int = 0, attention: str = "naive") -> Callable[[], object]:
    """Return a call of the plain rendition in float32 on the CPU, all outputs."""
    state = _state(kind, seed)
    given = [torch.from_numpy(image) for image in images]

    def call() -> object:
        with torch.inference_mode():
            return rendition.infer(state, kind, given[0], given[1], attention=attention)

    return call


def time_pair(
    model: str,
    size: int | None = None,
    *,
    precision: str = "auto",
    device: str = "auto",
    threads: int | None = None,
    runs: int = 5,
    plain: bool = True,
    clock: str = "wall",
) -> dict[str, Samples]:
    """Time one pair, all eight outputs, nothing cached; "engine", and "plain PyTorch" if wanted (CPU, float32)."""
    kind = variant(model)
    size = size or kind.side
    images = image_pair(kind, size)
    engine = Engine(kind, size, precision, device, threads, cache_bytes=0).load_random(0)
    ways: dict[str, Callable[[], object]] = {"engine": lambda: engine.infer(*images).compute()}
    if plain:
        ways["plain PyTorch"] = plain_call(kind, images)
    flops = sum(kind.flops(*images[0].shape[:2]).values())
    before = torch.get_num_threads()
    if threads is not None:
        torch.set_num_threads(threads)
    try:
        work = Work(items=1.0, unit="pairs", flops=flops)
        return interleave(ways, runs=runs, warmup=1, work=work, clock=clock, device=engine.device)
    finally:
        torch.set_num_threads(before)
        _state.cache_clear()
