"""A benchmark of the engine runs and says what it promises, on pictures small enough for a test."""

import importlib.util
from pathlib import Path

import pytest

pytest.importorskip("av")

FOLDER = Path(__file__).parents[2] / "benchmarks"


def test_what_an_export_costs_beside_its_parts(monkeypatch):
    spec = importlib.util.spec_from_file_location("video_export", FOLDER / "video_export.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    for name, value in (("WIDTH", 64), ("HEIGHT", 48), ("FRAMES", 3)):
        monkeypatch.setattr(script, name, value)
    found = script.run(runs=2, warmup=1)
    assert set(found.samples) == set(script.rows(Path())) == set(found.extras["wall ms per frame"])
    assert len(found.extras["rounds"]["overlap"]) == len(found.extras["rounds"]["overhead core-ms"]) == 2
    assert found.extras["overlap"] > 0
