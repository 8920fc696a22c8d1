"""The tour's runner: one page whatever happens, an exit code that says so, progress from the first second."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from elinvar import errors
from elinvar.cli import main, tour

runner = CliRunner()
Tour = Callable[[Any, tour.TourContext], None]


@pytest.fixture
def engines(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Put made-up engines in the place of the real ones."""

    def put(**functions: Tour) -> None:
        monkeypatch.setattr(tour, "_engines", lambda: list(functions))
        for name, function in functions.items():
            module = ModuleType(f"elinvar.{name}.tour")
            module.tour = function  # type: ignore[attr-defined]
            monkeypatch.setitem(sys.modules, f"elinvar.{name}", ModuleType(f"elinvar.{name}"))
            monkeypatch.setitem(sys.modules, f"elinvar.{name}.tour", module)

    return put


def _good(page: Any, context: tour.TourContext) -> None:
    page.section("Good")
    with context.jit("a kernel"):
        pass
    with context.stage("work", items=3), context.progress("working", total=1) as report:
        report(1, 1)
    page.image(np.linspace(0, 1, 64).reshape(8, 8), caption="a picture", alt="a gradient")


def _bad(page: Any, context: tour.TourContext) -> None:
    page.section("Bad")
    raise errors.InputError("[bad] got nothing; give it something")


def _missing(page: Any, context: tour.TourContext) -> None:
    raise errors.MissingDependency("[gone] segyio is missing: pip install 'elinvar[seismic]'")


def test_every_engine_is_on_the_page_and_the_machine_is_named(engines: Callable[..., None], tmp_path: Path) -> None:
    engines(good=_good)
    out = tmp_path / "a tour"
    result = runner.invoke(main.app, ["tour", "--out", str(out), "--device", "cpu", "--json"])
    assert result.exit_code == 0, result.output
    data = json.loads(result.stdout)
    assert [item["status"] for item in data["engines"]] == ["done"]
    assert data["page"] == str(out / "index.html")
    html = (out / "index.html").read_text(encoding="utf-8")
    assert "a gradient" in html
    assert "cores" in html
    assert "compiling a kernel" in html
    assert "good: compiling a kernel ..." in result.stderr
    assert result.stderr.splitlines()[0] == "elinvar: looking at the machine"


def test_a_failing_engine_costs_only_its_own_part(engines: Callable[..., None], tmp_path: Path) -> None:
    engines(bad=_bad, good=_good)
    result = runner.invoke(main.app, ["tour", "--out", str(tmp_path), "--device", "cpu", "--json"])
    assert result.exit_code == 1
    assert [item["status"] for item in json.loads(result.stdout)["engines"]] == ["failed", "done"]
    html = (tmp_path / "index.html").read_text(encoding="utf-8")
    assert "got nothing; give it something" in html
    assert "a gradient" in html


def test_a_missing_extra_is_skipped_and_named(engines: Callable[..., None], tmp_path: Path) -> None:
    engines(gone=_missing)
    result = runner.invoke(main.app, ["tour", "--out", str(tmp_path), "--device", "cpu"])
    assert result.exit_code == 0
    assert "elinvar[seismic]" in (tmp_path / "index.html").read_text(encoding="utf-8")
    assert "gone skipped" in result.stderr


def test_debug_lets_the_exception_through(engines: Callable[..., None], tmp_path: Path) -> None:
    engines(bad=_bad)
    result = runner.invoke(main.app, ["tour", "--out", str(tmp_path), "--device", "cpu", "--debug"])
    assert result.exit_code == 1
    assert "Traceback" in result.stderr
    assert not (tmp_path / "index.html").exists()


def test_trace_has_a_range_for_every_stage(engines: Callable[..., None], tmp_path: Path) -> None:
    engines(good=_good)
    file = tmp_path / "t.json"
    result = runner.invoke(main.app, ["tour", "--out", str(tmp_path), "--device", "cpu", "--trace", str(file)])
    assert result.exit_code == 0, result.output
    events = json.loads(file.read_text(encoding="utf-8"))
    names = {event["name"] for event in events["traceEvents"]}
    assert {"tour.good", "good.work", "good.compiling a kernel"} <= names


def test_a_folder_that_cannot_be_made_fails_before_the_work(engines: Callable[..., None], tmp_path: Path) -> None:
    ran: list[int] = []
    engines(good=lambda *_: ran.append(1))
    (tmp_path / "file").write_text("")
    result = runner.invoke(main.app, ["tour", "--out", str(tmp_path / "file"), "--device", "cpu"])
    assert result.exit_code == 1
    assert ran == []
    assert result.stderr.strip().splitlines()[-1].startswith("elinvar: ")


def test_an_unknown_device_is_one_sentence(tmp_path: Path) -> None:
    result = runner.invoke(main.app, ["tour", "--out", str(tmp_path / "t"), "--device", "tpu"])
    assert result.exit_code == 1
    assert "tpu" in result.stderr


def test_stages_measure_themselves(tmp_path: Path) -> None:
    from elinvar.runtime.device import device

    said: list[str] = []
    context = tour.TourContext(device("cpu"), tmp_path, engine="x", say=said.append)
    with context.stage("nap"):
        time.sleep(0.01)
    assert context.seconds["x: nap"] >= 0.009
    assert said == [f"x: nap {context.seconds['x: nap']:.2f} s"]


@pytest.mark.chromium
def test_the_page_opens_in_a_browser(engines: Callable[..., None], tmp_path: Path) -> None:
    from elinvar.testing.browser import open_page

    engines(good=_good, bad=_bad)
    runner.invoke(main.app, ["tour", "--out", str(tmp_path), "--device", "cpu"])
    report = open_page(tmp_path / "index.html")
    assert report.problems == ()
    assert report.images == 1


def test_the_first_line_comes_before_anything_slow_is_imported(tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "for name in ('torch', 'numpy', 'numba', 'plotly', 'xarray'): sys.modules[name] = None\n"
        f"sys.argv = ['elinvar', 'tour', '--out', {str(tmp_path)!r}]\n"
        "from elinvar.cli.main import main; main()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert done.stderr.splitlines()[0] == "elinvar: looking at the machine"
    assert len(done.stderr.splitlines()) == 2


def test_a_busy_machine_is_named_on_the_page(tmp_path: Path) -> None:
    from elinvar.report import Page
    from elinvar.runtime.device import device

    context = tour.TourContext(device("cpu"), tmp_path, seconds={"x: work": 1.0})
    for foreign, said in ((0.4, True), (0.0, False)):
        page = Page("x")
        tour._where_the_time_went(page, context, foreign)
        assert ("not for quoting" in page.html_text()) == said


@pytest.mark.chromium
def test_the_real_tour_runs_and_its_page_opens_from_disk(tmp_path: Path) -> None:
    from elinvar.testing.browser import open_page

    file = tmp_path / "t.json"
    command = [sys.executable, "-m", "elinvar", "tour", "--quick", "--json", "--device", "cpu"]
    command += ["--out", str(tmp_path / "tour"), "--trace", str(file)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stderr
    assert [item["status"] for item in json.loads(done.stdout)["engines"]] == ["done"] * len(tour._engines())
    report = open_page(tmp_path / "tour" / "index.html")
    assert report.problems == ()
    assert report.images + report.figures >= 4
    names = {event["name"] for event in json.loads(file.read_text(encoding="utf-8"))["traceEvents"]}
    assert {"tour.seismic", "seismic.migrate", "seismic.compiling the migration kernel"} <= names
