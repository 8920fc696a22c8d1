"""Clocks: how the duration of one sample is taken on each device."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

from elinvar.errors import BenchError

from .samples import CLOCKS

if TYPE_CHECKING:
    from elinvar.runtime.device import Device

__all__ = ["CudaTimer", "HostTimer", "Timer", "flusher", "timer_for"]

_HOST_CLOCKS: dict[str, Callable[[], float]] = {
    "wall": time.perf_counter,
    "process_cpu": time.process_time,
}
if hasattr(time, "thread_time"):
    _HOST_CLOCKS["thread_cpu"] = time.thread_time


class Timer(Protocol):
    """Anything that can time `inner` calls of a function as one sample."""

    def time(self, fn: Callable[[], object], inner: int) -> float:
        """Return seconds per call, averaged over `inner` calls made back to back."""
        ...


class HostTimer:
    """A host clock; the device is drained before the clock starts and before it stops."""

    def __init__(self, now: Callable[[], float], synchronize: Callable[[], object] | None = None) -> None:
        self._now = now
        self._synchronize = synchronize or (lambda: None)

    def time(self, fn: Callable[[], object], inner: int) -> float:
        """Return seconds per call."""
        self._synchronize()
        start = self._now()
        for _ in range(inner):
            fn()
        self._synchronize()
        return (self._now() - start) / inner


class CudaTimer:
    """CUDA events on the current stream: device time alone, without the host's latency before the first kernel."""

    def __init__(self, device: Device) -> None:
        import torch

        self._torch: Any = torch
        self._device = device

    def time(self, fn: Callable[[], object], inner: int) -> float:
        """Return seconds per call."""
        cuda = self._torch.cuda
        with cuda.device(self._device.torch):
            start, stop = (cuda.Event(enable_timing=True) for _ in range(2))
            cuda.synchronize()
            start.record()
            for _ in range(inner):
                fn()
            stop.record()
            stop.synchronize()
            return float(start.elapsed_time(stop)) / 1e3 / inner


def timer_for(clock: str, device: Device | None = None) -> Timer:
    """Return the timer for a clock name on a device (None: the CPU).

    "wall" is ``perf_counter``, "thread_cpu" the CPU time of the calling thread, "process_cpu" that of all threads of
    the process, "cuda_events" device time between two events.
    """
    if clock not in CLOCKS:
        raise BenchError(f"measure: unknown clock {clock!r}; use one of {', '.join(CLOCKS)}.")
    if clock == "cuda_events":
        if device is None or device.kind != "cuda":
            raise BenchError(f"measure: clock 'cuda_events' needs device='cuda', got {device or 'cpu'}; use 'wall'.")
        return CudaTimer(device)
    if clock not in _HOST_CLOCKS:
        raise BenchError(f"measure: this system has no clock {clock!r}; use 'wall' or 'process_cpu'.")
    drain = device.synchronize if device is not None and device.kind != "cpu" else None
    return HostTimer(_HOST_CLOCKS[clock], drain)


def flusher(device: Device | None) -> Callable[[], None]:
    """Return a function that evicts the device's last-level cache by overwriting a larger buffer.

    256 MB covers every present CPU's L3 slice and the 50–60 MB L2 of an H100/H200 several times over.
    """
    import torch

    buffer = torch.zeros(64 * 2**20, dtype=torch.int32, device=device.torch if device else "cpu")

    def flush() -> None:
        buffer.add_(1)

    return flush
