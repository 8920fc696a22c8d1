"""How a Pipeline moves one item through its stages: tickets, and one lane of threads per stage.

A ``Board`` is the state a pipeline shares with its lanes, all of it under one lock. A ``Ticket`` is one item on its
way. ``ThreadLanes`` runs stages on threads of this process; ``elinvar.runtime.cluster`` has another implementation
of the same three methods.
"""

from __future__ import annotations

import contextlib
import contextvars
import dataclasses
import enum
import heapq
import logging
import math
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from elinvar.errors import PipelineError, PoolError

from .trace import trace

if TYPE_CHECKING:
    from ._stage import Stage

__all__ = ["Board", "Executor", "Lanes", "State", "ThreadLanes", "Ticket", "discard", "leaves"]

_log = logging.getLogger("elinvar.pipeline")
_DEEPEST = 8  # containers in containers that leaves() opens


class State(enum.Enum):
    """Where a ticket is."""

    QUEUED = "queued"  # waits before a stage
    RUNNING = "running"  # a stage function has its value
    DONE = "done"  # its result waits for the consumer
    FAILED = "failed"  # its error waits for the consumer
    HELD = "held"  # the consumer has its result
    DROPPED = "dropped"  # will never be delivered


class Ticket:
    """One item on its way through the stages."""

    __slots__ = ("context", "dispose", "error", "index", "modes", "ready", "state", "value")

    def __init__(self, index: int, value: object) -> None:
        self.index = index
        self.value = value
        self.state = State.QUEUED
        self.dispose: Callable[[Any], object] | None = None  # of the stage that made the value
        self.error: BaseException | None = None
        # What the submitting thread had in force: context variables, torch's grad modes, queued CUDA work.
        self.context = contextvars.copy_context()
        self.modes = _grad_modes()
        self.ready: list[Any] = []

    def __lt__(self, other: Ticket) -> bool:
        return self.index < other.index

    def fail(self, error: BaseException, where: str) -> None:
        """Keep `error` for the consumer, with a note that names the stage and the item."""
        if isinstance(error, StopIteration):
            # Raised out of an iterator it would silently end the consumer's loop.
            wrapped = PipelineError(f"Stage {where!r} raised StopIteration on item {self.index}.")
            wrapped.__cause__ = error
            error = wrapped
        with contextlib.suppress(Exception):  # an exotic exception may refuse notes; it is still raised
            error.add_note(f"elinvar.Pipeline: stage {where!r}, item {self.index}")
        self.error = error
        self.state = State.FAILED

    def pop_error(self) -> BaseException:
        """Return the error and forget it, so that its traceback does not keep the item's tensors alive here."""
        error, self.error = self.error, None
        assert error is not None
        return error


class Board:
    """State shared by a pipeline's consumer and its lanes; everything is read and written under ``lock``."""

    def __init__(self) -> None:
        self.lock = threading.RLock()  # re-entrant: cancel() may come from a signal handler
        self.changed = threading.Condition(self.lock)  # a head ticket may be ready
        self.limit = math.inf  # items after this index are not worth another stage
        self.stopped = False  # start nothing more

    def alive(self, ticket: Ticket) -> bool:
        """Return whether `ticket` may enter another stage."""
        return not self.stopped and ticket.index <= self.limit

    def failed(self, ticket: Ticket, error: BaseException, where: str) -> None:
        """Record a failure: later items stop at their next stage, earlier ones go on."""
        with self.lock:
            ticket.fail(error, where)
            self.limit = min(self.limit, ticket.index)
            self.changed.notify_all()


class Lanes(Protocol):
    """What carries tickets through all stages and marks them DONE or FAILED on the board."""

    def submit(self, ticket: Ticket) -> None:
        """Take a ticket in; never blocks."""

    def stop(self) -> None:
        """Start no further stage; does not wait. Called with ``board.stopped`` set."""

    def join(self) -> None:
        """Return when no stage function is running and no thread is left."""


class Executor(Protocol):
    """Something other than local threads that runs stages; ``elinvar.runtime.cluster`` makes one."""

    def open(self, stages: Sequence[Stage], board: Board) -> Lanes:
        """Return lanes that carry tickets through `stages` and report on `board`."""


def leaves(value: object, depth: int = 0) -> Iterator[Any]:
    """Yield what `value` contains: itself, or the leaves of tuples, lists, sets, dicts' values, dataclasses."""
    inner: Iterable[object]
    if isinstance(value, (str, bytes)) or depth > _DEEPEST:
        return
    if isinstance(value, (tuple, list, set, frozenset)):
        inner = value
    elif isinstance(value, dict):
        inner = value.values()
    elif dataclasses.is_dataclass(value) and not isinstance(value, type) and not _is_lease(value):
        inner = [getattr(value, field.name, None) for field in dataclasses.fields(value)]
    else:
        yield value
        return
    for part in inner:
        yield from leaves(part, depth + 1)


def _is_lease(value: object) -> bool:
    """Return whether `value` is a Lease or behaves like one (locks and memoryviews have ``release`` too)."""
    return callable(getattr(value, "release", None)) and hasattr(type(value), "tensor")


def discard(value: object, dispose: Callable[[Any], object] | None = None) -> None:
    """Free a value nobody will get: by its stage's `dispose`, else by releasing every Lease found in it.

    Errors are logged, not raised: this runs while another error, or Ctrl-C, is on its way out.
    """
    try:
        if dispose is not None:
            dispose(value)
            return
        for leaf in leaves(value):
            if _is_lease(leaf):
                with contextlib.suppress(PoolError):  # the stage may have released it itself
                    leaf.release()
    except Exception:  # noqa: BLE001
        _log.warning("An undelivered pipeline value of type %s could not be disposed.", type(value), exc_info=True)


def _grad_modes() -> tuple[bool, bool]:
    """Return (grad enabled, inference mode) of this thread; torch keeps both per thread, on by default."""
    torch = sys.modules.get("torch")
    if torch is None or not hasattr(torch, "is_inference_mode_enabled"):  # absent, or half imported elsewhere
        return True, False
    return torch.is_grad_enabled(), torch.is_inference_mode_enabled()


def _call(fn: Callable[[Any], object], value: object, modes: tuple[bool, bool]) -> object:
    if modes == (True, False):
        return fn(value)
    torch = sys.modules["torch"]
    grad, inference = modes
    with torch.inference_mode(inference), torch.set_grad_enabled(grad):
        return fn(value)


class Cuda:
    """Stream rules of a pipeline that has CUDA stages.

    Each worker of a CUDA stage has a stream of its own. A value leaves a stage only when the work that makes it has
    finished (the worker sleeps on a blocking event, other workers go on), so no stage ever sees half a tensor and
    an asynchronous fault is blamed on the stage that caused it. Tensors are recorded on the stream of whoever takes
    them, so the caching allocator does not reuse them too early.
    """

    def __init__(self, torch: Any, devices: Sequence[Any]) -> None:
        self._cuda = torch.cuda
        self.devices = tuple(dict.fromkeys(devices))

    def mark(self) -> list[Any]:
        """Return events behind all work the calling thread has queued so far."""
        return [self._cuda.current_stream(device).record_event() for device in self.devices]

    def adopt(self, value: object) -> None:
        """Tell the allocator that the calling thread's current streams use the tensors in `value`."""
        for leaf in leaves(value):
            if getattr(leaf, "is_cuda", False):
                leaf.record_stream(self._cuda.current_stream(leaf.device))

    def settle(self, value: object, device: Any) -> None:
        """Wait, asleep, for the calling thread's work on `device` and on the devices of tensors in `value`."""
        used = [] if device is None else [device]
        used += [leaf.device for leaf in leaves(value) if getattr(leaf, "is_cuda", False)]
        for one in dict.fromkeys(used):
            with self._cuda.device(one):
                event = self._cuda.Event(blocking=True)
                event.record(self._cuda.current_stream(one))
            event.synchronize()

    @contextlib.contextmanager
    def worker(self, device: Any) -> Iterator[Any]:
        """Make `device` current with a stream of its own for the life of one worker thread."""
        if device is None:
            yield None
            return
        stream = self._cuda.Stream(device)
        with self._cuda.device(device), self._cuda.stream(stream):
            yield stream


class _Lane:
    """One stage: its queue, in item order, and the threads that serve it."""

    def __init__(self, stage: Stage, lock: threading.RLock) -> None:
        self.stage = stage
        self.wake = threading.Condition(lock)
        self.queue: list[Ticket] = []
        self.next_index = 0

    def put(self, ticket: Ticket) -> None:
        heapq.heappush(self.queue, ticket)
        self.wake.notify()


class ThreadLanes:
    """Stages on threads of this process.

    A stage with one worker gets its items in item order, whatever the stages before it do; a stage with more takes
    the earliest item there is.
    """

    def __init__(self, stages: Sequence[Stage], board: Board, cuda: Cuda | None = None) -> None:
        self._board = board
        self._cuda = cuda
        self._lanes = [_Lane(stage, board.lock) for stage in stages]
        self._threads = [
            threading.Thread(target=self._serve, args=(at,), name=f"elinvar-{stage.label}-{worker}", daemon=True)
            for at, stage in enumerate(stages)
            for worker in range(stage.workers)
        ]
        try:
            for thread in self._threads:
                thread.start()
        except BaseException:  # the system is out of threads, or Ctrl-C
            with board.lock:
                board.stopped = True
                self.stop()
            raise

    def submit(self, ticket: Ticket) -> None:
        """Queue a ticket before the first stage."""
        with self._board.lock:
            self._lanes[0].put(ticket)

    def stop(self) -> None:
        """Wake every thread so that it sees ``board.stopped``."""
        with self._board.lock:
            for lane in self._lanes:
                lane.wake.notify_all()

    def join(self) -> None:
        """Wait for the threads, unless one of them is asking (a generator may be collected on any thread)."""
        if threading.current_thread() in self._threads:
            return
        for thread in self._threads:
            if thread.ident is not None:
                thread.join()

    def _serve(self, at: int) -> None:
        lane = self._lanes[at]
        try:
            worker = contextlib.nullcontext() if self._cuda is None else self._cuda.worker(lane.stage.cuda_device)
            with worker as stream:
                while (ticket := self._take(lane)) is not None:
                    self._work(at, ticket, stream)
                    del ticket  # an idle thread keeps no value alive
        except BaseException as error:  # noqa: BLE001  (no stream to be had: fail the items, do not hang them)
            while (ticket := self._take(lane)) is not None:
                self._give_up(ticket, error, lane.stage.label, ticket.value, ticket.dispose)

    def _take(self, lane: _Lane) -> Ticket | None:
        """Return the next ticket for `lane`, marked RUNNING, or None when there is nothing more to do."""
        board = self._board
        while True:
            with board.lock:
                while not board.stopped and not self._ready(lane):
                    lane.wake.wait()
                if board.stopped:
                    return None
                ticket = heapq.heappop(lane.queue)
                if board.alive(ticket):
                    lane.next_index = ticket.index + 1
                    ticket.state = State.RUNNING
                    return ticket
                ticket.state = State.DROPPED
            discard(ticket.value, ticket.dispose)
            ticket.value = None

    def _ready(self, lane: _Lane) -> bool:
        if not lane.queue:
            return False
        head = lane.queue[0]
        return lane.stage.workers > 1 or head.index == lane.next_index or not self._board.alive(head)

    def _work(self, at: int, ticket: Ticket, stream: Any) -> None:
        stage = self._lanes[at].stage
        result: object = None
        try:
            with trace(stage.label, item=ticket.index):
                if self._cuda is not None:
                    if stream is not None:
                        for event in ticket.ready:
                            stream.wait_event(event)
                    self._cuda.adopt(ticket.value)
                result = ticket.context.run(_call, stage.fn, ticket.value, ticket.modes)
                if self._cuda is not None:
                    self._cuda.settle(result, stage.cuda_device)
        except BaseException as error:  # noqa: BLE001  (raised again in the consumer)
            if result is not None:
                discard(result, stage.dispose)
            self._give_up(ticket, error, stage.label, ticket.value, ticket.dispose)
            return
        self._pass_on(at, ticket, result)

    def _give_up(
        self,
        ticket: Ticket,
        error: BaseException,
        where: str,
        value: object,
        dispose: Callable[[Any], object] | None,
    ) -> None:
        """Fail `ticket`; its input `value` will not be delivered either."""
        ticket.value = None
        self._board.failed(ticket, error, where)
        self.stop()  # wakes the lanes: those holding items that are now too late must drop them
        discard(value, dispose)

    def _pass_on(self, at: int, ticket: Ticket, result: object) -> None:
        board = self._board
        with board.lock:
            ticket.value = result
            ticket.dispose = self._lanes[at].stage.dispose
            late = not board.alive(ticket)
            if late:
                ticket.state = State.DROPPED
            elif at + 1 < len(self._lanes):
                ticket.state = State.QUEUED
                self._lanes[at + 1].put(ticket)
            else:
                ticket.state = State.DONE
                board.changed.notify_all()
        if late:
            discard(ticket.value, ticket.dispose)
            ticket.value = None
