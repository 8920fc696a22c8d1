from contextlib import contextmanager

import pytest

from elinvar.errors import MissingDependency
from elinvar.report import Page
from elinvar.runtime.device import device
from elinvar.tensor import digits, measure
from elinvar.tensor import tour as tour_module
from elinvar.tensor.tour import tour


class Context:
    def __init__(self, out):
        self.device, self.out, self.quick, self.engine, self.seconds = device("cpu"), out, True, "tensor", {}
        self.stages = []

    @contextmanager
    def stage(self, name):
        self.stages.append(name)
        yield

    @contextmanager
    def jit(self, what):
        self.stages.append(f"jit {what}")
        yield

    @contextmanager
    def progress(self, label, *, total=None, unit="items"):
        yield lambda done, whole: None


def test_the_tour_shows_bars_and_the_training_curve(tmp_path):
    pytest.importorskip("sklearn", reason="needs scikit-learn")
    page, context = Page("tour"), Context(tmp_path)
    tour(page, context)
    html = page.html_text()
    for words in ("one pass instead of three", "unseen digits", "unfused, pooled", "training loss", "rounded once"):
        assert words in html, words
    assert html.count('class="plot"') == 2
    assert context.stages == ["jit fused operations", "fused beside unfused", "learn the digits"]


def test_without_scikit_learn_the_rest_is_shown(tmp_path, monkeypatch):
    def missing():
        raise MissingDependency("pip install 'elinvar[tensor]'")

    monkeypatch.setattr(digits, "load", missing)
    monkeypatch.setattr(tour_module, "ways", lambda *_, **__: {"one operation": measure.linear_ways(64)[0]})
    page = Page("tour")
    tour(page, Context(tmp_path))
    html = page.html_text()
    assert "elinvar[tensor]" in html
    assert html.count('class="plot"') == 1
