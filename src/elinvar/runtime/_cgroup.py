"""What a container allows: CPU quota and memory limit of our own control group, versions 1 and 2.

Every function takes the file system's root so that tests can build one. A limit of a parent group binds its
children, so all folders from ours up to the mount are read and the tightest limit counts.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

__all__ = ["cpu_quota", "memory_groups", "read_number"]

_V1_UNLIMITED = 1 << 60  # version 1 writes a page-rounded 2^63 for "no limit"


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii", errors="replace").strip()
    except OSError:
        return ""


def read_number(path: Path) -> int | None:
    """Return the integer a file holds, or None when it is missing or holds a word such as ``max``."""
    try:
        return int(_text(path))
    except ValueError:
        return None


def _folders(root: Path, controller: str) -> Iterator[tuple[int, Path]]:
    """Yield ``(version, folder)`` of our group and its parents, innermost first."""
    base = root / "sys/fs/cgroup"
    for line in _text(root / "proc/self/cgroup").splitlines():
        number, _, rest = line.partition(":")
        names, _, group = rest.partition(":")
        if number == "0":
            version, mounts = 2, (base, base / "unified")
        elif controller in names.split(","):
            version, mounts = 1, (base / controller, base / names)
        else:
            continue
        for mount in dict.fromkeys(mounts):
            # Inside a container the path may be the host's, with only the mount's top visible.
            folder = mount / group.lstrip("/")
            while folder != mount and mount in folder.parents:
                yield version, folder
                folder = folder.parent
            yield version, mount


def cpu_quota(root: Path = Path("/")) -> float | None:
    """Return how many CPUs' worth of time our control group may use, or None without a limit."""
    quotas = []
    for version, folder in _folders(root, "cpu"):
        if version == 2:
            words = _text(folder / "cpu.max").split()
            quota, period = (words[0], words[1]) if len(words) == 2 else ("max", "")
        else:
            quota, period = _text(folder / "cpu.cfs_quota_us"), _text(folder / "cpu.cfs_period_us")
        if quota.isdecimal() and period.isdecimal() and int(period) > 0:
            quotas.append(int(quota) / int(period))
    return min(quotas, default=None)


def memory_groups(root: Path = Path("/")) -> list[tuple[int, Path]]:
    """Return ``(limit_bytes, folder)`` of each control group above us that limits memory."""
    found = []
    for version, folder in _folders(root, "memory"):
        limit = read_number(folder / ("memory.max" if version == 2 else "memory.limit_in_bytes"))
        if limit is not None and limit < _V1_UNLIMITED:
            found.append((limit, folder))
    return found
