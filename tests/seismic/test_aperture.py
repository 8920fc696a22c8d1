from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from elinvar.errors import InputError
from elinvar.seismic import Aperture
from elinvar.seismic.kernels.migrate.aperture import rim_weight


def test_the_radius_is_depth_times_the_tangent_of_the_dip():
    # z = 1000 m, 45 degrees: a reflector dipping like that below the bin is recorded 1000 m away.
    assert Aperture(dip=45).radius_at(0.8, 2500.0) == pytest.approx(1000.0)
    assert Aperture(dip=60).radius_at(0.8, 2500.0) == pytest.approx(1000.0 * math.sqrt(3))
    assert Aperture(dip=45, radius=700).radius_at(0.8, 2500.0) == 700
    assert Aperture(dip=45, minimum=50).radius_at(0.0, 2500.0) == 50
    assert Aperture(dip=None, radius=700).radius_at([0.0, 3.0], 2500.0).tolist() == [700, 700]


def test_the_weight_falls_smoothly():
    aperture = Aperture(taper=0.2)
    assert aperture.weight([0, 800, 900, 1000, 1001], 1000.0) == pytest.approx([1, 1, 0.5, 0, 0], abs=1e-12)
    assert Aperture(taper=0).weight([999, 1000, 1001], 1000.0).tolist() == [1, 1, 0]


@settings(deadline=None, max_examples=60)
@given(
    st.floats(1, 89), st.one_of(st.none(), st.floats(100, 5e3)), st.floats(0, 1), st.floats(0, 90), st.floats(0, 4),
    st.floats(0, 6e3),
)  # fmt: skip
def test_kernels_have_the_same_aperture(dip, radius, taper, minimum, t0, distance):
    mine = Aperture(dip, radius, taper, minimum)
    theirs = mine.for_kernel()
    r = mine.radius_at(t0, 2300.0)
    v, t, d = (torch.tensor(number, dtype=torch.float64) for number in (2300.0, t0, distance))
    assert float(theirs.radius(v, t)) == pytest.approx(float(r))
    known = float(rim_weight(d, torch.tensor(float(r), dtype=torch.float64), taper))
    assert float(mine.weight(distance, r)) == pytest.approx(known, abs=1e-6)


def test_no_dip_limit_means_none():
    assert math.isinf(Aperture(dip=None, radius=300.0).for_kernel().tan_dip)
    assert math.isinf(Aperture(dip=30.0).for_kernel().maximum)
    assert np.isinf(Aperture(dip=None, radius=1e9).slope)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"dip": 90}, r"dip is 90"),
        ({"dip": 0}, r"dip is 0"),
        ({"dip": None}, "both None"),
        ({"radius": 0}, "radius is 0"),
        ({"taper": 1.5}, "taper is 1.5"),
        ({"minimum": -1}, "minimum is -1"),
        ({"radius": 100, "minimum": 200}, "exceeds radius"),
    ],
)
def test_wrong_apertures_are_named(options, words):
    with pytest.raises(InputError, match=words):
        Aperture(**options)
