"""Fakes: a clock that moves when told, sensors with a script, memory that runs out, streams that write a diary."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import torch

from elinvar.errors import InputError
from elinvar.runtime import transfers
from elinvar.runtime._storage import torch_empty

__all__ = ["FakeClock", "FakeMemory", "FakeSensor", "FakeStreams", "copyable_meta"]

T = TypeVar("T")


class FakeClock:
    """A monotonic clock in seconds that moves only by `advance` and `sleep`. Call it to read it. Thread-safe."""

    def __init__(self, start: float = 0.0) -> None:
        self._now = float(start)
        self._lock = threading.Lock()

    def __call__(self) -> float:
        """Return the time, seconds."""
        with self._lock:
            return self._now

    def advance(self, seconds: float) -> float:
        """Move on and return the new time."""
        if not seconds >= 0:
            raise InputError(f"FakeClock.advance: {seconds!r} s; a monotonic clock moves forward, pass 0 or more.")
        with self._lock:
            self._now += seconds
            return self._now

    def sleep(self, seconds: float) -> None:
        """Stand in for ``time.sleep``: time passes at once."""
        self.advance(seconds)


class FakeSensor(Generic[T]):
    """A sensor that reads what it is told: call it for a reading.

    Readings come from the script in order, an exception in it is raised, and the last one repeats. Set `script` to
    change what comes next.
    """

    def __init__(self, *script: T | BaseException) -> None:
        if not script:
            raise InputError("FakeSensor: no readings; pass at least one.")
        self.script: list[T | BaseException] = list(script)
        self.reads = 0
        """How often it was read."""
        self._lock = threading.Lock()

    def __call__(self) -> T:
        """Return the next reading, or raise it."""
        with self._lock:
            self.reads += 1
            reading = self.script.pop(0) if len(self.script) > 1 else self.script[0]
        if isinstance(reading, BaseException):
            raise reading
        return reading

    def set(self, *script: T | BaseException) -> None:
        """Replace what comes next."""
        with self._lock:
            self.script[:] = script


class FakeMemory:
    """An allocator with a capacity, for ``Pool(..., allocate=FakeMemory(...))``: it runs out as a device does.

    Parameters
    ----------
    capacity
        Bytes that may be alive at once; None never runs out by itself. Memory counts until torch frees it.
    error
        What running out raises; by default torch's own out-of-memory error.
    """

    def __init__(self, capacity: int | None = None, error: BaseException | None = None) -> None:
        self.capacity = capacity
        self.error = error or torch.OutOfMemoryError("FakeMemory: out of memory")
        self.calls: list[int] = []
        """Bytes of every request, also of refused ones."""
        self.fail_next = 0
        """How many of the next requests to refuse whatever the capacity."""
        self._alive: dict[int, _Probe] = {}

    @property
    def used(self) -> int:
        """Bytes handed out and not freed yet."""
        self._alive = {key: probe for key, probe in self._alive.items() if not probe.freed()}
        return sum(probe.nbytes for probe in self._alive.values())

    def __call__(self, nbytes: int, device: torch.device) -> torch.Tensor:
        """Allocate as a pool asks."""
        self.calls.append(nbytes)
        full = self.capacity is not None and self.used + nbytes > self.capacity
        if full or self.fail_next > 0:
            self.fail_next = max(0, self.fail_next - 1)
            raise self.error
        tensor = torch_empty(nbytes, device)
        self._alive[len(self.calls)] = _Probe(tensor)
        return tensor


class _Probe:
    """Knows when a tensor's storage was freed, whoever held it last."""

    def __init__(self, tensor: torch.Tensor) -> None:
        self.nbytes = tensor.numel()
        self._weak = tensor.untyped_storage()._weak_ref()  # noqa: SLF001

    def freed(self) -> bool:
        return bool(torch.UntypedStorage._expired(self._weak))  # noqa: SLF001

    def __del__(self) -> None:
        torch.UntypedStorage._free_weak_ref(self._weak)  # type: ignore[no-untyped-call]  # noqa: SLF001


@dataclass
class FakeStreams:
    """Streams for ``Pool(..., streams=FakeStreams())``: named by strings, doing nothing, keeping a diary.

    Attributes
    ----------
    stream
        The current stream; assign to switch, or use `use`.
    diary
        ``("record", stream, event)``, ``("wait", stream, event)``, ``("keep", nbytes, stream)`` in order. An event is a
        number, the position in the order of recordings.
    """

    stream: str = "main"
    diary: list[tuple[Any, ...]] = field(default_factory=list)
    events: int = 0

    @contextmanager
    def use(self, stream: str) -> Iterator[None]:
        """Make a stream the current one for a block."""
        before, self.stream = self.stream, stream
        try:
            yield
        finally:
            self.stream = before

    def current(self) -> str:
        """See ``elinvar.runtime._streams.Streams``."""
        return self.stream

    def record(self, stream: str, event: int | None) -> int:
        """See ``elinvar.runtime._streams.Streams``."""
        self.events += 1
        self.diary.append(("record", stream, self.events))
        return self.events

    def wait(self, stream: str, event: int) -> None:
        """See ``elinvar.runtime._streams.Streams``."""
        self.diary.append(("wait", stream, event))

    def keep(self, tensor: torch.Tensor, stream: str) -> None:
        """See ``elinvar.runtime._streams.Streams``."""
        self.diary.append(("keep", tensor.numel(), stream))


@contextmanager
def copyable_meta() -> Iterator[None]:
    """Let `to_host` copy from torch's ``meta`` device, as zeros: a device for tests on machines that have none."""
    real = transfers._move  # noqa: SLF001

    def move(
        tensor: torch.Tensor, target: torch.device, *, non_blocking: bool, out: torch.Tensor | None = None
    ) -> torch.Tensor:
        if tensor.device.type == "meta" and target.type == "cpu":
            return torch.zeros(tensor.shape, dtype=tensor.dtype) if out is None else out.zero_()
        return real(tensor, target, non_blocking=non_blocking, out=out)

    transfers._move = move  # noqa: SLF001
    try:
        yield
    finally:
        transfers._move = real  # noqa: SLF001
