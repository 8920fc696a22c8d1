from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from elinvar.errors import InputError
from elinvar.seismic import Velocity, travel_time
from elinvar.seismic.traveltime import curved_leg, straight_leg, vti_leg

metres = st.floats(-5e3, 5e3)
point = st.tuples(metres, metres)


def test_zero_offset_at_the_image_point_takes_t0():
    # The code this idea comes from once put the two-way time into a one-way slot: everything was late by a factor 2.
    for physics, velocity, eta in (
        ("straight", Velocity.constant(2500), None),
        ("curved", Velocity.linear(1800, 0.6), None),
        ("vti", Velocity.constant(2500), 0.1),
    ):
        t = travel_time((0, 0), (0, 0), (0, 0), 0.64, velocity, physics=physics, eta=eta)
        assert t == pytest.approx(0.64, abs=1e-14)


def test_straight_is_the_geometry_of_a_constant_medium():
    # z = 800 m, v = 2500 m/s: slant distances divided by the velocity.
    t = travel_time((-300, 0), (500, 0), (0, 0), 0.64, Velocity.constant(2500))
    assert t == pytest.approx((np.hypot(300, 800) + np.hypot(500, 800)) / 2500, rel=1e-14)


@settings(deadline=None, max_examples=40)
@given(point, point, point, st.floats(0, 4), st.sampled_from(["straight", "curved", "vti"]))
def test_swapping_source_and_receiver_changes_nothing(source, receiver, place, t0, physics):
    velocity = Velocity.linear(1800, 0.6)
    eta = 0.12 if physics == "vti" else None
    there = travel_time(source, receiver, place, t0, velocity, physics=physics, eta=eta)
    back = travel_time(receiver, source, place, t0, velocity, physics=physics, eta=eta)
    assert there == pytest.approx(back, rel=1e-14)
    assert there >= t0 - 1e-12


def test_leading_dimensions_broadcast():
    source = np.zeros((7, 1, 1, 2))
    t = travel_time(source, source + 100, np.zeros((5, 1, 2)), np.linspace(0, 1, 11), Velocity.constant(2000))
    assert t.shape == (7, 5, 11)
    assert t.dtype == np.float64


def test_curved_ray_at_the_published_point():
    # v = 1800 + 0.6 z, z = 1200 m, x = 2002 m: 1.0771 s exactly, 1.0764 s by finite differences, 0.488 s by the
    # formula that decreases with offset.
    tau = np.log(1 + 0.6 * 1200 / 1800) / 0.6
    assert curved_leg(2002.0, tau, 1800, 0.6) == pytest.approx(1.0771, abs=5e-5)


@pytest.mark.parametrize("k", [-0.4, 0.3, 0.6, 1.5])
def test_curved_time_grows_with_offset(k):
    t = curved_leg(np.linspace(0, 8000, 400), 0.5, 2500.0, k)
    assert (np.diff(t) > 0).all()


def test_curved_ray_tends_to_the_straight_one():
    h = np.linspace(0, 4000, 50)
    exact = straight_leg(h, 0.6, 2000.0)
    assert np.abs(curved_leg(h, 0.6, 2000.0, 1e-6) - exact).max() < 1e-6
    assert np.abs(curved_leg(h, 0.6, 2000.0, 1e-8) - exact).max() < 1e-12
    assert np.abs(curved_leg(h, 0.6, 2000.0, -1e-6) - exact).max() < 1e-6


def test_curved_ray_obeys_the_eikonal_equation():
    # |grad t| = 1/v(z) at the buried point, by differences: independent of the arccosh formula.
    v0, k, h, z, step = 1800.0, 0.6, 1500.0, 1200.0, 0.01

    def time(x, depth):
        return float(curved_leg(x, np.log1p(k * depth / v0) / k, v0, k))

    dx = (time(h + step, z) - time(h - step, z)) / (2 * step)
    dz = (time(h, z + step) - time(h, z - step)) / (2 * step)
    assert np.hypot(dx, dz) == pytest.approx(1 / (v0 + k * z), rel=1e-7)


def test_curved_rays_agree_with_a_finite_difference_wave_field(shared, peak):
    data = np.load(shared / "fd_green_v1800_k0.6_z1200.npz")
    v0, k, z = float(data["v0"]), float(data["k"]), float(data["zs"])
    tau = np.log1p(k * z / v0) / k
    found = np.array([peak(data["t"], trace)[0] for trace in data["g"].T]) - float(data["t_delay"])
    difference = 1e3 * (found - curved_leg(data["r"], tau, v0, k))
    # The scheme evaluates between time steps: a constant bias, not a function of offset.
    assert difference.min() > -0.80
    assert difference.max() < -0.50
    assert np.ptp(difference) < 0.2


def test_straight_rays_in_that_medium_are_late_far_out():
    v = Velocity.linear(1800, 0.6)
    t0 = 2 * np.log1p(0.6 * 1200 / 1800) / 0.6
    straight = straight_leg(2002.0, t0 / 2, v.rms(t0))
    assert 2e-3 < straight - curved_leg(2002.0, t0 / 2, 1800, 0.6) < 40e-3


def test_vti_without_anellipticity_is_straight():
    h = np.linspace(0, 5000, 60)
    assert vti_leg(h, 0.7, 2200.0, 0.0) == pytest.approx(straight_leg(h, 0.7, 2200.0), rel=1e-15)


def test_vti_two_equal_legs_are_alkhalifah_and_tsvankin():
    # Their reflection moveout with offset x = 2h and two-way time 2 tau.
    x, t0, v, eta = 3000.0, 1.2, 2400.0, 0.15
    known = t0**2 + x**2 / v**2 - 2 * eta * x**4 / (v**2 * (t0**2 * v**2 + (1 + 2 * eta) * x**2))
    assert (2 * vti_leg(x / 2, t0 / 2, v, eta)) ** 2 == pytest.approx(known, rel=1e-14)


def test_positive_eta_arrives_earlier_and_far_out_travels_horizontally():
    assert vti_leg(3000.0, 0.5, 2000.0, 0.2) < straight_leg(3000.0, 0.5, 2000.0)
    h = np.array([1e6, 1e6 + 1000])
    slowness = np.diff(vti_leg(h, 0.5, 2000.0, 0.2))[0] / 1000
    assert 1 / slowness == pytest.approx(2000 * np.sqrt(1.4), rel=1e-3)


@pytest.mark.parametrize(
    ("arguments", "options", "words"),
    [
        (((0, 0), (0, 0), (0, 0), 1.0, 2000.0), {"physics": "ray"}, "straight, curved, vti"),
        (((0, 0, 0), (0, 0), (0, 0), 1.0, 2000.0), {}, "elevations"),
        (((0, 0), (0, 0), (0, 0), -1.0, 2000.0), {}, "two-way times"),
        (((0, 0), (0, 0), (0, 0), 1.0, 0.0), {}, "velocity reaches 0"),
        (((0, 0), (0, 0), (0, 0), 1.0, 2000.0), {"physics": "curved"}, "Velocity.linear"),
        (((0, 0), (0, 0), (0, 0), 1.0, Velocity.table([1], [2000])), {"physics": "curved"}, "Velocity.linear"),
        (((0, 0), (0, 0), (0, 0), 1.0, 2000.0), {"physics": "vti"}, "needs eta"),
        (((0, 0), (0, 0), (0, 0), 1.0, 2000.0), {"physics": "vti", "eta": 0.7}, "eta reaches 0.7"),
        (((0, 0), (0, 0), (0, 0), 1.0, 2000.0), {"eta": 0.1}, "belongs to physics='vti'"),
    ],
)
def test_wrong_arguments_are_named(arguments, options, words):
    with pytest.raises(InputError, match=words.replace(".", r"\.")):
        travel_time(*arguments, **options)


def test_ends_above_the_datum():
    """In one velocity the legs are straight lines; v0 + k z goes on above; on the datum nothing changes."""
    rng = np.random.default_rng(0)
    source, receiver, point = (rng.uniform(-900, 900, (8, 2)) for _ in range(3))
    up, down, t0 = rng.uniform(0, 200, 8), rng.uniform(-50, 0, 8), rng.uniform(0.3, 2, 8)
    z = 1250.0 * t0
    legs = [np.hypot(np.hypot(*(end - point).T), z + h) / 2500 for end, h in ((source, up), (receiver, down))]
    heights = {"source_height": up, "receiver_height": down}
    found = travel_time(source, receiver, point, t0, Velocity.constant(2500), replacement=2500, **heights)
    assert found == pytest.approx(sum(legs), rel=1e-12)
    medium = Velocity.linear(2000, 0.5)
    z = 4000.0 * np.expm1(0.25 * t0)
    known = 0.0
    for end, h in ((source, up), (receiver, down)):
        far = ((end - point) ** 2).sum(1) + (z + h) ** 2
        known = known + np.arccosh(1 + 0.25 * far / (2 * (2000 - 0.5 * h) * (2000 + 0.5 * z))) / 0.5
    assert travel_time(source, receiver, point, t0, medium, physics="curved", **heights) == pytest.approx(known)
    for physics, eta in (("straight", None), ("vti", 0.1)):
        level = travel_time(
            source, receiver, point, t0, 2300.0, physics=physics, eta=eta, source_height=0.0, replacement=900
        )
        assert level == pytest.approx(travel_time(source, receiver, point, t0, 2300.0, physics=physics, eta=eta))
    assert np.isnan(travel_time((0, 0), (0, 0), (0, 0), 0.1, 2000.0, source_height=-200.0, replacement=2000))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"replacement": 1500}, "replacement belongs to heights"),
        ({"source_height": 10.0}, "replacement is None"),
        ({"source_height": 10.0, "replacement": 1500, "physics": "curved"}, "no replacement"),
    ],
)
def test_wrong_heights_are_named(options, words):
    with pytest.raises(InputError, match=words):
        travel_time((0, 0), (100, 0), (0, 0), 1.0, Velocity.linear(2000, 0.5), **options)
