from __future__ import annotations

import warnings
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import torch

from elinvar.video import sources
from elinvar.video.graph import Graph


@pytest.fixture
def rate() -> Fraction:
    return Fraction(24000, 1001)


@pytest.fixture
def chart(rate: Fraction) -> sources.Generator:
    """The ColorChecker, small and short."""
    return sources.color_checker(384, 256, frame_rate=rate, frame_count=5)


@pytest.fixture
def simple() -> Callable[..., Graph]:
    """``simple(pass, ...)``: a graph of one small source and some passes, colorimetric Rec.709 out."""

    def build(*passes: Any, source: Any = None, view: str = "rec709") -> Graph:
        graph = Graph("cpu")
        graph.source(source if source is not None else sources.zone_plate(96, 64, frame_count=10))
        for one in passes:
            graph.add(one)
        return graph.output(view)

    return build


@pytest.fixture
def media(reference_data: Callable[[str], Path]) -> Callable[[str], Any]:
    """``media("torchcodec/x.mp4")``: an opened file of the reference data, colour warnings silenced."""
    from elinvar.video.media import VideoFile

    def find(name: str) -> VideoFile:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return VideoFile(reference_data(f"video/{name}"))

    return find


@pytest.fixture
def random_frame() -> Callable[..., torch.Tensor]:
    def make(height: int = 37, width: int = 51, scale: float = 1.0, seed: int = 0) -> torch.Tensor:
        return torch.rand(3, height, width, generator=torch.Generator().manual_seed(seed)) * scale

    return make
