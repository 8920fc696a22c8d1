"""Frames as CUDA graphs: what a plan launches, recorded once and replayed as one launch.

What differs from frame to frame, animated values and seeds, is read by the kernels from one small piece of device
memory, which is filled before every frame by one copy from pinned memory. Everything else of a launch is fixed by the
key of a recording: the passes, and the addresses of what is read and written.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from elinvar.errors import ElinvarError
from elinvar.runtime._cuda import Turns, record
from elinvar.runtime._streams import CudaStreams

__all__ = ["Replays"]

Lists = tuple[list[float], list[int]]
Given = tuple[Any, Any]

_WORDS = 4096
_TURNS = 16
"""Words of values a frame may have, and how many frames may be on their way to the device at a time."""
_MOST = 16
_IDLE = 256
"""Recordings kept at most; one makes room when it has not been used for so many frames."""


@dataclass
class _Frame:
    """What is known of a key: nothing yet but that it was seen, a recording, or that it cannot be recorded."""

    used: int
    graph: Any = None
    refused: bool = False


class Values:
    """Device memory for the values of a frame's kernels, and the pinned memory they come from.

    Parameters
    ----------
    device
        Where the kernels run; on a CPU the memory is ordinary memory.
    """

    def __init__(self, device: torch.device) -> None:
        cuda = device.type == "cuda"
        self._device = device
        self._device_words = torch.zeros(_WORDS, dtype=torch.int32, device=device)
        self._floats = self._device_words.view(torch.float32)
        self._host = torch.zeros(_TURNS, _WORDS, dtype=torch.int32, pin_memory=cuda)
        words = self._host.numpy()
        self._words, self._reals = words, words.view("float32")
        self._done: list[Any] = [None] * _TURNS
        self._turn = 0
        self._cuda = cuda

    def fill(self, lists: Sequence[Lists]) -> list[Given] | None:
        """Send the values of one frame to the device, in stream order; None when they are too many.

        Returns
        -------
        list of (Tensor float32, Tensor int32)
            Where each kernel finds its values: the same places whenever there are as many values.
        """
        places: list[tuple[int, int, int, int]] = []
        end = 0
        for floats, integers in lists:
            first, middle = end, end + _padded(len(floats))
            end = middle + _padded(len(integers))
            places.append((first, len(floats), middle, len(integers)))
        if end > _WORDS:
            return None
        turn = self._turn = (self._turn + 1) % _TURNS
        if self._done[turn] is not None:
            self._done[turn].synchronize()  # sixteen frames ago: almost always long done
        for (floats, integers), (first, n, middle, m) in zip(lists, places, strict=True):
            self._reals[turn, first : first + n] = floats
            self._words[turn, middle : middle + m] = integers
        self._device_words[:end].copy_(self._host[turn, :end], non_blocking=True)
        if self._cuda:
            if self._done[turn] is None:
                self._done[turn] = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._done[turn].record(torch.cuda.current_stream(self._device))
        return [
            (self._floats[first : first + n], self._device_words[middle : middle + m]) for first, n, middle, m in places
        ]


def _padded(n: int) -> int:
    return -(-n // 4) * 4


class Replays:
    """Draws frames, from the second of a kind on by replaying a recording.

    Parameters
    ----------
    device
        Elsewhere than on CUDA frames are simply drawn, with their values in device memory all the same.
    record
        Makes a recording of a function's launches, with a ``replay`` method; by default a CUDA graph.
    """

    def __init__(self, device: torch.device, record: Callable[[Callable[[], None]], Any] | None = None) -> None:
        self._device = device
        self._record = record or (self._cuda_graph if device.type == "cuda" else None)
        self._values = Values(device)
        self._known: dict[Hashable, _Frame] = {}
        self._lock = threading.RLock()
        self._pool: Any = None
        self._turns = Turns(CudaStreams(self._device_index()) if device.type == "cuda" else None)
        self._count = 0
        self.recorded = 0
        """Recordings made so far."""
        self.replayed = 0
        """Frames that were one launch."""

    def draw(
        self,
        key: Hashable | None,
        lists: Sequence[Lists],
        launches: Callable[[list[Given] | None], None],
        arrive: Callable[[], None] | None = None,
    ) -> None:
        """Draw a frame.

        Parameters
        ----------
        key
            Everything the launches depend on besides values: passes, shapes, addresses. None is never recorded.
        lists
            Floats and integers of every kernel that has values.
        launches
            Launches everything, given where the values are; without, it passes them itself.
        arrive
            Brings what the launches read, before every frame; it is never recorded.
        """
        with self._lock, self._turns.take():  # values and working memory are the same for every stream
            if arrive is not None:
                arrive()
            self._draw(key, lists, launches)

    def wait(self) -> None:
        """Hold back the current stream until all frames are drawn: before their working memory is given away."""
        with self._lock:
            self._turns.wait()

    def _draw(
        self, key: Hashable | None, lists: Sequence[Lists], launches: Callable[[list[Given] | None], None]
    ) -> None:
        given = self._values.fill(lists)
        if key is None or given is None or self._record is None:
            launches(given)
            return
        self._count += 1
        frame = self._known.get(key)
        if frame is None:
            # Once by hand: kernels are compiled and checked, libraries choose their algorithms.
            self._remember(key)
            launches(given)
            return
        frame.used = self._count
        if frame.graph is None and not frame.refused and self._room():
            self._try(frame, lambda: launches(given))
        if frame.graph is None:
            launches(given)
            return
        frame.graph.replay()
        self.replayed += 1

    def _device_index(self) -> int:
        return torch.cuda.current_device() if self._device.index is None else self._device.index

    def _remember(self, key: Hashable) -> None:
        if len(self._known) >= 4 * _MOST:
            oldest = min((k for k, f in self._known.items() if f.graph is None), key=lambda k: self._known[k].used)
            del self._known[oldest]
        self._known[key] = _Frame(self._count)

    def _room(self) -> bool:
        """Tell whether another recording may be kept; addresses that never come again must not cost one each."""
        kept = {k: f for k, f in self._known.items() if f.graph is not None}
        if len(kept) < _MOST:
            return True
        oldest = min(kept, key=lambda k: kept[k].used)
        if self._count - kept[oldest].used < _IDLE:
            return False
        del self._known[oldest]
        return True

    def _try(self, frame: _Frame, launches: Callable[[], None]) -> None:
        assert self._record is not None
        try:
            frame.graph = self._record(launches)
            self.recorded += 1
        except (RuntimeError, ElinvarError):
            # Something waits for the device or moves memory to it: drawn by hand, it works or says what is wrong.
            frame.refused = True

    def _cuda_graph(self, launches: Callable[[], None]) -> Any:
        if self._pool is None:
            self._pool = torch.cuda.graph_pool_handle()
        try:
            return record(launches, self._device, self._pool)[0]
        except BaseException:
            self._pool = None  # torch takes no recording into a pool whose only one failed
            raise
