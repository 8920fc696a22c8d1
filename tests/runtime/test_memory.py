"""The pool keeps every promise of its documentation, clause by clause."""

from __future__ import annotations

import contextvars
import copy
import gc
import random
import subprocess
import sys
import threading
import warnings
import weakref
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from elinvar.errors import (
    BudgetExceeded,
    DeviceOutOfMemory,
    DeviceUnavailable,
    DoubleRelease,
    ForeignLease,
    FrozenPool,
    InputError,
    PoolError,
    StaleLease,
)
from elinvar.runtime import _storage
from elinvar.runtime.device import Runtime
from elinvar.runtime.memory import Lease, Pool, PoolStats, keep_pages, live_leases, refuse_grad
from elinvar.testing import FakeMemory, FakeStreams

KB = 1024
FLOAT8 = (torch.float8_e4m3fn, torch.float8_e5m2, torch.float8_e4m3fnuz, torch.float8_e5m2fnuz)
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


# -- what a lease is -------------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=40)
@given(
    shape=st.lists(st.integers(1, 9), max_size=4).map(tuple),
    dtype=st.sampled_from(
        [torch.float32, torch.float64, torch.float16, torch.uint8, torch.int64, torch.bool, torch.complex64, *FLOAT8]
    ),
)
def test_a_lease_is_an_ordinary_tensor(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    pool = Pool("cpu")
    for _ in range(2):  # new, then reused
        with pool.acquire(shape, dtype) as lease:
            assert lease.tensor.shape == shape
            assert lease.tensor.dtype == dtype
            assert lease.tensor.is_contiguous()
            assert lease.tensor.storage_offset() == 0
            assert lease.tensor.is_leaf
            assert not lease.tensor.requires_grad
            assert not lease.tensor._is_view()
            assert lease.tensor.data_ptr() % 64 == 0
            size = lease.tensor.untyped_storage().nbytes()
            assert size == _storage.class_bytes(lease.tensor.numel() * dtype.itemsize)
    assert pool.stats().reuse_count == 1


@pytest.mark.parametrize(
    ("wanted", "served"),
    [(1, 512), (511, 512), (512, 512), (513, 1024), (1024, 1024), (1025, 2048), (600 << 20, 1 << 30)],
)
def test_classes_are_powers_of_two_bytes_from_512(wanted: int, served: int) -> None:
    assert _storage.class_bytes(wanted) == served


def test_class_is_by_bytes_whatever_the_dtype(pool: Pool) -> None:
    """A buffer of 1024 half floats must never be handed out for 1024 floats."""
    nbytes(pool, 2048).release()
    with pool.acquire((1024,), torch.float16) as half:
        assert pool.stats().reuse_count == 1
        assert half.tensor.untyped_storage().nbytes() == 2048
        with pool.acquire((1024,), torch.float32) as single:
            assert pool.stats().reuse_count == 1
            assert single.tensor.untyped_storage().nbytes() == 4096


def test_one_buffer_is_one_storage(pool: Pool) -> None:
    leases = [nbytes(pool, 512) for _ in range(8)]
    assert len({lease.tensor.untyped_storage().data_ptr() for lease in leases}) == 8
    assert all(lease.tensor.untyped_storage().nbytes() == 512 for lease in leases)


def test_shapes_may_be_ints_lists_and_sizes(pool: Pool) -> None:
    for shape in (6, [6], (6,), torch.Size([6]), np.int64(6), (np.int32(6),), (6.0,)):
        with pool.acquire(shape) as lease:  # type: ignore[arg-type]
            assert lease.tensor.shape == (6,)
            assert lease.tensor.dtype == torch.float32
    with pool.acquire(()) as lease:
        assert lease.tensor.shape == ()


def test_clear_fills_zeros_and_only_then(pool: Pool) -> None:
    with nbytes(pool, 600) as lease:
        lease.tensor.fill_(7)
        address = storage(lease)
    with nbytes(pool, 600) as lease:
        assert storage(lease) == address
        assert bool((lease.tensor == 7).all())  # uninitialised means untouched
    with pool.acquire((150,), torch.float32, True) as lease:
        assert storage(lease) == address
        assert bool((lease.tensor == 0).all())


def test_tensor_is_the_same_object_while_on_loan_and_refused_afterwards(pool: Pool) -> None:
    lease = nbytes(pool, 8)
    assert lease.tensor is lease.tensor
    assert not lease.released
    assert "uint8 on cpu" in repr(lease)
    lease.release()
    assert lease.released
    assert repr(lease) == "<Lease released>"
    with pytest.raises(StaleLease, match="was released"):
        _ = lease.tensor


@pytest.mark.parametrize("debug", [False, True])
def test_a_lease_works_in_inference_mode_and_out_of_it(*, debug: bool) -> None:
    pool = Pool("cpu", debug=debug)
    with torch.inference_mode(), nbytes(pool, 8) as lease:
        lease.tensor.fill_(1)
        assert not lease.tensor.is_inference()
    with nbytes(pool, 8) as lease:
        lease.tensor.fill_(2)
    assert pool.stats().reuse_count == 1


def test_what_a_user_does_to_a_tensor_never_reaches_the_next_user(pool: Pool) -> None:
    with pool.acquire((4,), torch.float32, clear=True) as lease:
        lease.tensor.requires_grad_()
        (lease.tensor * 2).sum().backward()
        assert lease.tensor.grad is not None
        lease.tensor.marker = 1  # type: ignore[attr-defined]
        address = storage(lease)
    with pool.acquire((4,), torch.float32) as lease:
        assert storage(lease) == address
        assert not lease.tensor.requires_grad
        assert lease.tensor.grad is None
        assert not hasattr(lease.tensor, "marker")
        w = torch.ones(4, requires_grad=True)
        lease.tensor.copy_(w * 2)
        assert lease.tensor.requires_grad
        lease.tensor.sum().backward()
        assert w.grad is not None
    with pool.acquire((4,), torch.float32) as lease:
        assert storage(lease) == address
        assert not lease.tensor.requires_grad


# -- statistics ------------------------------------------------------------------------------------------------------


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


# -- budget and trimming ---------------------------------------------------------------------------------------------


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


# -- errors that change nothing --------------------------------------------------------------------------------------


def test_double_release(pool: Pool) -> None:
    lease = nbytes(pool, 8)
    lease.release()
    before = pool.stats()
    for again in (lease.release, lambda: pool.release(lease)):
        with pytest.raises(DoubleRelease, match="released before"):
            again()
    other = nbytes(pool, 8)  # the buffer is on loan again: the old lease has no power over it
    with pytest.raises(DoubleRelease):
        lease.release()
    assert not other.released
    other.release()
    assert pool.stats().total_pooled == before.total_pooled == 1


def test_foreign_release(pool: Pool) -> None:
    other = Pool("cpu")
    lease = nbytes(pool, 8)
    before = pool.stats(), other.stats()
    with pytest.raises(ForeignLease, match="belongs to another pool"):
        other.release(lease)
    assert (pool.stats(), other.stats()) == before
    assert not lease.released
    pool.release(lease)


def test_stale_release_of_a_copy(pool: Pool) -> None:
    lease = nbytes(pool, 8)
    twin = copy.copy(lease)
    lease.release()
    with pytest.raises(StaleLease):
        twin.release()
    with nbytes(pool, 8) as other:
        before = pool.stats()
        with pytest.raises(StaleLease):
            twin.release()
        with pytest.raises(StaleLease):
            _ = twin.tensor
        assert pool.stats() == before
        assert not other.released
    del twin
    assert pool.live == 0


def test_releasing_something_else(pool: Pool) -> None:
    with pytest.raises(InputError, match="not a Lease"):
        pool.release(torch.zeros(1))  # type: ignore[arg-type]


def test_all_pool_errors_are_one_family() -> None:
    for error in (DoubleRelease, ForeignLease, StaleLease, FrozenPool, BudgetExceeded):
        assert issubclass(error, PoolError)


def test_with_block_tolerates_an_early_release_and_releases_on_an_exception(pool: Pool) -> None:
    with nbytes(pool, 8) as lease:
        lease.release()
    with pytest.raises(ZeroDivisionError), nbytes(pool, 8):
        _ = 1 / 0
    assert pool.live == 0


@pytest.mark.parametrize("shape", [(0,), (3, 0), (-1,), (2, -3), (1.5,), ("a",), None, "ab", (None,), float("nan"), {}])
def test_bad_shapes(pool: Pool, shape: object) -> None:
    with pytest.raises(InputError, match=r"Pool.acquire: shape .* every dimension is a whole number from 1"):
        pool.acquire(shape)  # type: ignore[arg-type]
    assert pool.stats().requests == 0


@pytest.mark.parametrize("dtype", ["float32", np.float32, float, None, 4])
def test_bad_dtypes(pool: Pool, dtype: object) -> None:
    with pytest.raises(InputError, match=r"pass for example torch\.float32"):
        pool.acquire((4,), dtype)  # type: ignore[arg-type]


@pytest.mark.parametrize("dtype", [torch.quint8, torch.qint32, torch.bits8, torch.uint4, torch.int1])
def test_dtypes_without_arithmetic(pool: Pool, dtype: torch.dtype) -> None:
    with pytest.raises(InputError, match=f"{dtype} has no arithmetic of its own"):
        pool.acquire((4,), dtype)


def test_absurd_sizes(pool: Pool) -> None:
    with pytest.raises(InputError, match="more than any device addresses"):
        pool.acquire((1 << 40, 1 << 40))


@pytest.mark.parametrize("value", [-1, 1.5, "1", True, float("inf")])
def test_bad_counts(value: object) -> None:
    with pytest.raises(InputError, match="budget_bytes"):
        Pool("cpu", budget_bytes=value)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="per_class"):
        Pool("cpu", per_class=value)  # type: ignore[arg-type]
    pool = Pool("cpu", 4096, 3)
    for call in (pool.set_budget, pool.set_per_class, pool.shrink_to_fit, pool.clear_size):
        with pytest.raises(InputError, match=f"Pool.{call.__name__}"):
            call(value)  # type: ignore[arg-type]
    assert (pool.budget_bytes, pool.per_class) == (4096, 3)


def test_bad_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(DeviceUnavailable, match="present here"):
        Pool("cuda:5")
    with pytest.raises(InputError):
        Pool("meta")


def test_a_device_that_lacks_a_dtype_leaves_no_trace(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    nbytes(pool, 512).release()

    def refuse(self: _storage.Buffer, spec: _storage.Spec) -> torch.Tensor:
        raise TypeError("Cannot convert a MPS Tensor to float64 dtype")

    monkeypatch.setattr(_storage.Buffer, "_view", refuse)
    with pytest.raises(InputError, match=r"cpu cannot hold torch\.float64 .*use another"):
        pool.acquire((7,), torch.float64)
    monkeypatch.undo()
    now = pool.stats()
    assert (now.bytes_live, now.bytes_waste, now.escaped, now.total_pooled, pool.live) == (0, 0, 0, 1, 0)
    with pool.acquire((7,), torch.float64):
        assert pool.stats().bytes_waste == 512 - 56


# -- frames ----------------------------------------------------------------------------------------------------------


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


# -- frozen ----------------------------------------------------------------------------------------------------------


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


# -- who still holds the storage -------------------------------------------------------------------------------------


HOLDERS: dict[str, Callable[[torch.Tensor], object]] = {
    "slice": lambda t: t[1:],
    "reshape": lambda t: t.view(2, -1),
    "transpose": lambda t: t.view(2, -1).t(),
    "detach": lambda t: t.detach(),
    "dtype view": lambda t: t.view(torch.int32),
    "numpy": lambda t: t.numpy(),
    "numpy of a numpy": lambda t: t.numpy()[3:],
    "asarray": np.asarray,
    "dlpack": torch.utils.dlpack.to_dlpack,
    "numpy through dlpack": np.from_dlpack,
    "storage": lambda t: t.untyped_storage(),
    "split": lambda t: t.split(2)[1],
    "autograd, not a leaf": lambda t: (torch.ones(8, requires_grad=True) * t).sum(),
    "autograd, its own leaf": lambda t: t.requires_grad_() * 2,
    "parameter": torch.nn.Parameter,
}


@pytest.mark.parametrize("holder", HOLDERS)
def test_a_held_storage_is_left_to_torch(holder: str) -> None:
    memory = FakeMemory()
    pool = Pool("cpu", allocate=memory, debug=True)  # poisoning must not touch it either
    lease = pool.acquire((8,), torch.float32, clear=True)
    lease.tensor.fill_(3)
    held = HOLDERS[holder](lease.tensor)
    lease.release()
    now = pool.stats()
    assert (now.escaped, now.total_pooled, now.total_memory, pool.live) == (1, 0, 0, 0)
    assert memory.used == 512
    for _ in range(3):
        with pool.acquire((8,), torch.float32) as other:
            other.tensor.fill_(-1)
    assert pool.stats().allocation_count == 2
    if isinstance(held, torch.Tensor) and held.grad_fn is not None and held.dim() == 0:
        assert held.item() == 24
    elif isinstance(held, (torch.Tensor, np.ndarray)):
        assert float(np.asarray(torch.as_tensor(held).detach().reshape(-1)[0])) in (3.0, 6.0, float(0x40400000))
    del held
    gc.collect()
    assert pool.stats().escaped == 1  # never recycled, even now that nobody holds it
    assert pool.stats().total_pooled == 1
    assert memory.used == 512  # torch has freed it; only the second buffer is alive


def test_once_the_view_is_gone_before_release_it_is_recycled(pool: Pool) -> None:
    """The same holders, let go in time, leave no mark."""
    for holder in HOLDERS.values():
        lease = pool.acquire((8,), torch.float32, clear=True)
        held = holder(lease.tensor)
        del held
        lease.release()
    assert pool.stats().escaped == 0
    assert pool.stats().allocation_count == 1


def test_writing_one_lease_never_disturbs_anothers_backward(pool: Pool) -> None:
    w = torch.ones(64, requires_grad=True)
    with pool.frame():
        a, b = pool.acquire((64,)), pool.acquire((64,))
        a.tensor.fill_(3)
        loss = (w * a.tensor).sum()
        b.tensor.fill_(-1)  # would raise "modified by an inplace operation" if they shared a version counter
        b.tensor.mul_(2)
        loss.backward()
    assert w.grad is not None
    assert bool((w.grad == 3).all())


def test_a_lease_saved_by_autograd_is_never_recycled(pool: Pool) -> None:
    w = torch.ones(64, requires_grad=True)
    with pool.acquire((64,)) as lease:
        lease.tensor.fill_(3)
        loss = (w * lease.tensor).sum()
    assert pool.stats().escaped == 1
    for _ in range(20):
        with pool.acquire((64,)) as other:
            other.tensor.fill_(-1)
    loss.backward()
    assert w.grad is not None
    assert bool((w.grad == 3).all())
    assert pool.stats().escaped == 1


def test_an_output_saved_by_autograd_is_noticed(pool: Pool) -> None:
    w = torch.zeros(64, requires_grad=True)
    with pool.acquire((64,)) as lease:
        lease.tensor.copy_(w).exp_()  # exp saves its own result
        loss = lease.tensor.sum()
    assert pool.stats().escaped == 1
    with pool.acquire((64,)) as other:
        other.tensor.fill_(-1)
    loss.backward()
    assert w.grad is not None
    assert bool((w.grad == 1).all())


def test_backward_before_release_lets_the_buffer_come_back(pool: Pool) -> None:
    w = torch.ones(64, requires_grad=True)
    for _ in range(5):
        with pool.acquire((64,)) as lease:
            lease.tensor.fill_(3)
            (w * lease.tensor).sum().backward()
    assert (pool.stats().allocation_count, pool.stats().escaped) == (1, 0)


def test_a_mere_name_costs_a_buffer_until_it_is_gone_and_never_wrong_data(pool: Pool) -> None:
    lease = pool.acquire((8,), torch.float32)
    name = lease.tensor
    name.fill_(3)
    lease.release()
    assert (pool.stats().escaped, pool.stats().total_memory) == (1, 0)
    with pool.acquire((8,), torch.float32) as other:
        other.tensor.fill_(-1)
        assert pool.stats().allocation_count == 2
    assert bool((name == 3).all())
    del name
    now = pool.stats()
    assert (now.escaped, now.total_pooled, now.total_memory) == (0, 2, 1024)


def test_a_loop_variable_costs_one_buffer_not_one_per_round(pool: Pool) -> None:
    for step in range(50):
        with pool.acquire((8,), torch.float32) as lease:
            tensor = lease.tensor  # still names the last round's when the next one asks
            tensor.fill_(step)
    assert pool.stats().allocation_count == 2
    assert pool.stats().reuse_count == 48
    del tensor


def test_a_view_taken_after_release_keeps_the_buffer_out(pool: Pool) -> None:
    lease = pool.acquire((8,), torch.float32)
    name = lease.tensor
    name.fill_(3)
    lease.release()
    view = name[2:]
    del name
    with pool.acquire((8,), torch.float32) as other:
        other.tensor.fill_(-1)
    assert bool((view == 3).all())
    assert pool.stats().escaped == 1


def test_named_buffers_are_bounded() -> None:
    memory = FakeMemory()
    pool = Pool("cpu", per_class=2, allocate=memory)
    names = []
    for _ in range(5):
        with pool.acquire((8,)) as lease:
            names.append(lease.tensor)
    assert pool.stats().escaped == 5
    names.clear()
    assert pool.stats().escaped == 3
    assert pool.stats().total_pooled == 2
    assert memory.used == 1024


def test_clear_forgets_named_buffers() -> None:
    memory = FakeMemory()
    pool = Pool("cpu", allocate=memory)
    with pool.acquire((8,)) as lease:
        name = lease.tensor
    pool.clear()
    del name
    assert memory.used == 0
    assert pool.stats().escaped == 1


def test_a_named_buffer_that_comes_back_respects_the_budget() -> None:
    pool = Pool("cpu", budget_bytes=1024)
    with pool.acquire((256,)) as lease:
        name = lease.tensor
    other = pool.acquire((256,))
    del name
    assert pool.stats().total_memory == 1024
    assert pool.stats().bytes_live == 1024
    other.release()
    consistent(pool, 0)


def test_a_resized_storage_is_not_recycled(pool: Pool) -> None:
    """FSDP and ``resize_`` change a storage under us: its class would be a lie."""
    with pool.acquire((8,)) as lease:
        lease.tensor.untyped_storage().resize_(4096)
    with pool.acquire((8,)) as lease:
        lease.tensor.untyped_storage().resize_(0)
    assert pool.stats().escaped == 2


def test_a_lost_lease_comes_back(pool: Pool) -> None:
    nbytes(pool, 8)
    gc.collect()
    assert pool.live == 0
    assert pool.stats().total_pooled == 1
    tensor = nbytes(pool, 8).tensor.fill_(3)  # lease gone, tensor in use
    with nbytes(pool, 8) as other:
        other.tensor.fill_(5)
    assert tensor.tolist() == [3] * 8
    assert pool.stats().escaped == 1
    del tensor
    assert pool.stats().escaped == 0


def test_a_lease_lost_in_a_cycle_does_not_deadlock(pool: Pool) -> None:
    for _ in range(30):
        knot: list[object] = [nbytes(pool, 8)]
        knot.append(knot)
        del knot
    gc.collect()
    assert pool.live == 0
    assert pool.stats().bytes_live == 0


def test_without_visible_holders_nothing_is_lent_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    """A torch whose private counts have changed: slower, never wrong."""
    monkeypatch.setattr(_storage, "_visible", None)
    monkeypatch.setattr(_storage, "_storage_count", lambda pointer: 1)
    with pytest.warns(RuntimeWarning, match="does not show who holds"):
        assert not _storage.holders_visible()
    pool = Pool("cpu")
    for _ in range(3):
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # said once
            nbytes(pool, 8).release()
    assert (pool.stats().escaped, pool.stats().reuse_count) == (3, 0)
    monkeypatch.setattr(_storage, "_storage_count", None)
    nbytes(pool, 8).release()
    assert pool.stats().escaped == 4


def test_this_torch_shows_holders() -> None:
    assert _storage.holders_visible()


def test_weakref_callback_on_release_may_use_the_pool(pool: Pool) -> None:
    seen: list[int] = []
    lease = nbytes(pool, 8)
    watch = weakref.finalize(lease.tensor, lambda: seen.append(nbytes(pool, 8).tensor.numel()))
    lease.release()
    assert seen == [8]
    assert not watch.alive
    assert pool.live == 0


# -- debug mode ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dtype", "value"),
    [
        (torch.uint8, 0xA5),
        (torch.int16, -0x5A5B),
        (torch.int64, -0x5A5A5A5A5A5A5A5B),
        (torch.bool, True),
    ],
)
def test_debug_poisons_integers_on_acquire(dtype: torch.dtype, value: int) -> None:
    pool = Pool("cpu", debug=True)
    for _ in range(2):
        with pool.acquire((30,), dtype) as lease:
            assert bool((lease.tensor == value).all())
            if dtype == torch.bool:  # other bytes than 0 and 1 are no booleans at all
                assert lease.tensor.view(torch.uint8).tolist() == [1] * 30
            lease.tensor.zero_()


@pytest.mark.parametrize(
    "dtype",
    [torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.complex64, *FLOAT8],
)
def test_debug_poisons_floats_with_nan_on_acquire(dtype: torch.dtype) -> None:
    pool = Pool("cpu", debug=True)
    for _ in range(2):
        with pool.acquire((30,), dtype) as lease:
            values = lease.tensor if dtype.is_complex else lease.tensor.to(torch.float32)
            assert bool(values.isnan().all())
            lease.tensor.copy_(torch.zeros(30, dtype=dtype))
            del values


def test_debug_poisons_on_release_so_that_a_stale_name_shows_it() -> None:
    pool = Pool("cpu", debug=True)
    with pool.acquire((30,), torch.float32, clear=True) as lease:
        floats = lease.tensor
        assert bool((floats == 0).all())
    assert bool(floats.isnan().all())
    with pool.acquire((700,), torch.uint8, clear=True) as lease:
        integers = lease.tensor
    assert bool((integers == 0xA5).all())


def test_debug_can_be_switched_and_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ELINVAR_POOL_DEBUG", raising=False)
    pool = Pool("cpu")
    assert pool.debug is False
    assert pool.set_debug(True) is False
    assert pool.set_debug(False) is True
    monkeypatch.setenv("ELINVAR_POOL_DEBUG", "1")
    assert Pool("cpu").debug is True
    assert Pool("cpu", debug=False).debug is False
    monkeypatch.setenv("ELINVAR_POOL_DEBUG", "0")
    assert Pool("cpu").debug is False


# -- the device runs out ---------------------------------------------------------------------------------------------


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


# -- streams ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def streams() -> FakeStreams:
    return FakeStreams()


@pytest.fixture
def streamed(streams: FakeStreams) -> Pool:
    return Pool("cpu", streams=streams, debug=False)


def test_same_stream_gets_it_back_at_once(streamed: Pool, streams: FakeStreams) -> None:
    for _ in range(3):
        nbytes(streamed, 8).release()
    assert streamed.stats().allocation_count == 1
    assert {entry[0] for entry in streams.diary} == {"record"}


def test_another_stream_waits_on_the_release_event(streamed: Pool, streams: FakeStreams) -> None:
    nbytes(streamed, 8).release()
    assert streams.diary == [("record", "main", 1)]
    with streams.use("side"):
        lease = nbytes(streamed, 8)
        assert streams.diary[1:] == [("wait", "side", 1), ("keep", 512, "side")]
        lease.release()
        assert streams.diary[3:] == [("record", "side", 2)]
        nbytes(streamed, 8).release()  # its own now: no wait, and torch knows already
        assert streams.diary[4:] == [("record", "side", 3)]
    nbytes(streamed, 8).release()
    assert streams.diary[5:] == [("wait", "main", 3), ("record", "main", 4)]
    assert streamed.stats().allocation_count == 1


def test_a_stream_prefers_its_own_buffers(streamed: Pool, streams: FakeStreams) -> None:
    mine = nbytes(streamed, 8)
    address = storage(mine)
    with streams.use("side"):
        theirs = nbytes(streamed, 8)
    mine.release()
    with streams.use("side"):
        theirs.release()
    streams.diary.clear()
    with nbytes(streamed, 8) as lease:
        assert storage(lease) == address
        assert streams.diary == []


def test_released_on_another_stream_than_acquired(streamed: Pool, streams: FakeStreams) -> None:
    """Work may be pending on both: whoever comes next awaits both, and torch knows of both."""
    lease = nbytes(streamed, 8)
    with streams.use("side"):
        lease.release()
    assert streams.diary == [("keep", 512, "side"), ("record", "main", 1), ("record", "side", 2)]
    streams.diary.clear()
    with streams.use("third"):
        nbytes(streamed, 8)
        assert streams.diary[:3] == [("wait", "third", 1), ("wait", "third", 2), ("keep", 512, "third")]


def test_a_stream_awaits_others_only(streamed: Pool, streams: FakeStreams) -> None:
    lease = nbytes(streamed, 8)
    with streams.use("side"):
        lease.release()
        streams.diary.clear()
        nbytes(streamed, 8)
    assert [entry for entry in streams.diary if entry[0] == "wait"] == [("wait", "side", 1)]


def test_each_buffer_knows_the_stream_of_its_present_lease(streamed: Pool, streams: FakeStreams) -> None:
    nbytes(streamed, 8).release()
    with streams.use("side"):
        lease = nbytes(streamed, 8)
    streams.diary.clear()
    lease.release()  # on main, although the work went to side
    assert streams.diary == [("record", "side", 2), ("record", "main", 3)]


def test_poison_awaits_the_work_it_would_overwrite(streams: FakeStreams) -> None:
    pool = Pool("cpu", streams=streams, debug=True)
    lease = nbytes(pool, 8)
    with streams.use("side"):
        lease.release()
    assert streams.diary == [
        ("keep", 512, "side"),
        ("record", "main", 1),
        ("wait", "side", 1),
        ("record", "side", 2),
    ]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no NVIDIA GPU")
def test_cuda_streams_order_reuse() -> None:
    pool = Pool("cuda")
    side = torch.cuda.Stream()
    n = 1 << 24
    for value in range(20):
        with pool.acquire((n,), torch.float32) as lease:
            lease.tensor.fill_(value)
            for _ in range(10):
                lease.tensor.add_(1)
            torch.cuda.current_stream().synchronize()
            expected = lease.tensor.sum(dtype=torch.float64)
        with torch.cuda.stream(side), pool.acquire((n,), torch.float32) as lease:
            lease.tensor.fill_(-1)
        assert expected.item() == n * (value + 10)
    torch.cuda.synchronize()
    assert pool.stats().allocation_count == 1


# -- grad mode -------------------------------------------------------------------------------------------------------


def test_given_memory_and_gradients_do_not_mix() -> None:
    w = torch.ones(2, requires_grad=True)
    with pytest.raises(InputError, match=r"fused_add: an input requires a gradient.*torch\.no_grad"):
        refuse_grad(torch.ones(2), None, 3.0, w, operation="fused_add")
    refuse_grad(torch.ones(2), None)
    with torch.no_grad():
        refuse_grad(w)
    with torch.inference_mode():
        refuse_grad(w)


# -- threads ---------------------------------------------------------------------------------------------------------


def together(count: int, fn: Callable[[int], None]) -> None:
    """Run fn(0) … fn(count-1) on threads that start at once; the first exception is raised here."""
    barrier = threading.Barrier(count)
    failures: list[BaseException] = []

    def body(index: int) -> None:
        barrier.wait()
        try:
            fn(index)
        except BaseException as error:  # noqa: BLE001
            failures.append(error)

    threads = [threading.Thread(target=body, args=(index,)) for index in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]


@pytest.fixture
def restless() -> Iterator[None]:
    """Switch threads every few bytecodes: races show."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)


def test_eight_threads_two_thousand_times(restless: None) -> None:
    pool = Pool("cpu", budget_bytes=64 << 20)

    def work(index: int) -> None:
        rng = random.Random(index)
        for step in range(2000):
            with nbytes(pool, rng.randint(1, 1 << 20)) as lease:
                value = (index * 31 + step) % 256
                lease.tensor.fill_(value)
                low, high = torch.aminmax(lease.tensor)
                assert int(low) == int(high) == value

    together(8, work)
    now = pool.stats()
    assert now.requests == 16_000
    assert pool.live == 0
    assert (now.bytes_live, now.bytes_waste) == (0, 0)
    consistent(pool, 0)


def test_named_tensors_in_threads_never_share_memory(restless: None) -> None:
    pool = Pool("cpu")

    def work(index: int) -> None:
        for step in range(300):
            lease = nbytes(pool, 512)
            tensor = lease.tensor
            tensor.fill_(index)
            lease.release()
            assert int(tensor.min()) == int(tensor.max()) == index, step

    together(8, work)
    consistent(pool, 0)


def test_books_are_only_touched_under_the_lock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Races between a few bytecodes hardly ever show: check the lock itself."""
    entered: list[str] = []
    for name in ("_find", "_take_back", "_settle", "_evict"):
        real = getattr(Pool, name)

        def checked(self: Pool, *args: object, real: Callable[..., object] = real, name: str = name) -> object:
            assert self._lock._is_owned(), name  # type: ignore[attr-defined]
            entered.append(name)
            return real(self, *args)

        monkeypatch.setattr(Pool, name, checked)
    pool = Pool("cpu", budget_bytes=4096)
    with nbytes(pool, 8):
        pool.stats()
    for trim in (pool.clear, lambda: pool.shrink_to_fit(0), lambda: pool.clear_size(1), lambda: pool.set_budget(1)):
        trim()
    assert pool.live == 0
    assert set(entered) == {"_find", "_take_back", "_settle", "_evict"}


def test_only_one_of_many_threads_releases_a_lease(pool: Pool, restless: None) -> None:
    for _ in range(50):
        lease = nbytes(pool, 8)
        outcomes: list[str] = []

        def work(index: int, lease: Lease = lease, outcomes: list[str] = outcomes) -> None:
            try:
                lease.release()
                outcomes.append("released")
            except DoubleRelease:
                outcomes.append("refused")

        together(4, work)
        assert sorted(outcomes) == ["refused"] * 3 + ["released"]
    assert pool.stats().total_pooled == 1


# -- the process -----------------------------------------------------------------------------------------------------


def test_live_leases_counts_all_pools(pool: Pool) -> None:
    before = live_leases()
    other = Pool("cpu")
    a, b = nbytes(pool, 8), nbytes(other, 8)
    assert live_leases() == before + 2
    a.release()
    b.release()
    assert live_leases() == before


def test_a_pool_dies_with_its_last_name() -> None:
    pool = Pool("cpu")
    nbytes(pool, 8).release()
    watch = weakref.ref(pool)
    del pool
    gc.collect()
    assert watch() is None


def test_a_pool_says_what_it_is() -> None:
    pool = Pool(Runtime().device("cpu"), budget_bytes=4096)
    with nbytes(pool, 8):
        assert repr(pool) == "<Pool on cpu: 512 bytes live, 0 cached, limit 4096>"
    assert repr(Pool("cpu")) == "<Pool on cpu: 0 bytes live, 0 cached, no limit>"


def test_endless_new_shapes_do_not_grow_tables(pool: Pool) -> None:
    buffer = None
    for n in range(1, _storage._MOST_SPECS + 50):
        with pool.acquire((n,), torch.uint8):
            pass
    assert len(_storage.SPECS) <= _storage._MOST_SPECS
    for waiting in pool._shelf.free.values():
        for buffer in waiting:
            assert len(buffer.views) <= _storage._MOST_VIEWS
    assert buffer is not None
    assert pool.stats().escaped == 0


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only glibc keeps pages")
def test_keep_pages_stops_page_faults() -> None:
    """In a process of its own, for there is no way back."""
    code = """
import resource, sys, torch
from elinvar import keep_pages
if sys.argv[1] == "keep" and not keep_pages():
    print("unsupported")
    sys.exit()
x = torch.ones(16 << 20)
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(3):
        (x * 2) + 1
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
faults()
print(faults())
"""
    counts = {}
    for mode in ("keep", "default"):
        done = subprocess.run(
            [sys.executable, "-c", code, mode], check=True, timeout=120, capture_output=True, text=True
        )
        if done.stdout.strip() == "unsupported":
            pytest.skip("no glibc")
        counts[mode] = int(done.stdout)
    assert counts["keep"] < 100 < counts["default"]


def test_keep_pages_elsewhere_does_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    assert keep_pages() is False
