"""`import elinvar` and `elinvar --help` are light; every public name is there and spelt the same in three places."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import elinvar

HEAVY = ("torch", "numba", "numpy", "xarray", "plotly")


def _heavy_after(code: str) -> list[str]:
    listing = f"{code}\nimport sys; print(*[name for name in {HEAVY!r} if name in sys.modules], file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", listing], capture_output=True, text=True, timeout=60, check=True)
    return done.stderr.split()


def test_import_loads_nothing_heavy() -> None:
    assert _heavy_after("import elinvar; elinvar.__version__; elinvar.errors.InputError; dir(elinvar)") == []


@pytest.mark.parametrize("arguments", [["--help"], ["-h"], ["--version"], [], ["nonsense"]])
def test_the_root_command_loads_nothing_heavy(arguments: list[str]) -> None:
    code = f"import sys; sys.argv[1:] = {arguments!r}\nfrom elinvar.cli.main import main\n"
    code += "try: main()\nexcept SystemExit: pass"
    # typer's own messages share stderr with the listing, so look for the names as words of the last line
    done = _heavy_after(code + "\nprint('loaded:', file=sys.stderr)")
    assert done[done.index("loaded:") + 1 :] == []


@pytest.mark.parametrize("name", elinvar.__all__)
def test_every_public_name_resolves(name: str) -> None:
    assert getattr(elinvar, name) is not None
    assert name in dir(elinvar)


def test_public_names_are_the_same_for_python_and_for_type_checkers() -> None:
    tree = ast.parse(Path(str(elinvar.__file__)).read_text(encoding="utf-8"))
    guarded = next(node for node in tree.body if isinstance(node, ast.If))
    seen = {alias.name for node in guarded.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert seen | {"__version__"} == set(elinvar.__all__)
    assert len(set(elinvar.__all__)) == len(elinvar.__all__)


def test_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = elinvar.nonsense
