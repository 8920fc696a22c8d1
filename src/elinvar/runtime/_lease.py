"""What a pool hands out: leases, the frames that collect them, and statistics."""

from __future__ import annotations

import contextlib
import contextvars
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING

import torch

from elinvar.errors import DoubleRelease, StaleLease

from ._storage import Buffer

if TYPE_CHECKING:
    from typing import Self

    from .memory import Pool

__all__ = ["Frame", "Lease", "PoolStats", "current_frame"]


@dataclass(frozen=True)
class PoolStats:
    """One moment of a pool, taken under its lock.

    ``allocation_count`` buffers were made; each is live, pooled, evicted, dropped or escaped.

    Attributes
    ----------
    total_pooled
        Buffers waiting in the pool.
    size_classes
        Size classes those are of.
    total_memory
        Bytes the pool owns: ``bytes_live + bytes_cached``. This is what the budget limits.
    allocation_count, reuse_count, requests
        Leases served by a new buffer, by a pooled one, and both together.
    reuse_rate
        ``reuse_count / requests``, 0 before the first request.
    evictions
        Buffers given back to torch by the budget, `Pool.shrink_to_fit`, `Pool.clear`, `Pool.clear_size`, or because
        memory ran out.
    dropped
        Buffers given back because their class was full (``per_class``).
    escaped
        Buffers left to torch because somebody still held the storage at release. One held by a Python name alone
        counts until that name is gone.
    bytes_live, bytes_cached
        Class bytes of live leases, and of buffers waiting.
    bytes_peak
        The largest ``total_memory`` so far.
    bytes_waste
        Class bytes beyond what live leases asked for.
    """

    total_pooled: int
    size_classes: int
    total_memory: int
    allocation_count: int
    reuse_count: int
    requests: int
    reuse_rate: float
    evictions: int
    dropped: int
    escaped: int
    bytes_live: int
    bytes_cached: int
    bytes_peak: int
    bytes_waste: int


class Lease:
    """A tensor on loan. Release it once: by ``with``, by `release`, or by the `Pool.frame` around it.

    A lease that is dropped without a release returns its buffer when it is garbage-collected.
    """

    __slots__ = ("__weakref__", "_buffer", "_frame", "_generation", "_pool")

    def __init__(self, pool: Pool, buffer: Buffer) -> None:
        self._pool = pool
        self._buffer: Buffer | None = buffer
        self._generation = buffer.generation
        self._frame: Frame | None = None

    @property
    def tensor(self) -> torch.Tensor:
        """The lent tensor: contiguous, of the shape and dtype asked for, its content undefined unless cleared.

        Raises
        ------
        StaleLease
            The lease has been released.
        """
        buffer = self._buffer
        if buffer is not None and buffer.generation == self._generation and buffer.lent is not None:
            return buffer.lent
        raise StaleLease("Lease.tensor: this lease was released; acquire another, or release it later.")

    @property
    def released(self) -> bool:
        """Whether the lease was released."""
        return self._buffer is None or self._buffer.generation != self._generation

    def release(self) -> None:
        """Give the tensor back.

        Raises
        ------
        DoubleRelease
            It was given back before; nothing changes.
        """
        self._pool.release(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._buffer is not None:  # released early inside the block: nothing left to do
            self._pool.release(self)

    def __del__(self) -> None:
        # The collector may run us while this thread is inside the pool: leave a note, the pool acts on it later.
        if self._buffer is not None:
            self._pool._lost.append((self._buffer, self._generation))  # noqa: SLF001

    def __repr__(self) -> str:
        if self.released:
            return "<Lease released>"
        tensor = self.tensor
        return f"<Lease {tuple(tensor.shape)} {tensor.dtype} on {self._pool.device}>"


class Frame:
    """The leases of one ``with pool.frame()`` block."""

    __slots__ = ("_leases", "_outer", "_pool")

    def __init__(self, pool: Pool, outer: Frame | None) -> None:
        self._pool = pool
        self._outer = outer
        self._leases: dict[Lease, None] | None = {}  # in order of acquisition; None once closed

    def of(self, pool: Pool) -> Frame | None:
        """Return the innermost open frame of `pool`, this one or one around it."""
        frame: Frame | None = self
        while frame is not None and (frame._pool is not pool or frame._leases is None):  # noqa: SLF001
            frame = frame._outer  # noqa: SLF001
        return frame

    def add(self, lease: Lease) -> None:
        """Take responsibility for a lease."""
        if self._leases is not None:
            self._leases[lease] = None

    def discard(self, lease: Lease) -> None:
        """Forget a lease that was released early."""
        if self._leases is not None:
            self._leases.pop(lease, None)

    def close(self) -> None:
        """Release what is still on loan."""
        leases, self._leases = self._leases or {}, None
        for lease in list(leases):  # a thread that shares our context may still add one
            with contextlib.suppress(DoubleRelease):  # another thread may be faster
                lease.release()


current_frame: contextvars.ContextVar[Frame | None] = contextvars.ContextVar("elinvar.pool.frame", default=None)
