from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from elinvar.seismic import Grid, Survey, Velocity, migrate, synthetic
from elinvar.seismic.order import morton


def test_the_curve_of_a_small_square():
    x, y = np.meshgrid(np.arange(4), np.arange(4), indexing="ij")
    places = 65535.0 / 3 * np.stack([x.ravel(), y.ravel()], axis=1)
    found = places[morton(places)] * 3 / 65535.0
    quarter = [[0, 0], [1, 0], [0, 1], [1, 1]]
    known = [[2 * i + a, 2 * j + b] for i, j in quarter for a, b in quarter]
    assert np.rint(found).astype(int).tolist() == known


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.floats(-1e7, 1e7), st.floats(-1e7, 1e7)), min_size=1, max_size=40))
def test_it_is_an_order_and_places_alike_keep_theirs(places):
    doubled = np.repeat(np.array(places), 2, axis=0)
    found = morton(doubled)
    assert sorted(found.tolist()) == list(range(len(doubled)))
    assert (np.diff(found.reshape(-1, 2), axis=1) > 0).any() or len(places) > 1
    where = np.empty(len(found), int)
    where[found] = np.arange(len(found))
    assert (where[1::2] > where[::2]).all()


def test_one_place_and_a_line():
    assert morton(np.zeros((3, 2))).tolist() == [0, 1, 2]
    line = np.stack([np.zeros(9), np.arange(9.0)[::-1]], axis=1)
    assert morton(line).tolist() == list(range(9))[::-1]


def test_neighbours_are_near():
    places = np.random.default_rng(0).uniform(0, 1000, (4096, 2))
    step = np.hypot(*np.diff(places[morton(places)], axis=0).T)
    assert np.median(step) < 20  # 16 m is the mean distance of 4,096 points in a square kilometre
    assert np.median(np.hypot(*np.diff(places, axis=0).T)) > 400


def test_blocks_are_read_from_front_to_back_and_sorted_inside(monkeypatch):
    monkeypatch.setattr("elinvar.seismic.job.block_size", lambda *_: 64)
    made = synthetic.diffractors([(120, 100, 500)], extent=175, offsets=(150, 300), nt=300)
    mixed = np.random.default_rng(1).permutation(made.n_traces)
    survey = Survey.from_arrays(made.read()[mixed], made.source[mixed], made.receiver[mixed], made.dt)
    blocks = []
    real = survey.block
    monkeypatch.setattr(survey, "block", lambda index: blocks.append(index) or real(index))
    grid = Grid((75.0, 60.0), 0, 2, 1, 25, 25, 50, 0.004)
    migrate(survey, Velocity.constant(2500), grid, device="cpu")
    assert [sorted(index.tolist()) for index in blocks] == [list(range(64)), list(range(64, 128))]
    for index in blocks:
        there = survey.midpoint[np.sort(index)]
        assert np.array_equal(survey.midpoint[index], there[morton(there)])


def test_a_survey_by_midpoint():
    made = synthetic.diffractors([(120, 100, 500)], extent=175, offsets=(150, 300), nt=20)
    mixed = made.select(np.random.default_rng(1).permutation(made.n_traces))
    near = mixed.by_midpoint()
    assert np.array_equal(np.unique(near.midpoint, axis=0), np.unique(made.midpoint, axis=0))
    assert np.hypot(*np.diff(near.midpoint, axis=0).T).mean() < 20
    assert np.array_equal(near.read(), mixed.read(morton(mixed.midpoint)))
    block = mixed.block(np.array([7, 3, 100]))
    assert np.array_equal(block.traces, mixed.read()[[7, 3, 100]])
    assert np.array_equal(block.source, mixed.source[[7, 3, 100]])
