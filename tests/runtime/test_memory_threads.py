"""Many threads, one pool: nothing is corrupted and the books balance."""

from __future__ import annotations

import random
import sys
import threading
from collections.abc import Callable, Iterator

import pytest
import torch

from elinvar.errors import (
    DoubleRelease,
)
from elinvar.runtime.memory import Lease, Pool


@pytest.fixture
def pool() -> Pool:
    return Pool("cpu", debug=False)


def nbytes(pool: Pool, n: int) -> Lease:
    return pool.acquire((n,), torch.uint8)


def consistent(pool: Pool, live: int) -> None:
    now = pool.stats()
    assert now.requests == now.allocation_count + now.reuse_count
    assert now.allocation_count == live + now.total_pooled + now.evictions + now.dropped + now.escaped
    assert now.total_memory == now.bytes_live + now.bytes_cached <= now.bytes_peak
    assert (now.bytes_live == 0) == (live == 0)
    assert pool.live == live
    if pool.budget_bytes is not None:
        assert now.total_memory <= pool.budget_bytes


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
