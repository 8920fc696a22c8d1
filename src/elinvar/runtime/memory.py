"""The memory pool: buffers by size class, a byte budget, leases, and statistics that add up.

::

    pool = elinvar.Pool("cpu", budget_bytes=2 << 30)
    with pool.acquire((1024, 1024), torch.float32) as lease:
        torch.mul(x, 2.0, out=lease.tensor)

What a pool is worth. On a CPU, buffers above about 32 MB: glibc gives such blocks back to the kernel on every free, so
ordinary torch code faults every page in again, and a pool is several times faster (``benchmarks/pool.py`` measures it).
Below that it buys predictability and a budget, not speed. `keep_pages` gives ordinary torch code most of the speed. On
CUDA torch already caches, and the pool's worth is the budget.

Who may still hold a tensor when its lease is released? Nobody should. If autograd, a view, a numpy array or a DLPack
capsule does, the buffer is left to torch, counted as escaped, and never lent again. If only Python names still refer to
``lease.tensor`` itself, the buffer counts as escaped until they are gone and comes back afterwards: a name that
outlives its lease costs a buffer, never wrong data. Addresses (``data_ptr()``, ``__cuda_array_interface__``) cannot be
seen; be done with them before the release.
"""

# ruff: noqa: SLF001  (a pool and its leases are two halves of one thing)

from __future__ import annotations

import contextvars
import operator
import os
import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

from elinvar.errors import (
    BudgetExceeded,
    DeviceOutOfMemory,
    DoubleRelease,
    ForeignLease,
    FrozenPool,
    InputError,
    StaleLease,
)

from ._lease import Frame, Lease, PoolStats, current_frame
from ._named import Named
from ._pages import keep_pages
from ._shelf import Shelf
from ._storage import SPECS, Buffer, Held, Spec, class_bytes, is_out_of_memory, poison, spec_for, torch_empty
from ._streams import CudaStreams, Streams, end_work, pick
from .device import Device
from .device import device as find_device

if TYPE_CHECKING:
    from typing import Self

__all__ = ["Lease", "Pool", "PoolStats", "keep_pages", "live_leases", "refuse_grad"]

_UNLIMITED = 1 << 63
_frozen: contextvars.ContextVar[tuple[Pool, ...]] = contextvars.ContextVar("elinvar.pool.frozen", default=())
_pools: weakref.WeakSet[Pool] = weakref.WeakSet()


class Pool:
    """Buffers of one device, kept for reuse in size classes of powers of two bytes, 512 at least.

    Thread-safe. One buffer is one torch storage, so writing one lease never touches another's autograd version.

    Parameters
    ----------
    device
        A `Device` or what `elinvar.device` accepts.
    budget_bytes
        Limit on live plus waiting class bytes; None sets none. Least recently used waiting buffers are given up before
        a request is refused.
    per_class
        Waiting buffers kept per size class; more are given back to torch.
    debug
        Fill buffers with NaN (0xA5 bytes for integers) on acquire and on release, so that a read of undefined or
        returned memory shows. None reads the environment variable ``ELINVAR_POOL_DEBUG``.
    allocate
        ``(nbytes, torch.device) -> uint8 tensor``, instead of torch's allocator.
    streams
        The device's streams; None means CUDA's on cuda and none elsewhere.

    Raises
    ------
    InputError
        A negative or fractional budget or cap.
    DeviceUnavailable
        The device is not on this machine.
    """

    def __init__(
        self,
        device: Device | str | torch.device = "auto",
        budget_bytes: int | None = None,
        per_class: int = 10,
        *,
        debug: bool | None = None,
        allocate: Callable[[int, torch.device], torch.Tensor] = torch_empty,
        streams: Streams | None = None,
    ) -> None:
        self._device = find_device(device)
        self._limit = _bound("Pool", budget_bytes)
        self._per_class = _count("Pool", "per_class", per_class)
        self._debug = os.environ.get("ELINVAR_POOL_DEBUG", "") not in ("", "0") if debug is None else bool(debug)
        self._allocate = allocate
        self._streams = streams
        if streams is None and self._device.kind == "cuda":
            self._streams = CudaStreams(self._device.index)
        self._lock = threading.RLock()  # re-entrant: dropping a tensor may run its owner's callbacks
        self._shelf = Shelf()
        self._named = Named()
        self._lost: deque[tuple[Buffer, int]] = deque()  # leases that were garbage-collected
        self._owned = 0  # class bytes live and waiting
        self._waste = self._peak = 0
        self._allocated = self._reused = self._returned = 0
        self._evicted = self._dropped = self._escaped = 0
        _pools.add(self)

    @property
    def device(self) -> Device:
        """The device whose memory this is."""
        return self._device

    @property
    def budget_bytes(self) -> int | None:
        """The limit on live plus waiting bytes, None without one; see `set_budget`."""
        return None if self._limit == _UNLIMITED else self._limit

    @property
    def per_class(self) -> int:
        """Waiting buffers kept per size class; see `set_per_class`."""
        return self._per_class

    @property
    def debug(self) -> bool:
        """Whether buffers are poisoned; see `set_debug`."""
        return self._debug

    @property
    def live(self) -> int:
        """Leases not yet released."""
        with self._lock:
            self._settle()
            return self._allocated + self._reused - self._returned

    # -- lending -----------------------------------------------------------------------------------------------------

    def acquire(self, shape: int | Sequence[int], dtype: torch.dtype = torch.float32, clear: bool = False) -> Lease:
        """Lend a contiguous tensor.

        Parameters
        ----------
        shape
            Dimensions, each at least 1; ``()`` is one element.
        dtype
            Any torch dtype that memory can be viewed as.
        clear
            Fill it with zeros; otherwise the content is undefined.

        Raises
        ------
        InputError
            The shape or dtype is not accepted.
        BudgetExceeded
            It does not fit the budget even without a single waiting buffer; nothing changed.
        FrozenPool
            Inside `frozen`, and no waiting buffer of the class.
        DeviceOutOfMemory
            The device's allocator refused, also after all waiting buffers were given back.
        """
        try:
            spec = SPECS[shape, dtype]
        except (KeyError, TypeError):  # new, or no key at all: look closely
            spec = spec_for(shape, dtype)
        with self._lock:
            waiting = self._shelf.free.get(spec.class_bytes)
            if waiting and self._streams is None:
                buffer = waiting.pop()
                self._reused += 1
            else:
                buffer = self._find(spec)
            buffer.generation += 1
            buffer.waste = spec.waste
            self._waste += spec.waste
        try:
            buffer.lend(spec)
        except (RuntimeError, TypeError) as error:
            with self._lock:
                self._take_back(buffer)
            raise InputError(f"Pool.acquire: {self._device} cannot hold {dtype} ({error}); use another.") from error
        if self._debug:
            poison(buffer.base, dtype)
        if clear and buffer.lent is not None:
            buffer.lent.zero_()
        lease = Lease(self, buffer)
        around = current_frame.get()
        if around is not None:
            frame = lease._frame = around.of(self)
            if frame is not None:
                frame.add(lease)
        return lease

    def release(self, lease: Lease) -> None:
        """Take a lease back; the same as ``lease.release()``.

        Raises
        ------
        ForeignLease
            It belongs to another pool.
        DoubleRelease
            It was released before.
        StaleLease
            It is a copy of a lease that was released before.
        """
        if not isinstance(lease, Lease):
            raise InputError(f"Pool.release: {lease!r} is not a Lease; pass what acquire returned.")
        if lease._pool is not self:
            raise ForeignLease(f"Pool.release: {lease!r} belongs to another pool; call lease.release() instead.")
        with self._lock:
            buffer = lease._buffer
            if buffer is None:
                raise DoubleRelease("Pool.release: this lease was released before; release each lease once.")
            if buffer.generation != lease._generation:
                raise StaleLease("Pool.release: a copy of this lease was released before; do not copy leases.")
            lease._buffer = None
            self._take_back(buffer)
        frame = lease._frame
        if frame is not None:
            lease._frame = None
            frame.discard(lease)

    @contextmanager
    def frame(self) -> Iterator[Self]:
        """Release, at the end of the block, every lease acquired from this pool inside it in this context.

        Frames nest; the innermost one takes the lease. A thread has a context of its own: what it acquires belongs to
        no frame of the thread that started it, unless it runs in a copy of that thread's context, as a `Pipeline`'s do.
        """
        frame = Frame(self, current_frame.get())
        token = current_frame.set(frame)
        try:
            yield self
        finally:
            try:
                current_frame.reset(token)
            finally:
                frame.close()

    @contextmanager
    def frozen(self) -> Iterator[Self]:
        """Raise `FrozenPool` on any request in this context that no waiting buffer can serve.

        For steady states that must not allocate: run one round first, then freeze.
        """
        token = _frozen.set((*_frozen.get(), self))
        try:
            yield self
        finally:
            _frozen.reset(token)

    # -- trimming ----------------------------------------------------------------------------------------------------

    def shrink_to_fit(self, max_bytes: int) -> int:
        """Give waiting buffers back to torch, least recently used first, until the pool owns at most `max_bytes`.

        Live leases count and stay.

        Returns
        -------
        int
            Bytes given back.
        """
        limit = _count("Pool.shrink_to_fit", "max_bytes", max_bytes)
        with self._lock:
            self._settle()
            return self._evict(limit)

    def clear(self) -> int:
        """Give every waiting buffer back to torch (on CUDA: to torch's own cache); return the bytes."""
        with self._lock:
            self._settle()
            self._escaped += self._named.forget()
            return self._evict(0)

    def clear_size(self, nbytes: int) -> int:
        """Give back every waiting buffer of the class that serves requests of `nbytes`; return the bytes."""
        wanted = class_bytes(max(1, _count("Pool.clear_size", "nbytes", nbytes)))
        with self._lock:
            self._settle()
            count = self._shelf.drop_class(wanted)
            self._evicted += count
            self._owned -= count * wanted
            return count * wanted

    def set_budget(self, budget_bytes: int | None) -> int | None:
        """Change the budget, giving waiting buffers back where it got smaller; return the old one."""
        limit = _bound("Pool.set_budget", budget_bytes)
        with self._lock:
            old, self._limit = self.budget_bytes, limit
            self._evict(limit)
            return old

    def set_per_class(self, per_class: int) -> int:
        """Change how many buffers wait per class, giving back the least recently used beyond it; return the old."""
        cap = _count("Pool.set_per_class", "per_class", per_class)
        with self._lock:
            old, self._per_class = self._per_class, cap
            count, freed = self._shelf.trim(cap)
            self._dropped += count
            self._owned -= freed
            return old

    def set_debug(self, debug: bool) -> bool:
        """Turn poisoning on or off; return the old setting."""
        old, self._debug = self._debug, bool(debug)
        return old

    def stats(self) -> PoolStats:
        """Count everything at this moment."""
        with self._lock:
            self._settle()
            cached = self._shelf.bytes
            requests = self._allocated + self._reused
            return PoolStats(
                total_pooled=self._shelf.buffers,
                size_classes=self._shelf.classes,
                total_memory=self._owned,
                allocation_count=self._allocated,
                reuse_count=self._reused,
                requests=requests,
                reuse_rate=self._reused / requests if requests else 0.0,
                evictions=self._evicted,
                dropped=self._dropped,
                escaped=self._escaped + self._named.buffers,
                bytes_live=self._owned - cached,
                bytes_cached=cached,
                bytes_peak=self._peak,
                bytes_waste=self._waste,
            )

    def __repr__(self) -> str:
        now = self.stats()
        limit = "no limit" if self.budget_bytes is None else f"limit {self.budget_bytes}"
        return f"<Pool on {self._device}: {now.bytes_live} bytes live, {now.bytes_cached} cached, {limit}>"

    # -- with the lock held ------------------------------------------------------------------------------------------

    def _find(self, spec: Spec) -> Buffer:
        """Return a waiting buffer of the class, or a new one."""
        nbytes, free = spec.class_bytes, self._shelf.free
        if not free.get(nbytes):
            self._settle()
        waiting = free.get(nbytes)
        if waiting:
            buffer = waiting.pop() if self._streams is None else pick(waiting, self._streams)
            self._reused += 1
            return buffer
        if self in _frozen.get():
            named = self._named.of(nbytes)
            raise FrozenPool(
                f"Pool.acquire: inside frozen() no buffer of class {nbytes} waits for these {spec.nbytes} bytes on "
                f"{self._device} (Python variables still name {named} released ones); run one round before freezing, "
                "with as many leases alive at once."
            )
        cached = self._shelf.bytes
        live = self._owned - cached
        if live + nbytes > self._limit:
            raise BudgetExceeded(
                f"Pool.acquire: {nbytes} bytes requested ({spec.nbytes} rounded up to their size class) do not fit the "
                f"limit of {self._limit} bytes on {self._device} with {live} live and {cached} cached; release leases, "
                "work in smaller pieces, or raise the limit with set_budget()."
            )
        self._evict(self._limit - nbytes)
        buffer = self._new(nbytes)
        if self._streams is not None:
            buffer.home = buffer.stream = self._streams.current()
        self._allocated += 1
        self._own(nbytes)
        return buffer

    def _new(self, nbytes: int) -> Buffer:
        """Allocate; if the device refuses, give every waiting buffer back and try once more."""
        try:
            return Buffer(self._allocate(nbytes, self._device.torch))
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
        self._settle()
        self._escaped += self._named.forget()
        self._evict(0)
        if self._device.kind == "cuda":
            torch.cuda.empty_cache()
        elif self._device.kind == "mps":
            torch.mps.empty_cache()
        try:
            return Buffer(self._allocate(nbytes, self._device.torch))
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            raise DeviceOutOfMemory(
                f"Pool.acquire: {self._device} refused {nbytes} bytes with {self._owned} live in this pool and none "
                f"cached ({str(error).partition(chr(10))[0]}); work in smaller pieces or release leases."
            ) from error

    def _own(self, nbytes: int) -> None:
        self._owned += nbytes
        self._peak = max(self._peak, self._owned)

    def _take_back(self, buffer: Buffer) -> None:
        """End a lease: keep the buffer, wait for a name to go, or leave it to torch."""
        self._returned += 1
        self._waste -= buffer.waste
        buffer.generation += 1
        held = buffer.held()
        poisoned = self._debug and held is not Held.ELSEWHERE
        if self._streams is not None:
            end_work(buffer, self._streams, poisoned=poisoned)
        elif poisoned:
            poison(buffer.base, buffer.dtype)
        if held is Held.NOBODY:
            buffer.lent = None
            self._shelve(buffer)
            return
        self._owned -= buffer.nbytes
        if held is Held.ELSEWHERE:
            buffer.lent = None
            self._escaped += 1
            return
        self._escaped += self._named.put(buffer, self._per_class)

    def _shelve(self, buffer: Buffer) -> None:
        if not self._shelf.put(buffer, self._per_class):
            self._dropped += 1
            self._owned -= buffer.nbytes
        elif self._owned > self._limit:
            self._evict(self._limit)

    def _evict(self, limit: int) -> int:
        """Give up waiting buffers, least recently used first, until at most `limit` bytes are owned."""
        before = self._owned
        while self._owned > limit:
            freed = self._shelf.drop_oldest()
            if not freed:
                break
            self._owned -= freed
            self._evicted += 1
        return before - self._owned

    def _settle(self) -> None:
        """Take back leases that were garbage-collected, and buffers whose last name has gone."""
        while self._lost:
            buffer, generation = self._lost.popleft()
            if buffer.generation == generation:
                self._take_back(buffer)
        for buffer in self._named.take_free():
            buffer.lent = None
            self._own(buffer.nbytes)
            self._shelve(buffer)


def _count(operation: str, name: str, value: object) -> int:
    try:
        number = -1 if isinstance(value, bool) else operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        number = -1
    if number < 0:
        raise InputError(f"{operation}: {name}={value!r} is not a count; pass a whole number from 0.")
    return number


def _bound(operation: str, budget_bytes: object) -> int:
    return _UNLIMITED if budget_bytes is None else _count(operation, "budget_bytes", budget_bytes)


def live_leases() -> int:
    """Return how many leases of all pools of this process are live."""
    return sum(pool.live for pool in list(_pools))


def refuse_grad(*inputs: object, operation: str = "out=") -> None:
    """Refuse to write results into given memory while gradients are being recorded.

    Every operation that takes ``out=`` or a pool calls this with its inputs: autograd could not follow, and would
    stop without a word.

    Raises
    ------
    InputError
        Grad mode is on and an input requires a gradient.
    """
    if torch.is_grad_enabled() and any(isinstance(x, torch.Tensor) and x.requires_grad for x in inputs):
        raise InputError(
            f"{operation}: an input requires a gradient, and a result written into given memory cannot carry one; "
            "wrap the call in torch.no_grad() or let it allocate its result."
        )
