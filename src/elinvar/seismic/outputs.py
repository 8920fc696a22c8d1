"""Places to write to, looked at before hours of work: can it be written, and would anything be lost."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from elinvar.errors import InputError

from .checkpoint import free_bytes

__all__ = ["check_file", "check_folder", "space"]


def check_folder(target: str | os.PathLike[str], source: str | os.PathLike[str] | None = None) -> None:
    """Refuse a folder that cannot be written, or whose replacement would lose something that is no image.

    Parameters
    ----------
    target
        The Zarr folder that will be written; an image in its place will be replaced.
    source
        What the job reads.

    Raises
    ------
    InputError
        With the reason, and what to do.
    """
    path = Path(target)
    _not_the_source(path, source)
    if path.is_dir() and any(path.iterdir()) and not (path / "zarr.json").is_file():
        raise InputError(f"output {path} is a folder of other things, which would be lost; give a new name.")
    if path.is_file():
        raise InputError(f"output {path} is a file, and images are folders; give another name, such as image.zarr.")
    _room(path)


def check_file(target: str | os.PathLike[str], source: str | os.PathLike[str] | None = None) -> None:
    """Refuse a file that cannot be written; see :func:`check_folder`."""
    path = Path(target)
    _not_the_source(path, source)
    if path.is_dir():
        raise InputError(f"output {path} is a folder; give the name of a file.")
    _room(path)


def space(target: str | os.PathLike[str], nbytes: int) -> str | None:
    """Return a warning when a disk may be too full for what will be written, `nbytes` before compression."""
    free = free_bytes(Path(target).parent)
    if free >= nbytes:
        return None
    return f"{target} may need {nbytes / 2**30:.2f} GiB and the disk has {free / 2**30:.2f} GiB left."


def _not_the_source(path: Path, source: str | os.PathLike[str] | None) -> None:
    if source is not None and path.resolve() == Path(source).resolve():
        raise InputError(f"output {path} is the survey itself; give another name.")


def _room(path: Path) -> None:
    """Try to make something beside a path: permissions alone do not tell."""
    above = path.absolute().parent
    while not above.exists():
        above = above.parent
    try:
        Path(tempfile.mkdtemp(prefix=".elinvar-", dir=above)).rmdir()
    except OSError:
        raise InputError(
            f"output {path} cannot be written: {above} is no folder to write in; choose another."
        ) from None
