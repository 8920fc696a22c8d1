from __future__ import annotations

import numpy as np
import pytest

from elinvar.errors import InputError
from elinvar.seismic import Grid, Velocity, migrate, open_image, pyramid, synthetic
from elinvar.seismic.volume import Volume

GRID = Grid((10.0, 20.0), 30, 3, 2, 25, 12.5, 40, 0.004, 0.3, inline=(100, 2))


@pytest.fixture(scope="module")
def image():
    survey = synthetic.diffractors([(30, 30, 500)], extent=75, offsets=(100, 200), nt=300)
    return migrate(survey, Velocity.constant(2500), GRID, gathers=[0, 150, 300, 450], device="cpu")


def test_in_memory_and_on_disk_are_the_same(image, tmp_path):
    image.to_zarr(tmp_path / "image.zarr")
    with Volume.open(tmp_path / "image.zarr") as disk, Volume.open(image) as memory:
        for volume in (disk, memory):
            assert volume.shape == GRID.shape
            assert volume.dt == pytest.approx(0.004)
            assert volume.spacing == pytest.approx((25, 12.5))
            assert volume.map.reshape(-1, 2) == pytest.approx(GRID.pillars)
            assert volume.bin_dim == "offset"
            assert volume.offsets()[:2] == pytest.approx([100, 200])
            assert np.isnan(volume.offsets()[2])
            assert np.array_equal(volume.image[1].values, image.values[1])
        assert disk.name == "image.zarr"


def test_a_dataset_will_do(image):
    assert Volume.open(image.dataset()).shape == GRID.shape
    plain = image.dataset()[["image"]].drop_vars(["cdp_x", "cdp_y"])
    bare = Volume.open(plain)
    assert bare.gathers is None
    assert bare.bin_dim is None
    assert bare.map[0, 0].tolist() == [100, 1]
    with pytest.raises(InputError, match="no gathers"):
        bare.offsets()


def test_a_folder_is_read_piece_by_piece(image, tmp_path):
    image.to_zarr(tmp_path / "image.zarr")
    data = open_image(tmp_path / "image.zarr")
    assert not data["image"].variable._in_memory
    assert np.array_equal(data["image"][1, 1].values, image.values[1, 1])
    assert not data["image"].variable._in_memory
    data.close()


def test_what_is_no_image_is_named(tmp_path, image):
    with pytest.raises(InputError, match="there is no"):
        open_image(tmp_path / "nothing.zarr")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="empty"):
        open_image(tmp_path / "empty")
    image.dataset()[["fold"]].to_zarr(tmp_path / "fold.zarr", zarr_format=3, consolidated=False)
    with pytest.raises(InputError, match="holds no image"):
        open_image(tmp_path / "fold.zarr")
    with pytest.raises(InputError, match="ndarray is not a migrated image"):
        Volume.open(np.ones(3))


def test_an_overview_fits_or_is_refused(image, tmp_path):
    values, factors, level = Volume.open(image).overview()
    assert (factors, level) == ((1, 1, 1), 0)
    assert np.array_equal(values, image.values)
    assert Volume.open(image).overview(most=100) is None
    image.to_zarr(tmp_path / "image.zarr")
    with Volume.open(tmp_path / "image.zarr") as volume:
        assert volume.overview(most=100) is None
    pyramid.build(tmp_path / "image.zarr", 2)
    with Volume.open(tmp_path / "image.zarr") as volume:
        values, factors, level = volume.overview(most=4 * 2 * 1 * 20)
        assert (factors, level) == ((2, 2, 2), 1)
        assert np.array_equal(values, pyramid.decimate(image.values))
        assert volume.overview(most=4 * 20)[2] == 2
