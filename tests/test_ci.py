""".ci/run with everything it calls replaced by notes of having been called."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


def _program(path: Path, body: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    root = tmp_path / "a path with spaces"
    (root / ".ci").mkdir(parents=True)
    shutil.copy2(ROOT / ".ci" / "run", root / ".ci" / "run")
    log = root / "log"
    note = f'echo "$(basename "$0") $* [$ELINVAR_REQUIRE]" >> "{log}"'
    _program(root / "bin" / "make", f'{note}\ncase " $FAIL " in *" $1 "*) exit 2;; esac')
    _program(root / ".venv" / "bin" / "elinvar", note)
    for tool in ("g++", "chromium", "apt-get", "sudo"):
        _program(root / "bin" / tool, note)
    for tool in ("dirname", "timeout", "basename", "id", "sh", "bash", "env", "mktemp", "cat", "rm"):
        found = shutil.which(tool)
        assert found is not None
        (root / "bin" / tool).symlink_to(found)
    return root


def _run(root: Path, fail: str = "") -> tuple[subprocess.CompletedProcess[str], list[str]]:
    environment = {"PATH": str(root / "bin"), "FAIL": fail, "LANG": "C"}
    done = subprocess.run(
        [str(root / ".ci" / "run")], env=environment, cwd="/", capture_output=True, text=True, timeout=60, check=False
    )
    log = root / "log"
    return done, log.read_text().splitlines() if log.exists() else []


def test_everything_runs_once_and_the_tests_last(checkout: Path) -> None:
    done, log = _run(checkout)
    assert done.returncode == 0, done.stderr
    steps = [line.split(" [")[0] for line in log]
    assert steps[0] == "make venv-dev"
    assert sorted(steps[1:3]) == ["make docs", "make lint"]  # beside each other
    assert steps[3:] == [
        "elinvar bench base-vs-head --help",
        "elinvar bench base-vs-head --seconds 25",
        "make test",
    ]
    assert all("[gxx,chromium]" in line for line in log)


def test_one_failure_stops_nothing_and_fails_the_run(checkout: Path) -> None:
    done, log = _run(checkout, fail="lint docs")
    assert done.returncode == 1
    assert log[-1].startswith("make test")
    assert done.stdout.splitlines()[-1] == "failed: lint docs"


def test_what_the_documentation_says_is_in_the_log(checkout: Path) -> None:
    _program(checkout / "bin" / "make", '[ "$1" != docs ] || { echo "a dead link"; exit 1; }')
    done, _ = _run(checkout)
    assert done.returncode == 1
    lines = done.stdout.splitlines()
    assert lines.index("a dead link") == lines.index("== docs, meanwhile") + 1
    assert lines[-1] == "failed: docs"


def test_without_the_comparison_it_is_passed_over(checkout: Path) -> None:
    _program(checkout / ".venv" / "bin" / "elinvar", "exit 2")
    done, _ = _run(checkout)
    assert done.returncode == 0
    assert "bench" not in done.stdout


def test_missing_tools_are_installed_where_that_is_allowed(checkout: Path) -> None:
    (checkout / "bin" / "g++").unlink()
    (checkout / "bin" / "chromium").unlink()
    done, log = _run(checkout)
    assert done.returncode == 0, done.stderr
    installs = [line for line in log if "install" in line]
    assert len(installs) == 1
    assert log.index(installs[0]) < min(n for n, line in enumerate(log) if "lint" in line)
    assert "g++ chromium" in installs[0]


def test_without_apt_it_says_what_will_fail(checkout: Path) -> None:
    for tool in ("g++", "apt-get"):
        (checkout / "bin" / tool).unlink()
    done, log = _run(checkout)
    assert "g++ missing" in done.stderr
    assert any(line.startswith("make test") for line in log)
