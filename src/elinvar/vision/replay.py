"""CUDA graphs: a part of the network recorded once per input shape and replayed as one launch."""

from __future__ import annotations

import collections
import dataclasses
import threading
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from elinvar.runtime._cuda import record, recording

__all__ = ["Replay", "Shared", "side_by_side"]


class Shared:
    """What the recordings of one network share: memory for what happens inside them, and whose turn it is.

    A recording's results are copied out before the next one starts, so that all can use the same memory.
    """

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.pool: Any = None  # both are made at the first recording
        self.done: Any = None


@dataclasses.dataclass
class _Recorded:
    graph: Any
    inputs: tuple[Tensor, ...]
    outputs: list[Tensor]


class Replay:
    """Calls a function of tensors; on CUDA from a graph recorded at the first call with each set of shapes.

    The outputs of a call are copies: the next call does not change them. Calls may come from any stream: each waits on
    the device for the one before.

    Parameters
    ----------
    fn
        Takes tensors, returns a list of tensors; no host decision in it may depend on values.
    device
        Where the tensors are; elsewhere than on CUDA `fn` is simply called.
    most
        Shapes to keep; the least recently used is dropped.
    shared
        With which other recordings to take turns; by default none.
    """

    def __init__(
        self, fn: Callable[..., list[Tensor]], device: torch.device, most: int = 4, shared: Shared | None = None
    ) -> None:
        self._fn, self._device, self._most = fn, device, most
        self._shared = shared or Shared()
        self._known: collections.OrderedDict[tuple[Any, ...], _Recorded] = collections.OrderedDict()

    def __call__(self, *inputs: Tensor) -> list[Tensor]:
        """Call or replay."""
        if self._device.type != "cuda":
            return self._fn(*inputs)
        key = tuple((tuple(t.shape), t.dtype) for t in inputs)
        with self._shared.lock:
            if self._shared.done is not None:
                self._shared.done.wait(torch.cuda.current_stream(self._device))
            recorded = self._known.get(key)
            if recorded is None:
                recorded = self._known[key] = self._record(inputs)
                while len(self._known) > self._most:
                    self._known.popitem(last=False)
            self._known.move_to_end(key)
            try:
                for static, given in zip(recorded.inputs, inputs, strict=True):
                    static.copy_(given, non_blocking=True)
                recorded.graph.replay()
                return [t.clone() for t in recorded.outputs]
            finally:  # without memory for the copies, the next call must wait for the replay all the same
                if self._shared.done is not None:
                    self._shared.done.record(torch.cuda.current_stream(self._device))

    def _record(self, inputs: tuple[Tensor, ...]) -> _Recorded:
        # Trials too run while nothing is recorded: `side_by_side` has one stream for all engines.
        with recording, torch.cuda.device(self._device):
            static = tuple(torch.empty_like(t, device=self._device).copy_(t) for t in inputs)
            here = torch.cuda.current_stream(self._device)
            side = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
            side.wait_stream(here)
            with torch.cuda.stream(side):
                for _ in range(2):  # libraries choose their algorithms and allocate outside the recording
                    self._fn(*static)
            here.wait_stream(side)
            if self._shared.done is None:
                self._shared.done = torch.cuda.Event()  # type: ignore[no-untyped-call]
            if self._shared.pool is None:
                self._shared.pool = torch.cuda.graph_pool_handle()
            try:
                graph, outputs = record(lambda: self._fn(*static), self._device, self._shared.pool)
            except BaseException:
                self._shared.pool = None  # torch takes no recording into a pool whose only one failed
                raise
            return _Recorded(graph, static, outputs)


def side_by_side(
    first: Callable[[], list[Tensor]], second: Callable[[], list[Tensor]], device: torch.device
) -> list[Tensor]:
    """Run two independent pieces of work, on CUDA on two streams, and return what both made.

    Small products and convolutions fill a large GPU only together. Inside a recording the two become branches of the
    graph. What either reads must be kept by the caller until both are done, which the return does not say: work queued
    afterwards on the current stream may rely on it.
    """
    if device.type != "cuda":
        return first() + second()
    here = torch.cuda.current_stream(device)
    side = _side(device)
    side.wait_stream(here)
    with torch.cuda.stream(side):
        theirs = second()
    mine = first()
    here.wait_stream(side)
    for tensor in theirs:
        if not torch.cuda.is_current_stream_capturing():
            tensor.record_stream(here)
    return mine + theirs


_sides: dict[torch.device, Any] = {}


def _side(device: torch.device) -> Any:
    if device not in _sides:
        _sides[device] = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    return _sides[device]
