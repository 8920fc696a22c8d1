"""Judging a changed copy of a registered kernel's Metal source: the check that mutation tests use."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from elinvar.errors import InputError

from .mutation import Mutant, survivors

__all__ = ["KernelCheck", "kernel_survivors"]


@dataclass(frozen=True)
class KernelCheck:
    """Runs a registered kernel with other Metal source on the emulator and compares it with its reference.

    Three stages, so that most mutants cost one compilation: the answers on several example tiles; the same under the
    race detector in random order; the same under AddressSanitizer, which sees accesses outside a buffer that change no
    answer.

    Attributes
    ----------
    name, version
        As registered; the version has Metal source and an example.
    seeds
        Tiles of the first stage. Examples whose shapes vary with the seed make this stronger.
    raced, sanitized
        Tiles of the other two stages.
    scratch
        Where to keep what is compiled from changed text, instead of the user's cache.
    """

    name: str
    version: str
    seeds: tuple[int, ...] = (0, 1, 2, 3)
    raced: tuple[int, ...] = (0, 1, 2, 3)
    sanitized: tuple[int, ...] = (0, 1, 2, 3)
    scratch: str | None = None

    def stages(self) -> list[tuple[dict[str, Any], tuple[int, ...]]]:
        """Return the compile options and the seeds of each stage."""
        return [
            ({}, self.seeds),
            ({"races": True, "schedule": "random", "seed": 7}, self.raced),
            ({"sanitize": True}, self.sanitized),
        ]

    def __call__(self, source: str) -> bool:
        """Tell whether everything passes with `source` in place of the kernel's own file."""
        from elinvar.runtime import kernels

        item = kernels.default_registry.version(self.name, self.version)
        if item.source_path is None:
            raise InputError(f"[KernelCheck] kernel {self.name!r} {self.version} has no Metal source")
        changed = source != item.source_path.read_text("ascii")
        with _cached_in(self.scratch if changed else None):
            for options, seeds in self.stages():
                with substituted(item.source_path, source, options):
                    for seed in seeds:
                        if not kernels.check(self.name, self.version, "cpu", backend="metal", seed=seed).ok:
                            return False
        return True


@contextlib.contextmanager
def _cached_in(folder: str | None) -> Iterator[None]:
    """Keep compiled kernels in another folder for a while."""
    before = os.environ.get("ELINVAR_CACHE")
    if folder is not None:
        os.environ["ELINVAR_CACHE"] = folder
    try:
        yield
    finally:
        if folder is not None:
            del os.environ["ELINVAR_CACHE"]
            if before is not None:
                os.environ["ELINVAR_CACHE"] = before


@contextlib.contextmanager
def substituted(path: Path, source: str, options: Mapping[str, Any]) -> Iterator[None]:
    """Make `elinvar.metal.compile` see other text where it is given `path`, with further options for the emulator.

    Kernels may keep their compiled libraries for ever, and should; so this serves a process that runs one source only,
    and forgets what `functools` caches of the kernels' launchers hold.
    """
    from elinvar import metal

    original = metal.compile
    target = path.resolve()

    def compile_other(given: str | Path, *args: Any, **kwargs: Any) -> Any:
        is_file = isinstance(given, Path) or (given.endswith(".metal") and "\n" not in given)
        text = source if is_file and Path(given).resolve() == target else given
        return original(text, *args, **{**kwargs, **options})

    metal.compile = compile_other  # type: ignore[assignment]
    _forget_libraries()
    try:
        yield
    finally:
        metal.compile = original
        _forget_libraries()


def _forget_libraries() -> None:
    """Empty every `functools` cache in the modules of kernels, where compiled libraries are kept."""
    import sys

    for name, module in list(sys.modules.items()):
        if ".kernels." in name and module is not None:
            for value in list(vars(module).values()):
                clear = getattr(value, "cache_clear", None)
                if callable(clear):
                    clear()


def kernel_survivors(
    name: str,
    version: str,
    *,
    equivalent: Mapping[str, str] | None = None,
    jobs: int = 2,
    timeout: float = 120.0,
    limit: int | None = None,
    **options: Any,
) -> list[Mutant]:
    """Return the mutants of a registered kernel's Metal source that its self-check on the emulator does not notice.

    Parameters
    ----------
    name, version
        As registered.
    equivalent, jobs, timeout, limit
        As for `survivors`.
    options
        For `KernelCheck`.
    """
    from elinvar.metal import emulator_build
    from elinvar.runtime import kernels

    path = kernels.default_registry.version(name, version).source_path
    if path is None:
        raise InputError(f"[kernel_survivors] kernel {name!r} {version} has no Metal source")
    cache = tempfile.mkdtemp(prefix="elinvar-mutants-")  # mutants do not belong in the user's cache; the kernel does
    try:
        emulator_build.lend(Path(cache))
        check = KernelCheck(name, version, scratch=cache, **options)
        return survivors(path, check, jobs=jobs, timeout=timeout, limit=limit, equivalent=equivalent)
    finally:
        shutil.rmtree(cache, ignore_errors=True)
