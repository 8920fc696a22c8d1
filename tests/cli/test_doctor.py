"""doctor: every missing thing has a command, every broken thing is a finding, never a traceback."""

from __future__ import annotations

import importlib.metadata
import json
import shutil
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from elinvar.cli import doctor, main

runner = CliRunner()


def _by_name() -> dict[str, doctor.Finding]:
    return {item.name: item for item in doctor.examine()}


def test_report_names_the_device_and_every_probe() -> None:
    result = runner.invoke(main.app, ["doctor"])
    assert result.exit_code == 0, result.output
    for word in ("cpu", "torch", "numba", "g++", "chromium", "elinvar[seismic]", "elinvar[audio]"):
        assert word in result.stdout, word


def test_json_is_for_scripts() -> None:
    result = runner.invoke(main.app, ["doctor", "--json"])
    assert result.exit_code == 0
    data = json.loads(result.stdout)
    assert data["devices"][-1]["device"] == "cpu"
    assert data["devices"][-1]["memory_bytes"] > 0
    assert {item["status"] for item in data["findings"]} <= {"ok", "missing", "absent", "broken"}
    assert {"name", "status", "detail", "fix"} == set(data["findings"][0])


def test_everything_missing_has_a_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda _: None)
    monkeypatch.setattr(doctor.ctypes.util, "find_library", lambda _: None)

    def absent(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", absent)
    found = _by_name()
    for name in (
        "g++",
        "chromium",
        "portaudio",
        "elinvar[seismic]",
        "elinvar[vision]",
        "elinvar[cluster]",
        "elinvar[cuda]",
    ):
        assert found[name].status == "missing", name
        assert found[name].fix, name
    assert "segyio" in found["elinvar[seismic]"].detail


def test_a_library_that_does_not_import_is_a_finding_and_an_exit_code(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> doctor.Finding:
        raise ImportError("libcudart.so.13:\ncannot open shared object file")

    def missing() -> doctor.Finding:
        raise ModuleNotFoundError("No module named 'numba'", name="numba.core")

    monkeypatch.setattr(doctor, "PROBES", (("torch", broken), ("numba", missing)))
    torch, numba, *_ = doctor.examine()
    assert (torch.status, torch.fix) == ("broken", None)
    assert "\n" not in torch.detail
    assert numba.fix is not None
    assert numba.fix.endswith("install numba")
    assert runner.invoke(main.app, ["doctor"]).exit_code == 1


def test_nvidia_driver_without_a_cuda_build_of_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")
    finding = doctor._nvidia()
    assert finding.status == "missing"
    assert "install --force-reinstall torch" in str(finding.fix)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "NVIDIA H200")
    monkeypatch.setattr(importlib.metadata, "version", lambda _: "1.2.2")
    assert "NVIDIA H200; Metal kernels through cuda-core 1.2.2" in doctor._nvidia().detail

    def absent(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", absent)
    assert "[cuda]" in str(doctor._nvidia().fix)


def test_apple_gpu_says_what_is_not_verified(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert "not been verified on Apple hardware" in doctor._apple().detail
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    monkeypatch.setattr(sys, "platform", "darwin")
    assert doctor._apple().status == "broken"


def test_an_unwritable_cache_is_a_finding(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("elinvar.runtime.files.cache_dir", lambda: tmp_path / "elinvar-cache-1")
    assert "ELINVAR_CACHE" in str(doctor._cache().fix)
    monkeypatch.setattr("elinvar.runtime.files.cache_dir", lambda: tmp_path / "elinvar")
    assert doctor._cache().status == "ok"


def test_commands_survive_a_path_with_spaces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_checkout", lambda: Path("/home/a b/elinvar"))
    monkeypatch.setattr(sys, "executable", "/home/a b/elinvar/.venv/bin/python")
    command = doctor.install_command("cuda")
    assert "'/home/a b/elinvar[cuda]'" in command
    assert "'/home/a b/elinvar/.venv/bin/python'" in command
    monkeypatch.setattr(doctor, "_checkout", lambda: None)
    assert doctor.install_command("cuda").endswith("-m pip install 'elinvar[cuda]'")


def test_tuning_is_a_finding(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from elinvar.runtime.device import device
    from elinvar.runtime.tuning import save_tuned

    monkeypatch.setenv("ELINVAR_CACHE", str(tmp_path))
    assert doctor._tuning().fix == "elinvar tune"
    save_tuned(device("auto").profile, "copy_gbps", 90.0)
    assert "90 GB/s" in doctor._tuning().detail
    assert doctor._devices()[0]["copy_gbps"] == 90.0
