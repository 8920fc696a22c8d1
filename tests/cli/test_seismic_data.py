from __future__ import annotations

import json

import numpy as np
import pytest
import segyio
from typer.testing import CliRunner

from elinvar.cli.main import app
from elinvar.seismic import Grid, Survey, Velocity, migrate, open_segy, open_zarr, synthetic

runner = CliRunner()


def run(*words: object, code: int = 0):
    result = runner.invoke(app, ["seismic", *map(str, words)])
    assert result.exit_code == code, (result.output, result.exception)
    return result


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A survey as SEG-Y and as a Zarr folder, and an image of it."""
    place = tmp_path_factory.mktemp("data")
    survey = synthetic.dataset("tiny").select(np.arange(0, 1764, 2))
    survey.write_segy(place / "tiny.sgy")
    survey.to_zarr(place / "tiny.zarr")
    grid = Grid((0.0, 0.0), 0, 3, 4, 25, 25, 20, 0.004, inline=(10, 1))
    migrate(survey, Velocity.constant(2500), grid, gathers=[100, 300, 500], device="cpu").to_zarr(place / "image.zarr")
    return place


@pytest.mark.parametrize("name", ["tiny.sgy", "tiny.zarr"])
def test_info_says_what_is_there_and_how_it_is_covered(folder, name):
    found = json.loads(run("info", folder / name, "--json").stdout)
    assert found["live_traces"] == 882
    assert found["suggested_grid"]["corners_m"][0] == [0.0, 0.0]
    assert found["coverage"]["traces_inside"] == 882
    assert found["coverage"]["traces_outside"] == 0
    assert sum(row["traces"] for row in found["coverage"]["offsets"]) == 882
    text = run("info", folder / name).stdout
    for words in ("fold mean", "empty bins", "882", "grid azimuth deg"):
        assert words in text
    assert "Traceback" not in text


def test_info_with_other_bins(folder):
    coarse = json.loads(run("info", folder / "tiny.sgy", "--bin", "50,100", "--json").stdout)
    assert (coarse["suggested_grid"]["dx_m"], coarse["suggested_grid"]["dy_m"]) == (50.0, 100.0)
    turned = json.loads(run("info", folder / "tiny.sgy", "--azimuth", 90, "--json").stdout)
    assert turned["suggested_grid"]["azimuth_deg"] == 90.0


def test_info_shows_the_text_header(folder):
    assert any(
        "PRESTACK" in line for line in json.loads(run("info", folder / "tiny.sgy", "--json").stdout)["text_header"]
    )
    assert "SOURCE X 73-76" in run("info", folder / "tiny.sgy").stdout


def test_words_work_where_the_geometry_does_not(folder, tmp_path):
    path = tmp_path / "moved.sgy"
    path.write_bytes((folder / "tiny.sgy").read_bytes())
    with segyio.open(path, "r+", ignore_geometry=True) as file:
        for i in range(file.tracecount):
            file.header[i].update({73: 0, 77: 0, 81: 0, 85: 0})
    run("info", path, code=1)
    rows = json.loads(run("info", path, "--words", "--json").stdout)
    assert {row["name"]: row["values"] for row in rows}["cdp_x"] > 1
    assert "CDP_X" in run("info", path, "--words").stdout


def test_info_of_an_image(folder):
    found = json.loads(run("info", folder / "image.zarr", "--json").stdout)
    assert (found["shape"], found["inlines"], found["velocity"]) == ([3, 4, 20], [10, 12], "2500 m/s")
    assert "2 by offset" in run("info", folder / "image.zarr").stdout


def test_surveys_go_round(folder, tmp_path):
    run("export", folder / "tiny.sgy", tmp_path / "a.zarr")
    found = json.loads(run("export", tmp_path / "a.zarr", tmp_path / "b.sgy", "--format", 6, "--order", "little",
                           "--json").stdout)  # fmt: skip
    assert found["bytes"] == (tmp_path / "b.sgy").stat().st_size
    a, b = open_zarr(tmp_path / "a.zarr"), open_segy(tmp_path / "b.sgy")
    assert np.array_equal(a.read(), b.read())
    assert b.notes[0] == "IEEE double, little-endian"


def test_images_become_segy(folder, tmp_path):
    run("export", folder / "image.zarr", tmp_path / "a.sgy", "--of", "fold", "--format", 2)
    with segyio.open(tmp_path / "a.sgy") as file:
        assert file.ilines.tolist() == [10, 11, 12]
        assert int(file.format) == 2
    run("export", folder / "image.zarr", tmp_path / "a.sgy", "--of", "gathers", "--overwrite")
    with segyio.open(tmp_path / "a.sgy") as file:
        assert file.offsets.tolist() == [200, 400]


def test_a_velocity_file_migrates(folder, tmp_path):
    grid = Grid((0.0, 0.0), 0, 3, 4, 200, 200, 20, 0.03)
    Velocity.constant(2500).save(tmp_path / "v.sgy", grid, "interval")
    out = tmp_path / "image.zarr"
    run("migrate", folder / "tiny.sgy", out, "-v", tmp_path / "v.sgy", "--bin", 100, "--t-max", 200, "--device", "cpu")
    run(
        "migrate",
        folder / "tiny.zarr",
        tmp_path / "b.zarr",
        "-v",
        2500,
        "--bin",
        100,
        "--t-max",
        200,
        "--device",
        "cpu",
    )
    a, b = (json.loads(run("info", path, "--json").stdout) for path in (out, tmp_path / "b.zarr"))
    assert a["shape"] == b["shape"]
    assert "cube" in a["velocity"]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["info", "{tmp}/nothing.sgy"], "there is no file"),
        (["info", "{tmp}/nothing.su"], "open_su: there is no file"),
        (["info", "{data}/tiny.zarr", "--header", "sx=73"], "are for SEG-Y and SU files"),
        (["info", "{data}"], "holds no image|cannot be opened as Zarr"),
        (["info", "{data}/tiny.sgy", "--bin", "1,2,3"], "has 3 numbers"),
        (["info", "{tmp}/nothing.sgy", "--words"], "there is no file"),
        (["export", "{data}/tiny.sgy", "{data}/tiny.zarr"], "exists; pass --overwrite"),
        (["export", "{data}/tiny.sgy", "{tmp}/a.txt"], "a survey is written as .sgy, .segy, .seg, .zarr"),
        (["export", "{data}/image.zarr", "{tmp}/a.zarr"], "an image is written as .sgy, .segy, .seg"),
        (["export", "{data}/tiny.sgy", "{tmp}/a.sgy", "--format", "3"], "format 3 (int16) holds whole numbers"),
        (["export", "{data}/image.zarr", "{tmp}/a.sgy", "--of", "speed"], "image, fold, gathers"),
        (["export", "{tmp}/nothing.zarr", "{tmp}/a.sgy"], "there is no file"),
        (["export", "{data}/tiny.sgy", "{data}/tiny.sgy/a.sgy"], "file exists|not a directory"),
        (["migrate", "{data}/tiny.sgy", "{tmp}/o", "-v", "{data}/tiny.sgy"], "have inline 0|is outside|zero"),
        (
            ["migrate", "{data}/tiny.sgy", "{tmp}/o", "-v", "{data}/tiny.sgy", "--gradient", "1"],
            "not with a velocity file",
        ),
    ],
)
def test_errors_are_one_sentence(folder, tmp_path, words, sentence):
    result = run(*[w.format(data=folder, tmp=tmp_path) for w in words], code=1)
    assert any(part in result.stderr for part in sentence.split("|")), result.stderr
    lines = [line for line in result.stderr.splitlines() if line.startswith("elinvar: ")]
    assert len(lines) == 1
    assert "Traceback" not in result.output
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_leaves_nothing(folder, tmp_path, monkeypatch):
    import errno

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device", str(tmp_path / "a.sgy"))

    monkeypatch.setattr(Survey, "read", full)
    for name in ("a.sgy", "a.zarr"):
        result = run("export", folder / "tiny.sgy", tmp_path / name, code=1)
        assert "the disk is full" in result.stderr
    assert list(tmp_path.iterdir()) == []
