"""NVIDIA's run-time compiler by its C interface: CUDA C++ text in, machine code and the assembler's report out.

Used with a GPU and without one, so that the offline resource report describes exactly the code that will run.
Called through ctypes rather than through cuda-core's `Program` because the option strings and the assembler's log are
the same in every CUDA release, and because compiling must not need a driver.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import importlib.metadata
import importlib.util
import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from elinvar.errors import MetalError, MissingDependency

__all__ = ["Compiled", "NvrtcError", "available", "compile_program", "library_version", "supported_archs"]

_PACKAGES = ("nvidia-cuda-nvrtc", "nvidia-cuda-nvrtc-cu12")


class NvrtcError(MetalError):
    """NVRTC refused a program; `log` is what it said."""

    def __init__(self, message: str, log: str = "") -> None:
        super().__init__(message)
        self.log = log


@dataclass(frozen=True)
class Compiled:
    """Machine code.

    Attributes
    ----------
    code
        A cubin, or PTX text where the architecture is newer than the compiler.
    is_ptx
        Which of the two.
    log
        Compiler warnings and the assembler's ``-v`` report.
    """

    code: bytes
    is_ptx: bool
    log: str


def _wheel_files() -> Iterator[Path]:
    for package in _PACKAGES:
        try:
            files = importlib.metadata.files(package) or []
        except importlib.metadata.PackageNotFoundError:
            continue
        yield from (Path(str(item.locate())) for item in files if _is_library(item.name))


def _is_library(name: str) -> bool:
    return bool(re.fullmatch(r"libnvrtc\.so(\.\d+)*|nvrtc64_\d+_\d+\.dll", name))


def _candidates() -> Iterator[str]:
    """Paths and names to try: pip's wheels (torch's CUDA build brings one), the toolkit, the loader's own search."""
    yield from (str(path) for path in _wheel_files())
    for folder in sys.path:
        nvidia = Path(folder, "nvidia")
        if nvidia.is_dir():
            yield from (str(path) for path in sorted(nvidia.glob("*/lib/libnvrtc.so.*")) if _is_library(path.name))
    roots = [os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH"), "/usr/local/cuda"]
    for root in filter(None, roots):
        yield from (str(path) for path in sorted(Path(root).glob("lib64/libnvrtc.so*")) if _is_library(path.name))
    found = ctypes.util.find_library("nvrtc")
    if found:
        yield found
    yield from ("libnvrtc.so.13", "libnvrtc.so.12")


@cache
def _library() -> ctypes.CDLL | None:
    for candidate in dict.fromkeys(_candidates()):
        try:
            # NVRTC opens its builtins by name; loading them first, from its own folder, is what makes that succeed.
            folder = Path(candidate).parent
            for builtins in sorted(folder.glob("libnvrtc-builtins.so.*")) if folder.is_absolute() else ():
                ctypes.CDLL(str(builtins), mode=getattr(ctypes, "RTLD_GLOBAL", 0))
            library = ctypes.CDLL(candidate)
        except OSError:
            continue
        library.nvrtcGetErrorString.restype = ctypes.c_char_p
        return library
    return None


def available() -> bool:
    """Tell whether NVRTC can be loaded here."""
    return _library() is not None


def _require() -> ctypes.CDLL:
    library = _library()
    if library is None:
        raise MissingDependency(
            "[metal] NVRTC, NVIDIA's run-time compiler, was not found; torch's CUDA build brings it, or: "
            "pip install nvidia-cuda-nvrtc"
        )
    return library


def _call(name: str, *arguments: object) -> int:
    return int(getattr(_require(), name)(*arguments))


def _checked(name: str, *arguments: object) -> None:
    status = _call(name, *arguments)
    if status:
        text = _require().nvrtcGetErrorString(status).decode()
        raise NvrtcError(f"[metal] {name} failed: {text}")


def library_version() -> tuple[int, int]:
    """Return NVRTC's (major, minor)."""
    major, minor = ctypes.c_int(), ctypes.c_int()
    _checked("nvrtcVersion", ctypes.byref(major), ctypes.byref(minor))
    return major.value, minor.value


@cache
def supported_archs() -> tuple[int, ...]:
    """Return the compute capabilities NVRTC can assemble for, as 90 for 9.0, ascending."""
    count = ctypes.c_int()
    _checked("nvrtcGetNumSupportedArchs", ctypes.byref(count))
    archs = (ctypes.c_int * count.value)()
    _checked("nvrtcGetSupportedArchs", archs)
    return tuple(sorted(archs))


def _text(program: ctypes.c_void_p, what: str) -> bytes:
    size = ctypes.c_size_t()
    _checked(f"nvrtcGet{what}Size", program, ctypes.byref(size))
    buffer = ctypes.create_string_buffer(max(size.value, 1))
    _checked(f"nvrtcGet{what}", program, buffer)
    return buffer.raw[: size.value]


def compile_program(
    source: str, name: str, arch: str, options: Sequence[str] = (), headers: Mapping[str, str] | None = None
) -> Compiled:
    """Compile CUDA C++ to machine code.

    Parameters
    ----------
    source
        The program; nothing is included from disk.
    name
        What messages call it.
    arch
        ``"sm_90"``. An architecture newer than this NVRTC gives PTX for the newest it knows, which the driver finishes.
    options
        Further NVRTC options.
    headers
        Texts of what the program includes, by name.

    Returns
    -------
    Compiled

    Raises
    ------
    NvrtcError
        With the compiler's log in `log`.
    MissingDependency
        No NVRTC here.
    """
    wanted = int(re.sub(r"\D", "", arch))
    known = supported_archs()
    if wanted < known[0]:
        raise NvrtcError(f"[metal] {arch} is older than sm_{known[0]}, the oldest this NVRTC compiles for")
    is_ptx = wanted > known[-1]
    target = f"compute_{known[-1]}" if is_ptx else arch
    words = [f"--gpu-architecture={target}", *options]
    program = ctypes.c_void_p()
    given = dict(headers or {})
    names = (ctypes.c_char_p * len(given))(*(key.encode() for key in given))
    texts = (ctypes.c_char_p * len(given))(*(text.encode() for text in given.values()))
    _checked("nvrtcCreateProgram", ctypes.byref(program), source.encode(), name.encode(), len(given), texts, names)
    try:
        array = (ctypes.c_char_p * len(words))(*(word.encode() for word in words))
        status = _call("nvrtcCompileProgram", program, len(words), array)
        log = _text(program, "ProgramLog").rstrip(b"\0").decode(errors="replace")
        if status:
            reason = _require().nvrtcGetErrorString(status).decode()
            raise NvrtcError(f"[metal] NVRTC could not compile {name} ({reason})", log)
        code = _text(program, "PTX" if is_ptx else "CUBIN")
    finally:
        _call("nvrtcDestroyProgram", ctypes.byref(program))
    return Compiled(code, is_ptx, log)
