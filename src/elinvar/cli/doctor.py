"""``elinvar doctor``: what this machine has, what works, what is missing, and the command that fixes each."""

from __future__ import annotations

import ctypes.util
import dataclasses
import importlib
import importlib.metadata
import json
import platform
import re
import shlex
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import unquote, urlparse

import typer

from elinvar import __version__
from elinvar.cli.common import emit, table

__all__ = ["Finding", "app", "examine"]

app = typer.Typer(add_completion=False)

OK, MISSING, ABSENT, BROKEN = "ok", "missing", "absent", "broken"
"""Works; could be had with the named command; this machine cannot have it; should work and does not."""


@dataclasses.dataclass(frozen=True)
class Finding:
    """One line of the report.

    Attributes
    ----------
    name
        What was looked for.
    status
        "ok", "missing" (the `fix` gets it), "absent" (not on this kind of machine), "broken" (an error).
    detail
        What was found, or what it would be good for.
    fix
        A command to type, or None.
    """

    name: str
    status: str
    detail: str
    fix: str | None = None


def _checkout() -> Path | None:
    """Return the folder of an editable install, None for an installed wheel."""
    try:
        text = importlib.metadata.distribution("elinvar").read_text("direct_url.json")
    except importlib.metadata.PackageNotFoundError:
        return None
    record = json.loads(text or "{}")
    if not record.get("dir_info", {}).get("editable"):
        return None
    return Path(unquote(urlparse(record["url"]).path))


def install_command(extra: str) -> str:
    """Return the command that adds an extra to the environment elinvar runs in."""
    root = _checkout()
    if root is None:
        return f"{shlex.quote(sys.executable)} -m pip install 'elinvar[{extra}]'"
    return f"python3 -m pip --python {shlex.quote(sys.executable)} install -e {shlex.quote(f'{root}[{extra}]')}"


def _package_tool(linux: str, mac: str) -> str:
    return f"brew install {mac}" if sys.platform == "darwin" else f"sudo apt-get install {linux}"


def _python() -> Finding:
    return Finding("python", OK, f"{platform.python_version()} on {platform.system()} {platform.machine()}")


def _torch() -> Finding:
    import torch

    build = f"CUDA {torch.version.cuda}" if torch.version.cuda else "no CUDA in this build"
    return Finding("torch", OK, f"{torch.__version__} ({build})")


def _numba() -> Finding:
    import numba

    return Finding("numba", OK, f"{numba.__version__}: the CPU kernels")


def _nvidia() -> Finding:
    import torch

    driver = Path("/proc/driver/nvidia/version").exists() or shutil.which("nvidia-smi") is not None
    if torch.cuda.is_available():
        try:
            version = importlib.metadata.version("cuda-core")
        except importlib.metadata.PackageNotFoundError:
            return Finding("nvidia", MISSING, "cuda-core compiles Metal kernels for NVIDIA", install_command("cuda"))
        return Finding("nvidia", OK, f"{torch.cuda.get_device_name(0)}; Metal kernels through cuda-core {version}")
    if driver:
        command = f"python3 -m pip --python {shlex.quote(sys.executable)} install --force-reinstall torch"
        return Finding("nvidia", MISSING, "there is a driver, but torch is a build without CUDA", command)
    return Finding("nvidia", ABSENT, "no NVIDIA driver on this machine")


def _apple() -> Finding:
    import torch

    if torch.backends.mps.is_available():
        return Finding("apple gpu", OK, "mps; the Metal kernels have not been verified on Apple hardware yet")
    if sys.platform == "darwin":
        return Finding("apple gpu", BROKEN, "torch finds no Metal device; it needs Apple silicon and macOS 14 or newer")
    return Finding("apple gpu", ABSENT, "not a Mac")


def _compiler() -> Finding:
    path = shutil.which("g++")
    if path is None:
        fix = "xcode-select --install" if sys.platform == "darwin" else "sudo apt-get install g++"
        return Finding("g++", MISSING, "runs Metal kernels on the CPU, to verify them (the emulator)", fix)
    return Finding("g++", OK, f"{path}: the Metal emulator")


def _browser() -> Finding:
    names = ("chromium", "chromium-browser", "google-chrome", "chrome")
    path = next((found for found in map(shutil.which, names) if found), None)
    if path is None:
        return Finding(
            "chromium", MISSING, "lets the tests open the pages", _package_tool("chromium", "--cask chromium")
        )
    return Finding("chromium", OK, f"{path}: opens the pages in tests")


def _portaudio() -> Finding:
    path = ctypes.util.find_library("portaudio")
    purpose = "for playing and recording through a sound card, with `pip install sounddevice`"
    if path is None:
        return Finding("portaudio", MISSING, purpose, _package_tool("libportaudio2", "portaudio"))
    return Finding("portaudio", OK, f"{path}: {purpose}")


def _pages() -> Finding:
    if platform.libc_ver()[0] == "glibc":
        return Finding("keep_pages", OK, "glibc: elinvar.keep_pages() speeds up large temporaries on the CPU")
    return Finding("keep_pages", ABSENT, "needs glibc")


def _cache() -> Finding:
    from elinvar.runtime.files import cache_dir

    folder = cache_dir()
    if folder.name.startswith("elinvar-cache-"):
        detail = "no folder can be written: compiled kernels and tuning are lost at exit"
        return Finding("cache", MISSING, detail, "export ELINVAR_CACHE=/a/folder/that/can/be/written")
    return Finding("cache", OK, str(folder))


def _tuning() -> Finding:
    from elinvar.runtime.device import device
    from elinvar.runtime.tuning import tuned

    best = device("auto")
    known = tuned(best.profile)
    if "copy_gbps" not in known.measured:
        return Finding("tuning", MISSING, f"{best} is planned for with documented defaults", "elinvar tune")
    return Finding("tuning", OK, f"{best}: copies {known.copy_gbps:.0f} GB/s")


def _extras() -> list[Finding]:
    """Compare what each extra asks for with what is installed; the list is the package's own metadata."""
    wanted: dict[str, list[str]] = {}
    try:
        metadata = importlib.metadata.metadata("elinvar")
        requirements = importlib.metadata.requires("elinvar") or []
    except importlib.metadata.PackageNotFoundError:
        return [Finding("extras", MISSING, "elinvar runs from a folder, not from an install", "make tour")]
    for extra in metadata.get_all("Provides-Extra") or []:
        if extra not in {"all", "dev"}:
            wanted[extra] = []
    for text in requirements:
        extra = re.search(r"extra == ['\"]([\w-]+)['\"]", text)
        name = re.match(r"[\w.-]+", text)
        if extra and name and extra[1] in wanted:
            wanted[extra[1]].append(name[0])
    return [_extra(name, packages) for name, packages in wanted.items()]


def _extra(name: str, packages: list[str]) -> Finding:
    title = f"elinvar[{name}]"
    missing = []
    for package in packages:
        try:
            importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            missing.append(package)
    if missing:
        return Finding(title, MISSING, f"not installed: {', '.join(missing)}", install_command(name))
    return Finding(title, OK, ", ".join(packages))


PROBES: tuple[tuple[str, Callable[[], Finding]], ...] = (
    ("python", _python),
    ("torch", _torch),
    ("numba", _numba),
    ("nvidia", _nvidia),
    ("apple gpu", _apple),
    ("g++", _compiler),
    ("chromium", _browser),
    ("portaudio", _portaudio),
    ("keep_pages", _pages),
    ("cache", _cache),
    ("tuning", _tuning),
)


def examine() -> list[Finding]:
    """Look at everything; a probe that fails is a finding, never an exception."""
    found = []
    for name, probe in PROBES:
        try:
            found.append(probe())
        except Exception as error:  # noqa: BLE001  (whatever is broken is what this command reports)
            text = " ".join(str(error).split())
            found.append(Finding(name, BROKEN, f"{type(error).__name__}: {text}", _reinstall(error)))
    return [*found, *_extras()]


def _reinstall(error: Exception) -> str | None:
    if isinstance(error, ModuleNotFoundError) and error.name:
        package = error.name.partition(".")[0]
        return f"python3 -m pip --python {shlex.quote(sys.executable)} install {package}"
    return None


def _devices() -> list[dict[str, Any]]:
    try:
        from elinvar.runtime.device import devices
        from elinvar.runtime.tuning import tuned
    except ImportError:
        return []  # torch is missing: a finding says so
    found = []
    for item in devices():
        known = tuned(item.profile)
        measured = {"copy_gbps": known.copy_gbps, "matmul_gflops": known.matmul_gflops}
        found.append({"device": str(item), **json.loads(item.profile.to_json()), **measured})
    return found


def _device_rows(devices: list[dict[str, Any]]) -> list[dict[str, object]]:
    return [
        {
            "device": item["device"],
            "name": item["name"],
            "units": item["compute_units"],
            "memory": f"{item['memory_bytes'] / 2**30:.0f} GiB",
            "pool budget": f"{item['recommended_budget_bytes'] / 2**30:.0f} GiB",
            "fast": " ".join(item["fast"]),
            "copy GB/s": "not tuned" if item["copy_gbps"] is None else f"{item['copy_gbps']:.0f}",
        }
        for item in devices
    ]


@app.command()
def doctor(
    json_: Annotated[bool, typer.Option("--json", help="Print JSON for a script.")] = False,
) -> None:
    """Say what this machine has, what works, what is missing and the command that fixes it.

    Exit code 1 when something that should work is broken; what is merely missing does not count.
    """
    findings, devices = examine(), _devices()

    def render() -> list[object]:
        rows = [{"": item.status, "what": item.name, "found": item.detail} for item in findings]
        fixes = [f"  {item.name}: {item.fix}" for item in findings if item.fix]
        parts = [f"elinvar {__version__}\n", table(_device_rows(devices)), "", table(rows)]
        return parts + (["", "To get what is missing:", *fixes] if fixes else [])

    emit({"version": __version__, "devices": devices, "findings": findings}, json_, render)
    if any(item.status == BROKEN for item in findings):
        raise typer.Exit(1)
