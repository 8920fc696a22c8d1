"""A queue that turns calls from many threads into batches."""

from __future__ import annotations

import collections
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from elinvar.errors import InputError, PipelineError
from elinvar.runtime.memory import Pool
from elinvar.tensor.batching import batched
from elinvar.tensor.surroundings import modes_here, on_streams, stream_here

if TYPE_CHECKING:
    from typing import Self

__all__ = ["BatchingQueue"]


class _Item(NamedTuple):
    """One waiting call."""

    x: torch.Tensor
    future: Future[Any]
    since: float
    stream: Any


class BatchingQueue:
    """Collects items of concurrent callers into batches for one worker thread.

    ::

        with BatchingQueue(model, max_batch=64) as queue:
            futures = [queue.submit(x) for x in items]
            results = [f.result() for f in futures]

    Items are taken in the order they came. A batch starts when `max_batch` items wait, or when the oldest has waited
    `max_wait` seconds. At most `capacity` items wait: `submit` blocks, `try_submit` returns None. When a batch fails,
    its items are run one by one, so that only those at fault get the exception. Running out of memory halves the batch
    as in `batched`, and later batches stay that small. The function runs in the modes in which the queue was made
    (`torch.no_grad`, `torch.inference_mode`, `torch.autocast`), and on a GPU on its callers' stream; where the callers
    of one batch use different streams, the worker waits for the batch before it hands out results.

    Parameters
    ----------
    fn
        Takes Tensor[batch, ...]; returns a tensor, or a tuple of tensors, whose first dimension is the batch's.
    max_batch
        Items per call at most.
    max_wait
        Seconds an item may wait for company.
    capacity
        Items that may wait.
    pool
        Shrunk when memory runs out.
    clock
        Monotonic seconds; for tests.

    Raises
    ------
    InputError
        A number is out of range.
    """

    def __init__(
        self,
        fn: Callable[[torch.Tensor], Any],
        *,
        max_batch: int = 64,
        max_wait: float = 0.002,
        capacity: int = 1024,
        pool: Pool | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        whole = all(isinstance(n, int) and not isinstance(n, bool) for n in (max_batch, capacity))
        if not whole or max_batch < 1 or capacity < 1 or not max_wait >= 0:
            raise InputError(
                f"BatchingQueue: max_batch={max_batch}, capacity={capacity}, max_wait={max_wait}; give whole numbers "
                "from 1, and seconds from 0"
            )
        self._fn = fn
        self._max_batch, self._max_wait, self._capacity = max_batch, max_wait, capacity
        self._pool, self._clock = pool, clock
        self._modes = modes_here()
        self._waiting: collections.deque[_Item] = collections.deque()
        self._changed = threading.Condition()
        self._closed = False
        self.batches = 0
        """Batches run so far."""
        self.items = 0
        """Items run so far."""
        self._thread = threading.Thread(target=self._serve, name="elinvar-batching", daemon=True)
        self._thread.start()

    @property
    def batch(self) -> int:
        """Items per call at most: `max_batch`, less after memory ran out."""
        return self._max_batch

    def submit(self, x: torch.Tensor, timeout: float | None = None) -> Future[Any]:
        """Add one item and return its future; block while `capacity` items wait.

        Raises
        ------
        PipelineError
            The queue is closed.
        TimeoutError
            No room after `timeout` seconds.
        """
        future = self._add(x, wait=True, timeout=timeout)
        if future is None:
            raise TimeoutError(f"BatchingQueue.submit: {self._capacity} items still wait after {timeout} s")
        return future

    def try_submit(self, x: torch.Tensor) -> Future[Any] | None:
        """Add one item and return its future, or None at once when `capacity` items wait."""
        return self._add(x, wait=False, timeout=None)

    def _add(self, x: torch.Tensor, *, wait: bool, timeout: float | None) -> Future[Any] | None:
        if not isinstance(x, torch.Tensor):
            raise InputError(f"BatchingQueue: the item is a {type(x).__name__}; give a tensor")
        future: Future[Any] = Future()
        with self._changed:
            if wait:
                self._changed.wait_for(lambda: self._closed or len(self._waiting) < self._capacity, timeout)
            if self._closed:
                raise PipelineError("BatchingQueue: it is closed; make another one")
            if len(self._waiting) >= self._capacity:
                return None
            self._waiting.append(_Item(x, future, self._clock(), stream_here(x)))
            self._changed.notify_all()
        return future

    def _serve(self) -> None:
        while True:
            taken = self._take()
            if not taken:
                return
            live = [item for item in taken if item.future.set_running_or_notify_cancel()]
            if live:
                with self._modes():
                    self._run(live)
            del taken, live  # an idle worker keeps nobody's tensors alive

    def _take(self) -> list[_Item]:
        """Wait for a full batch or the oldest item's time; nothing means closed and empty."""
        with self._changed:
            while not self._waiting:
                if self._closed:
                    return []
                self._changed.wait()
            due = self._waiting[0].since + self._max_wait
            while len(self._waiting) < self._max_batch and not self._closed:
                left = due - self._clock()
                if left <= 0:
                    break
                self._changed.wait(left)
            count = min(self._max_batch, len(self._waiting))
            taken = [self._waiting.popleft() for _ in range(count)]
            self._changed.notify_all()
        return taken

    def _run(self, live: list[_Item]) -> None:
        try:
            with on_streams([item.stream for item in live]) as deliver:
                done = batched(self._fn, [item.x for item in live], self._max_batch, pool=self._pool)
                for value in done:
                    deliver(value)
        except BaseException as error:  # noqa: BLE001  (it belongs to the callers)
            if len(live) == 1:
                live[0].future.set_exception(error)
                self.batches += 1
                self.items += 1
                return
            failed = True
        else:
            failed = False
        if failed:  # find out whose fault it is
            for one in live:
                self._run([one])
            return
        if done.halvings:
            self._max_batch = done.batch
        self.batches += done.calls
        self.items += len(live)
        for item, value in zip(live, done, strict=True):
            item.future.set_result(value)

    def close(self) -> None:
        """Run what waits, then end the worker. Items submitted later are refused."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
