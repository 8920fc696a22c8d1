"""kernels: the list a person reads and the one a script reads."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from elinvar.cli import main
from elinvar.runtime import kernels as registry

runner = CliRunner()


@pytest.fixture
def one_kernel(monkeypatch: pytest.MonkeyPatch) -> registry.Registry:
    own = registry.Registry()

    def reference(x: object) -> object:
        return x

    def example(seed: int) -> tuple[tuple[object, ...], dict[str, object]]:
        import torch

        return (torch.arange(3.0) + seed,), {}

    def wrong(x: object) -> object:
        return x + 1  # type: ignore[operator]

    own.register("my.copy", "v1", reference=reference, cpu=reference, example=example, tolerance=1e-6, summary="copies")
    own.register("my.copy", "v2", reference=reference, cpu=wrong, example=example, tolerance=1e-6, summary="copies")
    for name in ("kernel", "kernels"):
        monkeypatch.setattr(registry, name, getattr(own, name))
    monkeypatch.setattr(registry, "default_registry", own)
    return own


@pytest.mark.usefixtures("one_kernel")
def test_the_list_says_what_is_chosen_and_why() -> None:
    result = runner.invoke(main.app, ["kernels", "--device", "cpu"])
    assert result.exit_code == 0, result.output
    for word in ("my.copy", "v2 (cpu)", "highest version", "v1: cpu", "copies"):
        assert word in result.stdout, word


@pytest.mark.usefixtures("one_kernel")
def test_checking_first_shows_the_fallback() -> None:
    result = runner.invoke(main.app, ["kernels", "--device", "cpu", "--check", "--json"])
    assert result.exit_code == 0, result.output
    (row,) = json.loads(result.stdout)
    assert row["version"] == "v1"
    assert "v2" in row["why"]
    assert set(row) >= {"name", "versions", "device", "version", "backend", "why", "tolerance", "checked"}


def test_an_empty_registry_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "kernels", lambda _: [])
    assert "No kernel" in runner.invoke(main.app, ["kernels"]).stdout


def test_an_unknown_device_is_one_sentence() -> None:
    result = runner.invoke(main.app, ["kernels", "--device", "tpu"])
    assert result.exit_code == 1
    assert "tpu" in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1


@pytest.mark.usefixtures("one_kernel")
def test_a_file_or_module_of_ones_own_is_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = """
from elinvar.runtime import kernels

def same(x):
    return x

kernels.default_registry.register(
    "{0}.same", "v1", reference=same, cpu=same, example=lambda seed: ((), {{}}), tolerance=1e-6, summary="same"
)
"""
    (tmp_path / "kernels_in_a_file.py").write_text(text.format("filed"))
    (tmp_path / "kernels_in_a_module.py").write_text(text.format("moduled"))
    monkeypatch.chdir(tmp_path)
    found = runner.invoke(
        main.app, ["kernels", "--json", "-i", str(tmp_path / "kernels_in_a_file.py"), "-i", "kernels_in_a_module"]
    )
    assert found.exit_code == 0, found.output
    assert {"filed.same", "moduled.same"} <= {item["name"] for item in json.loads(found.stdout)}
    for wrong in ("kernels_nowhere", "nowhere.py"):
        refused = runner.invoke(main.app, ["kernels", "--import", wrong])
        assert refused.exit_code != 0
        assert "kernels: there is no" in str(refused.exception) + refused.output
