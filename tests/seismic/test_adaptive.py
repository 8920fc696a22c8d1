from __future__ import annotations

import numpy as np
import pytest

from elinvar.errors import InputError
from elinvar.seismic import Aperture, Grid, Survey, Velocity, adaptive, migrate, preview, preview_cost, synthetic

V = Velocity.constant(2500)
GRID = Grid((0, 0), 0, 61, 50, 25, 25, 90, 0.004, 0.2)
OPTIONS = {"device": "cpu", "aperture": Aperture(dip=30)}


@pytest.fixture(scope="module")
def survey():
    # One corner of the map holds a diffractor, which fades with distance; the rest is nearly silent.
    base = synthetic.diffractors([(360, 410, 450)], extent=(1500, 1225), spacing=25, offsets=(100,), nt=400)
    away = np.hypot(*(base.midpoint - (360, 410)).T)
    fade = np.exp(-0.5 * (away / 150) ** 2) + 1e-6
    return Survey.from_arrays(base.read() * fade[:, None], base.source, base.receiver, base.dt, bin_size=base.bin_size)


@pytest.fixture(scope="module")
def full(survey):
    return migrate(survey, V, GRID, **OPTIONS)


def test_the_default_loses_nothing_worth_seeing(survey, full):
    found = preview(survey, V, GRID, **OPTIONS)
    assert found.stage == "fine"
    assert found.correlation(full) >= 0.99
    assert 0.0625 < found.fraction < 0.9
    assert found.fraction == found.computed.mean()
    assert "pillars migrated" in str(found)


def test_what_is_migrated_is_the_image_and_the_rest_is_marked(survey, full, relative):
    found = preview(survey, V, GRID, threshold=0.1, **OPTIONS)
    assert relative(found.image.values[found.computed], full.values[found.computed]) < 1e-6
    assert np.array_equal(found.image.counts[found.computed], full.counts[found.computed])
    assert not found.image.counts[~found.computed].any()
    assert not np.array_equal(found.image.values, full.values)
    assert "interpolated" in found.image.attributes["preview"]
    assert "interpolated" in found.image.image.attrs["preview"]
    assert found.image.dataset().attrs["preview"] == found.image.attributes["preview"]


def test_a_higher_threshold_computes_less(survey, full, relative):
    found = [preview(survey, V, GRID, threshold=t, **OPTIONS) for t in (0.0, 0.001, 0.01, 0.1)]
    fractions = [p.fraction for p in found]
    assert fractions[0] == 1.0
    assert relative(found[0].image.values, full.values) < 1e-6
    likeness = [p.correlation(full) for p in found]
    assert min(likeness) > 0.99
    assert likeness[3] < likeness[1]
    assert fractions == sorted(fractions, reverse=True)
    assert fractions[-1] < 0.8 * fractions[1] < 0.8
    assert found[0].correlation(full) == pytest.approx(1)


def test_coarse_first_then_fine(survey, full):
    stages = preview(survey, V, GRID, progressive=True, **OPTIONS)
    coarse = next(stages)
    assert coarse.stage == "coarse"
    assert coarse.computed[::4, ::4].all()
    assert coarse.fraction == pytest.approx(16 * 14 / (61 * 50))  # the last column belongs to it as well
    assert np.array_equal(coarse.image.values[::4, ::4], full.values[::4, ::4])
    assert coarse.image.values[2, 4] == pytest.approx(0.5 * (full.values[0, 4] + full.values[4, 4]), rel=1e-5)
    assert coarse.remaining_seconds > 0
    kept = coarse.image.values.copy()
    fine = next(stages)
    assert np.array_equal(coarse.image.values, kept)  # the first answer is not changed by the second
    assert fine.stage == "fine"
    assert fine.computed.sum() > coarse.computed.sum()
    assert (fine.computed == (coarse.computed | coarse.wanted)).all()
    assert next(stages, None) is None
    again = preview(survey, V, GRID, **OPTIONS)
    assert np.array_equal(again.image.values, fine.image.values)


def test_only_asked_for_work_is_done(survey, monkeypatch):
    calls = []
    real = adaptive.migrate
    monkeypatch.setattr(adaptive, "migrate", lambda *a, **k: calls.append(a[2].size) or real(*a, **k))
    stages = preview(survey, V, GRID, progressive=True, **OPTIONS)
    next(stages)
    assert calls == [16 * 14]
    next(stages)
    assert len(calls) == 2


def test_no_pillar_is_migrated_twice(survey, monkeypatch):
    calls = []
    real = adaptive.migrate
    monkeypatch.setattr(adaptive, "migrate", lambda *a, **k: calls.append(a[2].size) or real(*a, **k))
    found = preview(survey, V, GRID, **OPTIONS)
    assert sum(calls) == found.computed.sum()


def test_the_mask_is_grown_between_and_around():
    coarse = np.zeros((4, 4, 2), np.float32)
    coarse[1, 1, 0] = -5.0
    rows, columns = np.array([0, 4, 8, 10]), np.array([0, 4, 8, 12])
    bare = adaptive._wanted(coarse, rows, columns, 0.5, 0)
    assert np.argwhere(bare).min(axis=0).tolist() == [1, 1]  # all pillars that the kept one is a neighbour of
    assert np.argwhere(bare).max(axis=0).tolist() == [7, 7]
    grown = adaptive._wanted(coarse, rows, columns, 0.5, 1)
    assert grown[:10, :12].all()
    assert not grown[10:].any()
    assert not grown[:, 12:].any()
    assert not adaptive._wanted(np.zeros_like(coarse), rows, columns, 0.5, 2).any()


def test_a_silent_image_has_nothing_to_refine(survey):
    far = Grid((1000, 1200), 0, 9, 9, 25, 25, 3, 0.001, 0.0)
    late = np.zeros((survey.n_traces, 400))
    late[:, -1] = 1.0  # what there is lies below the image
    quiet = Survey.from_arrays(late, survey.source, survey.receiver, survey.dt)
    found = preview(quiet, V, far, phase_filter=False, **OPTIONS)
    assert not found.image.values.any()
    assert found.fraction == pytest.approx(9 / 81)


def test_cost_before_it_starts(survey, full):
    cost = preview_cost(survey, V, GRID, **OPTIONS)
    assert cost.full.contributions == pytest.approx(full.contributions, rel=0.15)
    assert cost.coarse.contributions < 0.1 * cost.full.contributions
    assert "coarse pass" in str(cost)


def test_a_single_line_can_be_previewed(survey):
    line = Grid((350, 0), 0, 1, 50, 25, 25, 90, 0.004, 0.2)
    found = preview(survey, V, line, **OPTIONS)
    assert found.correlation(migrate(survey, V, line, **OPTIONS)) > 0.99


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"coarse": 1}, "coarse is 1"),
        ({"threshold": 2}, "threshold is 2"),
        ({"dilate": -1}, "dilate is -1"),
        ({"gathers": [0, 1]}, "gathers belongs to a real image"),
        ({"checkpoint": "x"}, "checkpoint belongs"),
    ],
)
@pytest.mark.parametrize("progressive", [False, True])
def test_wrong_previews_are_named(survey, options, words, progressive):
    with pytest.raises(InputError, match=words):
        preview(survey, V, GRID, progressive=progressive, **options)


def test_correlation_needs_the_same_grid(survey, full):
    small = migrate(survey, V, Grid((0, 0), 0, 2, 2, 25, 25, 90, 0.004, 0.2), **OPTIONS)
    found = preview(survey, V, Grid((0, 0), 0, 5, 5, 25, 25, 90, 0.004, 0.2), **OPTIONS)
    with pytest.raises(InputError, match="shapes"):
        found.correlation(small)
