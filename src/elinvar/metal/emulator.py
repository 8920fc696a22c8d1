"""The Metal emulator: runs kernels on the CPU to find out whether they are right, not to be fast.

Every GPU thread is a fibre; threadgroups run one after the other on the calling processor thread. A barrier or simd
operation that only part of its threads reach, a race (``races=True``), an access outside a buffer
(``sanitize=True``), a division by zero or a shuffle from a lane that does not exist raise `MetalLaunchError` with the
kernel, the threads and the source lines.

What it cannot see: timing, occupancy and register limits; relaxed memory effects between groups, since groups run one
after the other (the race detector reports the accesses that could show them); Apple's own compiler's opinions.
"""

from __future__ import annotations

import ctypes
import threading
from functools import cache
from pathlib import Path
from typing import Literal

import torch

from elinvar.errors import InputError

from .emulator_build import Build, Mode, make
from .emulator_report import Place, fault_error
from .emulator_sanitize import run_sanitized
from .language import Source
from .launch import MAX_GROUP, SIMD_WIDTH, Launch, Library, Limits
from .signature import Signature

__all__ = ["Emulator", "load"]

Schedule = Literal["forward", "reverse", "random"]
SCHEDULES: dict[Schedule, int] = {"forward": 0, "reverse": 1, "random": 2}
_ALIGNED = 64


class _Range(ctypes.Structure):
    _fields_ = (("start", ctypes.c_ulong), ("size", ctypes.c_ulong))


class _Launch(ctypes.Structure):
    _fields_ = (
        ("buffers", ctypes.POINTER(ctypes.c_void_p)),
        ("ranges", ctypes.POINTER(_Range)),
        ("range_count", ctypes.c_uint),
        ("grid", ctypes.c_uint * 3),
        ("group", ctypes.c_uint * 3),
        ("fibres", ctypes.c_uint),
        ("schedule", ctypes.c_uint),
        ("seed", ctypes.c_ulong),
    )


class _Entry(ctypes.Structure):
    _fields_ = (("name", ctypes.c_char_p), ("body", ctypes.c_void_p))


_FAULT_BYTES = 512  # sizeof(elinvar_fault) with room to spare


class Emulator:
    """Runs the kernels of one source; a backend of `elinvar.metal.launch.Library`.

    Parameters
    ----------
    source
        What to run.
    mode
        ``"plain"``, ``"races"`` or ``"sanitize"``.
    schedule, seed
        The order of threads within a group and of groups.
    """

    def __init__(self, source: Source, mode: Mode, schedule: Schedule, seed: int) -> None:
        self.source = source
        self.build: Build = make(source, mode)
        self.schedule = SCHEDULES[schedule]
        self.seed = seed
        # One launch of a library at a time: where its threadgroup variables lie is remembered in the library.
        self._lock = _lock(self.build.path)
        self._bodies: dict[str, int] = {}
        self._library: ctypes.CDLL | None = None
        if mode != "sanitize":
            try:
                self._library = _open(self.build.path)
            except OSError:  # from another system that shares this cache, or damaged: build it here
                self.build.path.unlink(missing_ok=True)
                self.build = make(source, mode)
                self._library = _open(self.build.path)
            entries = (_Entry * (len(source.kernels) + 1)).in_dll(self._library, "elinvar_kernels")
            self._bodies = {entry.name.decode(): entry.body for entry in entries if entry.name}

    def limits(self, signature: Signature) -> Limits:
        """Return Metal's own limits; threadgroup memory as declared (0 when only a compiler can tell)."""
        return Limits(signature.max_threads or MAX_GROUP, SIMD_WIDTH, signature.threadgroup_bytes or 0)

    def run(self, signature: Signature, launch: Launch) -> None:
        """Run a checked launch to its end.

        Raises
        ------
        MetalLaunchError
            For what the emulator finds wrong with the kernel.
        """
        place = Place(signature, self.source, self.build, launch)
        if self._library is None:
            run_sanitized(place, self.schedule, self.seed)
            return
        constants, pointers = _pointers(signature, launch)
        request = _Launch(
            buffers=ctypes.cast(pointers, ctypes.POINTER(ctypes.c_void_p)),
            grid=launch.threads,
            group=launch.group,
            fibres=int(signature.needs_group),
            schedule=self.schedule,
            seed=self.seed & (2**64 - 1),
        )
        if self.build.mode == "races":
            ranges = _writable(signature, launch)
            request.ranges = ranges
            request.range_count = len(ranges)
        fault = ctypes.create_string_buffer(_FAULT_BYTES)
        with self._lock:
            kind = self._library.elinvar_run(
                ctypes.byref(request), ctypes.c_void_p(self._bodies[signature.name]), ctypes.byref(fault)
            )
        del constants
        if kind:
            text = ctypes.create_string_buffer(4096)
            length = self._library.elinvar_describe(ctypes.byref(fault), text, ctypes.c_ulong(len(text)))
            raise fault_error(text.raw[:length].decode(errors="replace"), place)


@cache
def _lock(_path: Path) -> threading.Lock:
    return threading.Lock()


@cache
def _open(path: Path) -> ctypes.CDLL:
    return ctypes.CDLL(str(path))


def _pointers(signature: Signature, launch: Launch) -> tuple[torch.Tensor, ctypes.Array[ctypes.c_void_p]]:
    """Return storage for the constants and the table of every buffer's address."""
    sizes = [-(-len(v) // _ALIGNED) * _ALIGNED if isinstance(v, bytes) else 0 for v in launch.values]
    storage = torch.empty(sum(sizes) + _ALIGNED, dtype=torch.uint8, device="cpu")
    at = -(-storage.data_ptr() // _ALIGNED) * _ALIGNED
    table = (ctypes.c_void_p * 32)()
    for buffer, value, size in zip(signature.buffers, launch.values, sizes, strict=True):
        if isinstance(value, bytes):
            ctypes.memmove(at, value, len(value))
            table[buffer.index] = at
            at += size
        else:
            table[buffer.index] = value.data_ptr()
    return storage, table


def _writable(signature: Signature, launch: Launch) -> ctypes.Array[_Range]:
    """Return the memory the kernel may write, overlapping buffers merged: no race can be anywhere else."""
    spans = sorted(
        (value.data_ptr(), value.data_ptr() + value.numel() * value.element_size())
        for buffer, value in zip(signature.buffers, launch.values, strict=True)
        if isinstance(value, torch.Tensor) and not buffer.is_const and value.numel()
    )
    merged: list[tuple[int, int]] = []
    for start, end in spans:
        if merged and start < merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((start, end))
    return (_Range * len(merged))(*[_Range(start, end - start) for start, end in merged])


def load(source: Source, *, sanitize: bool, schedule: Schedule, seed: int, races: bool) -> Library:
    """Compile a parsed source for the emulator.

    Parameters
    ----------
    source
        From `elinvar.metal.parse`.
    sanitize, schedule, seed, races
        As `elinvar.metal.compile`.
    """
    if sanitize and races:
        raise InputError("[metal.compile] sanitize and races instrument the same accesses; ask for one at a time")
    mode: Mode = "sanitize" if sanitize else "races" if races else "plain"
    return Library(source.kernels, Emulator(source, mode, schedule, seed), torch.device("cpu"))
