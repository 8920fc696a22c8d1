"""One run at a time: a lock file that says who holds it and is free the moment that process is gone."""

from __future__ import annotations

import errno
import json
import os
import socket
import time
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from elinvar.errors import InputError

__all__ = ["Lock"]

_NO_LOCKS = {errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL}


class Lock:
    """A lock on a file (``flock``), reentrant in nothing: a second holder in this process is refused as well.

    The system gives the lock back when its process ends, however it ends, so a file that was left behind is no
    obstacle. On a file system without locks the process in the file is looked for instead.

    Parameters
    ----------
    path
        The file; its folder exists. It is removed on release.
    what
        What is locked, for the sentence: ``"checkpoint runs/line7"``.

    Attributes
    ----------
    previous
        Who held it last and did not release it, or None.
    """

    def __init__(self, path: str | os.PathLike[str], what: str) -> None:
        self.path = Path(path)
        self.what = what
        self.previous: dict[str, Any] | None = None
        self._descriptor: int | None = None

    def acquire(self) -> None:
        """Take the lock, or say in one sentence who has it.

        Raises
        ------
        InputError
            It is held.
        """
        while True:
            descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o644)
            try:
                holder = self._read()
                if not _flock(descriptor, holder):
                    raise InputError(f"{self.what} is in use by {_who(holder)}; wait for it, or use another folder.")
                # Its last holder may have removed the file between our two steps.
                if not _same(descriptor, self.path):
                    os.close(descriptor)
                    continue
                self.previous = holder
                me = {
                    "pid": os.getpid(),
                    "host": socket.gethostname(),
                    "since": time.time(),
                    "born": _born(os.getpid()),
                }
                os.ftruncate(descriptor, 0)
                os.lseek(descriptor, 0, os.SEEK_SET)
                os.write(descriptor, json.dumps(me).encode())
            except BaseException:
                os.close(descriptor)
                raise
            self._descriptor = descriptor
            return

    def release(self) -> None:
        """Give the lock back; harmless when it is not held."""
        if self._descriptor is not None:
            self.path.unlink(missing_ok=True)  # before the lock is free: nobody else can hold it now
            os.close(self._descriptor)
            self._descriptor = None

    def _read(self) -> dict[str, Any] | None:
        try:
            found = json.loads(self.path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return found if isinstance(found, dict) else None

    def __enter__(self) -> Self:
        self.acquire()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, frame: TracebackType | None
    ) -> None:
        self.release()


def _flock(descriptor: int, holder: dict[str, Any] | None) -> bool:
    """Lock an open file; where that does not exist, say whether the process that is written in it is gone."""
    try:
        import fcntl

        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except ImportError:
        return not _alive(holder)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        return not _alive(holder)
    return True


def _same(descriptor: int, path: Path) -> bool:
    try:
        here, there = os.fstat(descriptor), path.stat()
    except FileNotFoundError:
        return False
    return (here.st_ino, here.st_dev) == (there.st_ino, there.st_dev)


def _born(pid: int) -> float | None:
    """Return when a process started, None when there is no such process: numbers are used again."""
    try:
        import psutil
    except ImportError:
        return None
    try:
        return float(psutil.Process(pid).create_time())
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return None


def _alive(holder: dict[str, Any] | None) -> bool:
    """Say whether a holder may still be at work; one on another machine may."""
    if holder is None:
        return False
    if holder.get("host") != socket.gethostname():
        return True
    born = _born(int(holder.get("pid", -1)))
    return born is not None and born == holder.get("born")


def _who(holder: dict[str, Any] | None) -> str:
    if holder is None:
        return "another run"
    try:
        since = datetime.fromtimestamp(float(holder["since"])).astimezone().strftime("%Y-%m-%d %H:%M")
        return f"process {int(holder['pid'])} on {holder['host']} since {since}"
    except (KeyError, TypeError, ValueError, OverflowError):
        return "another run"
