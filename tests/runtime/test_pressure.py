from __future__ import annotations

import gc
import itertools
import math
import threading
import time
import weakref
from types import SimpleNamespace

import pytest

from elinvar.errors import InputError
from elinvar.runtime.pipeline import Pipeline
from elinvar.runtime.pressure import Monitor, Pressure, Relief, Sensor
from elinvar.testing.fakes import FakeClock, FakeSensor

N, W, C = Pressure.NOMINAL, Pressure.WARNING, Pressure.CRITICAL


class Fixture:
    def __init__(self, *kinds, hold=0.0, margin=0.0):
        self.clock = FakeClock()
        self.values = {kind: FakeSensor(0.0) for kind in kinds or ("memory",)}
        sensors = [Sensor(kind, kind, read, 1.0, 2.0, margin) for kind, read in self.values.items()]
        self.monitor = Monitor(sensors, clock=self.clock, hold=hold)

    def at(self, value, kind="memory"):
        self.values[kind].set(value)
        return self.monitor.sample()[kind]


class FakePool:
    def __init__(self, live, cached):
        self.live, self.cached = live, cached
        self.asked = []

    def stats(self):
        return SimpleNamespace(bytes_live=self.live, bytes_cached=self.cached)

    def shrink_to_fit(self, max_bytes):
        self.asked.append(max_bytes)
        self.cached = max(0, max_bytes - self.live)
        return 0


def pipeline(n):
    return Pipeline([lambda x: x], in_flight=n)


def test_levels_go_up_at_once_and_every_kind_has_its_own():
    f = Fixture("memory", "thermal")
    assert f.monitor.level is N
    assert f.at(2.5) is C
    assert f.monitor.levels == {"memory": C, "thermal": N, "power": N}
    assert f.monitor.level is C
    assert f.at(1.5, "thermal") is W
    assert f.monitor.blind == ("power",)


def test_levels_fall_only_past_the_margin_and_after_the_hold():
    f = Fixture(hold=10.0, margin=0.2)
    assert f.at(1.5) is W
    assert f.at(0.9) is W  # inside the margin
    assert f.at(0.7) is W  # low enough now, but only since now
    f.clock.advance(9.9)
    assert f.at(0.7) is W
    f.clock.advance(0.2)
    assert f.at(0.7) is N


def test_the_hold_starts_over_when_pressure_returns():
    f = Fixture(hold=10.0)
    f.at(1.5)
    f.at(0.0)
    f.clock.advance(8)
    f.at(1.5)
    f.at(0.0)
    f.clock.advance(8)
    assert f.at(0.0) is W
    f.clock.advance(3)
    assert f.at(0.0) is N


def test_critical_falls_through_warning():
    f = Fixture(hold=10.0)
    f.at(2.0)
    f.at(1.0)
    f.clock.advance(10)
    assert f.at(1.0) is W
    f.at(0.0)
    f.clock.advance(10)
    assert f.at(0.0) is N


def test_the_worst_sensor_of_a_kind_decides():
    low, high = FakeSensor(0.0), FakeSensor(1.2)
    monitor = Monitor([Sensor("memory", "low", low, 1, 2), Sensor("memory", "high", high, 1, 2)], hold=0)
    changes = []
    monitor.on_change(changes.append)
    monitor.sample()
    assert changes[0].reading.sensor.name == "high"
    assert str(changes[0]) == "memory pressure nominal -> warning (high: 1.2)"


def test_a_sensor_that_goes_blind_keeps_its_level_and_a_broken_one_stops_nothing(caplog):
    f = Fixture()
    f.at(1.5)
    for reading in (None, math.nan, OSError("gone")):
        assert f.at(reading) is W
    assert caplog.text == ""
    assert f.at(ZeroDivisionError()) is W
    assert "'memory' failed" in caplog.text
    assert f.at(0.0) is N
    assert [r.value for r in f.monitor.readings] == [0.0]


def test_callbacks_are_asked_once_per_change_with_the_facts():
    f = Fixture()
    seen = []
    forget = f.monitor.on_change(seen.append)
    for value in (0.0, 1.0, 1.5, 2.0, 2.0, 0.0):
        f.at(value)
    assert [(c.old, c.new, c.reading.value) for c in seen] == [(N, W, 1.0), (W, C, 2.0), (C, N, 0.0)]
    assert seen[1].proposal == Relief(in_flight=1, pool_keep=0.0)
    assert seen[2].proposal == Relief()
    forget()
    forget()
    f.at(2.0)
    assert len(seen) == 3


def test_without_answers_pipelines_are_lowered_and_given_back_never_above_their_users_choice():
    f = Fixture()
    wide, narrow = pipeline(6), pipeline(1)
    f.monitor.watch(wide, narrow)
    f.at(1.0)
    assert (wide.in_flight, narrow.in_flight) == (2, 1)
    f.at(2.0)
    assert (wide.in_flight, narrow.in_flight) == (1, 1)
    f.at(1.0)
    assert (wide.in_flight, narrow.in_flight) == (2, 1)
    f.at(0.0)
    assert (wide.in_flight, narrow.in_flight) == (6, 1)


@pytest.mark.parametrize("kind", ["memory", "thermal", "power"])
def test_every_kind_lowers_pipelines(kind):
    f = Fixture(kind)
    p = pipeline(6)
    f.monitor.watch(p)
    f.at(1.0, kind)
    assert p.in_flight == 2
    f.at(2.0, kind)
    assert p.in_flight == 1


def test_what_the_user_sets_meanwhile_is_respected():
    f = Fixture()
    p = pipeline(6)
    f.monitor.watch(p)
    f.at(1.0)
    p.set_in_flight(4)
    f.at(2.0)
    assert p.in_flight == 1
    f.at(0.0)
    assert p.in_flight == 4


def test_the_tightest_kind_counts():
    f = Fixture("memory", "thermal")
    p = pipeline(6)
    f.monitor.watch(p)
    f.at(2.0, "thermal")
    f.at(1.0, "memory")
    assert p.in_flight == 1
    f.at(0.0, "thermal")
    assert p.in_flight == 2
    f.at(0.0, "memory")
    assert p.in_flight == 6


def test_answers_are_obeyed_and_the_most_careful_wins():
    f = Fixture()
    p, pool = pipeline(9), FakePool(100, 1000)
    f.monitor.watch(p, pool)
    answers = [None, None]
    f.monitor.on_change(lambda change: answers[0])
    f.monitor.on_change(lambda change: answers[1])
    answers[:] = [Relief(), None]
    f.at(2.0)
    assert (p.in_flight, pool.asked) == (9, [])  # "nothing" is an answer
    f.at(0.0)
    answers[:] = [Relief(in_flight=5, pool_keep=0.3), Relief(in_flight=7, pool_keep=0.9)]
    f.at(1.0)
    assert (p.in_flight, pool.asked) == (5, [400])
    f.at(0.0)
    answers[:] = [Relief(in_flight=50), None]
    f.at(1.0)
    assert p.in_flight == 9  # an answer cannot raise what the user chose


def test_pools_keep_live_leases_and_shrink_what_waits():
    f = Fixture("memory", "thermal")
    pool = FakePool(live=100, cached=1000)
    f.monitor.watch(pool)
    f.at(2.0, "thermal")
    assert pool.asked == []  # heat is not helped by giving memory back
    f.at(1.0)
    assert pool.asked == [600]
    f.at(2.0)
    assert pool.asked == [600, 100]
    f.at(0.0)
    assert pool.asked == [600, 100]


def test_a_real_pool_gives_way():
    from elinvar.runtime.memory import Pool

    f = Fixture()
    pool = Pool("cpu")
    f.monitor.watch(pool)
    keep = pool.acquire((1024,))
    leases = [pool.acquire((4096,)) for _ in range(4)]
    for lease in leases:
        lease.release()
    assert pool.stats().bytes_cached == 4 * 16384
    f.at(2.0)
    assert pool.stats().bytes_cached == 0
    assert pool.stats().bytes_live == 4096
    keep.release()


@pytest.mark.parametrize("answer", [ValueError("callback broke"), 3, "slow down"])
def test_a_bad_answer_is_logged_and_counts_as_none(answer, caplog):
    f = Fixture()
    p = pipeline(6)
    f.monitor.watch(p)

    def callback(change):
        if isinstance(answer, Exception):
            raise answer
        return answer

    f.monitor.on_change(callback)
    f.at(1.0)
    assert p.in_flight == 2
    assert "callback" in caplog.text


def test_a_pipeline_watched_under_pressure_is_lowered_at_once():
    f = Fixture()
    f.at(2.0)
    p = pipeline(6)
    f.monitor.watch(p)
    assert p.in_flight == 1


def test_watched_things_are_not_kept_alive():
    f = Fixture()
    p, pool = pipeline(3), FakePool(0, 0)
    ghosts = [weakref.ref(p), weakref.ref(pool)]
    f.monitor.watch(p, pool)
    del p, pool
    gc.collect()
    assert [g() for g in ghosts] == [None, None]
    f.at(2.0)
    assert f.at(0.0) is N


def test_throttling_changes_no_result():
    f = Fixture()
    with Pipeline([lambda x: x * x], in_flight=5) as p:
        f.monitor.watch(p)
        values = itertools.cycle([0.0, 1.0, 2.0, 0.5])
        results = []
        for r in p.run(range(60)):
            results.append(r)
            f.at(next(values))
    assert results == [x * x for x in range(60)]


def test_the_thread_samples_until_stopped_and_then_gives_everything_back():
    sensor = FakeSensor(2.5)
    monitor = Monitor([Sensor("memory", "m", sensor, 1, 2)], interval=0.01)
    p = pipeline(6)
    monitor.watch(p)
    changed = threading.Event()
    monitor.on_change(lambda change: changed.set())
    with monitor as same:
        assert same is monitor
        assert changed.wait(30)
        deadline = time.monotonic() + 30
        while p.in_flight != 1 and time.monotonic() < deadline:
            time.sleep(0.001)
        assert p.in_flight == 1
        assert monitor.start(0.02) is monitor
        assert monitor.interval == 0.02
        assert sum(t.name == "elinvar-pressure" for t in threading.enumerate()) == 1
    assert p.in_flight == 6
    assert monitor.level is N
    assert all(t.name != "elinvar-pressure" for t in threading.enumerate())
    monitor.stop()


def test_a_stopped_monitor_can_start_again():
    monitor = Monitor([Sensor("memory", "m", FakeSensor(2.5), 1, 2)], interval=0.01)
    for _ in range(2):
        changed = threading.Event()
        forget = monitor.on_change(lambda change, changed=changed: changed.set())
        with monitor:
            assert changed.wait(30)  # the level rises anew: what was known before the stop is forgotten
        forget()


def test_a_callback_may_stop_the_monitor():
    monitor = Monitor([Sensor("memory", "m", FakeSensor(2.5), 1, 2)], interval=0.01)
    done = threading.Event()

    def callback(change):
        monitor.stop()
        done.set()

    monitor.on_change(callback)
    monitor.start()
    assert done.wait(30)
    deadline = time.monotonic() + 30
    while any(t.name == "elinvar-pressure" for t in threading.enumerate()) and time.monotonic() < deadline:
        time.sleep(0.001)
    assert all(t.name != "elinvar-pressure" for t in threading.enumerate())


def test_a_forgotten_monitor_ends_its_thread():
    Monitor([], interval=0.01).start()
    gc.collect()
    deadline = time.monotonic() + 30
    while any(t.name == "elinvar-pressure" for t in threading.enumerate()) and time.monotonic() < deadline:
        time.sleep(0.001)
    assert all(t.name != "elinvar-pressure" for t in threading.enumerate())


@pytest.mark.parametrize(
    ("call", "named"),
    [
        (lambda: Monitor([3]), "sensor 3"),
        (lambda: Monitor([], hold=-1), "hold=-1"),
        (lambda: Monitor([], interval=0), "interval=0"),
        (lambda: Monitor([]).start(math.nan), "interval=nan"),
        (lambda: Monitor([]).watch(3), "watch got 3"),
        (lambda: Monitor([]).on_change(3), "on_change got 3"),
        (lambda: Relief(in_flight=0), "in_flight=0"),
        (lambda: Relief(pool_keep=1.5), r"pool_keep=1\.5"),
    ],
)
def test_wrong_arguments_are_named(call, named):
    with pytest.raises(InputError, match=named):
        call()


def test_the_default_monitor_samples_this_machine():
    monitor = Monitor()
    assert set(monitor.sample()) == {"memory", "thermal", "power"}
