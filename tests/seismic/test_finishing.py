"""Normalisation by fold and illumination, and images of lines."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from elinvar.errors import BudgetExceeded, Cancelled, InputError
from elinvar.seismic import (
    Aperture,
    Checkpoint,
    Grid,
    LinearOperator,
    Mute,
    Survey,
    Velocity,
    demigrate,
    illumination,
    migrate,
    plan,
    plan_scan,
    scan,
    synthetic,
)  # fmt: skip
from elinvar.seismic.filters import phase_filter
from elinvar.seismic.finishing import FLOOR, divide

V = Velocity.linear(1900.0, 0.6)
GRID = Grid((40.0, 30.0), 25, 4, 3, 25, 30, 110, 0.004)
HOW = {"aperture": Aperture(dip=60, taper=0.3), "device": "cpu"}


@pytest.fixture(scope="module")
def survey():
    rng = np.random.default_rng(3)
    middle, half = rng.uniform(-100, 250, (90, 2)), rng.uniform(-150, 150, (90, 2))
    data = rng.standard_normal((90, 150)).astype(np.float32)
    return Survey.from_arrays(data, middle - half, middle + half, 0.004, bin_size=(25, 25))


def test_dividing_leaves_zero_where_there_is_nothing():
    volume = np.array([[2.0, 5.0, 7.0]], np.float32)
    assert divide(volume, np.array([[2, 0, 4]])).tolist() == [[1, 0, 1.75]]
    assert divide(np.array([[2.0, 5.0]]), np.array([[0.1, 4.0]]), np.array([1.0, 1.0])).tolist() == [[0, 1.25]]


def test_by_fold(survey):
    plain = migrate(survey, V, GRID, gathers=[0, 120, 300], **HOW)
    mean = migrate(survey, V, GRID, gathers=[0, 120, 300], normalize="fold", **HOW)
    assert np.array_equal(mean.counts, plain.counts)
    assert np.array_equal(mean.values, plain.normalised("fold").values)
    assert np.array_equal(mean.panels.values, plain.normalised("fold", of="gathers").values)
    assert (mean.values[mean.counts == 0] == 0).all()
    assert (mean.counts == 0).any()
    assert mean.image.attrs["normalized"] == "fold"


@pytest.mark.parametrize("gathers", [None, [0, 120, 300]])
def test_by_illumination_is_by_the_sum_of_weights(survey, relative, gathers):
    for how in ({}, {"amplitude": "none"}, {"interpolation": "cubic", "oversample": 2}):
        given = {"gathers": gathers, **HOW, **how}
        lit = illumination(survey, V, GRID, **given)
        plain = migrate(survey, V, GRID, **given)
        mean = migrate(survey, V, GRID, normalize="illumination", **given)
        assert np.array_equal(mean.counts, plain.counts)
        of = "image" if gathers is None else "gathers"
        known = plain.normalised("weights", of=of, weights=lit, least=100 * FLOOR).values
        found = mean.values if gathers is None else mean.panels.values
        assert relative(found, known) < 1e-5
    one = migrate(survey, V, GRID, normalize="illumination", amplitude="none", **{**HOW, "aperture": Aperture(taper=0)})
    fold = migrate(survey, V, GRID, normalize="fold", amplitude="none", **{**HOW, "aperture": Aperture(taper=0)})
    lit_everywhere = one.counts >= 2
    assert np.allclose(one.values[lit_everywhere], fold.values[lit_everywhere], atol=1e-3 * np.abs(fold.values).max())


def test_coverage_no_longer_shows():
    """A flat reflector seen by all midpoints and by every second one: the mean is the same."""
    whole = synthetic.flat_reflectors([0.5], extent=1000, offsets=(100,), velocity=2500.0, nt=400)
    part = whole.select((np.round(whole.midpoint / 25).sum(axis=1) % 2) == 0)
    grid = Grid(whole.grid.centre, 0, 1, 1, 25, 25, 60, 0.002, 0.44)
    ratio = {}
    for how in (None, "fold", "illumination"):
        found = [migrate(s, whole.velocity, grid, normalize=how, device="cpu").values.max() for s in (whole, part)]
        ratio[how] = found[1] / found[0]
    assert ratio == pytest.approx({None: 0.5, "fold": 1.0, "illumination": 1.0}, abs=0.02)


def test_the_weights_know_mutes_and_banks(survey):
    """Traces that are 1 where they are not muted, normalised, are 1 wherever anything is."""
    ones = survey.with_traces(Survey.from_arrays(np.ones((90, 150)), survey.source, survey.receiver, 0.004).traces)
    mute = Mute(table=((0.0, 0.1), (300.0, 0.3)), taper=0.0)
    for how in ({"mute": mute}, {"dimension": "2d"}, {"datum": 0.0, "replacement": 1800.0}):
        image = migrate(ones, V, GRID, normalize="illumination", phase_filter=False, **HOW, **how)
        there = image.values[image.values != 0]
        assert there.size > 500
        assert np.median(there) == pytest.approx(1.0, abs=1e-5)
    image = migrate(ones, V, GRID, normalize="illumination", phase_filter=False, antialias="bank", **HOW)
    assert np.median(image.values[image.values != 0]) == pytest.approx(1.0, abs=0.05)


def test_a_mean_beside_a_mute_is_no_larger_than_the_traces(survey):
    """What the filter spreads into the rise of a mute is not divided by the rise."""
    mute = Mute(table=((0.0, 0.3),), taper=0.08)
    image = migrate(survey, V, GRID, normalize="illumination", mute=mute, **HOW)
    largest = phase_filter(torch.from_numpy(survey.read()), survey.dt, interpolation="linear").abs().max()
    assert 0 < np.abs(image.values).max() <= 1.01 * float(largest)


@pytest.mark.parametrize("normalize", ["fold", "illumination"])
@pytest.mark.parametrize("more", [{}, {"gathers": [0, 120, 300]}], ids=["stack", "gathers"])
def test_dot_products(survey, normalize, more):
    how = {"normalize": normalize, **HOW, **more}
    there = migrate(survey, V, GRID, **how)
    values = there.values if not more else there.panels.values
    m = np.random.default_rng(8).standard_normal(values.shape).astype(np.float32)
    back = demigrate(m, survey, V, GRID, **how).read()
    left, right = float((values.astype(float) * m).sum()), float((back.astype(float) * survey.read()).sum())
    assert abs(left - right) <= 1e-5 * max(abs(left), np.linalg.norm(values) * np.linalg.norm(m) / np.sqrt(m.size))


OPTIONS = {
    "limits": {"aperture": Aperture(60, taper=0.3, inline=120.0, crossline=90.0, leg_dip=65.0, stretch=1.4)},
    "mute": {"mute": Mute(table=((0.0, 0.05), (300.0, 0.2)))},
    "line": {"dimension": "2d"},
    "line of points, not weighted": {"dimension": "2.5d", "amplitude": "none"},
    "elevations": {"datum": 10.0, "replacement": 1500.0},
    "everything": {
        "mute": Mute(table=((0.0, 0.05),)), "dimension": "2.5d", "datum": np.linspace(-30, 40, 12).reshape(4, 3),
        "aperture": Aperture(70, taper=0.4, inline=150.0, leg_dip=70.0, stretch=1.6), "interpolation": "sinc8",
        "normalize": "illumination", "antialias": "bank", "physics": "curved", "oversample": 2,
    },
}  # fmt: skip


@pytest.mark.parametrize("options", OPTIONS.values(), ids=list(OPTIONS))
def test_dot_products_with_every_option_on(survey, options):
    rng = np.random.default_rng(5)
    height = rng.uniform(0, 50, (2, 90))
    hills = Survey.from_arrays(
        survey.read(), survey.source, survey.receiver, 0.004, bin_size=(25, 25),
        source_elevation=height[0] * ("datum" in options), receiver_elevation=height[1] * ("datum" in options),
    )  # fmt: skip
    operator = LinearOperator(hills, V, GRID, **{**HOW, **options})
    there, m = operator.migrate(survey.read()), rng.standard_normal(GRID.shape).astype(np.float32)
    back = operator.demigrate(m)
    left, right = float((there.astype(float) * m).sum()), float((back.astype(float) * survey.read()).sum())
    assert np.abs(there).max() > 0
    assert abs(left - right) <= 1e-5 * max(abs(left), np.linalg.norm(there) * np.linalg.norm(m) / np.sqrt(m.size))
    assert np.allclose(there, migrate(hills, V, GRID, **{**HOW, **options}).values, atol=1e-5 * np.abs(there).max())


# ---------------------------------------------------------------- tiles, pauses, scans


def test_tiles_and_several_lanes_make_the_same(survey, relative, monkeypatch):
    monkeypatch.setattr("elinvar.seismic.job.block_size", lambda *_: 64)
    whole = migrate(survey, V, GRID, normalize="illumination", **HOW)
    assert whole.job.tiles == 1
    assert whole.job.plan.memory_bytes > migrate(survey, V, GRID, **HOW).job.plan.memory_bytes
    need = whole.job.plan.memory_bytes - 3 * 8 * GRID.size * GRID.nt // 4
    tiled = migrate(survey, V, GRID, normalize="illumination", memory=need, **HOW)
    assert tiled.job.tiles > 1
    assert relative(tiled.values, whole.values) < 1e-5
    assert np.array_equal(tiled.counts, whole.counts)
    with pytest.raises(BudgetExceeded):
        migrate(survey, V, GRID, normalize="illumination", memory=1000, **HOW)


def test_a_paused_job_goes_on_to_the_same_bits(survey, tmp_path, monkeypatch):
    monkeypatch.setattr("elinvar.seismic.job.block_size", lambda *_: 64)
    given = {"normalize": "illumination", "gathers": [0, 120, 300], **HOW}
    known = migrate(survey, V, GRID, **given)
    kept = Checkpoint(tmp_path / "kept", seconds=0)

    def pause(done, total):
        if done < total:
            kept.pause("the test")

    with pytest.raises(Cancelled):
        migrate(survey, V, GRID, checkpoint=kept, progress=pause, **given)
    again = migrate(survey, V, GRID, checkpoint=tmp_path / "kept", **given)
    assert np.array_equal(again.values, known.values)
    assert np.array_equal(again.panels.values, known.panels.values)
    assert np.array_equal(again.counts, known.counts)
    with pytest.raises(InputError, match="normalize"):
        migrate(survey, V, GRID, checkpoint=tmp_path / "kept", **{**given, "normalize": "fold"})


def test_mutes_and_elevations_are_part_of_a_job(survey, tmp_path, monkeypatch):
    """A job that goes on over other mutes or heights would make an image of two surveys."""
    monkeypatch.setattr("elinvar.seismic.job.block_size", lambda *_: 64)
    ends = (survey.read(), survey.source, survey.receiver, 0.004)

    def surveyed(mute, height):
        words = {"muts": np.zeros(90), "mute": np.full(90, mute)}
        return Survey.from_arrays(*ends, headers=words, source_elevation=height, receiver_elevation=0.0)

    for folder, how, other, words in (
        ("mute", {"mute": Mute(header=True)}, surveyed(0.2, 0.0), "mute"),
        ("datum", {"datum": 0.0, "replacement": 2000.0}, surveyed(0.1, 9.0), "datum or elevations"),
    ):
        kept = Checkpoint(tmp_path / folder, seconds=0)
        migrate(surveyed(0.1, 0.0), V, GRID, checkpoint=kept, **how, **HOW)
        with pytest.raises(InputError, match=words):
            migrate(other, V, GRID, checkpoint=tmp_path / folder, **how, **HOW)


def test_a_scan_is_of_the_migrations(survey, relative):
    for how in ({"normalize": "fold"}, {"normalize": "illumination"}, {"dimension": "2d"}):
        found = scan(survey, V, GRID, (95, 105, 10), **HOW, **how)
        for percent in (95.0, 105.0):
            known = migrate(survey, V.scaled(percent), GRID, **HOW, **how)
            assert relative(found.at(percent).values, known.values) < 1e-5
            assert np.array_equal(found.at(percent).counts, known.counts)
    gathers = {"normalize": "illumination", "gathers": [0, 200, 400], **HOW}
    found, known = scan(survey, V, GRID, (95, 105, 10), **gathers), migrate(survey, V.scaled(95), GRID, **gathers)
    assert relative(found.at(95).panels.values, known.panels.values) < 1e-5
    assert np.array_equal(found.at(95).panels.fold, known.panels.fold)
    plain, weighed = (plan_scan(survey, V, GRID, (95, 105, 10), normalize=n, **HOW) for n in (None, "illumination"))
    assert weighed.contributions == pytest.approx(2 * plain.contributions)
    assert weighed.peak_bytes > plain.peak_bytes
    assert "sums of weights" in str(weighed)


def test_the_plan_says_which_version_and_why(survey):
    assert plan(survey, V, GRID, mute=Mute(table=((0, 0.1),)), **HOW).version == "v2"
    job = plan(survey, V, GRID, aperture=Aperture(stretch=1.5), device="cpu")
    assert job.version == "baseline"
    assert "v2 does not do limits of angles (leg_dip, stretch)" in str(job)
    both = plan(survey, V, GRID, normalize="illumination", **HOW)
    assert "migrated twice" in str(both)
    assert both.version == "v2"
    wide = plan(survey, V, GRID, aperture=Aperture(60, inline=100.0, crossline=60.0, stretch=1.3), device="cpu")
    real = migrate(survey, V, GRID, aperture=Aperture(60, inline=100.0, crossline=60.0, stretch=1.3), device="cpu")
    assert wide.contributions == pytest.approx(real.contributions, rel=0.1)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"normalize": "best"}, "fold, illumination"),
        ({"dimension": "4d"}, "3d, 2.5d, 2d"),
    ],
)
def test_wrong_options_are_named(survey, options, words):
    with pytest.raises(InputError, match=words):
        migrate(survey, V, GRID, device="cpu", **options)


def test_slow_versions_get_small_blocks(survey, monkeypatch):
    """Blocks are what progress is told by, and what a pause waits for."""
    quick, slow = (plan(survey, V, GRID, kernel=version, device="cpu") for version in ("v2", "baseline"))
    assert quick.block == slow.block == survey.n_traces
    monkeypatch.setattr("elinvar.seismic.job._SLOW", {"baseline": slow.contributions / 3})
    assert plan(survey, V, GRID, kernel="baseline", device="cpu").block == survey.n_traces // 3
    assert plan(survey, V, GRID, kernel="v2", device="cpu").block == survey.n_traces
    monkeypatch.setattr("elinvar.seismic.job._SLOW", {"baseline": 1.0})
    assert plan(survey, V, GRID, kernel="baseline", device="cpu").block == 16


def test_illumination_is_a_divisor_and_no_division(survey):
    with pytest.raises(InputError, match="normalize does not apply"):
        illumination(survey, V, GRID, normalize="fold")


# ---------------------------------------------------------------- lines


@pytest.mark.parametrize(("offset", "shift"), [(0, 3.0), (400, 0.0), (1200, 10.0)])
@pytest.mark.parametrize("turned", [False, True])
def test_a_flat_reflector_under_a_line(offset, shift, turned, peak):
    """One line of midpoints, offsets along it: amplitude, time and wavelet as in three dimensions."""
    from elinvar.seismic.wavelet import ricker

    extent, azimuth = ((0, 3000), 90) if turned else ((3000, 0), 0)
    survey = synthetic.flat_reflectors(
        [0.8], extent=extent, offsets=(offset,), azimuths=(azimuth,), velocity=2500.0, nt=701, origin=(4e5, 6e6)
    )
    x, y = survey.grid.centre
    x, y, sides = (x + shift, y, (1, 2)) if turned else (x, y + shift, (2, 1))
    grid = Grid((x, y), 0, *sides, 25, 25, 100, 0.002, 0.7)
    image = migrate(survey, survey.velocity, grid, dimension="2d", interpolation="cubic", device="cpu")
    time, amplitude = peak(grid.t, image.values[0, 0].astype(float))
    known = ricker(np.hypot(grid.t, offset / 2500) - np.hypot(0.8, offset / 2500), 25.0)
    assert amplitude == pytest.approx(1.0, abs=5e-3)
    assert abs(time - 0.8) < 2e-4
    assert np.corrcoef(image.values[0, 0], known)[0, 1] > 0.998
    assert image.image.attrs["interval_m"] == 25.0
    assert image.image.attrs["dimension"] == "2d"
    assert image.job.version == "v2"


def test_a_line_in_a_velocity_that_varies(relative):
    """The factor of the image is that of each pillar's velocity."""
    survey = synthetic.flat_reflectors([0.5], extent=(800, 0), offsets=(100,), velocity=2200.0, nt=401)
    x, y = survey.grid.centre
    grid = Grid((x, y), 0, 4, 1, 25, 25, 120, 0.004)
    coarse = Grid((x - 500, y - 500), 0, 2, 2, 1000, 1000, 2, 1.0)
    cube = Velocity.cube(np.array([[[2000, 2300], [2000, 2300]], [[2400, 2500], [2400, 2500]]], float), coarse)
    image = migrate(survey, cube, grid, dimension="2.5d", device="cpu")
    rms = cube.on_pillars(grid.t, grid.pillars)
    for i in range(4):
        one = Grid(tuple(grid.pillars[i]), 0, 2, 1, 25, 25, 120, 0.004)
        alone = migrate(survey, Velocity.table(grid.t, rms[i]), one, dimension="2.5d", device="cpu")
        assert relative(image.values[i, 0], alone.values[0, 0]) < 2e-3


def test_lines_are_like_themselves_in_both_names(survey):
    images = [migrate(survey, V, GRID, dimension=name, **HOW).values for name in ("2d", "2.5d")]
    assert np.array_equal(*images)
    flat = migrate(survey, V, GRID, **HOW).values
    assert not np.allclose(images[0], flat, atol=0.1 * np.abs(flat).max())
