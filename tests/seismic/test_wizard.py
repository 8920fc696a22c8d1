from __future__ import annotations

import io

import pytest
from rich.console import Console

from elinvar.errors import ConfigError, InputError
from elinvar.seismic import config, jobfile, synthetic, wizard, workflow


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("wizard")
    made = synthetic.diffractors([(100, 100, 500)], extent=200, offsets=(150, 350), nt=400, noise=0.05)
    made.write_segy(place / "a.sgy")
    return place


def answer(out, *lines):
    """Answer the questions line by line; return the job and what was shown."""
    console = Console(file=io.StringIO(), width=100)
    job = wizard.ask(out, console=console, stream=io.StringIO("".join(f"{line}\n" for line in lines)))
    return job, console.file.getvalue()


ENTER = ""


def test_enter_takes_every_default(folder, tmp_path):
    out = tmp_path / "job.yaml"
    job, shown = answer(out, folder / "a.sgy", *[ENTER] * 15)
    assert jobfile.read(out) == job
    assert job.velocity == config.ConstantVelocity(v=2000)
    assert job.grid.type == "explicit"
    assert job.algorithm.gathers.edges == [150, 200, 250, 300, 350, 400]
    assert "162 live traces x 400 samples at 2 ms, offsets 150 to 350 m" in shown
    assert "the midpoints suggest 9 x 9 bins of 25 x 25 m, azimuth 0" in shown
    assert "seismic.migrate on " in shown  # the plan
    workflow.assemble(job, tmp_path)


def test_every_answer_arrives(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(folder)
    job, _ = answer(
        "w.yaml", "a.sgy", "offset < 200", "table", "interval", "500:1800,1000:2200", 50, 25, 30, 4, 600, "vti", 0.2,
        60, "n",
        "out.zarr", "qc.html", "cpu",
    )  # fmt: skip
    assert job.input.path == "a.sgy"
    assert job.input.select.where == "offset < 200"
    assert job.velocity == config.TableVelocity(times_ms=[500, 1000], v=[1800, 2200], kind="interval")
    assert (job.grid.dx, job.grid.dy, job.grid.azimuth, job.grid.dt_ms, job.grid.nt) == (50, 25, 30, 4, 151)
    assert job.algorithm.aperture.dip == 60
    assert job.algorithm.gathers is None
    assert (job.algorithm.physics, job.algorithm.eta) == ("vti", 0.2)
    assert (job.output.zarr, job.output.products.qc, job.execution.device) == ("out.zarr", "qc.html", "cpu")


def test_a_velocity_file(folder, tmp_path):
    (folder / "v.txt").write_text("0 1800\n1000 2400\n")
    before = [folder / "a.sgy", ENTER, "file", "nothing.txt", folder / "v.txt"]
    job, shown = answer(tmp_path / "job.yaml", *before, *[ENTER] * 5, "curved", *[ENTER] * 7)
    assert "there is no" in shown
    assert "'curved' is none of straight, vti." in shown  # V(t) has no curved rays
    assert job.velocity.type == "ascii"
    field = workflow.build_velocity(job.velocity, tmp_path)
    assert field.rms(0.5) == pytest.approx(2100)


def test_a_wrong_answer_is_asked_again(folder, tmp_path):
    job, shown = answer(
        tmp_path / "job.yaml", "", "nothing.sgy", folder / "a.sgy", "offset <", "offset > 1e9", "", "magic", "linear",
        "x", 0.5, "2", 1800, "-3", 25, *[ENTER] * 10, "tpu", "cpu",
    )  # fmt: skip
    for words in (
        "the survey's path is needed.", "there is no nothing.sgy.", "cannot be read", "leaves no trace",
        "'magic' is none of constant, linear, table, file.", "a number is needed.", "2 m/s is outside",
        "a number of at least 0.001 is needed.", "'tpu'",
    ):  # fmt: skip
        assert words in shown
    assert job.velocity == config.LinearVelocity(v0=1800, k=0.5)


def test_a_file_that_needs_help(folder, tmp_path):
    words = (folder / "a.sgy").read_bytes()
    step = 240 + 4 * 400
    data = bytearray(words)
    for trace in range(162):
        at = 3600 + trace * step
        data[at + 72 : at + 88] = bytes(16)
    (tmp_path / "b.sgy").write_bytes(data)
    with pytest.warns(UserWarning, match="offset words"):
        job, shown = answer(
            tmp_path / "job.yaml", tmp_path / "b.sgy", ENTER, "sx=a", "sx=181 sy=185 gx=181 gy=185", ENTER,
            *[ENTER] * 10, "n", *[ENTER] * 3,
        )  # fmt: skip
    assert "coordinates are zero" in shown
    assert "write NAME=BYTE" in shown
    assert job.input.header_bytes == {"sx": 181, "sy": 185, "gx": 181, "gy": 185}


def test_nothing_is_written_before_the_last_answer(folder, tmp_path):
    out = tmp_path / "job.yaml"
    with pytest.raises(InputError, match="the input ended at 'Velocity"):
        answer(out, folder / "a.sgy", ENTER)
    assert not out.exists()
    out.write_text("mine")
    with pytest.raises(ConfigError, match="was left as it is"):
        answer(out, folder / "a.sgy", *[ENTER] * 15, "n")
    assert out.read_text() == "mine"
    answer(out, folder / "a.sgy", *[ENTER] * 15, "y")
    assert jobfile.read(out)


def test_paths_are_written_as_the_job_sees_them(tmp_path):
    assert wizard.relative(tmp_path / "a" / "s.sgy", tmp_path) == "a/s.sgy"
    assert wizard.relative(tmp_path / "s.sgy", tmp_path / "jobs") == "../s.sgy"
    assert wizard.relative("/data/s.sgy", tmp_path) == "/data/s.sgy"


def test_a_line_is_taken_for_one(tmp_path):
    made = synthetic.diffractors([(100, 0, 500)], extent=(400, 0), offsets=(150,), azimuths=(90,), nt=300)
    made.write_segy(tmp_path / "line.sgy")
    job, shown = answer(tmp_path / "job.yaml", tmp_path / "line.sgy", *[ENTER] * 16)
    assert "the midpoints lie along one line" in shown
    assert job.algorithm.dimension == "2.5d"
    assert workflow.create("line.sgy", tmp_path).algorithm.dimension == "2.5d"
    for dimension, said in (("2.5d", 0), ("3d", 1)):
        job.algorithm.dimension = dimension
        work = workflow.assemble(job, tmp_path)
        assert workflow.findings(work, workflow.estimate(work)).count(workflow.A_LINE) == said
