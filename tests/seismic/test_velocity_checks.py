from __future__ import annotations

import numpy as np
import pytest

from elinvar.seismic import Grid, Velocity
from elinvar.seismic.velocity_checks import check_velocity

T = np.linspace(0, 2, 101)
X, Y = np.meshgrid(np.arange(0, 1001, 250.0), np.arange(0, 501, 250.0), indexing="ij")
PLACES = np.stack([X, Y], axis=-1)


def test_a_constant_field_is_unremarkable():
    found = check_velocity(Velocity.constant(2500), T, PLACES)
    assert found.rms == pytest.approx((2500, 2500))
    assert found.interval == pytest.approx((2500, 2500))
    assert (found.gradient, found.lateral, found.inversions, found.impossible) == pytest.approx((0, 0, 0, 0), abs=1e-9)
    assert found.findings() == []


def test_the_gradient_of_a_linear_medium():
    found = check_velocity(Velocity.linear(1800, 0.6), T, PLACES)
    assert found.gradient == pytest.approx(0.6, rel=0.01)
    assert found.findings() == []
    assert "2.50 1/s" in check_velocity(Velocity.linear(1800, 2.5), T, PLACES).findings()[0]


def test_an_inversion_is_found():
    found = check_velocity(Velocity.table([0.5, 1.0, 2.0], [2000, 3000, 2500], "interval"), T, PLACES)
    assert found.inversions == pytest.approx(1 / 99)
    assert "slower than the one above" in found.findings()[0]


def test_layers_that_cannot_exist_are_found():
    found = check_velocity(Velocity.table([0.5, 0.6, 2.0], [3000, 2000, 2200]), T, PLACES)
    assert 0.02 < found.impossible < 0.08
    assert "Dix" in found.findings()[0]


def test_lateral_changes_are_per_kilometre():
    coarse = Grid((0, 0), 90, 2, 2, 1000, 500, 2, 2.0)  # +inline to the east
    values = np.full(coarse.shape, 2000.0)
    values[1] = 2500
    found = check_velocity(Velocity.cube(values, coarse), T, PLACES)
    assert found.lateral == pytest.approx(500, rel=1e-6)
    assert "500 m/s per km" in found.findings()[-1]
