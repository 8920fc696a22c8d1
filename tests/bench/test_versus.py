"""Base against head: the logic with fake sides, the plumbing with a real git repository and real processes."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from elinvar.bench.sides import Worker
from elinvar.bench.versus import MAX_RUNS, MIN_RUNS, base_versus_head, contest
from elinvar.errors import BenchError

SCRIPT = '''"""A benchmark."""
import elinvar
class Case:
    def __init__(self, fn): self.fn, self.work, self.device = fn, None, None
def ci_cases():
    print("chatter on stdout")
    return {name: Case(getattr(elinvar, name)) for name in elinvar.CASES}
'''


class FakeSide:
    """Times its cases by a table; a clock shared by both sides advances."""

    def __init__(self, costs: dict[str, float], log: list[str], tag: str, clock: list[float]) -> None:
        self.costs, self.log, self.tag, self.clock = costs, log, tag, clock

    def load(self, path: Path) -> list[str]:
        if not self.costs:
            raise BenchError("ImportError: no such thing")
        return list(self.costs)

    def time(self, case: str, inner: int) -> float:
        self.log.append(self.tag)
        self.clock[0] += self.costs[case] * inner
        return self.costs[case]

    def usage(self) -> float:
        return 0.0


def git(folder: Path, *arguments: str) -> str:
    command = ["git", "-C", str(folder), "-c", "user.name=t", "-c", "user.email=t@t", *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def library(folder: Path, *cases: str, body: str = "sum(range(100))") -> None:
    package = folder / "src" / "elinvar"
    package.mkdir(parents=True, exist_ok=True)
    functions = "".join(f"def {case}(): {body}\n" for case in cases)
    (package / "__init__.py").write_text(f"CASES = {list(cases)}\n{functions}")


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    folder = tmp_path / "repo with space"
    (folder / "benchmarks").mkdir(parents=True)
    (folder / "pyproject.toml").write_text("")
    (folder / "benchmarks" / "demo.py").write_text(SCRIPT)
    (folder / "benchmarks" / "plain.py").write_text("def run(*, runs, warmup): ...\n")
    library(folder, "one")
    git(folder, "init", "-q")
    git(folder, "add", ".")
    git(folder, "commit", "-q", "-m", "base")
    return folder


def opener(
    rounds: list[tuple[dict[str, float], dict[str, float]]], opened: list[Path]
) -> Callable[[Path], contextlib.AbstractContextManager[FakeSide]]:
    """Hand out (base, head) cost tables pair by pair."""
    tables = iter([table for pair in rounds for table in pair])

    @contextlib.contextmanager
    def open_side(source: Path) -> Iterator[FakeSide]:
        opened.append(source)
        yield FakeSide(next(tables), [], "x", [0.0])

    return open_side


def test_rounds_alternate_who_goes_first_and_fit_the_budget() -> None:
    log: list[str] = []
    clock = [0.0]
    base, head = (FakeSide({"c": 0.01}, log, tag, clock) for tag in "bh")
    first, second = contest(base, head, "c", budget=0.3, now=lambda: clock[0])
    assert first.rounds == second.rounds != ""
    assert len(first) == len(second) == 15
    assert "".join(log[-30:]).startswith("bhhbbhhb")
    few, _ = contest(base, head, "c", budget=0.0, now=lambda: clock[0])
    many, _ = contest(base, head, "c", budget=1e9, now=lambda: clock[0])
    assert (len(few), len(many)) == (MIN_RUNS, MAX_RUNS)


def test_short_cases_are_repeated_within_a_sample() -> None:
    clock = [0.0]
    base, head = (FakeSide({"c": 1e-6}, [], tag, clock) for tag in "bh")
    contest(base, head, "c", budget=0.1, now=lambda: clock[0])
    assert clock[0] >= 2 * MIN_RUNS * 2e-3 * 0.99


def test_a_regression_must_repeat_in_fresh_processes(checkout: Path) -> None:
    opened: list[Path] = []
    table = {"steady": 1.0, "luck": 1.0, "slow": 1.0, "fast": 1.0}
    head1 = table | {"luck": 1.2, "slow": 1.2, "fast": 0.5}
    head2 = table | {"slow": 1.2}
    outcome = base_versus_head("HEAD", checkout, open_side=opener([(table, head1), (table, head2)], opened))
    assert {row.name: row.word for row in outcome.rows} == {
        "steady": "same",
        "luck": "inconclusive",
        "slow": "worse",
        "fast": "better",
    }
    assert outcome.regressions == ("slow",)
    assert len(opened) == 4
    assert opened[1] == opened[3] == checkout / "src"
    assert opened[0] not in (checkout / "src", opened[1])


def test_a_small_shift_passes_without_a_second_look(checkout: Path) -> None:
    opened: list[Path] = []
    outcome = base_versus_head("HEAD", checkout, open_side=opener([({"c": 1.0}, {"c": 1.04})], opened))
    assert [row.word for row in outcome.rows] == ["same"]
    assert outcome.regressions == ()
    assert len(opened) == 2


def test_what_the_base_cannot_run_is_new_and_passes(checkout: Path) -> None:
    outcome = base_versus_head("HEAD", checkout, open_side=opener([({}, {"c": 1.0})], []))
    assert outcome.regressions == ()
    assert outcome.rows[0].word == "skipped"
    assert "no such thing" in outcome.rows[0].note


def test_what_head_cannot_run_is_an_error(checkout: Path) -> None:
    with pytest.raises(BenchError, match="no such thing"):
        base_versus_head("HEAD", checkout, open_side=opener([({"c": 1.0}, {})], []))


def test_no_base_no_benchmarks_no_library_all_pass_and_say_so(checkout: Path, tmp_path: Path) -> None:
    assert "no commit 'HEAD~1'" in base_versus_head("HEAD~1", checkout).why
    assert "no commit" in base_versus_head("HEAD", tmp_path).why  # no repository at all
    (checkout / "benchmarks" / "demo.py").unlink()
    shipped = base_versus_head("HEAD", checkout, only=["demo"])
    assert "no benchmark offers" in shipped.why
    git(checkout, "rm", "-rqf", "src")
    git(checkout, "commit", "-qm", "empty", "--allow-empty", "-a")
    (checkout / "benchmarks").mkdir(exist_ok=True)
    (checkout / "benchmarks" / "demo.py").write_text(SCRIPT)
    assert "no src/elinvar" in base_versus_head("HEAD", checkout, only=["demo"]).why


def test_real_processes_import_each_side_s_own_library(checkout: Path) -> None:
    library(checkout, "one", "two")  # "two" exists in the working tree only
    lines: list[str] = []
    outcome = base_versus_head("HEAD", checkout, only=["demo"], seconds=0.1, say=lines.append)
    assert [row.name for row in outcome.rows] == ["demo · one"]
    assert outcome.rows[0].verdict is not None
    assert lines[0] == "demo · one (1 of 1)"
    assert git(checkout, "worktree", "list").count("\n") == 1  # nothing left behind


def test_a_worker_that_imports_another_library_is_refused(checkout: Path, tmp_path: Path) -> None:
    """Measuring the installed library twice would find everything the same."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    script = checkout / "benchmarks" / "empty.py"
    script.write_text("def ci_cases(): return {}\n")
    with Worker(elsewhere) as side, pytest.raises(BenchError, match="was imported"):
        side.load(script)


def test_a_worker_that_dies_or_hangs_is_an_error_not_a_hang(checkout: Path) -> None:
    script = checkout / "benchmarks" / "demo.py"
    library(checkout, "one", body="__import__('os')._exit(7)")
    with Worker(checkout / "src") as side:
        side.load(script)
        with pytest.raises(BenchError, match="code 7"):
            side.time("demo · one", 1)
    library(checkout, "one", body="__import__('time').sleep(60)")
    with Worker(checkout / "src", timeout=2.0) as side:
        side.load(script)
        with pytest.raises(BenchError, match="no answer"):
            side.time("demo · one", 1)


def test_an_exception_in_a_case_is_reported_with_its_type(checkout: Path) -> None:
    library(checkout, "one", body="1 // 0")
    with Worker(checkout / "src") as side:
        side.load(checkout / "benchmarks" / "demo.py")
        with pytest.raises(BenchError, match="ZeroDivisionError"):
            side.time("demo · one", 1)
        assert side.usage() > 0
