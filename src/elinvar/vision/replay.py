"""CUDA graphs: a part of the network recorded once per input shape and replayed as one launch."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

__all__ = ["Replay"]


@dataclasses.dataclass
class _Recorded:
    graph: Any
    inputs: tuple[Tensor, ...]
    outputs: list[Tensor]


class Replay:
    """Calls a function of tensors; on CUDA from a graph recorded at the first call with each set of shapes.

    The outputs of a call are copies: the next call does not change them.

    Parameters
    ----------
    fn
        Takes tensors, returns a list of tensors; no host decision in it may depend on values.
    device
        Where the tensors are; elsewhere than on CUDA `fn` is simply called.
    most
        Shapes to keep; the least recently used is dropped.
    """

    def __init__(self, fn: Callable[..., list[Tensor]], device: torch.device, most: int = 4) -> None:
        self._fn, self._device, self._most = fn, device, most
        self._known: collections.OrderedDict[tuple[Any, ...], _Recorded] = collections.OrderedDict()

    def __call__(self, *inputs: Tensor) -> list[Tensor]:
        """Call or replay."""
        if self._device.type != "cuda":
            return self._fn(*inputs)
        key = tuple((tuple(t.shape), t.dtype) for t in inputs)
        recorded = self._known.get(key)
        if recorded is None:
            recorded = self._known[key] = self._record(inputs)
            while len(self._known) > self._most:
                self._known.popitem(last=False)
        self._known.move_to_end(key)
        for static, given in zip(recorded.inputs, inputs, strict=True):
            static.copy_(given)
        recorded.graph.replay()
        return [t.clone() for t in recorded.outputs]

    def _record(self, inputs: tuple[Tensor, ...]) -> _Recorded:
        static = tuple(t.clone() for t in inputs)
        side = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
        side.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(side):
            for _ in range(2):  # libraries choose their algorithms and allocate outside the recording
                self._fn(*static)
        torch.cuda.current_stream(self._device).wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            outputs = self._fn(*static)
        return _Recorded(graph, static, outputs)
