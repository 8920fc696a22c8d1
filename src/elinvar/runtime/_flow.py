"""One stream of items through a Pipeline: who exists, in which order, and who may start, wait, cancel and close."""

from __future__ import annotations

import collections
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from elinvar.errors import Cancelled

from ._lanes import Board, Cuda, Executor, Lanes, State, ThreadLanes, Ticket, discard

if TYPE_CHECKING:
    from ._stage import Stage

__all__ = ["Flow"]


class Flow:
    """One stream of items: the tickets that exist, in order, and the lanes that carry them."""

    def __init__(self, stages: Sequence[Stage], in_flight: int, executor: Executor | None, cuda: Cuda | None) -> None:
        self.board = Board()
        self.in_flight = in_flight
        self.order: collections.deque[Ticket] = collections.deque()
        self.count = 0
        self.ended = False
        self.closed = False
        self.cancelled = False
        self.consumer: object | None = None
        self.cuda = cuda
        self.lanes: Lanes = (
            ThreadLanes(stages, self.board, cuda) if executor is None else executor.open(stages, self.board)
        )

    def room(self) -> bool:
        """Return whether another item may start."""
        with self.board.lock:
            return self.accepting() and len(self.order) < self.in_flight

    def accepting(self) -> bool:
        """Return whether items are taken at all: not ended, closed, cancelled or failed."""
        return not (self.ended or self.board.stopped or self.board.limit < self.count)

    def submit(self, item: object, *, force: bool = False) -> bool:
        """Start an item, unless ``in_flight`` exist; `force` starts it anyway, or disposes of it when none may."""
        with self.board.lock:
            if not self.accepting() or not (force or len(self.order) < self.in_flight):
                taken = False
            else:
                ticket = self._ticket(item)
                if self.cuda is not None:
                    ticket.ready = self.cuda.mark()
                self.lanes.submit(ticket)
                taken = True
        if force and not taken:
            discard(item)
        return taken

    def fail_source(self, error: Exception) -> None:
        """Let the input iterator's error be the next item's: earlier items are delivered first."""
        with self.board.lock:
            self.board.failed(self._ticket(None), error, "source")

    def _ticket(self, item: object) -> Ticket:
        ticket = Ticket(self.count, item)
        self.count += 1
        self.order.append(ticket)
        return ticket

    def wait(self, *, for_more: bool = False) -> Ticket | None:
        """Return the earliest ticket once it is done, or None when no item is left.

        Raises the error of the earliest ticket if that is what it holds, and ``Cancelled`` after a cancel or close.
        """
        with self.board.lock:
            while True:
                if self.cancelled or self.closed:
                    what = "cancelled" if self.cancelled else "closed while results were awaited"
                    raise Cancelled(f"The pipeline was {what} after {self.count - len(self.order)} items.")
                if self.order:
                    head = self.order[0]
                    if head.state is State.DONE:
                        return head
                    if head.state is State.FAILED:
                        raise head.pop_error()
                elif not for_more or self.ended:
                    return None
                self.board.changed.wait()

    def take(self, ticket: Ticket) -> Any:
        """Hand a done ticket's result to the consumer, who then owns it."""
        with self.board.lock:
            if ticket.state is not State.DONE:
                raise Cancelled("The pipeline was closed before this result was taken.")
            value, ticket.value = ticket.value, None
            ticket.state = State.HELD
        if self.cuda is not None:
            self.cuda.adopt(value)
        return value

    def release(self) -> None:
        """Let go of the ticket the consumer held: another item may start."""
        with self.board.lock:
            if self.order and self.order[0].state is State.HELD:
                self.order.popleft()

    def end(self) -> None:
        """Take no more items."""
        with self.board.lock:
            self.ended = True
            self.board.changed.notify_all()

    def cancel(self) -> None:
        """Start nothing more and wake the consumer; does not wait, so it may be called from a signal handler."""
        with self.board.lock:
            self.cancelled = True
            self._stop()

    def _stop(self) -> None:
        self.board.stopped = True
        self.lanes.stop()
        self.board.changed.notify_all()

    def close(self) -> None:
        """Stop, wait for the stage functions that are running, dispose of everything undelivered."""
        with self.board.lock:
            self.closed = True
            self._stop()
            lost = [t for t in self.order if t.state in (State.QUEUED, State.DONE)]
            for ticket in lost:
                ticket.state = State.DROPPED
        try:
            self.lanes.join()
        finally:  # a second Ctrl-C skips the wait, not the clean-up; what still runs is disposed of by its lane
            for ticket in lost:
                discard(ticket.value, ticket.dispose)
                ticket.value = None
            with self.board.lock:
                self.order.clear()
