"""tune: what is measured is stored, for the right device, and found again."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from elinvar import bench, tensor
from elinvar.cli import main, tune
from elinvar.runtime import placement
from elinvar.runtime.device import Device, DeviceProfile, device
from elinvar.runtime.tuning import tuned

runner = CliRunner()


@pytest.fixture(autouse=True)
def _cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("ELINVAR_CACHE", str(tmp_path))


@pytest.fixture
def ceilings(monkeypatch: pytest.MonkeyPatch) -> bench.Roofline:
    known = bench.Roofline(copy_gbps=90.0, f32_gflops=250.0, bf16_gflops=None, device="cpu", name="x")
    monkeypatch.setattr(bench, "roofline", lambda _: known)
    monkeypatch.setattr("elinvar.seismic.versions.tuned_rate", lambda _: 3e9)  # tested in seismic/test_versions
    monkeypatch.setattr("elinvar.tensor.measure.tuned_batches", lambda _: {"tensor.batch.linear": [8, 128]})
    return known


@pytest.mark.usefixtures("ceilings")
def test_what_is_measured_is_kept() -> None:
    result = runner.invoke(main.app, ["tune", "--device", "cpu", "--json"])
    assert result.exit_code == 0, result.output
    (item,) = json.loads(result.stdout)["devices"]
    assert (item["device"], item["copy_gbps"], item["matmul_gflops"]) == ("cpu", 90.0, {"fp32": 250.0})
    known = tuned(device("cpu").profile)
    assert known.copy_gbps == 90.0
    assert known.matmul_gflops == {"fp32": 250.0}
    assert known.rates == item["rates"] == {"seismic.migrate": 3e9}
    assert item["settings"] == {"tensor.batch.linear": [8, 128]}
    assert tensor.batch_sizes("linear", "cpu") == (8, 128)
    assert Path(item["file"]).is_file()


@pytest.mark.usefixtures("ceilings")
def test_a_person_gets_a_table_and_progress() -> None:
    result = runner.invoke(main.app, ["tune"])
    assert result.exit_code == 0, result.output
    assert "copy GB/s" in result.stdout
    assert "kept in" in result.stdout
    assert "measuring ..." in result.stderr


def _clock(*durations: float) -> Callable[[], float]:
    """Return a clock on which the timed calls take `durations`, in turn."""
    edges = [0.0, *itertools.accumulate(itertools.chain.from_iterable((d, 0.0) for d in durations))]
    return iter(edges).__next__


def _operation(edges: list[int]) -> tune.Operation:
    return tune.Operation(run=torch.sum, shapes=lambda n: ((n,),), edges=edges, size=lambda n: n)


def test_crossover_is_where_the_device_starts_to_win() -> None:
    # One call of 0.6 s needs no repeat: (here, there) for 10, then for 100. The second is too slow to go on to 1000.
    found = tune.measure_crossover(
        _operation([10, 100, 1000]), torch.device("cpu"), clock=_clock(*[0.1, 0.1, 0.1, 0.1, 0.1], 0.9, 0.6, 0.5)
    )
    assert found == 100.0


def test_crossover_is_never_when_the_device_never_wins() -> None:
    found = tune.measure_crossover(_operation([10]), torch.device("cpu"), clock=_clock(0.6, 0.7))
    assert math.isinf(found)


def test_median_of_five_calls_unless_one_is_slow() -> None:
    calls: list[int] = []
    assert tune._seconds(lambda: calls.append(1), _clock(0.01, 0.05, 0.02, 0.03, 0.04)) == pytest.approx(0.03)
    assert len(calls) == 5
    assert tune._seconds(lambda: None, _clock(2.0)) == pytest.approx(2.0)


@pytest.mark.usefixtures("ceilings")
def test_an_accelerators_crossovers_are_stored_under_its_own_profile(monkeypatch: pytest.MonkeyPatch) -> None:
    profile = DeviceProfile.fake(kind="cuda", name="a GPU")
    place = Device(device("cpu").runtime, "cuda", 0)
    monkeypatch.setattr(Device, "profile", property(lambda self: profile))
    monkeypatch.setattr(tune, "measure_crossover", lambda *_: 4096.0)
    steps: list[int] = []
    found = tune.tune_device(place, lambda: steps.append(1))
    assert found.crossovers == dict.fromkeys(tune.operations(), 4096.0)
    assert len(steps) == 1 + len(found.crossovers) + len(tune.JOBS) + len(tune.SETTINGS)
    assert tuned(profile).crossovers["sort"] == 4096.0
    assert set(tune.operations()) <= {*tuned(profile).crossovers}


@pytest.mark.parametrize("name", list(tune.operations()))
def test_every_operation_runs_and_has_placements_size(name: str) -> None:
    operation = tune.operations()[name]
    edge = operation.edges[0]
    shapes = operation.shapes(edge)
    assert operation.run(*(torch.ones(shape) for shape in shapes)) is not None
    size = (edge, edge, edge) if name == "matmul" else shapes[0]
    assert operation.size(edge) == placement._size(name, size)
    assert list(operation.edges) == sorted(set(operation.edges))
