"""A leak is found, named, and nothing else is called one."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator

import pytest
import torch

from elinvar.errors import InputError
from elinvar.runtime.memory import Pool
from elinvar.testing import LeakError, assert_no_leak


@pytest.fixture
def stop() -> Iterator[threading.Event]:
    event = threading.Event()
    yield event
    event.set()


def test_a_clean_function_passes() -> None:
    pool = Pool("cpu")

    def work() -> None:
        with pool.acquire((1000,)) as lease:
            lease.tensor.fill_(1)
        thread = threading.Thread(target=time.sleep, args=(0.001,))
        thread.start()
        thread.join()
        read, write = os.pipe()
        os.close(read)
        os.close(write)

    assert_no_leak(work, repeats=10)


def test_leases() -> None:
    pool = Pool("cpu")
    kept = []
    with pytest.raises(LeakError, match="6 leases were never released after 6 repeats"):
        assert_no_leak(lambda: kept.append(pool.acquire((1,))), repeats=6)
    assert issubclass(LeakError, AssertionError)


def test_threads_are_named(stop: threading.Event) -> None:
    def work() -> None:
        threading.Thread(target=stop.wait, name="stray", daemon=True).start()

    with pytest.raises(LeakError, match=r"4 threads still run \(stray, stray, stray, stray\)"):
        assert_no_leak(work, repeats=4)


def test_a_thread_that_ends_soon_is_no_leak() -> None:
    def work() -> None:
        threading.Thread(target=time.sleep, args=(0.5,)).start()

    assert_no_leak(work, repeats=3, warmup=1)


def test_descriptors_are_named() -> None:
    opened: list[int] = []
    try:
        with pytest.raises(LeakError, match=r"3 descriptors stayed open \(.*/dev/null"):
            assert_no_leak(lambda: opened.append(os.open(os.devnull, os.O_RDONLY)), repeats=3)
    finally:
        for descriptor in opened:
            os.close(descriptor)


def test_memory() -> None:
    # 40 MiB in ten runs: a system short of memory takes some MiB of a process's code back meanwhile.
    kept = []
    with pytest.raises(LeakError, match=r"resident memory grew by \d+\.\d MiB in 10 repeats"):
        assert_no_leak(lambda: kept.append(torch.ones(1 << 20)), repeats=10, max_rss_bytes=4 << 20)


def test_memory_that_stops_growing_is_a_cache_not_a_leak() -> None:
    cache: list[torch.Tensor] = []

    def work() -> None:
        if len(cache) < 12:
            cache.append(torch.ones(1 << 18))

    assert_no_leak(work, repeats=10, max_rss_bytes=4 << 20)
    assert len(cache) == 12


def test_warmup_may_fill_caches(stop: threading.Event) -> None:
    started: list[threading.Thread] = []

    def work() -> None:
        if not started:
            started.append(threading.Thread(target=stop.wait, daemon=True))
            started[0].start()

    assert_no_leak(work, repeats=5, warmup=1)


def test_it_runs_as_often_as_it_says() -> None:
    calls: list[int] = []
    assert_no_leak(lambda: calls.append(1), repeats=7, warmup=2)
    assert len(calls) == 9


def test_an_exception_passes_through() -> None:
    with pytest.raises(ZeroDivisionError):
        assert_no_leak(lambda: 1 / 0)


@pytest.mark.parametrize("bad", [{"repeats": 1}, {"warmup": 0}, {"max_rss_bytes": -1}])
def test_bad_counts(bad: dict[str, int]) -> None:
    with pytest.raises(InputError, match="assert_no_leak"):
        assert_no_leak(lambda: None, **bad)


def test_not_callable() -> None:
    with pytest.raises(InputError, match="not callable"):
        assert_no_leak(3)  # type: ignore[arg-type]
