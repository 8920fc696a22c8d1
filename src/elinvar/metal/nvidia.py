"""Metal on NVIDIA GPUs: translated, compiled by NVRTC, launched on torch's current stream, on torch's own memory.

Tensors are passed as addresses, constants as 64-bit words in the launch itself. Buffers that a kernel only reads are
declared ``__restrict__``, which lets the compiler load them through the read-only cache; a launch in which such a
buffer overlaps one that is written gets a second version of the kernel without that promise, compiled when it is first
needed.
"""

from __future__ import annotations

import struct
import threading
from collections.abc import Callable
from dataclasses import dataclass

import torch

from elinvar.errors import MetalLaunchError

from .backends import Constants, fitting_group
from .cudacore import Module, api, current_stream, driver_version, launcher, stream_here
from .cudaprogram import Entry, by_value, compile_entries, entry
from .language import Source
from .launch import SIMD_WIDTH, Launch, Library, Limits
from .quick import Geometry, Quick
from .signature import Signature

__all__ = ["NvidiaBackend", "arguments", "geometry", "load", "overlapping"]

_EARLY_DRIVER = 12030  # the first whose graphs can hold launches that begin before their predecessors end
_MOST_Y = 65535
_MOST_X = 2**31 - 1
_MOST_Z_THREADS = 64
_NONE: frozenset[int] = frozenset()
_FLAT, _EXACT = 1, 2  # how a grid is laid out: all groups along x; no group reaches beyond the grid
Address = Callable[[bytes], int]


@dataclass(frozen=True)
class _Bound:
    """An entry point in loaded code, with the places of its arguments."""

    module: Module
    entry: Entry


class NvidiaBackend:
    """Runs the kernels of one source on one CUDA device.

    Parameters
    ----------
    source
        From `elinvar.metal.language.parse`.
    device
        ``torch.device("cuda", n)``.

    Raises
    ------
    MissingDependency
        cuda-core or NVRTC is not installed.
    MetalSyntaxError
        The source does not compile.
    """

    def __init__(self, source: Source, device: torch.device) -> None:
        api()
        self._source = source
        self._index = device.index if device.index is not None else torch.cuda.current_device()
        self._device = torch.device("cuda", self._index)
        major, minor = torch.cuda.get_device_capability(self._index)
        self._arch = f"sm_{major}{minor}"
        self._early = major >= 9 and driver_version() >= _EARLY_DRIVER
        self._lock = threading.Lock()
        self._constants = Constants()
        self._limits: dict[str, Limits] = {}
        self._bound: dict[tuple[str, bool, frozenset[int]], _Bound] = {}
        entries = [entry(source, name) for name in source.kernels]
        module = self._load(entries)
        for made in entries:
            self._bound[made.signature.name, False, _NONE] = _Bound(module, made)

    def _load(self, entries: list[Entry]) -> Module:
        program = compile_entries(self._source, entries, self._arch)
        return Module(program.code, is_ptx=program.is_ptx, index=self._index)

    def _variant(self, name: str, aliased: bool, pointers: frozenset[int]) -> _Bound:
        key = (name, aliased, pointers)
        found = self._bound.get(key)
        if found is None:
            with self._lock:
                found = self._bound.get(key)
                if found is None:
                    made = entry(self._source, name, aliased=aliased, pointers=pointers)
                    found = self._bound[key] = _Bound(self._load([made]), made)
        return found

    def limits(self, signature: Signature) -> Limits:
        """Return what the compiled kernel allows on this device."""
        found = self._limits.get(signature.name)
        if found is None:
            bound = self._variant(signature.name, False, _NONE)
            most = bound.module.attribute(bound.entry.symbol, "max_threads_per_block")
            shared = bound.module.attribute(bound.entry.symbol, "shared_size_bytes")
            found = self._limits[signature.name] = Limits(most, SIMD_WIDTH, shared)
        return found

    def run(self, signature: Signature, launch: Launch) -> None:
        """Start a checked launch on torch's current stream."""
        group = fitting_group(signature, launch.group, self.limits(signature).max_threads)
        grid, laid = geometry(signature.name, launch.threads, group)
        bound = self._variant(signature.name, overlapping(signature, launch), by_address(signature, launch))
        stream = current_stream(self._index)
        held: list[torch.Tensor] = []

        def address(data: bytes) -> int:
            held.append(self._constants.tensor(data, self._device))
            return held[-1].data_ptr()

        given = arguments(bound.entry, launch, laid=laid, address=address)
        bound.module.launch(bound.entry.symbol, stream, grid, group, given)

    def quick(self, signature: Signature) -> Quick | None:
        """Return the short way of a kernel; None where the driver cannot be called directly."""
        start = launcher()
        return None if start is None else Quick(signature, self._device, _Direct(self, start))

    def direct(self, signature: Signature, launch: Launch, aliased: bool) -> Geometry:
        """Return what a launch whose buffers are all plain is started with."""
        group = fitting_group(signature, launch.group, self.limits(signature).max_threads)
        grid, laid = geometry(signature.name, launch.threads, group)
        bound = self._variant(signature.name, aliased, _NONE)
        function = bound.module.function(bound.entry.symbol)
        return Geometry(function, grid, group, head(launch.threads, laid), bound.entry.early and self._early)

    def slots(self, signature: Signature) -> tuple[tuple[int, bool], ...]:
        """Return where an entry point's arguments stand among the kernel's buffers, and which are values."""
        return self._bound[signature.name, False, _NONE].entry.slots

    @property
    def index(self) -> int:
        """The CUDA device's number."""
        return self._index


class _Direct:
    """A backend as `Quick` sees it."""

    def __init__(self, backend: NvidiaBackend, start: Callable[..., int]) -> None:
        self.stream = stream_here(backend.index)
        self.start = start
        self.geometry = backend.direct
        self.slots = backend.slots


def geometry(name: str, threads: tuple[int, int, int], group: tuple[int, int, int]) -> tuple[tuple[int, int, int], int]:
    """Return CUDA's grid of groups, and how it is laid out.

    It lies flat along x when y or z has more than 65 535 groups; a grid of whole groups needs no check of its borders.

    Raises
    ------
    MetalLaunchError
        CUDA has no such grid.
    """
    x, y, z = (-(-n // g) for n, g in zip(threads, group, strict=True))
    if group[2] > _MOST_Z_THREADS:
        raise MetalLaunchError(
            f"[{name}] group_size {group} has {group[2]} threads along z; CUDA allows {_MOST_Z_THREADS}"
        )
    flat = y > _MOST_Y or z > _MOST_Y
    if (x * y * z if flat else x) > _MOST_X:
        raise MetalLaunchError(f"[{name}] {threads} threads in groups of {group} are {x * y * z} groups; CUDA allows "
                               f"{_MOST_X}: use larger groups or several launches")  # fmt: skip
    exact = all(n % g == 0 for n, g in zip(threads, group, strict=True))
    return ((x * y * z, 1, 1) if flat else (x, y, z)), _FLAT * flat | _EXACT * exact


def head(threads: tuple[int, int, int], laid: int) -> tuple[int, int, int]:
    """Return the three words in front of a kernel's own."""
    x, y, z = threads
    return x | y << 32, z, laid


def by_address(signature: Signature, launch: Launch) -> frozenset[int]:
    """Return the indices of ``constant T&`` arguments for which a tensor was passed instead of a value."""
    found = [
        buffer.index
        for buffer, value in zip(signature.buffers, launch.values, strict=True)
        if buffer.is_reference and isinstance(value, torch.Tensor) and by_value(buffer) is not None
    ]
    return frozenset(found) if found else _NONE


def overlapping(signature: Signature, launch: Launch) -> bool:
    """Tell whether some buffer the kernel only reads shares memory with one it may write."""
    reads: list[tuple[int, int]] = []
    writes: list[tuple[int, int]] = []
    for buffer, value in zip(signature.buffers, launch.values, strict=True):
        if isinstance(value, torch.Tensor):
            start = value.data_ptr()
            (reads if buffer.is_const else writes).append((start, start + value.nbytes))
    return any(a < end and start < b for a, b in reads for start, end in writes)


def words(data: bytes) -> tuple[int, ...]:
    """Return bytes as 64-bit words, the last padded with zeros; signed, because that is how cuda-core takes them."""
    count = -(-len(data) // 8)
    return struct.unpack(f"<{count}q", data.ljust(count * 8, b"\0"))


def arguments(made: Entry, launch: Launch, *, laid: int, address: Address) -> list[int]:
    """Return what an entry point is called with, in its order.

    Parameters
    ----------
    made
        The entry point.
    launch
        A checked launch.
    laid
        How the grid is laid out, from `geometry`.
    address
        Gives the device address of a copy of some bytes.
    """
    first, *others = head(launch.threads, laid)
    given = [first if first < 2**63 else first - 2**64, *others]
    for position, in_words in made.slots:
        value = launch.values[position]
        if isinstance(value, torch.Tensor):
            given.append(value.data_ptr())
        elif in_words:
            given.extend(words(value))
        else:
            given.append(address(value))
    return given


def load(source: Source, device: torch.device) -> Library:
    """Compile a parsed source for a CUDA device."""
    return Library(source.kernels, NvidiaBackend(source, device), device)
