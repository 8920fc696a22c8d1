"""Results on their way from a GPU to the host while the GPU computes what comes next."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

import torch
from torch import Tensor

from elinvar.runtime.pipeline import Pipeline, Stage
from elinvar.runtime.transfers import transfers

__all__ = ["Landing", "behind", "collect"]

T = TypeVar("T")


def behind(parts: Iterable[T], n: int) -> Iterator[T]:
    """Yield parts, each after `n` more have been made: by then what the GPU computes next is queued."""
    waiting: deque[T] = deque()
    for part in parts:
        waiting.append(part)
        if len(waiting) > n:
            yield waiting.popleft()
    yield from waiting


def collect(parts: Iterable[tuple[int, Tensor]], out: Tensor, source: torch.device, *, ahead: int) -> None:
    """Write consecutive parts ``(start, [stems, channels, n])`` into ``out [stems, channels, time]``.

    From CUDA to the host a thread of its own waits for every part and brings it over; meanwhile the caller's makes the
    next ones, at most `ahead` of them. A plain copy would stop the GPU's queue, and touching new memory takes longer
    than the network.

    Parameters
    ----------
    out
        Where everything goes.
    source
        Where the parts come from.
    ahead
        Parts that may wait on the GPU.
    """
    if source.type != "cuda" or out.device.type != "cpu":
        for start, part in parts:
            out[..., start : start + part.shape[-1]].copy_(part)
        return
    land = Landing(source)

    def unload(item: tuple[int, Tensor, Any]) -> None:
        start, part, ready = item
        out[..., start : start + part.shape[-1]].copy_(land(part, ready))

    marked = ((start, part, land.mark()) for start, part in parts)
    with Pipeline([Stage(unload, name="download")], in_flight=max(1, ahead)) as pipeline:
        for _ in pipeline.run(marked):
            pass


class Landing:
    """Brings tensors from one CUDA device to the host, in one thread, beside what the device computes."""

    def __init__(self, source: torch.device) -> None:
        self._source = source
        self._stream: Any = torch.cuda.Stream(source)  # type: ignore[no-untyped-call]
        self._pinned: Tensor | None = None

    def mark(self) -> Any:
        """Return an event behind everything this thread has queued so far."""
        return torch.cuda.current_stream(self._source).record_event()

    def __call__(self, part: Tensor, ready: Any) -> Tensor:
        """Return the part in pinned memory, which the next call overwrites."""
        if self._pinned is None or self._pinned.numel() < part.numel():
            self._pinned = torch.empty(part.numel(), dtype=part.dtype, device="cpu", pin_memory=True)
        slot = self._pinned[: part.numel()].view(part.shape)
        with torch.cuda.stream(self._stream):
            ready.wait(self._stream)
            slot.copy_(part, non_blocking=True)
            done = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]
            done.record(self._stream)
        done.synchronize()
        transfers.record(to_device=False, nbytes=part.nbytes)
        return slot
