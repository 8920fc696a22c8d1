"""One migration on one, two and four GPUs of a machine: four at least 3.6 times as fast as one, reduction included.

    PYTHONPATH=src python benchmarks/seismic_scaling.py --devices 1,2,4 --dataset large --out DIR

Geometry, grid and velocity are the data set's (large: 829,472 traces of 2,001 samples into 161 x 161 x 2,001). Samples
are white noise from a pool that is made once in host memory and read at an offset that depends on the trace, so that
6.6 GB of file are neither needed nor the bottleneck, and every trace is still copied to the device and filtered. The
time is that of the whole ``migrate`` call after compiling: planning, copies, filter, kernel, adding the devices'
images, image on the host. Images of different numbers of devices must agree within 1e-6, repeated ones to the bit.

Needs numpy and torch only. Writes ``DIR/seismic_scaling.json``.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from elinvar.bench import Result
from elinvar.runtime.device import device
from elinvar.seismic import migrate, synthetic
from elinvar.seismic.survey import Survey

BAR = {2: 1.8, 4: 3.6}
AGREE = 1e-6


@dataclass(frozen=True)
class Noise:
    """Traces that are windows into a pool of noise."""

    pool: np.ndarray
    shape: tuple[int, int]

    def read(self, index: np.ndarray) -> np.ndarray:
        """Return the traces at `index`."""
        out = np.empty((len(index), self.shape[1]), np.float32)
        room = len(self.pool) - self.shape[1]
        for row, at in zip(out, index * 7919 % room, strict=True):
            row[:] = self.pool[at : at + self.shape[1]]
        return out


def survey(name: str, part: int) -> tuple[Survey, Any]:
    """Return every `part`-th trace of a data set's geometry over the pool, and the data set."""
    made = synthetic.dataset(name, noise=0.0)
    pool = np.random.default_rng(3).standard_normal(1 << 23, dtype=np.float32)
    chosen = np.arange(0, made.n_traces, part)
    traces = Noise(pool, (len(chosen), made.n_samples))
    ends = made.source[chosen], made.receiver[chosen]
    return Survey(traces, *ends, made.dt, bin_size=made.bin_size, name=name), made


def devices(kind: str, n: int) -> list[Any]:
    """Return n devices; on a CPU, for a try, n separate owners of the one there is."""
    if kind == "cuda":
        return [device(f"cuda:{i}") for i in range(n)]
    from elinvar.runtime.device import Runtime

    return [Runtime().device("cpu") for _ in range(n)]


def relative(a: np.ndarray, b: np.ndarray) -> float:
    x, y = (torch.from_numpy(v.reshape(-1)) for v in (a, b))
    return float((x - y).double().norm() / y.double().norm())


def measure(name: str, counts: list[int], kind: str, *, runs: int, part: int, kernel: str | None) -> dict[str, Any]:
    """Time the job on each number of devices, round by round."""
    data, made = survey(name, part)
    first: dict[int, Any] = {}
    rows: dict[int, list[dict[str, float]]] = {n: [] for n in counts}
    for n in counts:  # compiles, and fills the pools
        places = devices(kind, n)
        migrate(data.select(np.arange(0, len(data), 64)), made.velocity, made.grid, devices=places, kernel=kernel)
    for _ in range(runs):
        for n in counts:
            places = devices(kind, n)
            begin = time.perf_counter()
            image = migrate(data, made.velocity, made.grid, devices=places, kernel=kernel)
            wall = time.perf_counter() - begin
            if n in first and first[n].values.tobytes() != image.values.tobytes():
                raise AssertionError(f"{n} devices: two runs differ")
            first.setdefault(n, image)
            rows[n].append({"wall": wall, **image.timing.to_dict()})
    base = first[counts[0]]
    errors = {n: relative(first[n].values, base.values) for n in counts}
    if max(errors.values()) > AGREE or any(not np.array_equal(first[n].counts, base.counts) for n in counts):
        raise AssertionError(f"images differ: {errors}")
    walls = {n: statistics.median(row["wall"] for row in rows[n]) for n in counts}
    speedup = {n: walls[counts[0]] / walls[n] for n in counts}
    return {
        "dataset": name,
        "traces": len(data),
        "contributions": base.contributions,
        "kernel": base.job.version,
        "plan": str(base.job),
        "rows": rows,
        "seconds": walls,
        "contributions_per_second": {n: base.contributions / walls[n] for n in counts},
        "kernel_share": {n: statistics.median(row["kernel"] / row["total"] for row in rows[n]) for n in counts},
        "speedup": speedup,
        "relative_difference": errors,
        "bars": {n: BAR[n] for n in counts if n in BAR and counts[0] == 1},
        "met": {n: speedup[n] >= BAR[n] for n in counts if n in BAR and counts[0] == 1},
    }


def run(*, runs: int = 3, warmup: int = 1, name: str = "tiny") -> Result:
    """Run on the CUDA devices there are, or try it out on the CPU."""
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    counts = [n for n in (1, 2, 4) if n <= max(gpus, 2)]
    kind = "cuda" if gpus else "cpu"
    return Result(
        "seismic_scaling", {}, extras=measure(name, counts, kind, runs=runs, part=max(1, warmup), kernel=None)
    )


def described() -> dict[str, Any]:
    """Return what machine this is, as far as its libraries let us know."""
    gpus = (
        [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())] if torch.cuda.is_available() else []
    )
    try:
        from elinvar.bench import machine

        return {**machine(), "gpus": gpus}
    except ImportError:  # psutil
        return {"gpus": gpus, "torch": torch.__version__}


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    options.add_argument("--devices", default="1,2,4")
    options.add_argument("--dataset", default="large", choices=list(synthetic.DATASETS))
    options.add_argument("--part", type=int, default=1, help="migrate every n-th trace only")
    options.add_argument("--kind", default="cuda", choices=["cuda", "cpu"])
    options.add_argument("--kernel")
    options.add_argument("--runs", type=int, default=3)
    options.add_argument("--out", default=".")
    given = options.parse_args()
    counts = [int(n) for n in given.devices.split(",")]
    found = measure(given.dataset, counts, given.kind, runs=given.runs, part=given.part, kernel=given.kernel)
    path = Path(given.out) / "seismic_scaling.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"machine": described(), **found}, indent=1, default=str), encoding="utf-8")
    print(found["plan"])
    for n in counts:
        print(
            f"{n} devices: {found['seconds'][n]:.3f} s, {found['contributions_per_second'][n] / 1e9:.1f} G/s, "
            f"x{found['speedup'][n]:.2f}, kernel {100 * found['kernel_share'][n]:.0f} % of the time"
        )


if __name__ == "__main__":
    main()
