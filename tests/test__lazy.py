"""Packages whose names are imported when they are asked for."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

PACKAGE = """
from elinvar._lazy import lazy

__all__ = ["answer", "part"]
__getattr__, __dir__ = lazy(__name__, {"answer": "deep.home"}, ("part",))
"""
USE = """
import sys
import later
assert "later.deep.home" not in sys.modules
assert {"answer", "part", "__name__"} <= set(dir(later))
assert later.answer == 42 and "answer" in vars(later)
assert "later.part" not in sys.modules
assert later.part.__name__ == "later.part"
try:
    later.nothing
except AttributeError as error:
    print(error)
from later import *
print(answer, part.__name__)
"""


def test_names_come_when_they_are_asked_for(tmp_path: Path) -> None:
    (tmp_path / "later" / "deep").mkdir(parents=True)
    for name, text in {
        "__init__": PACKAGE,
        "part": "",
        "deep/__init__": "",
        "deep/home": "answer = 42",
    }.items():
        (tmp_path / "later" / f"{name}.py").write_text(text)
    done = subprocess.run([sys.executable, "-c", USE], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("module 'later' has no attribute 'nothing'\n42 later.part\n", "")
