from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from elinvar.audio._runner import PLAIN
from elinvar.audio.htdemucs import HTDemucs
from elinvar.audio.planning import (
    FileCost,
    HostCost,
    SegmentCost,
    _flow,
    _line,
    _seconds,
    measure_files,
    measure_host,
    measure_segment,
    plan_separation,
)
from elinvar.errors import InputError
from elinvar.runtime.device import device


def test_plan_of_a_given_cost(tiny_htdemucs: HTDemucs) -> None:
    one = SegmentCost(seconds=2.0, peak_bytes=1_000_000)
    plan = plan_separation(10.0, tiny_htdemucs, cost=one, device="cpu")
    assert plan.runs == len(range(0, 8000, 900))
    assert plan.seconds == 2.0 * plan.runs
    assert plan.result_bytes == 2 * 2 * 4 * 8000
    assert plan.streaming_bytes == plan.memory_bytes - plan.result_bytes + plan.waiting_bytes
    assert plan.waiting_bytes == 3 * 2 * 2 * 4 * 900
    assert plan_separation(10.0, tiny_htdemucs, shifts=2, cost=one, device="cpu").runs > 1.9 * plan.runs
    assert "9 runs on cpu" in str(plan)
    assert plan_separation(0.0, tiny_htdemucs, cost=one, device="cpu").runs == 0
    with pytest.raises(InputError, match="aac"):
        plan_separation(1.0, tiny_htdemucs, cost=one, format="aac")


def test_what_is_measured_is_remembered_and_counts(tiny_htdemucs: HTDemucs) -> None:
    one = measure_segment(tiny_htdemucs, "cpu")
    host = measure_host(tiny_htdemucs, "cpu")
    assert one.seconds > 0
    assert host.prepare > 0
    assert host.collect > 0
    assert measure_segment(tiny_htdemucs, "cpu") is one
    assert measure_host(tiny_htdemucs, "cpu") is host
    plan = plan_separation(10.0, tiny_htdemucs, device="cpu")
    assert plan.seconds == pytest.approx(one.seconds * plan.runs + 10.0 * (host.prepare + host.collect))
    assert plan.cpu_seconds > one.cpu_seconds * plan.runs


@pytest.mark.parametrize("rate", [800, 1200])
def test_a_files_plan_counts_reading_and_writing(
    make_htdemucs: Callable[..., HTDemucs], tmp_path: Path, rate: int
) -> None:
    sf = pytest.importorskip("soundfile")
    pytest.importorskip("soxr")
    model = make_htdemucs()
    sf.write(tmp_path / "a.flac", 0.1 * np.random.default_rng(0).standard_normal(20_000), rate)
    cost = measure_files(tmp_path / "a.flac", model, "cpu", format="ogg")
    assert min(cost.measure, cost.read, cost.write, cost.cpu_seconds) > 0
    seconds = 20_000 / rate
    alone = plan_separation(seconds, model, device="cpu")
    whole = plan_separation(seconds, model, device="cpu", file=tmp_path / "a.flac", format="ogg")
    assert min(whole.seconds, alone.seconds) > measure_segment(model, "cpu").seconds * whole.runs
    assert whole.work_bytes == alone.work_bytes
    sf.write(tmp_path / "none.wav", np.zeros((0, 2)), rate)
    assert measure_files(tmp_path / "none.wav", model, "cpu") == FileCost()
    assert plan_separation(0.0, model, device="cpu", file=tmp_path / "none.wav").seconds == 0.0


def test_stages_overlap() -> None:
    assert _flow([1.0, 1.0, 1.0]) == 3.0
    assert _flow([1.0, 1.0, 1.0], [0.1, 0.1, 0.1]) == pytest.approx(3.1)  # only the last one's way back is waited for
    assert _flow([0.1, 0.1, 0.1], [1.0, 1.0, 1.0]) == pytest.approx(3.1)
    assert _flow([2.0, 1.0], [1.0, 3.0]) == 6.0
    assert _flow([], []) == 0.0


def test_what_happens_once_is_told_from_what_grows() -> None:
    assert _line((10.0, 3.0), (40.0, 9.0)) == pytest.approx((1.0, 0.2))
    assert _line((10.0, 3.0), (40.0, 2.0)) == (2.0, 0.0)  # noise: never a negative rate
    assert _line((5.0, 3.0), (5.0, 2.0)) == (0.0, 0.4)  # the file is shorter than both


def test_recordings_are_counted_once() -> None:
    cost = SegmentCost(seconds=1.0, peak_bytes=1, record_seconds=5.0, replay_seconds=0.1)
    assert [cost.run_seconds(2, i) for i in range(PLAIN + 3)] == [2.0] * PLAIN + [5.0, 0.2, 0.2]
    assert SegmentCost(seconds=1.0, peak_bytes=1).run_seconds(2, 9) == 2.0


def test_one_processor_does_one_thing_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    from elinvar.audio import planning

    monkeypatch.setattr(planning, "cpu_threads", lambda: 2)
    host, files = HostCost(0.1, 0.2), FileCost(0.5, 0.3, 0.2, 0.9)
    here = device("cpu")
    assert _seconds(here, [2.0, 2.0], [10.0, 5.0], host, None) == pytest.approx(4.0 + 15 * 0.3)
    assert _seconds(here, [2.0, 2.0], [10.0, 5.0], host, files) == pytest.approx(4.0 + 15 * 0.9 / 2)
