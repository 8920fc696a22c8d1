"""Stream-ordered reuse: the four things a pool asks of a device's streams, CUDA's answer, and what the pool does.

A device without streams of its own (cpu, and mps where torch has one queue) needs none of this. The protocol is small
so that stream-ordered reuse can be tested without a GPU: see ``elinvar.testing.FakeStreams``.
"""

from __future__ import annotations

from typing import Any, Protocol

import torch

from ._storage import Buffer, poison

__all__ = ["CudaStreams", "Streams", "end_work", "pick"]


class Streams(Protocol):
    """A device's streams. Stream objects are hashable and compare equal when they are the same stream."""

    def current(self) -> Any:
        """Return the stream that work submitted now would go to."""
        ...

    def record(self, stream: Any, event: Any | None) -> Any:
        """Mark the end of the work submitted to `stream` so far; `event`, if given, may be used again for it."""
        ...

    def wait(self, stream: Any, event: Any) -> None:
        """Hold back what is submitted to `stream` from now on until `event` has happened; the host goes on."""
        ...

    def keep(self, tensor: torch.Tensor, stream: Any) -> None:
        """Have the device's allocator await `stream` before it hands the tensor's memory to anyone else."""
        ...


class CudaStreams:
    """torch's CUDA streams of one device."""

    def __init__(self, index: int) -> None:
        self._index = index

    def current(self) -> torch.cuda.Stream:
        """See `Streams`."""
        return torch.cuda.current_stream(self._index)

    def record(self, stream: torch.cuda.Stream, event: torch.cuda.Event | None) -> torch.cuda.Event:
        """See `Streams`."""
        marker = torch.cuda.Event() if event is None else event  # type: ignore[no-untyped-call]
        marker.record(stream)
        return marker

    def wait(self, stream: torch.cuda.Stream, event: torch.cuda.Event) -> None:
        """See `Streams`."""
        stream.wait_event(event)

    def keep(self, tensor: torch.Tensor, stream: torch.cuda.Stream) -> None:
        """See `Streams`."""
        tensor.record_stream(stream)


def pick(waiting: list[Buffer], streams: Streams) -> Buffer:
    """Take a buffer this stream used last; else make the stream, never the host, wait for another one's work."""
    here = streams.current()
    for index in range(len(waiting) - 1, -1, -1):
        if all(stream == here for stream in waiting[index].events):
            buffer = waiting.pop(index)
            break
    else:
        buffer = waiting.pop(0)  # the one whose work was submitted longest ago
        for stream, event in buffer.events.items():
            if stream != here:
                streams.wait(here, event)
    buffer.stream = here
    _keep(buffer, here, streams)
    return buffer


def _keep(buffer: Buffer, stream: object, streams: Streams) -> None:
    """Tell torch's allocator, once, of a stream besides the one the memory was allocated on."""
    if stream != buffer.home and stream not in buffer.kept:
        buffer.kept.add(stream)
        streams.keep(buffer.base, stream)


def end_work(buffer: Buffer, streams: Streams, *, poisoned: bool) -> None:
    """Record where a lease's work ends: on the stream that acquired it, and on the one that releases it."""
    here = streams.current()
    spare, buffer.events = buffer.events, {}
    if buffer.stream != here:
        _keep(buffer, here, streams)
        event = buffer.events[buffer.stream] = streams.record(buffer.stream, spare.get(buffer.stream))
        if poisoned:
            streams.wait(here, event)
    if poisoned:
        poison(buffer.base, buffer.dtype)
    buffer.events[here] = streams.record(here, spare.get(here))
