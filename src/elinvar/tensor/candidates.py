"""Which of cuBLASLt's algorithms computes a 16-bit layer of one size: measured once, then remembered.

On the first call of a size the library is asked for its candidates. Each must agree with float64 on random numbers and
answer NaN with NaN, which many a fused relu does not; those that do are timed against each other, and the library's own
order decides where nothing wins by more than the noise. What won is kept by `elinvar.runtime.tuning` under
``option.tensor.cublaslt-RELEASE.DTYPE-FOLLOWS.MxNxK``, so that later processes run the same; deleting that file
measures again.

Where nothing was measured, torch's own call serves, which takes the library's first candidate: while a CUDA graph is
recorded, where memory does not suffice, and after `MOST` sizes in one process.
"""

from __future__ import annotations

import ctypes
import logging
import statistics
import threading
from collections.abc import Callable
from typing import Any

import torch

from elinvar.runtime.device import device as find_device
from elinvar.runtime.tuning import save_tuned, tuned
from elinvar.tensor import cublaslt
from elinvar.tensor.cublaslt import Algorithm, Candidate, Follows, Library, LibraryError, Problem
from elinvar.tensor.gemm import LEAST_PADDED
from elinvar.tensor.workspace import HALVES

__all__ = ["MOST", "Run", "choose", "fits", "known"]

MOST = 128
"""Sizes that are measured in one process; what comes after them is torch's."""
_ASKED = 8  # candidates for each of three questions
_ROUNDS = 11
_MARGIN = 0.985  # what comes later in the library's order must take less of the earlier one's time
_MICROSECONDS = 150.0  # of work in one timed graph, or twenty calls
_ROWS = 64  # that are compared with float64
_modes = torch._C._len_torch_dispatch_stack  # noqa: SLF001  (what watches or replaces operations sees torch's own)
_log = logging.getLogger("elinvar.tensor")
_lock = threading.Lock()
Run = Callable[[int, int, int, int], bool]
Key = tuple[int, torch.dtype, tuple[int, int, int], Follows]
known: dict[Key, Run | None] = {}
"""What serves a size on a device, None where torch's call does."""


def fits(x: torch.Tensor, w: torch.Tensor, *others: torch.Tensor) -> bool:
    """Whether operands lie as the chosen algorithms need them: contiguous, from multiples of 16 bytes on.

    Large ones whose rows lie askew do not: of the library's algorithms for these, the right ones are slow.
    """
    dtype, index = x.dtype, x.get_device()
    if dtype not in HALVES or x.shape[1:] != w.shape[1:] or not x.numel() or not len(w) or _modes():
        return False
    if (x.shape[1] % 8 or len(w) % 8) and x.numel() * len(w) >= LEAST_PADDED:  # copies pay: `gemm.wide_product`
        return False
    return all(
        t.dtype is dtype and t.get_device() == index and t.is_contiguous() and not t.data_ptr() & 15 and not t.is_neg()
        for t in (x, w, *others)
    )


def choose(x: torch.Tensor, w: torch.Tensor, follows: Follows) -> Run | None:
    """Return what computes layers like this one, None where torch's own call does.

    Parameters
    ----------
    x, w
        (m, k) and (n, k), of which `fits` holds.
    follows
        What follows the product.
    """
    key = (x.get_device(), x.dtype, (len(x), len(w), x.shape[1]), follows)
    if key in known:
        return known[key]
    if torch.cuda.is_current_stream_capturing():
        return None
    with _lock:
        if key not in known:
            if len(known) >= MOST:
                return None
            try:
                with torch.cuda.device(key[0]):
                    known[key] = _found(key)
            except torch.cuda.OutOfMemoryError:  # another time there may be room
                return None
            except (LibraryError, RuntimeError) as error:
                _log.warning("linear: cuBLASLt is left to torch for %s: %s", key[2], error)
                known[key] = None
        return known[key]


def _name(lib: Library, key: Key) -> str:
    _, dtype, (m, n, k), follows = key
    kind = str(dtype).removeprefix("torch.")
    return f"tensor.cublaslt-{lib.version}.{kind}-{follows}.{m}x{n}x{k}"


def _found(key: Key) -> Run | None:
    lib = cublaslt.library()
    if isinstance(lib, str):
        _log.info("linear: torch's own calls serve: %s", lib)
        return None
    index, dtype, size, follows = key
    problem = Problem(lib, index, dtype, size, follows)
    profile, name = find_device(f"cuda:{index}").profile, _name(lib, key)
    trial = _Trial(problem)
    stored = _stored(tuned(profile).options.get(name), problem, trial.bias.data_ptr())
    if stored is not None:
        run = problem.runner(stored)
        if trial.right(run):
            return run
    one = trial.best()
    if one is None:
        return None
    try:
        save_tuned(profile, f"option.{name}", list(one.algorithm.data))
    except OSError:  # a cache that cannot be written only means measuring again
        pass
    return problem.runner(one)


def _stored(numbers: Any, problem: Problem, bias: int) -> Candidate | None:
    """Return a remembered algorithm if this library still knows it."""
    try:
        return problem.knows(Algorithm((ctypes.c_uint64 * 8)(*numbers)), bias)
    except (TypeError, ValueError, IndexError):
        return None


class _Trial:
    """Random operands of a problem's size, and what its results must be."""

    def __init__(self, problem: Problem) -> None:
        self._problem = problem
        m, n, k = problem.size
        device, dtype = problem.device, problem.dtype
        make = torch.Generator(device).manual_seed(1)

        def random(*shape: int) -> torch.Tensor:
            return torch.randn(shape, generator=make, device=device, dtype=dtype)

        # A bias as large as the sums cancels some of them: what was rounded before it was added shows.
        self.x, self.w, self.bias = random(m, k), random(n, k), random(n) * k**0.5
        self.y = torch.empty(m, n, device=device, dtype=dtype)
        self._nan = torch.full_like(self.bias, float("nan"))
        rows = torch.linspace(0, m - 1, min(m, _ROWS), device=device).round().long()
        x, w = self.x[rows].double(), self.w.double()
        exact, size = x @ w.t(), x.abs() @ w.abs().t()
        if problem.follows != "nothing":
            exact, size = exact + self.bias.double(), size + self.bias.double().abs()
        self._rows, self._exact = rows, exact.relu() if problem.follows == "relu" else exact
        # One rounding to storage, half a unit, and sums in float32 whose errors grow like a random walk.
        info = torch.finfo(dtype)
        self._allowed = self._exact.abs() * info.eps / 2 + info.tiny
        self._allowed += 4.0 * k**0.5 * 2.0**-24 * size

    def _run(self, run: Run, bias: torch.Tensor) -> bool:
        shift = 0 if self._problem.follows == "nothing" else bias.data_ptr()
        return run(self.x.data_ptr(), self.w.data_ptr(), shift, self.y.data_ptr())

    def right(self, run: Run) -> bool:
        """Whether an algorithm computes what it should everywhere, and makes NaN of NaN."""
        if self._problem.follows != "nothing":
            self.y.zero_()
            if not self._run(run, self._nan) or not bool(self.y.isnan().all()):
                return False
        self.y.copy_(self._nan.expand_as(self.y))
        if not self._run(run, self.bias) or bool(self.y.isnan().any()):
            return False
        return bool(((self.y[self._rows].double() - self._exact).abs() <= self._allowed).all())

    def best(self) -> Candidate | None:
        """Return the fastest right algorithm, or the first of those as fast; None if none is right."""
        problem = self._problem
        runs = [(one, problem.runner(one)) for one in problem.candidates(_ASKED, self.bias.data_ptr())]
        runs = [(one, run) for one, run in runs if self.right(run)]
        if len(runs) < 2:
            return runs[0][0] if runs else None
        times = self._times([run for _, run in runs])
        best = 0
        for i, spent in enumerate(times):
            if spent < _MARGIN * times[best]:
                best = i
        _log.debug("linear: %s: %s us, number %d", problem.size, [round(t, 2) for t in times], best)
        return runs[best][0]

    def _times(self, runs: list[Run]) -> list[float]:
        """Median device microseconds of one call, interleaved; in graphs, as calls would wait for Python."""
        guess = self._replayed(self._graph(runs[0], 4)) / 4
        repeats = int(min(max(_MICROSECONDS / max(guess, 1.0), 1), 20))
        graphs = [self._graph(run, repeats) for run in runs]
        spent: list[list[float]] = [[] for _ in runs]
        for _ in range(_ROUNDS):
            for times, graph in zip(spent, graphs, strict=True):
                times.append(self._replayed(graph) / repeats)
        return [statistics.median(times) for times in spent]

    def _graph(self, run: Run, repeats: int) -> torch.cuda.CUDAGraph:
        graph, stream = torch.cuda.CUDAGraph(), torch.cuda.Stream(self._problem.device)  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            graph.capture_begin(capture_error_mode="thread_local")
            try:
                for _ in range(repeats):
                    self._run(run, self.bias)
            finally:
                graph.capture_end()
        graph.replay()
        return graph

    @staticmethod
    def _replayed(graph: torch.cuda.CUDAGraph) -> float:
        start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
        start.record()
        graph.replay()
        stop.record()
        stop.synchronize()
        return 1e3 * float(start.elapsed_time(stop))
