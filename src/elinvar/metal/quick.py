"""Launches that are known to be right: the short way from a Python call to the driver.

The checked way (`launch.bind`, then the backend) says what is wrong with a call, and it is what every call means. Most
calls of a program repeat an earlier one with other memory, though, and a launch must cost microseconds. `Quick` accepts
a call only when cheap tests prove that the checked way would accept it and with which words; otherwise it declines and
the checked way runs, so the two never disagree, neither in results nor in messages.

Everything that depends on threads, group and stream is kept: the driver's configuration, and argument memory of which a
call overwrites only its own words. Memory in use by one call is never another's, so threads need no lock, and the
interpreter's own lock is released while the driver works.
"""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch

from elinvar.errors import ElinvarError

from .launch import Dims, Launch, accepted_dtypes, shaped
from .packing import pack
from .signature import Buffer, Signature

__all__ = ["Attribute", "Config", "Geometry", "Machine", "Quick", "Repeat"]

_HEAD = 24  # bytes of the three words in front of a kernel's own: the grid, and how it is laid out
_MOST_READY = 512
_NUMBERS = {
    "char": "b7x", "uchar": "B7x", "short": "h6x", "ushort": "H6x", "int": "i4x", "uint": "I4x", "long": "q",
    "ulong": "Q", "float": "f4x",
}  # fmt: skip
_PLAIN = frozenset(  # a struct's bytes may be any of these
    getattr(torch, name)
    for name in ("uint8", "int8", "int16", "int32", "int64", "float16", "bfloat16", "float32", "float64", "bool",
                 "uint16", "uint32", "uint64", "complex64")
)  # fmt: skip
_TENSORS = (torch.Tensor, torch.nn.Parameter)
_Tensor = torch.Tensor
_complex64 = torch.complex64


class Attribute(ctypes.Structure):
    """The driver's ``CUlaunchAttribute``: which, and a value of 64 bytes."""

    _fields_ = (("kind", ctypes.c_int), ("padding", ctypes.c_int), ("value", ctypes.c_int * 16))


class Config(ctypes.Structure):
    """The driver's ``CUlaunchConfig``."""

    _fields_ = (
        ("grid", ctypes.c_uint * 3),
        ("block", ctypes.c_uint * 3),
        ("shared", ctypes.c_uint),
        ("stream", ctypes.c_void_p),
        ("attributes", ctypes.c_void_p),
        ("count", ctypes.c_uint),
    )


_EARLY = Attribute(6, 0, (1,))  # CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION: allowed


@dataclass(frozen=True)
class Geometry:
    """What a launch's threads, group and buffers decide.

    Attributes
    ----------
    function
        The driver's.
    grid, group
        Groups of the grid, threads of a group.
    words
        The first three.
    early
        The function waits by itself for what came before (`cudaprogram`), and this driver and device may start it
        before that has ended.
    """

    function: int
    grid: tuple[int, int, int]
    group: tuple[int, int, int]
    words: tuple[int, int, int]
    early: bool = False


class Machine(Protocol):
    """What `Quick` needs of the device a kernel was compiled for."""

    def stream(self) -> int | None:
        """Return torch's current stream; None when another device is the current one."""

    def start(self, config: int, function: int, arguments: int, extra: None, /) -> int:
        """Launch; 0 when the driver took it."""

    def geometry(self, signature: Signature, launch: Launch, aliased: bool) -> Geometry:
        """Return how the checked way would launch."""

    def slots(self, signature: Signature) -> tuple[tuple[int, bool], ...]:
        """Return `cudaprogram.Entry.slots`."""


class _Slot:
    """Argument memory of one launch at a time, and the addresses of its words as the driver wants them."""

    __slots__ = ("keep", "memory", "pointers")

    def __init__(self, template: bytes, words: Sequence[int]) -> None:
        self.memory = ctypes.create_string_buffer(template, len(template))
        start = ctypes.addressof(self.memory)
        self.keep = (ctypes.c_void_p * len(words))(*(start + offset for offset in words))
        self.pointers = ctypes.addressof(self.keep)


@dataclass
class _Ready:
    """Everything about a launch except its own words."""

    function: int
    config: int
    template: bytes
    words: tuple[int, ...]
    keep: Config
    free: list[_Slot] = field(default_factory=list)

    def slot(self) -> _Slot:
        """Take memory that no other call uses."""
        try:
            return self.free.pop()
        except IndexError:
            return _Slot(self.template, self.words)


def _ready(made: Geometry, stream: int, size: int, fixed: bytes = b"") -> _Ready:
    config = Config(made.grid, made.group, 0, stream, ctypes.addressof(_EARLY) if made.early else None, int(made.early))
    template = struct.pack("<QQQ", *made.words) + bytes(size) + fixed
    return _Ready(made.function, ctypes.addressof(config), template, tuple(range(0, len(template), 8)), config)


@dataclass(frozen=True)
class _Recipe:
    """How one argument is tested and packed."""

    buffer: Buffer
    code: str
    dtypes: frozenset[torch.dtype]
    number: type | None
    size: int
    least: int
    mask: int
    by_value: bool


def _recipe(buffer: Buffer, by_value: bool) -> _Recipe | None:
    kind = buffer.type
    if kind is None:
        return None
    dtypes = frozenset(accepted_dtypes(buffer)) or _PLAIN
    if not by_value:
        least = kind.size if buffer.is_reference else 0
        return _Recipe(buffer, "Q", dtypes, None, kind.size, least, kind.align - 1, False)
    code = _NUMBERS.get(kind.scalar) if kind.kind == "scalar" else None
    number = None if code is None else float if kind.scalar == "float" else int
    return _Recipe(buffer, code or f"{-(-kind.size // 8) * 8}s", dtypes, number, kind.size, 0, 0, True)


class Quick:
    """The short way of one kernel.

    Parameters
    ----------
    signature
        The kernel's.
    device
        Where its tensors must be.
    machine
        What starts it.
    """

    def __init__(self, signature: Signature, device: torch.device, machine: Machine) -> None:
        self._signature, self._device, self._machine = signature, device, machine
        by_value = dict(machine.slots(signature))
        recipes = [_recipe(buffer, by_value[k]) for k, buffer in enumerate(signature.buffers)]
        self._recipes = [one for one in recipes if one is not None]
        self._plan = [
            (one.by_value, one.dtypes, one.mask, one.size, one.least, one.buffer.is_const, one.number, one.buffer)
            for one in self._recipes
        ]  # what is looked at in every call, as tuples: attributes cost more
        self._count = len(recipes) if None not in recipes else -1  # -1: no call has so many arguments
        order = [place for place, _ in machine.slots(signature)]
        self._order = None if order == sorted(order) else order
        codes = [self._recipes[k].code for k in order] if self._count >= 0 else []
        self._words = struct.Struct("<" + "".join(codes))
        self._pack_into = self._words.pack_into
        self._ready: dict[Any, _Ready] = {}
        self._start = machine.start

    def __call__(self, args: tuple[Any, ...], threads: Dims | None, group_size: Dims | None) -> bool:
        """Launch, or return False: then the checked way must be gone."""
        if len(args) != self._count:
            return False
        try:
            values: list[Any] = []
            aliased = self._values(args, values)
            stream = self._machine.stream()
            if aliased is None or stream is None:
                return False
            if threads is None:
                threads = next(a for a in args if isinstance(a, _Tensor)).numel()
            if not (_plain(threads) and _plain(group_size)):
                return False
            key = (threads, group_size, stream, aliased)
            ready = self._ready.get(key) or self._learn(key, threads, group_size, stream, aliased)
            if ready is None:
                return False
            if self._order is not None:
                values = [values[k] for k in self._order]
            slot = ready.slot()
            self._pack_into(slot.memory, _HEAD, *values)
            status = self._start(ready.config, ready.function, slot.pointers, None)
            ready.free.append(slot)
        except (ElinvarError, RuntimeError, TypeError, ValueError, OverflowError, StopIteration, struct.error):
            return False  # nothing was started: that is the last thing above that can fail
        return status == 0

    def _values(self, args: tuple[Any, ...], values: list[Any]) -> bool | None:
        """Fill in what is packed; tell whether a buffer that is only read overlaps a written one, None to decline."""
        reads: list[tuple[int, int]] = []
        writes: list[tuple[int, int]] = []
        device = self._device
        for arg, (by_value, dtypes, mask, unit, least, is_const, number, buffer) in zip(args, self._plan, strict=True):
            kind = type(arg)
            if kind in _TENSORS:
                if (
                    by_value
                    or arg.dtype not in dtypes
                    or arg.device != device
                    or not arg.is_contiguous()
                    or (address := arg.data_ptr()) & mask
                    or (size := arg.nbytes) % unit
                    or size < least
                    or (arg.dtype is _complex64 and arg.is_conj())
                    or (size <= 8 and arg.is_neg())  # contiguous, such a view has one element
                ):
                    return None
                (reads if is_const else writes).append((address, address + size))
                values.append(address)
            elif not by_value:
                return None
            elif number is not None:
                if kind is not number and not (kind is int and number is float):
                    return None
                values.append(arg)
            else:
                values.append(pack("", buffer, arg))
        if not reads:
            return False
        return any(a < end and start < b for a, b in reads for start, end in writes)

    def _learn(self, key: Any, threads: Dims, group_size: Dims | None, stream: int, aliased: bool) -> _Ready | None:
        """Check a geometry as the checked way does, and keep it."""
        grid, group = shaped(self._signature, threads, group_size)
        if 0 in grid:
            return None
        made = self._machine.geometry(self._signature, Launch(grid, group, ()), aliased)
        if len(self._ready) >= _MOST_READY:  # sizes that never come back must not pile up
            self._ready.clear()
        found = self._ready[key] = _ready(made, stream, self._words.size)
        return found

    def repeat(self, leading: int, trailing: bytes, threads: int, group_size: Dims | None) -> Repeat | None:
        """Return launches that differ only in their first arguments; the caller vouches for these.

        None where the last argument is too large for the launch itself: then it lies in device memory.

        Parameters
        ----------
        leading
            How many arguments change; they are the kernel's first, tensors and numbers.
        trailing
            The bytes of the one argument that follows.
        threads, group_size
            As for a call.

        Raises
        ------
        MetalLaunchError
            Threads or group size do not fit the kernel.
        """
        if not self._recipes[leading].by_value:
            return None
        grid, group = shaped(self._signature, threads, group_size)
        made = [self._machine.geometry(self._signature, Launch(grid, group, ()), one) for one in (False, True)]
        code = struct.Struct("<" + "".join(one.code for one in self._recipes[:leading]))
        trailing = trailing.ljust(-(-len(trailing) // 8) * 8, b"\0")
        return Repeat(self._machine, (made[0], made[1]), code, trailing)


class Repeat:
    """Launches of one geometry in which only the leading words change."""

    def __init__(self, machine: Machine, made: tuple[Geometry, Geometry], code: struct.Struct, trailing: bytes) -> None:
        self._machine, self._made, self._code, self._trailing = machine, made, code, trailing
        self._pack_into, self._start = code.pack_into, machine.start
        self._stream: Callable[[], int | None] = machine.stream
        self._ready: dict[tuple[int, bool], _Ready] = {}

    def __call__(self, values: Sequence[Any], aliased: bool) -> bool:
        """Launch with these addresses and numbers, or return False: then the checked way must be gone."""
        stream = self._stream()
        if stream is None:
            return False
        ready = self._ready.get((stream, aliased)) or self._learn(stream, aliased)
        try:
            slot = ready.free.pop()
        except IndexError:
            slot = ready.slot()
        try:
            self._pack_into(slot.memory, _HEAD, *values)
        except (struct.error, OverflowError):
            return False
        status = self._start(ready.config, ready.function, slot.pointers, None)
        ready.free.append(slot)
        return status == 0

    def _learn(self, stream: int, aliased: bool) -> _Ready:
        if len(self._ready) >= _MOST_READY:
            self._ready.clear()
        found = _ready(self._made[aliased], stream, self._code.size, self._trailing)
        self._ready[stream, aliased] = found
        return found


def _plain(value: object) -> bool:
    """Whether a number of threads is what it says: 1.0 and True equal 1 as keys, but are not accepted as it."""
    return value is None or type(value) is int or (type(value) is tuple and all(type(n) is int for n in value))
