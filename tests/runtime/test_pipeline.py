from __future__ import annotations

import contextvars
import gc
import itertools
import signal
import threading
import time
import weakref
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from elinvar.errors import Cancelled, DoubleRelease, InputError, PipelineError
from elinvar.runtime.pipeline import Pipeline, Stage
from elinvar.runtime.trace import trace


def lanes():
    return [t for t in threading.enumerate() if t.name.startswith("elinvar-") and not t.name.startswith("elinvar-cpu")]


@pytest.fixture(autouse=True)
def no_thread_survives():
    yield
    gc.collect()
    deadline = time.monotonic() + 10
    while lanes() and time.monotonic() < deadline:
        time.sleep(0.005)
    assert lanes() == []


class Lease:
    """Behaves as the pool's: counts who is alive, refuses a second release."""

    live: set = set()

    def __init__(self, tag=None):
        self.tag = tag
        Lease.live.add(self)

    @property
    def tensor(self):
        return None

    def release(self):
        if self not in Lease.live:
            raise DoubleRelease("twice")
        Lease.live.discard(self)


@pytest.fixture(autouse=True)
def no_lease_survives():
    Lease.live = set()
    yield
    assert Lease.live == set()


def inc(x):
    return x + 1


def double(x):
    return x * 2


# -------------------------------------------------------------------------------------------------- results


@settings(deadline=None, max_examples=25)
@given(n=st.integers(0, 25), in_flight=st.integers(1, 6), workers=st.lists(st.integers(1, 4), min_size=1, max_size=4))
def test_results_are_complete_and_in_order(n, in_flight, workers):
    def jitter(x):
        time.sleep((x * 7919 % 5) * 1e-4)
        return x + 1

    with Pipeline([Stage(jitter, workers=w) for w in workers], in_flight=in_flight) as p:
        assert list(p.run(range(n))) == [i + len(workers) for i in range(n)]


def test_a_plain_function_is_a_stage_and_a_pipeline_can_run_again():
    with Pipeline([inc, Stage(double)]) as p:
        assert list(p.run([1, 2])) == [4, 6]
        assert lanes() == []
        assert list(p.run([])) == []
        assert list(p.run(iter([5]))) == [12]


def test_stages_overlap():
    meet = threading.Barrier(2, timeout=30)

    def first(x):
        if x > 0:
            meet.wait()  # item x is here while item x-1 is in the second stage
        return x

    def second(x):
        if x < 9:
            meet.wait()
        return x

    assert list(Pipeline([first, second], in_flight=2).run(range(10))) == list(range(10))


@pytest.mark.parametrize("in_flight", [1, 2, 5])
def test_never_more_than_in_flight_items_exist(in_flight):
    live = 0
    most = 0
    lock = threading.Lock()

    def items():
        nonlocal live, most
        for i in range(30):
            with lock:
                live += 1
                most = max(most, live)
            yield i

    with Pipeline([Stage(inc, workers=3), Stage(double, workers=3)], in_flight=in_flight) as p:
        for _ in p.run(items()):
            time.sleep(0.001)
            with lock:
                assert p.outstanding <= in_flight
                live -= 1  # the consumer is done with it when it asks for the next
    assert most == in_flight


def test_the_item_the_consumer_holds_counts():
    started = []
    with Pipeline([lambda x: started.append(x) or x], in_flight=2) as p:
        run = p.run(range(10))
        assert next(run) == 0
        deadline = time.monotonic() + 30
        while len(started) < 2 and time.monotonic() < deadline:
            time.sleep(0.001)
        time.sleep(0.02)
        assert started == [0, 1]
        assert p.outstanding == 2
        assert next(run) == 1
        run.close()


def test_an_infinite_input_is_read_no_further_than_needed():
    counter = itertools.count()
    with Pipeline([inc], in_flight=3) as p:
        assert list(itertools.islice(p.run(counter), 5)) == [1, 2, 3, 4, 5]
    assert next(counter) <= 5 + 3


def test_a_single_worker_sees_items_in_order_behind_many():
    seen = []

    def shuffle(x):
        time.sleep((7 - x % 8) * 1e-3)
        return x

    with Pipeline([Stage(shuffle, workers=6), Stage(lambda x: seen.append(x) or x)], in_flight=8) as p:
        list(p.run(range(24)))
    assert seen == list(range(24))


def test_values_are_not_kept_alive_by_idle_lanes():
    class Big:
        pass

    ghosts = []

    def make(_):
        big = Big()
        ghosts.append(weakref.ref(big))
        return big

    with Pipeline([make, lambda x: x]) as p:
        for result in p.run(range(4)):
            last = result
        del result, last
        gc.collect()
        assert [g() for g in ghosts] == [None] * 4
        run = p.run(range(2))
        del ghosts[:]
        next(run)
        gc.collect()
        assert ghosts[0]() is None  # dropped by the consumer: nobody else has it
        run.close()


# -------------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize("in_flight", [1, 2, 3, 8])
@pytest.mark.parametrize("workers", [1, 3])
def test_an_exception_comes_after_all_earlier_items(in_flight, workers):
    def bad(x):
        if x == 17:
            raise LookupError("seventeen")
        return x

    got = []
    started = []
    p = Pipeline([Stage(lambda x: started.append(x) or x, name="a"), Stage(bad, "b", workers=workers)], in_flight)
    with pytest.raises(LookupError, match="seventeen") as caught, p:
        for r in p.run(range(1000)):
            got += [r]
    assert got == list(range(17))
    assert len(started) <= 17 + in_flight + 1
    assert any("'b'" in note and "item 17" in note for note in caught.value.__notes__)
    assert lanes() == []
    with pytest.raises(PipelineError, match="by an error"):
        p.run([1])


def test_threads_are_joined_before_the_exception_arrives_and_earlier_items_finish():
    slow_done = []

    def first(x):
        return x

    def second(x):
        if x == 2:
            time.sleep(0.05)
            slow_done.append(x)
        if x == 3:
            raise ValueError("three")
        return x

    run = Pipeline([first, Stage(second, workers=4)], in_flight=4).run(range(100))
    assert [next(run), next(run), next(run)] == [0, 1, 2]
    assert slow_done == [2]
    with pytest.raises(ValueError, match="three"):
        next(run)
    assert lanes() == []
    with pytest.raises(StopIteration):
        next(run)


def test_no_item_starts_after_the_first_failure():
    failed = threading.Event()
    release = threading.Event()
    started_late = []

    def first(x):
        if failed.is_set():
            started_late.append(x)
        return x

    def second(x):
        if x == 0:
            release.wait(30)  # keeps item 0 in flight while item 2 has already failed
        if x == 2:
            failed.set()
            raise ValueError("two")
        return x

    with Pipeline([first, Stage(second, workers=3)], in_flight=3) as p:
        run = p.run(range(50))
        threading.Timer(0.05, release.set).start()
        assert next(run) == 0
        time.sleep(0.01)
        assert next(run) == 1
        with pytest.raises(ValueError, match="two"):
            next(run)
    assert started_late == []


def test_of_several_failures_the_earliest_item_wins():
    def bad(x):
        if x in (3, 4):
            time.sleep(0.02 * (4 - x))
            raise ValueError(x)
        return x

    got = []
    with pytest.raises(ValueError) as caught:
        for r in Pipeline([Stage(bad, workers=4)], in_flight=4).run(range(9)):
            got += [r]
    assert got == [0, 1, 2]
    assert caught.value.args == (3,)


def test_the_sources_own_error_is_stage_source():
    def items():
        yield 0
        yield 1
        raise OSError("disk")

    got = []
    with pytest.raises(OSError, match="disk") as caught:
        for r in Pipeline([inc], in_flight=5).run(items()):
            got += [r]
    assert got == [1, 2]
    assert any("'source'" in note and "item 2" in note for note in caught.value.__notes__)


def test_an_exception_keeps_its_identity_and_traceback():
    class Odd(Exception):
        def __init__(self, a, b):
            super().__init__(a, b)

    original = Odd(1, 2)

    def bad(x):
        raise original

    with pytest.raises(Odd) as caught:
        next(Pipeline([Stage(bad, name="odd")]).run([1]))
    assert caught.value is original
    assert any(entry.name == "bad" for entry in caught.traceback)


@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt, GeneratorExit])
def test_even_a_base_exception_of_a_stage_reaches_the_consumer(kind):
    def bad(x):
        raise kind

    with pytest.raises(kind):
        next(Pipeline([bad]).run([1]))


def test_stop_iteration_from_a_stage_does_not_end_the_loop_silently():
    with pytest.raises(PipelineError, match="StopIteration"):
        list(Pipeline([Stage(lambda x: next(iter([])), name="empty")]).run([1, 2]))


def test_an_exception_in_the_loop_body_closes_everything():
    with pytest.raises(ZeroDivisionError), Pipeline([Lease], in_flight=4) as p:
        for lease in p.run(range(100)):
            lease.release()
            raise ZeroDivisionError
    assert lanes() == []


def test_progress_counts_and_its_error_ends_the_run():
    calls = []
    with Pipeline([inc], progress=lambda d, t: calls.append((d, t))) as p:
        list(p.run([1, 2]))
        list(p.run(iter([1])))
    assert calls == [(1, 2), (2, 2), (1, None)]

    def bad(done, total):
        if done == 3:
            raise RuntimeError("bar broke")

    got = []
    with pytest.raises(RuntimeError, match="bar broke") as caught:
        for lease in Pipeline([Lease], in_flight=4, progress=bad).run(range(9)):
            got.append(lease.tag)
            lease.release()
    assert got == [0, 1]
    assert any("progress" in note and "item 2" in note for note in caught.value.__notes__)


# -------------------------------------------------------------------------------------------------- leases


def test_leases_of_undelivered_results_are_released_wherever_they_hide():
    @dataclass
    class Block:
        lease: Lease
        more: list = field(default_factory=list)

    def make(i):
        if i == 6:
            raise ValueError("six")
        return Block(Lease(i), [{"x": (Lease(i),)}])

    delivered = []
    with pytest.raises(ValueError, match="six"):
        for block in Pipeline([Stage(make, workers=3), lambda b: b], in_flight=5).run(range(50)):
            delivered += [block]
    assert len(delivered) == 6
    assert {lease.tag for lease in Lease.live} == set(range(6))  # those the consumer got are the consumer's
    for block in delivered:
        block.lease.release()
        block.more[0]["x"][0].release()


def test_the_input_of_a_failing_stage_is_released_unless_it_did_so_itself():
    def tidy(lease):
        lease.release()
        raise ValueError("tidy")

    def untidy(lease):
        raise ValueError("untidy")

    for bad in (tidy, untidy):
        with pytest.raises(ValueError, match=bad.__name__):
            list(Pipeline([Lease, bad]).run(range(5)))
        assert Lease.live == set()


def test_leases_from_the_source_are_released_when_never_started():
    def items():
        while True:
            yield Lease()

    def bad(lease):
        time.sleep(0.01)
        raise ValueError("first")

    with pytest.raises(ValueError, match="first"):
        list(Pipeline([bad], in_flight=6).run(items()))


def test_real_leases_return_to_their_pool():
    from elinvar.runtime.memory import Pool

    pool = Pool("cpu")

    def load(i):
        lease = pool.acquire((256,))
        lease.tensor.fill_(i)
        return lease

    def compute(lease):
        with lease:
            if lease.tensor[0] == 17:
                raise LookupError("seventeen")
            out = pool.acquire((256,))
            out.tensor.copy_(lease.tensor).mul_(2)
        return {"out": (out,)}

    got = []
    with pytest.raises(LookupError, match="seventeen"):
        with Pipeline([Stage(load), Stage(compute, compute=True)], in_flight=4) as p:
            for result in p.run(range(40)):
                with result["out"][0] as lease:
                    got += [int(lease.tensor[0])]
    assert got == [2 * i for i in range(17)]
    assert pool.live == 0


def test_fifty_runs_leak_nothing():
    from elinvar.testing import assert_no_leak

    def once():
        with Pipeline([Stage(inc, workers=2), double], in_flight=3) as p:
            for i, _ in enumerate(p.run(range(20))):
                if i == 10:
                    break

    assert_no_leak(once)


def test_a_lock_in_a_result_is_not_mistaken_for_a_lease():
    lock = threading.Lock()
    lock.acquire()
    with Pipeline([lambda x: (lock, memoryview(b"x"), x)], in_flight=3) as p:
        run = p.run(range(9))
        next(run)
    assert lock.locked()


def test_dispose_is_called_once_per_undelivered_result_with_the_right_stages_hook():
    disposed = []
    gate = threading.Event()

    def second(x):
        if x == "a1":
            gate.wait(30)
            raise ValueError("one")
        return "b" + x[1:]

    stages = [
        Stage(lambda i: f"a{i}", dispose=lambda v: disposed.append(("A", v))),
        Stage(second, workers=2, dispose=lambda v: disposed.append(("B", v))),
    ]
    with Pipeline(stages, in_flight=4) as p:
        run = p.run(range(4))
        assert next(run) == "b0"
        threading.Timer(0.05, gate.set).start()
        with pytest.raises(ValueError, match="one"):
            next(run)
    assert len(disposed) == len(set(disposed))
    assert ("A", "a1") in disposed
    assert {int(v[1:]) for _, v in disposed} == {1, 2, 3}
    assert all(tag.lower() == v[0] for tag, v in disposed)


def test_a_failing_dispose_is_logged_and_hides_nothing(caplog):
    def sulk(value):
        raise RuntimeError("no")

    with pytest.raises(ValueError, match="one"):
        with Pipeline([Stage(inc, dispose=sulk)], in_flight=3) as p:
            for _ in p.run(range(9)):
                raise ValueError("one")
    assert "could not be disposed" in caplog.text


# -------------------------------------------------------------------------------------------------- ending early


def test_break_without_with_leaves_no_thread_and_no_lease():
    for lease in Pipeline([Lease, lambda x: x], in_flight=4).run(range(100)):
        lease.release()
        break


def test_a_pipeline_may_run_again_after_a_break():
    with Pipeline([inc], in_flight=3) as p:
        for _ in p.run(itertools.count()):
            break
        assert list(p.run([1])) == [2]


def test_a_generator_in_a_reference_cycle_is_collected_cleanly():
    run = Pipeline([Lease], in_flight=3).run(range(100))
    next(run).release()
    cycle = [run]
    cycle.append(cycle)
    del run, cycle
    gc.collect()


def test_a_generator_collected_on_a_lane_thread_does_not_deadlock():
    holder = []

    def stage(x):
        if x == 1:
            holder.clear()  # closes the generator from inside its own lane
        return Lease(x)

    run = Pipeline([stage], in_flight=3).run(range(100))
    holder.append(run)
    next(run).release()
    del run
    deadline = time.monotonic() + 30
    while holder and time.monotonic() < deadline:
        time.sleep(0.001)
    assert not holder


def test_ctrl_c_in_the_consumer_closes_everything():
    with pytest.raises(KeyboardInterrupt), Pipeline([Lease], in_flight=4) as p:
        for lease in p.run(range(100)):
            lease.release()
            raise KeyboardInterrupt
    assert lanes() == []


@pytest.mark.skipif(not hasattr(signal, "pthread_kill"), reason="needs POSIX signals")
def test_ctrl_c_while_waiting_for_a_result():
    main = threading.main_thread().ident

    def slow(x):
        if x == 1:
            time.sleep(0.05)
            signal.pthread_kill(main, signal.SIGINT)
            time.sleep(0.05)
        return Lease(x)

    old = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt), Pipeline([slow], in_flight=2) as p:
            for lease in p.run(range(100)):
                lease.release()
    finally:
        signal.signal(signal.SIGINT, old)
    assert lanes() == []


def test_cancel_from_another_thread():
    with Pipeline([lambda x: time.sleep(0.01) or Lease(x)], in_flight=3) as p:
        run = p.run(itertools.count())
        next(run).release()
        threading.Timer(0.02, p.cancel).start()
        with pytest.raises(Cancelled):
            for lease in run:
                lease.release()
        assert lanes() == []
        with pytest.raises(Cancelled):
            p.run([1])
        with pytest.raises(Cancelled):
            p.try_submit(1)


@pytest.mark.parametrize("where", ["stage", "progress", "body", "before"])
def test_cancel_from_anywhere(where):
    def stage(x):
        if where == "stage" and x == 5:
            p.cancel()
        return Lease(x)

    def progress(done, total):
        if where == "progress" and done == 5:
            p.cancel()

    p = Pipeline([stage], in_flight=3, progress=progress)
    if where == "before":
        run = p.run(range(3))
        p.cancel()
        with pytest.raises(Cancelled):
            next(run)
        return
    with pytest.raises(Cancelled, match="after 6 items" if where == "body" else "cancelled after"):
        for lease in p.run(range(100)):
            lease.release()
            if where == "body" and lease.tag == 5:
                p.cancel()


def test_close_from_another_thread_wakes_the_consumer():
    p = Pipeline([lambda x: time.sleep(0.01) or x], in_flight=2)
    threading.Timer(0.05, p.close).start()
    with pytest.raises(Cancelled, match="closed"):
        for _ in p.run(itertools.count()):
            pass
    p.close()
    with pytest.raises(PipelineError, match="closed"):
        p.run([1])
    with pytest.raises(PipelineError, match="closed"):
        p.__enter__()


def test_a_run_that_was_never_started_costs_nothing():
    with Pipeline([inc]) as p:
        p.run(range(5))
        assert lanes() == []
        assert list(p.run([1])) == [2]


# -------------------------------------------------------------------------------------------------- pushing


def test_try_submit_never_blocks_and_results_drain():
    gate = threading.Event()
    with Pipeline([lambda x: gate.wait(30) and x], in_flight=2) as p:
        assert [p.try_submit(i) for i in (1, 2, 3)] == [True, True, False]
        assert p.outstanding == 2
        gate.set()
        assert list(p.results()) == [1, 2]
        assert p.outstanding == 0
        assert p.try_submit(4)
        assert list(p.results()) == [4]
        assert list(p.results()) == []


def test_leaving_results_early_keeps_the_rest():
    with Pipeline([inc], in_flight=3) as p:
        for i in range(3):
            assert p.try_submit(i)
        for first in p.results():
            assert first == 1
            break
        assert list(p.results()) == [2, 3]


def test_a_producer_thread_feeds_a_waiting_consumer():
    with Pipeline([Stage(inc, workers=2), double], in_flight=3) as p:

        def produce():
            for i in range(40):
                while not p.try_submit(i):
                    time.sleep(0.0005)
            p.finish()

        producer = threading.Thread(target=produce)
        producer.start()
        assert list(p.results(wait=True)) == [2 * (i + 1) for i in range(40)]
        producer.join(30)
        with pytest.raises(PipelineError, match="finish"):
            p.try_submit(1)


@pytest.mark.parametrize(("call", "ends"), [("finish", list), ("cancel", Cancelled), ("close", Cancelled)])
def test_a_consumer_that_waits_for_nothing_is_woken(call, ends):
    p = Pipeline([inc])
    outcome = []

    def consume():
        try:
            outcome.append(type(list(p.results(wait=True))))
        except Cancelled:
            outcome.append(Cancelled)

    consumer = threading.Thread(target=consume)
    consumer.start()
    time.sleep(0.05)  # it is waiting now
    getattr(p, call)()
    consumer.join(20)
    assert outcome == [ends]
    p.close()


def test_cancel_stops_the_stages_at_once():
    started = []
    gate = threading.Event()

    def stage(x):
        started.append(x)
        gate.wait(20)
        return x

    with Pipeline([stage], in_flight=5) as p:
        assert all(p.try_submit(x) for x in range(5))
        while not started:
            time.sleep(0.001)
        p.cancel()
        gate.set()
        p.close()
    assert started == [0]


def test_a_failure_while_pushing_refuses_more_then_raises():
    def bad(x):
        if x == 1:
            raise ValueError("one")
        return x

    p = Pipeline([bad], in_flight=4)
    assert p.try_submit(0)
    assert p.try_submit(1)
    results = p.results()
    assert next(results) == 0
    with pytest.raises(ValueError, match="one"):
        next(results)
    assert lanes() == []
    with pytest.raises(PipelineError, match="by an error"):
        p.try_submit(5)


def test_after_a_failure_nothing_is_accepted():
    done = threading.Event()

    def bad(x):
        done.set()
        raise ValueError("x")

    with Pipeline([bad], in_flight=4) as p:
        assert p.try_submit(0)
        assert done.wait(30)
        deadline = time.monotonic() + 30
        while p.try_submit(Lease()) and time.monotonic() < deadline:
            time.sleep(0.001)
        refused = Lease()
        assert p.try_submit(refused) is False
        Lease.live.clear()  # refused items stay the caller's


def test_wrong_order_of_use_is_named():
    with Pipeline([inc], in_flight=2) as p:
        assert p.try_submit(1)
        with pytest.raises(PipelineError, match="submitted items"):
            next(p.run([1]))
        first = p.results()
        assert next(first) == 2
        with pytest.raises(PipelineError, match="one loop"):
            next(p.results())
        assert list(first) == []
    with Pipeline([inc], in_flight=2) as p:
        run = p.run(range(4))
        next(run)
        with pytest.raises(PipelineError, match="a run is under way"):
            p.try_submit(3)
        with pytest.raises(PipelineError, match="a run is under way"):
            next(p.run([1]))
        assert list(run) == [2, 3, 4]


def test_a_forgotten_pipeline_releases_threads_and_results():
    p = Pipeline([Lease], in_flight=3)
    assert p.try_submit(1)
    assert p.try_submit(2)
    del p
    gc.collect()
    assert lanes() == []


def test_close_with_undelivered_items():
    with Pipeline([Lease], in_flight=3) as p:
        assert p.try_submit(1)
        assert p.try_submit(2)
    with pytest.raises(PipelineError, match="closed"):
        p.try_submit(3)
    p.close()


# -------------------------------------------------------------------------------------------------- surroundings


def test_in_flight_can_be_changed_while_running():
    most = []
    with Pipeline([inc], in_flight=5) as p:
        run = p.run(range(30))
        next(run)
        assert p.outstanding == 5
        assert p.set_in_flight(2) == 5
        assert p.in_flight == 2
        for _ in range(4):
            next(run)
        for _ in range(5):
            next(run)
            most.append(p.outstanding)
        assert max(most) <= 2
        assert p.set_in_flight(4) == 2
        next(run)
        assert p.outstanding == 4
        assert list(run) == list(range(12, 31))


def test_context_variables_and_grad_mode_follow_the_items():
    import torch

    var = contextvars.ContextVar("var", default="unset")

    def look(_):
        return var.get(), torch.is_grad_enabled(), torch.is_inference_mode_enabled()

    with Pipeline([look]) as p:
        var.set("set")
        assert list(p.run([0])) == [("set", True, False)]
        with torch.no_grad():
            assert list(p.run([0])) == [("set", False, False)]
        with torch.inference_mode():
            assert list(p.run([0])) == [("set", False, True)]


def test_pipelines_nest():
    def outer(x):
        with Pipeline([inc, double], in_flight=2) as q:
            return sum(q.run(range(x)))

    assert list(Pipeline([Stage(outer, workers=2)], in_flight=3).run(range(5))) == [0, 2, 6, 12, 20]


def test_a_nested_failure_names_both_stages():
    def bad(x):
        raise ValueError("deep")

    def outer(x):
        return list(Pipeline([Stage(bad, name="inner")]).run([x]))

    with pytest.raises(ValueError, match="deep") as caught:
        list(Pipeline([Stage(outer, name="outer")]).run([1]))
    notes = " ".join(caught.value.__notes__)
    assert notes.index("'inner'") < notes.index("'outer'")


def test_each_stage_is_a_trace_range():
    with trace.record() as recording:
        list(Pipeline([Stage(inc, "first"), Stage(double, "second")]).run(range(3)))
    assert {"first", "second"} <= set(recording.totals())


def test_devices_are_looked_up_where_the_stages_run():
    from elinvar.errors import DeviceUnavailable
    from elinvar.runtime.device import device, devices

    assert Pipeline([Stage(inc, device="cpu")])._stages[0].device is device("cpu")
    elsewhere = type("Elsewhere", (), {"open": lambda self, stages, board: None})()
    if all(d.kind != "cuda" for d in devices()):
        with pytest.raises(DeviceUnavailable, match="cuda"):
            Pipeline([Stage(inc, device="cuda")])
        assert Pipeline([Stage(inc, device="cuda:1")], executor=elsewhere)._stages[0].kind == "cuda"
    assert Pipeline([Stage(inc, device="auto")], executor=elsewhere)._stages[0].device is device("auto")
    with pytest.raises(InputError, match="gpu"):
        Pipeline([Stage(inc, device="gpu")], executor=elsewhere)
    two = [Stage(inc, compute=True, device="cuda"), Stage(inc, compute=True, device="cuda")]
    Pipeline(two, executor=elsewhere)  # only the CPU is shared


def test_threads_that_cannot_start_leave_none_behind(monkeypatch):
    started = []
    real = threading.Thread.start

    def start(self):
        if len(started) == 2:
            raise RuntimeError("can't start new thread")
        started.append(self)
        real(self)

    monkeypatch.setattr(threading.Thread, "start", start)
    with pytest.raises(RuntimeError, match="start new thread"):
        next(Pipeline([Stage(inc, workers=4)]).run([1]))
    monkeypatch.undo()


@pytest.mark.parametrize(
    ("call", "named"),
    [
        (lambda: Stage(None), "fn=None"),
        (lambda: Stage(inc, workers=0), "workers=0"),
        (lambda: Stage(inc, workers=True), "workers=True"),
        (lambda: Stage(inc, dispose=3), "dispose=3"),
        (lambda: Pipeline([]), "no stages"),
        (lambda: Pipeline(Stage(inc)), "list of Stage"),
        (lambda: Pipeline([3]), "fn=3"),
        (lambda: Pipeline([inc], in_flight=0), "in_flight=0"),
        (lambda: Pipeline([inc], in_flight=2.0), r"in_flight=2\.0"),
        (lambda: Pipeline([inc], executor=3), "executor=3"),
        (lambda: Pipeline([inc], progress=3), "progress=3"),
        (lambda: Pipeline([inc]).run(3), "int"),
        (lambda: Pipeline([inc]).set_in_flight(0), "n=0"),
        (lambda: Pipeline([Stage(inc, compute=True), Stage(double, compute=True)]), "'inc'.*'double'"),
        (lambda: Pipeline([Stage(inc, compute=True, workers=2)]), "one worker"),
    ],
)
def test_wrong_arguments_are_named(call, named):
    with pytest.raises(InputError, match=named):
        call()
