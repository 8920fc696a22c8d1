from __future__ import annotations

import gc
import os
import signal
import threading
import weakref

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from elinvar.errors import ConfigError, InputError
from elinvar.runtime import parallel
from elinvar.runtime.parallel import cpu_threads, parallel_for, set_threads


@pytest.fixture
def no_choice(monkeypatch):
    monkeypatch.setattr(parallel, "_chosen", None)
    monkeypatch.delenv("ELINVAR_THREADS", raising=False)
    parallel._available.cache_clear()
    yield monkeypatch
    monkeypatch.undo()
    parallel._available.cache_clear()


def pieces(n, **options):
    seen = []
    lock = threading.Lock()

    def fn(start, stop):
        with lock:
            seen.append((start, stop))

    parallel_for(n, fn, **options)
    return seen


@settings(deadline=None, max_examples=60)
@given(n=st.integers(0, 700), chunk=st.none() | st.integers(1, 800), threads=st.integers(1, 5))
def test_pieces_cover_the_range_once_and_never_depend_on_threads(n, chunk, threads):
    seen = sorted(pieces(n, chunk=chunk, threads=threads))
    assert [i for start, stop in seen for i in range(start, stop)] == list(range(n))
    assert seen == pieces(n, chunk=chunk, threads=1)
    size = chunk if chunk is not None else max(1, -(-n // 128))
    assert seen == [(s, min(s + size, n)) for s in range(0, n, size)]


def test_two_threads_work_at_the_same_time_and_the_caller_is_one_of_them():
    barrier = threading.Barrier(2, timeout=30)
    names = []

    def fn(start, stop):
        barrier.wait()
        names.append(threading.current_thread().name)

    parallel_for(2, fn, chunk=1, threads=2)
    assert "MainThread" in names
    assert any(name.startswith("elinvar-cpu-") for name in names)


def test_one_thread_runs_inline_and_in_order():
    names = set()
    order = []

    def fn(start, stop):
        names.add(threading.get_ident())
        order.append(start)

    parallel_for(10, fn, chunk=3, threads=1)
    assert names == {threading.get_ident()}
    assert order == [0, 3, 6, 9]


def test_nested_calls_run_inline_with_the_same_pieces():
    lock = threading.Lock()
    inner = {}

    def outer(start, stop):
        mine = threading.get_ident()
        seen = []

        def fn(a, b):
            assert threading.get_ident() == mine
            seen.append((a, b))

        parallel_for(5, fn, chunk=2, threads=4)
        with lock:
            inner[start] = seen

    parallel_for(4, outer, chunk=1, threads=3)
    assert inner == {key: [(0, 2), (2, 4), (4, 5)] for key in range(4)}


@pytest.mark.parametrize("threads", [1, 4])
def test_the_lowest_failing_piece_is_raised_and_nothing_starts_after_it(threads):
    for _ in range(20):
        started = []

        def fn(start, stop, started=started):
            started.append(start)
            if start in (7, 30):
                raise LookupError(start)

        with pytest.raises(LookupError) as caught:
            parallel_for(1000, fn, chunk=1, threads=threads)
        assert caught.value.args == (7,)
        assert len(started) <= 7 + threads + 30
        assert set(range(7)) <= set(started)


def test_the_pool_still_works_after_a_failure_and_keeps_nothing_alive():
    class Big:
        pass

    big = Big()
    ghost = weakref.ref(big)

    def fn(start, stop, held=big):
        if start == 3:
            raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        parallel_for(64, fn, chunk=1, threads=3)
    assert len(pieces(64, chunk=1, threads=3)) == 64
    del fn, big
    gc.collect()
    assert ghost() is None


def test_an_interrupt_waits_for_running_pieces_and_wins_over_errors():
    entered, release = threading.Event(), threading.Event()
    ended = []

    def fn(start, stop):
        if threading.current_thread() is threading.main_thread():
            assert entered.wait(30)
            release.set()
            raise KeyboardInterrupt
        entered.set()
        assert release.wait(30)
        ended.append(start)
        raise ValueError("hidden")

    with pytest.raises(KeyboardInterrupt):
        parallel_for(2, fn, chunk=1, threads=2)
    assert len(ended) == 1


@pytest.mark.skipif(not hasattr(signal, "pthread_kill"), reason="needs POSIX signals")
def test_ctrl_c_while_waiting_for_helpers_leaves_only_when_they_have():
    entered = threading.Event()
    done = []

    def fn(start, stop):
        if threading.current_thread() is threading.main_thread():
            assert entered.wait(30)
            return
        entered.set()
        threading.Event().wait(0.2)  # time for the main thread to be waiting
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
        threading.Event().wait(0.2)
        done.append(start)

    old = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            parallel_for(2, fn, chunk=1, threads=2)
    finally:
        signal.signal(signal.SIGINT, old)
    assert len(done) == 1


def test_no_more_threads_join_than_asked_for_however_many_are_idle():
    pieces(64, chunk=1, threads=6)
    for _ in range(20):
        names = set()

        def fn(start, stop, names=names):
            names.add(threading.get_ident())
            threading.Event().wait(0.001)

        parallel_for(12, fn, chunk=1, threads=2)
        assert len(names) <= 2


def test_many_callers_share_the_pool_without_deadlock():
    results = {}

    def caller(key):
        total = [0] * 50

        def fn(start, stop):
            for i in range(start, stop):
                total[i] += i + key

        for _ in range(20):
            parallel_for(50, fn, chunk=3, threads=4)
        results[key] = total

    threads = [threading.Thread(target=caller, args=(key,)) for key in range(6)]
    for t in threads:
        t.start()
    for t in threads:
        t.join(60)
    assert results == {key: [20 * (i + key) for i in range(50)] for key in range(6)}
    assert not parallel._workers._open


def test_threads_are_reused():
    pieces(64, chunk=1, threads=3)
    before = threading.active_count()
    for _ in range(50):
        pieces(64, chunk=1, threads=3)
    assert threading.active_count() == before


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_forked_child_gets_its_own_pool():
    pieces(16, chunk=1, threads=3)
    read, write = os.pipe()

    def fork_inside(start, stop):
        if start:
            return
        pid = os.fork()
        if pid == 0:  # born inside a piece, with the parent's locks in any state
            try:
                ok = len(pieces(40, chunk=1, threads=3)) == 40 and parallel._workers._threads == 2
                os.write(write, b"y" if ok else b"n")
            finally:
                os._exit(0)
        os.waitpid(pid, 0)

    parallel_for(2, fork_inside, chunk=1, threads=2)
    os.close(write)
    with os.fdopen(read, "rb") as pipe:
        assert pipe.read() == b"y"


def test_the_smallest_of_affinity_quota_and_environment_counts(no_choice):
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    no_choice.setattr(parallel, "cpu_quota", lambda: None)
    assert cpu_threads() == affinity
    parallel._available.cache_clear()
    no_choice.setattr(parallel, "cpu_quota", lambda: 0.3)
    assert cpu_threads() == 1
    parallel._available.cache_clear()
    no_choice.setattr(parallel, "cpu_quota", lambda: 1000.5)
    no_choice.setenv("ELINVAR_THREADS", "9999")
    assert cpu_threads() == affinity
    parallel._available.cache_clear()
    no_choice.setenv("ELINVAR_THREADS", "1")
    assert cpu_threads() == 1


@pytest.mark.parametrize("text", ["0", "-1", "two", "1.5"])
def test_a_wrong_environment_is_named(no_choice, text):
    no_choice.setenv("ELINVAR_THREADS", text)
    with pytest.raises(ConfigError, match="ELINVAR_THREADS"):
        cpu_threads()


def test_set_threads_returns_the_old_number(no_choice):
    automatic = cpu_threads()
    assert set_threads(7) == automatic
    assert cpu_threads() == 7
    assert set_threads(None) == 7
    assert cpu_threads() == automatic


def test_the_set_number_is_used(no_choice):
    set_threads(1)
    names = set()
    parallel_for(300, lambda a, b: names.add(threading.get_ident()))
    assert names == {threading.get_ident()}


@pytest.mark.parametrize(
    ("call", "named"),
    [
        (lambda: parallel_for(-1, print), "n=-1"),
        (lambda: parallel_for(2.5, print), r"n=2\.5"),
        (lambda: parallel_for(3, None), "fn=None"),
        (lambda: parallel_for(3, print, chunk=0), "chunk=0"),
        (lambda: parallel_for(3, print, threads=0), "threads=0"),
        (lambda: parallel_for(3, print, threads=True), "threads=True"),
        (lambda: set_threads(0), "n=0"),
        (lambda: set_threads("4"), "n='4'"),
    ],
)
def test_wrong_arguments_are_named(call, named):
    with pytest.raises(InputError, match=named):
        call()


def test_numpy_integers_are_welcome():
    import numpy as np

    assert len(pieces(np.int64(10), chunk=5)) == 2
    assert pieces(np.int64(0)) == []
