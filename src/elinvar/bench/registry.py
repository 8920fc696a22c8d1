"""Finding benchmarks: scripts in a checkout's ``benchmarks/`` folder, and the suites shipped with the package."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from elinvar.errors import BenchError

from .results import Result
from .samples import Work

__all__ = ["Benchmark", "Case", "benchmark", "benchmarks", "find_checkout", "load", "offers_ci", "run"]

_SHIPPED = Path(__file__).parent


@dataclass(frozen=True)
class Case:
    """One thing a continuous-integration run times: a callable, prepared and warm, and what it does."""

    fn: Callable[[], object]
    work: Work | None = None
    device: str | None = None


@dataclass(frozen=True)
class Benchmark:
    """A benchmark that was found: its name, file, first docstring line, and whether the package ships it."""

    name: str
    path: Path
    summary: str
    shipped: bool


def find_checkout(start: Path | None = None) -> Path | None:
    """Return the nearest folder at or above `start` that holds ``pyproject.toml`` and ``benchmarks/``, or None."""
    here = (start or Path.cwd()).resolve()
    for folder in (here, *here.parents):
        if (folder / "benchmarks").is_dir() and (folder / "pyproject.toml").is_file():
            return folder
    return None


def _summary(path: Path) -> str:
    """First docstring line, read without running the script."""
    try:
        text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    except (OSError, SyntaxError, ValueError):
        return ""
    return text.partition("\n")[0]


def _candidates(checkout: Path | None) -> dict[str, tuple[Path, bool]]:
    """Name to (file, shipped); a checkout's script wins over a shipped suite of the same name."""
    found: dict[str, tuple[Path, bool]] = {}
    launch = _SHIPPED / "launch.py"
    shipped = [*sorted((_SHIPPED / "suites").glob("*.py")), *([launch] if launch.exists() else [])]
    for path in shipped:
        found[path.stem] = (path, True)
    for path in sorted((checkout / "benchmarks").glob("*.py")) if checkout else []:
        found[path.stem] = (path, False)
    return {name: entry for name, entry in found.items() if not name.startswith("_")}


def benchmarks(checkout: Path | None = None) -> list[Benchmark]:
    """List every benchmark within reach, by name.

    Parameters
    ----------
    checkout
        The folder that holds ``benchmarks/``; None searches upwards from the working directory.
    """
    where = checkout or find_checkout()
    entries = sorted(_candidates(where).items())
    return [Benchmark(name, path, _summary(path), shipped) for name, (path, shipped) in entries]


def benchmark(name: str, checkout: Path | None = None) -> Benchmark:
    """Return the benchmark called `name`.

    Raises
    ------
    BenchError
        There is none; the message lists those that exist.
    """
    known = benchmarks(checkout)
    for entry in known:
        if entry.name == name:
            return entry
    names = ", ".join(entry.name for entry in known) or "none here"
    raise BenchError(f"bench: no benchmark is called {name!r}; there are {names}.")


def load(path: Path) -> ModuleType:
    """Import a benchmark: a script from its file under a private name, a shipped suite as the module it is."""
    if path.is_relative_to(_SHIPPED):
        return importlib.import_module(".".join(["elinvar.bench", *path.relative_to(_SHIPPED).with_suffix("").parts]))
    name = f"_elinvar_benchmark_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise BenchError(f"bench: {path} is not a Python file; a benchmark is a script with run(*, runs, warmup).")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and pickling look the module up by name
    spec.loader.exec_module(module)
    return module


def run(entry: Benchmark, *, runs: int, warmup: int, **more: object) -> Result:
    """Run a benchmark and return its result; `more` is passed on.

    Raises
    ------
    BenchError
        The script has no ``run`` or returns something else than a `Result`.
    """
    function = getattr(load(entry.path), "run", None)
    if not callable(function):
        raise BenchError(f"bench: {entry.path} has no function run(*, runs, warmup); add one that returns a Result.")
    result = function(runs=runs, warmup=warmup, **more)
    if not isinstance(result, Result):
        raise BenchError(f"bench: {entry.name}.run returned a {type(result).__name__}; return elinvar.bench.Result.")
    return result


def offers_ci(path: Path) -> bool:
    """Say whether the script defines ``ci_cases() -> {name: Case}``, without running it."""
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"))
    except (OSError, SyntaxError, ValueError):
        return False
    return any(isinstance(node, ast.FunctionDef) and node.name == "ci_cases" for node in tree.body)
