"""What the machine is: processors we may use, memory we may use, caches, instruction sets, and which dtypes are fast.

Detection never initialises CUDA by itself: only `cuda_facts` and `mps_facts` ask an accelerator, and they are called
when somebody asks for that device's profile.
"""

from __future__ import annotations

import math
import os
import platform
import re
import subprocess
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ._cgroup import cpu_quota, memory_groups

__all__ = ["cpu_facts", "cuda_facts", "fast_on_cpu", "fast_on_cuda", "mps_facts"]

_KERNEL_WORDS = {
    "avx512f": "avx512_f",
    "avx512bw": "avx512_bw",
    "avx512cd": "avx512_cd",
    "avx512dq": "avx512_dq",
    "avx512vl": "avx512_vl",
    "avx512ifma": "avx512_ifma",
    "avx512vbmi": "avx512_vbmi",
    "fma": "fma3",
    "asimd": "neon",
    "fphp": "fp16_arith",
    "svebf16": "sve_bf16",
}
"""The kernel's names in /proc/cpuinfo where they differ from torch's."""

_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


def usable_cpus(root: Path = Path("/")) -> int:
    """Return how many processors this process may keep busy: affinity mask and control-group quota, rounded up."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = cpu_quota(root)
    return max(1, count if quota is None else min(count, math.ceil(quota)))


def usable_memory(root: Path = Path("/")) -> int:
    """Return bytes of memory this process may use: the machine's, or its control group's limit when tighter."""
    import psutil

    total = int(psutil.virtual_memory().total)
    return min([total, *(limit for limit, _ in memory_groups(root))])


def cpu_name(root: Path = Path("/")) -> str:
    """Return the processor's name as its maker writes it."""
    try:
        text = (root / "proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        text = ""
    found = re.search(r"^(?:model name|Hardware)\s*:\s*(\S.*)$", text, re.MULTILINE)
    if found:
        return found.group(1).strip()
    return _sysctl("machdep.cpu.brand_string") or platform.processor() or platform.machine() or "CPU"


def _sysctl(key: str) -> str:
    if platform.system() != "Darwin":
        return ""
    answer = subprocess.run(["/usr/sbin/sysctl", "-n", key], capture_output=True, text=True, check=False)
    return answer.stdout.strip() if answer.returncode == 0 else ""


def isa_flags(capabilities: Mapping[str, Any] | None = None, root: Path = Path("/")) -> tuple[str, ...]:
    """Return instruction-set names in torch's spelling, sorted.

    Parameters
    ----------
    capabilities
        What ``torch.cpu.get_capabilities()`` said; None asks it, and falls back to /proc/cpuinfo where this torch does
        not have it.
    root
        File system root, for tests.
    """
    known = _capabilities() if capabilities is None else capabilities
    flags = [name for name, value in known.items() if value is True]
    if flags:
        return tuple(sorted(flags))
    try:
        text = (root / "proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ()
    found = re.search(r"^(?:flags|Features)\s*:\s*(.*)$", text, re.MULTILINE)
    words = found.group(1).split() if found else []
    return tuple(sorted({_KERNEL_WORDS.get(word, word) for word in words}))


def _capabilities() -> Mapping[str, Any]:
    import torch

    ask = getattr(torch.cpu, "get_capabilities", None)
    try:
        return dict(ask()) if ask is not None else {}
    except RuntimeError:
        return {}


def cache_size(capabilities: Mapping[str, Any] | None = None, root: Path = Path("/")) -> int:
    """Return bytes of the largest cache the first processor sees (its last level), 0 when unknown."""
    sizes = []
    for path in (root / "sys/devices/system/cpu/cpu0/cache").glob("index*/size"):
        try:
            found = re.fullmatch(r"(\d+)([KMG]?)", path.read_text(encoding="ascii").strip())
        except OSError:
            continue
        if found:
            sizes.append(int(found.group(1)) * _UNITS[found.group(2)])
    known = _capabilities() if capabilities is None else capabilities
    sizes += [int(known[key]) for key in ("l3_cache_size", "l2_cache_size", "l1d_cache_size") if known.get(key)]
    if not sizes:
        sizes = [int(text) for text in map(_sysctl, ("hw.l3cachesize", "hw.l2cachesize")) if text.isdecimal()]
    return max(sizes, default=0)


def fast_on_cpu(isa: Iterable[str]) -> frozenset[str]:
    """Return the dtypes whose matrix products a CPU with these instructions runs at least as fast as float32.

    Present is not fast: torch multiplies float16 matrices on any CPU, 580 times slower than bfloat16 on one that lacks
    the instructions. On ARM, float16 stays off the list until somebody has measured it.
    """
    flags = set(isa)
    fast = {"fp32"}
    if flags & {"avx512_bf16", "amx_bf16", "sve_bf16"} or {"neon", "bf16"} <= flags:
        fast.add("bf16")
    if flags & {"avx512_fp16", "amx_fp16"}:
        fast.add("fp16")
    return frozenset(fast)


def fast_on_cuda(capability: tuple[int, int]) -> frozenset[str]:
    """Return the dtypes with matrix units on an NVIDIA GPU: fp16 since 7.0 (Volta), bf16 since 8.0 (Ampere)."""
    fast = {"fp32"}
    if capability >= (7, 0):
        fast.add("fp16")
    if capability >= (8, 0):
        fast.add("bf16")
    return frozenset(fast)


def cpu_facts(root: Path = Path("/")) -> dict[str, Any]:
    """Return a CPU's `DeviceProfile` fields. Half the usable memory is the recommended budget."""
    capabilities = _capabilities()
    isa = isa_flags(capabilities, root)
    memory = usable_memory(root)
    return {
        "kind": "cpu",
        "name": cpu_name(root),
        "compute_units": usable_cpus(root),
        "memory_bytes": memory,
        "recommended_budget_bytes": memory // 2,
        "fast": fast_on_cpu(isa),
        "isa": isa,
        "cache_bytes": cache_size(capabilities, root),
    }


def cuda_facts(index: int) -> dict[str, Any]:
    """Return an NVIDIA GPU's `DeviceProfile` fields. Four fifths of its memory is the recommended budget."""
    import torch

    properties = torch.cuda.get_device_properties(index)
    capability = (int(properties.major), int(properties.minor))
    memory = int(properties.total_memory)
    return {
        "kind": "cuda",
        "name": str(properties.name),
        "compute_units": int(properties.multi_processor_count),
        "memory_bytes": memory,
        "recommended_budget_bytes": memory * 4 // 5,
        "fast": fast_on_cuda(capability),
        "isa": (f"sm_{capability[0]}{capability[1]}",),
        "cache_bytes": int(getattr(properties, "L2_cache_size", 0)),
    }


def mps_facts() -> dict[str, Any]:
    """Return an Apple GPU's `DeviceProfile` fields. Metal's own recommended working set is the recommended budget."""
    import torch

    count = getattr(torch.backends.mps, "get_core_count", None)
    memory = usable_memory()
    return {
        "kind": "mps",
        "name": cpu_name(),
        "compute_units": int(count()) if count is not None else 1,
        "memory_bytes": memory,
        "recommended_budget_bytes": int(torch.mps.recommended_max_memory()),
        # bfloat16 is present from macOS 14 but the M1 emulates it: it is not called fast until measured.
        "fast": frozenset({"fp32", "fp16"}),
        "isa": ("metal",),
        "cache_bytes": 0,
    }
