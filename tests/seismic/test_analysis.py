from __future__ import annotations

import numpy as np
import pytest

from elinvar.errors import InputError
from elinvar.seismic import (
    Aperture,
    AzimuthSectors,
    Grid,
    Survey,
    Velocity,
    analyse,
    gathers,
    illumination,
    migrate,
    synthetic,
)

GRID = Grid((200, 250), 0, 3, 2, 25, 25, 150, 0.004, 0.2)
WRONG = Velocity.constant(2350.0)


@pytest.fixture(scope="module")
def survey():
    return synthetic.flat_reflectors([0.5], velocity=2500, extent=500, offsets=range(100, 1001, 300), nt=500)


@pytest.fixture(scope="module")
def image(survey):
    return migrate(survey, WRONG, GRID, gathers=np.arange(0, 1201, 200), device="cpu")


def test_volumes_are_their_gathers(image, tmp_path, monkeypatch):
    image.to_zarr(tmp_path / "image.zarr")
    calls = []
    found = analyse(image, WRONG, progress=lambda *done: calls.append(done))
    assert calls == [(2, 6), (4, 6), (6, 6)]
    assert found["semblance"].dims == ("inline", "crossline", "time")
    one = gathers.semblance(image.panels.values[2, 1], 0.004, fold=image.panels.fold[2, 1], window=0.04)
    assert found["semblance"].values[2, 1] == pytest.approx(one, abs=1e-6, nan_ok=True)
    assert found["moveout"].values[:, :, 75] == pytest.approx(100 * (2500 / 2350 - 1), abs=0.5)
    assert found["flatness"].attrs["units"] == "ms"
    assert found["flatness"].values[1, 1, 75] > 3
    monkeypatch.setattr("elinvar.seismic.analysis._AT_ONCE", 1)
    again = analyse(tmp_path / "image.zarr", WRONG)
    assert found.equals(again)


def test_each_gather_is_analysed_with_its_own_velocity(image):
    coarse = Grid((200, 250), 0, 2, 2, 50, 25, 2, 1.0)
    i, j, _ = np.meshgrid(*map(range, coarse.shape), indexing="ij")
    velocity = Velocity.cube(2300.0 + 100 * i + 50 * j, coarse)
    found = analyse(image, velocity)
    v = velocity.on_pillars(GRID.t, GRID.pillars).reshape(GRID.shape)
    assert v[2, 1, 75] == pytest.approx(2450)
    for i, j in ((0, 0), (2, 0), (2, 1)):
        known = gathers.residual_moveout(
            image.panels.values[i, j], GRID.t, image.panels.axis.rms_offset, v[i, j], fold=image.panels.fold[i, j]
        )
        assert found["moveout"].values[i, j] == pytest.approx(known.percent, abs=1e-3, nan_ok=True)


def test_every_other_line(image):
    found = analyse(image, every=2)
    assert found["semblance"].shape == (2, 1, 150)
    assert found["inline"].values.tolist() == [1, 3]
    assert set(found.data_vars) == {"semblance", "flatness"}


def test_analysis_needs_gathers(survey):
    with pytest.raises(InputError, match="no gathers"):
        analyse(migrate(survey, WRONG, GRID, device="cpu"))
    sectors = migrate(survey, WRONG, GRID, gathers=AzimuthSectors((-45, 45, 135)), device="cpu")
    assert set(analyse(sectors).data_vars) == {"semblance", "flatness"}
    with pytest.raises(InputError, match="mix all offsets"):
        analyse(sectors, WRONG)


def test_normalised_by_fold(image):
    mean = image.normalised()
    assert mean.attrs["normalised"] == "fold"
    on = image.counts > 0
    assert mean.values[on] == pytest.approx(image.values[on] / image.counts[on])
    assert not mean.values[~on].any()
    assert not image.normalised(least=1e9).any()
    panels = image.normalised(of="gathers")
    assert panels.dims == image.gathers.dims
    assert panels.values[1, 1, 0, 75] == pytest.approx(
        image.panels.values[1, 1, 0, 75] / image.panels.fold[1, 1, 0, 75]
    )


def test_weights_are_what_migration_gives_to_ones(survey, image, oracle, relative):
    lit = illumination(survey, WRONG, GRID, gathers=np.arange(0, 1201, 200), device="cpu")
    known, _ = oracle.migrate(
        np.ones((survey.n_traces, 500)), 0.002, 0, survey.source, survey.receiver, GRID.pillars, GRID.t, 2350.0,
        area=625.0, dip=45,
    )  # fmt: skip
    assert relative(lit.values.reshape(known.shape), known) < 3e-4
    assert np.array_equal(lit.counts, image.counts)
    mean = image.normalised("weights", weights=lit)
    assert mean.values[1, 1, 75] == pytest.approx(image.values[1, 1, 75] / lit.values[1, 1, 75], rel=1e-6)
    assert image.normalised("weights", of="gathers", weights=lit).shape == image.gathers.shape


@pytest.mark.parametrize("by", ["fold", "weights"])
def test_normalising_evens_out_coverage(by):
    base = synthetic.flat_reflectors([0.4], velocity=2500, extent=600, offsets=(100,), nt=400)
    north = np.flatnonzero(base.midpoint[:, 1] > 300)  # was shot three times
    survey = base.select(np.concatenate([np.arange(base.n_traces), north, north]))
    grid = Grid((300, 150), 0, 2, 1, 300, 25, 60, 0.004, 0.3)
    options = {"device": "cpu", "aperture": Aperture(dip=15)}
    image = migrate(survey, Velocity.constant(2500), grid, **options)
    lit = illumination(survey, Velocity.constant(2500), grid, **options)
    south, north = image.values[:, 0].max(axis=1)
    assert north / south == pytest.approx(3, rel=1e-3)
    south, north = image.normalised(by, weights=lit).values[:, 0].max(axis=1)
    assert north / south == pytest.approx(1, rel=1e-3)


def test_silent_traces_have_no_weight(survey):
    data = survey.read()
    data[::2] = 0.0
    half = Survey.from_arrays(data, survey.source, survey.receiver, survey.dt, bin_size=(25, 25))
    lit = illumination(half, WRONG, GRID, device="cpu")
    odd = illumination(survey.select(np.arange(1, survey.n_traces, 2)), WRONG, GRID, device="cpu")
    assert lit.values == pytest.approx(odd.values, rel=1e-5)
    assert lit.attributes["quantity"] == "sum of weights"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"by": "luck"}, "fold, weights"),
        ({"of": "cake"}, "image, gathers"),
        ({"by": "weights"}, "needs weights"),
    ],
)
def test_wrong_normalisations_are_named(image, options, words):
    with pytest.raises(InputError, match=words):
        image.normalised(**options)


def test_weights_must_fit(survey, image):
    lit = illumination(survey, WRONG, GRID, device="cpu")
    with pytest.raises(InputError, match="weights have shape None"):
        image.normalised("weights", of="gathers", weights=lit)
    small = illumination(survey, WRONG, Grid((200, 250), 0, 1, 1, 25, 25, 150, 0.004, 0.2), device="cpu")
    with pytest.raises(InputError, match=r"shape \(1, 1, 150\)"):
        image.normalised("weights", weights=small)
    with pytest.raises(InputError, match="no gathers"):
        lit.normalised(of="gathers")
    with pytest.raises(InputError, match="phase_filter does not apply"):
        illumination(survey, WRONG, GRID, phase_filter=True)
