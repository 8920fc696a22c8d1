from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from elinvar.errors import InputError
from elinvar.seismic import Aperture, Grid, Survey, Velocity, migrate
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
        ({"inline": 0}, "inline is 0"),
        ({"crossline": -5}, "crossline is -5"),
        ({"leg_dip": 90}, "leg_dip is 90"),
        ({"stretch": 1}, "stretch is 1"),
    ],
)
def test_wrong_apertures_are_named(options, words):
    with pytest.raises(InputError, match=words):
        Aperture(**options)


def test_limits_are_passed_on_only_when_there_are_some():
    assert Aperture().limits() is None
    assert str(Aperture()) == "dip 45.0, radius None, taper 0.2, minimum 0.0"
    limits = Aperture(inline=500, leg_dip=45, minimum=30, stretch=1.5, taper=0.3).limits()
    assert (limits.x, limits.stretch, limits.minimum, limits.taper) == (500, 1.5, 30, 0.3)
    assert limits.tan_leg == pytest.approx(1)
    assert math.isinf(limits.y)
    assert str(Aperture(inline=500, stretch=1.5)).endswith("minimum 0.0, inline 500, stretch 1.5")


# By what is allowed of: midpoint along both axes, distances of both legs, depth, stretch.
LIMITS = {
    "inline": ({"inline": 180.0}, lambda x, y, hs, hr, z, ratio: abs(x) <= 180),
    "crossline": ({"crossline": 90.0}, lambda x, y, hs, hr, z, ratio: abs(y) <= 90),
    "both": ({"inline": 180.0, "crossline": 90.0}, lambda x, y, hs, hr, z, ratio: (abs(x) <= 180) & (abs(y) <= 90)),
    "legs": ({"leg_dip": 40.0}, lambda x, y, hs, hr, z, ratio: np.maximum(hs, hr) <= z * math.tan(math.radians(40))),
    "stretch": ({"stretch": 1.2}, lambda x, y, hs, hr, z, ratio: ratio <= 1.2),
}


@pytest.mark.parametrize("which", LIMITS)
def test_the_fold_is_what_the_limits_leave(which):
    """Counted by definition, on a grid that is turned: limits are along its axes."""
    options, allowed = LIMITS[which]
    rng = np.random.default_rng(4)
    middle, half = rng.uniform(-400, 400, (120, 2)), rng.uniform(-300, 300, (120, 2))
    survey = Survey.from_arrays(rng.standard_normal((120, 300)), middle - half, middle + half, 0.004)
    grid = Grid((5.0, -8.0), 30.0, 1, 1, 25, 25, 80, 0.01, 0.1)
    aperture = Aperture(dip=None, radius=500.0, taper=0.3, **options)
    image = migrate(survey, Velocity.constant(2000), grid, aperture=aperture, device="cpu")
    assert image.job.version == ("baseline" if which in ("legs", "stretch") else "v2")
    a = math.radians(30.0)  # clockwise from north
    inline, crossline = np.array([math.sin(a), math.cos(a)]), np.array([math.cos(a), -math.sin(a)])
    m, s, r = (end - np.array(grid.origin) for end in (survey.midpoint, survey.source, survey.receiver))
    z = 1000.0 * grid.t
    hs, hr = (np.hypot(*end.T)[:, None] for end in (s, r))
    legs = np.sqrt(hs**2 + z**2), np.sqrt(hr**2 + z**2)
    angle = np.arccos(np.clip(((s * r).sum(1)[:, None] + z**2) / (legs[0] * legs[1]), -1, 1))
    inside = allowed((m @ inline)[:, None], (m @ crossline)[:, None], hs, hr, z, 1 / np.cos(angle / 2))
    t = (legs[0] + legs[1]) / 2000
    known = (inside & (np.hypot(*m.T)[:, None] <= 500) & (t <= 299 * 0.004)).sum(0)
    assert np.array_equal(image.counts[0, 0], known)
    assert 0 < known.sum() < 120 * 80


def test_limits_taper(relative):
    """A wide rim changes the image and not the fold."""
    rng = np.random.default_rng(4)
    middle = rng.uniform(-400, 400, (60, 2))
    survey = Survey.from_arrays(rng.standard_normal((60, 200)), middle, middle, 0.004)
    grid = Grid((0.0, 0.0), 0.0, 1, 1, 25, 25, 80, 0.01, 0.1)
    apertures = [Aperture(dip=None, radius=1e4, taper=taper, inline=300.0) for taper in (0.0, 0.5)]
    images = [migrate(survey, Velocity.constant(2000), grid, device="cpu", aperture=one) for one in apertures]
    assert np.array_equal(images[0].counts, images[1].counts)
    assert 0.05 < relative(images[1].values, images[0].values) < 1
