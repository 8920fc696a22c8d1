from __future__ import annotations

import numpy as np

from elinvar.report import Page
from elinvar.vision import tour as module
from elinvar.vision.tour import patch_descriptors, stereo_pair, tour


def test_the_tour_shows_everything(tmp_path, tour_context):
    page, context = Page("tour"), tour_context("vision")
    tour(page, context)
    html = page.html_text()
    for words in (
        "reciprocal matches",
        "baseline by PnP",
        "plain PyTorch",
        'class="cloud"',
        "Focal length",
        "random weights",
        "the free network",
        "trained on made-up rooms alone",
    ):
        assert words in html, words
    assert html.count("<img") == 5
    assert "vision: match" in context.seconds
    assert list(tmp_path.iterdir()) == []


def test_the_motorcycle_is_found_where_data_is(reference_data, monkeypatch):
    monkeypatch.setenv("ELINVAR_DATA", str(reference_data("vision").parent))
    pair = stereo_pair()
    assert pair.name == "Middlebury motorcycle"
    assert pair.left.shape == (500, 741, 3)
    assert 0.9 < np.isfinite(pair.points).all(-1).mean() < 1.0


def test_without_the_motorcycle(monkeypatch):
    monkeypatch.setattr(module, "_motorcycle", lambda: None)
    pair = stereo_pair()
    assert "made-up" in pair.name
    assert pair.left.shape == (360, 480, 3)
    assert np.isfinite(pair.points).all()


def test_patches_match_themselves_shifted():
    from elinvar.vision import match

    image = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)
    found = match(patch_descriptors(image[:, :50], 1), patch_descriptors(image[:, 10:], 1))
    assert np.median(found.xy_1[:, 0] - found.xy_2[:, 0]) == 10
