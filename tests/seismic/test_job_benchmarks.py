"""The benchmarks of whole jobs, at a size that tells whether they run and what they write."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def script(monkeypatch):
    def load(name):
        spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, name, module)  # dataclasses look their module up
        spec.loader.exec_module(module)
        return module

    return load


def test_scaling_writes_what_it_has_after_every_job(script, tmp_path):
    scaling = script("seismic_scaling")
    path, told = tmp_path / "found.json", []

    def report(found):
        scaling.written(path, found)
        told.append(json.loads(path.read_text()))

    study = scaling.Study("tiny", [1, 2], "cpu", part=8)
    found = study.measure(2, 0.0, report)  # the first round is past the budget: no second one
    assert [sorted(one["seconds"]) for one in told] == [["2"], ["1", "2"]]
    assert {n: len(rows) for n, rows in found["rows"].items()} == {1: 1, 2: 1}
    assert found["traces"] == 221
    assert found["prepared_in_seconds"] > 0
    assert set(found["speedup"]) == {1, 2}


def test_scaling_measures_clusters_beside_devices(script, monkeypatch):
    pytest.importorskip("distributed")
    from elinvar.runtime import cluster

    inside = cluster.cluster
    monkeypatch.setattr(cluster, "cluster", lambda where, workers: inside(where))  # the script is no module elsewhere
    monkeypatch.setattr(cluster, "_gpus", lambda: 0)
    scaling = script("seismic_scaling")
    study = scaling.Study("tiny", [1], "cpu", part=8, shards=[None, 3], clusters=[1])
    found = study.measure(1, 0.0)
    assert set(found["seconds"]) == {1, "1 workers", "1 workers, 3 shards"}
    assert found["rows"]["1 workers, 3 shards"][0]["shards"] == 3


def test_a_job_is_judged_by_its_clocks_and_its_memory(script, tmp_path):
    job = script("seismic_job")
    script("seismic_scaling")
    study = job.Study("tiny", "cpu", "pool", None, tmp_path)
    found = []
    job.loop(study, 3, 0.0, found.append)
    assert [set(one["clocks"]) for one in found] == [{"whole job"}, {"whole job", "with a checkpoint"}]
    last = found[-1]
    assert 0 < last["kernel_share"] <= 1
    assert last["memory"]["planned_bytes"] == study.image.job.peak_bytes
    assert set(last["met"]) == {"kernel_share", "hidden_share", "memory_over_plan", "checkpoint_share"}
    assert not (tmp_path / "kept").exists()


def test_tables_are_refused_where_they_are_off(script):
    tables = script("seismic_tables")
    extras = tables.run(runs=1, warmup=0, traces=9, pillars=6).extras
    assert extras["error in samples"]["knots"]["largest"] < 0.005
    assert extras["refused"]["table 10 m, half precision"]
    assert extras["refused"]["half-precision velocity"]
    assert not extras["refused"]["knots"]
    assert set(extras["of knots"]) == {"exact", "knots", "table 10 m", "table 25 m"}
