"""Compiling translated Metal with the machine's own C++ compiler, and keeping what came out.

Three kinds of build: ``plain`` runs in this process; ``races`` has every access to shared memory announced to the race
detector (``-fsanitize=thread`` code generation, elinvar's own runtime behind it); ``sanitize`` is a program of its own
under AddressSanitizer. What is built is kept in the user's cache folder under a hash of everything that went into it.

Debug information is 45 % of a compilation and wanted by few: `with_lines` compiles once more with it when a fault has
to be found in the source. The prelude is compiled ahead once there is more than one kernel to build.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import platform
import re
import shutil
import struct
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import Literal

from elinvar.errors import MetalError, MetalSyntaxError
from elinvar.runtime.files import atomic_write, cache_dir

from .language import Source
from .signature import Attribute, Buffer, Signature
from .translate import translate

__all__ = ["Build", "Mode", "compiler", "cpp_text", "lend", "make", "with_lines"]

Mode = Literal["plain", "races", "sanitize"]
_KEPT = 2000
_PRELUDE = Path(__file__).with_name("prelude")
# Signed overflow wraps and casts between pointers alias, as on a GPU; nothing reorders or contracts floating point.
_LANGUAGE: tuple[str, ...] = (
    "-std=c++17",
    "-w",
    "-fPIC",
    "-fno-exceptions",
    "-fno-rtti",
    "-fwrapv",
    "-fno-strict-aliasing",
    "-fsigned-char",
)
_LANGUAGE += ("-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math", "-fno-elide-type")
# Variables without a value hold a pattern; a private array too large for its stack meets the guard page, no neighbour.
# AddressSanitizer's checks are calls: written out at every access they are half of the compilation.
_IF_ACCEPTED = ("-ftrivial-auto-var-init=pattern", "-fstack-clash-protection")
_IF_SANITIZED = ("--param=asan-instrumentation-with-call-threshold=0",)
_LINES = ("-g1", "-gdwarf-4")
_MODE: dict[Mode, tuple[str, ...]] = {
    "plain": ("-O1",),
    "races": ("-O1", "-fsanitize=thread"),
    "sanitize": ("-O1", "-fsanitize=address", "-fno-omit-frame-pointer"),
}
_ERROR = re.compile(r"^(?P<file>[^\n:]*):(?P<line>\d+):(?:\d+:)? (?:fatal )?error: (?P<what>.*)$", re.MULTILINE)
_LED = re.compile(
    r"^(?P<file>[^\n:]*):(?P<line>\d+):(?:\d+:)?\s+(?:required from|in instantiation of|note: in )", re.MULTILINE
)
_PLAINER = (
    (re.compile(r"elinvar_msl::(metal::)?"), ""),
    (re.compile(r"elinvar_small<elinvar_(half|bfloat)_format>"), r"\1"),
    (re.compile(r"(packed_)?vec<(\w+), ?([234])>"), r"\1\2\3"),
    (re.compile(r"static assertion failed: "), ""),
    (re.compile(r"[A-Za-z0-9_]+ \{aka '([^']+)'\}"), r"\1"),
)
_PLACE = {
    "thread_position_in_grid": "position_in_grid",
    "threads_per_grid": "grid",
    "grid_size": "grid",
    "grid_origin": "origin",
    "thread_position_in_threadgroup": "position_in_group",
    "threadgroup_position_in_grid": "group_position",
    "threads_per_threadgroup": "group",
    "dispatch_threads_per_threadgroup": "group",
    "threadgroups_per_grid": "groups",
}
_NUMBER = {
    "thread_index_in_threadgroup": "t->index",
    "thread_index_in_simdgroup": "t->index % 32u",
    "simdgroup_index_in_threadgroup": "t->index / 32u",
    "simdgroups_per_threadgroup": "(t->count + 31u) / 32u",
    "dispatch_simdgroups_per_threadgroup": "(t->count + 31u) / 32u",
    "threads_per_simdgroup": "32u",
    "thread_execution_width": "32u",
    "thread_index_in_quadgroup": "t->index % 4u",
    "quadgroup_index_in_threadgroup": "t->index / 4u",
    "quadgroups_per_threadgroup": "(t->count + 3u) / 4u",
    "dispatch_quadgroups_per_threadgroup": "(t->count + 3u) / 4u",
}


@dataclass(frozen=True)
class Build:
    """One compiled source: a shared library, or for ``sanitize`` a program."""

    path: Path
    mode: Mode
    kernels: tuple[str, ...]


@cache
def compiler() -> tuple[str, str]:
    """Return the C++ compiler's path and version.

    Raises
    ------
    MetalError
        Without one, saying what to install.
    """
    named = os.environ.get("ELINVAR_CXX")
    for name in (named,) if named else ("g++", "clang++", "c++"):
        path = shutil.which(name)
        if path:
            found = _run([path, "--version"])
            return path, found.stdout.splitlines()[0] if found.stdout else name
    how = "xcode-select --install" if platform.system() == "Darwin" else "sudo apt-get install g++"
    missing = f"ELINVAR_CXX={named} was not found" if named else "none was found"
    raise MetalError(f"[metal] running Metal on the CPU needs a C++17 compiler, and {missing}: {how}")


def _run(command: Sequence[str]) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, "LC_ALL": "C"})
    except OSError as error:
        raise MetalError(f"[metal] cannot start {command[0]}: {error}") from error


# ---- the C++ text ---------------------------------------------------------------------------------------------------
def _argument(one: Buffer | Attribute) -> str:
    if isinstance(one, Buffer):
        kind = "elinvar_reference" if one.is_reference else "elinvar_pointer"
        return f"elinvar_msl::{kind}{{b[{one.index}]}}"
    place = _PLACE.get(one.attribute)
    if place is None:
        return f"elinvar_msl::{one.scalar}({_NUMBER[one.attribute]})"
    return f"elinvar_msl::elinvar_position<elinvar_msl::{one.type_name}>(t->{place})"


def _wrapper(number: int, signature: Signature) -> str:
    arguments = ", ".join(_argument(one) for one in signature.order)
    call = f"elinvar_msl::{signature.function}({arguments});"
    return f"static void elinvar_body_{number}(void** b, const elinvar_thread* t) {{ (void)b, (void)t; {call} }}\n"


def cpp_text(source: Source) -> str:
    """Return the C++ that is compiled: the prelude, the translated source, one entry for each kernel."""
    kernels = list(source.kernels.values())
    entries = "".join(f'  {{"{k.name}", elinvar_body_{n}}},\n' for n, k in enumerate(kernels))
    return (
        '#include "emulator.h"\n'
        "namespace metal = elinvar_msl::metal;\n"
        "namespace elinvar_msl {\n"
        f"{translate(source)}\n"
        '#line 1 "elinvar-entries"\n'
        + "".join(_wrapper(n, k) for n, k in enumerate(kernels))
        + "}  // namespace elinvar_msl\nusing namespace elinvar_msl;\n"
        + f'extern "C" {{\nextern const elinvar_entry elinvar_kernels[] = {{\n{entries}  {{nullptr, nullptr}}}};\n}}\n'
    )


# ---- building -------------------------------------------------------------------------------------------------------
def _digest(*parts: str | bytes) -> str:
    total = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        total.update(len(data).to_bytes(8, "little") + data)
    return total.hexdigest()[:24]


@cache
def _prelude_digest() -> str:
    files = [path for path in sorted(_PRELUDE.iterdir()) if path.name.startswith(("emulator", "msl_"))]
    return _digest(*(part for path in files for part in (path.name, path.read_bytes())))


@lru_cache(maxsize=8)
def _flags(mode: Mode) -> tuple[str, ...]:
    path, version = compiler()
    wanted = (*_IF_ACCEPTED, *(_IF_SANITIZED if mode == "sanitize" else ()))
    extra = [flag for flag in wanted if _accepts(path, version, flag)]
    return (*_LANGUAGE, *_MODE[mode], *extra)


@cache
def _accepts(path: str, _version: str, flag: str) -> bool:
    with tempfile.TemporaryDirectory() as folder:
        probe = Path(folder) / "probe.cpp"
        probe.write_text("int x;\n")
        return _run([path, flag, "-c", str(probe), "-o", str(probe.with_suffix(".o"))]).returncode == 0


def _key(mode: Mode, *parts: str) -> str:
    return _digest(compiler()[1], platform.machine(), _prelude_digest(), *_flags(mode), *parts)


def _folder() -> Path:
    folder = cache_dir() / "emulator"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _runtime(mode: Mode) -> Path:
    """Return the runtime: a shared library that kernels are linked to, or an object for ``sanitize``."""
    suffix = ".o" if mode == "sanitize" else ".so"
    target = _folder() / f"libelinvar-{_key(mode, 'runtime')}{suffix}"
    if not target.exists():
        # The runtime itself is never instrumented for races: it is what the instrumentation calls.
        flags = [flag for flag in _flags(mode) if flag not in {"-fsanitize=thread", "-O1"}] + ["-O2"]
        sources = [str(_PRELUDE / "emulator_runtime.cpp")]
        if mode == "races":
            sources.append(str(_PRELUDE / "emulator_races.cpp"))
            flags.append("-DELINVAR_RACES")
        with atomic_write(target) as new:
            how = ["-c"] if mode == "sanitize" else ["-shared", f"-Wl,{_install_name()},{target.name}"]
            libraries = [] if mode == "sanitize" else ["-lpthread", "-ldl"]
            _compile([*flags, f"-I{_PRELUDE}", *how, *sources, "-o", str(new), *libraries], "the emulator's runtime")
    return target


def _install_name() -> str:
    return "-install_name" if platform.system() == "Darwin" else "-soname"


def _compile(arguments: Sequence[str], what: str) -> None:
    done = _run([compiler()[0], *arguments])
    if done.returncode:
        raise MetalError(f"[metal] {compiler()[0]} cannot compile {what}: {done.stderr.strip()[:2000]}")


def _has_gcc() -> bool:
    return "clang" not in compiler()[1].lower()


def _prelude(mode: Mode) -> Path:
    """Return where g++ looks for the prelude compiled ahead, whether it is there or not."""
    return _folder() / f"prelude-{mode}-{_key(mode, 'prelude')}" / "emulator.h.gch"


def _compile_prelude(mode: Mode) -> None:
    target = _prelude(mode)
    with atomic_write(target) as new:
        _compile([*_flags(mode), "-x", "c++-header", str(_PRELUDE / "emulator.h"), "-o", str(new)], "the prelude")
    for old in _folder().glob(f"prelude-{mode}-*"):
        if old != target.parent:  # 30 MB each: one of a kind is enough
            shutil.rmtree(old, ignore_errors=True)


def _ahead(mode: Mode) -> list[str]:
    """Return what makes g++ take the prelude compiled ahead; nothing for other compilers and a cache's first kernel."""
    if not _has_gcc():
        return []
    target = _prelude(mode)
    if not target.exists():
        if not any(_folder().glob("metal-*")):
            return []
        _compile_prelude(mode)
    return [f"-I{target.parent}"]


def lend(cache: Path) -> None:
    """Give another cache folder what all kernels need: the runtimes, and with g++ the preludes compiled ahead."""
    for mode in _MODE:
        parts = [_runtime(mode)]
        if _has_gcc():
            if not _prelude(mode).exists():
                _compile_prelude(mode)
            parts.append(_prelude(mode))
        for part in parts:
            copy = cache / "emulator" / part.relative_to(_folder())
            copy.parent.mkdir(parents=True, exist_ok=True)
            try:
                copy.hardlink_to(part)
            except OSError:  # another disk
                shutil.copy2(part, copy)


def make(source: Source, mode: Mode) -> Build:
    """Compile a source for the emulator, or return what an earlier run left in the cache.

    Raises
    ------
    MetalSyntaxError
        With the user's own file and line, for what the compiler does not understand.
    MetalError
        Without a compiler.
    """
    text = cpp_text(source)
    suffix = "" if mode == "sanitize" else ".so"
    target = _folder() / f"metal-{_key(mode, text)}{suffix}"
    if target.exists():
        with contextlib.suppress(OSError):
            os.utime(target)  # what is used stays
    else:
        ahead = _ahead(mode)
        try:
            _build(source, mode, text, target, ahead)
        except MetalSyntaxError:
            raise
        except MetalError:
            if not ahead:
                raise
            _build(source, mode, text, target, [])  # a header that was cut off: the prelude's own text is as good
        _prune(target.parent)
    return Build(target, mode, tuple(source.kernels))


def _build(source: Source, mode: Mode, text: str, target: Path, more: Sequence[str]) -> None:
    runtime = _runtime(mode)
    with tempfile.TemporaryDirectory(prefix="elinvar-") as folder, atomic_write(target) as new:
        file = Path(folder) / "kernels.cpp"
        file.write_text(text)
        if mode == "sanitize":
            link = [str(_PRELUDE / "emulator_main.cpp"), str(runtime), "-lpthread", "-ldl", "-lm"]
        else:
            link = [
                "-shared",
                f"-L{runtime.parent}",
                "-Wl,--no-as-needed",
                f"-l:{runtime.name}",
                "-Wl,-rpath,$ORIGIN",
                "-lm",
            ]
            if platform.system() == "Darwin":
                link = ["-shared", str(runtime), "-Wl,-rpath,@loader_path", "-lm"]
        flags = [*_flags(mode), *more, f"-I{_PRELUDE}"]
        if mode == "races":  # the instrumentation, but not its library
            _compile_user([*flags, "-c", str(file), "-o", f"{file}.o"], source)
            plain = [flag for flag in flags if flag != "-fsanitize=thread"]
            _compile([*plain, f"{file}.o", *link, "-o", str(new)], "the kernels")
        else:
            _compile_user([*flags, str(file), *link, "-o", str(new)], source)
        new.chmod(0o755)


def with_lines(source: Source, build: Build) -> Path | None:
    """Return a build's library or program with debug information, compiled when it is first asked for.

    None when its machine code is not that of the build, byte for byte: its lines would be another program's.
    """
    text = cpp_text(source)
    target = _folder() / f"metal-{_key(build.mode, text, *_LINES)}{build.path.suffix}"
    if not target.exists():
        _build(source, build.mode, text, target, _LINES)
    code = _code(target)
    return target if code and code == _code(build.path) else None


def _code(library: Path) -> list[tuple[int, bytes]]:
    """Return address and bytes of a library's executable segments; nothing of what is not 64-bit little-endian ELF."""
    data = library.read_bytes()
    if data[:6] != b"\x7fELF\x02\x01":
        return []
    (table,), (size, count) = struct.unpack_from("<Q", data, 32), struct.unpack_from("<HH", data, 54)
    heads = [struct.unpack_from("<IIQQQQ", data, table + n * size) for n in range(count)]
    return [(at, data[start : start + n]) for kind, flags, start, at, _, n in heads if kind == 1 and flags & 1]


def shown(file: str) -> str:
    """Return a file's name for messages: text that came without a file is ``<source>``."""
    return "<source>" if file in {"", "source.metal"} else file


def _prune(folder: Path) -> None:
    """Forget the kernels that were used longest ago when there are very many."""
    kernels = list(folder.glob("metal-*"))
    if len(kernels) <= _KEPT:
        return
    with contextlib.suppress(OSError):  # another process prunes too
        kernels.sort(key=lambda path: path.stat().st_mtime)
        for path in kernels[: len(kernels) - _KEPT * 3 // 4]:
            path.unlink(missing_ok=True)


def _compile_user(arguments: Sequence[str], source: Source) -> None:
    done = _run([compiler()[0], *arguments])
    if done.returncode:
        raise _translated(done.stderr, source)


def _translated(log: str, source: Source) -> MetalError:
    """Turn a compiler's log into an error about the user's file."""
    known = {token.file for token in source.tokens} | {source.file or "source.metal"}
    errors = list(_ERROR.finditer(log))
    found = [(m["file"], m["line"], m["what"]) for m in errors if m["file"] in known]
    if not found and errors:  # an assertion in the prelude: what in the user's text led there?
        led = [m for m in _LED.finditer(log) if m["file"] in known]
        found = [(m["file"], m["line"], errors[0]["what"]) for m in led[-1:]]
    if not found:
        return MetalError(f"[metal] {compiler()[0]} failed: {log.strip()[:2000]}")
    file, line, what = found[0]
    for pattern, replacement in _PLAINER:
        what = pattern.sub(replacement, what)
    if "was not declared" in what and not any(token.text == "metal" for token in source.tokens):
        what += "; Metal's own names need `#include <metal_stdlib>` and `using namespace metal;` above"
    more = len({one[1] for one in found}) - 1
    counted = f" (and {more} more lines with errors)" if more > 0 else ""
    return MetalSyntaxError(f"{shown(file)}:{line}: {what}{counted}")
