from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from elinvar import audio
from elinvar.audio import tour
from elinvar.audio._plain import UniformConvolver
from elinvar.report import Page


def test_the_tour_plays_and_draws_both(
    tmp_path: Path, tour_context: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tour, "_denoised", lambda page, context: None)  # has its own test
    page, context = Page("tour"), tour_context("audio")
    tour.tour(page, context)
    html = page.html_text()
    for words in ("dry", "in the hall", "mel spectrogram", "LUFS", "uniform partitions in numpy", "samples of latency"):
        assert words in html, words
    assert html.count("<audio") == 2
    assert html.count('class="plot"') == 1
    assert "audio: compiling the convolver and the filters" in context.seconds
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
