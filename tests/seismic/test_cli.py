from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
import xarray
from typer.testing import CliRunner

from elinvar.cli.main import app
from elinvar.errors import InputError

runner = CliRunner()


def run(*words: object, code: int = 0):
    result = runner.invoke(app, ["seismic", *map(str, words)])
    assert result.exit_code == code, (result.output, result.exception)
    return result


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    path = tmp_path_factory.mktemp("cli") / "tiny survey.sgy"
    run("synth", path, "--dataset", "tiny")
    return path


def test_synth_says_where_the_truth_is(tmp_path):
    found = json.loads(run("synth", tmp_path / "a.sgy", "--dataset", "tiny", "--json").stdout)
    assert found["traces"] == 1764
    assert found["diffractor"] == {"x_m": 250.0, "y_m": 250.0, "two_way_ms": 640.0}
    assert (tmp_path / "a.sgy").stat().st_size == found["bytes"]


def test_info(tiny):
    found = json.loads(run("info", tiny, "--json").stdout)
    assert found["live_traces"] == 1764
    assert found["suggested_grid"]["nx"] == 21
    text = run("info", tiny).stdout
    assert "1,764" in text
    assert "grid azimuth deg" in text


def test_migrate_writes_an_image(tiny, tmp_path):
    out = tmp_path / "image.zarr"
    result = run(
        "migrate", tiny, out, "-v", 2500, "--bin", 50, "--t-max", 700, "--dt-out", 4, "--gathers", "100:500:200",
        "--device", "cpu", "--json",
    )  # fmt: skip
    found = json.loads(result.stdout)
    assert found["shape"] == [11, 11, 176]
    assert found["contributions"] > 0
    assert set(found["timing_s"]) == {"compile", "prepare", "transfer", "kernel", "store", "total"}
    assert "migrating" in result.stderr
    with xarray.open_zarr(out, consolidated=False) as image:
        values = image.image.values
        assert np.unravel_index(np.argmax(values), values.shape) == (5, 5, 160)
        assert image.gathers.shape == (11, 11, 2, 176)
        assert image.time.values[-1] == pytest.approx(0.7)
        assert int(image.fold.sum()) == found["contributions"]


def test_migrate_with_mutes_limits_and_a_mean(tiny, tmp_path):
    out = tmp_path / "image.zarr"
    result = run(
        "migrate", tiny, out, "-v", 2500, "--bin", 100, "--t-max", 700, "--dt-out", 4, "--device", "cpu",
        "--inline-limit", 400, "--crossline-limit", 300, "--leg-dip", 50, "--stretch", 1.5, "--mute", "0:0,400:250",
        "--normalize", "fold", "--datum", 0, "--replacement", 2500, "--json",
    )  # fmt: skip
    found = json.loads(result.stdout)
    assert next(iter(found["job"]["plan"]["kernels"].values())) == "baseline"
    with xarray.open_zarr(out, consolidated=False) as image:
        attributes = image.image.attrs
        assert "inline 400, crossline 300, leg_dip 50, stretch 1.5" in attributes["aperture"]
        assert attributes["mute"] == "2 times by offset, taper 0.02 s"
        assert attributes["normalized"] == "fold"
        assert attributes["datum"] == "0 m, replacement 2500 m/s"
    plan = run("migrate", tiny, out, "-v", 2500, "--dimension", "2d", "--normalize", "illumination", "--plan").stdout
    assert "migrated twice" in plan


def test_migrate_on_several_devices_or_a_cluster(tiny, tmp_path, monkeypatch):
    from elinvar import seismic

    seen = []
    planned = seismic.plan

    def stop(*_, **given):
        seen.append((given["devices"], given["cluster"]))
        raise InputError("enough.")

    monkeypatch.setattr(seismic, "migrate", stop)
    monkeypatch.setattr(seismic, "plan", lambda *args, **given: planned(*args, **{**given, "devices": None}))
    base = ("migrate", tiny, tmp_path / "a.zarr", "-v", 2500)
    for more in ((), ("--devices", "all"), ("--devices", "cuda:0,cuda:1"), ("--cluster", "local")):
        assert "enough" in run(*base, *more, code=1).stderr
    assert seen == [(None, None), ("all", None), (["cuda:0", "cuda:1"], None), (None, "local")]
    monkeypatch.undo()
    assert "leave one out" in run(*base, "--devices", "all", "--cluster", "local", code=1).stderr
    run("migrate", tiny, tmp_path / "a.zarr", "-v", 2500, "--bin", 100, "--t-max", 300, "--devices", "cpu")


@pytest.mark.parametrize("table", ["0:0:0", "late", "0:0,x:1"])
def test_a_wrong_mute_is_named(tiny, tmp_path, table):
    result = run("migrate", tiny, tmp_path / "o", "-v", 2500, "--mute", table, code=1)
    assert "is not m:ms,m:ms" in result.output


def test_a_plan_reads_and_writes_nothing(tiny, tmp_path):
    out = tmp_path / "image.zarr"
    text = run("migrate", tiny, out, "-v", "0:2400,1000:2600", "--plan", "--device", "cpu").stdout
    assert "contributions" in text
    plan = json.loads(run("migrate", tiny, out, "-v", "2500", "--gradient", 0.1, "--plan", "--json").stdout)
    assert plan["traces"] == 1764
    assert not out.exists()


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["info", "nothing.sgy"], "there is no file"),
        (["info", "{tiny}", "--header", "sx"], "not NAME=BYTE"),
        (["info", "{tiny}", "--header", "here=73"], "no header name"),
        (["info", "{tiny}", "--endian", "little"], "pass endian='big'"),
        (["synth", "{out}", "--dataset", "huge"], "tiny, small, medium, large"),
        (["migrate", "{tiny}", "{out}", "-v", "fast"], "neither a number"),
        (["migrate", "{tiny}", "{out}", "-v", "2.5"], "outside 100 to 12000"),
        (["migrate", "{tiny}", "{out}", "-v", "0:1500,1:2000", "--gradient", "0.5"], "leave one out"),
        (["migrate", "{tiny}", "{out}", "-v", "2500", "--gathers", "a:b"], "neither numbers"),
        (["migrate", "{tiny}", "{out}", "-v", "2500", "--gathers", "0:100:0"], "neither numbers"),
        (["migrate", "{tiny}", "{out}", "-v", "2500", "--bin", "1,2,3"], "has 3 numbers"),
        (["migrate", "{tiny}", "{out}", "-v", "2500", "--kernel", "v99"], "v99"),
        (["migrate", "{tiny}", "{out}", "-v", "2500", "--device", "tpu"], "tpu"),
        (["migrate", "{tiny}", "{out}", "-v", "2500", "--dip", "95"], "dip is 95"),
    ],
)
def test_errors_are_one_sentence(tiny, tmp_path, words, sentence):
    out = tmp_path / "out"
    result = run(*[w.format(tiny=tiny, out=out) for w in words], code=1)
    assert sentence in result.stderr
    lines = [line for line in result.stderr.splitlines() if line.startswith("elinvar: ")]
    assert len(lines) == 1
    assert "Traceback" not in result.output
    assert list(tmp_path.iterdir()) == []


def test_help_loads_no_heavy_library():
    code = (
        "import sys; from typer.testing import CliRunner; from elinvar.cli.main import app; "
        "CliRunner().invoke(app, ['seismic', 'migrate', '--help']); "
        "print([m for m in ('torch', 'numba', 'numpy', 'xarray', 'plotly', 'segyio') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
