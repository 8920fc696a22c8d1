"""``elinvar video``: what a shell sees."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from elinvar.cli import main as cli
from elinvar.video import sources
from elinvar.video.exporting import export

runner = CliRunner()


@pytest.fixture(scope="module")
def film(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("film") / "bars.mkv"
    export(sources.smpte(64, 48, frame_rate="24000/1001", frame_count=6), path, codec="ffv1")
    return path


def run(*words: object, code: int = 0) -> str:
    result = runner.invoke(cli.app, ["video", *map(str, words)])
    assert result.exit_code == code, result.output + result.stderr
    return result.stdout if code == 0 else result.stderr


def test_probe(film: Path) -> None:
    told = json.loads(run("probe", film, "--json"))
    assert (told["frame_rate"], told["frame_count"], told["space"]) == ("24000/1001", 6, "rec709")
    assert "24000/1001" in run("probe", film)


def test_looks() -> None:
    assert "classicFilm" in json.loads(run("looks", "--json"))


def test_render_and_explain(film: Path, tmp_path: Path) -> None:
    out = tmp_path / "a.png"
    told = json.loads(run("render", film, out, "--frame", 2, "--preview", "--json"))
    assert (told["width"], told["height"]) == (480, 360)
    assert out.read_bytes().startswith(b"\x89PNG")
    assert "moved per frame" in run("render", film, out, "--look", "subtle", "--explain")
    assert json.loads(run("render", film, out, "--sheet", 4, "--json"))["width"] > 600


def test_export(film: Path, tmp_path: Path) -> None:
    out = tmp_path / "a.mp4"
    told = json.loads(run("export", film, out, "--frames", 3, "--size", "32x24", "--speed", "ultrafast", "--json"))
    assert (told["frames"], told["width"], told["frame_rate"]) == (3, 32, "24000/1001")
    assert out.exists()


def test_what_the_media_do_not_say_is_said(film: Path, tmp_path: Path) -> None:
    out = tmp_path / "a.mkv"
    words = ("--rate", "12", "--space", "srgb", "--matrix", "bt601", "--look", "subtle", "--fit", "fill")
    told = json.loads(run("export", film, out, "--codec", "ffv1", "--size", "32x32", *words, "--json"))
    assert (told["frame_rate"], told["frames"], told["width"]) == ("12", 3, 32)
    assert json.loads(run("export", film, out, "--codec", "ffv1", "--space", "srgb", "--json"))["space"] == "srgb"


def test_a_lut_behind_the_look(film: Path, tmp_path: Path) -> None:
    lut = tmp_path / "halve.cube"
    lut.write_text("LUT_1D_SIZE 2\n0 0 0\n0.5 0.5 0.5\n")
    for name, words in (("plain", ("--view", "aces-fit")), ("halved", ("--lut", lut))):
        run("render", film, tmp_path / f"{name}.png", *words)
    plain, halved = (json.loads(run("scopes", film, tmp_path / "s.png", *w, "--json")) for w in ((), ("--lut", lut)))
    assert halved["luma"]["p99"] < 0.5 * plain["luma"]["p99"]
    assert (tmp_path / "plain.png").read_bytes() != (tmp_path / "halved.png").read_bytes()


def test_scopes(film: Path, tmp_path: Path) -> None:
    told = json.loads(run("scopes", film, tmp_path / "s.png", "--json"))
    assert told["luma"]["p99"] > 0.5


def test_verify(film: Path, tmp_path: Path) -> None:
    hashes = tmp_path / "h.json"
    run("verify", film, hashes, "--record", "--frames", "0:6:2")
    assert json.loads(run("verify", film, hashes, "--json"))["same"]
    record = json.loads(hashes.read_text())
    record["hashes"]["2"] = "0" * 64
    hashes.write_text(json.dumps(record))
    assert "frames 2 differ" in run("verify", film, hashes, code=1)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("probe", "none.mp4"), "no such file"),
        (("render", "FILM", "a.png", "--look", "sepia"), "classicFilm"),
        (("render", "FILM", "a.png", "--size", "big"), "1920x1080"),
        (("export", "FILM", "a.avi"), ".mp4"),
        (("render", "FILM", "a.png", "--lut", "none.cube"), "no such file"),
        (("export", "graph.yaml", "a.mp4", "--rate", "25"), "manifest"),
        (("verify", "FILM", "none.json"), "--record"),
        (("export", "FILM", "FILM"), "name another file"),
        (("render", "FILM", "a.xyz"), "no picture is written as .xyz"),
        (("render", "FILM", "FILM"), "name another picture"),
    ],
)
def test_errors_are_one_sentence(words, sentence: str, film: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    before = film.read_bytes()
    told = run(*(film if w == "FILM" else w for w in words), code=1)
    assert sentence in " ".join(told.split())
    assert film.read_bytes() == before
    assert told.count("\n") <= 3
