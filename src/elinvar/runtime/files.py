"""Files that are either whole or absent: temporary name, fsync, rename. And where caches may live."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path

__all__ = ["atomic_directory", "atomic_write", "cache_dir", "write_text"]


def _temporary(path: Path) -> Path:
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")


def _sync(path: Path) -> None:
    """Flush one file, or one folder's entries, to the disk; folders cannot be opened on every platform."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(descriptor)
    except OSError:
        pass
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def atomic_write(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on a clean exit it becomes `path`, on an exception it vanishes.

    Parameters
    ----------
    path
        The file to create or replace. Its folder is created when missing.

    Yields
    ------
    Path
        Where to write. Same folder, so the final rename is atomic.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = _temporary(target)
    try:
        yield temporary
        _sync(temporary)
        temporary.replace(target)
        _sync(target.parent)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_directory(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary folder beside `path`; on a clean exit it replaces `path`, on an exception it vanishes.

    Replacing an existing folder takes two renames; a crash between them leaves the old content under a
    ``.old.part`` name, never a mixture.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = _temporary(target)
    temporary.mkdir()
    retired: Path | None = None
    try:
        yield temporary
        if target.exists():
            retired = target.with_name(f".{target.name}.{secrets.token_hex(4)}.old.part")
            target.replace(retired)
        try:
            temporary.replace(target)
        except OSError:
            if retired is not None:  # put the old content back rather than lose both
                retired.replace(target)
            raise
        _sync(target.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        if retired is not None:
            shutil.rmtree(retired, ignore_errors=True)


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write UTF-8 text atomically."""
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


@cache
def _fallback_cache() -> Path:
    return Path(tempfile.mkdtemp(prefix="elinvar-cache-"))


def cache_dir() -> Path:
    """Return the folder for compiled kernels and tuning, creating it.

    ``ELINVAR_CACHE`` if set, else ``$XDG_CACHE_HOME/elinvar``, else ``~/.cache/elinvar``; when none of them can be
    written (a read-only home), a temporary folder that lasts as long as the process.
    """
    named = os.environ.get("ELINVAR_CACHE")
    base = os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser()
    folder = Path(named) if named else Path(base) / "elinvar"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return _fallback_cache()
    return folder if os.access(folder, os.W_OK) else _fallback_cache()
