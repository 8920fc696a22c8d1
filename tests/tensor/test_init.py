import subprocess
import sys

import pytest

import elinvar.tensor as engine


def test_every_public_name_loads():
    for name in engine.__all__:
        assert getattr(engine, name) is not None
    assert callable(engine.linear)
    with pytest.raises(AttributeError, match="no attribute 'lineer'"):
        engine.lineer


def test_importing_loads_nothing_heavy():
    code = "import sys, elinvar.tensor; sys.exit(any(m in sys.modules for m in ('torch', 'numba', 'numpy')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
