"""Skips for want of g++ or a browser: one line without ELINVAR_REQUIRE, failures with it."""

from __future__ import annotations

import ast
import gc
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SUITE = """
import pytest

@pytest.mark.gxx
def test_marked():
    pass

def test_skips_itself():
    pytest.skip("no chromium on this machine")

def test_plain():
    pass
"""


WHOLE_FILE = """
import pytest
pytest.skip("needs g++", allow_module_level=True)
"""


def _run(folder: Path, require: str) -> subprocess.CompletedProcess[str]:
    (folder / "conftest.py").write_text((ROOT / "tests" / "conftest.py").read_text(encoding="utf-8"))
    (folder / "test_it.py").write_text(SUITE)
    (folder / "test_file.py").write_text(WHOLE_FILE)
    config = folder / "pytest.ini"
    config.write_text("[pytest]\nmarkers =\n  gxx: x\n  chromium: x\n")
    # No PATH: neither a compiler nor a browser is found.
    environment = {**os.environ, "PATH": str(folder), "ELINVAR_REQUIRE": require}
    command = [
        sys.executable,
        "-m",
        "pytest",
        "--continue-on-collection-errors",
        "-c",
        str(config),
        "-p",
        "no:cacheprovider",
        str(folder),
    ]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)


def test_without_the_tools_the_suite_passes_and_says_how_to_get_them(tmp_path: Path) -> None:
    done = _run(tmp_path, "")
    assert done.returncode == 0, done.stdout
    lines = [line for line in done.stdout.splitlines() if line.startswith("elinvar: ")]
    assert len(lines) == 2
    assert any("g++" in line and "apt-get install g++" in line for line in lines)
    assert any("chromium" in line and "apt-get install chromium" in line for line in lines)


@pytest.mark.parametrize(("require", "failures"), [("gxx", 2), ("gxx,chromium", 3)])
def test_required_tools_turn_skips_into_failures(tmp_path: Path, require: str, failures: int) -> None:
    done = _run(tmp_path, require)
    assert done.returncode == 1
    assert sum(map(int, re.findall(r"(\d+) (?:failed|error)", done.stdout.splitlines()[-1]))) == failures
    assert "forbids skipping" in done.stdout


def test_an_unknown_requirement_is_refused(tmp_path: Path) -> None:
    done = _run(tmp_path, "gcc")
    assert done.returncode == 4
    assert "ELINVAR_REQUIRE names ['gcc']" in done.stdout + done.stderr


def test_the_files_that_take_longest_come_first(tmp_path: Path) -> None:
    (tmp_path / "cli").mkdir()
    text = (ROOT / "tests" / "conftest.py").read_text(encoding="utf-8")
    (tmp_path / "conftest.py").write_text(text)
    names = ["test_a.py", "test_z.py", "cli/test_tour.py", "test_docs.py"]
    for name in names:
        (tmp_path / name).write_text("def test_1(): pass\ndef test_2(): pass\n")
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-p", "no:xdist", "--collect-only", "-q"]
    done = subprocess.run([*command, str(tmp_path)], cwd=tmp_path, capture_output=True, text=True, check=False)
    seen = re.findall(r"^(\S+)::(\w+)$", done.stdout, re.MULTILINE)
    assert seen == [
        (name, test)
        for name in ["cli/test_tour.py", "test_docs.py", "test_a.py", "test_z.py"]
        for test in ["test_1", "test_2"]
    ], done.stdout


def test_the_files_that_take_longest_exist() -> None:
    text = (ROOT / "tests" / "conftest.py").read_text(encoding="utf-8")
    named = ast.literal_eval(text.partition("LONG = ")[2].partition("\n)\n")[0] + ")")
    assert [name for name in named if not (ROOT / "tests" / name).is_file()] == []
    assert len(set(named)) == len(named)


def test_collections_pass_over_what_earlier_files_left() -> None:
    assert gc.get_freeze_count() > len(sys.modules)
    assert not any(found is sys.modules for found in gc.get_objects())
