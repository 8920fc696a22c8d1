from __future__ import annotations

import numpy as np
import pytest

from elinvar.errors import InputError
from elinvar.seismic import Grid, Velocity, migrate, plan, synthetic, targets

V = Velocity.constant(2500)
GRID = Grid((500_075.0, 6_000_060.0), 33, 7, 5, 25, 12.5, 60, 0.004, 0.2, inline=(100, 10), crossline=(50, -1))


@pytest.fixture(scope="module")
def survey():
    return synthetic.diffractors(
        [(500_120, 6_000_100, 400)], extent=200, offsets=(150,), nt=300, origin=(500_000, 6_000_000)
    )


@pytest.fixture(scope="module")
def image(survey):
    return migrate(survey, V, GRID, gathers=[0, 200], device="cpu")


def test_target_lines_are_the_same_bits_as_in_the_whole(survey, image):
    part = targets.lines(GRID, inlines=[150, 110, 120], crosslines=[49, 46])
    found = migrate(survey, V, part, gathers=[0, 200], device="cpu")
    assert found.image.inline.values.tolist() == [110, 120, 150]
    assert found.image.crossline.values.tolist() == [49, 46]
    known = image.image.sel(inline=[110, 120, 150], crossline=[49, 46])
    assert np.array_equal(found.image.values, known.values)
    assert np.array_equal(found.gathers.values, image.gathers.sel(inline=[110, 120, 150], crossline=[49, 46]).values)
    assert found.image.cdp_x.values == pytest.approx(known.cdp_x.values, abs=1e-9)
    assert found.image.cdp_y.values == pytest.approx(known.cdp_y.values, abs=1e-9)
    assert found.attributes["area_m2"] == image.attributes["area_m2"]


def test_one_line_costs_its_share(survey):
    one = plan(survey, V, targets.lines(GRID, inlines=120), device="cpu")
    whole = plan(survey, V, GRID, device="cpu")
    assert one.contributions == pytest.approx(whole.contributions / GRID.nx, rel=0.1)


def test_a_part_reads_only_the_traces_that_reach_it(relative):
    wide = synthetic.diffractors([(400, 300, 300)], extent=(2000, 600), offsets=(100,), nt=250)
    grid = Grid((0, 0), 0, 81, 25, 25, 25, 60, 0.004)
    part = targets.lines(grid, inlines=[15, 17])
    assert plan(wide, V, part, device="cpu").traces < 0.5 * plan(wide, V, grid, device="cpu").traces
    found = migrate(wide, V, part, device="cpu")
    whole = migrate(wide, V, grid, device="cpu")
    assert relative(found.values, whole.values[[14, 16]]) < 1e-6
    assert np.array_equal(found.counts, whole.counts[[14, 16]])


def test_picked_pillars_are_the_same_bits_too(survey, image):
    chosen = np.random.default_rng(0).random((7, 5)) < 0.4
    part = targets.pillars(GRID, chosen)
    found = migrate(survey, V, part, device="cpu")
    assert part.pillars == pytest.approx(GRID.pillars[chosen.ravel()], abs=1e-9)
    assert np.array_equal(found.values[:, 0], image.values[chosen])
    assert np.array_equal(found.counts[:, 0], image.counts[chosen])


def test_parts_of_parts(survey, image):
    part = targets.lines(targets.lines(GRID, inlines=[110, 120, 150]), inlines=[150, 110])
    assert part.inlines.tolist() == [110, 150]
    assert np.array_equal(migrate(survey, V, part, device="cpu").values, image.values[[1, 5]])
    few = np.zeros((2, 5), bool)
    few[1, 3] = True
    assert targets.pillars(part, few).pillars[0] == pytest.approx(GRID.pillars[5 * 5 + 3])


def test_places_and_indices_agree():
    part = targets.lines(GRID, inlines=[100, 130, 160], crosslines=[50, 47])
    x, y = part.position([0, 1, 2, 0.5], [0, 1, 1, 0])
    ix, iy = part.indices(x, y)
    assert ix == pytest.approx([0, 1, 2, 0.5])
    assert iy == pytest.approx([0, 1, 1, 0], abs=1e-6)
    assert np.stack(GRID.position(3, 3)) == pytest.approx([x[1], y[1]])
    with pytest.raises(NotImplementedError, match="indices"):
        targets.pillars(GRID, np.ones((7, 5), bool)).indices(0, 0)


def test_every_second_line_and_the_last():
    thin, rows, columns = targets.thinned(GRID, 4)
    assert rows.tolist() == [0, 4, 6]
    assert columns.tolist() == [0, 4]
    assert thin.inlines.tolist() == [100, 140, 160]


def test_parts_compare_and_hash_as_what_they_are():
    one, same, other = (targets.lines(GRID, inlines=i) for i in (100, 100, 110))
    assert one == same
    assert hash(one) == hash(same)
    assert one != other
    assert one != GRID


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: targets.lines(GRID, inlines=[105]), "no inline 105; the grid has inlines 100 to 160 in steps of 10"),
        (lambda: targets.lines(GRID, crosslines=[]), "none is given"),
        (lambda: targets.pillars(GRID, np.zeros((7, 5), bool)), "one at least"),
        (lambda: targets.pillars(GRID, np.ones((5, 7), bool)), r"flags \(7, 5\)"),
        (lambda: targets.pillars(GRID, np.ones((7, 5))), "float64"),
    ],
)
def test_wrong_targets_are_named(call, words):
    with pytest.raises(InputError, match=words):
        call()
