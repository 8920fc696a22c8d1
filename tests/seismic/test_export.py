from __future__ import annotations

import numpy as np
import pytest
import segyio
import xarray

from elinvar.errors import InputError
from elinvar.seismic import AzimuthSectors, Grid, Velocity, export_segy, migrate, synthetic
from elinvar.seismic.segy_volume import read_volume

GRID = Grid((431000.0, 6780000.0), 30, 5, 4, 25, 12.5, 40, 0.004, 0.3, inline=(100, 2), crossline=(70, -1))


@pytest.fixture(scope="module")
def survey():
    return synthetic.diffractors(
        [(431030, 6780030, 500)], origin=(431000.0, 6780000.0), extent=75, offsets=(100, 200), nt=300
    )


@pytest.fixture(scope="module")
def image(survey):
    return migrate(survey, Velocity.constant(2500), GRID, gathers=[0, 150, 300], device="cpu")


@pytest.mark.parametrize("endian", ["big", "little"])
def test_segyio_reads_it_strictly_with_its_geometry(image, tmp_path, endian):
    before = image.timing.store
    image.to_segy(tmp_path / "a.sgy", endian=endian)
    assert image.timing.store > before
    with segyio.open(tmp_path / "a.sgy", endian=endian) as file:  # strict, and by inline and crossline
        assert file.ilines.tolist() == [100, 102, 104, 106, 108]
        assert file.xlines.tolist() == [70, 69, 68, 67]
        assert file.samples == pytest.approx(1e3 * GRID.t)
        assert segyio.tools.dt(file) == 4000
        assert np.array_equal(segyio.tools.cube(file), image.values)
        assert np.array_equal(file.iline[104], image.values[2])
        assert np.array_equal(file.xline[69], image.values[:, 1])
        header = file.header[7]  # inline 102, crossline 67
        x, y = GRID.position(1, 3)
        assert (header[181], header[185], header[71]) == (round(100 * float(x)), round(100 * float(y)), -100)
        assert (header[189], header[193], header[21], header[109], header[115]) == (102, 67, 8, 300, 40)
        text = bytes(file.text[0]).decode()
    for words in ("Kirchhoff", "velocity: 2500 m/s", "5 inlines, 100 to 108", "dip 45", "300 to 456 ms", "SEG Y REV1"):
        assert words in text, words


def test_from_the_zarr_folder_without_loading_it_whole(image, tmp_path):
    image.to_zarr(tmp_path / "image.zarr")
    image.to_segy(tmp_path / "a.sgy")
    seen = []
    export_segy(tmp_path / "image.zarr", tmp_path / "b.sgy", progress=lambda *a: seen.append(a))
    assert (tmp_path / "a.sgy").read_bytes() == (tmp_path / "b.sgy").read_bytes()
    assert seen == [(20, 20)]


def test_several_bricks(tmp_path):
    values = np.arange(66 * 65 * 3, dtype=np.float32).reshape(66, 65, 3)
    axes = {"inline": np.arange(66), "crossline": np.arange(65), "time": np.arange(3) * 0.002}
    export_segy(xarray.Dataset({"image": (tuple(axes), values)}, axes), tmp_path / "a.sgy")
    with segyio.open(tmp_path / "a.sgy") as file:
        assert np.array_equal(segyio.tools.cube(file), values)


def test_the_fold_in_an_integer_format(image, tmp_path):
    image.to_segy(tmp_path / "fold.sgy", of="fold", sample_format=3)
    with segyio.open(tmp_path / "fold.sgy") as file:
        assert int(file.format) == 3
        assert np.array_equal(segyio.tools.cube(file), image.counts)
    with pytest.raises(InputError, match=r"format 3 \(int16\) holds whole numbers"):
        image.to_segy(tmp_path / "image.sgy", sample_format=3)
    assert not (tmp_path / "image.sgy").exists()


def test_gathers_are_prestack(image, survey, tmp_path):
    image.to_segy(tmp_path / "g.sgy", of="gathers")
    with segyio.open(tmp_path / "g.sgy") as file:
        assert file.offsets.tolist() == [75, 225]
        assert file.sorting == segyio.TraceSortingFormat.INLINE_SORTING
        assert np.array_equal(file.gather[104, 68, :][1], image.panels.values[2, 2, 1])
        cube = segyio.tools.cube(file)
        assert np.array_equal(cube, image.panels.values)
    sectors = migrate(
        survey, Velocity.constant(2500), GRID, gathers=AzimuthSectors([0, 45, 90, 135, 180]), device="cpu"
    )
    sectors.to_segy(tmp_path / "a.sgy", of="gathers")
    with segyio.open(tmp_path / "a.sgy") as file:
        assert file.offsets.tolist() == [1, 2, 3, 4]
        assert b"number of the azimuth bin" in bytes(file.text[0])


@pytest.mark.parametrize("size", [(1, 4), (4, 1), (1, 1)])
def test_lines_one_bin_wide(survey, tmp_path, size):
    grid = Grid((431000.0, 6780000.0), 30, *size, 25, 25, 10, 0.002, inline=(7, 1))
    image = migrate(survey, Velocity.constant(2500), grid, device="cpu")
    image.to_segy(tmp_path / "a.sgy")
    again = read_volume(tmp_path / "a.sgy")
    assert again.samples.reshape(image.values.shape).tolist() == image.values.tolist()
    assert again.places == pytest.approx(grid.pillars, abs=0.006)
    if size != (1, 1):
        with segyio.open(tmp_path / "a.sgy") as file:
            assert (len(file.ilines), len(file.xlines)) == size


def test_what_cannot_be_exported_is_named(image, survey, tmp_path):
    out = tmp_path / "a.sgy"
    stack = migrate(survey, Velocity.constant(2500), GRID, device="cpu")
    with pytest.raises(InputError, match="has no gathers; migrate with gathers="):
        stack.to_segy(out, of="gathers")
    with pytest.raises(InputError, match="image, fold, gathers"):
        stack.to_segy(out, of="velocity")
    with pytest.raises(InputError, match=r"inline numbers of .* are not whole"):
        export_segy(stack.dataset().assign_coords(inline=np.arange(5) + 0.5), out)
    with pytest.raises(InputError, match="sample_format is 7"):
        stack.to_segy(out, sample_format=7)
    late = stack.dataset().assign_coords(time=GRID.t + 40)
    with pytest.raises(InputError, match="16 bits of milliseconds"):
        export_segy(late, out)
    assert list(tmp_path.iterdir()) == []
