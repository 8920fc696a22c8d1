from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from elinvar import audio
from elinvar.audio import tour
from elinvar.audio._plain import UniformConvolver
from elinvar.report import Page
from elinvar.runtime.device import device


class Context:
    def __init__(self, out: Path) -> None:
        self.device, self.out, self.quick, self.engine = device("cpu"), out, True, "audio"
        self.seconds: dict[str, float] = {}
        self.stages: list[str] = []

    @contextmanager
    def stage(self, name: str, **_: object) -> Iterator[None]:
        self.stages.append(name)
        yield

    @contextmanager
    def jit(self, what: str) -> Iterator[None]:
        self.stages.append(f"jit {what}")
        yield

    @contextmanager
    def progress(self, label: str, *, total: int | None = None, unit: str = "items") -> Iterator[Any]:
        yield lambda done, whole: None


def test_the_tour_plays_and_draws_both(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tour, "_denoised", lambda page, context: None)  # has its own test
    page, context = Page("tour"), Context(tmp_path)
    tour.tour(page, context)
    html = page.html_text()
    for words in ("dry", "in the hall", "mel spectrogram", "LUFS", "uniform partitions in numpy", "samples of latency"):
        assert words in html, words
    assert html.count("<audio") == 2
    assert html.count('class="plot"') == 1
    assert "jit the convolver and the filters" in context.stages
    assert list(tmp_path.iterdir()) == []


def test_live_is_offline() -> None:
    dry, ir = tour.guitar(0.4), audio.room(0.2, tour.RATE)
    clip = tour.live(dry, ir)
    assert clip.error <= 1e-6
    assert len(clip.microseconds) == dry.shape[1] // tour.BLOCK
    np.testing.assert_allclose(np.abs(dry).max(), 0.5, rtol=1e-6)


def test_the_plain_convolver_is_one() -> None:
    rng = np.random.default_rng(0)
    ir, x = rng.standard_normal(300).astype(np.float32), rng.standard_normal(640).astype(np.float32)
    plain = UniformConvolver(ir, 64)
    y = np.concatenate([plain.process(x[i : i + 64]) for i in range(0, 640, 64)])
    np.testing.assert_allclose(y, np.convolve(x, ir)[:640], atol=1e-4)
