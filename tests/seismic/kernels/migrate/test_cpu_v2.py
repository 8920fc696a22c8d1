"""What is special to the vector version: its instruction sets, its cache, and the claim that weights need no bound."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from elinvar.seismic.kernels.migrate import blocks, cpu_v2, simd
from elinvar.seismic.kernels.migrate.tables import prepare

X86 = "+sse,+sse2,+sse3,+ssse3,+sse4.1,+sse4.2,+popcnt"
AVX2 = f"{X86},+avx,+avx2,+fma,+bmi,+bmi2,+lzcnt,+f16c,+movbe"
CHILD = """
import json, torch
from elinvar.seismic.kernels import migrate
from elinvar.seismic.kernels.migrate import cpu_v2, reference
worst, miscounted = 0.0, 0
for seed in range(4):
    for _ in range(1):
        args, options = migrate.example(seed)
        want = [x.clone() for x in args]
        cpu_v2.migrate(*args, **options)
        reference.migrate(want[0], want[1], *want[2:], **options)
        worst = max(worst, float((args[0] - want[0]).norm() / want[0].norm()))
        miscounted += int((args[1] != want[1]).sum())
print(json.dumps([cpu_v2.ISA, worst, miscounted]))
"""


@pytest.mark.parametrize(("name", "features", "isa"), [("haswell", AVX2, "avx2"), ("nehalem", X86, "portable")])
def test_other_instruction_sets(name: str, features: str, isa: str, tmp_path: Path) -> None:
    """numba reads its target when it is imported: a process of its own, told to do without what this machine has."""
    if "+avx512f" not in simd.cpu_target.target_context.codegen().magic_tuple()[2] and isa != "portable":
        pytest.skip("nothing to forbid: this machine has no AVX-512")
    environment = {
        **os.environ,
        "NUMBA_CPU_NAME": name,
        "NUMBA_CPU_FEATURES": features,
        "NUMBA_CACHE_DIR": str(tmp_path),
    }
    done = subprocess.run([sys.executable, "-c", CHILD], capture_output=True, text=True, env=environment, check=True)
    said, error, miscounted = json.loads(done.stdout)
    assert said == isa
    assert error < 2e-4
    assert miscounted == 0


def test_the_weight_is_smoother_than_the_time() -> None:
    """Blocks whose time is good have a good weight: no bound of its own is needed.

    The error of the weight counts relative to the weight, but never finer than to a tenth of that of a zero-offset
    trace at the same time: far traces at shallow times weigh next to nothing.
    """
    a = np.geomspace(1, 3000, 50)  # legs ds / V in samples
    source, receiver = (x.ravel()[:, None, None] for x in np.meshgrid(a, a))
    j = np.arange(blocks.BLOCK)
    block = np.geomspace(1, 120, 40).astype(int)[:, None]

    def exact(sample: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        tau = sample / 2
        time = np.sqrt(tau**2 + source**2) + np.sqrt(tau**2 + receiver**2)
        return time, (2 * tau / time) ** 2

    knots = [exact(block * 16 + 8 * k) for k in range(-1, 4)]
    q = j / 8

    def quadratic(values: list[np.ndarray]) -> np.ndarray:
        m0, m1, m2 = values
        return m0 + (4 * m1 - 3 * m0 - m2) / 2 * q + (m0 - 2 * m1 + m2) / 2 * q**2

    times, weights = ([knot[i] for knot in knots] for i in range(2))
    bend = abs((times[3] - times[0]) - 3 * (times[2] - times[1])) + abs(
        (times[4] - times[1]) - 3 * (times[3] - times[2])
    )
    good = 0.0642 * bend <= blocks.TOLERANCE
    time, weight = exact(block * 16 + j)
    assert (abs(quadratic(times[1:4]) - time) * good).max() <= blocks.TOLERANCE
    error = abs(quadratic(weights[1:4]) - weight) / np.maximum(weight, 0.1)
    assert (error * good).max() <= 1.5 * blocks.TOLERANCE
    assert good.mean() > 0.5


def test_a_constant_velocity_is_not_rough() -> None:
    options: dict[str, Any] = {"dt": 0.002, "start": 0.0, "dt_out": 0.002, "t0_out": 0.0, "amplitude": "true"}
    vrms = torch.full((1, 500), 2345.6)
    tables = prepare(vrms, **options, aperture=None, area=1.0, block=16, nodes=(0, 8, 16), tail=32, origin=0)
    assert tables.blocks[..., 2].abs().max() == 0
    vrms[0, 192] *= 1.01
    tables = prepare(vrms, **options, aperture=None, area=1.0, block=16, nodes=(0, 8, 16), tail=32, origin=0)
    assert (tables.blocks[0, :, 2] > 1e-3).nonzero().flatten().tolist() == [11, 12]  # sample 192 is a knot of both


def test_cache_only_where_there_is_a_place(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path))
    assert cpu_v2._cache()
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert not cpu_v2._cache()
    monkeypatch.delenv("NUMBA_CACHE_DIR")
    assert not cpu_v2._cache()
