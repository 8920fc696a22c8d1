from __future__ import annotations

import pickle

import numpy as np
import pytest

from elinvar.errors import InputError
from elinvar.seismic import Survey, synthetic
from elinvar.seismic.headers import Columns
from elinvar.seismic.traces import ArrayTraces


def make(n=6, ns=5, **options):
    data = np.arange(n * ns, dtype=np.int16).reshape(n, ns)
    source = np.column_stack([np.arange(n) * 10.0, np.zeros(n)])
    return Survey.from_arrays(data, source, source + np.array([30.0, 40.0]), 0.004, **options)


def test_geometry_comes_from_coordinates():
    survey = make()
    assert survey.offset == pytest.approx(np.full(6, 50.0))
    assert survey.azimuth == pytest.approx(np.full(6, np.degrees(np.arctan2(30, 40))))
    assert survey.midpoint[2] == pytest.approx([35, 20])
    assert "6 traces x 5 samples at 4 ms" in repr(survey)


def test_samples_become_float32_and_leave_the_original_alone():
    survey = make()
    block = survey.read([1, 3])
    assert block.dtype == np.float32
    block[:] = -1
    assert survey.read([1])[0].tolist() == [5, 6, 7, 8, 9]
    assert survey.read([3, 1])[0].tolist() == [15, 16, 17, 18, 19]


def test_blocks_skip_dead_traces():
    survey = make(live=[1, 0, 1, 1, 0, 1])
    blocks = list(survey.blocks(3))
    assert [b.index.tolist() for b in blocks] == [[0, 2, 3], [5]]
    assert blocks[0].source[1].tolist() == [20, 0]
    assert survey.info()["live_traces"] == 4


def test_selection_shares_samples_and_keeps_order():
    survey = make(delay=np.arange(6) * 0.1, bin_size=(25, 12.5))
    part = survey.select([4, -6, 2])
    assert part.read()[:, 0].tolist() == [20, 0, 10]
    assert part.source[:, 0].tolist() == [40, 0, 20]
    assert part.delay.tolist() == pytest.approx([0.4, 0, 0.2])
    assert part.bin_size == (25, 12.5)
    assert part.select(np.array([True, False, True])).read()[:, 0].tolist() == [20, 10]


def test_elevations_and_columns_follow_their_traces():
    survey = make(
        source_elevation=np.arange(6.0), receiver_elevation=3, datum=[9] * 6, headers={"cdp": np.arange(6) * 2}
    )
    part = survey.select([4, 1])
    assert part.source_elevation.tolist() == [4, 1]
    assert part.receiver_elevation.tolist() == [3, 3]
    assert part.datum.tolist() == [9, 9]
    assert part.headers["cdp"].tolist() == part.select([0, 1]).headers["cdp"].tolist() == [8, 2]
    assert survey.info()["elevation_m"] == [0.0, 5.0]
    assert make().source_elevation.tolist() == [0.0] * 6
    with pytest.raises(ValueError, match="read-only"):
        survey.headers["cdp"][0] = 1


def test_columns_are_read_when_named_and_once():
    asked = []

    def read(name):
        asked.append(name)
        return np.zeros(6)

    survey = make(headers=Columns(read, ("cdp", "ep")))
    assert list(survey.headers) == ["cdp", "ep"]
    part = survey.select([1, 2])
    assert asked == []
    assert part.headers["cdp"].shape == (2,)
    assert asked == ["cdp"]


def test_other_samples_in_the_same_places():
    survey = make(headers={"cdp": np.arange(6)}, source_elevation=7.0)
    other = survey.with_traces(ArrayTraces(np.ones((6, 5))))
    assert other.read().sum() == 30
    assert survey.read().sum() != 30
    assert other.source_elevation.tolist() == [7.0] * 6
    with pytest.raises(InputError, match="2 traces given for 6"):
        survey.with_traces(ArrayTraces(np.ones((2, 5))))


def test_info_is_plain_and_complete():
    info = make().info()
    assert info["offset_m"] == pytest.approx([50, 50])
    assert info["record_end_s"] == pytest.approx(0.016)
    assert info["source_positions"] == 6
    assert info["size_bytes"] == 120


def test_a_survey_survives_pickling():
    survey = pickle.loads(pickle.dumps(synthetic.dataset("tiny")))
    assert np.array_equal(survey.read([5]), synthetic.dataset("tiny").read([5]))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"traces": np.zeros(5)}, r"shape \(5,\)"),
        ({"traces": np.zeros((2, 5), complex)}, "complex128"),
        ({"traces": np.zeros((0, 5))}, "number of traces is 0"),
        ({"source": np.zeros((3, 2))}, r"give \(2, 2\)"),
        ({"receiver": np.full((2, 2), np.nan)}, r"receiver\[0\]"),
        ({"dt": 0}, "dt is 0"),
        ({"dt": 4.0}, "in seconds"),
        ({"delay": np.inf}, "delay"),
        ({"delay": [1, 2, 3]}, r"a recording delay has shape \(3,\)"),
        ({"datum": np.nan}, "a datum is not a finite number; give metres"),
        ({"source_elevation": [1, 2, 3]}, r"a source elevation has shape \(3,\)"),
        ({"headers": {"cdp": [1]}}, "header 'cdp' is int64"),
        ({"headers": {"cdp": ["a", "b"]}}, "give 2 numbers"),
        ({"live": [True]}, "one flag for each"),
        ({"live": [False, False]}, "all 2 traces are marked dead"),
        ({"bin_size": (0, 25)}, "bin_size is 0"),
    ],
)
def test_wrong_surveys_are_named(change, words):
    base = {"traces": np.zeros((2, 5)), "source": np.zeros((2, 2)), "receiver": np.ones((2, 2)), "dt": 0.002}
    with pytest.raises(InputError, match=words):
        Survey.from_arrays(**base | change)


def test_wrong_selections_are_named():
    with pytest.raises(InputError, match="no trace is selected"):
        make().select(np.zeros(6, bool))
    with pytest.raises(InputError, match="reach 6"):
        make().select([6])
    with pytest.raises(InputError, match="flags"):
        make().select([True])
    with pytest.raises(InputError, match="size is 0"):
        list(make().blocks(0))
