"""Launching a kernel: the checks and casts that are the same on every device.

`bind` turns what a caller wrote into a `Launch` in which every buffer is a tensor that fits or bytes of the right size,
or raises `MetalLaunchError` with the kernel, the argument, what it met and what is accepted. A backend gets only
launches that passed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import torch

from elinvar.errors import MetalLaunchError

from .packing import CONSTANT_BYTES, pack
from .signature import Attribute, Buffer, Signature

if TYPE_CHECKING:
    from .quick import Quick

__all__ = [
    "SIMD_WIDTH",
    "Backend",
    "Dims",
    "Kernel",
    "Launch",
    "Library",
    "Limits",
    "accepted_dtypes",
    "bind",
    "shaped",
]

SIMD_WIDTH = 32
MAX_GROUP = 1024
_MAX_GRID = 2**32 - 1
_HOST_ALIGN = 16  # what every allocator of a CPU's memory gives, and all that its compiler assumes
_DEFAULT_GROUP = {1: (256, 1, 1), 2: (32, 8, 1), 3: (32, 8, 1)}
Dims = int | Sequence[int]

# Integer tensors are taken by width: torch has few operations on its unsigned types, so int32 tensors hold uints.
_DTYPES: dict[str, tuple[torch.dtype, ...]] = {
    "bool": (torch.bool,),
    "char": (torch.int8, torch.uint8),
    "uchar": (torch.uint8, torch.int8),
    "short": (torch.int16, torch.uint16),
    "ushort": (torch.uint16, torch.int16),
    "int": (torch.int32, torch.uint32),
    "uint": (torch.uint32, torch.int32),
    "long": (torch.int64, torch.uint64),
    "ulong": (torch.uint64, torch.int64),
    "half": (torch.float16,),
    "bfloat": (torch.bfloat16,),
    "float": (torch.float32,),
}


@dataclass(frozen=True)
class Launch:
    """A launch that passed every check.

    Attributes
    ----------
    threads, group
        Threads of the grid and of one threadgroup, three numbers each.
    values
        What each of ``signature.buffers`` gets, in that order: a tensor on the kernel's device, or a constant's bytes.
    """

    threads: tuple[int, int, int]
    group: tuple[int, int, int]
    values: tuple[torch.Tensor | bytes, ...]

    @property
    def groups(self) -> tuple[int, int, int]:
        """Threadgroups along each axis; the last one of an axis may reach beyond `threads`."""
        x, y, z = (-(-n // g) for n, g in zip(self.threads, self.group, strict=True))
        return x, y, z

    @property
    def empty(self) -> bool:
        """True when there is no thread, and so nothing to do."""
        return 0 in self.threads


@dataclass(frozen=True)
class Limits:
    """What a compiled kernel allows.

    Attributes
    ----------
    max_threads
        Most threads in a threadgroup.
    width
        Threads in a simdgroup.
    threadgroup_bytes
        Bytes of threadgroup memory the kernel declares.
    """

    max_threads: int
    width: int
    threadgroup_bytes: int


class Backend(Protocol):
    """One way to run compiled kernels."""

    def run(self, signature: Signature, launch: Launch) -> None:
        """Start a checked launch; asynchronous where the device is."""

    def limits(self, signature: Signature) -> Limits:
        """Return what the compiled kernel allows."""


class Kernel:
    """One kernel of a compiled library; call it as ``torch.mps.compile_shader``'s kernels are called.

    Parameters
    ----------
    signature
        What it takes.
    backend
        What runs it.
    device
        Where its tensors must be.
    """

    def __init__(self, signature: Signature, backend: Backend, device: torch.device) -> None:
        self.signature = signature
        self.device = device
        self._backend = backend
        short = getattr(backend, "quick", None)  # only where a launch is cheap enough for the checks to count
        self.quick: Quick | None = None if short is None else short(signature)

    def __repr__(self) -> str:
        return f"<Metal kernel {self.signature.name} on {self.device}>"

    @property
    def max_threads_per_threadgroup(self) -> int:
        """Most threads in one threadgroup of this kernel."""
        return self._backend.limits(self.signature).max_threads

    @property
    def thread_execution_width(self) -> int:
        """Threads in a simdgroup: 32."""
        return self._backend.limits(self.signature).width

    @property
    def static_thread_group_memory_length(self) -> int:
        """Bytes of threadgroup memory the kernel declares."""
        return self._backend.limits(self.signature).threadgroup_bytes

    def __call__(self, *args: Any, threads: Dims | None = None, group_size: Dims | None = None) -> None:
        """Run the kernel.

        Parameters
        ----------
        args
            One value for each buffer of the kernel, in the order of their indices. A tensor for any buffer; for what
            the kernel cannot write also a number, a sequence of numbers, bytes, or a mapping for a struct.
        threads
            Threads of the grid, a number or up to three; by default the number of elements of the first tensor.
        group_size
            Threads of a threadgroup, as many numbers as `threads` has. Required by kernels that use threadgroup memory,
            barriers, simd operations or a position in their group; chosen here for others.

        Raises
        ------
        MetalLaunchError
            Before anything runs, when arguments, threads or group size do not fit the kernel.
        """
        if self.quick is not None and self.quick(args, threads, group_size):
            return
        launch = bind(self.signature, args, threads, group_size, self.device)
        if not launch.empty:
            self._backend.run(self.signature, launch)


class Library:
    """Compiled Metal: its kernels are attributes.

    Parameters
    ----------
    kernels
        Every kernel's signature by name.
    backend
        What runs them.
    device
        The device it was compiled for.
    """

    def __init__(self, kernels: dict[str, Signature], backend: Backend, device: torch.device) -> None:
        self._kernels = {name: Kernel(signature, backend, device) for name, signature in kernels.items()}
        self._device = device
        # As attributes of the object they are found in a tenth of the time that __getattr__ takes.
        self.__dict__.update(
            {k: v for k, v in self._kernels.items() if not k.startswith("_") and not hasattr(Library, k)}
        )

    @property
    def kernels(self) -> tuple[str, ...]:
        """Names of the kernels, in the order of the source."""
        return tuple(self._kernels)

    @property
    def device(self) -> torch.device:
        """The device this library was compiled for."""
        return self._device

    def signature(self, name: str) -> Signature:
        """Return what a kernel takes and needs."""
        return self._kernel(name).signature

    def _kernel(self, name: str) -> Kernel:
        try:
            return self._kernels[name]
        except KeyError:
            known = ", ".join(self._kernels)
            raise MetalLaunchError(f"[metal] this library has no kernel {name!r}; it has {known}") from None

    def __getitem__(self, name: str) -> Kernel:
        return self._kernel(name)

    def __getattr__(self, name: str) -> Kernel:
        if name.startswith("_") or name not in self._kernels:
            known = ", ".join(self._kernels) if not name.startswith("_") else ""
            raise AttributeError(f"this Metal library has no kernel {name!r}; it has {known}")
        return self._kernels[name]

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *self._kernels})

    def __repr__(self) -> str:
        return f"<Metal library for {self._device}: {', '.join(self._kernels)}>"


def bind(
    signature: Signature,
    args: Sequence[Any],
    threads: Dims | None,
    group_size: Dims | None,
    device: torch.device,
) -> Launch:
    """Check and cast a call's arguments.

    Parameters
    ----------
    signature
        The kernel's.
    args, threads, group_size
        As `Kernel.__call__` takes them.
    device
        Where every tensor must be.

    Raises
    ------
    MetalLaunchError
        For the first thing that does not fit.
    """
    name = signature.name
    if len(args) != len(signature.buffers):
        wanted = ", ".join(buffer.name for buffer in signature.buffers) or "none"
        raise MetalLaunchError(f"[{name}] {len(args)} arguments given, {len(signature.buffers)} needed: {wanted}")
    values = tuple(_value(name, buffer, arg, device) for buffer, arg in zip(signature.buffers, args, strict=True))
    if sum(len(v) for v in values if isinstance(v, bytes)) > CONSTANT_BYTES * len(values):
        raise MetalLaunchError(f"[{name}] its constants are too large; pass tensors")
    if threads is None:
        first = next((v for v in values if isinstance(v, torch.Tensor)), None)
        if first is None:
            raise MetalLaunchError(f"[{name}] threads= is needed when no argument is a tensor")
        threads = first.numel()
    return Launch(*shaped(signature, threads, group_size), values)


def shaped(
    signature: Signature, threads: Dims, group_size: Dims | None
) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
    """Return the checked numbers of threads in the grid and in a group.

    Raises
    ------
    MetalLaunchError
        They do not fit the kernel.
    """
    grid, rank = _dims(signature.name, "threads", threads)
    _check_ushort(signature, grid)
    return grid, _group(signature, grid, rank, group_size)


def _label(buffer: Buffer) -> str:
    return f"argument {buffer.name} (buffer {buffer.index})"


def _value(kernel: str, buffer: Buffer, arg: Any, device: torch.device) -> torch.Tensor | bytes:
    if isinstance(arg, torch.Tensor):
        _check_tensor(kernel, buffer, arg, device)
        return arg
    if not buffer.is_const:
        what = buffer.type_name
        raise MetalLaunchError(
            f"[{kernel}] {_label(buffer)} is written to as {what}*, so it takes a tensor, not {_say(arg)}"
        )
    return pack(f"[{kernel}] {_label(buffer)}", buffer, arg)


def _say(arg: Any) -> str:
    text = repr(arg)
    return f"{type(arg).__name__} {text}" if len(text) < 40 else f"a {type(arg).__name__}"


# ---- tensors --------------------------------------------------------------------------------------------------------
def _check_tensor(kernel: str, buffer: Buffer, tensor: torch.Tensor, device: torch.device) -> None:
    where = f"[{kernel}] {_label(buffer)}"
    if tensor.layout != torch.strided or tensor.is_quantized:
        raise MetalLaunchError(f"{where} is a {tensor.layout} tensor; a dense one is needed")
    if tensor.device.type != device.type or (device.index or 0) != (tensor.device.index or 0):
        raise MetalLaunchError(
            f"{where} is on {tensor.device}, the kernel on {device}; move it with .to({str(device)!r})"
        )
    if not tensor.is_contiguous():
        raise MetalLaunchError(
            f"{where} has shape {tuple(tensor.shape)} and strides {tensor.stride()}; a kernel sees plain "
            "memory, so pass a contiguous tensor (.contiguous() makes one)"
        )
    if tensor.is_conj() or tensor.is_neg():
        what, way = ("conjugated", "conj") if tensor.is_conj() else ("negated", "neg")
        raise MetalLaunchError(
            f"{where} is a view of memory still to be {what}, and a kernel sees the memory; pass .resolve_{way}() of it"
        )
    kind = buffer.type
    _check_dtype(where, buffer, tensor)
    if kind is None:
        return
    size = tensor.numel() * tensor.element_size()
    if buffer.is_reference and size < kind.size:
        raise MetalLaunchError(f"{where} has {size} bytes; one {kind.name} has {kind.size}")
    if size % kind.size:
        hint = " (a three-component vector occupies four; packed_ ones three)" if kind.count == 3 else ""
        raise MetalLaunchError(
            f"{where} has {size} bytes, which is not a whole number of {kind.name}, {kind.size} bytes each{hint}"
        )
    offset = tensor.storage_offset() * tensor.element_size() if device.type == "mps" else tensor.data_ptr()
    align = min(kind.align, _HOST_ALIGN) if device.type == "cpu" else kind.align
    if offset % align:
        raise MetalLaunchError(
            f"{where} starts {offset % align} bytes off the {align}-byte alignment of {kind.name}; "
            "pass a tensor that starts its own storage (.clone() makes one)"
        )


def accepted_dtypes(buffer: Buffer) -> tuple[torch.dtype, ...]:
    """Return the dtypes of a tensor for a buffer; none for what takes any: structs are bytes."""
    kind = buffer.type
    if kind is None or not kind.scalar:
        return ()
    if kind.kind == "atomic" and kind.scalar == "bool":
        return torch.int32, torch.uint32
    if kind.kind in {"vector", "packed"} and kind.scalar == "float" and kind.count == 2:
        return (*_DTYPES[kind.scalar], torch.complex64)
    return _DTYPES[kind.scalar]


def _check_dtype(where: str, buffer: Buffer, tensor: torch.Tensor) -> None:
    accepted = accepted_dtypes(buffer)
    if accepted and tensor.dtype not in accepted:
        names = " or ".join(str(dtype) for dtype in accepted)
        kind = "" if buffer.type is None else buffer.type.name
        raise MetalLaunchError(f"{where} is {tensor.dtype}; the kernel's {kind} takes {names}")


# ---- threads --------------------------------------------------------------------------------------------------------
def _dims(kernel: str, what: str, value: Dims) -> tuple[tuple[int, int, int], int]:
    given = (value,) if isinstance(value, int) else value
    numbers = [n.__index__() for n in given if hasattr(n, "__index__")] if isinstance(given, Sequence) else []
    if isinstance(value, bool) or not 1 <= len(numbers) <= 3 or len(numbers) != len(given) or min(numbers) < 0:
        raise MetalLaunchError(f"[{kernel}] {what} is one to three numbers, 0 or more each, not {value!r}")
    if max(numbers) > _MAX_GRID:
        raise MetalLaunchError(
            f"[{kernel}] {what} {value!r} is more than {_MAX_GRID} along an axis; launch it in parts"
        )
    x, y, z = [*numbers, 1, 1][:3]
    return (x, y, z), len(numbers)


def _group(
    signature: Signature, grid: tuple[int, int, int], rank: int, group_size: Dims | None
) -> tuple[int, int, int]:
    name = signature.name
    if group_size is None:
        if signature.needs_group:
            raise MetalLaunchError(f"[{name}] needs group_size=: {_why_grouped(signature)}")
        return _default_group(signature, rank)
    group, group_rank = _dims(name, "group_size", group_size)
    if group_rank != rank:
        raise MetalLaunchError(f"[{name}] group_size has {group_rank} dimensions, threads has {rank}; give both alike")
    total = math.prod(group)
    most = min(MAX_GROUP, signature.max_threads or MAX_GROUP)
    if not 1 <= total <= most:
        raise MetalLaunchError(f"[{name}] group_size {group_size!r} is {total} threads; 1 to {most} are possible")
    if not signature.needs_group:
        return group
    if total % SIMD_WIDTH:
        raise MetalLaunchError(
            f"[{name}] group_size {group_size!r} is {total} threads; it must be a multiple of {SIMD_WIDTH}, "
            f"because the kernel's threads work together: {_why_grouped(signature)}"
        )
    for axis, (n, g) in enumerate(zip(grid, group, strict=True)):
        if n % g:
            raise MetalLaunchError(
                f"[{name}] threads along axis {axis} is {n}, not a multiple of group_size's {g}; round it up "
                f"to {-(-n // g) * g} and let the kernel skip what is beyond"
            )
    return group


def _default_group(signature: Signature, rank: int) -> tuple[int, int, int]:
    x, y, z = _DEFAULT_GROUP[rank]
    while signature.max_threads and x * y * z > signature.max_threads:
        x, y = (x // 2, y) if y == 1 else (x, y // 2)
    return max(x, 1), max(y, 1), z


def _why_grouped(signature: Signature) -> str:
    if signature.uses_threadgroup:
        return "it declares threadgroup memory"
    if signature.uses_barrier:
        return "it has a barrier"
    if signature.uses_simd:
        return "it uses simd operations"
    return "it asks for a position in its threadgroup"


_TOTALS: dict[str, Callable[[tuple[int, int, int]], int]] = {
    "thread_position_in_grid": lambda grid: max(grid) - 1,
    "threads_per_grid": max,
    "grid_size": max,
}


def _check_ushort(signature: Signature, grid: tuple[int, int, int]) -> None:
    for attribute in signature.attributes:
        if attribute.scalar == "ushort" and attribute.attribute in _TOTALS:
            most = _TOTALS[attribute.attribute](_seen(attribute, grid))
            if most > 65535:
                raise MetalLaunchError(
                    f"[{signature.name}] {attribute.name} is a ushort [[{attribute.attribute}]] and would be "
                    f"{most}; declare it uint"
                )


def _seen(attribute: Attribute, grid: tuple[int, int, int]) -> tuple[int, int, int]:
    x, y, z = (*grid[: attribute.count], 1, 1)[:3]
    return x, y, z
