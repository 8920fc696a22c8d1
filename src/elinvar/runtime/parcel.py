"""Arrays that one process fills and another of the same machine reads where they are.

A parcel is pickled as the place of its memory (``near=True``, Linux) or as its arrays (elsewhere). The memory is an
anonymous file: it is gone with the last process that has it open, however that one ends. A process that makes parcels
of one size again and again gets its own memory back once nobody reads it, and so without the cost of fresh pages.
"""

from __future__ import annotations

import math
import mmap
import os
import sys
import threading
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from elinvar.errors import InputError

__all__ = ["Parcel", "near_works"]

Spec = tuple[tuple[int, ...], str]
_SPARE = 2  # pieces of memory that a process keeps
_SPARE_BYTES = 1 << 31  # and how large they are together, at most
_ALIGN = 64


def near_works() -> bool:
    """Say whether this system has memory that another process can open."""
    return sys.platform == "linux" and hasattr(os, "memfd_create") and Path("/proc/self/fd").is_dir()


@dataclass(frozen=True)
class _Memory:
    fd: int
    map: mmap.mmap
    size: int


_lock = threading.Lock()
_spare: list[_Memory] = []


def _take(size: int) -> _Memory:
    """Return memory of this size that nobody else has open, used before if possible."""
    import fcntl

    with _lock:
        for k, one in enumerate(_spare):
            if one.size != size:
                continue
            try:
                fcntl.flock(one.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)  # readers hold a shared lock
            except OSError:
                continue
            fcntl.flock(one.fd, fcntl.LOCK_UN)
            return _spare.pop(k)
    fd = os.memfd_create("elinvar-parcel", os.MFD_CLOEXEC)
    try:
        os.ftruncate(fd, size)
        return _Memory(fd, mmap.mmap(fd, size), size)
    except BaseException:
        os.close(fd)
        raise


def _give_back(memory: _Memory, maker: int) -> None:
    """Keep memory for the next parcel, or let it go; a child of a fork leaves its parent's alone."""
    if os.getpid() != maker:
        return
    with _lock:
        _spare.append(memory)
        while len(_spare) > _SPARE or sum(one.size for one in _spare) > _SPARE_BYTES:
            os.close(_spare.pop(0).fd)  # the map goes with the last array over it


class Parcel:
    """Arrays on their way to another process.

    Parameters
    ----------
    specs
        Shape and dtype of each array.
    near
        The reader is a process of this machine and user that reads before this object is gone. Else, and where the
        system has no such memory, the arrays travel.

    Attributes
    ----------
    arrays
        To fill, by whoever makes the parcel; to read, not to write, by whoever gets it.

    Examples
    --------
    >>> parcel = Parcel([((2, 3), "float32")])
    >>> parcel.arrays[0][:] = 1
    """

    def __init__(self, specs: Sequence[tuple[tuple[int, ...], Any]], *, near: bool = False) -> None:
        self._specs: tuple[Spec, ...] = tuple((tuple(shape), np.dtype(dtype).str) for shape, dtype in specs)
        self._memory: _Memory | None = None
        if near and near_works():
            size = max(1, _places(self._specs)[-1])
            self._memory = _take(size)
            weakref.finalize(self, _give_back, self._memory, os.getpid()).atexit = False
            self._arrays = _views(self._memory.map, self._specs)
        else:
            self._arrays = tuple(np.empty(shape, dtype) for shape, dtype in self._specs)
        self._lost: str | None = None

    @property
    def arrays(self) -> tuple[NDArray[Any], ...]:
        """The arrays.

        Raises
        ------
        InputError
            The process that made them ended before they were read.
        """
        if self._lost is not None:
            raise InputError(f"A process that made a part of the result is gone ({self._lost}); run it again.")
        return self._arrays

    def __reduce__(self) -> tuple[Any, ...]:
        if self._memory is None:
            return _carried, (self._specs, self.arrays)
        facts = os.fstat(self._memory.fd)
        return _opened, (self._specs, os.getpid(), self._memory.fd, facts.st_dev, facts.st_ino)


def _places(specs: Sequence[Spec]) -> list[int]:
    """Return where each array begins, and where the last one ends."""
    places = [0]
    for shape, dtype in specs:
        size = math.prod(shape) * np.dtype(dtype).itemsize
        places.append(places[-1] + -(-size // _ALIGN) * _ALIGN)
    return places


def _views(memory: mmap.mmap, specs: Sequence[Spec]) -> tuple[NDArray[Any], ...]:
    starts = _places(specs)
    return tuple(
        np.frombuffer(memory, dtype, math.prod(shape), start).reshape(shape)
        for (shape, dtype), start in zip(specs, starts, strict=False)
    )


def _carried(specs: tuple[Spec, ...], arrays: tuple[NDArray[Any], ...]) -> Parcel:
    parcel = Parcel.__new__(Parcel)
    parcel._specs, parcel._memory, parcel._arrays, parcel._lost = specs, None, arrays, None  # noqa: SLF001
    return parcel


def _opened(specs: tuple[Spec, ...], pid: int, fd: int, device: int, inode: int) -> Parcel:
    """Map what another process made; what goes wrong is said when the arrays are wanted, not while receiving."""
    import fcntl

    parcel = _carried(specs, ())
    try:
        mine = os.open(f"/proc/{pid}/fd/{fd}", os.O_RDONLY | os.O_CLOEXEC)
        try:
            facts = os.fstat(mine)
            if (facts.st_dev, facts.st_ino) != (device, inode):
                raise FileNotFoundError(f"process {pid} has let go of it")
            fcntl.flock(mine, fcntl.LOCK_SH)  # the map holds it on: the maker waits with writing here again
            parcel._arrays = _views(mmap.mmap(mine, facts.st_size, prot=mmap.PROT_READ), specs)  # noqa: SLF001
        finally:
            os.close(mine)
    except (OSError, ValueError) as error:
        parcel._lost = str(error)  # noqa: SLF001
    return parcel
