from __future__ import annotations

import struct

import numpy as np
import pytest

from elinvar.errors import InputError
from elinvar.seismic import SurveyWarning, open_su


def make(path, order, *, n=6, ns=7, dt=2000):
    """Write Seismic Unix by hand: words at their bytes, float32 samples."""
    mark = ">" if order == "big" else "<"
    with path.open("wb") as file:
        for i in range(n):
            header = bytearray(240)
            words = {9: ("i", 3), 13: ("i", i + 1), 21: ("i", 40 + i), 29: ("h", 1 if i else 2), 37: ("i", -100),
                     41: ("i", 1234), 69: ("h", -10), 71: ("h", -10), 73: ("i", 10 * (1000 + 50 * i)), 77: ("i", 20),
                     81: ("i", 10 * (1100 + 50 * i)), 85: ("i", 20), 109: ("h", 64), 115: ("H", ns), 117: ("H", dt),
                     181: ("f", 25.0)}  # fmt: skip
            for byte, (kind, value) in words.items():
                struct.pack_into(mark + kind, header, byte - 1, value)
            file.write(header + struct.pack(f"{mark}{ns}f", *(100.0 * i + k for k in range(ns))))
    return path


@pytest.mark.parametrize("order", ["big", "little"])
def test_both_byte_orders(tmp_path, order):
    survey = open_su(make(tmp_path / "a.su", order))
    assert (survey.n_traces, survey.n_samples, survey.dt) == (6, 7, 0.002)
    assert survey.read([2]).tolist() == [[200, 201, 202, 203, 204, 205, 206]]
    assert survey.source[1] == pytest.approx([1050, 2])
    assert survey.offset == pytest.approx(np.full(6, 100.0))
    assert survey.delay == pytest.approx(np.full(6, 0.064))
    assert survey.receiver_elevation == pytest.approx(np.full(6, 123.4))
    assert survey.live.tolist() == [False] + [True] * 5
    assert survey.headers["cdp"].tolist() == list(range(40, 46))
    assert "cdp_x" not in survey.headers  # bytes 181 and on mean something else here
    assert survey.notes[0] == f"Seismic Unix, {order}-endian"


def test_a_demo_file(shared):
    survey = open_su(shared / "su" / "shots_static_nmo_w.su")
    assert (survey.n_traces, survey.n_samples, survey.dt) == (2400, 251, 0.001)
    assert (survey.offset.min(), survey.offset.max()) == (50, 1000)
    assert survey.delay[0] == 0.1
    assert len(np.unique(survey.headers["cdp"])) == 120
    assert np.isfinite(survey.read()).all()


@pytest.mark.parametrize("name", ["small.su", "small-lsb.su"])
def test_a_file_without_geometry_says_so(shared, name):
    with pytest.raises(InputError, match="interval is 0 in every header"):
        open_su(shared / "segyio" / name)
    with pytest.raises(InputError, match="all source and receiver coordinates are zero"):
        open_su(shared / "segyio" / name, dt=0.004)


@pytest.mark.parametrize(
    ("spoil", "options", "words"),
    [
        (lambda p: p.write_bytes(p.read_bytes()[:-3]), {}, "not a whole number of traces of 7 or 1792"),
        (lambda p: p.write_bytes(b"SU" * 50), {}, "the file has 100 bytes"),
        (lambda p: p.write_bytes(b""), {}, "the file has 0 bytes"),
        (lambda p: p.unlink(), {}, "there is no file"),
        (lambda p: [p.unlink(), p.mkdir()], {}, "is a folder"),
        (lambda _: None, {"endian": "little"}, "the file is big-endian"),
        (lambda _: None, {"endian": "native"}, "auto, big, little"),
        (lambda _: None, {"cdp_x": 181}, "cdp_x is no header name"),
        (lambda p: make(p, "big", dt=0), {}, "interval is 0"),
    ],
)
def test_a_spoilt_file_is_one_clear_sentence(tmp_path, spoil, options, words):
    path = make(tmp_path / "a.su", "big")
    spoil(path)
    with pytest.raises(InputError, match=words) as caught:
        open_su(path, **options)
    assert "\n" not in str(caught.value)


def test_offsets_are_checked(tmp_path):
    path = make(tmp_path / "a.su", "big")
    data = bytearray(path.read_bytes())
    for i in range(6):
        struct.pack_into(">i", data, i * 268 + 36, 5000)
    path.write_bytes(data)
    with pytest.warns(SurveyWarning, match="5000 m against 100"):
        open_su(path)
