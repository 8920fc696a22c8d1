from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from elinvar.errors import InputError
from elinvar.seismic import (
    AzimuthSectors,
    Grid,
    OffsetBins,
    OffsetVectorTiles,
    Survey,
    Velocity,
    migrate,
    selection,
    synthetic,
)
from elinvar.seismic.binning import binning

V = Velocity.constant(2500)
GRID = Grid((75.0, 60.0), 0, 2, 3, 25, 25, 80, 0.004, 0.2)


def shot(vectors, live=None):
    """A survey with the given offset vectors (east, north)."""
    vectors = np.asarray(vectors, float)
    middle = np.tile([5e5, 6e6], (len(vectors), 1))
    return Survey.from_arrays(np.ones((len(vectors), 4)), middle - vectors / 2, middle + vectors / 2, 0.002, live=live)


def around(*degrees, distance=1000.0):
    angle = np.radians(degrees)
    return shot(distance * np.stack([np.sin(angle), np.cos(angle)], axis=1))


def test_edges_alone_are_offset_bins():
    assert binning([0, 100]) == OffsetBins((0, 100))
    assert binning(AzimuthSectors((0, 90))) == AzimuthSectors((0, 90))
    assert hash(OffsetBins([0, 100])) == hash(OffsetBins(np.array([0.0, 100.0])))


def test_offsets_on_an_edge():
    found = OffsetBins((0, 400, 800)).assign(shot([(399.9999999, 0), (0, 400), (0, 799.99), (0, 800), (0, 800.01)]))
    assert found.member.tolist() == [1, 1, 1, 1, -1]
    assert found.axis.labels == ("0 to 400 m", "400 to 800 m")
    assert found.axis.values.tolist() == [200, 600]


def test_signed_offsets():
    survey = shot([(0, 300), (0, -300), (10, 300), (0, -90)])
    found = OffsetBins((-400, -100, 100, 400), along=0.0).assign(survey)
    assert found.member.tolist() == [2, 0, 2, 1]
    assert OffsetBins((-400, -100, 100, 400), along=180.0).assign(survey).member.tolist() == [0, 2, 0, 1]
    assert OffsetBins((0, 100, 400)).assign(survey).member.tolist() == [1, 1, 1, 0]


def test_sectors_across_north():
    survey = around(350, 0, 14.99, 15, 44, 164, 170, 180, 200, 75)
    assert AzimuthSectors((-15, 15, 45, 75)).assign(survey).member.tolist() == [0, 0, 0, 1, 1, -1, 0, 0, 1, 2]
    one_way = AzimuthSectors((-15, 15, 45, 75), reciprocal=False)
    assert one_way.assign(survey).member.tolist() == [0, 0, 0, 1, 1, -1, -1, -1, -1, 2]


def test_sectors_that_fill_the_circle_hold_every_direction():
    rng = np.random.default_rng(1)
    survey = around(*rng.uniform(0, 360, 500), 360, 359.9999, 180, 179.9999)
    for sectors in (
        AzimuthSectors(np.arange(10, 191, 20)),
        AzimuthSectors(np.arange(-100, 261, 45), reciprocal=False),
    ):
        member = sectors.assign(survey).member
        assert member.min() >= 0
        for number in range(len(sectors.edges) - 1):
            flags = selection.azimuths(survey, *sectors.edges[number : number + 2], reciprocal=sectors.reciprocal)
            differ = flags != (member == number)
            assert differ.sum() <= 4  # the four that lie on an edge but for rounding


def test_zero_offset_has_no_direction():
    assert AzimuthSectors((0, 180)).assign(shot([(0, 0), (0, 1), (0, 0.001)])).member.tolist() == [-1, 0, -1]


def test_tiles():
    survey = shot([(150, 30), (30, 150), (-30, 150), (150, 30.0), (-150, -30)])
    found = OffsetVectorTiles(100, 100).assign(survey)  # first axis north, second east
    assert len(found) == 4
    assert found.axis.labels[0] == "-100 to 0 m, -200 to -100 m"
    assert found.member.tolist() == [1, 3, 2, 1, 0]
    folded = OffsetVectorTiles(100, 100, reciprocal=True).assign(survey)
    assert len(folded) == 3
    assert folded.member[0] == folded.member[3] == folded.member[4]


def test_offset_vectors_on_an_edge():
    tiny = 1e-7
    found = OffsetVectorTiles(100, 100).assign(shot([(100 - tiny, 100 - tiny), (100 + tiny, 100), (0, -tiny)]))
    assert found.axis.labels == ("0 to 100 m, 0 to 100 m", "100 to 200 m, 100 to 200 m")
    assert found.member.tolist() == [1, 1, 0]


def test_tiles_turn_with_their_azimuth():
    rng = np.random.default_rng(0)
    vectors = rng.uniform(-900, 900, (200, 2))
    a = np.radians(33)
    turned = vectors @ np.array([[np.cos(a), -np.sin(a)], [np.sin(a), np.cos(a)]])  # clockwise, row vectors
    plain = OffsetVectorTiles(300, 200).assign(shot(vectors))
    again = OffsetVectorTiles(300, 200, azimuth=33).assign(shot(turned))
    assert (plain.member != again.member).sum() <= 1
    assert np.array_equal(
        plain.member,
        np.unique(selection.offset_vectors(shot(vectors), 300, 200), axis=0, return_inverse=True)[1].ravel(),
    )


def test_dead_traces_make_no_tile_and_no_mean():
    survey = shot([(100, 0), (300, 0), (900, 900)], live=[True, True, False])
    found = OffsetVectorTiles(500, 500).assign(survey)
    assert len(found) == 1
    assert found.member.tolist() == [0, 0, -1]
    assert found.axis.rms_offset == pytest.approx([np.sqrt((100**2 + 300**2) / 2)])
    assert OffsetBins((0, 500, 5000)).assign(survey).axis.rms_offset[1] != 0
    assert np.isnan(OffsetBins((0, 500, 5000)).assign(survey).axis.rms_offset[1])


def test_the_mean_direction_has_no_sign():
    axis = OffsetBins((0, 2000)).assign(around(80, 100, 260, 280)).axis
    assert axis.mean_azimuth == pytest.approx([90])


@settings(deadline=None, max_examples=30)
@given(
    st.lists(st.floats(-3000, 3000), min_size=2, max_size=8, unique=True),
    st.lists(st.tuples(st.floats(-2000, 2000), st.floats(-2000, 2000)), min_size=1, max_size=20),
)
def test_every_trace_is_in_the_bin_that_holds_it(edges, vectors):
    edges = np.unique(np.round(edges, 1))
    if len(edges) < 2:
        return
    survey = shot(np.round(vectors, 2))
    found = OffsetBins(edges, along=90.0).assign(survey)
    signed = np.round(survey.offset, 2) * np.where(np.round(vectors, 2)[:, 0] < 0, -1, 1)
    for value, member in zip(signed, found.member, strict=True):
        inside = [k for k in range(len(edges) - 1) if edges[k] <= value < edges[k + 1]]
        if value == edges[-1]:
            inside = [len(edges) - 2]
        assert member == (inside[0] if inside else -1)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: OffsetBins([5]), "offset bin edges"),
        (lambda: OffsetBins([5, 4]), "offset bin edges"),
        (lambda: OffsetBins([0, 1], along=np.nan), "along is nan"),
        (lambda: AzimuthSectors([0]), "two at least"),
        (lambda: AzimuthSectors([0, 200]), "span at most 180"),
        (lambda: AzimuthSectors([0, 400], reciprocal=False), "span at most 360"),
        (lambda: OffsetVectorTiles(0, 10), "dx is 0"),
        (lambda: OffsetVectorTiles(10, 10, azimuth=np.inf), "azimuth is inf"),
    ],
)
def test_wrong_descriptions_are_named(make, words):
    with pytest.raises(InputError, match=words):
        make()


def test_too_many_tiles_are_refused():
    rng = np.random.default_rng(0)
    with pytest.raises(InputError, match="make them larger"):
        OffsetVectorTiles(1, 1).assign(shot(rng.uniform(0, 5000, (5000, 2))))


@pytest.fixture(scope="module")
def survey():
    return synthetic.diffractors(
        [(120, 100, 500)], extent=150, offsets=(150, 300), azimuths=(0, 75), nt=300, noise=0.05
    )


def test_azimuth_gathers(survey, relative):
    image = migrate(survey, V, GRID, gathers=AzimuthSectors((-20, 20, 60, 100)), device="cpu")
    assert image.gathers.dims == ("inline", "crossline", "azimuth", "time")
    assert image.gathers.azimuth.values.tolist() == [0, 40, 80]
    assert image.gathers.azimuth.attrs["units"] == "degree"
    assert image.gathers.attrs["traces"] == [98, 0, 98]
    assert relative(image.gathers.sum("azimuth").values, image.values) < 1e-5
    alone = migrate(survey.select(survey.azimuth > 50), V, GRID, device="cpu")
    assert relative(image.gathers.sel(azimuth=80).values, alone.values) < 1e-6
    assert not image.gathers.sel(azimuth=40).any()
    assert image.gathers.mean_azimuth.values[[0, 2]] % 180 == pytest.approx([0, 75], abs=1e-6)


def test_tile_gathers_survive_the_disk(survey, relative, tmp_path):
    import xarray

    image = migrate(survey, V, GRID, gathers=OffsetVectorTiles(200, 200), device="cpu")
    assert image.gathers.dims == ("inline", "crossline", "tile", "time")
    assert len(image.panels.axis) == image.job.bins == 3
    assert relative(image.gathers.sum("tile").values, image.values) < 1e-5
    image.to_zarr(tmp_path / "image.zarr")
    with xarray.open_zarr(tmp_path / "image.zarr", consolidated=False) as again:
        assert again.gathers.attrs["bins"] == list(image.panels.axis.labels)
        assert np.array_equal(again.gathers.values, image.gathers.values)
