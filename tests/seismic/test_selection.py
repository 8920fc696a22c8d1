"""Selections: sectors and tiles on a known geometry, and a condition language that cannot run code."""

import numpy as np
import pytest

from elinvar.errors import InputError
from elinvar.seismic.selection import azimuths, columns, offset_vectors, offsets, where
from elinvar.seismic.survey import Survey


@pytest.fixture
def survey():
    """Eight traces around one source, 45 degrees and 100 m apart, offset 100 .. 800 m, and one of zero offset."""
    angle = np.radians(np.arange(0, 360, 45))
    size = 100.0 * np.arange(1, 9)
    receiver = np.vstack([np.stack([size * np.sin(angle), size * np.cos(angle)], axis=1), [[0.0, 0.0]]])
    return Survey.from_arrays(np.zeros((9, 4)), np.zeros((9, 2)), receiver, 0.004)


def test_offsets(survey):
    assert np.flatnonzero(offsets(survey, 200, 400)).tolist() == [1, 2]
    assert offsets(survey).all()
    assert np.flatnonzero(offsets(survey, -np.inf, 0, along=1.0)).tolist() == [3, 4, 5, 6]
    assert np.flatnonzero(offsets(survey, -550, 0, along=1.0)).tolist() == [3, 4]
    with pytest.raises(InputError, match="low 5 m is not below high 1 m"):
        offsets(survey, 5, 1)


def test_azimuths(survey):
    assert np.flatnonzero(azimuths(survey, 40, 100, reciprocal=False)).tolist() == [1, 2, 8]
    assert np.flatnonzero(azimuths(survey, 40, 100)).tolist() == [1, 2, 5, 6, 8]
    assert np.flatnonzero(azimuths(survey, 350, 10, reciprocal=False)).tolist() == [0, 8]
    assert np.flatnonzero(azimuths(survey, 350, 10)).tolist() == [0, 4, 8]
    assert azimuths(survey, 0, 180).all()
    assert azimuths(survey, 0, 360, reciprocal=False).all()


def test_sectors_partition_the_survey(survey):
    counts = sum(azimuths(survey, a, a + 30).astype(int) for a in range(0, 180, 30))
    assert (counts[:8] == 1).all()


def test_offset_vector_tiles(survey):
    tiles = offset_vectors(survey, 250, 250, azimuth=0.0)
    assert tiles[0].tolist() == [0, 0]  # 100 m north
    assert tiles[2].tolist() == [0, 1]  # 300 m east
    assert tiles[4].tolist() == [-2, 0]  # 500 m south
    turned = offset_vectors(survey, 250, 250, azimuth=90.0)
    assert turned[2].tolist() == [1, -1] or turned[2].tolist() == [1, 0]


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        ("offset < 250", [0, 1, 8]),
        ("200 <= offset < 500", [1, 2, 3]),
        ("offset > 600 or azimuth == 0", [0, 6, 7, 8]),
        ("not (offset > 100.5)", [0, 8]),
        ("trace % 2 == 1 and offset / 2 > 150", [3, 5, 7]),
        ("trace in (1, 3) or trace not in [0, 1, 2, 3, 4, 5, 6, 7]", [1, 3, 8]),
        ("hypot(rx, ry) >= 799.999", [7]),
        ("abs(mx) < 1e-6 and hy != 0", [0, 4]),
        ("max(offset, 300) == 300", [0, 1, 2, 8]),
        ("cos(azimuth) < -0.9", [4]),
        ("depth > 15", [8]),
        ("1 < 2", list(range(9))),
    ],
)
def test_conditions(survey, condition, expected):
    extra = {"depth": np.array([0, 0, 0, 0, 0, 0, 0, 0, 20.0])}
    assert np.flatnonzero(where(survey, condition, extra)).tolist() == expected


@pytest.mark.parametrize(
    ("condition", "part"),
    [
        ("__import__('os').system('true')", "__import__"),
        ("offset.__class__ == 1", "offset.__class__"),
        ("[x for x in (1,)] == 1", "for x in"),
        ("(lambda: 1)() == 1", "lambda"),
        ("offset < '3'", "'3'"),
        ("offset ** 2 > 1", "powers"),
        ("offset < 3 & trace", "logic"),
        ("velocity > 3", "columns are trace, offset"),
        ("offset", "compare it"),
        ("offset and trace > 1", "condition is expected"),
        ("(offset < 3) + 1 > 1", "number is expected"),
        ("offset <", "cannot be read"),
        ("f'{offset}' == 1", "not understood"),
        ("abs(offset, 3) > 1", "takes 1 argument"),
        ("9" * 3000 + " > 1", "give a text"),
        ("(" * 80 + "1" + ")" * 80 + " < offset and " + "not " * 60 + "(1 < 2)", "nested"),
        ("", "give a text"),
    ],
)
def test_what_is_not_a_condition_is_refused_by_its_part(survey, condition, part):
    with pytest.raises(InputError) as caught:
        where(survey, condition)
    assert part in str(caught.value)


def test_every_documented_column_exists(survey):
    from elinvar.seismic.selection import COLUMNS

    assert set(columns(survey)) == set(COLUMNS)
    assert all(len(v) == 9 for v in columns(survey).values())
