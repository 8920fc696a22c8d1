"""What engines share when they record CUDA graphs, set cuDNN's switches, or use one piece of memory from many streams.

Recordings and switches belong to the process, so only one thread at a time has them.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import torch

from ._streams import Streams

__all__ = ["Turns", "convolutions", "record", "recording"]

T = TypeVar("T")

recording = threading.RLock()
"""Held while something is recorded, and while it runs before that on streams that a recording may use."""
_switches = threading.RLock()


def record(work: Callable[[], T], device: torch.device, pool: Any = None) -> tuple[Any, T]:
    """Record what `work` launches, without running it; return the graph and what `work` returned.

    torch records everything on one stream of its own: two recordings at a time would end up in each other.
    """
    with recording, torch.cuda.device(device):
        graph, here = torch.cuda.CUDAGraph(), torch.cuda.current_stream()
        try:
            # Another thread may allocate or copy meanwhile: that must not end this recording.
            with torch.cuda.graph(graph, pool=pool, capture_error_mode="thread_local"):
                made = work()
        finally:
            torch.cuda.set_stream(here)  # a recording that fails leaves its own stream behind
        return graph, made


@contextlib.contextmanager
def convolutions(search: bool | None = None) -> Iterator[None]:
    """Keep cuDNN from rounding float32 to TF32, and set whether it tries its algorithms; None leaves that.

    The switches are the process's, so threads take turns: otherwise the first to leave would switch TF32 on under the
    others, and the last would leave it off for good.
    """
    cudnn = torch.backends.cudnn
    with (
        _switches,
        cudnn.flags(
            enabled=cudnn.enabled,
            benchmark=cudnn.benchmark if search is None else search,
            deterministic=cudnn.deterministic,
            allow_tf32=False,
        ),
    ):
        yield


class Turns:
    """Work on one piece of memory from whatever stream: on the device, each turn waits for the one before.

    Parameters
    ----------
    streams
        The device's; None for a device without.
    """

    def __init__(self, streams: Streams | None) -> None:
        self._streams = streams
        self._last: tuple[Any, Any] | None = None

    def wait(self) -> None:
        """Hold back what the current stream gets from now on until the turns so far are over."""
        if self._streams is not None and self._last is not None:
            here, (stream, event) = self._streams.current(), self._last
            if stream != here:
                self._streams.wait(here, event)

    @contextlib.contextmanager
    def take(self) -> Iterator[None]:
        """Do the work of one turn on the current stream; the caller sees to it that threads come one by one."""
        self.wait()
        try:
            yield
        finally:
            if self._streams is not None:
                spare = None if self._last is None else self._last[1]
                here = self._streams.current()
                self._last = here, self._streams.record(here, spare)
