from __future__ import annotations

import shutil

from elinvar.bench import benchmark, launch
from elinvar.bench.timers import Timer


def test_rows_on_the_cpu_are_there_for_orientation() -> None:
    result = launch.run(runs=3, warmup=1, device="cpu")
    rows = {"torch operation", "numba function"} | ({"metal on the emulator"} if shutil.which("g++") else set())
    assert set(result.samples) == rows
    assert result.extras["device"] == "cpu"
    for name, micro in result.extras["us"].items():
        assert micro == round(result.samples[name].median * 1e6, 3)


def test_elinvar_bench_finds_it() -> None:
    entry = benchmark("launch")
    assert entry.shipped
    assert entry.summary.startswith("Microseconds per launch")


def test_a_graph_of_many_launches_is_divided() -> None:
    class Clock:
        def time(self, fn: object, inner: int) -> float:
            return 3.0

    clock: Timer = Clock()
    assert launch._PerLaunch(clock, 100).time(lambda: None, 1) == 0.03
