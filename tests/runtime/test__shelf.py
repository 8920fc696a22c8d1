"""Books and budgets: statistics add up, the least recently used goes first, memory may run out."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from elinvar.errors import (
    BudgetExceeded,
    DeviceOutOfMemory,
)
from elinvar.runtime import _storage
from elinvar.runtime.memory import Lease, Pool, PoolStats
from elinvar.testing import FakeMemory

KB = 1024
FIELDS = (
    "total_pooled size_classes total_memory allocation_count reuse_count requests reuse_rate evictions dropped escaped "
    "bytes_live bytes_cached bytes_peak bytes_waste"
)


@pytest.fixture
def pool() -> Pool:
    return Pool("cpu", debug=False)


def nbytes(pool: Pool, n: int) -> Lease:
    return pool.acquire((n,), torch.uint8)


def storage(lease: Lease) -> int:
    """The address of a lease's memory, without keeping anything alive."""
    return lease.tensor.data_ptr()


# -- statistics -------------------------------------------------------------------------------------------------------


def test_the_issues_steady_state(pool: Pool) -> None:
    sizes = [4096, 16384, 16384, 4096, 65536, 4096, 16384]
    for step in range(100):
        held = [nbytes(pool, size) for size in sizes]
        for lease in held:
            lease.tensor.fill_(step)
        for lease in held:
            lease.release()
    now = pool.stats()
    assert (now.allocation_count, now.reuse_count, now.reuse_rate) == (7, 693, 0.99)
    assert now.requests == 700
    assert (now.total_pooled, now.size_classes) == (7, 3)
    assert now.total_memory == now.bytes_cached == now.bytes_peak == sum(sizes)
    assert (now.bytes_live, now.bytes_waste) == (0, 0)
    assert (now.evictions, now.dropped, now.escaped) == (0, 0, 0)


def test_fields_are_exactly_the_documented_ones() -> None:
    assert " ".join(PoolStats.__dataclass_fields__) == FIELDS
    stats = Pool("cpu").stats()
    assert stats.reuse_rate == 0
    with pytest.raises(AttributeError):
        stats.requests = 1  # type: ignore[misc]


def test_bytes_add_up(pool: Pool) -> None:
    a, b = nbytes(pool, 700), nbytes(pool, 100)
    assert (pool.stats().bytes_live, pool.stats().bytes_waste) == (1024 + 512, 324 + 412)
    a.release()
    now = pool.stats()
    assert (now.bytes_live, now.bytes_cached, now.bytes_waste) == (512, 1024, 412)
    assert now.total_memory == now.bytes_peak == 1536
    with nbytes(pool, 600):
        assert pool.stats().bytes_waste == 412 + 424
    b.release()
    pool.clear()
    now = pool.stats()
    assert (now.total_memory, now.bytes_peak, now.bytes_waste, now.bytes_cached) == (0, 1536, 0, 0)
    assert pool.live == 0


def test_the_peak_stays(pool: Pool) -> None:
    nbytes(pool, 4096).release()
    pool.clear()
    nbytes(pool, 512).release()
    assert pool.stats().bytes_peak == 4096


def consistent(pool: Pool, live: int) -> None:
    now = pool.stats()
    assert now.requests == now.allocation_count + now.reuse_count
    assert now.allocation_count == live + now.total_pooled + now.evictions + now.dropped + now.escaped
    assert now.total_memory == now.bytes_live + now.bytes_cached <= now.bytes_peak
    assert (now.bytes_live == 0) == (live == 0)
    assert pool.live == live
    if pool.budget_bytes is not None:
        assert now.total_memory <= pool.budget_bytes


@settings(deadline=None, max_examples=60)
@given(
    budget=st.sampled_from([None, 4 * KB, 16 * KB]),
    per_class=st.integers(0, 3),
    steps=st.lists(st.tuples(st.sampled_from("aaarrrvscz"), st.integers(1, 5000)), max_size=60),
)
def test_accounts_balance_whatever_happens(budget: int | None, per_class: int, steps: list[tuple[str, int]]) -> None:
    pool = Pool("cpu", budget, per_class)
    live: list[Lease] = []
    views: list[torch.Tensor] = []
    for step, number in steps:
        if step == "a":
            try:
                live.append(nbytes(pool, number))
            except BudgetExceeded:
                assert budget is not None
                assert pool.stats().bytes_live + _storage.class_bytes(number) > budget
        elif step == "r" and live:
            live.pop(number % len(live)).release()
        elif step == "v" and live:
            views.append(live[number % len(live)].tensor[:1])
        elif step == "s":
            pool.shrink_to_fit(number)
            assert pool.stats().total_memory <= max(number, pool.stats().bytes_live)
        elif step == "c":
            pool.clear_size(number)
        elif step == "z":
            assert pool.clear() >= 0
        consistent(pool, len(live))
    for lease in live:
        lease.release()
    consistent(pool, 0)


# -- budget and trimming ----------------------------------------------------------------------------------------------


def test_budget_counts_class_bytes() -> None:
    pool = Pool("cpu", budget_bytes=2048)
    with nbytes(pool, 600), nbytes(pool, 600):  # 1024 each
        with pytest.raises(BudgetExceeded):
            nbytes(pool, 1)
        assert pool.stats().requests == 2


def test_refusal_names_requested_live_cached_and_limit() -> None:
    pool = Pool("cpu", budget_bytes=5000)
    held = nbytes(pool, 2048)
    nbytes(pool, 512).release()
    before = pool.stats()
    with pytest.raises(
        BudgetExceeded, match=r"4096 bytes requested \(3000 .*limit of 5000 bytes on cpu with 2048 live and 512 cached"
    ):
        nbytes(pool, 3000)
    assert pool.stats() == before  # refused without giving anything up, for it would not have helped
    held.release()


def test_least_recently_used_goes_first() -> None:
    pool = Pool("cpu", budget_bytes=4096)
    a, b, c = nbytes(pool, 512), nbytes(pool, 1024), nbytes(pool, 2048)
    address = {size: storage(lease) for size, lease in ((512, a), (2048, c))}
    b.release()
    a.release()
    c.release()
    nbytes(pool, 512).release()  # a is now the most recently used, b still the least
    with nbytes(pool, 513):  # a second buffer of b's class: b itself serves it
        assert pool.stats().allocation_count == 3
    pool.set_budget(2048 + 512)  # b was used last of all: a and c go, and c is older
    assert pool.stats().evictions == 1
    assert pool.stats().bytes_cached == 1536
    with nbytes(pool, 512) as again:
        assert storage(again) == address[512]


def test_eviction_is_by_use_not_by_size_or_age() -> None:
    pool = Pool("cpu", budget_bytes=3 * 1024)
    first, second = nbytes(pool, 1024), nbytes(pool, 512)
    second.release()
    first.release()
    with nbytes(pool, 2048):  # 1536 waiting of 3072: one must go, and 512 was released first
        assert pool.stats().evictions == 1
        assert pool.stats().bytes_cached == 1024


def test_eviction_stops_as_soon_as_it_fits() -> None:
    pool = Pool("cpu", budget_bytes=8 * 512)
    held = [nbytes(pool, 512) for _ in range(8)]
    for lease in held:
        lease.release()
    with nbytes(pool, 1024):
        assert pool.stats().evictions == 2
        assert pool.stats().total_pooled == 6


def test_no_budget_means_no_limit_and_zero_means_nothing() -> None:
    assert Pool("cpu").budget_bytes is None
    with pytest.raises(BudgetExceeded, match="limit of 0 bytes"):
        nbytes(Pool("cpu", budget_bytes=0), 1)


def test_set_budget_returns_the_old_one_and_applies_at_once() -> None:
    pool = Pool("cpu", budget_bytes=1 << 20)
    held = nbytes(pool, 2048)
    nbytes(pool, 1024).release()
    assert pool.set_budget(2048) == 1 << 20
    assert pool.budget_bytes == 2048
    assert pool.stats().bytes_cached == 0
    assert pool.set_budget(512) == 2048  # below what is live: leases stay, new ones are refused
    with pytest.raises(BudgetExceeded):
        nbytes(pool, 1)
    held.release()
    assert pool.stats().total_memory == 0  # the returned buffer does not fit any more
    assert pool.set_budget(None) == 512
    assert pool.budget_bytes is None


def test_per_class_caps_waiting_buffers() -> None:
    pool = Pool("cpu", per_class=2)
    held = [nbytes(pool, 512) for _ in range(5)] + [nbytes(pool, 1024)]
    for lease in held:
        lease.release()
    now = pool.stats()
    assert (now.dropped, now.total_pooled, now.size_classes) == (3, 3, 2)
    assert now.total_memory == 2 * 512 + 1024
    assert pool.set_per_class(1) == 2
    assert pool.per_class == 1
    now = pool.stats()
    assert (now.dropped, now.total_pooled, now.total_memory) == (4, 2, 512 + 1024)


def test_a_lower_cap_keeps_the_most_recently_used(pool: Pool) -> None:
    old, new = nbytes(pool, 512), nbytes(pool, 512)
    address = storage(new)
    old.release()
    new.release()
    pool.set_per_class(1)
    with nbytes(pool, 512) as lease:
        assert storage(lease) == address


def test_ten_per_class_by_default(pool: Pool) -> None:
    assert pool.per_class == 10
    for lease in [nbytes(pool, 512) for _ in range(12)]:
        lease.release()
    assert pool.stats().dropped == 2


def test_shrink_to_fit_counts_live_leases_and_keeps_them(pool: Pool) -> None:
    held = nbytes(pool, 4096)
    for lease in [nbytes(pool, 1024) for _ in range(4)]:
        lease.release()
    assert pool.shrink_to_fit(1 << 30) == 0
    assert pool.shrink_to_fit(4096 + 2048) == 2048
    assert pool.stats().bytes_cached == 2048
    assert pool.shrink_to_fit(0) == 2048
    assert pool.stats().total_memory == 4096
    assert pool.stats().evictions == 4
    held.release()


def test_shrink_gives_up_the_least_recently_used(pool: Pool) -> None:
    old, new = nbytes(pool, 4096), nbytes(pool, 4096)
    address = storage(new)
    old.release()
    new.release()
    pool.shrink_to_fit(4096)
    with nbytes(pool, 4096) as lease:
        assert storage(lease) == address


def test_clear_size_clears_the_class_that_serves_it(pool: Pool) -> None:
    held = [nbytes(pool, size) for size in (512, 1024, 1024, 2048)]
    for lease in held:
        lease.release()
    before = pool.stats().bytes_cached
    assert pool.clear_size(1000) == 2048  # not "the class called 1000"
    now = pool.stats()
    assert before - now.bytes_cached == 2048
    assert now.evictions == 2
    assert pool.clear_size(1000) == 0
    assert now.size_classes == 2
    assert pool.clear_size(0) == 512


def test_freed_memory_is_really_freed() -> None:
    memory = FakeMemory()
    pool = Pool("cpu", allocate=memory)
    released = [nbytes(pool, 1024) for _ in range(3)]
    for lease in released:
        lease.release()
    assert memory.used == 3072
    assert pool.shrink_to_fit(2048) == 1024
    assert memory.used == 2048
    assert pool.clear() == 2048
    assert memory.used == 0  # although `released` still names the leases


# -- the device runs out ----------------------------------------------------------------------------------------------


def test_out_of_memory_gives_up_waiting_buffers_and_tries_again() -> None:
    memory = FakeMemory(capacity=4096)
    pool = Pool("cpu", allocate=memory)
    held = nbytes(pool, 1024)
    for lease in [nbytes(pool, 512) for _ in range(4)]:
        lease.release()
    with nbytes(pool, 2048):  # 1024 live, 2048 waiting: only fits once the waiting ones are gone
        assert memory.calls[-2:] == [2048, 2048]
        assert pool.stats().evictions == 4
        assert memory.used == 3072
    held.release()


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        MemoryError(),
        RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory: you tried"),
        RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 8 bytes."),
        RuntimeError("MPS backend out of memory (MPS allocated: 1 GB)"),
    ],
)
def test_out_of_memory_twice_is_our_error(error: Exception) -> None:
    memory = FakeMemory(error=error)
    pool = Pool("cpu", allocate=memory)
    held = nbytes(pool, 512)
    nbytes(pool, 2048).release()
    memory.fail_next = 2
    with pytest.raises(DeviceOutOfMemory, match="cpu refused 1024 bytes with 512 live in this pool") as caught:
        nbytes(pool, 1024)
    assert caught.value.__cause__ is error
    assert len(memory.calls) == 4  # once more, not for ever
    assert pool.stats().requests == 2
    memory.fail_next = 1
    with nbytes(pool, 1024):
        assert pool.stats().requests == 3
    held.release()
    consistent(pool, 0)


def test_other_allocator_errors_pass_through() -> None:
    pool = Pool("cpu", allocate=FakeMemory(capacity=0, error=RuntimeError("device-side assert triggered")))
    with pytest.raises(RuntimeError, match="device-side assert") as caught:
        nbytes(pool, 8)
    assert not isinstance(caught.value, DeviceOutOfMemory)


def test_the_real_allocator_refusing() -> None:
    with pytest.raises(DeviceOutOfMemory, match="cpu refused"):
        nbytes(Pool("cpu"), 1 << 60)
