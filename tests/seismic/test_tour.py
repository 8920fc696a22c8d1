from __future__ import annotations

import numpy as np
import pytest

from elinvar.report import Page
from elinvar.seismic import migrate, synthetic
from elinvar.seismic.plain import compiled_loop, numpy_loop
from elinvar.seismic.tour import focus, plain_rates, tour


def test_the_tour_shows_everything_and_cleans_up(tmp_path, tour_context):
    page, context = Page("tour"), tour_context("seismic")
    tour(page, context)
    html = page.html_text()
    for words in (
        "focus error on the map", "Recorded: offset", "Migrated: inline 11", "Migrated: crossline 11",
        "Time slice at 640 ms", "Fold of inline 11", "Offset gather", "contributions/s", "recorded time (ms)", "(km)",
    ):  # fmt: skip
        assert words in html, words
    assert html.count('class="plot"') == 7
    assert next(iter(context.seconds)) == "seismic: compiling the migration kernel"
    assert "seismic: compiling the plain numba loop" in context.seconds
    assert list(tmp_path.iterdir()) == []  # the 4 MB SEG-Y file was only a means


def test_focus_is_measured_to_a_fraction_of_a_sample():
    survey = synthetic.dataset("tiny", noise=0.0)
    image = migrate(survey, survey.velocity, survey.grid, device="cpu")
    found = focus(image, survey.truth["points"][0])
    assert found.index == (10, 10, 320)
    assert found.error_m < 0.5
    assert abs(found.error_ms) < 0.05
    moved = focus(image, (250.0, 253.0, 0.641))
    assert moved.error_m == pytest.approx(3.0, abs=0.5)
    assert moved.error_ms == pytest.approx(-1.0, abs=0.05)


def test_focus_finds_a_point_between_bins():
    survey = synthetic.diffractors(
        [(157.0, 139.0, 500.0)], extent=300, offsets=(100,), azimuths=(0, 90), velocity=2000, nt=400
    )
    image = migrate(survey, survey.velocity, survey.grid, device="cpu")
    assert focus(image, survey.truth["points"][0]).error_m < 2.0  # 7 m and 11 m from the nearest bin's axes


def test_the_plain_loops_do_the_same_work(relative):
    rng = np.random.default_rng(0)
    traces = rng.standard_normal((9, 120)).astype(np.float32)
    places = [rng.uniform(-200, 200, (n, 2)).astype(np.float32) for n in (9, 9, 3)]
    times = (np.arange(80) * 0.004).astype(np.float32)
    arguments = (traces, np.float32(0.004), *places, times, np.float32(2000))
    (a, work_a), (b, work_b) = numpy_loop(*arguments), compiled_loop()(*arguments)
    assert relative(a, b) < 1e-4
    assert abs(work_a - work_b) <= 3
    survey = synthetic.dataset("tiny")
    rates, compiling = plain_rates(survey, survey.grid, 2500.0, 16, 8)
    assert compiling >= 0
    assert all(r.per_second > 0 and r.contributions > 0 for r in rates)
