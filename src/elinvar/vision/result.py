"""What an inference gives back: each output is computed when it is first read, and stays where it was computed."""

# torch leaves Tensor.split and Tensor.unflatten without types.
# mypy: disable-error-code="no-untyped-call, no-any-return"

from __future__ import annotations

import contextlib
import dataclasses
import threading
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from elinvar.errors import InputError, StaleLease
from elinvar.runtime.transfers import to_host

from .images import Prepared
from .runner import HEADS

if TYPE_CHECKING:
    from .runner import Runner, States

__all__ = ["Clock", "LazyTensor", "PairResult"]

Grid = tuple[int, int]


class LazyTensor:
    """An output that is computed when its values are asked for.

    ``.shape``, ``.numel``, ``.nbytes`` and ``.ndim`` are known before. Values: `numpy`, `torch`, `copy_to`,
    ``np.asarray(x)`` and ``torch.from_dlpack(x)``.
    """

    def __init__(self, name: str, shape: tuple[int, ...], compute: Callable[[], Tensor]) -> None:
        self.name = name
        self.shape = shape
        self._compute = compute
        self._valid = True

    dtype = np.dtype(np.float32)

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    @property
    def numel(self) -> int:
        """Number of values."""
        return int(np.prod(self.shape))

    @property
    def nbytes(self) -> int:
        """Bytes of the values."""
        return 4 * self.numel

    @property
    def is_valid(self) -> bool:
        """Whether the values can still be asked for."""
        return self._valid

    def _values(self) -> Tensor:
        if not self._valid:
            raise StaleLease(f"{self.name}: its result was released; keep the result, or copy the values before.")
        return self._compute()

    def torch(self) -> Tensor:
        """Return the values on the device they were computed on, without a copy."""
        return self._values()

    def numpy(self) -> NDArray[np.float32]:
        """Return the values in host memory; on the CPU without a copy."""
        return np.asarray(to_host(self._values()).numpy())

    def copy_to(self, out: NDArray[np.float32]) -> NDArray[np.float32]:
        """Write the values into a float32 array of this shape and return it.

        Allocates nothing, unless values come from a GPU into an array with backward strides.

        Raises
        ------
        InputError
            `out` has another shape or dtype, or cannot be written.
        """
        if not isinstance(out, np.ndarray) or out.shape != self.shape or out.dtype != np.float32:
            got = f"{out.dtype} {out.shape}" if isinstance(out, np.ndarray) else type(out).__name__
            raise InputError(f"{self.name}.copy_to: got {got}; pass a float32 array of shape {self.shape}.")
        if not out.flags.writeable:
            raise InputError(f"{self.name}.copy_to: the array is read-only; pass one that can be written.")
        values = self._values()
        if values.is_cpu or min(out.strides, default=0) < 0:  # torch knows no backward strides
            np.copyto(out, self.numpy())
        else:
            to_host(values, out=torch.from_numpy(out))
        return out

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        values = self.numpy()
        if dtype is not None and np.dtype(dtype) != values.dtype:
            return values.astype(dtype)
        return values.copy() if copy else values

    def __dlpack__(self, **options: Any) -> Any:
        return self._values().__dlpack__(**options)

    def __dlpack_device__(self) -> Any:
        return self._values().__dlpack_device__()

    def release(self) -> None:
        """Give the values up; asking for them afterwards is an error."""
        self._valid = False
        self._compute = _released

    def __repr__(self) -> str:
        return f"<LazyTensor {self.name} {self.shape}{'' if self._valid else ', released'}>"


def _released() -> Tensor:
    raise StaleLease("This output was released.")


class Clock:
    """How long work takes on a device, from making the clock to `stop`; nothing waits until somebody asks.

    Parameters
    ----------
    device
        On CUDA, events on the current stream; elsewhere the wall clock, which is right where calls wait.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._cuda = device.type == "cuda"
        self._start: Any = self._event() if self._cuda else time.perf_counter()

    def _event(self) -> Any:
        event = torch.cuda.Event(enable_timing=True)
        event.record(torch.cuda.current_stream(self._device))
        return event

    def stop(self, shares: int = 1) -> Callable[[], float]:
        """Return a call that gives the milliseconds until now over `shares`, waiting for the device if need be."""
        if not self._cuda:
            took = 1e3 * (time.perf_counter() - self._start) / shares
            return lambda: took
        start, end = self._start, self._event()

        def read() -> float:
            end.synchronize()
            return float(start.elapsed_time(end)) / shares

        return read


class Decoded:
    """The decoder's states of a batch of pairs of one shape, and the heads run on them so far."""

    def __init__(
        self,
        runner: Runner,
        states: States,
        grids: tuple[Grid, Grid],
        run: Callable[..., Any],
    ) -> None:
        self._runner = runner
        self.states: States | None = states
        self.grids = grids
        self._run = run
        self._pairs = len(states[0][0])
        self._heads: dict[tuple[str, int], tuple[Tensor, Tensor]] = {}
        self._milliseconds: dict[str, Callable[[], float]] = {}
        self._lock = threading.RLock()
        self._device = states[0][0].device
        self._ready: Any = None
        if self._device.type == "cuda":  # the states may still be in the making, on this thread's stream
            self._ready = torch.cuda.Event()
            self._ready.record(torch.cuda.current_stream(self._device))

    def head(self, which: str, view: int) -> tuple[Tensor, Tensor]:
        """Return the two outputs of one head for the whole batch, running it at the first request."""
        with self._lock:
            key = (which, view)
            if key not in self._heads:
                assert self.states is not None
                states, grid = self.states[view - 1], self.grids[view - 1]
                self._heads[key] = self._timed(
                    f"{which}_{view}_ms", f"vision.{which}", lambda: self._runner.head(which, view, states, grid)
                )
                if len(self._heads) == len(HEADS):
                    self.states = None  # nothing will ask for them again
            return self._heads[key]

    def compute(self) -> None:
        """Run the heads that have not run; on CUDA all at once where none has."""
        with self._lock:
            if self._device.type == "cuda" and not self._heads:
                assert self.states is not None
                states = self.states
                self._heads = self._timed("all_ms", "vision.heads", lambda: self._runner.heads(states, self.grids))
                self.states = None
            for which, view in HEADS:
                self.head(which, view)

    @contextlib.contextmanager
    def passing(self) -> Iterator[None]:
        """Forget at the end the heads that ran inside: for who takes little out of many results."""
        with self._lock:
            before, states = dict(self._heads), self.states
            try:
                yield
            finally:
                self._heads, self.states = before, states

    def _timed(self, name: str, label: str, work: Callable[[], Any]) -> Any:
        if self._ready is not None:
            self._ready.wait(torch.cuda.current_stream(self._device))
        clock = Clock(self._device)
        made = self._run(label, work)
        self._milliseconds[name] = clock.stop(self._pairs)  # a head runs for the whole batch
        return made

    @property
    def ran(self) -> dict[str, float]:
        """Milliseconds of each head that ran, or of all together."""
        with self._lock:
            return {name: read() for name, read in self._milliseconds.items()}

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the heads that ran."""
        with self._lock:
            return tuple(sorted(f"{which}_{view}" for which, view in self._heads))


@dataclasses.dataclass(frozen=True)
class Timing:
    """Milliseconds, after the device was done.

    Attributes
    ----------
    preprocess_ms
        Reading, resizing, uploading.
    inference_ms
        Encoding, decoding, and the heads read so far.
    total_ms
        Their sum.
    heads
        The part of each head that ran, ``"dense_1_ms"`` and so on, or ``"all_ms"`` where all ran together.
    """

    preprocess_ms: float
    inference_ms: float
    total_ms: float
    heads: dict[str, float]


_CHANNELS = {"pts3d": ("dense", 0), "conf": ("dense", 1), "desc": ("local", 0), "desc_conf": ("local", 1)}


class PairResult:
    """Points, descriptors and their confidences of two images.

    Attributes
    ----------
    pts3d_1, pts3d_2 : LazyTensor
        [height, width, 3]; both in the first camera's frame: x right, y down, z forward.
    conf_1, conf_2 : LazyTensor
        [height, width], at least 1.
    desc_1, desc_2 : LazyTensor
        [height, width, channels], unit length.
    desc_conf_1, desc_conf_2 : LazyTensor
        [height, width], above 0.
    prepared_1, prepared_2 : Prepared
        The images at network size, and how to map their pixels back.
    """

    pts3d_1: LazyTensor
    pts3d_2: LazyTensor
    conf_1: LazyTensor
    conf_2: LazyTensor
    desc_1: LazyTensor
    desc_2: LazyTensor
    desc_conf_1: LazyTensor
    desc_conf_2: LazyTensor

    def __init__(
        self,
        decoded: Decoded,
        index: int,
        prepared: tuple[Prepared, Prepared],
        *,
        preprocess_ms: float,
        compute_ms: Callable[[], float],
        descriptor: int,
    ) -> None:
        self.prepared_1, self.prepared_2 = prepared
        self._decoded = decoded
        self._index = index
        self._preprocess_ms, self._compute_ms = preprocess_ms, compute_ms
        self._released = False
        for view in (1, 2):
            height, width = prepared[view - 1].array.shape[:2]
            tails: dict[str, tuple[int, ...]] = {"pts3d": (3,), "desc": (descriptor,)}
            for name, (which, k) in _CHANNELS.items():
                shape = (height, width, *tails.get(name, ()))
                setattr(self, f"{name}_{view}", LazyTensor(f"{name}_{view}", shape, self._getter(which, view, k)))

    def _getter(self, which: str, view: int, k: int) -> Callable[[], Tensor]:
        return lambda: self._decoded.head(which, view)[k][self._index]

    @property
    def timing(self) -> Timing:
        """What it took so far; reading an output adds its head."""
        heads = self._decoded.ran
        inference = self._compute_ms() + sum(heads.values())
        return Timing(self._preprocess_ms, inference, self._preprocess_ms + inference, heads)

    @property
    def heads_run(self) -> tuple[str, ...]:
        """Names of the heads that ran: ``"dense_1"``, ``"local_2"`` …"""
        return self._decoded.names

    @property
    def batch(self) -> Decoded:
        """What the decoder made of this pair and those decoded together with it."""
        return self._decoded

    def outputs(self) -> dict[str, LazyTensor]:
        """Return all eight outputs by name."""
        return {f"{name}_{view}": getattr(self, f"{name}_{view}") for view in (1, 2) for name in _CHANNELS}

    def compute(self) -> PairResult:
        """Compute everything now, and return this result."""
        self._decoded.compute()
        return self

    def release(self) -> None:
        """Give all memory up; tensors taken out before stay valid."""
        for output in self.outputs().values():
            output.release()
        self._released = True
        self._decoded = _GONE

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def __repr__(self) -> str:
        (h1, w1), (h2, w2) = (p.array.shape[:2] for p in (self.prepared_1, self.prepared_2))
        ran = ", ".join(self.heads_run) or "no head yet"
        return f"<PairResult {w1}x{h1}, {w2}x{h2}; {'released' if self._released else ran}>"


class _Gone(Decoded):
    """Stands where a released result's states were."""

    def __init__(self) -> None:
        self._heads, self._milliseconds = {}, {}
        self.states = None
        self._lock = threading.RLock()

    def compute(self) -> None:
        raise StaleLease("compute: the result was released; keep it until its outputs are read.")

    def head(self, which: str, view: int) -> tuple[Tensor, Tensor]:
        raise StaleLease(f"{which} {view}: the result was released; keep it until its outputs are read.")


_GONE = _Gone()


def synchronised(device: torch.device) -> None:
    """Wait until a device is done; the CPU always is."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()
