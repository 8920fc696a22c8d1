from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from elinvar.errors import InputError
from elinvar.seismic import Grid, Survey
from elinvar.seismic.grid import suggest_bins


def survey_over(midpoints, dt=0.004, delay=0.0, half=(0.0, 50.0)):
    m = np.asarray(midpoints, float)
    return Survey.from_arrays(np.zeros((len(m), 11)), m - half, m + half, dt, delay=delay)


def lattice(nx, ny, dx, dy, azimuth, origin=(0.0, 0.0)):
    return Grid(origin, azimuth, nx, ny, dx, dy, 1, 0.004).pillars


@pytest.mark.parametrize(
    ("azimuth", "inline", "crossline"),
    [(0, (0, 1), (1, 0)), (90, (1, 0), (0, -1)), (180, (0, -1), (-1, 0)), (270, (-1, 0), (0, 1))],
)
def test_azimuth_is_clockwise_from_north_and_crosslines_lie_to_the_right(azimuth, inline, crossline):
    assert Grid((0, 0), azimuth, 2, 2, 1, 1, 1, 1).axes == pytest.approx(np.array([inline, crossline]), abs=1e-15)
    left = Grid((0, 0), azimuth, 2, 2, 1, 1, 1, 1, crossline_side="left")
    assert left.axes == pytest.approx(np.array([inline, np.negative(crossline)]), abs=1e-15)


def test_positions_times_and_numbers():
    grid = Grid((1000.0, 2000.0), 90.0, 3, 2, 25.0, 50.0, 4, 0.002, 0.1, inline=(100, 2), crossline=(7, -1))
    x, y = grid.map
    assert x == pytest.approx(np.array([[1000, 1000], [1025, 1025], [1050, 1050]]))
    assert y == pytest.approx(np.array([[2000, 1950]] * 3))
    assert grid.t == pytest.approx([0.1, 0.102, 0.104, 0.106])
    assert grid.inlines.tolist() == [100, 102, 104]
    assert grid.crosslines.tolist() == [7, 6]
    assert (grid.shape, grid.size) == ((3, 2, 4), 6)
    assert grid.centre == pytest.approx((1025, 1975))


@settings(deadline=None, max_examples=40)
@given(
    st.floats(-720, 720),
    st.floats(-1e7, 1e7),
    st.floats(-1e7, 1e7),
    st.sampled_from(["right", "left"]),
    st.floats(1, 99),
)
def test_indices_undo_positions_anywhere(azimuth, x, y, side, step):
    grid = Grid((x, y), azimuth, 5, 6, step, 2 * step, 1, 1, crossline_side=side)
    ix, iy = grid.indices(*grid.position(np.arange(5)[:, None], np.arange(6)))
    assert ix == pytest.approx(np.broadcast_to(np.arange(5.0)[:, None], (5, 6)), abs=1e-6)
    assert iy == pytest.approx(np.broadcast_to(np.arange(6.0), (5, 6)), abs=1e-6)


@settings(deadline=None, max_examples=25)
@given(st.floats(0, 360), st.sampled_from([0.0, 5e5, 5e6]), st.sampled_from(["right", "left"]))
def test_the_local_frame_does_not_see_where_the_grid_lies(azimuth, far, side):
    here = Grid((0, 0), 0, 4, 5, 25, 12.5, 1, 1, crossline_side=side)
    there = Grid((far, 2 * far), azimuth, 4, 5, 25, 12.5, 1, 1, crossline_side=side)
    assert there.local(there.pillars) == pytest.approx(here.local_pillars, abs=1e-7)
    assert there.local_pillars == pytest.approx(here.local_pillars, abs=0)
    # float32 of absolute coordinates would move bins by up to half a metre; of local ones by micrometres.
    assert np.abs(there.local(there.pillars).astype(np.float32) - here.local_pillars).max() < 1e-4


@pytest.mark.parametrize("azimuth", [0.0, 12.0, 40.0, -33.0])
@pytest.mark.parametrize("steps", [(25.0, 25.0), (12.5, 37.5)])
def test_a_lattice_of_midpoints_is_found(azimuth, steps):
    place = lattice(11, 9, *steps, azimuth, (431000.0, 6780000.0))
    bins = suggest_bins(np.concatenate([place, place]))
    assert bins.regular
    assert bins.azimuth == pytest.approx(azimuth, abs=0.003)
    assert (bins.dx, bins.dy) == pytest.approx(steps, abs=0.002)


def test_a_large_rotated_lattice_with_holes_is_fitted_to_its_far_end():
    place = lattice(400, 300, 25.0 / 3, 12.5, 37.123, (431000.0, 6780000.0))
    place = place[np.random.default_rng(1).uniform(size=len(place)) < 0.7]
    bins = suggest_bins(place)
    # Centimetre headers, and still no bin drifts away over kilometres.
    assert abs(bins.dx - 25.0 / 3) * 400 < 0.05
    assert bins.dy == 12.5
    assert np.radians(abs(bins.azimuth - 37.123)) * 5000 < 0.05


def test_scattered_midpoints_get_a_standard_bin():
    place = np.random.default_rng(3).uniform(0, 1000, (1600, 2))
    bins = suggest_bins(place)
    assert not bins.regular
    assert bins.dx == bins.dy == 25.0


def test_a_grid_over_a_survey_puts_bins_on_midpoints():
    place = lattice(11, 9, 25.0, 50.0, 0.0, (1000.0, 500.0))
    grid = Grid.from_survey(survey_over(place, delay=0.1))
    assert (grid.nx, grid.ny, grid.dx, grid.dy) == (11, 9, 25.0, 50.0)
    assert grid.origin == (1000.0, 500.0)
    assert grid.nt == 36  # 0.1 s of delay and 10 intervals of 4 ms, from time 0
    assert np.abs(np.sort(grid.pillars, axis=0) - np.sort(place, axis=0)).max() < 1e-6
    other = Grid.from_survey(survey_over(place), bin_size=(50, 100), azimuth=90, nt=7, dt=0.008)
    assert (other.nx, other.ny, other.dx, other.dy, other.nt, other.dt) == (9, 3, 50, 100, 7, 0.008)


def test_a_line_is_one_bin_wide():
    place = np.stack([np.arange(20) * 12.5, np.zeros(20)], axis=1)
    grid = Grid.from_survey(survey_over(place))
    assert sorted(grid.shape[:2]) == [1, 20]
    assert grid.dx == grid.dy == 12.5


def test_one_midpoint_is_a_grid_too():
    assert Grid.from_survey(survey_over([[10.0, 20.0]])).shape == (1, 1, 11)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"nx": 0}, "nx is 0"),
        ({"ny": 2.5}, "ny is 2.5"),
        ({"dx": 0}, "dx is 0"),
        ({"dy": -25}, "dy is -25"),
        ({"dt": float("inf")}, "dt is inf"),
        ({"t0": -0.1}, "t0 is -0.1"),
        ({"azimuth": float("nan")}, "azimuth is nan"),
        ({"origin": (0, float("nan"))}, "must be finite"),
        ({"inline": (1, 0)}, "step between numbers"),
        ({"crossline_side": "up"}, "right, left"),
    ],
)
def test_wrong_grids_are_named(change, words):
    base = {"origin": (0, 0), "azimuth": 0, "nx": 2, "ny": 2, "dx": 25, "dy": 25, "nt": 10, "dt": 0.002}
    with pytest.raises(InputError, match=words.replace(".", r"\.")):
        Grid(**base | change)


TIMES = {"nt": 5, "dt": 0.004, "t0": 0.1}


def corners_of(grid):
    x, y = grid.position([0, grid.nx - 1, grid.nx - 1, 0], [0, 0, grid.ny - 1, grid.ny - 1])
    return np.stack([x, y], axis=1)


def close(a, b, within=1e-3):
    assert a.shape == b.shape
    assert (a.inline, a.crossline, a.crossline_side) == (b.inline, b.crossline, b.crossline_side)
    assert np.abs(a.pillars - b.pillars).max() < within
    assert a.t == pytest.approx(b.t)


@settings(deadline=None, max_examples=30)
@given(st.floats(-179, 179), st.sampled_from(["right", "left"]), st.sampled_from([(7, 5), (1, 5), (7, 1), (40, 3)]))
def test_four_corners_make_the_grid(azimuth, side, size):
    side = side if min(size) > 1 else "right"
    grid = Grid((431000.0, 6780000.0), azimuth, *size, 25.0, 12.5, **TIMES, crossline_side=side)
    close(Grid.from_corners(corners_of(grid), 25.0, 12.5, **TIMES), grid)


def test_corners_are_rounded_in_life():
    grid = Grid((431000.3, 6780000.7), 37.0, 101, 51, 25.0, 25.0, **TIMES)
    close(Grid.from_corners(np.round(corners_of(grid)), 25.0, 25.0, **TIMES), grid, within=1.0)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            lambda c: c + np.array([[0, 0], [0, 0], [30, 0], [0, 0]]),
            r"corner [1-4] is .* m from that of the nearest grid",
        ),
        (lambda c: c[[0, 2, 1, 3]], "in order around"),
        (lambda c: c * 1.03, "whole numbers of 25 m"),
        (lambda c: c[:3], r"give \(4, 2\)"),
        (lambda c: c * np.nan, "finite"),
        (lambda c: c + np.array([[0, 0], [400, 0], [400, 0], [0, 0]]), "more than 60 degrees|nearest grid"),
    ],
)
def test_wrong_corners_are_named(change, words):
    grid = Grid((0, 0), 0, 11, 21, 25.0, 25.0, **TIMES)
    with pytest.raises(InputError, match=words):
        Grid.from_corners(change(corners_of(grid)), 25.0, 25.0, **TIMES)


@settings(deadline=None, max_examples=30)
@given(
    st.floats(-179, 179),
    st.sampled_from(["right", "left"]),
    st.sampled_from([(100, 2), (500, -4)]),
    st.sampled_from([(7, 1), (90, -3)]),
)
def test_three_bins_with_numbers_make_the_grid(azimuth, side, inline, crossline):
    grid = Grid((431000.0, 6780000.0), azimuth, 9, 6, 12.5, 25.0, **TIMES, inline=inline, crossline=crossline,
                crossline_side=side)  # fmt: skip
    i, j = np.array([0, 8, 3]), np.array([0, 1, 5])
    x, y = grid.position(i, j)
    known = np.stack([grid.inlines[i], grid.crosslines[j], x, y], axis=1)
    ranges = [(int(n[0]), int(n[-1]), step) for n, (_, step) in ((grid.inlines, inline), (grid.crosslines, crossline))]
    close(Grid.from_lines(known, *ranges, **TIMES), grid)
    numbers = grid.line_numbers(x, y)
    assert numbers[0] == pytest.approx(grid.inlines[i], abs=1e-6)
    assert numbers[1] == pytest.approx(grid.crosslines[j], abs=1e-6)


@pytest.mark.parametrize(
    ("known", "inline", "words"),
    [
        ([(1, 1, 0, 0), (2, 1, 25, 0)], (1, 9, 1), "three or more"),
        ([(1, 1, 0, 0), (2, 1, 25, 0), (3, 1, 50, 0)], (1, 9, 1), "not on one line"),
        ([(1, 1, 0, 0), (2, 1, 25, 0), (1, 2, 5, 25)], (1, 9, 1), r"axes meet at 78\.69 degrees"),
        ([(1, 1, 0, 0), (2, 1, 25, 0), (1, 2, 100, 10)], (1, 9, 1), "more than 60 degrees"),
        ([(1, 1, 0, 0), (2, 1, 0, 0), (1, 2, 0, 25)], (1, 9, 1), "same coordinates"),
        ([(1, 1, 0, 0), (2, 1, 25, 0), (1, 2, 0, 25), (2, 2, 25, 60)], (1, 9, 1), "where a rectangular grid puts it"),
        ([(1, 1, 0, 0), (2, 1, 25, 0), (1, 2, 0, 25)], (1, 8, 2), "1 does not lead to 8 in steps of 2"),
        ([(1, 1, 0, 0), (2, 1, 25, 0), (1, 2, 0, 25)], (9, 1, 1), "9 does not lead to 1"),
        ([(1, 1, 0, 0), (2, 1, 25, 0), (1, 2, 0, 25)], 9, "first number, last number and step"),
        ([(1, 1, 0)], (1, 9, 1), r"give \(n, 4\)"),
    ],
)
def test_wrong_line_numbers_are_named(known, inline, words):
    with pytest.raises(InputError, match=words):
        Grid.from_lines(known, inline, (1, 9, 1), **TIMES)


def test_a_box_is_covered():
    grid = Grid.from_box((1000, 2010), (500, 600), dx=25, dy=50, **TIMES)
    assert (grid.shape, grid.origin) == ((5, 22, 5), (1000.0, 500.0))
    assert [c.max() for c in grid.map] == [2050.0, 600.0]
    with pytest.raises(InputError, match="lower limit first"):
        Grid.from_box((5, 1), (0, 1), dx=1, dy=1, **TIMES)
