from __future__ import annotations

import numpy as np
import pytest

from elinvar.errors import InputError
from elinvar.seismic import synthetic
from elinvar.seismic.wavelet import ricker


@pytest.mark.parametrize(
    ("name", "traces", "samples"),
    [("tiny", 1764, 501), ("small", 13448, 1001), ("medium", 104976, 1501), ("large", 829472, 2001)],
)
def test_data_sets_have_the_documented_size(name, traces, samples):
    survey = synthetic.dataset(name)
    assert (survey.n_traces, survey.n_samples, survey.dt) == (traces, samples, 0.002)
    assert survey.truth["points"][0][2] == pytest.approx(0.64)
    assert survey.grid.dx == 25.0
    assert survey.bin_size == (25.0, 25.0)
    assert set(np.round(np.unique(np.round(survey.azimuth, 6)))) == {0.0, 90.0}


def test_tiny_is_not_silent():
    # In the code this idea comes from every sample of "tiny" was zero: the apex lay behind the end of the record.
    survey = synthetic.dataset("tiny", noise=0.0)
    traces = survey.read()
    assert (np.abs(traces).max(axis=1) > 0.9).all()
    nearest = np.argmin(np.hypot(*(survey.midpoint - 250).T) + survey.offset)
    centre = 0.5 * (np.argmax(traces[nearest]) + np.argmin(traces[nearest])) * survey.dt
    h = 0.5 * survey.offset[nearest]
    assert centre == pytest.approx(2 * np.hypot(800, h) / 2500, abs=survey.dt)


def test_noise_is_five_percent_and_each_trace_has_its_own():
    clean, noisy = synthetic.dataset("tiny", noise=0.0), synthetic.dataset("tiny")
    difference = noisy.read() - clean.read()
    assert difference.std() == pytest.approx(0.05, rel=0.01)
    assert abs(np.corrcoef(difference[3], difference[4])[0, 1]) < 0.2
    assert not np.array_equal(synthetic.dataset("tiny", seed=1).read([0]), noisy.read([0]))


def test_traces_do_not_depend_on_how_they_are_read():
    survey = synthetic.dataset("tiny")
    everything = survey.read()
    index = np.array([7, 8, 300, 1763])
    assert np.array_equal(survey.read(index), everything[index])
    assert np.array_equal(survey.select(index[::-1]).read(), everything[index[::-1]])
    assert np.array_equal(np.concatenate([b.traces for b in survey.blocks(500)]), everything)


def test_flat_reflectors_follow_the_hyperbola():
    survey = synthetic.flat_reflectors(
        [0.4, 0.8], amplitudes=[1.0, -0.5], extent=50, offsets=(0, 600), azimuths=(30,), nt=600, velocity=2000
    )
    t = np.arange(600) * 0.002
    for h in (0.0, 600.0):
        row = int(np.argmin(np.abs(survey.offset - h)))
        known = ricker(t - np.hypot(0.4, h / 2000), 25) - 0.5 * ricker(t - np.hypot(0.8, h / 2000), 25)
        assert survey.read([row])[0] == pytest.approx(known, abs=1e-6)


def test_events_that_straddle_the_ends_of_the_record_are_cut_there():
    survey = synthetic.flat_reflectors([0.101], extent=0, offsets=(0,), nt=50, start=0.1, velocity=2000)
    t = 0.1 + np.arange(50) * 0.002
    assert survey.read()[0] == pytest.approx(ricker(t - 0.101, 25), abs=1e-6)
    late = synthetic.flat_reflectors([0.5], extent=0, offsets=(0,), nt=50, velocity=2000)
    assert not late.read().any()


@pytest.mark.parametrize("azimuth", [0.0, 35.0, 120.0])
def test_dipping_plane_is_the_mirror_image(azimuth):
    # Levin's formula against reflection by an image source.
    survey = synthetic.dipping_plane(
        25.0, 70.0, 900.0, extent=100, spacing=50, offsets=(800,), azimuths=(azimuth,), velocity=2000, nt=1200,
        origin=(5e5, 6e6),
    )  # fmt: skip
    x0, y0, z0, dip, down = survey.truth["plane"]
    dip, down = np.radians(dip), np.radians(down)
    normal = np.array([-np.sin(dip) * np.sin(down), -np.sin(dip) * np.cos(down), np.cos(dip)])
    origin = np.array([x0, y0, z0])
    s = np.column_stack([survey.source, np.zeros(len(survey))])
    r = np.column_stack([survey.receiver, np.zeros(len(survey))])
    image = s - 2 * ((s - origin) @ normal)[:, None] * normal
    t = np.linalg.norm(image - r, axis=1) / 2000
    found = np.argmax(survey.read(), axis=1) * 0.002
    assert np.abs(found - t).max() <= 0.001 + 1e-9


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: synthetic.dataset("huge"), "tiny, small, medium, large"),
        (lambda: synthetic.diffractors([(0, 0)]), "x, y and depth"),
        (lambda: synthetic.diffractors([(0, 0, -5)]), "depth > 0"),
        (lambda: synthetic.flat_reflectors([0.0]), "two-way seconds"),
        (lambda: synthetic.flat_reflectors([0.5], offsets=()), "no offsets"),
        (lambda: synthetic.flat_reflectors([0.5], frequency=900), "frequency is 900"),
        (lambda: synthetic.flat_reflectors([0.5], velocity=0), "velocity is 0"),
        (lambda: synthetic.flat_reflectors([0.5], noise=-1), "noise is -1"),
        (lambda: synthetic.dipping_plane(60, 0, 100), "reaches the surface"),
        (lambda: synthetic.dipping_plane(90, 0, 100), "dip is 90"),
    ],
)
def test_wrong_arguments_are_named(make, words):
    with pytest.raises(InputError, match=words):
        make()
