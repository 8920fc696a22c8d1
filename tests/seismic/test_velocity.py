from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from elinvar.errors import InputError
from elinvar.seismic import Grid, Velocity
from elinvar.seismic.velocity import dix

T = np.array([0.5, 1.0, 1.8, 3.0])
LAYERS = np.array([1600.0, 2100.0, 2600.0, 3400.0])


def integrate(velocity, t, power):
    """Mean of v_interval^power over 0..t, by summation."""
    fine = (np.arange(200_000) + 0.5) * t / 200_000
    return np.mean(velocity.interval(fine) ** power)


def test_constant():
    v = Velocity.constant(2500)
    assert (v.rms(np.linspace(0, 4, 9)) == 2500).all()
    assert (v.average([1.0]) == 2500).all()
    assert v.gradient() == (2500, 0)
    assert v.on_pillars(np.arange(5) * 0.1, np.zeros((3, 2))).shape == (1, 5)


@pytest.mark.parametrize("velocity", [Velocity.linear(1800, 0.6), Velocity.table(T, LAYERS, "interval")], ids=str)
@pytest.mark.parametrize("t", [0.3, 1.0, 1.4, 4.0])
def test_rms_and_average_are_means_of_the_interval_velocity(velocity, t):
    assert velocity.rms(t) ** 2 == pytest.approx(integrate(velocity, t, 2), rel=1e-5)
    assert velocity.average(t) == pytest.approx(integrate(velocity, t, 1), rel=1e-5)


def test_linear_by_the_closed_form():
    t = np.array([0.4, 2.0])
    assert Velocity.linear(1800, 0.6).rms(t) == pytest.approx(1800 * np.sqrt((np.exp(0.6 * t) - 1) / (0.6 * t)))
    assert Velocity.linear(1800, 0.6).rms(0.0) == 1800
    assert Velocity.linear(2000, -0.3).rms(1.0) < 2000


def test_an_rms_table_is_linear_between_and_constant_outside():
    v = Velocity.table([1.0, 2.0], [2000, 3000])
    assert v.rms([0.2, 1.0, 1.5, 2.0, 9.0]).tolist() == [2000, 2000, 2500, 3000, 3000]


@settings(deadline=None, max_examples=30)
@given(st.lists(st.floats(1000, 6000), min_size=1, max_size=8))
def test_dix_undoes_rms(layers):
    t = 0.3 * np.arange(1, len(layers) + 1)
    rms = Velocity.table(t, layers, "interval").rms(t)
    assert dix(t, rms) == pytest.approx(layers, rel=1e-9)
    assert Velocity.table(t, rms).interval(t - 0.15) == pytest.approx(layers, rel=1e-9)


def test_an_average_table_becomes_layers():
    layered = Velocity.table(T, LAYERS, "interval")
    averaged = Velocity.table(T, layered.average(T), "average")
    t = np.linspace(0, 4, 33)
    assert averaged.rms(t) == pytest.approx(layered.rms(t), rel=1e-12)
    assert averaged.interval(t) == pytest.approx(layered.interval(t), rel=1e-12)


def test_dix_names_the_impossible_pick():
    with pytest.raises(InputError, match=r"between 1 s and 1\.1 s"):
        dix([0.5, 1.0, 1.1], [2000, 3000, 2500])


GRID = Grid((1000.0, 2000.0), 30.0, 3, 4, 200.0, 300.0, 5, 0.5)


def test_a_cube_is_trilinear_and_clamped():
    i, j, k = np.meshgrid(range(3), range(4), range(5), indexing="ij")
    cube = Velocity.cube(2000 + 100 * i + 10 * j + 50 * k, GRID)
    x, y = GRID.position([0.5, 1.25, -3, 7], [1.5, 2.75, 0, 9])
    assert cube.rms([0.75, 1.0, 0.0, 9.0], x, y) == pytest.approx([2140, 2252.5, 2000, 2430])
    assert cube.on_pillars(GRID.t, GRID.pillars).shape == (12, 5)
    assert cube.on_pillars(GRID.t, GRID.pillars) == pytest.approx((2000 + 100 * i + 10 * j + 50 * k).reshape(12, 5))
    with pytest.raises(InputError, match="needs x and y"):
        cube.rms([1.0])


def test_a_cube_of_interval_velocities_is_converted():
    t = Grid((0, 0), 0, 1, 1, 1, 1, 6, 0.5).t
    layers = np.array([1500.0, 1500, 1800, 2200, 2500, 3000])
    cube = Velocity.cube(layers[None, None], Grid((0, 0), 0, 1, 1, 1, 1, 6, 0.5), "interval")
    table = Velocity.table(t[1:], layers[1:], "interval")
    assert cube.rms(t, 0.0, 0.0) == pytest.approx(table.rms(t), rel=1e-12)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Velocity.constant(2.5), "2.5 m/s is outside 100 to 12000"),
        (lambda: Velocity.constant(float("nan")), "nan"),
        (lambda: Velocity.constant("fast"), "give one number"),
        (lambda: Velocity.constant(1500, bounds=(2000, 3000)), "outside 2000 to 3000"),
        (lambda: Velocity.linear(1800, 60), "k is 60"),
        (lambda: Velocity.table([1, 2], [2000]), "equal length"),
        (lambda: Velocity.table([2, 1], [2000, 2100]), "increasing"),
        (lambda: Velocity.table([-1, 1], [2000, 2100]), "increasing"),
        (lambda: Velocity.table([1], [2000], "nmo"), "rms, interval, average"),
        (lambda: Velocity.table([0, 1], [1500, 2000], "interval"), "must be > 0"),
        (lambda: Velocity.table([1], [0.0]), "outside"),
        (lambda: Velocity.cube(np.ones((2, 2, 2)), GRID), "this grid needs"),
        (lambda: Velocity.cube(np.ones(GRID.shape), GRID), "outside"),
        (lambda: Velocity.table([1, 2], [3000, 1000], "average").rms(1.0), "depth decreases"),
    ],
)
def test_wrong_velocities_are_named(make, words):
    with pytest.raises(InputError, match=words.replace(".", r"\.")):
        make()


def test_a_cube_says_what_it_does_not_give():
    cube = Velocity.cube(np.full(GRID.shape, 2000.0), GRID)
    for name in ("interval", "average"):
        with pytest.raises(NotImplementedError, match=name):
            getattr(cube, name)([1.0], 0.0, 0.0)
