from __future__ import annotations

import subprocess
import sys

import pytest

from elinvar import audio

HEAVY = ("torch", "numba", "numpy", "scipy", "soundfile")


@pytest.mark.parametrize("code", ["import elinvar.audio; dir(elinvar.audio)", "import elinvar.cli.audio"])
def test_importing_loads_nothing_heavy(code: str) -> None:
    listing = f"{code}\nimport sys; print(*[name for name in {HEAVY!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", listing], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.split() == []


@pytest.mark.parametrize("name", audio.__all__)
def test_every_name_is_there(name: str) -> None:
    value = getattr(audio, name)
    assert value is not None
    assert name in dir(audio)
    if callable(value):  # not the module of the same name
        assert value.__doc__


def test_names_are_sorted_and_single() -> None:
    assert len(set(audio.__all__)) == len(audio.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = audio.nonsense
