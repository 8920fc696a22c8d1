"""Frames return what was acquired inside them; frozen pools do not allocate."""

from __future__ import annotations

import contextvars
import gc
import threading
import weakref

import pytest
import torch

from elinvar.errors import (
    FrozenPool,
)
from elinvar.runtime.memory import Lease, Pool


@pytest.fixture
def pool() -> Pool:
    return Pool("cpu", debug=False)


def nbytes(pool: Pool, n: int) -> Lease:
    return pool.acquire((n,), torch.uint8)


# -- frames -----------------------------------------------------------------------------------------------------------


def test_a_frame_returns_every_lease_acquired_in_it(pool: Pool) -> None:
    outside = nbytes(pool, 8)
    with pool.frame() as inner:
        assert inner is pool
        a, b = nbytes(pool, 8), pool.acquire((4,), torch.float32)
        b.release()
        assert pool.live == 2
    assert a.released
    assert b.released
    assert not outside.released
    outside.release()
    assert pool.live == 0


def test_frames_nest_and_the_innermost_takes_the_lease(pool: Pool) -> None:
    other = Pool("cpu")
    with pool.frame():
        outer = nbytes(pool, 8)
        with pool.frame(), other.frame():
            inner, foreign = nbytes(pool, 8), nbytes(other, 8)
        assert inner.released
        assert foreign.released
        assert not outer.released
        with other.frame():
            through = nbytes(pool, 8)  # a frame of another pool is no frame of this one
        assert not through.released
    assert outer.released
    assert through.released


def test_a_frame_returns_leases_on_an_exception(pool: Pool) -> None:
    with pytest.raises(KeyError), pool.frame():
        lease = nbytes(pool, 8)
        raise KeyError
    assert lease.released


def test_a_frame_is_of_its_context(pool: Pool) -> None:
    found: list[Lease] = []
    with pool.frame():
        thread = threading.Thread(target=lambda: found.append(nbytes(pool, 8)))
        thread.start()
        thread.join()
        context = contextvars.copy_context()
        worker = threading.Thread(target=lambda: found.append(context.run(nbytes, pool, 8)))
        worker.start()
        worker.join()
    assert [lease.released for lease in found] == [False, True]
    late = context.run(nbytes, pool, 8)  # the frame of that context is closed by now
    assert not late.released
    late.release()
    found[0].release()


def test_a_closed_frame_passes_leases_on_to_the_one_around_it(pool: Pool) -> None:
    with pool.frame():
        with pool.frame():
            context = contextvars.copy_context()
        lease = context.run(nbytes, pool, 8)
        assert not lease.released
    assert lease.released


def test_a_long_frame_forgets_what_was_released_early(pool: Pool) -> None:
    with pool.frame():
        lease = nbytes(pool, 8)
        watch = weakref.ref(lease)
        lease.release()
        del lease
        gc.collect()
        assert watch() is None


def test_a_frame_keeps_leases_whose_names_are_gone(pool: Pool) -> None:
    with pool.frame():
        total = nbytes(pool, 8).tensor.fill_(3)
        gc.collect()
        with nbytes(pool, 8) as other:
            other.tensor.fill_(5)
        assert total.tolist() == [3] * 8
        assert pool.live == 1
    assert pool.live == 0


# -- frozen -----------------------------------------------------------------------------------------------------------


def test_frozen_raises_on_a_miss_and_only_on_a_miss(pool: Pool) -> None:
    nbytes(pool, 1000).release()
    with pool.frozen() as frozen:
        assert frozen is pool
        with nbytes(pool, 600):
            before = pool.stats()
            with pytest.raises(FrozenPool, match=r"class 1024 waits for these 1000 bytes on cpu"):
                nbytes(pool, 1000)
            assert pool.stats() == before
        with pytest.raises(FrozenPool), pool.frozen():
            nbytes(pool, 4096)
        with pytest.raises(FrozenPool):
            nbytes(pool, 4096)  # leaving the inner block does not thaw the outer one
        nbytes(Pool("cpu"), 4096)  # other pools are not frozen
    nbytes(pool, 4096).release()


def test_several_pools_can_be_frozen(pool: Pool) -> None:
    other = Pool("cpu")
    with pool.frozen(), other.frozen():
        for frozen in (pool, other):
            with pytest.raises(FrozenPool):
                nbytes(frozen, 8)


def test_frozen_is_of_its_context(pool: Pool) -> None:
    outcome: list[object] = []

    def attempt() -> None:
        try:
            outcome.append(nbytes(pool, 8))
        except FrozenPool as error:
            outcome.append(type(error))

    with pool.frozen():
        free = threading.Thread(target=attempt)
        bound = threading.Thread(target=contextvars.copy_context().run, args=(attempt,))
        for thread in (bound, free):
            thread.start()
            thread.join()
    assert outcome[0] is FrozenPool
    assert isinstance(outcome[1], Lease)
