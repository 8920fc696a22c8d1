from __future__ import annotations

import json

import numpy as np
import pytest

from elinvar.errors import InputError
from elinvar.seismic import Grid, Survey, coverage, synthetic
from elinvar.seismic.covering import along_a_line


def survey_at(midpoints, offset, live=None):
    m = np.asarray(midpoints, float)
    half = np.zeros_like(m)
    half[:, 0] = 0.5 * np.broadcast_to(offset, len(m))
    return Survey.from_arrays(np.ones((len(m), 5)), m - half, m + half, 0.004, live=live)


GRID = Grid((1000.0, 2000.0), 30.0, 4, 3, 25.0, 50.0, 5, 0.004)


def test_fold_counts_midpoints_of_live_traces_in_their_bins():
    place = np.concatenate([GRID.pillars, GRID.pillars[:2], [[0.0, 0.0]]])
    found = coverage(survey_at(place, 100.0, live=np.arange(len(place)) != 5), GRID)
    truth = np.ones((4, 3), int)
    truth.ravel()[:2] += 1
    truth.ravel()[5] = 0
    assert found.fold.tolist() == truth.tolist()
    assert (found.inside, found.outside, found.largest_gap) == (13, 1, 1)
    assert found.empty == pytest.approx(1 / 12)


@pytest.mark.parametrize(("shift", "inside"), [(0.49, 12), (-0.49, 12), (0.51, 8), (-0.51, 8)])
def test_bins_reach_half_way_to_the_next(shift, inside):
    x, y = GRID.position(np.arange(4)[:, None] + 0.0, np.arange(3) + shift)
    found = coverage(survey_at(np.stack([x.ravel(), y.ravel()], 1), 0.0), GRID)
    assert found.inside == inside


def test_offsets_are_counted_by_round_classes():
    offsets = [0, 99.996, 100, 399.999999, 400, 1000]
    found = coverage(survey_at(np.repeat(GRID.pillars[:1], 6, axis=0), offsets), GRID, offset_step=100)
    assert found.offset_edges.tolist() == list(range(0, 1100, 100))
    assert found.offsets.tolist() == [1, 2, 0, 0, 2, 0, 0, 0, 0, 1]
    assert coverage(survey_at(GRID.pillars, 5000.0), GRID).offset_edges[1] == 500


def test_the_report_is_plain_data():
    survey = synthetic.dataset("tiny")
    found = coverage(survey, survey.grid).to_dict()
    assert found == json.loads(json.dumps(found))
    assert found["fold"] == {"mean": 4.0, "median_of_filled": 4.0, "largest": 4}
    assert found["empty_percent"] == 0.0
    assert sum(row["traces"] for row in found["offsets"]) == survey.n_traces


def test_gaps_are_measured():
    grid = Grid((0, 0), 0, 9, 9, 10, 10, 2, 0.004)
    ring = [p for p in grid.pillars if max(abs(p - 40)) > 25]
    assert coverage(survey_at(ring, 0.0), grid).largest_gap == 3
    assert coverage(survey_at([[999, 999]], 0.0), grid).to_dict()["largest_gap_bins"] == 9


def test_classes_are_checked():
    survey = survey_at(GRID.pillars, 5000.0)
    with pytest.raises(InputError, match="offset_step is 0"):
        coverage(survey, GRID, offset_step=0)
    with pytest.raises(InputError, match="50000 classes"):
        coverage(survey, GRID, offset_step=0.1)


@pytest.mark.parametrize(
    ("across", "azimuth", "line"), [(0.0, 0.0, True), (10.0, 37.0, True), (40.0, 37.0, False), (3000.0, 90.0, False)]
)
def test_a_line_is_as_wide_as_a_bin(across, azimuth, line):
    """Midpoints of a line in any direction, some metres to its sides; and of an area."""
    rng = np.random.default_rng(1)
    grid = Grid((0.0, 0.0), azimuth, 200, 1, 25.0, 25.0, 5, 0.004)
    places = np.stack(grid.position(rng.uniform(0, 199, 300), rng.uniform(-0.5, 0.5, 300) * across / 25.0), axis=1)
    assert along_a_line(survey_at(places, 100.0), grid) is line
    assert along_a_line(survey_at(places[:5], 100.0), Grid((0.0, 0.0), 0.0, 1, 1, 5000.0, 25.0, 5, 0.004)) is False
