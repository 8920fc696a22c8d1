from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import segyio
import xarray
from typer.testing import CliRunner

from elinvar.cli.main import app
from elinvar.errors import InputError
from elinvar.seismic import jobfile, open_segy, synthetic

runner = CliRunner()
HEAD, TRACE = 3600, 240 + 4 * 400


def run(*words: object, code: int = 0, answers: str | None = None):
    result = runner.invoke(app, ["seismic", *map(str, words)], input=answers)
    assert result.exit_code == code, (result.output, result.exception)
    return result


@pytest.fixture
def folder(tmp_path, monkeypatch):
    made = synthetic.diffractors([(100, 100, 500)], extent=200, offsets=(150, 350), nt=400, noise=0.05)
    made.write_segy(tmp_path / "a.sgy")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("elinvar.seismic.workflow._measured_rate", lambda work: 1e9)  # tested in seismic/test_config
    return tmp_path


JOB = Path("job.yaml")


def write(text: str = "", velocity="{type: constant, v: 2500}", execution="{device: cpu}") -> None:
    JOB.write_text(f"input: {{path: a.sgy}}\nvelocity: {velocity}\nexecution: {execution}\n{text}")


SMALL = "grid: {type: survey, t_max_ms: 700, dt_ms: 4}\n"


def image(path="image.zarr"):
    with xarray.open_zarr(path, consolidated=False) as data:
        return data.load()


def test_create_validate_run(folder):
    created = run("create-config", "a.sgy", "-o", "job.yaml").stdout
    assert "9 x 9 bins, 400 samples" in created
    job = jobfile.read("job.yaml")
    job.velocity.v = 2500
    job.execution.device = "cpu"
    jobfile.write(job, "job.yaml")
    said = run("validate", "job.yaml", "--check-data")
    assert "contributions" in said.stdout
    assert "job.yaml: nothing is wrong" in said.stdout
    assert "would stop" not in said.stdout
    assert jobfile.read("job.yaml") == job
    found = json.loads(run("run", "job.yaml", "--json").stdout)
    assert found["shape"] == [9, 9, 400]
    values = image().image.values
    assert np.unravel_index(np.argmax(values), values.shape) == (4, 4, 200)
    assert int(image().fold.sum()) == found["contributions"]
    assert sorted(path.name for path in folder.iterdir()) == ["a.sgy", "image.zarr", "job.yaml"]
    assert "would stop: output" in run("validate", "job.yaml").stdout
    again = run("run", "job.yaml", code=1)
    assert "exists; set output.overwrite: true" in again.stderr
    assert "contributions" not in again.stderr  # nothing is planned that will not run


def test_create_without_a_survey_and_over_an_old_file(folder):
    run("create-config")
    assert jobfile.read("job.yaml").input.path == "survey.sgy"
    assert "pass --overwrite" in run("create-config", code=1).stderr
    found = json.loads(run("create-config", "a.sgy", "--overwrite", "--header", "sx=73", "--dt", 2, "--json").stdout)
    assert found["job"]["input"]["header_bytes"] == {"sx": 73}
    assert jobfile.read("job.yaml").input.dt_ms == 2


def test_the_wizard_writes_a_job_that_runs(folder):
    answers = "\n".join(["a.sgy", "", "constant", "2500", "50", "50", "", "4", "700", *[""] * 6, "cpu"])
    run("wizard", "-o", "w.yaml", answers=f"{answers}\n")
    run("run", "w.yaml")
    assert image().image.shape == (5, 5, 176)
    assert "the input ended" in run("wizard", "-o", "x.yaml", answers="a.sgy\n", code=1).stderr


def test_a_dry_run_writes_nothing(folder):
    write(SMALL)
    before = sorted(folder.iterdir())
    text = run("run", "job.yaml", "--dry-run").stdout
    for words in ("contributions", "memory", "tiles", "time", "pass", "MiB at most"):
        assert words in text
    assert json.loads(run("run", "job.yaml", "--dry-run", "--json").stdout)["plan"]["traces"] == 162
    assert sorted(folder.iterdir()) == before


def test_products(folder):
    write(SMALL + "algorithm: {gathers: {type: offset, edges: [0, 200, 400]}}\n"
          "output: {segy: stack.sgy, products: {pyramid: true, qc: report.html}}")  # fmt: skip
    run("run", "job.yaml")
    assert image().gathers.shape == (9, 9, 2, 176)
    assert (folder / "report.html").stat().st_size > 10_000
    with segyio.open("stack.sgy", strict=True) as file:
        assert segyio.cube(file).shape == (9, 9, 176)
        assert segyio.cube(file).ravel() == pytest.approx(image().image.values.ravel())
    assert not (folder / "image.zarr" / "pyramid").exists()  # too small to need one


def test_a_scan_and_target_lines(folder):
    target = "grid: {type: survey, t_max_ms: 700, dt_ms: 4, inlines: [4, 5]}\n"
    bins = "algorithm: {gathers: {type: offset, edges: [0, 200, 400]}}"
    write(f"{target}scan: {{first: 90, last: 110, step: 5}}\n{bins}")
    assert "5 images, from 90 to 110 % of the velocity" in run("validate", "job.yaml").stdout
    found = json.loads(run("run", "job.yaml", "--json").stdout)
    with xarray.open_zarr("image.zarr", consolidated=False) as data:
        assert data.scan.shape == (2, 9, 5, 176)
        assert data.inline.values.tolist() == [4, 5]
        assert int(data.scan_fold.sum()) == found["contributions"]
        assert "semblance" in data
    write(target + "output: {zarr: one.zarr}")
    run("run", "job.yaml")
    assert image("one.zarr").image.values == pytest.approx(image().image.values, rel=1e-5, abs=1e-6)
    shown = run("scan", "a.sgy", "b.zarr", "-v", 2500, "--percents", "90:110:5", "--gathers", "0,200,400",
                "--inlines", "4,5", "--t-max", 700, "--dt-out", 4, "--device", "cpu")  # fmt: skip
    assert "2 x 9 x 5 x 176" in shown.stdout
    assert "by semblance" in shown.stdout
    assert image("b.zarr").scan.values == pytest.approx(image().scan.values, rel=1e-5, abs=1e-6)
    assert "is not first:last:step" in run("scan", "a.sgy", "b.zarr", "-v", 2500, "--percents", "90", code=1).stderr


def test_a_scan_pauses_and_goes_on(folder, small_blocks):
    write(f"{SMALL}scan: {{step: 10}}", execution="{device: cpu, limits: {minutes: 1.0e-9}}")
    assert "its limit of" in run("run", "job.yaml", code=130).stderr
    write(f"{SMALL}scan: {{step: 10}}", execution="{device: cpu, limits: {minutes: 60}}")
    run("run", "job.yaml", "--resume")
    assert image().percent.values.tolist() == [90, 100, 110]
    assert not (folder / "image.zarr.checkpoint").exists()


def test_a_preview(folder):
    write(SMALL + "preview: {coarse: 4, threshold: 0.3, dilate: 0}")
    shown = run("validate", "job.yaml").stdout
    assert "the coarse pass has 9 pillars" in shown
    assert "A preview is not kept while it runs" in shown
    run("run", "job.yaml")
    data = image()
    assert "one line in 4, threshold 0.3" in data.image.attrs["preview"]
    assert 0 < (data.fold.values.sum(axis=-1) > 0).mean() < 1
    assert not list(folder.glob("*.checkpoint"))
    assert "nothing to go on with" in run("run", "job.yaml", "--resume", code=1).stderr


def test_a_report_that_fails_does_not_take_the_image_with_it(folder, monkeypatch):
    def fail(*_):
        raise InputError("no luck.")

    monkeypatch.setattr("elinvar.seismic.qc.qc_report", fail)
    write(SMALL + "output: {products: {qc: report.html}}")
    text = run("run", "job.yaml", code=1).stderr
    assert "image.zarr is written and whole, but not what should follow it: no luck." in text
    assert image().image.shape == (9, 9, 176)
    assert not (folder / "image.zarr.checkpoint").exists()


# -------------------------------------------------------------------- pausing and going on


@pytest.fixture
def small_blocks(monkeypatch):
    monkeypatch.setattr("elinvar.seismic.job.block_size", lambda *_: 16)


@pytest.fixture
def after(monkeypatch):
    """Do something when so many traces are done."""

    def at(n, action):
        from elinvar.seismic.run import Run

        real = Run.counted

        def counted(self, lane, traces):
            real(self, lane, traces)
            if self.done == n:
                action()

        monkeypatch.setattr(Run, "counted", counted)

    return at


@pytest.mark.skipif(not hasattr(signal, "SIGUSR1"), reason="POSIX signals")
@pytest.mark.parametrize(
    ("number", "why"), [("SIGUSR1", "SIGUSR1 came"), ("SIGTERM", "SIGTERM came"), ("SIGINT", "Ctrl-C was pressed")]
)
def test_signals_pause_and_the_same_command_goes_on(folder, small_blocks, after, number, why, monkeypatch):
    write(SMALL)
    run("run", "job.yaml")
    whole = image()
    (folder / "image.zarr").rename(folder / "whole.zarr")
    before = signal.getsignal(getattr(signal, number))
    with monkeypatch.context():
        after(32, lambda: os.kill(os.getpid(), getattr(signal, number)))
        paused = run("run", "job.yaml", code=130)
    assert f"paused at 30 % because {why}; go on with: elinvar seismic run job.yaml" in paused.stderr
    assert signal.getsignal(getattr(signal, number)) == before
    assert not (folder / "image.zarr").exists()
    assert (folder / "image.zarr.checkpoint" / "lane-0.npz").exists()
    monkeypatch.undo()
    monkeypatch.chdir(folder)
    monkeypatch.setattr("elinvar.seismic.job.block_size", lambda *_: 16)
    assert "contributions in all, the rest of them in" in run("run", "job.yaml", "--resume").stdout
    assert image().image.values.tobytes() == whole.image.values.tobytes()
    assert not (folder / "image.zarr.checkpoint").exists()


def test_a_second_ctrl_c_ends_at_once(folder, small_blocks, after):
    write(SMALL)

    def twice():
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    after(32, twice)
    stopped = run("run", "job.yaml", code=130)
    assert "interrupted; files already written are whole." in stopped.stderr


def test_a_limit_of_minutes(folder, small_blocks):
    write(SMALL, execution="{device: cpu, limits: {minutes: 1.0e-9}}")
    assert "its limit of" in run("run", "job.yaml", code=130).stderr
    write(SMALL, execution="{device: cpu, limits: {minutes: 60}}")
    run("run", "job.yaml")


def test_resume_restart_and_a_changed_job(folder, small_blocks, after, monkeypatch):
    write(SMALL)
    assert "nothing to go on with" in run("run", "job.yaml", "--resume", code=1).stderr
    with monkeypatch.context():
        after(32, lambda: os.kill(os.getpid(), signal.SIGUSR1))
        run("run", "job.yaml", code=130)
    monkeypatch.undo()
    monkeypatch.chdir(folder)
    monkeypatch.setattr("elinvar.seismic.job.block_size", lambda *_: 16)
    write(SMALL, velocity="{type: constant, v: 2600}")
    text = run("run", "job.yaml", code=1).stderr
    assert "velocity.is (from 2500 m/s to 2600 m/s) changed; set it back, start afresh" in text
    run("run", "job.yaml", "--restart")
    write(SMALL + "output: {zarr: b.zarr}", execution="{device: cpu, checkpoint: {enabled: false}}")
    assert "enabled is false" in run("run", "job.yaml", "--resume", code=1).stderr
    run("run", "job.yaml")
    assert not (folder / "b.zarr.checkpoint").exists()


@pytest.mark.parametrize("enabled", ["true", "false"])
def test_another_run_in_the_same_place(folder, enabled):
    write(SMALL, execution=f"{{device: cpu, checkpoint: {{enabled: {enabled}}}}}")
    lock = "image.zarr.checkpoint/lock" if enabled == "true" else ".image.zarr.lock"
    (folder / lock).parent.mkdir(exist_ok=True)
    hold = (
        "import sys, time; from elinvar.seismic.locking import Lock; lock = Lock(sys.argv[1], 'x'); lock.acquire(); "
        "print(1, flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", hold, lock], stdout=subprocess.PIPE) as child:
        assert child.stdout.readline()
        text = run("run", "job.yaml", code=1).stderr
        child.kill()
    assert f"is in use by process {child.pid} on " in text
    run("run", "job.yaml")  # what it left behind is no obstacle


def test_a_cluster_from_the_command_line(folder, monkeypatch):
    write(SMALL)
    seen = []

    def execute(work, *_):
        seen.append(work.options["cluster"])
        raise InputError("enough.")

    monkeypatch.setattr("elinvar.seismic.workflow.execute", execute)
    run("run", "job.yaml", "--cluster", "tcp://host:8786", code=1)
    run("run", "job.yaml", code=1)
    assert seen == ["tcp://host:8786", None]


def test_a_full_disk(folder, small_blocks, monkeypatch):
    write(SMALL, execution="{device: cpu, checkpoint: {seconds: 0}}")
    monkeypatch.setattr("elinvar.seismic.checkpoint._SHARE", 1e9)

    def full(file, **arrays):
        raise OSError(28, os.strerror(28))

    with monkeypatch.context() as patch:
        patch.setattr(np, "savez", full)
        text = run("run", "job.yaml", code=1).stderr
    assert re.search(
        r"elinvar: the disk is full \(.*lane-0\.npz\); free some space and run the same command again", text
    )
    run("run", "job.yaml")


# -------------------------------------------------------------------- bad input: issue's table


def patch(path, at, data):
    with path.open("r+b") as file:
        file.seek(at)
        file.write(data)


def every(path, at, data):
    for i in range(162):
        patch(path, HEAD + i * TRACE + at, data)


def nan_in(path):
    patch(path, HEAD + 5 * TRACE + 240, b"\x7f\xc0\x00\x00")


def silence(path):
    every(path, 240, bytes(4 * 400))


SPOILT = {
    "empty": (lambda p: p.write_bytes(b""), "the file has 0 bytes"),
    "cut off": (lambda p: p.write_bytes(p.read_bytes()[:-77]), "cut off, corrupt"),
    "another file": (lambda p: p.write_bytes(b"\x89PNG" * 2000), "sample format code"),
    "no traces": (lambda p: p.write_bytes(p.read_bytes()[:HEAD]), "no traces"),
    "dead": (lambda p: every(p, 28, b"\x00\x02"), "marked dead"),
    "no coordinates": (lambda p: every(p, 72, bytes(16)), "coordinates are zero"),
    "dt 0": (lambda p: [patch(p, 3216, bytes(2)), every(p, 116, bytes(2))], "sample interval is 0"),
    "dt conflict": (lambda p: every(p, 116, b"\x0f\xa0"), "contradicts itself"),
    "gone": (lambda p: p.unlink(), "there is no file"),
    "nan": (nan_in, "samples that are not finite"),
    "silent": (silence, "zero throughout"),
}


@pytest.mark.parametrize("what", SPOILT)
@pytest.mark.parametrize("command", [("validate", "--check-data"), ("run",)])
def test_a_spoilt_survey_is_one_sentence(folder, what, command):
    spoil, words = SPOILT[what]
    spoil(folder / "a.sgy")
    write(SMALL)
    result = run(command[0], "job.yaml", *command[1:], code=1)
    sentence = [line for line in result.stderr.splitlines() if line.startswith("elinvar: ")][-1]
    assert words in sentence
    assert "Traceback" not in result.output
    assert not (folder / "image.zarr").exists()


BAD = {
    "input: {path: a.sgy, endian: little}": "pass endian='big'",
    "input: {path: a.sgy, header_bytes: {sx: 74}}": "sx=74",
    "input: {path: a.sgy, header_bytes: {source_x: 73}}": "no header name",
    "input: {path: a.sgy, select: {where: offset > 1e9}}": "leaves no trace",
    "velocity: {type: constant, v: 50}": "50 m/s is outside",
    "velocity: {type: constant, v: 3, unit: km}": "velocity.unit is no option",
    "grid: {type: explicit, origin: [9.0e6, 9.0e6], azimuth: 0, nx: 9, ny: 9, dx: 25, dy: 25, nt: 99, dt_ms: 4}":
        "no trace lies within",
    "algorithm: {physics: warp}": "it should be 'straight', 'curved' or 'vti'",
    "algorithm: {aperture: {dipp: 3}}": "did you mean algorithm.aperture.dip",
    "execution: {kernel: v99}": "v99",
    "execution: {device: tpu}": "tpu",
    "execution: {memory: 1 KiB}": "needs at least",
    "output: {zarr: a.sgy/x.zarr}": "is no folder to write in",
    "output: {zarr: a.sgy, overwrite: true}": "is the survey itself",
    "grid: {type: survey, bin_size: [0.001, 0.001]}": "GiB of memory and this machine has",
    "scan: {step: 1.0e-9}": "more than 1000 percentages",
    "scan: {window_ms: 1}": "a window of 1 ms holds 1 sample",
}  # fmt: skip


@pytest.mark.parametrize("text", BAD)
@pytest.mark.parametrize("command", ["validate", "run"])
def test_a_wrong_job_is_one_sentence(folder, text, command):
    name = text.partition(":")[0]
    sections = {
        "input": "input: {path: a.sgy}", "velocity": "velocity: {type: constant, v: 2500}",
        "execution": "execution: {device: cpu}", name: text,
    }  # fmt: skip
    JOB.write_text("\n".join(sections.values()))
    before = sorted(folder.iterdir())
    result = run(command, "job.yaml", code=1)
    lines = result.stderr.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("elinvar: ")
    assert BAD[text] in lines[0]
    assert sorted(folder.iterdir()) == before


def test_the_same_ways_everywhere(folder):
    """Options of the commands are those of a job."""
    ways = ("--physics", "vti", "--eta", 0.1, "--device", "cpu", "--t-max", 700, "--dt-out", 4)
    write(SMALL + "algorithm: {physics: vti, eta: 0.1}\noutput: {zarr: job.zarr}")
    run("run", "job.yaml")
    known = image("job.zarr").image.values
    run("migrate", "a.sgy", "m.zarr", "-v", 2500, *ways)
    assert np.array_equal(image("m.zarr").image.values, known)
    run("preview", "a.sgy", "p.zarr", "-v", 2500, *ways, "--inlines", 5)
    assert image("p.zarr").image.values == pytest.approx(known[4:5], rel=1e-4, abs=1e-5)
    run("preview", "a.sgy", "q.zarr", "-v", 2500, *ways, "--threshold", 0)
    assert image("q.zarr").image.values == pytest.approx(known, rel=1e-4, abs=1e-5)
    run("scan", "a.sgy", "s.zarr", "-v", 2500, *ways, "--percents", "95:105:5")
    assert image("s.zarr").image.values == pytest.approx(known, rel=1e-4, abs=1e-5)
    assert "needs eta" in run("migrate", "a.sgy", "x.zarr", "-v", 2500, "--physics", "vti", code=1).stderr


@pytest.mark.parametrize("words", [("migrate",), ("scan",), ("preview",), ("preview", "--inlines", "3")])
def test_a_place_that_cannot_be_written_is_found_before_the_work(folder, words):
    (folder / "photos").mkdir()
    (folder / "photos" / "a.jpg").write_text("x")
    for place, said in (("photos", "would be lost"), ("a.sgy", "is the survey itself"), ("a.sgy/b", "no folder to")):
        text = run(words[0], "a.sgy", place, "-v", 2500, "--device", "cpu", *words[1:], code=1).stderr
        assert said in text
        assert "contributions" not in text
    assert sorted(path.name for path in folder.rglob("*")) == ["a.jpg", "a.sgy", "photos"]


def test_scalco_0_means_1(folder):
    every(folder / "a.sgy", 70, bytes(2))
    with pytest.warns(UserWarning, match="offset"):
        survey = open_segy("a.sgy")
    assert survey.source.max() > 1000  # centimetres read as metres, and the offset words say so
    write("grid: {type: survey, t_max_ms: 200, dt_ms: 4, bin_size: [2500, 2500]}")
    result = run("validate", "job.yaml")
    assert "offset words of 162 traces disagree" in result.stderr


def test_help_loads_no_heavy_library():
    code = (
        "import sys; from typer.testing import CliRunner; from elinvar.cli.main import app; "
        "CliRunner().invoke(app, ['seismic', 'run', '--help']); "
        "print([m for m in ('torch', 'numba', 'numpy', 'yaml', 'segyio') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
