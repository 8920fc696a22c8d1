"""Copies between host and device: counted, and forbidden where a job must not make any.

Everything in elinvar that crosses the bus goes through `to_device` and `to_host`; ``transfers`` counts them. Inside
`no_transfers` both refuse, and so do plain ``tensor.to()``, ``.cpu()``, ``.item()``, ``.tolist()``, ``copy_`` of the
thread that entered it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from elinvar.errors import InputError, TransferForbidden

from .device import Device
from .device import device as find_device

__all__ = ["TransferCounter", "TransferCounts", "Transfers", "no_transfers", "to_device", "to_host", "transfers"]

_HOST = "cpu"


@dataclass(frozen=True)
class TransferCounts:
    """Copies made: how many and how many bytes, host to device (h2d) and device to host (d2h)."""

    h2d_calls: int = 0
    h2d_bytes: int = 0
    d2h_calls: int = 0
    d2h_bytes: int = 0

    def __sub__(self, other: TransferCounts) -> TransferCounts:
        return TransferCounts(
            self.h2d_calls - other.h2d_calls,
            self.h2d_bytes - other.h2d_bytes,
            self.d2h_calls - other.d2h_calls,
            self.d2h_bytes - other.d2h_bytes,
        )


class TransferCounter:
    """Copies since a ``with transfers.count()`` block began; after the block, those made in it."""

    def __init__(self, source: Transfers) -> None:
        self._source = source
        self._start = source.snapshot()
        self._end: TransferCounts | None = None

    @property
    def counts(self) -> TransferCounts:
        """All four numbers."""
        return (self._end or self._source.snapshot()) - self._start

    @property
    def h2d_calls(self) -> int:
        """Copies from host to device."""
        return self.counts.h2d_calls

    @property
    def h2d_bytes(self) -> int:
        """Bytes copied from host to device."""
        return self.counts.h2d_bytes

    @property
    def d2h_calls(self) -> int:
        """Copies from device to host."""
        return self.counts.d2h_calls

    @property
    def d2h_bytes(self) -> int:
        """Bytes copied from device to host."""
        return self.counts.d2h_bytes

    def stop(self) -> None:
        """Freeze the numbers; further copies are not counted."""
        self._end = self._end or self._source.snapshot()

    def __repr__(self) -> str:
        return f"<TransferCounter {self.counts}>"


class Transfers:
    """The process's copies between host and device, of all threads. Use the one instance, ``transfers``."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._tally = [0, 0, 0, 0]

    def snapshot(self) -> TransferCounts:
        """Return the copies made since the process began."""
        with self._lock:
            return TransferCounts(*self._tally)

    @contextmanager
    def count(self, *, plain: bool = False) -> Iterator[TransferCounter]:
        """Yield a live counter of the copies made from here on, by any thread.

        Parameters
        ----------
        plain
            Also see what this thread copies by plain torch calls (``.to``, ``.cpu``, ``.item``, ``copy_``). Watching
            costs some microseconds per torch operation.
        """
        counter = TransferCounter(self)
        with ExitStack() as stack:
            if plain:
                stack.enter_context(_Watch(after=self.record))
            try:
                yield counter
            finally:
                counter.stop()

    def record(self, to_device: bool, nbytes: int) -> None:
        """Count one copy."""
        with self._lock:
            self._tally[0 if to_device else 2] += 1
            self._tally[1 if to_device else 3] += nbytes


transfers = Transfers()
"""Every copy this process makes through elinvar."""

_forbidden: ContextVar[bool] = ContextVar("elinvar.no_transfers", default=False)
_moving: ContextVar[bool] = ContextVar("elinvar.moving", default=False)


class _Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Sees the copies between host and device that this thread's torch operations make.

    `before` and `after` are called with (host to device?, bytes), around each.
    """

    def __init__(
        self,
        before: Callable[[bool, int], None] | None = None,
        after: Callable[[bool, int], None] | None = None,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._before = before
        self._after = after

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        options = kwargs or {}
        copies = [] if _moving.get() else _copies(func, args, options)
        for copy in copies:
            if self._before is not None:
                self._before(*copy)
        result = func(*args, **options)
        for copy in copies:
            if self._after is not None:
                self._after(*copy)
        return result


def _copies(func: Any, args: Sequence[Any], options: Mapping[str, Any]) -> list[tuple[bool, int]]:
    """Return (host to device?, bytes) of each copy that one torch operation makes."""
    aten = torch.ops.aten
    packet = getattr(func, "overloadpacket", None)
    pairs: list[tuple[torch.Tensor, str]] = []  # source, destination's device type
    if packet is aten._to_copy:  # noqa: SLF001
        target = options.get("device")
        pairs = [(args[0], args[0].device.type if target is None else torch.device(target).type)]
    elif packet in (aten.copy_, aten.copy):
        pairs = [(args[1], args[0].device.type)]
    elif packet in (aten._foreach_copy_, aten._foreach_copy):  # noqa: SLF001
        pairs = [(source, target.device.type) for target, source in zip(args[0], args[1], strict=True)]
    elif packet is aten._local_scalar_dense:  # noqa: SLF001
        pairs = [(args[0], _HOST)]
    return [
        (source.device.type == _HOST, _nbytes(source))
        for source, to in pairs
        if (source.device.type == _HOST) != (to == _HOST)
    ]


def _nbytes(tensor: torch.Tensor) -> int:
    return tensor.numel() * tensor.element_size()


@contextmanager
def no_transfers() -> Iterator[None]:
    """Forbid copies between host and device.

    `to_device` and `to_host` refuse in this context and in every thread started with a copy of it (as `Pipeline` does);
    plain torch copies, ``.item()`` included, refuse in the thread that entered. Not seen: what a library copies
    without torch, operations that merely wait for the device (``nonzero``), and ``torch.tensor([...], device=...)``.
    Watching costs some microseconds per torch operation: it is meant for tests and for one checked run.

    Raises
    ------
    TransferForbidden
        At the copy, before it is made; the message says which way and how many bytes.
    """
    token = _forbidden.set(True)
    try:
        with _Watch(before=_refuse):
            yield
    finally:
        _forbidden.reset(token)


def _refuse(to_device: bool, nbytes: int) -> None:
    way = "host to device" if to_device else "device to host"
    raise TransferForbidden(
        f"no_transfers: a copy of {nbytes} bytes from {way} is forbidden here; make it before or after the block, or "
        "compute the value on the device."
    )


def _move(
    tensor: torch.Tensor, target: torch.device, *, non_blocking: bool, out: torch.Tensor | None = None
) -> torch.Tensor:
    return tensor.to(target, non_blocking=non_blocking) if out is None else out.copy_(tensor)


def _copy(
    operation: str,
    tensor: torch.Tensor,
    target: torch.device,
    *,
    non_blocking: bool,
    out: torch.Tensor | None = None,
) -> torch.Tensor:
    if not isinstance(tensor, torch.Tensor):
        raise InputError(f"{operation}: {type(tensor).__name__} is not a torch tensor; pass torch.as_tensor(x).")
    if out is not None and (out.shape != tensor.shape or out.dtype != tensor.dtype or out.device != target):
        raise InputError(
            f"{operation}: out is {out.dtype} {tuple(out.shape)} on {out.device}; pass a tensor of {tensor.dtype} "
            f"{tuple(tensor.shape)} on {target}."
        )
    if tensor.device == target:
        return tensor if out is None else out.copy_(tensor)
    crosses = (tensor.device.type == _HOST) != (target.type == _HOST)
    to_device = tensor.device.type == _HOST
    if crosses and _forbidden.get():
        _refuse(to_device, _nbytes(tensor))
    token = _moving.set(True)  # a watch would count it a second time
    try:
        moved = _move(tensor, target, non_blocking=non_blocking, out=out)
    finally:
        _moving.reset(token)
    if crosses:
        transfers.record(to_device, _nbytes(tensor))
    return moved


def to_device(tensor: torch.Tensor, device: Device | str | torch.device, *, non_blocking: bool = False) -> torch.Tensor:
    """Return the tensor on a device; itself, uncounted, when it is there already.

    Parameters
    ----------
    tensor
        Any torch tensor.
    device
        A `Device` or what `elinvar.device` accepts. Copies between two GPUs are made and not counted.
    non_blocking
        Do not wait for the copy; it needs pinned host memory that stays unchanged meanwhile.

    Raises
    ------
    TransferForbidden
        Inside `no_transfers`.
    DeviceUnavailable, InputError
        No such device; not a tensor.
    """
    # torch's "meta" stands in for a device in tests: it has no Device, but copies to it can be counted.
    stand_in = device if isinstance(device, torch.device) and device.type == "meta" else None
    target = stand_in or find_device(device).torch
    return _copy("to_device", tensor, target, non_blocking=non_blocking)


def to_host(tensor: torch.Tensor, *, out: torch.Tensor | None = None) -> torch.Tensor:
    """Return the tensor in host memory; itself, uncounted, when it is there already. Waits for the device.

    Parameters
    ----------
    tensor
        Any torch tensor.
    out
        Host memory of the same shape and dtype to copy into, and to return: nothing is allocated.

    Raises
    ------
    TransferForbidden
        Inside `no_transfers`.
    InputError
        Not a tensor, or `out` does not fit.
    """
    return _copy("to_host", tensor, torch.device(_HOST), non_blocking=False, out=out)
