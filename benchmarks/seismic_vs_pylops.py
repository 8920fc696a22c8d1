"""Kirchhoff migration on one CPU thread beside pylops, per contribution: at least ten times as fast at 2e-4.

Rows
----
elinvar v2
    ``seismic.migrate`` v2: 1,024 traces x 1,500 samples of white noise (the hardest data for interpolation) into 256
    pillars x 1,500 samples, V = 1800 + 600 t, true-amplitude weights, 45 degree aperture with a 20 % rim, fold counted.
elinvar v2, no aperture
    The same without an aperture: every trace into every pillar.
elinvar baseline
    Version ``baseline`` on 16 of the pillars: the plain loop.
pylops kinematic
    ``pylops.waveeqprocessing.Kirchhoff(engine="numba", dynamic=False, dtype="float32")``, adjoint of 20 sources x 101
    receivers x 1,001 samples into 201 x 201 points; travel-time tables are made before, the wavelet is one spike.
pylops kinematic, float64
    The same in float64, which is the faster of the two.
... (AVX2)
    Both in a process whose numba may use AVX2 but not AVX-512.

One thread everywhere, CPU time of that thread. pylops has no 3-D time migration; it is compared per contribution: one
(trace, image point) whose travel time lies on the trace and, for elinvar, whose midpoint lies in the aperture.
"""

from __future__ import annotations

import importlib
import json
import math
import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from elinvar.bench import Result, Samples, Work, interleave
from elinvar.runtime.parallel import set_threads
from elinvar.seismic.kernels import migrate
from elinvar.seismic.kernels.migrate import reference

TRACES, SAMPLES, SIDE, DT = 1024, 1500, 16, 0.002
APERTURE = migrate.RadiusAperture(tan_dip=1.0, maximum=2500.0, taper=0.2)
AVX2 = {
    "NUMBA_CPU_NAME": "haswell",
    "NUMBA_CPU_FEATURES": "+sse,+sse2,+sse3,+ssse3,+sse4.1,+sse4.2,+popcnt,+avx,+avx2,+fma,+bmi,+bmi2,+lzcnt,+f16c",
}


def survey() -> tuple[list[torch.Tensor], dict[str, Any]]:
    """Midpoints over 4 x 4 km around a 400 m square of pillars, offsets to 2 km, neighbours close together."""
    make = torch.Generator().manual_seed(7)
    middle = torch.rand(TRACES, 2, generator=make) * 4000 - 2000 + 0.5 * SIDE * 25
    middle = middle[(middle[:, 0] // 500 * 10000 + middle[:, 1]).argsort()]
    angle = torch.rand(TRACES, 1, generator=make) * 2 * math.pi
    half = torch.rand(TRACES, 1, generator=make) * 1000 * torch.cat([angle.cos(), angle.sin()], 1)
    axis = torch.arange(SIDE) * 25.0
    pillars = torch.stack(torch.meshgrid(axis, axis, indexing="ij"), -1).reshape(-1, 2)
    vrms = (1800 + 600 * DT * torch.arange(SAMPLES))[None]
    image, fold = torch.zeros(len(pillars), SAMPLES), torch.zeros(len(pillars), SAMPLES, dtype=torch.int32)
    data = torch.randn(TRACES, SAMPLES, generator=make)
    options = {"dt": DT, "start": 0.0, "dt_out": DT, "t0_out": 0.0, "amplitude": "true", "area": 625.0}
    return [image, fold, data, middle - half, middle + half, pillars, vrms], {**options, "aperture": APERTURE}


def elinvar_row(
    version: str, pick: int | None = None, **changes: Any
) -> tuple[Callable[[], object], Work, dict[str, Any]]:
    """A call of one version, its contributions, and how far it is from float64."""
    tensors, options = survey()
    options.update(changes)
    launch = importlib.import_module(f"elinvar.seismic.kernels.migrate.{version}").migrate
    keep = torch.arange(0, SIDE * SIDE, 1 if pick is None else SIDE * SIDE // pick)
    image, fold, data, source, receiver, pillars, vrms = (
        x[keep].contiguous() if i in (0, 1, 5) else x for i, x in enumerate(tensors)
    )

    def call() -> None:
        launch(image, fold, data, source, receiver, pillars, vrms, **options)

    call()
    contributions = int(fold.sum(dtype=torch.int64))
    few = torch.arange(0, len(pillars), max(1, len(pillars) // 12))
    want, count = torch.zeros(len(few), SAMPLES, dtype=torch.float64), torch.zeros(len(few), SAMPLES, dtype=torch.int32)
    reference.migrate(want, count, data, source, receiver, pillars[few], vrms, **options)
    error = (image[few].double() - want).norm() / want.norm()
    facts = {
        "contributions": contributions,
        "relative_l2": float(error),
        "fold_mismatches": int((fold[few] != count).sum()),
    }
    return call, Work(items=float(contributions), unit="contributions"), facts


def pylops_row(dtype: str) -> tuple[Callable[[], object], Work, dict[str, Any]]:
    """The adjoint of pylops' kinematic Kirchhoff operator."""
    before = os.environ.get("NUMBA_NUM_THREADS")
    os.environ["NUMBA_NUM_THREADS"] = "1"  # read when pylops' module is imported
    try:
        from pylops.waveeqprocessing import Kirchhoff
    finally:
        if before is None:
            del os.environ["NUMBA_NUM_THREADS"]
        else:
            os.environ["NUMBA_NUM_THREADS"] = before
    x, z, t = np.arange(201) * 10.0, np.arange(201) * 10.0, np.arange(1001) * 0.004
    sources = np.vstack([np.linspace(0, 2000, 20), np.full(20, 10.0)])
    receivers = np.vstack([np.linspace(0, 2000, 101), np.full(101, 10.0)])
    operator = Kirchhoff(
        z, x, t, sources, receivers, 2000.0, np.ones(1), 0, mode="analytic", engine="numba", dtype=dtype, dynamic=False
    )
    data = np.random.default_rng(0).standard_normal((20 * 101, 1001)).astype(dtype).ravel()
    time = operator.trav_srcs[:, :, None] + operator.trav_recs[:, None, :]
    contributions = int((time / 0.004 < 1000).sum())
    operator.rmatvec(data)
    return (
        lambda: operator.rmatvec(data),
        Work(items=float(contributions), unit="contributions"),
        {"contributions": contributions},
    )


def rows(*, brief: bool) -> dict[str, tuple[Callable[[], object], Work, dict[str, Any]]]:
    found = {
        "elinvar v2": elinvar_row("cpu_v2"),
        "elinvar v2, no aperture": elinvar_row("cpu_v2", aperture=None),
        "pylops kinematic": pylops_row("float32"),
        "pylops kinematic, float64": pylops_row("float64"),
    }
    return found if brief else {**found, "elinvar baseline": elinvar_row("cpu", pick=16)}


def time_here(runs: int, warmup: int, *, brief: bool = False) -> tuple[dict[str, Samples], dict[str, Any]]:
    before = set_threads(1)
    try:
        prepared = rows(brief=brief)
        samples = interleave(
            {name: row[0] for name, row in prepared.items()},
            runs=runs,
            warmup=warmup,
            work={name: row[1] for name, row in prepared.items()},
            clock="thread_cpu",
        )
    finally:
        set_threads(before)
    return samples, {name: row[2] for name, row in prepared.items()}


def time_with_avx2(runs: int, warmup: int) -> tuple[dict[str, Samples], dict[str, Any]]:
    """numba reads its target when it is imported: a process of its own."""
    command = [sys.executable, __file__, "--brief", str(runs), str(warmup)]
    done = subprocess.run(command, check=True, capture_output=True, text=True, env={**os.environ, **AVX2})
    told = json.loads(done.stdout.splitlines()[-1])
    samples = {f"{name} (AVX2)": Samples.from_json(row) for name, row in told["samples"].items()}
    return samples, {f"{name} (AVX2)": row for name, row in told["facts"].items()}


def speedup(samples: dict[str, Samples], row: str, peer: str) -> float:
    """Contributions per second over the peer's, at the medians."""
    a, b = samples[row], samples[peer]
    assert a.work is not None
    assert b.work is not None
    return (a.work.items / a.median) / (b.work.items / b.median)


def run(*, runs: int = 15, warmup: int = 2) -> Result:
    samples, facts = time_here(runs, warmup)
    more, others = time_with_avx2(runs, warmup)
    samples, facts = {**samples, **more}, {**facts, **others}
    ratios = {}
    for row in samples:
        if row.startswith("elinvar"):
            tail = " (AVX2)" if row.endswith("(AVX2)") else ""
            peers = (f"pylops kinematic{tail}", f"pylops kinematic, float64{tail}")
            ratios[row] = {peer: speedup(samples, row, peer) for peer in peers}
    return Result(name="seismic_vs_pylops", samples=samples, extras={"per contribution": ratios, "rows": facts})


if __name__ == "__main__":
    if sys.argv[1:2] == ["--brief"]:
        measured, known = time_here(int(sys.argv[2]), int(sys.argv[3]), brief=True)
        print(json.dumps({"samples": {name: row.to_json() for name, row in measured.items()}, "facts": known}))
    else:
        result = run()
        result.write("seismic_vs_pylops.json")
        for name, row in result.samples.items():
            print(f"{name:45s} {row.work.items / row.median / 1e6:8.0f} M/s  {result.extras['rows'][name]}")
        print(json.dumps(result.extras["per contribution"], indent=1))
