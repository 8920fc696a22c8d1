"""Buffers that came back while a Python name still refers to their tensor: neither live nor free until it is gone."""

from __future__ import annotations

from ._storage import Buffer, Held

__all__ = ["Named"]


class Named:
    """Released buffers that names still refer to, by size class. Not thread-safe: the pool holds its lock."""

    __slots__ = ("_waiting",)

    def __init__(self) -> None:
        self._waiting: dict[int, list[Buffer]] = {}

    @property
    def buffers(self) -> int:
        """How many there are."""
        return sum(map(len, self._waiting.values()))

    def of(self, nbytes: int) -> int:
        """Return how many there are of a class."""
        return len(self._waiting.get(nbytes, ()))

    def put(self, buffer: Buffer, cap: int) -> int:
        """Add a buffer; the longest waiting one of its class beyond `cap` is forgotten. Return how many that is."""
        waiting = self._waiting.setdefault(buffer.nbytes, [])
        waiting.append(buffer)
        if len(waiting) <= cap:
            return 0
        waiting.pop(0)
        return 1

    def take_free(self) -> list[Buffer]:
        """Remove and return those whose last name has gone."""
        free = [buffer for waiting in self._waiting.values() for buffer in waiting if buffer.held() is Held.NOBODY]
        for buffer in free:
            self._waiting[buffer.nbytes].remove(buffer)
        return free

    def forget(self) -> int:
        """Leave all of them to torch and return how many there were."""
        count = self.buffers
        self._waiting.clear()
        return count
