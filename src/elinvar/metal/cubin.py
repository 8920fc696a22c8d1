"""What a Metal kernel costs on an NVIDIA GPU, without one: registers, shared memory, spills, theoretical occupancy."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from elinvar.errors import InputError

from .cudaprogram import compile_entries, entry
from .language import Defines, parse

__all__ = ["CubinReport", "KernelResources", "Multiprocessor", "build_cubin", "multiprocessor", "occupancy"]

_FUNCTION = re.compile(r"Compiling entry function '(\w+)'")
_STACK = re.compile(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads")
_USED = re.compile(r"Used (\d+) registers")
_SHARED = re.compile(r"(\d+) bytes smem")


@dataclass(frozen=True)
class Multiprocessor:
    """Limits of one multiprocessor (CUDA C++ Programming Guide, table of technical specifications)."""

    warps: int
    blocks: int
    shared_bytes: int
    reserved_shared: int = 1024
    registers: int = 65536


_LIMITS = {
    75: Multiprocessor(32, 16, 64 * 1024, 0),
    80: Multiprocessor(64, 32, 164 * 1024),
    86: Multiprocessor(48, 16, 100 * 1024),
    87: Multiprocessor(48, 16, 164 * 1024),
    89: Multiprocessor(48, 24, 100 * 1024),
    90: Multiprocessor(64, 32, 228 * 1024),
    100: Multiprocessor(64, 32, 228 * 1024),
    120: Multiprocessor(48, 24, 100 * 1024),
}


def multiprocessor(arch: str) -> Multiprocessor:
    """Return the limits for ``"sm_90"`` and its like; those of the newest known older architecture where unlisted."""
    number = int(re.sub(r"\D", "", arch) or 0)
    known = [key for key in _LIMITS if key <= number]
    if not known:
        raise InputError(f"[metal] no limits are known for architecture {arch!r}; give sm_75 or newer")
    return _LIMITS[max(known)]


def occupancy(registers: int, shared_bytes: int, group_size: int, limits: Multiprocessor) -> float:
    """Return the fraction of a multiprocessor's warps that can be resident.

    Parameters
    ----------
    registers
        Per thread.
    shared_bytes
        Per group.
    group_size
        Threads per group.
    limits
        From `multiprocessor`.

    Notes
    -----
    Registers are given to warps in units of 256, a quarter of the file to each of the four schedulers; shared memory to
    groups in units of 128 bytes (CUDA occupancy calculator).
    """
    warps = -(-group_size // 32)
    by_warp = -(-max(registers, 1) * 32 // 256) * 256
    groups = min(limits.blocks, limits.warps // warps, limits.registers // 4 // by_warp * 4 // warps)
    shared = -(-(shared_bytes + limits.reserved_shared) // 128) * 128
    if shared:
        groups = min(groups, limits.shared_bytes // shared)
    return groups * warps / limits.warps


@dataclass(frozen=True)
class KernelResources:
    """What one kernel takes.

    Attributes
    ----------
    registers
        Per thread.
    shared_bytes
        Threadgroup memory per group.
    spill_bytes
        Registers that did not fit, stored and loaded, per thread; 0 in every shipped kernel.
    stack_bytes
        Local memory per thread: arrays indexed at run time.
    group_size
        Threads per group that `occupancy` is for.
    occupancy
        Theoretical, from 0 to 1.
    """

    registers: int
    shared_bytes: int
    spill_bytes: int
    stack_bytes: int
    group_size: int
    occupancy: float


@dataclass(frozen=True)
class CubinReport:
    """Resources of every kernel of a source, for one architecture."""

    arch: str
    kernels: dict[str, KernelResources]

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        return asdict(self)

    def __str__(self) -> str:
        head = f"{'kernel':32} {'threads':>7} {'registers':>9} {'shared B':>9} {'spill B':>8} {'stack B':>8} occupancy"
        rows = [
            f"{name:32} {k.group_size:7d} {k.registers:9d} {k.shared_bytes:9d} {k.spill_bytes:8d} {k.stack_bytes:8d} "
            f"{k.occupancy:8.0%}"
            for name, k in self.kernels.items()
        ]
        return "\n".join([head, *rows])


def build_cubin(
    source: str | Path,
    arch: str = "sm_90",
    defines: Defines | None = None,
    *,
    group_size: int | Mapping[str, int] | None = None,
) -> CubinReport:
    """Compile a Metal source for an NVIDIA GPU that need not be there, and report what its kernels take.

    Parameters
    ----------
    source, defines
        As for `elinvar.metal.compile`.
    arch
        ``"sm_90"`` is Hopper.
    group_size
        Threads per group for the occupancy, one number or one per kernel; 256, or less where a kernel's
        ``max_total_threads_per_threadgroup`` says so, by default.

    Returns
    -------
    CubinReport

    Raises
    ------
    MetalSyntaxError
        The source does not compile.
    MissingDependency
        NVRTC is not installed: ``pip install nvidia-cuda-nvrtc``.
    """
    parsed = parse(source, defines)
    limits = multiprocessor(arch)
    entries = [entry(parsed, name) for name in parsed.kernels]
    program = compile_entries(parsed, entries, arch)
    measured = _parse_log(program.log)
    kernels: dict[str, KernelResources] = {}
    for made in entries:
        name = made.signature.name
        chosen = group_size.get(name) if isinstance(group_size, Mapping) else group_size
        threads = int(chosen) if chosen else min(256, made.signature.max_threads or 256)
        registers, shared, spills, stack = measured[made.symbol]
        kernels[name] = KernelResources(
            registers, shared, spills, stack, threads, occupancy(registers, shared, threads, limits)
        )
    return CubinReport(arch, kernels)


def _parse_log(log: str) -> dict[str, tuple[int, int, int, int]]:
    """Return (registers, shared, spill, stack) by entry point from the assembler's ``-v`` report."""
    found: dict[str, tuple[int, int, int, int]] = {}
    pieces = _FUNCTION.split(log)
    for symbol, text in zip(pieces[1::2], pieces[2::2], strict=True):
        used, shared, stack = _USED.search(text), _SHARED.search(text), _STACK.search(text)
        frame, stores, loads = (int(number) for number in stack.groups()) if stack else (0, 0, 0)
        found[symbol] = (int(used[1]) if used else 0, int(shared[1]) if shared else 0, stores + loads, frame)
    return found
