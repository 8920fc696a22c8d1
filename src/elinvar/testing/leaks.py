"""Does a function leak? Memory, leases, threads and descriptors over many repeats."""

from __future__ import annotations

import ctypes
import gc
import os
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from elinvar.errors import InputError

__all__ = ["LeakError", "assert_no_leak"]

_GRACE = 1.0
"""Seconds a thread may take to end after its work was done."""


class LeakError(AssertionError):
    """A function left something behind; the message says what and how much."""


@dataclass(frozen=True)
class _Census:
    """What the process holds at one moment."""

    rss: int
    leases: int
    threads: int
    names: tuple[str, ...]
    descriptors: tuple[str, ...]


def _trim() -> None:
    """Give freed heap pages back to the system where glibc can, so that RSS means memory in use."""
    if sys.platform.startswith("linux"):
        libc = ctypes.CDLL(None)
        if hasattr(libc, "malloc_trim"):
            libc.malloc_trim(0)


def _descriptors() -> tuple[str, ...]:
    folder = Path("/proc/self/fd")
    if folder.is_dir():
        found = []
        for entry in folder.iterdir():
            try:
                found.append(f"{entry.name} -> {entry.readlink()}")
            except OSError:  # the descriptor that listed the folder
                continue
        return tuple(sorted(found))
    import psutil

    process = psutil.Process()
    count = process.num_fds() if hasattr(process, "num_fds") else process.num_handles()
    return ("?",) * int(count)


def _census() -> _Census:
    import psutil

    from elinvar.runtime.memory import live_leases

    gc.collect()
    _trim()
    process = psutil.Process()
    return _Census(
        rss=int(process.memory_info().rss),
        leases=live_leases(),
        threads=int(process.num_threads()),
        names=tuple(sorted(thread.name for thread in threading.enumerate())),
        descriptors=_descriptors(),
    )


def _without(now: tuple[str, ...], before: tuple[str, ...]) -> str:
    """Name what is there now and was not before."""
    rest = list(now)
    for name in before:
        if name in rest:
            rest.remove(name)
    shown = ", ".join(rest[:5]) or "native, unnamed"
    return shown + (f" and {len(rest) - 5} more" if len(rest) > 5 else "")


def _settled(threads: int) -> _Census:
    """Take a census, allowing threads beyond `threads` a moment to end."""
    import psutil

    process = psutil.Process()
    end = time.monotonic() + _GRACE
    while process.num_threads() > threads and time.monotonic() < end:
        time.sleep(0.01)
    return _census()


def _complaints(before: _Census, now: _Census, repeats: int) -> list[str]:
    found = []
    if now.leases > before.leases:
        found.append(f"{now.leases - before.leases} leases were never released")
    if now.threads > before.threads:
        found.append(f"{now.threads - before.threads} threads still run ({_without(now.names, before.names)})")
    if len(now.descriptors) > len(before.descriptors):
        extra = len(now.descriptors) - len(before.descriptors)
        found.append(f"{extra} descriptors stayed open ({_without(now.descriptors, before.descriptors)})")
    return [f"{complaint} after {repeats} repeats" for complaint in found]


def assert_no_leak(
    fn: Callable[[], object],
    repeats: int = 50,
    *,
    warmup: int = 5,
    max_rss_bytes: int = 8 << 20,
) -> None:
    """Run a function many times and fail if it leaves anything behind.

    Parameters
    ----------
    fn
        What to run; its result is dropped.
    repeats
        Counted runs, after `warmup` runs that may fill caches, start thread pools and compile kernels.
    max_rss_bytes
        How much resident memory may grow over all repeats. Allocators keep some: growth beyond this is counted as a
        leak only when as many repeats again make it grow as much again.

    Raises
    ------
    LeakError
        Leases of any pool are live, threads run (after one second of grace), descriptors are open, or memory grew.
    InputError
        Not callable, or a count that is not positive.
    """
    if not callable(fn):
        raise InputError(f"assert_no_leak: {fn!r} is not callable; pass a function without arguments.")
    if repeats < 2 or warmup < 1 or max_rss_bytes < 0:
        raise InputError(
            f"assert_no_leak: repeats={repeats}, warmup={warmup}, max_rss_bytes={max_rss_bytes}; pass at least 2, 1, 0."
        )
    threads = _census().threads
    for _ in range(warmup):
        fn()
    before = _settled(threads)  # a thread of the last warm-up run that is about to end must not count as normal
    for _ in range(repeats):
        fn()
    now = _settled(before.threads)
    complaints = _complaints(before, now, repeats)
    growth = now.rss - before.rss
    if growth > max_rss_bytes:
        for _ in range(repeats):
            fn()
        again = _census().rss - now.rss
        if again > max_rss_bytes:
            complaints.append(
                f"resident memory grew by {growth / 2**20:.1f} MiB in {repeats} repeats and by {again / 2**20:.1f} MiB "
                f"in as many again (limit {max_rss_bytes / 2**20:.1f})"
            )
    if complaints:
        name = getattr(fn, "__name__", repr(fn))
        raise LeakError(f"{name} in process {os.getpid()} leaks: " + "; ".join(complaints))
