"""Budgets: what is measured, what counts as too much, and the file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from elinvar.errors import InputError
from elinvar.video import budgets
from elinvar.video.budgets import Costs


def test_every_excess_is_named_and_nothing_else() -> None:
    allowed = Costs(core_ms={"nv12": 2.0, "look": 10.0, "other": 1.0}, memory_mb=50.0, export_fps=30.0)
    assert budgets.exceeded(Costs(core_ms={"nv12": 2.0, "look": 9.0}, memory_mb=50.0, export_fps=30.0), allowed) == []
    found = budgets.exceeded(Costs(core_ms={"nv12": 2.1, "look": 9.0}, memory_mb=51.0, export_fps=29.0), allowed)
    assert [line.split()[0] for line in found] == ["nv12", "frames", "an"]
    assert budgets.exceeded(Costs(core_ms={"nv12": 1.0}), allowed) == [], "what was not measured is no excess"


def test_a_recorded_file_allows_what_was_measured_and_a_little_more(tmp_path: Path) -> None:
    measured = Costs(64, 36, 4, {"nv12": 1.0}, 10.0, 100.0)
    path = tmp_path / "b.json"
    allowed = budgets.record(measured, path)
    assert budgets.read(path) == allowed
    assert budgets.exceeded(measured, allowed) == []
    assert budgets.exceeded(Costs(64, 36, 4, {"nv12": 1.4}, 14.0, 70.0), allowed) != []


@pytest.mark.parametrize("text", ["", "[1]", '{"core_ms": 3}', '{"colour": 1}'])
def test_other_files_are_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "b.json"
    path.write_text(text)
    with pytest.raises(InputError, match="--record"):
        budgets.read(path)
    with pytest.raises(InputError, match="no budgets file"):
        budgets.read(tmp_path / "none.json")


def test_measured_at_the_settings_asked_for(tmp_path: Path) -> None:
    pytest.importorskip("av")
    costs = budgets.measure(Costs(64, 48, 3), names=["nv12", "look"], runs=2)
    assert (costs.width, costs.height, costs.frames) == (64, 48, 3)
    assert set(costs.core_ms) == {"nv12", "look"}
    assert costs.core_ms["nv12"] > 0
    assert costs.memory_mb is not None
    assert costs.memory_mb >= 64 * 48 * 3 / 1e6
    assert costs.export_fps is not None
    with pytest.raises(InputError, match="nv12, bloom"):
        budgets.measure(names=["fog"])


def test_the_command_says_no_when_a_frame_costs_too_much(tmp_path: Path, monkeypatch) -> None:
    pytest.importorskip("av")
    monkeypatch.setattr(budgets, "PASSES", {name: budgets.PASSES[name] for name in ("nv12", "look")})
    from typer.testing import CliRunner

    from elinvar.cli.bench import app

    path = tmp_path / "b.json"
    values = {"width": 64, "height": 48, "frames": 2, "core_ms": {"nv12": 1e-6}, "memory_mb": 1e3, "export_fps": 1e-3}
    path.write_text(json.dumps(values))
    result = CliRunner().invoke(app, ["video", "--budgets", str(path), "--runs", "1"])
    assert result.exit_code == 1
    assert "nv12 takes" in result.output
    path.write_text(json.dumps(values | {"core_ms": {"nv12": 1e6}}))
    assert CliRunner().invoke(app, ["video", "--budgets", str(path), "--runs", "1"]).exit_code == 0
