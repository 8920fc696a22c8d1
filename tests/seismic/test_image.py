from __future__ import annotations

import numpy as np
import pytest
import xarray

from elinvar.seismic import Grid, Velocity, migrate, synthetic

GRID = Grid((10.0, 20.0), 30, 3, 2, 25, 25, 40, 0.004, 0.3, inline=(100, 2))


@pytest.fixture(scope="module")
def image():
    survey = synthetic.diffractors([(30, 30, 500)], extent=75, offsets=(100, 200), nt=300)
    return migrate(survey, Velocity.constant(2500), GRID, gathers=[0, 150, 300], device="cpu")


def test_labels(image):
    assert image.image.dims == ("inline", "crossline", "time")
    assert image.image.shape == GRID.shape
    assert image.image.inline.values.tolist() == [100, 102, 104]
    assert image.image.time.attrs["units"] == "s"
    assert image.image.time.values == pytest.approx(GRID.t)
    assert image.image.cdp_x.dims == ("inline", "crossline")
    assert image.image.cdp_y.attrs["units"] == "m"
    assert image.fold.dtype == np.int32
    assert image.gathers.attrs["traces"] == [16, 16]


def test_zarr_round_trip(image, tmp_path):
    before = image.timing.store
    image.to_zarr(tmp_path / "image.zarr")
    assert image.timing.store > before
    with xarray.open_zarr(tmp_path / "image.zarr", consolidated=False) as again:
        for name in ("image", "fold", "gathers", "gather_fold"):
            assert np.array_equal(again[name].values, getattr(image, name).values)
        assert again.cdp_x.values == pytest.approx(GRID.map[0])
        assert again.attrs["velocity"] == "2500 m/s"
    image.to_zarr(tmp_path / "image.zarr")  # replaced, not mixed
    assert [p.name for p in tmp_path.iterdir()] == ["image.zarr"]


def test_a_failed_write_leaves_nothing(image, tmp_path, monkeypatch):
    monkeypatch.setattr(xarray.Dataset, "to_zarr", lambda *_, **__: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        image.to_zarr(tmp_path / "image.zarr")
    assert list(tmp_path.iterdir()) == []


def test_without_gathers_there_are_none():
    survey = synthetic.diffractors([(30, 30, 500)], extent=75, nt=300)
    image = migrate(survey, Velocity.constant(2500), GRID, device="cpu")
    assert image.gathers is None
    assert image.gather_fold is None
    assert set(image.dataset().data_vars) == {"image", "fold"}
