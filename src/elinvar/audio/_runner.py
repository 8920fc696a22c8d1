"""Runs a separation network on batches of segments: number formats, and CUDA graphs where there is CUDA."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from elinvar.runtime._cuda import convolutions, record, recording
from elinvar.runtime.device import Device
from elinvar.runtime.precision import Precision

__all__ = ["PLAIN", "Runner", "compute_dtype", "fill", "torch_threads"]


_BUSY = 4  # segments of 7.8 s that keep an H200 busy for longer than they take to launch
_TILE = 8
PLAIN = 6  # calls before one is recorded: a recording costs as much as these, and may be for nothing


def compute_dtype(precision: str | Precision, device: Device) -> torch.dtype:
    """Return the format of activations: "auto" takes bfloat16 (on GPUs float16 before it) where that is fast."""
    allowed = ("fp16", "bf16") if device.kind != "cpu" else ("bf16",)
    return Precision.resolve(precision, device.profile, allowed).compute_dtype


def fill(n: int, batch: int, compute: torch.dtype, device: Device) -> int:
    """Return how many segments to run for `n`, at most `batch`.

    In 16 bits GPUs multiply in tiles: 15 segments take longer than 16, 5 as long as 8 (measured on an H200).
    """
    if device.kind != "cuda" or compute.itemsize > 2:
        return n
    return max(n, min(batch, -(-n // _TILE) * _TILE))


class Runner:
    """``runner(windows [b, channels, n]) -> stems [b, stems, channels, n]``, on `device`.

    On CUDA a batch smaller than `batch`, the usual one, is filled up with silence where that takes no longer, see
    `fill`. Small batches of a shape that comes more than `PLAIN` times are recorded and then replayed as a graph: their
    hundreds of small kernels are launched at once. Large ones keep the GPU busy without. The result of a replay is
    overwritten by the next one; `overlap_add` is done with it by then.
    """

    def __init__(
        self,
        model: Any,
        device: Device,
        *,
        mode: str = "full",
        compute: torch.dtype = torch.float32,
        batch: int = 1,
        graphs: bool | None = None,
    ) -> None:
        self.model, self.device, self.mode, self.compute = model, device, mode, compute
        self.batch, self.graphs = batch, graphs
        self._graphs: dict[tuple[int, ...], tuple[Any, Tensor, Tensor]] = {}
        self._plain: Counter[int] = Counter()

    def __call__(self, windows: Tensor) -> Tensor:
        """Run the network without autograd."""
        n = len(windows)
        missing = fill(n, self.batch, self.compute, self.device) - n
        with torch.no_grad(), self._exact():
            if missing:
                silence = windows.new_zeros(missing, *windows.shape[1:])
                all_of_them: Tensor = self.model(torch.cat([windows, silence]), self.mode, self.compute)
                return all_of_them[:n]
            if self.device.kind != "cuda" or not self._repeats(len(windows)):
                out: Tensor = self.model(windows, self.mode, self.compute)
                return out
            return self._replay(windows)

    @staticmethod
    def records(batch: int) -> bool:
        """Whether runs of so many segments gain from a recording."""
        return batch < _BUSY

    def _repeats(self, batch: int) -> bool:
        """Whether a recording is expected to pay."""
        if self.graphs is not None:
            return self.graphs
        self._plain[batch] += 1
        return self.records(batch) and self._plain[batch] > PLAIN

    def _exact(self) -> contextlib.AbstractContextManager[None]:
        """Keep cuDNN from rounding float32 to TF32, which is off by 64 dB."""
        if self.device.kind != "cuda" or self.compute != torch.float32:
            return contextlib.nullcontext()
        return convolutions()

    def _replay(self, windows: Tensor) -> Tensor:
        key = tuple(windows.shape)
        if key not in self._graphs:
            self._graphs[key] = self._record(windows)
        graph, given, result = self._graphs[key]
        given.copy_(windows)
        graph.replay()
        return result

    def _record(self, windows: Tensor) -> tuple[Any, Tensor, Tensor]:
        given = windows.clone()
        where = self.device.torch
        with recording, torch.cuda.device(where):
            here, side = torch.cuda.current_stream(), torch.cuda.Stream()  # type: ignore[no-untyped-call]
            side.wait_stream(here)
            with torch.cuda.stream(side):  # libraries choose their algorithms and allocate before the recording
                for _ in range(2):
                    self.model(given, self.mode, self.compute)
            here.wait_stream(side)
            graph, result = record(lambda: self.model(given, self.mode, self.compute), where)
        return graph, given, result


@contextlib.contextmanager
def torch_threads(n: int | None) -> Iterator[None]:
    """Use `n` threads for torch's operations in this thread; None leaves them."""
    before = torch.get_num_threads()
    if n is not None:
        torch.set_num_threads(n)
    try:
        yield
    finally:
        torch.set_num_threads(before)
