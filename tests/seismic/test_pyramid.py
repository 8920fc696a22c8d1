from __future__ import annotations

import json

import numpy as np
import pytest
import xarray
from hypothesis import given, settings
from hypothesis import strategies as st

from elinvar.errors import InputError
from elinvar.seismic import Grid, Velocity, migrate, open_image, pyramid, synthetic


def plain(a, *, time):
    """The documented formula, number by number, in Python floats."""

    def thin(line):
        out = []
        for i in range(0, len(line), 2):
            total, weight = 0.0, 0.0
            if i > 0:
                total, weight = total + line[i - 1], weight + 1.0
            total, weight = total + 2.0 * line[i], weight + 2.0
            if i + 1 < len(line):
                total, weight = total + line[i + 1], weight + 1.0
            out.append(total / weight)
        return out

    def low_pass(line):
        n, out = len(line), []
        for i in range(0, n, 2):
            total = 0.0
            for k, tap in enumerate(pyramid.TAPS):
                j = (i + k - 24) % (2 * n - 2) if n > 1 else 0
                total += tap * line[j if j < n else 2 * n - 2 - j]
            out.append(total)
        return out

    a = np.asarray(a, np.float64)
    a = np.apply_along_axis(lambda line: thin(line.tolist()), 0, a)
    a = np.apply_along_axis(lambda line: thin(line.tolist()), 1, a)
    if time:
        a = np.apply_along_axis(lambda line: low_pass(line.tolist()), 2, a)
    return a.astype(np.float32)


@settings(deadline=None, max_examples=20)
@given(st.integers(1, 6), st.integers(1, 6), st.integers(1, 70), st.booleans(), st.integers(0, 9999))
def test_a_level_is_the_formula_to_the_bit(nx, ny, nt, time, seed):
    a = np.random.default_rng(seed).standard_normal((nx, ny, nt)).astype(np.float32)
    found = pyramid.decimate(a, time=time)
    assert found.dtype == np.float32
    assert np.array_equal(found, plain(a, time=time))


def test_constants_and_slopes_stay():
    assert pyramid.decimate(np.full((5, 4, 100), 3.0)) == pytest.approx(3.0, abs=1e-6)
    ramp = np.arange(9.0)[:, None, None] * np.ones((9, 3, 60))
    assert pyramid.decimate(ramp)[1:-1, 0, 15] == pytest.approx([2, 4, 6])  # a bin keeps its place


@pytest.mark.parametrize(("part", "low", "high"), [(0.33, 0.999, 1.001), (0.52, 0, 0.001), (0.9, 0, 0.001)])
def test_time_passes_what_the_coarser_level_can_hold(part, low, high):
    t = np.arange(2000)
    wave = np.cos(np.pi * part * t)[None, None]
    kept = pyramid.decimate(wave)[0, 0, 100:-100]
    assert low <= np.abs(kept).max() <= high


def test_space_does_not_alias_a_checkerboard():
    board = (-1.0) ** np.add.outer(np.arange(16), np.arange(16))[:, :, None] * np.ones((16, 16, 3))
    assert np.abs(pyramid.decimate(board, time=False)[1:-1, 1:-1]).max() < 1e-6


def test_the_plan_stops_where_nothing_is_gained():
    found = pyramid.plan((300, 100, 1501), 0.002)
    assert [level.shape for level in found] == [(300, 100, 1501), (150, 50, 751), (75, 25, 376), (38, 13, 376)]
    assert [level.factors for level in found] == [(1, 1, 1), (2, 2, 2), (4, 4, 4), (8, 8, 4)]
    assert len(pyramid.plan((64, 3, 50), 0.002)) == 1
    assert len(pyramid.plan((64, 3, 50), 0.002, 2)) == 3
    assert len(pyramid.plan((2, 1, 1), 0.002, 5)) == 2


@pytest.fixture(scope="module")
def image():
    grid = Grid((10.0, 20.0), 30, 9, 5, 25, 25, 60, 0.002, 0.3, inline=(100, 2))
    survey = synthetic.diffractors([(60, 60, 500)], extent=150, offsets=(100,), nt=300)
    return migrate(survey, Velocity.constant(2500), grid, gathers=[0, 200], device="cpu")


@pytest.fixture
def folder(image, tmp_path):
    image.to_zarr(tmp_path / "image.zarr")
    return tmp_path / "image.zarr"


def test_levels_in_memory(image):
    found = pyramid.levels(image, 2)
    assert np.array_equal(found[0].values, image.values)
    assert np.array_equal(found[1].values, pyramid.decimate(image.values))
    assert np.array_equal(found[2].values, pyramid.decimate(pyramid.decimate(image.values)))
    assert found[2].inline.values.tolist() == [100, 108, 116]
    assert found[1].time.values == pytest.approx(image.grid.t[::2])
    assert found[1].cdp_x.values == pytest.approx(image.grid.map[0][::2, ::2])


@pytest.mark.parametrize("chunk", [64, 2])
def test_levels_on_disk_are_the_same_bits_however_they_are_cut(image, folder, monkeypatch, chunk):
    monkeypatch.setattr(pyramid, "_CHUNK", chunk)
    calls = []
    found = pyramid.build(folder, 2, progress=lambda *done: calls.append(done))
    assert calls[-1][0] == calls[-1][1] == sum(np.prod(level.shape) for level in found[1:])
    for number, known in enumerate(pyramid.levels(image, 2)[1:], 1):
        level = open_image(folder, f"pyramid/{number}")
        assert np.array_equal(level["image"].values, known.values)
        for name in ("inline", "crossline", "time", "cdp_x", "cdp_y"):
            assert np.array_equal(level["image"].coords[name].values, known.coords[name].values)
        level.close()


def test_the_folder_says_what_it_holds(image, folder):
    pyramid.build(folder, 1)
    pyramid.build(folder, 2)  # again: replaced
    listed = json.loads((folder / "zarr.json").read_text())["attributes"]["multiscales"][0]["datasets"]
    assert [entry["path"] for entry in listed] == ["image", "pyramid/1/image", "pyramid/2/image"]
    assert listed[1]["coordinateTransformations"][0]["scale"] == [2, 2, 0.004]
    with xarray.open_zarr(folder, consolidated=False) as again:
        assert np.array_equal(again["image"].values, image.values)
        assert again.attrs["velocity"] == "2500 m/s"
    assert sorted(p.name for p in folder.parent.iterdir()) == ["image.zarr"]
    assert not [p for p in folder.iterdir() if p.name.endswith(".part")]


def test_a_failed_build_leaves_the_image_alone(image, folder):
    def stop(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pyramid.build(folder, 2, progress=stop)
    assert not (folder / "pyramid").exists()
    assert "multiscales" not in json.loads((folder / "zarr.json").read_text())["attributes"]


def test_what_cannot_be_decimated_is_named(folder):
    with pytest.raises(InputError, match=r"\(4, 4\)"):
        pyramid.decimate(np.ones((4, 4)))
    with pytest.raises(InputError, match="needs no coarser level"):
        pyramid.build(folder)
    with pytest.raises(InputError, match="levels is 0"):
        pyramid.build(folder, 0)
