"""Results on their way from a GPU to the host while the GPU computes what comes next."""

from __future__ import annotations

from collections import deque
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor

from elinvar.runtime.transfers import transfers

__all__ = ["Download"]


class Download:
    """Writes consecutive parts into ``out [stems, channels, time]``.

    From CUDA to the host, parts wait on the GPU until `behind` more have been put, by when the work after them is
    queued; they then travel on a stream of their own through pinned memory. A plain copy would stop the queue, and
    move a ninth of the bytes per second into memory that is not pinned. Elsewhere a part is copied at once.

    Parameters
    ----------
    out
        Where everything goes; complete when the ``with`` block ends without an error.
    source
        Where the parts come from.
    behind
        Parts that may wait on the GPU.
    """

    def __init__(self, out: Tensor, source: torch.device, *, behind: int) -> None:
        self._out, self._behind = out, behind
        self._staged = source.type == "cuda" and out.device.type == "cpu"
        self._stream: Any = torch.cuda.Stream(source) if self._staged else None  # type: ignore[no-untyped-call]
        self._waiting: deque[tuple[int, Tensor, Any]] = deque()
        self._travelling: tuple[int, Tensor, Tensor, Any] | None = None
        self._pinned: list[Tensor] = []

    def put(self, start: int, part: Tensor) -> None:
        """Take ``[stems, channels, n]``, the samples from `start` on."""
        if not self._staged:
            self._out[..., start : start + part.shape[-1]].copy_(part)
            return
        ready = torch.cuda.Event()  # type: ignore[no-untyped-call]
        ready.record(torch.cuda.current_stream(part.device))
        self._waiting.append((start, part, ready))
        while len(self._waiting) > self._behind:
            self._send()

    def _send(self) -> None:
        """Start the oldest part's journey, then unload the one before it: the two overlap."""
        start, part, ready = self._waiting.popleft()
        slot = self._slot(part)
        with torch.cuda.stream(self._stream):
            ready.wait(self._stream)
            slot.copy_(part, non_blocking=True)
            done = torch.cuda.Event()  # type: ignore[no-untyped-call]
            done.record(self._stream)
        transfers.record(to_device=False, nbytes=part.nbytes)
        self._unload()
        self._travelling = (start, part, slot, done)

    def _slot(self, part: Tensor) -> Tensor:
        """Return pinned memory of the part's shape, one of two used in turn."""
        if len(self._pinned) < 2 or self._pinned[0].numel() < part.numel():
            self._pinned.append(torch.empty(part.numel(), pin_memory=True))
        else:
            self._pinned.append(self._pinned.pop(0))
        del self._pinned[:-2]
        return self._pinned[-1][: part.numel()].view(part.shape)

    def _unload(self) -> None:
        if self._travelling is not None:
            start, part, slot, done = self._travelling
            done.synchronize()
            self._out[..., start : start + part.shape[-1]].copy_(slot)
            self._travelling = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        while self._waiting and kind is None:
            self._send()
        if self._staged:
            self._unload()
            self._waiting.clear()
