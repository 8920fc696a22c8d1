"""What the benchmarks measure is what they say, and their scripts run."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from elinvar import tensor
from elinvar.runtime.device import device
from elinvar.tensor import measure

ROOT = Path(__file__).resolve().parents[2]


def _same(ways):
    results = [fn() for name, fn in ways.items() if "copy" not in name]
    for other in results[1:]:
        torch.testing.assert_close(other, results[0], rtol=1e-5, atol=1e-5)


def test_all_ways_give_one_answer():
    _same(measure.linear_ways(64)[0])
    _same(measure.elementwise_ways("add", 1000)[0])
    _same(measure.elementwise_ways("mul", 1000)[0])
    _same(measure.affine_ways(1000)[0])


def test_sizes(tmp_path, monkeypatch):
    monkeypatch.setenv("ELINVAR_CACHE", str(tmp_path))
    sweep = [{"rows": n, "rows_per_second": rate} for n, rate in ((1, 10.0), (8, 60.0), (64, 95.0), (512, 100.0))]
    assert measure.efficient_sizes(sweep) == (8, 64)
    measure.save_sizes("linear", "cpu", (8, 64))
    assert tensor.batch_sizes("linear", "cpu") == (8, 64)
    found = measure.batch_sweep(16, (1, 4), runs=1)
    assert [row["rows"] for row in found] == [1, 4]


def test_pool_rates():
    rates = measure.pool_rates(steps=5)
    assert rates["training workspaces"]["new allocations after step 2"] == 0
    assert rates["batch inference"]["reuse_rate"] >= 0.6


@pytest.mark.skipif(not (ROOT / "benchmarks").is_dir(), reason="needs a checkout")
def test_the_h200_script_runs_on_a_cpu(tmp_path):
    """All but torch.compile and the kernels' own tests, which other tests run."""
    script = ROOT / "benchmarks" / "tensor_h200.py"
    code = (
        f"import runpy, sys; m = runpy.run_path({str(script)!r}); g = m['check'].__globals__; "
        "g['compiled'] = lambda *a: None; g['kernels_check'] = lambda t: {'x': True}; g['ACTIVATIONS'] = ('relu',); "
        "import json; print(json.dumps(m['check']('cpu', small=True, rounds=1)['bars']))"
    )
    environment = {**os.environ, "ELINVAR_THREADS": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]
    bars = {row["what"]: row for row in json.loads(done.stdout.splitlines()[-1])}
    assert bars["contraction error over its bound"]["met"]
    assert bars["pool allocations after training step 2"]["met"]
    assert bars["relu keeps NaN"]["met"]


def test_batches_of_every_operation_are_tuned(monkeypatch):
    monkeypatch.setattr(measure, "BATCHES", (1, 4))
    found = measure.tuned_batches(device("cpu"))
    assert set(found) == {f"tensor.batch.{name}" for name in ("linear", "matmul", "layer_norm", "affine")}
    assert all(least in (1, 4) and least <= best <= 4 for least, best in found.values())
