from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from elinvar.bench import Load, Samples, Work, Yardstick, median_interval
from elinvar.errors import BenchError, InputError


def test_interval_is_the_binomial_one() -> None:
    # n = 10: the 2nd and 9th order statistics cover the median with 97.9 %, the 3rd and 8th only with 89 %.
    assert median_interval(range(1, 11)) == (2, 9)
    assert median_interval([3, 1, 2, 6, 5, 4]) == (1, 6)  # n = 6 is the first that reaches 95 %: 96.9 %
    assert median_interval([1, 2, 3, 4, 5]) == (-math.inf, math.inf)
    assert median_interval(range(1, 32)) == (10, 22)


def test_interval_covers_the_median_as_often_as_it_says() -> None:
    generator = np.random.default_rng(3)
    hits = 0
    for _ in range(2000):
        low, high = median_interval(generator.exponential(1.0, 21).tolist())
        hits += low <= math.log(2) <= high
    assert 0.94 <= hits / 2000 <= 0.99  # 21 samples: [x6, x16] covers 97.3 %


@settings(deadline=None, max_examples=50)
@given(st.lists(st.floats(1e-6, 1e3), min_size=1, max_size=40))
def test_statistics_are_consistent(values: list[float]) -> None:
    samples = Samples("s", tuple(values))
    low, high = samples.interval
    assert samples.min <= low <= samples.median <= high <= samples.max
    assert samples.mean == pytest.approx(np.mean(values))
    assert samples.std == pytest.approx(np.std(values, ddof=1) if len(values) > 1 else 0.0, abs=1e-9)
    again = Samples.from_json(json.loads(json.dumps(samples.to_json(), allow_nan=False)))
    assert again == samples


def test_everything_survives_json() -> None:
    samples = Samples(
        "s",
        (1.0, 2.0),
        clock="process_cpu",
        work=Work(bytes=8.0, flops=2.0, dtype="bf16", items=3, unit="traces"),
        rounds="r",
        machine="m",
        machine_name="M",
        device="cpu",
        load=Load(2.0, 4, 0.5, 7),
        before=Yardstick(1.0, 2.0),
        after=Yardstick(3.0, 4.0, "bf16"),
    )
    assert Samples.from_json(json.loads(json.dumps(samples.to_json()))) == samples
    stored = samples.to_json()["statistics"]
    assert stored["contended"] is True
    assert stored["rate"] == 3 / 1.5


@pytest.mark.parametrize("values", [(), (0.0,), (-1.0,), (math.nan,), (1.0, math.inf)])
def test_what_is_no_duration_is_refused(values: tuple[float, ...]) -> None:
    with pytest.raises(BenchError, match="'s'"):
        Samples("s", values)


def test_bad_work_and_clock_are_refused() -> None:
    with pytest.raises(InputError, match="bytes=-1"):
        Work(bytes=-1)
    with pytest.raises(InputError, match="fp8"):
        Work(flops=1, dtype="fp8")  # type: ignore[arg-type]
    with pytest.raises(BenchError, match="sundial"):
        Samples("s", (1.0,), clock="sundial")


def test_foreign_cpu_flags_wall_clock_samples_only() -> None:
    busy = Load(wall_seconds=1.0, cores=2, foreign_cpu=0.11)
    quiet = Load(wall_seconds=1.0, cores=2, foreign_cpu=0.09)
    assert Samples("s", (1.0,), load=busy).contended
    assert not Samples("s", (1.0,), load=quiet).contended
    assert not Samples("s", (1.0,), clock="process_cpu", load=busy).contended
    assert Samples("s", (1.0,), load=busy).concerns == ("others used 6 % of the CPU",)


def test_clock_ticks_are_not_mistaken_for_load() -> None:
    # Two ticks of 10 ms during a measurement of 4 ms are 250 % of it, and mean nothing.
    assert not Samples("s", (1e-3,), load=Load(wall_seconds=4e-3, cores=2, foreign_cpu=0.02)).contended
    assert not Samples("s", (1e-3,), load=Load(wall_seconds=1.0, cores=2, foreign_cpu=None)).contended


def test_yardsticks_further_apart_than_ten_percent_flag() -> None:
    base = Samples("s", (1.0,), clock="process_cpu", before=Yardstick(50.0, 200.0))
    assert not replace(base, after=Yardstick(46.0, 215.0)).contended
    assert replace(base, after=Yardstick(45.0, 200.0)).contended
    assert replace(base, after=Yardstick(50.0, 221.0)).contended


def test_percent_of_roofline() -> None:
    marks = {"before": Yardstick(40.0, 100.0), "after": Yardstick(60.0, 100.0)}  # 50 GB/s, 100 GFLOP/s
    copy = Samples("copy", (0.04, 0.04, 0.04), work=Work(bytes=1e9), **marks)
    assert copy.percent_of_roofline == pytest.approx(50.0)  # 0.02 s at best
    gemm = Samples("gemm", (0.04,), work=Work(bytes=1e6, flops=2e9), **marks)
    assert gemm.percent_of_roofline == pytest.approx(50.0)
    other = Samples("gemm", (0.04,), work=Work(flops=2e9, dtype="bf16"), **marks)
    assert other.percent_of_roofline is None  # the yardstick multiplied float32: no ceiling for bfloat16 is known
    assert Samples("s", (0.04,), work=Work(bytes=1e9)).percent_of_roofline is None
    assert Samples("s", (0.04,), **marks).percent_of_roofline is None


def test_stored_nonsense_is_refused() -> None:
    with pytest.raises(BenchError, match="not a stored sample set"):
        Samples.from_json({"name": "s"})
    with pytest.raises(BenchError, match="not a stored sample set"):
        Samples.from_json({"name": "s", "values": [1.0], "work": {"bites": 1}})
