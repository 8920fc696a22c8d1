from __future__ import annotations

import shutil
import warnings
from pathlib import Path

import numpy as np
import psutil
import pytest
import segyio

from elinvar.errors import InputError
from elinvar.seismic import Grid, Survey, SurveyWarning, open_segy
from elinvar.seismic.segy import text_header
from elinvar.seismic.selection import where
from elinvar.seismic.tracefile import SegyTraces, runs

CDP = {"sx": 181, "sy": 185, "gx": 181, "gy": 185}


@pytest.fixture
def small(tmp_path) -> Path:
    """A prestack file of 40 traces with a delay, 12.34 m precision and one dead trace."""
    n = 40
    rng = np.random.default_rng(5)
    source = np.round(rng.uniform(4e5, 4.01e5, (n, 2)), 2)
    live = np.ones(n, bool)
    live[7] = False
    survey = Survey.from_arrays(
        rng.standard_normal((n, 31)).astype(np.float32),
        source,
        source + np.array([120.0, -50.0]),
        0.002,
        delay=0.1,
        live=live,
    )
    path = tmp_path / "small.sgy"
    survey.write_segy(path)
    return path


def patch(path: Path, byte: int, value: int, *, width: int = 2, trace: int | None = None, order: str = "big") -> None:
    """Overwrite a header word: of the binary header, or of one trace (31 float samples) or all of them (-1)."""
    with segyio.open(path, ignore_geometry=True) as file:
        n, ns = file.tracecount, len(file.samples)
    places = [byte - 1] if trace is None else [
        3600 + t * (240 + 4 * ns) + byte - 1 for t in (range(n) if trace < 0 else [trace])
    ]  # fmt: skip
    with path.open("r+b") as raw:
        for place in places:
            raw.seek(place)
            raw.write(int(value).to_bytes(width, order, signed=True))


def test_delay_and_dead_traces(small):
    survey = open_segy(small)
    assert survey.delay == pytest.approx(np.full(40, 0.1))
    assert not survey.live[7]
    assert survey.live.sum() == 39
    assert any("1 traces are not live" in note for note in survey.notes)


@pytest.mark.parametrize(("scalco", "factor"), [(0, 1.0), (1, 1.0), (10, 10.0), (-10, 0.1), (-1000, 0.001)])
def test_scalco(small, scalco, factor):
    before = open_segy(small).source
    patch(small, 71, scalco, trace=-1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SurveyWarning)
        assert open_segy(small).source == pytest.approx(before * 100 * factor, rel=1e-12)


def test_offset_words_are_checked_not_used(small):
    patch(small, 37, 13000, width=4, trace=-1)
    with pytest.warns(SurveyWarning, match=r"13000 m against 130.0 m"):
        survey = open_segy(small)
    assert survey.offset == pytest.approx(np.full(40, 130.0))
    patch(small, 37, 1, width=4, trace=-1)  # 130 m / 100: a writer that applied scalco
    with pytest.warns(SurveyWarning, match="scalco was applied"):
        open_segy(small)
    patch(small, 37, -130, width=4, trace=-1)  # signed offsets are usual
    open_segy(small)


def test_words_can_be_elsewhere(small):
    with pytest.warns(SurveyWarning):
        survey = open_segy(small, sx=181, sy=185, gx=181, gy=185)
    assert survey.source == pytest.approx(open_segy(small).midpoint, abs=0.006)
    with pytest.raises(InputError, match="source_x is no header name; these can be moved: sx, sy"):
        open_segy(small, source_x=73)
    with pytest.raises(InputError, match="sx=74"):
        open_segy(small, sx=74)


def test_header_words_are_columns(small):
    patch(small, 9, 77, width=4, trace=3)
    patch(small, 189, 1200, width=4, trace=-1)
    patch(small, 99, -25, trace=5)
    patch(small, 113, 400, trace=5)
    survey = open_segy(small, xline=9)
    assert survey.headers["fldr"][3] == survey.headers["xline"][3] == 77
    assert survey.headers["inline"].tolist() == [1200] * 40
    assert (survey.headers["sstat"][5], survey.headers["mute"][5]) == pytest.approx((-0.025, 0.4))
    assert survey.headers["cdp_x"] == pytest.approx(survey.midpoint[:, 0], abs=0.006)
    part = survey.select([5, 3])
    assert part.headers["fldr"].tolist() == [survey.headers["fldr"][5], 77]
    with pytest.raises(KeyError):
        survey.headers["nothing"]
    assert where(survey, "fldr == 77").sum() == 1


@pytest.mark.parametrize(("scalel", "factor"), [(0, 1.0), (-10, 0.1), (2, 2.0)])
def test_elevations(small, scalel, factor):
    for byte, value in ((41, 1500), (45, 1600), (49, 30), (53, 1000), (57, 1100)):
        patch(small, byte, value, width=4, trace=-1)
    patch(small, 69, scalel, trace=-1)
    survey = open_segy(small)
    assert survey.receiver_elevation == pytest.approx(np.full(40, 1500 * factor))
    assert survey.source_elevation == pytest.approx(np.full(40, 1570 * factor))
    assert survey.datum == pytest.approx(np.full(40, 1050 * factor))
    assert survey.select([1]).source_elevation == pytest.approx([1570 * factor])
    patch(small, 3255, 2)
    assert open_segy(small).receiver_elevation == pytest.approx(np.full(40, 0.3048 * 1500 * factor))


def test_cdp_coordinates_are_checked_not_used(small):
    with segyio.open(small, ignore_geometry=True) as file:
        x = np.array(file.attributes(181)[:]) // 100
        y = np.array(file.attributes(185)[:]) // 100
    for trace in range(40):
        patch(small, 181, x[trace], width=4, trace=trace)
        patch(small, 185, y[trace], width=4, trace=trace)
    with pytest.warns(SurveyWarning, match=r"CDP coordinates of 39 traces .* \(scalco does not seem to apply"):
        survey = open_segy(small)
    assert survey.midpoint[:, 0].min() > 4e5
    patch(small, 181, 0, width=4, trace=-1)
    patch(small, 185, 0, width=4, trace=-1)
    open_segy(small)  # nothing said, nothing to check


@pytest.mark.parametrize("coding", ["cp037", "ascii"])
def test_the_text_header_is_readable(small, coding):
    cards = [f"C{i + 1:2d} ".ljust(80) for i in range(40)]
    cards[0] = "C 1 CLIENT: NOBODY, 3-D & ALL".ljust(80)
    with small.open("r+b") as raw:
        raw.write("".join(cards).encode(coding))
    assert open_segy(small).text == ("C 1 CLIENT: NOBODY, 3-D & ALL",)


def test_feet_become_metres(small):
    before = open_segy(small)
    patch(small, 3255, 2)
    after = open_segy(small)
    assert after.source == pytest.approx(before.source * 0.3048)
    assert "feet converted to metres" in after.notes


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda p: [patch(p, 3217, 0), patch(p, 117, 0, trace=-1)], "sample interval is 0"),
        (lambda p: patch(p, 117, 4000, trace=5), "contradicts itself: 2000 µs"),
        (lambda p: patch(p, 117, -2000, trace=-1), "contradicts itself"),
        (lambda p: [patch(p, b, 0, width=4, trace=-1) for b in (73, 77, 81, 85)], "all source and receiver"),
        (lambda p: [patch(p, b, 0, width=4, trace=-1) for b in (81, 85)], "all receiver coordinates are zero"),
        (lambda p: patch(p, 29, 2, trace=-1), "all 40 traces are marked dead"),
        (lambda p: patch(p, 3225, 4), "format code 4"),
        (lambda p: patch(p, 3221, 30), "cut off, corrupt"),
        (lambda p: patch(p, 3221, 0), "traces have 0 samples"),
        (lambda p: [patch(p, 3501, 2, width=1), patch(p, 3507, 3, width=4)], r"3 additional header\(s\) per trace"),
        (lambda p: p.write_bytes(p.read_bytes()[:-100]), "cut off, corrupt"),
        (lambda p: p.write_bytes(p.read_bytes()[:3600]), "no traces"),
        (lambda p: p.write_bytes(b"Zarr" * 20), "the file has 80 bytes"),
        (lambda p: p.write_bytes(b""), "the file has 0 bytes"),
        (lambda p: p.unlink(), "there is no file"),
        (lambda p: [p.unlink(), p.mkdir()], "is a folder"),
    ],
)
def test_a_spoilt_file_is_one_clear_sentence(small, spoil, words):
    spoil(small)
    with pytest.raises(InputError, match=words) as caught:
        open_segy(small)
    assert "\n" not in str(caught.value)


def test_degrees_are_refused_but_not_metres_that_are_called_degrees(small):
    patch(small, 89, 3, trace=-1)
    assert open_segy(small).source.max() > 1e5
    for byte in (73, 77, 81, 85):
        patch(small, byte, 4512, width=4, trace=-1)
    with pytest.raises(InputError, match="geographic"):
        open_segy(small)


def test_a_given_interval_wins(small):
    patch(small, 117, 4000, trace=5)
    assert open_segy(small, dt=0.004).dt == 0.004
    with pytest.raises(InputError, match="dt is 4"):
        open_segy(small, dt=4)


def test_the_wrong_byte_order_is_named(small):
    with pytest.raises(InputError, match="pass endian='big'"):
        open_segy(small, endian="little")
    with pytest.raises(InputError, match="auto, big, little"):
        open_segy(small, endian="middle")


def test_a_file_that_changes_is_noticed(small):
    survey = open_segy(small)
    with small.open("ab") as raw:
        raw.write(bytes(240 + 4 * 31))
    with pytest.raises(InputError, match="changed since it was opened"):
        survey.read([0])


def test_reading_leaves_no_file_open(small):
    survey = open_segy(small)
    before = psutil.Process().num_fds()
    for _ in range(20):
        survey.read([1, 5])
    assert psutil.Process().num_fds() == before


def test_scattered_reads_are_few_and_right(small):
    survey = open_segy(small)
    whole = survey.read()
    for index in ([0], [3, 4, 5], [0, 10, 20, 30], [1, 2, 9, 11, 13, 39], [5, 5, 6]):
        assert np.array_equal(survey.read(index), whole[index])
    assert len(runs(np.arange(0, 1000, 7))) == 1
    assert len(runs(np.array([1, 2, 3, 10, 12, 14]))) == 2


@pytest.mark.parametrize("order", ["msb", "lsb"])
@pytest.mark.parametrize("code", [1, 2, 3, 5, 6, 8])
def test_every_sample_format(shared, code, order):
    survey = open_segy(shared / "segyio" / "multiformats" / f"Format{code}{order}.sgy", **CDP)
    assert (survey.n_traces, survey.n_samples, survey.dt) == (414, 75, 0.004)
    assert survey.delay == pytest.approx(np.full(414, 0.004))
    assert survey.source[0] == pytest.approx([620197.2, 6074232.9])
    data = survey.read().astype(np.float64)
    if code != 8:  # eight bits hold another scaling of the same cube
        assert data.sum() == 780251
        assert np.sqrt(np.mean(data**2)) == pytest.approx(2160.36, abs=0.01)


def test_a_real_line(shared):
    survey = open_segy(shared / "segyio" / "viking_small.segy")
    assert (survey.n_traces, survey.n_samples, survey.dt) == (480, 600, 0.004)
    assert survey.offset.min() == 262
    assert survey.offset.max() == 3237
    assert len(np.unique(survey.source[:, 0])) == 4
    assert np.isfinite(survey.read()).all()


def test_a_stacked_file_says_so(shared):
    with pytest.raises(InputError, match="a stacked file"):
        open_segy(shared / "segyio" / "f3.sgy")


def test_delay_with_scalar(shared):
    survey = open_segy(shared / "segyio" / "delay-scalar.sgy", **CDP)
    assert survey.delay[0] == pytest.approx(1.0)  # 10000 and scalar -10: 1000 ms
    assert survey.source[0] == pytest.approx([467093.36, 6557701.67])


def test_text_headers_of_real_files(shared):
    assert text_header(shared / "segyio" / "f3.sgy")[0] == "C 1 Cropped F3 2-byte integer data set"  # EBCDIC
    assert text_header(shared / "segyio" / "delay-scalar.sgy")[0].startswith("C 1 CLIENT")  # ASCII
    lines = text_header(shared / "segyio" / "multi-text.sgy")  # five blocks
    assert sum("END EBCDIC" in line for line in lines) == 5


@pytest.mark.parametrize("name", ["acute-small.sgy", "obtuse-small.sgy"])
def test_rotated_files(shared, name):
    survey = open_segy(shared / "segyio" / name, **CDP)
    assert (survey.n_traces, survey.offset.max()) == (25, 0.0)
    grid = Grid.from_survey(survey)
    assert (grid.nx, grid.ny) == (5, 5)
    assert grid.azimuth == pytest.approx(45, abs=90.01)
    assert abs(grid.azimuth) == pytest.approx(45, abs=0.01)


@pytest.mark.parametrize(
    "name", ["small.sgy", "shot-gather.sgy", "multi-text.sgy", "1xN.sgy", "Mx1.sgy", "small-lsb.sgy", "small-ps.sgy"]
)
def test_files_without_coordinates_say_what_to_do(shared, name, tmp_path):
    copy = tmp_path / name
    shutil.copy(shared / "segyio" / name, copy)
    with pytest.raises(InputError, match="coordinates are zero"):
        open_segy(copy)


def test_a_file_with_garbage_for_trace_headers_is_refused(shared):
    path = shared / "segyio" / "long.sgy"
    with pytest.raises(InputError, match="contradicts itself"):
        open_segy(path)
    with pytest.raises(InputError, match="coordinates are zero"):  # of the one trace that is not dead
        open_segy(path, dt=0.001)
    samples = SegyTraces(path, "big", (3, 60000)).read(np.array([0, 2]))  # they are sound all the same
    assert samples[:, -1] == pytest.approx([0.25, 0.7505], abs=1e-4)


def test_additional_trace_headers_are_refused_by_name(shared):
    with pytest.raises(InputError, match=r"revision 2 file with 1 additional header\(s\)"):
        open_segy(shared / "segyio" / "rotated-small-rev2.sgy")


def test_an_interval_that_contradicts_itself(shared):
    with pytest.raises(InputError, match=r"2000 µs in the binary header, -25000 µs"):
        open_segy(shared / "segyio" / "interval-pos-bin-neg-trace.sgy")
