"""Surveys on hills: legs begin where sources and receivers stand."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

from elinvar.errors import InputError
from elinvar.seismic import (
    Aperture,
    Grid,
    Survey,
    SurveyWarning,
    Velocity,
    floating_datum,
    migrate,
    synthetic,
    to_datum,
)  # fmt: skip
from elinvar.seismic.wavelet import ricker

V = 2500.0
POINT = np.array([300.0, 280.0, 600.0])  # depth below elevation 0
GRID = Grid((250.0, 230.0), 0, 5, 5, 25, 25, 60, 0.002, 0.42)


def hilly(n=500, seed=1, steep=200.0):
    """A diffractor under sources and receivers at elevations of up to 200 m, exact in a constant velocity."""
    rng = np.random.default_rng(seed)
    middle, half = rng.uniform(0, 600, (n, 2)), rng.uniform(-250, 250, (n, 2))
    source, receiver = middle - half, middle + half
    height = [steep * (0.5 + 0.5 * np.sin(end[:, 0] / 120) * np.cos(end[:, 1] / 90)) for end in (source, receiver)]
    t = sum(
        np.sqrt(((end - POINT[:2]) ** 2).sum(1) + (POINT[2] + h) ** 2) / V
        for end, h in zip((source, receiver), height, strict=True)
    )
    data = ricker(np.arange(500) * 0.002 - t[:, None], 30.0)
    return Survey.from_arrays(
        data, source, receiver, 0.002, bin_size=(25, 25), source_elevation=height[0], receiver_elevation=height[1]
    )


def focus(image):
    values = np.abs(image.values)
    return tuple(int(i) for i in np.unravel_index(np.argmax(values), values.shape)), float(values.max())


AT = (2, 2, 30)  # where the diffractor is: 600 m at 2500 m/s, 0.48 s


def test_a_diffractor_under_hills_is_found_where_it_is():
    survey = hilly()
    # Every trace has its peak at its time: summed as they are, they meet in the diffractor.
    how = {"aperture": Aperture(dip=60), "phase_filter": False, "device": "cpu"}
    true = migrate(survey, Velocity.constant(V), GRID, datum=0.0, replacement=V, **how)
    where, peak = focus(true)
    assert where == AT
    assert "2500" in true.image.attrs["datum"]
    shifted = migrate(to_datum(survey, 0.0, V), Velocity.constant(V), GRID, **how)
    with pytest.warns(SurveyWarning, match="apply statics"):
        blind = migrate(survey, Velocity.constant(V), GRID, **how)
    # Statics assume vertical rays, and without them nothing fits.
    assert focus(shifted)[1] < 0.9 * peak
    assert focus(blind)[1] < 0.6 * peak


def test_the_datum_moves_the_image_and_nothing_else(relative):
    """Times counted from 100 m above or below: the same image, sooner or later by the two-way time."""
    survey = hilly()
    how = {"replacement": V, "aperture": Aperture(dip=None, radius=400.0), "device": "cpu"}
    base = migrate(survey, Velocity.constant(V), GRID, datum=0.0, **how)
    for datum in (100.0, -100.0):
        there = Grid((250.0, 230.0), 0, 5, 5, 25, 25, 60, 0.002, 0.42 + 2 * datum / V)
        moved = migrate(survey, Velocity.constant(V), there, datum=datum, **how)
        assert relative(moved.values, base.values) < 2e-5
        assert np.array_equal(moved.counts, base.counts)
    floating = np.linspace(-80.0, 120.0, 25).reshape(5, 5)
    image = migrate(survey, Velocity.constant(V), GRID, datum=floating, **how)
    for i, j in ((0, 0), (4, 1)):
        one = Grid(tuple(GRID.map[k][i, j] for k in (0, 1)), 0, 1, 1, 25, 25, 60, 0.002, 0.42)
        alone = migrate(survey, Velocity.constant(V), one, datum=floating[i, j], **how)
        assert relative(image.values[i, j], alone.values[0, 0]) < 1e-6
    assert "-80 to 120 m" in image.image.attrs["datum"]


def test_a_flat_reflector_keeps_its_amplitude_under_a_flat_hill(peak):
    """Shot 150 m above the datum, in another velocity than the ground's: amplitude and time by the RMS of both."""
    survey = synthetic.flat_reflectors([0.8], extent=1800, offsets=(400,), velocity=V, nt=601)
    hill = Survey.from_arrays(
        survey.read(), survey.source, survey.receiver, 0.002, bin_size=(25, 25), source_elevation=150.0,
        receiver_elevation=150.0,
    )  # fmt: skip
    x, y = survey.grid.centre
    grid = Grid((x + 3, y - 5), 0, 1, 1, 25, 25, 100, 0.002, 0.58)
    image = migrate(hill, Velocity.constant(V), grid, datum=0.0, replacement=V, device="cpu")
    time, amplitude = peak(grid.t, image.values[0, 0].astype(float))
    assert abs(time - (0.8 - 2 * 150 / V)) < 2e-4
    assert amplitude == pytest.approx(1.0, abs=5e-3)
    # 1800 m/s above the datum; below it what makes 2500 m/s RMS from the surface.
    delta = 150 / 1800.0
    tau = 0.4 - delta
    below = np.sqrt((V**2 * 0.4 - 1800.0**2 * delta) / tau)
    grid = Grid((x + 3, y - 5), 0, 1, 1, 25, 25, 100, 0.002, 0.54)
    image = migrate(hill, Velocity.constant(below), grid, datum=0.0, replacement=1800.0, device="cpu")
    time, amplitude = peak(grid.t, image.values[0, 0].astype(float))
    assert abs(time - 2 * tau) < 2e-4
    assert amplitude == pytest.approx(1.0, abs=1.5e-2)  # the velocity from the surface varies with time here


def test_curved_rays_from_elevations():
    """A diffractor in v0 + k z that goes on above the datum, by the exact time between two points."""
    v0, k = 2000.0, 0.7
    survey = hilly()

    def time(end, h):
        far = ((end - POINT[:2]) ** 2).sum(1) + (POINT[2] + h) ** 2
        return np.arccosh(1 + k * k * far / (2 * (v0 - k * h) * (v0 + k * POINT[2]))) / k

    t = time(survey.source, survey.source_elevation) + time(survey.receiver, survey.receiver_elevation)
    made = survey.with_traces(
        Survey.from_arrays(
            ricker(np.arange(500) * 0.002 - t[:, None], 30.0), survey.source, survey.receiver, 2e-3
        ).traces
    )
    t0 = 2 / k * np.log1p(k * POINT[2] / v0)
    grid = Grid((250.0, 230.0), 0, 5, 5, 25, 25, 61, 0.002, t0 - 0.06)
    image = migrate(made, Velocity.linear(v0, k), grid, physics="curved", datum=0.0, phase_filter=False, device="cpu")
    assert focus(image)[0] == (2, 2, 30)


def test_level_ground_is_what_it_was_without(relative):
    flat = synthetic.diffractors([(100, 60, 400)], extent=150, offsets=(100, 400), nt=300, noise=0.1)
    grid = Grid((60.0, 40.0), 20, 3, 2, 25, 25, 120, 0.004, 0.2)
    plain = migrate(flat, Velocity.constant(V), grid, device="cpu", kernel="baseline")
    level = Survey.from_arrays(
        flat.read(), flat.source, flat.receiver, 0.002, bin_size=(25, 25), source_elevation=700.0,
        receiver_elevation=700.0,
    )  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        image = migrate(level, Velocity.constant(V), grid, datum=700.0, replacement=1000.0, device="cpu")
    assert relative(image.values, plain.values) < 2e-4
    vti = {"physics": "vti", "eta": 0.1, "device": "cpu"}
    known = migrate(flat, Velocity.constant(V), grid, **vti)
    assert relative(migrate(level, Velocity.constant(V), grid, datum=700.0, replacement=900.0, **vti).values,
                    known.values) < 2e-4  # fmt: skip


def test_a_floating_datum_follows_the_ground():
    survey = hilly(3000)
    wide = Grid((0.0, 0.0), 0, 4, 4, 200, 200, 10, 0.004)
    mean = 0.5 * (survey.source_elevation + survey.receiver_elevation)
    for smooth in (200.0, 800.0):
        found = floating_datum(survey, wide, smooth=smooth)
        for i, j in ((0, 0), (1, 2), (3, 1)):
            away = ((survey.midpoint - np.array([wide.map[0][i, j], wide.map[1][i, j]])) ** 2).sum(1)
            weight = np.exp(-2 * away / smooth**2)
            assert found[i, j] == pytest.approx((weight * mean).sum() / weight.sum(), abs=2.5)
    far = Grid((1e5, 0.0), 0, 1, 1, 25, 25, 10, 0.004)
    assert survey.source_elevation.min() <= floating_datum(survey, far)[0, 0] <= survey.source_elevation.max()
    level = Survey.from_arrays(
        survey.read(), survey.source, survey.receiver, 0.002, source_elevation=80.0, receiver_elevation=80.0
    )
    assert floating_datum(level, wide) == pytest.approx(80.0)


def test_floating_is_that_datum():
    how = {"replacement": V, "aperture": Aperture(dip=60), "phase_filter": False, "device": "cpu"}
    survey = hilly()
    image = migrate(survey, Velocity.constant(V), GRID, datum="floating", **how)
    known = migrate(survey, Velocity.constant(V), GRID, datum=floating_datum(survey, GRID), **how)
    assert np.array_equal(image.values, known.values)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"replacement": 1500.0}, "replacement belongs to datum"),
        ({"datum": 0.0}, "needs replacement"),
        ({"datum": 0.0, "replacement": -1.0}, "replacement is -1"),
        ({"datum": [1.0, 2.0], "replacement": 1500.0}, r"datum has shape \(2,\)"),
        ({"datum": float("nan"), "replacement": 1500.0}, "datum is nan; give finite"),
        ({"datum": float("nan"), "replacement": 1500.0}, "finite elevation"),
        ({"datum": "sea", "replacement": 1500.0}, "datum is 'sea'"),
        ({"datum": 0.0, "replacement": 1500.0, "physics": "curved"}, "leave replacement out"),
        ({"datum": -9000.0, "physics": "curved"}, "give a higher datum"),
    ],
)
def test_wrong_datums_are_named(options, words):
    with pytest.raises(InputError, match=words):
        migrate(hilly(20, steep=0.0), Velocity.linear(2000.0, 0.5), GRID, device="cpu", **options)


def test_versions_are_refused_by_name():
    with pytest.raises(NotImplementedError, match="version v1 does not do legs from elevations"):
        migrate(hilly(20), Velocity.constant(V), GRID, datum=0.0, replacement=V, kernel="v1", device="cpu")
    medium = Velocity.linear(V, 0.5)
    with pytest.raises(NotImplementedError, match="version v2 does not do curved legs from elevations"):
        migrate(hilly(20), medium, GRID, physics="curved", datum=0.0, kernel="v2", device="cpu")
