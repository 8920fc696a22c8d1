"""What is built, pinned and promised: wheel, constraints, extras, make targets, continuous integration."""

from __future__ import annotations

import importlib.metadata
import os
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path
from typing import Any

import pytest
from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

import elinvar

ROOT = Path(__file__).resolve().parent.parent
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS: dict[str, list[str]] = PROJECT["optional-dependencies"]
CONSTRAINTS = [
    line
    for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    if line and not line.startswith("#")
]


def _canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


ENGINES = ("seismic", "audio", "vision", "video", "tensor")
PINS = {_canonical(line.partition("==")[0]): line.partition("==")[2] for line in CONSTRAINTS}


def _closure(requirements: list[str]) -> set[str]:
    """Return the distributions that `requirements` bring on this machine, by their metadata."""
    environment = {key: str(value) for key, value in default_environment().items()}
    seen: dict[str, set[str]] = {}
    todo = [(Requirement(text), {""}) for text in requirements]
    while todo:
        requirement, extras = todo.pop()
        if requirement.marker and not any(requirement.marker.evaluate({**environment, "extra": x}) for x in extras):
            continue
        name, wanted = _canonical(requirement.name), {"", *requirement.extras}
        if name == "elinvar" or wanted <= seen.get(name, set()):
            continue
        seen.setdefault(name, set()).update(wanted)
        todo += [(Requirement(text), wanted) for text in importlib.metadata.requires(name) or []]
    return set(seen)


def test_every_constraint_is_one_exact_version() -> None:
    assert len(PINS) == len(CONSTRAINTS)
    assert all(re.fullmatch(r"[A-Za-z0-9_.-]+==[A-Za-z0-9.!]+", line) for line in CONSTRAINTS), CONSTRAINTS
    assert PINS["torch"] == "2.13.0"
    assert "elinvar" not in PINS


def test_everything_that_is_installed_for_a_target_is_pinned_and_is_the_pinned_version() -> None:
    wanted = PROJECT["dependencies"] + [text for name in (*ENGINES, "cluster", "dev") for text in EXTRAS[name]]
    installed = _closure(wanted)
    assert installed - PINS.keys() == set()
    versions = {name: importlib.metadata.version(name).partition("+")[0] for name in installed}
    assert versions == {name: PINS[name] for name in installed}


@pytest.mark.parametrize("python", ["3.11.0", "3.12.0", "3.13.0"])
def test_pins_install_on_every_python_that_is_promised(python: str) -> None:
    """Debian 12 has 3.11.2: a pin that wants 3.11.5 breaks the first command a stranger types."""
    refusing = {}
    for name in PINS:
        try:
            # .get: the importlib_metadata backport, once imported, raises KeyError for a field that is not there
            wanted = importlib.metadata.metadata(name).get("Requires-Python")
        except importlib.metadata.PackageNotFoundError:  # pinned for another target
            continue
        if not SpecifierSet(wanted or "").contains(python):
            refusing[name] = wanted
    assert refusing == {}


def test_every_requirement_is_a_range_and_every_extra_exists() -> None:
    assert {"cuda", "audio", "vision", "video", "tensor", "seismic", "cluster", "all", "dev"} == set(EXTRAS)
    assert [Requirement(text).name for text in EXTRAS["cuda"]] == ["cuda-core"]
    everything = PROJECT["dependencies"] + [text for texts in EXTRAS.values() for text in texts]
    assert not [text for text in everything if "==" in text.partition(";")[0]]
    (complete,) = EXTRAS["all"]
    assert set(Requirement(complete).extras) == set(EXTRAS) - {"all", "dev"}
    assert PROJECT["requires-python"] == ">=3.11"


def test_versions_agree() -> None:
    assert importlib.metadata.version("elinvar") == elinvar.__version__
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert f"## {elinvar.__version__}" in changelog


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=120)
    (path,) = folder.glob("*.whl")
    return path


def test_the_wheel_is_pure_python_and_carries_kernels_and_types(wheel: Path) -> None:
    assert wheel.name == f"elinvar-{elinvar.__version__}-py3-none-any.whl"
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        (metadata,) = [name for name in names if name.endswith(".dist-info/METADATA")]
        text = archive.read(metadata).decode()
        entry = archive.read(metadata.replace("METADATA", "entry_points.txt")).decode()
    shipped = {path.relative_to(ROOT / "src").as_posix() for path in (ROOT / "src").rglob("*") if path.is_file()}
    shipped = {name for name in shipped if "__pycache__" not in name}
    assert shipped <= names
    assert "elinvar/py.typed" in names
    assert not [name for name in names if name.endswith((".so", ".dylib", ".pyd")) or name.startswith("tests")]
    assert "License-Expression: Apache-2.0" in text
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert "elinvar = elinvar.cli.main:main" in entry


def _targets() -> dict[str, str]:
    found: dict[str, str] = {}
    current = ""
    for line in (ROOT / "Makefile").read_text(encoding="utf-8").splitlines():
        head = re.match(r"^([a-z-]+):(.*)$", line)
        if head:
            current = head[1]
            found[current] = head[2]
        elif line.startswith("\t") and current:
            found[current] += "\n" + line
    return found


def test_make_targets_make_their_environment_first() -> None:
    targets = _targets()
    assert "venv-tour" in targets["tour"]
    assert all(engine in targets["venv-tour"] for engine in ENGINES)
    for name in ("test", "lint", "docs", "format"):
        assert "venv-dev" in targets[name], name
    assert targets["check"].split() == ["lint", "test", "docs"]
    for tool in ("ruff check", "ruff format --check", "mypy", "lint-imports"):
        assert tool in targets["lint"], tool
    assert "--strict" in targets["docs"]


def test_continuous_integration_runs_the_readmes_command_once() -> None:
    script = ROOT / ".ci" / "run"
    text = script.read_text(encoding="utf-8")
    assert os.access(script, os.X_OK)
    assert text.count("make test") - text.count("`make test`") == 1
    assert "make test" in (ROOT / "README.md").read_text(encoding="utf-8")
    assert "ELINVAR_REQUIRE=gxx,chromium" in text
    for step in ("make lint", "make docs", "bench base-vs-head"):
        assert step in text, step
    limits = re.findall(r"^\s*(?:step \w+|timeout --kill-after=\d+) (\d+) ", text, flags=re.MULTILINE)
    assert len(limits) == 5
    subprocess.run(["bash", "-n", str(script)], check=True, timeout=10)


def test_imports_go_one_way() -> None:
    """What `make lint` runs: the runtime knows no engine, engines not each other."""
    # A process of its own: import-linter silences every logger there is.
    command = [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stdout
