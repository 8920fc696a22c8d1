from __future__ import annotations

import numpy as np
import pytest
import segyio

from elinvar.errors import InputError
from elinvar.seismic import Survey, open_segy, synthetic


def whole(n=12, ns=9, **options):
    """A survey of small whole numbers, which every format holds."""
    data = (np.arange(n * ns).reshape(n, ns) % 200 - 100).astype(np.float32)
    source = np.column_stack([1000.0 + np.arange(n), np.full(n, 2000.25)])
    return Survey.from_arrays(data, source, source + np.array([300.0, -400.0]), 0.004, **options)


@pytest.mark.parametrize("endian", ["big", "little"])
@pytest.mark.parametrize("sample_format", [1, 2, 3, 5, 6, 8])
def test_whole_numbers_survive_every_format(tmp_path, endian, sample_format):
    survey = whole(delay=0.2)
    survey.write_segy(tmp_path / "a.sgy", sample_format=sample_format, endian=endian)
    again = open_segy(tmp_path / "a.sgy")
    assert np.array_equal(again.read(), survey.read())
    assert again.source == pytest.approx(survey.source, abs=1e-9)
    assert again.receiver == pytest.approx(survey.receiver, abs=1e-9)
    assert (again.dt, again.n_samples, again.delay[0]) == (survey.dt, survey.n_samples, 0.2)
    assert endian in again.notes[0]


@pytest.mark.parametrize(("sample_format", "tolerance"), [(1, 2e-6), (5, 0.0), (6, 0.0)])
def test_real_amplitudes_survive_float_formats(tmp_path, sample_format, tolerance):
    survey = synthetic.dataset("tiny").select(np.arange(300))
    survey.write_segy(tmp_path / "a.sgy", sample_format=sample_format)
    assert open_segy(tmp_path / "a.sgy").read() == pytest.approx(survey.read(), abs=tolerance)


@pytest.mark.parametrize(
    ("sample_format", "value"), [(3, 0.5), (3, 32768.0), (8, 128.0), (8, -129.0), (2, 2.0**31), (2, np.nan)]
)
def test_integer_formats_never_change_a_sample(tmp_path, sample_format, value):
    survey = whole()
    survey.traces.data[7, 3] = value
    with pytest.raises(InputError, match=rf"format {sample_format} .* sample 3 of trace 7 is"):
        survey.write_segy(tmp_path / "a.sgy", sample_format=sample_format)
    assert list(tmp_path.iterdir()) == []


def test_a_strict_reader_accepts_the_file(tmp_path):
    live = np.arange(12) != 7
    whole(delay=0.1, live=live).write_segy(tmp_path / "a.sgy")
    with segyio.open(tmp_path / "a.sgy", ignore_geometry=True) as file:
        header = file.header[3]
        assert (header[71], header[29], header[109], header[117], header[115]) == (-100, 1, 100, 4000, 9)
        assert header[37] == 500
        assert file.header[7][29] == 2
        assert b"PRESTACK" in bytes(file.text[0])


def test_header_columns_and_elevations_survive(tmp_path):
    n = 12
    columns = {
        "cdp": np.arange(500, 500 + n), "inline": np.full(n, 7), "xline": np.arange(n) - 3, "fldr": np.arange(n) // 4,
        "sstat": np.linspace(-0.02, 0.035, n).round(3), "mute": np.full(n, 0.75), "swdep": np.full(n, 81.5),
    }  # fmt: skip
    survey = whole(headers=columns, source_elevation=np.linspace(10, 20.25, n), receiver_elevation=-5.5, datum=100.0)
    survey.write_segy(tmp_path / "a.sgy")
    again = open_segy(tmp_path / "a.sgy")
    for name, column in columns.items():
        assert again.headers[name] == pytest.approx(column, abs=1e-9), name
    assert again.source_elevation == pytest.approx(survey.source_elevation, abs=0.006)
    assert again.receiver_elevation == pytest.approx(np.full(n, -5.5))
    assert again.datum == pytest.approx(np.full(n, 100.0))
    again.write_segy(tmp_path / "b.sgy")  # and once more, now from a file's columns
    third = open_segy(tmp_path / "b.sgy")
    assert third.source_elevation == pytest.approx(again.source_elevation)
    assert third.headers["sstat"] == pytest.approx(columns["sstat"])


def test_buried_sources_stay_where_they_are(tmp_path):
    survey = whole(headers={"selev": np.full(12, 800.0), "sdepth": np.linspace(5, 16, 12)})
    assert survey.source_elevation == pytest.approx(800 - np.linspace(5, 16, 12))
    survey.write_segy(tmp_path / "a.sgy")
    again = open_segy(tmp_path / "a.sgy")
    assert again.source_elevation == pytest.approx(survey.source_elevation)
    assert again.headers["selev"] == pytest.approx(np.full(12, 800.0))


def test_delays_of_fractions_of_a_millisecond_use_the_time_scalar(tmp_path):
    data, place = np.ones((2, 5)), np.ones((2, 2))
    mute = {"mute": np.array([0.25, 1.0])}
    Survey.from_arrays(data, place, 2 * place, 0.001, delay=[0.0125, -0.1], headers=mute).write_segy(tmp_path / "a.sgy")
    again = open_segy(tmp_path / "a.sgy")
    assert again.delay == pytest.approx([0.0125, -0.1])
    assert again.headers["mute"] == pytest.approx([0.25, 1.0])
    with pytest.raises(InputError, match="16 bits of milliseconds"):
        Survey.from_arrays(data, place, 2 * place, 0.001, delay=99.0).write_segy(tmp_path / "b.sgy")
    assert not (tmp_path / "b.sgy").exists()


def test_nothing_half_written_stays(tmp_path):
    survey = synthetic.dataset("tiny").select(np.arange(5))
    survey.traces = None  # reading fails in the middle of the job
    with pytest.raises(AttributeError):
        survey.write_segy(tmp_path / "a.sgy")
    assert list(tmp_path.iterdir()) == []


def test_what_does_not_fit_is_refused(tmp_path):
    data, place = np.ones((2, 5)), np.ones((2, 2))
    with pytest.raises(InputError, match="coordinate reaches"):
        Survey.from_arrays(data, place * 3e7, place, 0.001).write_segy(tmp_path / "a.sgy")
    with pytest.raises(InputError, match="whole microseconds"):
        Survey.from_arrays(data, place, 2 * place, 0.5).write_segy(tmp_path / "a.sgy")
    with pytest.raises(InputError, match=r"sample_format is 4; choose one of 1 \(IBM float\)"):
        whole().write_segy(tmp_path / "a.sgy", sample_format=4)
    with pytest.raises(InputError, match="big, little"):
        whole().write_segy(tmp_path / "a.sgy", endian="auto")
