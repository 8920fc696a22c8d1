"""The waiting buffers of a pool, by size class, least recently used first."""

from __future__ import annotations

from ._storage import Buffer

__all__ = ["Shelf"]


class Shelf:
    """Waiting buffers. Not thread-safe: the pool holds its lock.

    Attributes
    ----------
    free
        Class bytes to buffers, the least recently used first. "When" is a counter, never a clock.
    """

    __slots__ = ("_tick", "free")

    def __init__(self) -> None:
        self.free: dict[int, list[Buffer]] = {}
        self._tick = 0

    @property
    def buffers(self) -> int:
        """How many buffers wait."""
        return sum(map(len, self.free.values()))

    @property
    def classes(self) -> int:
        """How many size classes have one."""
        return sum(map(bool, self.free.values()))

    @property
    def bytes(self) -> int:
        """Their class bytes."""
        return sum(nbytes * len(waiting) for nbytes, waiting in self.free.items())

    def put(self, buffer: Buffer, cap: int) -> bool:
        """Add a buffer as the most recently used one, unless its class already has `cap`; say whether it was added."""
        waiting = self.free.get(buffer.nbytes)
        if waiting is None:
            waiting = self.free[buffer.nbytes] = []
        if len(waiting) >= cap:
            return False
        self._tick += 1
        buffer.tick = self._tick
        waiting.append(buffer)
        return True

    def drop_oldest(self) -> int:
        """Forget the least recently used buffer of all and return its bytes, 0 when none waits."""
        oldest = min((waiting for waiting in self.free.values() if waiting), key=lambda w: w[0].tick, default=None)
        return oldest.pop(0).nbytes if oldest else 0

    def drop_class(self, nbytes: int) -> int:
        """Forget all buffers of a class and return how many there were."""
        return len(self.free.pop(nbytes, ()))

    def trim(self, cap: int) -> tuple[int, int]:
        """Forget the least recently used beyond `cap` in each class; return how many buffers and bytes."""
        count = freed = 0
        for nbytes, waiting in self.free.items():
            extra = max(0, len(waiting) - cap)
            del waiting[:extra]
            count += extra
            freed += extra * nbytes
        return count, freed
