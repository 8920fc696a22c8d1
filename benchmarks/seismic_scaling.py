"""One migration on one, two and four GPUs of a machine: four at least 3.6 times as fast as one, reduction included.

    PYTHONPATH=src python benchmarks/seismic_scaling.py --devices 1,2,4 --dataset large --budget 140 --out DIR
    PYTHONPATH=src python benchmarks/seismic_scaling.py --devices 1,4 --via cluster --shards auto,8 --out DIR
    PYTHONPATH=src python benchmarks/seismic_scaling.py --devices 1,4 --clusters 4 --shards auto,8,32 --out DIR

Geometry, grid and velocity are the data set's (large: 829,472 traces of 2,001 samples into 161 x 161 x 2,001). Samples
are white noise from a pool that is made once and read at an offset that depends on the trace, so that 6.6 GB of file
are neither needed nor the bottleneck, and every trace is still copied to the device and filtered. The time is that of
the whole ``migrate`` call: planning, copies, filter, kernel, adding the devices' images, image on the host. Left out,
and said in ``prepared_in_seconds``: making the pool, starting workers, compiling (a job of every 64th trace before the
first round). Images of different numbers of devices must agree within 1e-6, repeated ones to the bit.

``--via devices`` gives one process all GPUs (``migrate(devices=...)``), ``--via cluster`` one process each
(``cluster="local"``; needs Dask), and ``--clusters 4`` does that beside ``--via devices``, with the same machine's one
GPU to compare with. A cluster's rows are named "4 workers", and "4 workers, 8 shards" where the shards are given.
Rounds of all numbers of devices, the most devices first, until ``--runs`` are done
or another one would not end within ``--budget`` seconds of the start. ``DIR/seismic_scaling.json`` is written after
every job, so that a run that is cut off leaves what it had.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
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
_POOL = 1 << 23  # samples


@dataclass
class Noise:
    """Traces that are windows into a pool of noise: a file, so that workers elsewhere read it themselves."""

    path: Path
    shape: tuple[int, int]
    windows: np.ndarray | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path, "shape": self.shape, "windows": None}

    def read(self, index: np.ndarray) -> np.ndarray:
        """Return the traces at `index`."""
        windows = self.windows
        if windows is None:  # two threads may both read it: it is the same
            windows = self.windows = np.lib.stride_tricks.sliding_window_view(np.load(self.path), self.shape[1])
        return windows[index * 7919 % len(windows)]


def survey(name: str, part: int, folder: Path) -> tuple[Survey, Any]:
    """Return every `part`-th trace of a data set's geometry over the pool, and the data set."""
    made = synthetic.dataset(name, noise=0.0)
    path = folder / "noise.npy"
    if not path.exists():
        np.save(path, np.random.default_rng(3).standard_normal(_POOL, dtype=np.float32))
    chosen = np.arange(0, made.n_traces, part)
    traces = Noise(path.absolute(), (len(chosen), made.n_samples))
    traces.read(chosen[:1])  # the pool is the data's, not a job's
    ends = made.source[chosen], made.receiver[chosen]
    return Survey(traces, *ends, made.dt, bin_size=made.bin_size, name=name), made


def devices(kind: str, n: int) -> list[Any]:
    """Return n devices; on a CPU, for a try, n separate owners of the one there is."""
    if kind == "cuda":
        return [device(f"cuda:{i}") for i in range(n)]
    from elinvar.runtime.device import Runtime

    return [Runtime().device("cpu") for _ in range(n)]


def relative(a: np.ndarray, b: np.ndarray) -> float:
    """Return the relative difference of two volumes, a slab at a time: they are large."""
    off = norm = 0.0
    for x, y in zip(a, b, strict=True):
        off += float(np.square(np.subtract(x, y, dtype=np.float64)).sum())
        norm += float(np.square(y, dtype=np.float64).sum())
    return float(np.sqrt(off / norm))


@dataclass
class Study:
    """The same job on several numbers of devices.

    Attributes
    ----------
    counts
        Numbers of devices.
    via
        ``"devices"``: one process; ``"cluster"``: Dask, a process per device.
    shards, clusters
        Of a cluster's jobs, None being migrate's own choice; how many workers clusters have beside ``"devices"``.
    rows
        Of every job, by number of devices or by name: wall time and clocks.
    """

    name: str
    counts: Sequence[int]
    kind: str
    part: int = 1
    kernel: str | None = None
    via: str = "devices"
    shards: Sequence[int | None] = (None,)
    clusters: Sequence[int] = ()
    rows: dict[int | str, list[dict[str, float]]] = field(default_factory=dict)
    errors: dict[int | str, float] = field(default_factory=dict)
    sizes: dict[int | str, int] = field(default_factory=dict)
    prepared: float = 0.0

    def measure(
        self, runs: int, budget: float, report: Callable[[dict[str, Any]], None] | None = None
    ) -> dict[str, Any]:
        """Time the job on each number of devices, round by round; `report` gets what there is after each job."""
        start = time.perf_counter()
        with contextlib.ExitStack() as held:
            folder = Path(held.enter_context(tempfile.TemporaryDirectory(prefix="elinvar-scaling-")))
            self.data, self.made = survey(self.name, self.part, folder)
            self.places = self._places(held)
            small = self.data.select(np.arange(0, len(self.data), 64))
            for n in self.places:  # compiles, and fills the pools
                self._migrate(n, small)
            self.prepared = time.perf_counter() - start
            for turn in range(runs):
                begin = time.perf_counter()
                for n in sorted(self.places, key=lambda n: -self.sizes[n]):
                    self._time(n)
                    if report is not None:
                        report(self.found())
                now = time.perf_counter()
                if turn + 1 < runs and now - start + (now - begin) > budget:
                    print(f"{turn + 1} of {runs} rounds: another one would take longer than {budget:g} s", flush=True)
                    break
        return self.found()

    def _places(self, held: contextlib.ExitStack) -> dict[int | str, dict[str, Any]]:
        found: dict[int | str, dict[str, Any]] = {}
        if self.via == "devices":
            found = {n: {"devices": devices(self.kind, n)} for n in self.counts}
            self.sizes = {n: n for n in self.counts}
        for n in self.counts if self.via == "cluster" else self.clusters:
            from elinvar.runtime.cluster import cluster

            executor = held.enter_context(cluster("local", workers=n))
            for shards in self.shards:
                name = f"{n} workers" + ("" if shards is None else f", {shards} shards")
                found[name] = {"cluster": executor, "device": self.kind, "shards": shards}
                self.sizes[name] = n
        return found

    def _migrate(self, n: int | str, data: Survey) -> Any:
        return migrate(data, self.made.velocity, self.made.grid, kernel=self.kernel, **self.places[n])

    def _time(self, n: int | str) -> None:
        begin = time.perf_counter()
        image = self._migrate(n, self.data)
        wall = time.perf_counter() - begin
        if not self.rows:
            self.base = self.image = image
        error = relative(image.values, self.base.values)
        if error > AGREE or not np.array_equal(image.counts, self.base.counts):
            raise AssertionError(f"{n} devices: the image differs by {error:.2g}")
        if n in self.rows and error != self.errors[n]:
            raise AssertionError(f"{n} devices: two runs differ")
        self.errors[n] = error
        self.rows.setdefault(n, []).append({"wall": wall, "shards": image.job.shards, **image.timing.to_dict()})

    def found(self) -> dict[str, Any]:
        """Return the numbers so far."""
        walls = {n: statistics.median(row["wall"] for row in self.rows[n]) for n in self.places if n in self.rows}
        one = next(iter(self.places))
        speedup = {n: walls[one] / walls[n] for n in walls} if one in walls else {}
        bars = {n: BAR[self.sizes[n]] for n in speedup if self.sizes[n] in BAR and self.sizes[one] == 1}
        shares = {n: [row["kernel"] / row["total"] for row in self.rows[n]] for n in walls}
        return {
            "dataset": self.name,
            "traces": len(self.data),
            "via": self.via,
            "contributions": self.base.contributions,
            "kernel": self.base.job.version,
            "plan": str(self.base.job),
            "prepared_in_seconds": self.prepared,
            "rows": self.rows,
            "seconds": walls,
            "contributions_per_second": {n: self.base.contributions / wall for n, wall in walls.items()},
            "kernel_share": {n: statistics.median(share) for n, share in shares.items()},
            "speedup": speedup,
            "relative_difference": self.errors,
            "bars": bars,
            "met": {n: speedup[n] >= bars[n] for n in bars},
        }


def run(*, runs: int = 3, warmup: int = 1, name: str = "tiny") -> Result:
    """Run on the CUDA devices there are, or try it out on the CPU."""
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    counts = [n for n in (1, 2, 4) if n <= max(gpus, 2)]
    study = Study(name, counts, "cuda" if gpus else "cpu", part=max(1, warmup))
    return Result("seismic_scaling", {}, extras=study.measure(runs, float("inf")))


def described() -> dict[str, Any]:
    """Return what machine this is, as far as its libraries let us know."""
    gpus = (
        [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())] if torch.cuda.is_available() else []
    )
    try:
        from elinvar.bench import machine

        return {**machine(), "gpus": gpus}
    except ImportError:  # psutil
        return {"gpus": gpus, "torch": torch.__version__, "cores": os.cpu_count()}


def written(path: Path, data: dict[str, Any]) -> None:
    """Write JSON in one go: whoever is killed meanwhile leaves the last one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_suffix(".part")
    beside.write_text(json.dumps(data, indent=1, default=str), encoding="utf-8")
    beside.replace(path)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    options.add_argument("--devices", default="1,2,4")
    options.add_argument("--dataset", default="large", choices=list(synthetic.DATASETS))
    options.add_argument("--part", type=int, default=1, help="migrate every n-th trace only")
    options.add_argument("--kind", default="cuda", choices=["cuda", "cpu"])
    options.add_argument("--via", default="devices", choices=["devices", "cluster"])
    options.add_argument("--clusters", default="", help="workers of clusters to measure beside --via devices")
    options.add_argument("--shards", default="auto", help="of a cluster's job, 'auto' or numbers; each sends an image")
    options.add_argument("--kernel")
    options.add_argument("--runs", type=int, default=3, help="rounds at most")
    options.add_argument("--budget", type=float, default=float("inf"), help="seconds after which no round is begun")
    options.add_argument("--out", default=".")
    given = options.parse_args()
    counts = [int(n) for n in given.devices.split(",")]
    shards = [None if s == "auto" else int(s) for s in given.shards.split(",")]
    clusters = [int(n) for n in given.clusters.split(",") if n]
    study = Study(given.dataset, counts, given.kind, given.part, given.kernel, given.via, shards, clusters)
    machine = described()

    def report(found: dict[str, Any]) -> None:
        written(Path(given.out) / "seismic_scaling.json", {"machine": machine, **found})
        print(json.dumps({key: found[key] for key in ("prepared_in_seconds", "seconds", "speedup")}), flush=True)

    found = study.measure(given.runs, given.budget, report)
    print(found["plan"])
    for n in found["seconds"]:
        print(
            f"{n}{' devices' if isinstance(n, int) else ''}: {found['seconds'][n]:.3f} s, "
            f"{found['contributions_per_second'][n] / 1e9:.1f} G/s, "
            f"x{found['speedup'].get(n, 0):.2f}, kernel {100 * found['kernel_share'][n]:.0f} % of the time"
        )


if __name__ == "__main__":
    main()
