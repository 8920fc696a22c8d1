"""Taking samples with an injected clock: nothing here depends on how fast this machine is."""

from __future__ import annotations

import gc
from collections.abc import Callable

import pytest

from elinvar.bench import HostTimer, Work, compare, interleave, measure, observed
from elinvar.bench.timers import CLOCKS, timer_for
from elinvar.errors import BenchError, InputError


class FakeTimer:
    """Each function advances a fake clock by what `cost` says; `calls` logs (function, inner)."""

    def __init__(self, cost: dict[Callable[[], object], float]) -> None:
        self.cost = cost
        self.calls: list[tuple[Callable[[], object], int]] = []

    def time(self, fn: Callable[[], object], inner: int) -> float:
        fn()
        self.calls.append((fn, inner))
        return self.cost[fn]


def test_every_sample_is_kept_and_warmup_is_not() -> None:
    seen = []

    def work() -> None:
        seen.append(1)

    now = iter(range(1000))
    samples = measure(work, name="w", runs=7, warmup=2, yardsticks=False, timer=HostTimer(lambda: float(next(now))))
    assert samples.values == (1.0,) * 7
    assert len(seen) == 9
    assert samples.name == "w"
    assert samples.machine
    assert samples.rounds == ""
    assert samples.load.wall_seconds > 0


def test_rounds_are_interleaved_and_the_order_rotates() -> None:
    def a() -> None: ...
    def b() -> None: ...
    def c() -> None: ...

    timer = FakeTimer({a: 1.0, b: 2.0, c: 4.0})
    out = interleave({"a": a, "b": b, "c": c}, runs=4, warmup=0, yardsticks=False, timer=timer)
    order = "".join(fn.__name__ for fn, _ in timer.calls)
    assert order == "abcbcacababc"
    assert out["a"].values == (1.0,) * 4
    assert out["c"].values == (4.0,) * 4
    assert len({s.rounds for s in out.values()}) == 1
    assert out["a"].rounds


def test_interleaved_samples_are_compared_as_pairs() -> None:
    def a() -> None: ...
    def b() -> None: ...

    out = interleave({"a": a, "b": b}, runs=8, warmup=0, yardsticks=False, timer=FakeTimer({a: 1.0, b: 2.0}))
    assert compare(out["a"], out["b"]).paired
    again = interleave({"a": a, "b": b}, runs=8, warmup=0, yardsticks=False, timer=FakeTimer({a: 1.0, b: 2.0}))
    assert not compare(out["a"], again["b"]).paired


def test_inner_divides_out() -> None:
    now = iter(float(i) for i in range(100))
    calls = []
    samples = measure(
        lambda: calls.append(1),
        name="w",
        runs=3,
        warmup=0,
        inner=4,
        yardsticks=False,
        timer=HostTimer(lambda: next(now)),
    )
    assert samples.values == (0.25,) * 3
    assert len(calls) == 12


def test_auto_lengthens_short_samples_until_the_clock_resolves_them() -> None:
    clock = [0.0]

    def short() -> None:
        clock[0] += 1e-6

    timer = HostTimer(lambda: clock[0])
    spent: list[float] = []
    original = timer.time

    def spy(fn: Callable[[], object], inner: int) -> float:
        value = original(fn, inner)
        spent.append(value * inner)
        return value

    timer.time = spy  # type: ignore[method-assign]
    samples = measure(short, name="s", runs=5, warmup=0, inner="auto", yardsticks=False, timer=timer)
    assert samples.median == pytest.approx(1e-6)
    assert min(spent[-5:]) >= 200e-6


def test_a_call_shorter_than_a_tick_is_an_error_not_a_zero() -> None:
    with pytest.raises(BenchError, match="inner"):
        measure(lambda: None, name="w", runs=3, warmup=0, yardsticks=False, timer=HostTimer(lambda: 1.0))


def test_the_device_is_drained_before_both_clock_readings() -> None:
    log: list[str] = []
    HostTimer(lambda: log.append("now") or 0.0, lambda: log.append("drain")).time(lambda: log.append("fn"), 2)
    assert log == ["drain", "now", "fn", "fn", "drain", "now"]


def test_the_collector_is_off_during_samples_and_back_afterwards() -> None:
    states = []
    measure(lambda: states.append(gc.isenabled()), name="w", runs=2, warmup=1, yardsticks=False)
    assert states == [False] * 3
    assert gc.isenabled()
    with pytest.raises(ZeroDivisionError):
        measure(lambda: 1 // 0, name="w", runs=2, warmup=0, yardsticks=False)
    assert gc.isenabled()


def test_observers_hear_between_rounds() -> None:
    heard: list[tuple[str, int, int]] = []
    with observed(lambda *what: heard.append(what)):
        measure(lambda: sum(range(100)), name="w", runs=2, warmup=0, yardsticks=False)
    measure(lambda: sum(range(100)), name="w", runs=2, warmup=0, yardsticks=False)
    assert heard == [("w", 0, 2), ("w", 1, 2), ("w", 2, 2)]


def test_yardsticks_and_work_give_a_percentage() -> None:
    import torch

    x, y = torch.rand(2**18), torch.empty(2**18)
    samples = measure(lambda: y.copy_(x), name="copy", runs=3, warmup=1, work=Work(bytes=2**21))
    assert samples.before is not None
    assert samples.after is not None
    assert samples.before.triad_gbps > 0
    assert samples.before.gemm_gflops > 0
    assert (samples.percent_of_roofline or 0) > 0


@pytest.mark.parametrize("clock", [c for c in CLOCKS if c != "cuda_events"])
def test_host_clocks_advance_with_work(clock: str) -> None:
    assert timer_for(clock).time(lambda: sum(range(20_000)), 20) > 0


def test_flush_runs_outside_the_samples() -> None:
    def work() -> None: ...

    timer = FakeTimer({work: 1.0})
    samples = measure(work, name="w", runs=2, warmup=0, flush=True, yardsticks=False, timer=timer)
    assert len(timer.calls) == 2
    assert samples.values == (1.0, 1.0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"runs": 0}, "runs=0"),
        ({"warmup": -1}, "warmup=-1"),
        ({"inner": 0}, "inner=0"),
        ({"inner": "often"}, "inner='often'"),
    ],
)
def test_bad_arguments(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        measure(lambda: None, name="w", **arguments)  # type: ignore[arg-type]


def test_bad_functions_and_clocks() -> None:
    with pytest.raises(InputError, match="no functions"):
        interleave({})
    with pytest.raises(InputError, match="'w' is a int"):
        measure(3, name="w")  # type: ignore[arg-type]
    with pytest.raises(BenchError, match="sundial"):
        measure(lambda: None, name="w", clock="sundial")
    with pytest.raises(BenchError, match="cuda_events"):
        measure(lambda: None, name="w", clock="cuda_events")
