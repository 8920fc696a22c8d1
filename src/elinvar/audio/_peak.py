"""How much memory something takes at its highest, where the system tells."""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from elinvar.runtime.device import Device

__all__ = ["peak_bytes", "trim"]


def _status(field: str) -> int | None:
    try:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith(field + ":"):
                return 1024 * int(line.split()[1])
    except OSError:
        pass
    return None


def trim() -> None:
    """Give memory that was freed, but kept for the next allocation, back to the system; only glibc can be asked."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


@contextlib.contextmanager
def peak_bytes(place: Device) -> Iterator[Callable[[], int | None]]:
    """Yield a function that says, after the block, how far memory rose above what was in use before it; None unknown.

    On the CPU it is Linux's high-water mark of resident memory, reset at the start; what earlier work has freed is
    given back first, or its memory would be used again unseen.
    """
    found: list[int | None] = [None]
    if place.kind == "cuda":
        torch.cuda.reset_peak_memory_stats(place.torch)
        before = torch.cuda.memory_allocated(place.torch)
        yield lambda: found[0]
        found[0] = torch.cuda.max_memory_allocated(place.torch) - before
        return
    trim()
    try:
        Path("/proc/self/clear_refs").write_text("5")
        start = _status("VmRSS")
    except OSError:
        start = None
    yield lambda: found[0]
    high = _status("VmHWM")
    if start is not None and high is not None:
        found[0] = max(0, high - start)
