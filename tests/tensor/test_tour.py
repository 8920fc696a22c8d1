import pytest

from elinvar.errors import MissingDependency
from elinvar.report import Page
from elinvar.tensor import digits, measure
from elinvar.tensor import tour as tour_module
from elinvar.tensor.tour import tour


def test_the_tour_shows_bars_and_the_training_curve(tour_context):
    pytest.importorskip("sklearn", reason="needs scikit-learn")
    page, context = Page("tour"), tour_context("tensor")
    tour(page, context)
    html = page.html_text()
    for words in ("one pass instead of three", "unseen digits", "unfused, pooled", "training loss", "rounded once"):
        assert words in html, words
    assert html.count('class="plot"') == 2
    parts = ("compiling fused operations", "fused beside unfused", "learn the digits")
    assert [*context.seconds] == [f"tensor: {part}" for part in parts]


def test_without_scikit_learn_the_rest_is_shown(tour_context, monkeypatch):
    def missing():
        raise MissingDependency("pip install 'elinvar[tensor]'")

    monkeypatch.setattr(digits, "load", missing)
    monkeypatch.setattr(tour_module, "ways", lambda *_, **__: {"one operation": measure.linear_ways(64)[0]})
    page = Page("tour")
    tour(page, tour_context("tensor"))
    html = page.html_text()
    assert "elinvar[tensor]" in html
    assert html.count('class="plot"') == 1
