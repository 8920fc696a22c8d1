"""The one CPU thread pool: ``parallel_for(n, fn)`` over fixed chunks.

The range is cut the same way whatever the number of threads, so a kernel that writes each chunk's own rows gives
the same bits on one thread and on sixty-four. The calling thread works too, a call inside a chunk runs inline, and
concurrent callers share the workers without ever waiting for each other: nothing here can deadlock. Functions that
release the GIL (numba ``nogil=True``, numpy, torch) run side by side.

numba's own ``parallel=True`` is not used anywhere in elinvar: its default layer aborts the process when two threads
call it at once, and OpenMP does not survive a fork.
"""

from __future__ import annotations

import collections
import itertools
import math
import os
import threading
from collections.abc import Callable
from functools import cache

from elinvar.errors import ConfigError, InputError

from ._cgroup import cpu_quota

__all__ = ["cpu_threads", "parallel_for", "set_threads"]

_CHUNKS = 128  # default pieces: two for each of 64 cores, and under 40 µs of bookkeeping in all
_MOST_THREADS = 1024


@cache
def _available() -> int:
    """Return min(affinity, control-group quota, ELINVAR_THREADS); read once, forgotten after a fork."""
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    limits = [affinity]
    quota = cpu_quota()
    if quota is not None:
        limits.append(math.ceil(quota))
    text = os.environ.get("ELINVAR_THREADS", "").strip()
    if text:
        if not text.isdecimal() or int(text) < 1:
            raise ConfigError(f"ELINVAR_THREADS is {text!r}; set it to a whole number of threads from 1, or unset it.")
        limits.append(int(text))
    return max(1, min(limits))


class _Work:
    """One parallel_for call: chunks are handed out in order to whoever asks."""

    def __init__(self, n: int, chunk: int, fn: Callable[[int, int], object], helpers: int) -> None:
        self.n = n
        self.chunk = chunk
        self.fn = fn
        self.chunks = -(-n // chunk)
        self.wanted = helpers
        self.running = 0
        self.left = threading.Event()  # set by the last helper to leave
        self.stopped = False
        self.failure: tuple[int, BaseException] | None = None
        self._next = itertools.count()  # next() on it is atomic
        self._lock = threading.Lock()

    def run(self) -> None:
        """Take chunks until none is left or one has failed."""
        n, chunk, fn, chunks = self.n, self.chunk, self.fn, self.chunks
        _here.inside = True
        try:
            while not self.stopped:
                k = next(self._next)
                if k >= chunks:
                    return
                try:
                    fn(k * chunk, min((k + 1) * chunk, n))
                except BaseException as error:  # noqa: BLE001  (raised again in the caller)
                    self._fail(k, error)
        finally:
            _here.inside = False

    def _fail(self, k: int, error: BaseException) -> None:
        # Chunks start in order, so the lowest failing one always runs: which error is raised is deterministic.
        rank = k if isinstance(error, Exception) else -1  # Ctrl-C is never hidden behind another error
        with self._lock:
            if self.failure is None or rank < self.failure[0]:
                self.failure = (rank, error)
        self.stopped = True


class _Workers:
    """Idle threads and the calls that want help."""

    def __init__(self) -> None:
        self._wake = threading.Condition(threading.Lock())
        self._open: collections.deque[_Work] = collections.deque()
        self._threads = 0

    def run(self, work: _Work) -> None:
        """Run `work` to its end on the calling thread and up to ``work.wanted`` helpers."""
        interrupt: BaseException | None = None
        try:
            with self._wake:
                while self._threads < work.wanted:
                    name = f"elinvar-cpu-{self._threads}"
                    threading.Thread(target=self._serve, name=name, daemon=True).start()
                    self._threads += 1
                self._open.append(work)
                self._wake.notify(work.wanted)
            work.run()
        except BaseException:
            work.stopped = True
            raise
        finally:
            # Helpers still write into the caller's arrays: leave only when the last one has, Ctrl-C or not.
            waiting = self._close(work)
            while waiting:
                try:
                    work.left.wait()
                    waiting = False
                except BaseException as error:  # noqa: BLE001  (raised again below)
                    work.stopped = True
                    interrupt = error
        if interrupt is not None:
            raise interrupt

    def _close(self, work: _Work) -> bool:
        """Take no further helper for `work`; return whether some are still running."""
        with self._wake:
            if work in self._open:
                self._open.remove(work)
            work.wanted = 0
            return work.running > 0

    def _serve(self) -> None:
        while True:
            with self._wake:
                while not self._open:
                    self._wake.wait()
                work = self._open[0]
                work.wanted -= 1
                if work.wanted == 0:
                    self._open.popleft()
                work.running += 1
            work.run()
            with self._wake:
                work.running -= 1
                if work.running == 0 and work.wanted == 0:  # nobody else can join
                    work.left.set()
            del work  # an idle worker keeps nobody's arrays alive


class _Here(threading.local):
    inside = False


_here = _Here()
_workers = _Workers()
_chosen: int | None = None


def _forget_after_fork() -> None:
    """Drop the parent's threads and locks: in the child they exist only as broken promises."""
    global _here, _workers
    _here = _Here()
    _workers = _Workers()
    _available.cache_clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_after_fork)


def cpu_threads() -> int:
    """Return how many threads ``parallel_for`` uses.

    The smallest of the CPU affinity, the container's CPU quota (rounded up) and ``ELINVAR_THREADS``, unless
    ``set_threads`` chose a number.

    Raises
    ------
    ConfigError
        If ``ELINVAR_THREADS`` is no positive whole number.
    """
    return _chosen if _chosen is not None else _available()


def set_threads(n: int | None) -> int:
    """Set the number of threads for this process and return the old one; None goes back to the automatic choice."""
    global _chosen
    old = cpu_threads()
    _chosen = None if n is None else _checked("set_threads", "n", n, 1, _MOST_THREADS)
    return old


def _checked(operation: str, name: str, value: int, least: int, most: int | None = None) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < least or (most is not None and value > most):
        upper = "" if most is None else f" to {most}"
        raise InputError(f"{operation} got {name}={value!r}; it takes a whole number from {least}{upper}.")
    return value


def parallel_for(
    n: int, fn: Callable[[int, int], object], *, chunk: int | None = None, threads: int | None = None
) -> None:
    """Call ``fn(start, stop)`` for consecutive pieces of ``range(n)``, on several threads.

    Parameters
    ----------
    n
        Length of the range; 0 calls nothing.
    fn
        Called once per piece ``[k*chunk, min((k+1)*chunk, n))``; its return value is ignored. Pieces may run in any
        order and at the same time.
    chunk
        Length of a piece. The default depends on `n` alone (at most 128 pieces), so results never depend on the
        number of threads.
    threads
        At most this many threads for this call, the caller included; default ``cpu_threads()``. 1 runs inline, as
        does a call from inside a piece.

    Raises
    ------
    InputError
        If a number is out of range or `fn` cannot be called.
    BaseException
        The exception of the lowest piece that raised. No new piece starts after a failure, and every running one
        has ended when this function returns.
    """
    if type(n) is not int or n < 0:
        n = _checked("parallel_for", "n", int(n) if hasattr(n, "__index__") else n, 0)
    if not callable(fn):
        raise InputError(f"parallel_for got fn={fn!r}; it takes a function of (start, stop).")
    chunk = max(1, -(-n // _CHUNKS)) if chunk is None else _checked("parallel_for", "chunk", chunk, 1)
    threads = cpu_threads() if threads is None else _checked("parallel_for", "threads", threads, 1, _MOST_THREADS)
    pieces = -(-n // chunk)
    if _here.inside or threads == 1 or pieces <= 1:
        for start in range(0, n, chunk):
            fn(start, min(start + chunk, n))
        return
    work = _Work(n, chunk, fn, min(threads, pieces) - 1)
    _workers.run(work)
    if work.failure is not None:
        try:
            raise work.failure[1]
        finally:
            work.failure = None  # the traceback holds this frame: break the cycle
