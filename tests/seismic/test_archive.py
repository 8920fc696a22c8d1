from __future__ import annotations

import pickle
import shutil

import numpy as np
import pyarrow.parquet
import pytest
import zarr

from elinvar.errors import InputError
from elinvar.seismic import Survey, archive, open_segy, open_zarr


def make(n=50, ns=20):
    rng = np.random.default_rng(3)
    data = rng.standard_normal((n, ns)).astype(np.float32)
    data[4, 5] = np.inf
    data[6] = 0.0
    return Survey.from_arrays(
        data,
        rng.uniform(4e5, 5e5, (n, 2)),
        rng.uniform(4e5, 5e5, (n, 2)),
        0.002,
        delay=rng.uniform(-0.1, 0.5, n),
        live=rng.uniform(size=n) < 0.8,
        bin_size=(25.0, 12.5),
        source_elevation=rng.uniform(0, 900, n),
        receiver_elevation=12.5,
        datum=500.0,
        headers={"cdp": np.arange(n, dtype=np.int32), "sstat": rng.normal(size=n)},
        name="north line",
    )


def same(a, b):
    for name in ("source", "receiver", "delay", "live", "source_elevation", "receiver_elevation", "datum"):
        assert np.array_equal(getattr(a, name), getattr(b, name)), name
    assert (a.dt, a.bin_size, a.name, a.notes, a.text) == (b.dt, b.bin_size, b.name, b.notes, b.text)
    assert list(a.headers) == list(b.headers)
    for name in a.headers:
        assert np.array_equal(a.headers[name], b.headers[name])
        assert a.headers[name].dtype == b.headers[name].dtype
    assert a.read().tobytes() == b.read().tobytes()


@pytest.fixture
def stored(tmp_path):
    make().to_zarr(tmp_path / "s.zarr")
    return tmp_path / "s.zarr"


def test_nothing_is_lost(stored):
    same(open_zarr(stored), make())


def test_nothing_of_a_real_file_is_lost(shared, tmp_path):
    survey = open_segy(shared / "segyio" / "viking_small.segy")
    survey.to_zarr(tmp_path / "v.zarr")
    same(open_zarr(tmp_path / "v.zarr"), survey)


def test_many_chunks_and_shards(tmp_path, monkeypatch):
    monkeypatch.setattr(archive, "_CHUNK_BYTES", 4 * 20 * 3)
    monkeypatch.setattr(archive, "_SHARD_BYTES", 4 * 20 * 3 * 4)
    seen = []
    make().to_zarr(tmp_path / "s.zarr", progress=lambda done, total: seen.append((done, total)))
    survey, truth = open_zarr(tmp_path / "s.zarr"), make().read()
    assert seen == [(12, 50), (24, 50), (36, 50), (48, 50), (50, 50)]
    assert zarr.open_array(tmp_path / "s.zarr" / "samples").chunks == (3, 20)
    for index in ([0], [49], [2, 3, 4], [0, 7, 30, 31], [5, 5, 6], [31, 4]):
        assert np.array_equal(survey.read(index), truth[index])
    assert survey.read([]).shape == (0, 20)


def test_parts_and_copies_work(stored):
    survey = pickle.loads(pickle.dumps(open_zarr(stored).select([7, 2, 9])))
    assert np.array_equal(survey.read(), make().read([7, 2, 9]))
    assert survey.headers["cdp"].tolist() == [7, 2, 9]
    assert open_zarr(stored, bin_size=(50, 50)).bin_size == (50.0, 50.0)


def test_other_programs_read_it(stored):
    table = pyarrow.parquet.read_table(stored / "headers.parquet")
    assert table["live"].to_pylist() == make().live.tolist()
    assert table.num_rows == 50
    assert np.array_equal(zarr.open_group(stored)["samples"][:], make().read())


def test_a_survey_is_replaced_whole_and_a_stranger_is_left_alone(stored, tmp_path):
    make(7).to_zarr(stored)
    assert open_zarr(stored).n_traces == 7
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("dear")
    for name in ("mine", "mine/letter.txt"):
        with pytest.raises(InputError, match="is no survey"):
            make().to_zarr(tmp_path / name)
    broken = make()
    broken.traces = None
    with pytest.raises(AttributeError):
        broken.to_zarr(stored)
    assert open_zarr(stored).n_traces == 7
    assert sorted(p.name for p in tmp_path.iterdir()) == ["mine", "s.zarr"]


def edit(path, **attributes):
    zarr.open_group(path, mode="r+").attrs.update(attributes)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (shutil.rmtree, "does not exist"),
        (lambda p: [shutil.rmtree(p), p.write_text("x")], "is a file"),
        (lambda p: (p / "zarr.json").unlink(), "is no survey"),
        (lambda p: shutil.rmtree(p / "samples"), "is no survey"),
        (lambda p: (p / "headers.parquet").unlink(), "headers.parquet cannot be read"),
        (lambda p: (p / "headers.parquet").write_bytes(b"PAR1" * 9), "headers.parquet cannot be read"),
        (lambda p: edit(p, elinvar_survey=9), "format 9, this version reads 1"),
        (lambda p: [shutil.rmtree(p), zarr.create_group(p)], "Zarr, but not a survey's"),
        (lambda p: [shutil.rmtree(p), zarr.create_group(p).create_array("image", shape=1, dtype="f4")], "an image"),
    ],
)
def test_a_damaged_folder_is_one_clear_sentence(stored, spoil, words):
    spoil(stored)
    with pytest.raises(InputError, match=words) as caught:
        open_zarr(stored)
    assert "\n" not in str(caught.value)


def test_a_table_of_another_survey_is_noticed(stored, tmp_path):
    make(7).to_zarr(tmp_path / "other.zarr")
    shutil.copy(tmp_path / "other.zarr" / "headers.parquet", stored)
    with pytest.raises(InputError, match="has 7 rows for 50 traces"):
        open_zarr(stored)


def test_damaged_samples_are_noticed(stored):
    survey = open_zarr(stored)
    (chunk,) = [p for p in (stored / "samples").rglob("*") if p.is_file() and p.name != "zarr.json"]
    whole = chunk.read_bytes()
    for spoilt in (whole[: len(whole) // 2], whole[:100] + b"?" + whole[101:]):
        chunk.write_bytes(spoilt)
        with pytest.raises(InputError, match="samples of traces 0 to 1 cannot be read"):
            survey.read([0, 1])
    chunk.unlink()
    assert np.isnan(survey.read([0, 1])).all()  # refused by whoever migrates it, never taken for silence
