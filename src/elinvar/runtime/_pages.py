"""glibc's malloc, asked to keep the pages it has."""

from __future__ import annotations

import ctypes
import sys

__all__ = ["keep_pages"]

_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
_M_MMAP_MAX = -4
_INT_MAX = (1 << 31) - 1


def keep_pages() -> bool:
    """Have glibc keep freed memory instead of giving it back to the kernel, for the rest of the process.

    By default every block above 32 MB is mapped afresh and unmapped on free, so a torch expression on large CPU tensors
    spends most of its time in page faults. Two ``mallopt`` calls stop that: large blocks come from the heap, and the
    heap's end is not trimmed. The price: the process keeps its peak of memory, and a long-lived small block can keep a
    large hole from being reused. Blocks allocated by threads other than the main one may still be mapped when they
    exceed 64 MB. Call it once, at the start; there is no way back.

    Returns
    -------
    bool
        Whether it was applied: False outside glibc (macOS, Windows, musl), where nothing happens.
    """
    if not sys.platform.startswith("linux"):
        return False
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "gnu_get_libc_version") or not hasattr(libc, "mallopt"):
        return False
    # glibc before 2.35 refuses thresholds above 32 MB; no mapped blocks at all amounts to the same.
    mapped = libc.mallopt(_M_MMAP_THRESHOLD, _INT_MAX) or libc.mallopt(_M_MMAP_MAX, 0)
    return bool(mapped and libc.mallopt(_M_TRIM_THRESHOLD, _INT_MAX))
