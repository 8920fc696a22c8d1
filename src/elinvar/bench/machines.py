"""Which machine this is, and who else is using it."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import sys
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from .samples import Load

__all__ = ["LoadProbe", "fingerprint", "machine", "machine_name"]

_HARDWARE = ("system", "arch", "cpu", "cores", "memory_gb", "accelerators")


def _cpu_model() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.lower().startswith(("model name", "hardware")):
                return line.partition(":")[2].strip()
    if sys.platform == "darwin":
        import subprocess

        answer = subprocess.run(
            ["sysctl", "-n", "machdep.cpu.brand_string"], capture_output=True, text=True, check=False
        )
        if answer.returncode == 0 and answer.stdout.strip():
            return answer.stdout.strip()
    return platform.processor() or platform.machine()


def _cores() -> int:
    """Cores this process may use: the affinity mask where the system has one."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _accelerators() -> list[str]:
    import torch

    if torch.cuda.is_available():
        return [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return ["Apple GPU"] if torch.backends.mps.is_available() else []


@cache
def _facts() -> dict[str, Any]:
    import numpy as np
    import psutil
    import torch

    return {
        "system": platform.system(),
        "release": platform.release(),
        "arch": platform.machine(),
        "cpu": _cpu_model(),
        "cores": _cores(),
        "memory_gb": round(psutil.virtual_memory().total / 2**30),
        "accelerators": _accelerators(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
    }


def fingerprint(facts: dict[str, Any]) -> str:
    """Return 12 hex digits of the hardware part of a machine description; software versions do not change it."""
    hardware = {key: facts.get(key) for key in _HARDWARE}
    return hashlib.sha256(json.dumps(hardware, sort_keys=True).encode()).hexdigest()[:12]


def machine_name(facts: dict[str, Any]) -> str:
    """Return one line for humans, e.g. "AMD EPYC, 2 cores, 23 GB (Linux x86_64)"."""
    what = ", ".join(facts.get("accelerators") or [])
    cpu = f"{facts.get('cpu', 'unknown CPU')}, {facts.get('cores', '?')} cores, {facts.get('memory_gb', '?')} GB"
    return f"{what + ' · ' if what else ''}{cpu} ({facts.get('system', '?')} {facts.get('arch', '?')})"


def machine() -> dict[str, Any]:
    """Describe this machine and its present load.

    Returns
    -------
    dict
        system, release, arch, cpu, cores, memory_gb, accelerators, python, torch, numpy; `threads` torch uses;
        `load_average` over one minute (None where unknown); `id`, a fingerprint of the hardware entries, and `name`.
        No host name, user name or path is recorded.
    """
    import torch

    facts = dict(_facts())
    facts["threads"] = torch.get_num_threads()
    try:
        facts["load_average"] = round(os.getloadavg()[0], 2)
    except (AttributeError, OSError):
        facts["load_average"] = None
    facts["id"] = fingerprint(facts)
    facts["name"] = machine_name(facts)
    return facts


def _busy_seconds() -> float | None:
    """CPU seconds the whole machine spent working since boot, or None where the system does not say."""
    import psutil

    times = psutil.cpu_times()
    if sum(times) <= 0:  # some sandboxes show an all-zero /proc/stat
        return None
    # Linux counts guest time in user time as well; waiting for a disk is not work.
    waste = ("idle", "iowait", "guest", "guest_nice")
    return float(sum(times) - sum(getattr(times, name, 0.0) for name in waste))


def _own_usage() -> tuple[float, int]:
    """CPU seconds of this process and its finished children, and its involuntary context switches."""
    try:
        import resource
    except ImportError:  # Windows
        times = os.times()
        return times.user + times.system + times.children_user + times.children_system, 0
    own, children = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime
    return seconds, own.ru_nivcsw


class LoadProbe:
    """Measure contention between construction and `read`.

    Foreign CPU seconds are the machine's busy seconds minus this process's own (children included, once they have been
    waited for). The kernel counts busy time in ticks of 10 ms per core, so values of a few hundredths are rounding.

    Parameters
    ----------
    busy, own, now
        Sensors, injectable for tests: machine busy seconds (or None), own (seconds, involuntary switches), wall clock.
    cores
        Cores of the machine; /proc/stat counts them all, whatever the affinity of this process.
    """

    def __init__(
        self,
        *,
        busy: Callable[[], float | None] = _busy_seconds,
        own: Callable[[], tuple[float, int]] = _own_usage,
        now: Callable[[], float] = time.perf_counter,
        cores: int | None = None,
    ) -> None:
        self._busy, self._own, self._now = busy, own, now
        self._cores = cores or os.cpu_count() or 1
        self._start = (busy(), own(), now())

    def read(self) -> Load:
        """Return what happened since construction."""
        busy, (seconds, switches), now = self._busy(), self._own(), self._now()
        busy0, (seconds0, switches0), now0 = self._start
        foreign = None
        if busy is not None and busy0 is not None:
            foreign = max(0.0, (busy - busy0) - (seconds - seconds0))
        return Load(now - now0, self._cores, foreign, switches - switches0)
