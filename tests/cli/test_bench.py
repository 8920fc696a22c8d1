"""`elinvar bench` end to end, with a benchmark whose samples are made up."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from typer.testing import CliRunner

from elinvar.cli.main import app

SCRIPT = '''"""Made-up numbers."""
from pathlib import Path
from elinvar.bench import Case, Result, Samples
def run(*, runs, warmup):
    centre = float(Path(__file__).with_name("centre.txt").read_text())
    values = tuple(centre * (1 + 0.0001 * (i % 5)) for i in range(runs))
    return Result("made_up", {"row": Samples("row", values), "other": Samples("other", (1.0,) * runs)})
'''


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "benchmarks").mkdir()
    (tmp_path / "pyproject.toml").write_text("")
    (tmp_path / "benchmarks" / "made_up.py").write_text(SCRIPT)
    (tmp_path / "benchmarks" / "centre.txt").write_text("0.010")
    deeper = tmp_path / "src"
    deeper.mkdir()
    monkeypatch.chdir(deeper)
    return tmp_path


def invoke(*arguments: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, ["bench", *arguments])
    return result.exit_code, result.stdout, result.stderr


def centre(checkout: Path, value: float) -> None:
    (checkout / "benchmarks" / "centre.txt").write_text(str(value))


def test_a_name_runs_the_benchmark_and_writes_what_was_asked(checkout: Path) -> None:
    code, out, _ = invoke("made_up", "--runs", "7", "--output", "x.json", "--report", "x.html")
    assert code == 0
    assert "row" in out
    assert "10 ms" in out
    data = json.loads(Path("x.json").read_text())
    assert len(data["samples"]["row"]["values"]) == 7
    assert "<!DOCTYPE html>" in Path("x.html").read_text(encoding="utf-8")


def test_json_is_the_result(checkout: Path) -> None:
    code, out, _ = invoke("made_up", "--runs", "6", "--json")
    assert code == 0
    assert json.loads(out)["samples"]["row"]["statistics"]["min"] == 0.010


def test_list_names_scripts_and_shipped_suites(checkout: Path) -> None:
    code, out, _ = invoke("list")
    assert code == 0
    assert "made_up" in out
    assert "Made-up numbers." in out
    code, out, _ = invoke("list", "--json")
    entries = {entry["name"]: entry for entry in json.loads(out)}
    assert entries["made_up"]["where"] == "benchmarks/"
    assert entries["copy"]["where"] == "package"
    assert entries["copy"]["in CI"] == "yes"
    assert {"copy", "gemm", "roofline"} <= set(entries)


@pytest.mark.parametrize(("second", "code", "word"), [(0.0104, 0, "same"), (0.0106, 1, "worse"), (0.0090, 0, "better")])
def test_compare_prints_a_verdict_per_row(checkout: Path, second: float, code: int, word: str) -> None:
    invoke("made_up", "--output", "a.json")
    centre(checkout, second)
    invoke("made_up", "--output", "b.json")
    got, out, _ = invoke("compare", "a.json", "b.json")
    assert got == code
    (line,) = [line for line in out.splitlines() if line.startswith("row")]
    assert word in line
    got, out, _ = invoke("compare", "a.json", "b.json", "--json")
    assert got == code
    assert json.loads(out)["rows"]["row"]["word"] == word
    assert json.loads(out)["rows"]["other"]["word"] == "same"


def test_the_threshold_can_be_chosen(checkout: Path) -> None:
    invoke("made_up", "--output", "a.json")
    centre(checkout, 0.0106)
    invoke("made_up", "--output", "b.json")
    assert invoke("compare", "a.json", "b.json", "--threshold", "0.10")[0] == 0


def test_history_remembers_and_judges(checkout: Path) -> None:
    code, _, err = invoke("made_up", "--history", "h")
    assert code == 0
    assert "nothing to compare with yet" in err
    assert invoke("made_up", "--history", "h")[0] == 0
    centre(checkout, 0.02)
    code, out, _ = invoke("made_up", "--history", "h")
    assert code == 1
    assert "worse" in out
    assert len((Path("h") / "made_up.jsonl").read_text().splitlines()) == 3


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("nothing_like_it",), "made_up"),
        (("compare", "no.json", "no.json"), "no.json"),
        (("made_up", "--device", "cpu"), "--device"),
    ],
)
def test_errors_are_one_sentence_with_a_next_step(checkout: Path, arguments: tuple[str, ...], words: str) -> None:
    code, out, err = invoke(*arguments)
    assert code == 1
    assert out == ""
    assert words in err
    assert "Traceback" not in err
    assert len(err.strip().splitlines()) == 1


def test_other_machines_are_refused_by_name(checkout: Path) -> None:
    invoke("made_up", "--output", "a.json")
    data = json.loads(Path("a.json").read_text())
    data["machine"] |= {"id": "other", "name": "Another Box"}
    Path("b.json").write_text(json.dumps(data))
    code, _, err = invoke("compare", "a.json", "b.json")
    assert code == 1
    assert "Another Box" in err
    assert data["machine"]["cpu"] in err


@pytest.mark.parametrize(
    "script",
    ["", "def run(*, runs, warmup): return 3\n", "run = 3\n"],
)
def test_a_script_that_is_no_benchmark_says_what_is_missing(checkout: Path, script: str) -> None:
    (checkout / "benchmarks" / "broken.py").write_text(script)
    code, _, err = invoke("broken")
    assert code == 1
    assert "Result" in err


def test_base_vs_head_passes_when_there_is_nothing_to_compare(checkout: Path) -> None:
    code, out, _ = invoke("base-vs-head")
    assert code == 0
    assert "there is no commit 'HEAD~1'" in out
    code, out, _ = invoke("base-vs-head", "--json")
    assert json.loads(out)["rows"] == []


def test_base_vs_head_outside_a_checkout_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    code, _, err = invoke("base-vs-head")
    assert code == 1
    assert "checkout" in err


def test_base_vs_head_prints_every_row_and_fails_on_a_regression(
    checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from elinvar.bench import Verdict, versus

    worse, same = Verdict("worse", 1.2, (1.1, 1.3), why="slower by more than 5 %"), Verdict("same", 1.0, (0.99, 1.01))
    rows = [versus.Row("a", worse, same), versus.Row("b", same), versus.Row("c", None, note="new")]
    monkeypatch.setattr(versus, "base_versus_head", lambda *_a, **_k: versus.Versus("main", tuple(rows)))
    code, out, _ = invoke("base-vs-head", "main")
    assert code == 0
    assert "not so in fresh processes" in out
    rows.append(versus.Row("d", worse, worse))
    code, out, err = invoke("base-vs-head", "main", "--json")
    assert code == 1
    assert "confirmed slower than main: d" in err
    assert json.loads(out)["regressions"] == ["d"]


def test_help_loads_no_heavy_library() -> None:
    import sys

    code = (
        "from elinvar.cli import bench; import sys; print([m for m in ('torch','numpy','plotly') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.strip() == "[]"
