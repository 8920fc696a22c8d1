"""Surveys in MDIO: the layout that multidimio 1.1 writes, made here with zarr from a SEG-Y survey.

That the layout is that one was checked with the package itself: of four shots of the Viking line, with scaled
coordinates, delays and a dead trace, every sample and header is the same by way of MDIO as from the SEG-Y file.
"""

from __future__ import annotations

import pickle
import shutil
import warnings

import numpy as np
import pytest
from numpy.lib import recfunctions

from elinvar import seismic
from elinvar.errors import InputError
from elinvar.seismic import Grid, Velocity, mdio, migrate, open_mdio, open_segy, open_zarr, synthetic
from elinvar.seismic.headers import HEADER_BYTES
from elinvar.seismic.tracefile import opened, words

zarr = pytest.importorskip("zarr")
SHAPE = (7, 30)  # places of 206 traces: four are empty


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The same survey as SEG-Y and as MDIO; folders and where in the grid the traces are."""
    folder = tmp_path_factory.mktemp("mdio")
    survey = synthetic.diffractors(
        [(120, 100, 500)], extent=150, offsets=(150, 300), azimuths=(0, 75), nt=120, noise=0.05, seed=1
    ).select(np.arange(196))
    survey.delay[:] = 0.1
    survey.live[11] = False
    survey.write_segy(folder / "a.sgy")
    there = np.sort(np.random.default_rng(2).permutation(SHAPE[0] * SHAPE[1])[: survey.n_traces])
    write(folder / "a.mdio", folder / "a.sgy", there)
    return folder, there


def write(target, source, there, shape=SHAPE):
    """Write what multidimio would."""
    survey = open_segy(source)
    fields = {mdio.FIELDS[name]: byte for name, byte in HEADER_BYTES.items() if name in mdio.FIELDS}
    with opened(source, "big") as file:
        stored = {name: words(file, source, {name: byte})[name] for name, byte in fields.items()}
    headers = recfunctions.unstructured_to_structured(
        np.zeros((shape[0] * shape[1], len(stored)), np.int32), names=list(stored)
    )
    for name, column in stored.items():
        headers[name][there] = column
    samples = np.full((shape[0] * shape[1], survey.n_samples), np.nan, np.float32)
    samples[there] = survey.read()
    mask = np.zeros(shape[0] * shape[1], bool)
    mask[there] = True
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        group = zarr.create_group(target, zarr_format=3)
        group.attrs.update({"apiVersion": "1.1.3", "name": "Lines", "attributes": {"defaultVariableName": "amplitude"}})
        given = {
            "amplitude": (samples.reshape(*shape, -1), (3, 8, 64), ("line", "trace", "time")),
            "headers": (headers.reshape(shape), shape, ("line", "trace")),
            "trace_mask": (mask.reshape(shape), shape, ("line", "trace")),
            "time": (np.arange(survey.n_samples) * round(survey.dt * 1e3), (survey.n_samples,), ("time",)),
        }
        for name, (values, chunks, dims) in given.items():
            array = group.create_array(
                name, shape=values.shape, dtype=values.dtype, chunks=chunks, dimension_names=dims
            )
            array[...] = values
    return group


def test_it_is_the_survey_that_was_imported(made):
    folder, _ = made
    segy, found = open_segy(folder / "a.sgy"), open_mdio(folder / "a.mdio")
    assert np.array_equal(found.read(), segy.read())
    assert found.dt == segy.dt
    for name in ("source", "receiver", "delay", "live", "source_elevation", "receiver_elevation", "datum"):
        assert np.array_equal(getattr(found, name), getattr(segy, name))
    assert set(found.headers) == set(segy.headers)
    assert all(np.array_equal(found.headers[name], segy.headers[name]) for name in found.headers)
    assert found.notes[0] == "MDIO 1.1.3, Lines, 7 x 30 places"
    some = np.array([0, 3, 4, 99, 195])
    assert np.array_equal(found.read(some), segy.read(some))
    assert found.traces.read(np.zeros(0, np.int64)).shape == (0, 120)
    again = pickle.loads(pickle.dumps(found))
    assert np.array_equal(again.read(some), segy.read(some))


def test_every_way_in_knows_it(made, tmp_path, relative):
    folder, _ = made
    grid = Grid((60, 60), 0, 2, 2, 25, 25, 60, 0.004, 0.3)
    images = [
        migrate(survey, Velocity.constant(2500), grid, device="cpu")
        for survey in (open_segy(folder / "a.sgy"), open_zarr(folder / "a.mdio"))
    ]
    assert relative(images[1].values, images[0].values) < 1e-6
    shutil.copytree(folder / "a.mdio", tmp_path / "a")
    assert mdio.is_mdio(tmp_path / "a")
    assert seismic.open_zarr(tmp_path / "a").n_traces == 196


def test_what_is_wrong_is_said(made, tmp_path):
    folder, there = made
    source = folder / "a.sgy"
    with pytest.raises(InputError, match="does not exist"):
        open_mdio(tmp_path / "no.mdio")
    old = tmp_path / "old.mdio"
    old.mkdir()
    with pytest.raises(InputError, match="no Zarr folder"):
        open_mdio(old)
    (old / ".zgroup").write_text("{}")
    with pytest.raises(InputError, match="version 0"):
        open_zarr(old)
    with pytest.raises(InputError, match="no volume 'depth'"):
        open_mdio(folder / "a.mdio", variable="depth")
    with pytest.raises(InputError, match="srcx is no header name"):
        open_mdio(folder / "a.mdio", srcx="a")
    with pytest.raises(InputError, match="have no 'a'"):
        open_mdio(folder / "a.mdio", sx="a")
    cases = {
        "no trace in it": lambda g: g["trace_mask"].__setitem__(..., False),
        r"begins at 100 ms": lambda g: g["time"].__setitem__(..., g["time"][...] + 100),
        "no sample interval": lambda g: g["time"].__setitem__(..., 0),
    }
    for words_, spoil in cases.items():
        target = tmp_path / f"{len(list(tmp_path.iterdir()))}.mdio"
        spoil(write(target, source, there))
        with pytest.raises(InputError, match=words_):
            open_mdio(target)
    assert open_mdio(target, dt=0.004).dt == 0.004
    shutil.rmtree(target / "headers")
    with pytest.raises(InputError, match="no trace headers"):
        open_mdio(target)


def test_names_of_ones_own_and_damage(made, tmp_path):
    folder, there = made
    target = tmp_path / "a.mdio"
    group = write(target, folder / "a.sgy", there)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        headers = group["headers"][...]
        names = tuple(
            {"source_coord_x": "shot_x", "delay_recording_time": "delrt"}.get(n, n) for n in headers.dtype.names
        )
        headers.dtype.names = names
        del group["headers"]
        group.create_array("headers", data=headers, chunks=SHAPE, dimension_names=("line", "trace"))
    with pytest.raises(InputError, match=r"no 'source_coord_x'.*say what it is called \(sx=\.\.\.\)"):
        open_mdio(target)
    found = open_mdio(target, sx="shot_x")
    assert np.array_equal(found.source, open_segy(folder / "a.sgy").source)
    assert (found.delay == 0.1).all()
    for chunk in (target / "amplitude" / "c").rglob("0"):
        if chunk.is_file():
            chunk.write_bytes(b"not blosc")
    with pytest.raises(InputError, match="damaged"):
        found.read()
