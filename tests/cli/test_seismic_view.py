from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import urllib.request

import numpy as np
import pytest
import xarray
from typer.testing import CliRunner

from elinvar.cli.main import app

runner = CliRunner()


def run(*words: object, code: int = 0):
    result = runner.invoke(app, ["seismic", *map(str, words)])
    assert result.exit_code == code, (result.output, result.exception)
    return result


@pytest.fixture(scope="module")
def survey(tmp_path_factory):
    path = tmp_path_factory.mktemp("view") / "tiny.sgy"
    run("synth", path, "--dataset", "tiny")
    return path


@pytest.fixture(scope="module")
def made(survey):
    out = survey.with_name("image.zarr")
    run("migrate", survey, out, "-v", 2500, "--bin", 50, "--t-max", 700, "--gathers", "100:500:200", "--device", "cpu")
    return out


@pytest.fixture(autouse=True)
def opened(monkeypatch):
    addresses = []
    monkeypatch.setattr("webbrowser.open", addresses.append)
    return addresses


def test_report(made, survey, tmp_path):
    found = json.loads(
        run("report", made, "--out", tmp_path / "r.html", "--survey", survey, "-v", 2500, "--json").stdout
    )
    text = (tmp_path / "r.html").read_text()
    assert found["bytes"] == (tmp_path / "r.html").stat().st_size
    for heading in ("Fold", "Gathers", "Survey", "Velocity", "Spectra"):
        assert f">{heading}</h2>" in text
    assert "open it in a browser" in run("report", made).stdout
    assert made.with_name("image.report.html").exists()


def test_view_writes_a_page_and_opens_it(made, opened):
    result = run("view", made)
    page = made.with_name("image.view.html")
    assert str(page) in result.stdout.replace("\n", "")
    assert opened == [page.resolve().as_uri()]
    run("view", made, "--no-browser", "--out", made.with_name("other.html"))
    assert len(opened) == 1
    assert made.with_name("other.html").exists()


def test_view_serves_until_interrupted(made):
    words = [sys.executable, "-m", "elinvar", "seismic", "view", str(made), "--port", "0", "--no-browser"]
    with subprocess.Popen(
        words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=dict(os.environ)
    ) as process:
        try:
            url = re.search(r"http://127\.0\.0\.1:\d+/", process.stdout.readline()).group()
            with urllib.request.urlopen(url + "slice/inline/5", timeout=30) as answer:
                assert len(answer.read()) == 11 * 351
        finally:
            process.send_signal(signal.SIGINT)
            _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in errors


def test_pyramid(made):
    found = json.loads(run("pyramid", made, "--levels", 2, "--json").stdout)
    assert found["levels"][1] == {"factors": [2, 2, 2], "shape": [6, 6, 176]}
    assert "2 levels of 6 x 6 x 176" in run("pyramid", made, "--levels", 2).stdout
    with xarray.open_zarr(made, group="pyramid/2", consolidated=False) as level:
        assert level.image.shape == (3, 3, 88)


def test_preview_is_there_coarse_then_fine(survey, tmp_path):
    out = tmp_path / "preview.zarr"
    result = run(
        "preview", survey, out, "-v", 2500, "--t-max", 700, "--device", "cpu", "--threshold", 0.1, "--dilate", 0
    )
    assert "coarse pass" in result.stderr
    assert "a preview, not an image" in result.stdout
    with xarray.open_zarr(out, consolidated=False) as image:
        assert "interpolated" in image.attrs["preview"]
        assert np.unravel_index(np.argmax(image.image.values), image.image.shape) == (10, 10, 320)
    assert "fine pass lies between" in run("preview", survey, out, "-v", 2500, "--cost", "--device", "cpu").stdout


def test_target_lines(survey, made, tmp_path):
    out = tmp_path / "lines.zarr"
    words = ["preview", survey, out, "-v", 2500, "--bin", 50, "--t-max", 700, "--device", "cpu", "--inlines", "6,3"]
    assert json.loads(run(*words, "--cost", "--json").stdout)["pillars"] == 22
    assert not out.exists()
    run(*words)
    with xarray.open_zarr(out, consolidated=False) as part, xarray.open_zarr(made, consolidated=False) as whole:
        assert part.inline.values.tolist() == [3, 6]
        known = whole.image.sel(inline=[3, 6]).values
        assert np.linalg.norm(part.image.values - known) < 1e-5 * np.linalg.norm(known)
        assert "preview" not in part.attrs


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["view", "nothing.zarr"], "there is no nothing.zarr"),
        (["view", "{made}", "--out", "a.html", "--port", 0], "give one of them"),
        (["report", "nothing.zarr"], "there is no nothing.zarr"),
        (["report", "{made}", "--survey", "{survey}", "-o", "{survey}"], "is the survey itself"),
        (["view", "{made}", "-o", "{made}"], "is a folder"),
        (["pyramid", "{made}"], "needs no coarser level"),
        (["preview", "{survey}", "out.zarr", "-v", 2500, "--inlines", 99], "no inline 99"),
        (["preview", "{survey}", "out.zarr", "-v", 2500, "--threshold", 3], "threshold is 3"),
    ],
)
def test_errors_are_one_sentence(made, survey, words, sentence, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    filled = [w.format(made=made, survey=survey) if isinstance(w, str) else w for w in words]
    before = survey.read_bytes()
    result = run(*filled, code=1)
    assert sentence in result.stderr
    assert survey.read_bytes() == before
    assert "Traceback" not in result.stderr
    assert list(tmp_path.iterdir()) == []
