"""Bounded, ordered, cancellable overlap of stages.

::

    with Pipeline([Stage(load), Stage(compute, device=dev), Stage(store)], in_flight=3) as p:
        for result in p.run(items):
            ...

While item 7 is stored, item 8 computes and item 9 loads. At most ``in_flight`` items exist at a time, counting the
one the consumer holds until it asks for the next, so memory is ``in_flight`` times one item whatever the speeds.
"""

from __future__ import annotations

import contextlib
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from types import TracebackType
from typing import Any, Self

from elinvar.errors import Cancelled, InputError, PipelineError

from ._flow import Flow
from ._lanes import Cuda, Executor
from ._stage import Stage, whole

__all__ = ["Executor", "Pipeline", "Stage"]


class Pipeline:
    """Run items through stages that overlap, and get the results in order.

    Two ways to feed it: ``run(items)`` pulls from an iterable; ``try_submit(item)`` and ``results()`` let a producer
    push. An error, Ctrl-C, a break out of the loop or the end of the ``with`` block leave no thread, no lease and no
    half-processed item behind; a stage function that is running is waited for, never killed.

    Parameters
    ----------
    stages
        Stages in order; a plain function stands for ``Stage(function)``.
    in_flight
        Most items that exist at a time, counting the one the consumer holds until it asks for the next.
    executor
        Where stages run; None is threads of this process, ``elinvar.runtime.cluster.cluster(...)`` is Dask.
    progress
        ``progress(done, total)``, called in the consumer's thread just before each result is delivered; `total` is
        None when the items have no length. What it raises ends the run.

    Raises
    ------
    InputError
        If there is no stage, `in_flight` is below 1, or the stages fill the CPU more than once.
    DeviceUnavailable
        If a stage's device is not on this machine (with an executor, it is looked for where the stage runs).
    """

    def __init__(
        self,
        stages: Iterable[Stage | Callable[[Any], Any]],
        in_flight: int = 3,
        executor: Executor | None = None,
        progress: Callable[[int, int | None], object] | None = None,
    ) -> None:
        self._stages = _checked_stages(stages, here=executor is None)
        self._in_flight = whole("Pipeline", "in_flight", in_flight)
        if executor is not None and not callable(getattr(executor, "open", None)):
            raise InputError(f"Pipeline got executor={executor!r}; it takes None or what cluster(...) returns.")
        if progress is not None and not callable(progress):
            raise InputError(f"Pipeline got progress={progress!r}; it takes a function of (done, total).")
        self._executor = executor
        self._progress = progress
        self._lock = threading.RLock()
        self._flow: Flow | None = None
        self._finalizer: Any = None
        self._pushed = False
        self._delivered = 0
        self._closed = ""

    # ---------------------------------------------------------------- pulling

    def run(self, items: Iterable[Any]) -> Iterator[Any]:
        """Return an iterator over the results of `items`, in order.

        The input iterator is advanced in the consumer's thread, between results, and never ahead of ``in_flight``;
        it may be infinite. Heavy loading belongs in the first stage.

        At the first exception no new item starts, earlier items finish and are yielded, then it is raised as its
        own type, with a note naming the stage and the item; the input iterator's own errors count as stage
        ``source``. When several items fail, the earliest one's error is raised.

        Raises
        ------
        InputError
            If `items` cannot be iterated.
        PipelineError
            If the pipeline is closed, or another run is under way.
        Cancelled
            From the iterator, after ``cancel()``, or when another thread closes the pipeline.
        """
        self._check_open("run")
        try:
            source = iter(items)
        except TypeError as error:
            raise InputError(f"Pipeline.run got {type(items).__name__}; it takes an iterable of items.") from error
        total: int | None = None
        with contextlib.suppress(TypeError):
            total = len(items)  # type: ignore[arg-type]
        return self._pull(source, total)

    def _pull(self, source: Iterator[Any], total: int | None) -> Iterator[Any]:
        flow = self._open_flow("run", pushed=False)
        try:
            yield from self._deliver(flow, source, total)
        except GeneratorExit:
            raise
        except BaseException:
            self._closed = self._closed or "by an error"
            raise
        finally:
            self._drop_flow(flow)

    def _deliver(self, flow: Flow, source: Iterator[Any], total: int | None) -> Iterator[Any]:
        done = 0
        while True:
            while flow.room():
                try:
                    item = next(source)
                except StopIteration:
                    flow.end()
                except Exception as error:  # noqa: BLE001  (raised again at its turn)
                    flow.fail_source(error)
                else:
                    flow.submit(item, force=True)
                    del item
            ticket = flow.wait()
            if ticket is None:
                return
            done += 1
            self._report(done, total)
            yield flow.take(ticket)
            flow.release()

    # ---------------------------------------------------------------- pushing

    def try_submit(self, item: object) -> bool:
        """Start `item` if fewer than ``in_flight`` exist, and say whether it was started; never blocks.

        After a failure it returns False until ``results()`` has raised the error. A refused item stays the caller's.

        Raises
        ------
        PipelineError
            If the pipeline is closed or finished, or a ``run`` is under way.
        Cancelled
            After ``cancel()``.
        """
        flow = self._open_flow("try_submit", pushed=True)
        if flow.ended:
            raise PipelineError("Pipeline.try_submit was called after finish(); make a new Pipeline.")
        return flow.submit(item)

    def results(self, *, wait: bool = False) -> Iterator[Any]:
        """Return an iterator over the results of submitted items, in order.

        It ends when every item submitted so far was delivered. With `wait` it blocks for more until ``finish()``,
        ``close()`` or ``cancel()`` is called from another thread. Errors are raised as by ``run``; leaving the loop
        early keeps the remaining items for the next ``results()``.

        Raises
        ------
        PipelineError
            If the pipeline is closed, a ``run`` is under way, or another loop is reading results.
        """
        self._check_open("results")
        return self._collect(wait=wait)

    def _collect(self, *, wait: bool) -> Iterator[Any]:
        flow = self._open_flow("results", pushed=True)
        me = object()
        with flow.board.lock:
            if flow.consumer is not None:
                raise PipelineError("Pipeline.results is already being read; one loop reads results at a time.")
            flow.consumer = me
        try:
            while (ticket := flow.wait(for_more=wait)) is not None:
                self._report(self._delivered + 1, None)
                self._delivered += 1
                yield flow.take(ticket)
                flow.release()
        except GeneratorExit:
            raise
        except BaseException:
            self._closed = self._closed or "by an error"
            self._drop_flow(flow)
            raise
        finally:
            flow.release()
            flow.consumer = None

    def finish(self) -> None:
        """Take no more items; ``results(wait=True)`` ends after the last one."""
        self._open_flow("finish", pushed=True).end()

    # ---------------------------------------------------------------- control

    @property
    def in_flight(self) -> int:
        """Most items that exist at a time."""
        return self._in_flight

    def set_in_flight(self, n: int) -> int:
        """Change ``in_flight``, also while running, and return the old value.

        Lowering it starts nothing new until enough items have been delivered; it never drops one.
        """
        n = whole("Pipeline.set_in_flight", "n", n)
        with self._lock:
            old, self._in_flight = self._in_flight, n
            flow = self._flow
        if flow is not None:
            with flow.board.lock:
                flow.in_flight = n
        return old

    @property
    def stopping(self) -> bool:
        """Whether nothing more will be started, after an error, Ctrl-C, ``cancel()`` or ``close()``.

        A running stage function is waited for; a long one may ask this now and then, and raise ``Cancelled``.
        """
        flow = self._flow
        return bool(self._closed) or (flow is not None and flow.board.stopped)

    @property
    def outstanding(self) -> int:
        """Items that exist now: started, finished but not delivered, or held by the consumer."""
        flow = self._flow
        return len(flow.order) if flow is not None else 0

    def cancel(self) -> None:
        """Start nothing more; whoever reads results gets ``Cancelled`` as soon as running stage functions end.

        May be called from any thread, a stage or a signal handler; does not wait (``close()`` does).
        """
        with self._lock:
            self._closed = "cancelled"
            flow = self._flow
        if flow is not None:
            flow.cancel()

    def close(self) -> None:
        """Stop, wait for running stage functions, join all threads, dispose of undelivered results; idempotent."""
        with self._lock:
            self._closed = self._closed or "closed"
            flow = self._flow
        if flow is not None:
            self._drop_flow(flow)

    def __enter__(self) -> Self:
        self._check_open("with")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, frame: TracebackType | None
    ) -> None:
        self.close()

    # ---------------------------------------------------------------- inside

    def _check_open(self, operation: str) -> None:
        if self._closed == "cancelled":
            raise Cancelled(f"Pipeline.{operation} was called on a cancelled pipeline; make a new Pipeline.")
        if self._closed:
            how = self._closed if self._closed == "closed" else f"closed {self._closed}"
            raise PipelineError(f"Pipeline.{operation} was called after the pipeline was {how}; make a new Pipeline.")

    def _open_flow(self, operation: str, *, pushed: bool) -> Flow:
        """Return the current flow of the wanted kind, starting its threads when there is none."""
        with self._lock:
            self._check_open(operation)
            if self._flow is None:
                self._flow = Flow(self._stages, self._in_flight, self._executor, _cuda_of(self._stages, self._executor))
                self._pushed = pushed
                # A pipeline that is simply forgotten must not leave its threads behind.
                self._finalizer = weakref.finalize(self, Flow.close, self._flow)
            elif not pushed or not self._pushed:
                busy = "submitted items are under way" if self._pushed else "a run is under way"
                raise PipelineError(f"Pipeline.{operation} was called while {busy}; finish it or make a new Pipeline.")
            return self._flow

    def _drop_flow(self, flow: Flow) -> None:
        try:
            flow.close()
        finally:
            with self._lock:
                if self._flow is flow:
                    self._flow = None
                    self._finalizer.detach()

    def _report(self, done: int, total: int | None) -> None:
        if self._progress is None:
            return
        try:
            self._progress(done, total)
        except BaseException as error:
            error.add_note(f"elinvar.Pipeline: progress callback, item {done - 1}")
            raise


def _checked_stages(stages: Iterable[Stage | Callable[[Any], Any]], *, here: bool) -> tuple[Stage, ...]:
    if isinstance(stages, Stage) or not isinstance(stages, Iterable):
        raise InputError(f"Pipeline got stages={stages!r}; it takes a list of Stage(function).")
    found = tuple((stage if isinstance(stage, Stage) else Stage(stage)).resolved(here=here) for stage in stages)
    if not found:
        raise InputError("Pipeline got no stages; it takes a list of at least one Stage(function).")
    filling = [stage for stage in found if stage.fills_cpu]
    if len(filling) > 1 or any(stage.workers > 1 for stage in filling):
        names = ", ".join(f"{stage.label!r} ({stage.workers} worker{'s'[: stage.workers > 1]})" for stage in filling)
        raise InputError(
            f"Pipeline got CPU compute stages {names}; it takes at most one, with one worker, because torch and numba "
            "already use every core: merge them or drop compute=True."
        )
    return found


def _cuda_of(stages: Sequence[Stage], executor: Executor | None) -> Cuda | None:
    """Return the stream rules when a stage of this process works on CUDA; another executor has its own."""
    devices = [stage.cuda_device for stage in stages if stage.cuda_device is not None]
    if not devices or executor is not None:
        return None
    import torch

    return Cuda(torch, devices)
