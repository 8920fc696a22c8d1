"""A whole migration from disk: at least 85 % of its time inside the kernel, memory as planned, 3 % for checkpoints.

    python benchmarks/seismic_job.py --dataset medium --device cpu --budget 140 --out seismic_job.json
    python benchmarks/seismic_job.py --dataset large --device cuda --source pool --budget 140

Rows
----
whole job
    ``migrate`` of a survey on disk into the grid of its midpoints: planning, reading, filtering, copying, the kernel,
    collecting.
with a checkpoint
    The same, kept every 5 s at most.

Making the data set and its file is not part of a job: it is done before, and said. Caches are warm: the file was just
written, and a job of the tiny data set has compiled what runs. The two rows alternate until ``--runs`` rounds are done,
or until another round would not end within ``--budget`` seconds of the start; the result is written after each.

extras, each with its bar: the kernel's share of the wall time (85 % on a CPU, 60 % on a GPU); the part of the
preparation (reading, filter, copies) that is hidden behind the kernel; the peak of the resident memory in the first job
above that of the process before, as the kernel of the operating system counted it, over the plan's; on a GPU the
device's memory likewise; what keeping costs. ``elinvar bench`` takes the data set from ``ELINVAR_DATASET`` (small
unless set).
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from elinvar.bench import Result
from elinvar.runtime.device import device as find_device
from elinvar.seismic import Checkpoint, migrate, synthetic
from elinvar.seismic.survey import Survey
from elinvar.seismic.traces import ArrayTraces

BARS = {
    "kernel_share": 0.85, "hidden_share": 0.30, "memory_over_plan": 1.10, "checkpoint_share": 0.03,
    "device_memory_over_plan": 1.10,
}  # fmt: skip
AT_LEAST = ("kernel_share", "hidden_share")
GPU_SHARE = 0.60  # of the kernel


def stored(name: str, folder: Path, source: str = "file") -> Survey:
    """Return a data set whose samples are in a file (SEG-Y where segyio is, else raw float32), or a pool of noise."""
    if source == "pool":
        import seismic_scaling

        return seismic_scaling.survey(name, 1, folder)[0]
    made = synthetic.dataset(name)
    try:
        import segyio  # noqa: F401
    except ImportError:
        return raw(made, folder / f"{name}.npy")
    from elinvar.seismic import open_segy

    path = folder / f"{name}.sgy"
    if not path.exists():
        made.write_segy(path)
    return open_segy(path, bin_size=made.bin_size)


def raw(made: Any, path: Path) -> Survey:
    """Return a survey over a memory-mapped file."""
    if not path.exists():
        data = np.lib.format.open_memmap(path, "w+", np.float32, (made.n_traces, made.n_samples))
        for first in range(0, made.n_traces, 4096):
            index = np.arange(first, min(first + 4096, made.n_traces))
            data[index[0] : index[-1] + 1] = made.traces.read(index)
        data.flush()
    data = np.load(path, mmap_mode="r")
    return Survey(ArrayTraces(data), made.source, made.receiver, made.dt, bin_size=made.bin_size, name=path.name)


@dataclass
class Study:
    """Whole jobs with and without a checkpoint, one after the other.

    Attributes
    ----------
    seconds, timings
        Of each job by row: wall time of ``migrate`` without compiling, and its own clocks.
    memory
        Of the first job: peaks and what was planned.
    """

    name: str
    device: str
    source: str
    kernel: str | None
    folder: Path
    seconds: dict[str, list[float]] = field(default_factory=lambda: {"whole job": [], "with a checkpoint": []})
    timings: dict[str, list[dict[str, float]]] = field(
        default_factory=lambda: {"whole job": [], "with a checkpoint": []}
    )
    memory: dict[str, float] = field(default_factory=dict)
    written: bool = False
    image: Any = None

    def prepare(self) -> float:
        """Make the data set and compile; return the seconds that took."""
        begin = time.perf_counter()
        self.survey, self.made = stored(self.name, self.folder, self.source), synthetic.dataset(self.name, noise=0.0)
        tiny = synthetic.dataset("tiny")
        migrate(tiny.select(np.arange(200)), tiny.velocity, tiny.grid, device=self.device, kernel=self.kernel)
        return time.perf_counter() - begin

    def whole(self) -> None:
        """Run one job; the first one's memory is looked at."""
        watch = None if self.memory else Watch(self.device)
        self._job("whole job")
        if watch is not None:
            self.memory = watch.found(self.image.job)

    def kept(self) -> None:
        """Run one job with a checkpoint."""
        checkpoint = Checkpoint(self.folder / "kept", seconds=5.0)
        self._job("with a checkpoint", checkpoint=checkpoint)
        self.written = (checkpoint.folder / "lane-0.npz").exists()  # a short job of a large image may end before that
        checkpoint.clear()

    def _job(self, row: str, **options: Any) -> None:
        self.image = None  # one image at a time
        begin = time.perf_counter()
        image = migrate(
            self.survey, self.made.velocity, self.made.grid, device=self.device, kernel=self.kernel, **options
        )
        self.seconds[row].append(time.perf_counter() - begin - image.timing.compile)
        self.timings[row].append(image.timing.to_dict())
        self.image = image

    def judged(self) -> dict[str, Any]:
        """Return the numbers so far beside their bars."""
        rows = [row for row in self.timings if self.timings[row]]
        middle = {
            row: {key: _median(t[key] for t in self.timings[row]) for key in self.timings[row][0]} for row in rows
        }
        wall = {row: _median(self.seconds[row]) for row in rows}
        whole = middle["whole job"]
        preparing = whole["prepare"] + whole["transfer"]
        exposed = max(0.0, wall["whole job"] - whole["kernel"] - whole["store"])
        found = {
            "kernel_share": whole["kernel"] / wall["whole job"],
            "hidden_share": 1.0 - min(1.0, exposed / max(preparing, 1e-9)),
            "memory_over_plan": self.memory["ratio"],
        }
        if "device_ratio" in self.memory:
            found["device_memory_over_plan"] = self.memory["device_ratio"]
        if "with a checkpoint" in rows:
            kept = middle["with a checkpoint"]
            found["checkpoint_share"] = (kept["store"] - whole["store"]) / wall["with a checkpoint"]
        bars = {key: BARS[key] for key in found}
        if find_device(self.device).kind != "cpu":
            bars["kernel_share"] = GPU_SHARE
        met = {key: value >= bars[key] if key in AT_LEAST else value <= bars[key] for key, value in found.items()}
        work = self.image.contributions
        return {
            "dataset": self.name, "source": self.source, "device": str(find_device(self.device)),
            "kernel": self.image.job.version, "block": self.image.job.block,
            "seconds": wall, "clocks": middle, "contributions": work,
            "contributions_per_second": {"kernel": work / whole["kernel"], "job": work / wall["whole job"]},
            **found, "bars": bars, "met": met, "memory": self.memory,
            "checkpoint_written": self.written,
        }  # fmt: skip


def _median(values: Any) -> float:
    return float(np.median(list(values)))


def _medians(timings: list[dict[str, float]]) -> dict[str, float]:
    return {key: _median(one[key] for one in timings) for key in timings[0]}


class Watch:
    """What a job takes at its peak above what the process held before it; the host's part needs Linux."""

    def __init__(self, device: str) -> None:
        self._device = find_device(device)
        gc.collect()
        if self._device.kind == "cuda":
            import torch

            self._device.pool.clear()
            self._device.synchronize()
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(self._device.torch)
            self._there = torch.cuda.memory_allocated(self._device.torch)
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # forget the peak so far
        self._base = status("VmRSS")

    def found(self, job: Any) -> dict[str, float]:
        """Return bytes and their ratio to the plan's."""
        peak = status("VmHWM") - self._base
        found = {"peak_bytes": peak, "planned_bytes": job.peak_bytes, "ratio": peak / job.peak_bytes}
        if self._device.kind == "cuda":
            import torch

            # The pool's classes round up in its own count; torch's is what was really taken.
            there = torch.cuda.max_memory_allocated(self._device.torch) - self._there
            planned = job.plan.memory_bytes
            found |= {"device_peak_bytes": there, "device_planned_bytes": planned, "device_ratio": there / planned}
        return found


def status(key: str) -> int:
    """Return a number of kilobytes from the kernel's account of this process, in bytes."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith(f"{key}:"):
            return 1024 * int(line.split()[1])
    raise RuntimeError(f"no {key} in /proc/self/status")


def run(*, runs: int = 5, warmup: int = 1, device: str = "auto") -> Result:
    """Time whole jobs with and without a checkpoint."""
    from elinvar.bench import interleave

    with tempfile.TemporaryDirectory(prefix="elinvar-job-") as place:
        study = Study(os.environ.get("ELINVAR_DATASET", "small"), device, "file", None, Path(place))
        study.prepare()
        study.whole()  # memory: before the pools hold what a job needs
        samples = interleave({"whole job": study.whole, "with a checkpoint": study.kept}, runs=runs, warmup=warmup)
        for row in study.timings:
            study.seconds[row], study.timings[row] = study.seconds[row][-runs:], study.timings[row][-runs:]
        return Result("seismic_job", samples, extras=study.judged())


def loop(study: Study, runs: int, budget: float, report: Callable[[dict[str, Any]], None]) -> None:
    """Alternate the rows, without elinvar.bench, whose libraries a GPU machine may lack; report after each job."""
    start = time.perf_counter()
    made = study.prepare()
    print(f"data set and compiled kernel after {made:.1f} s", flush=True)
    for turn in range(runs):
        begin = time.perf_counter()
        for call in (study.whole, study.kept):
            call()
            report({"prepared_in_seconds": made, "rounds": turn + 1, **study.judged()})
        now = time.perf_counter()
        if turn + 1 < runs and now - start + (now - begin) > budget:
            print(f"{turn + 1} of {runs} rounds: another one would take longer than {budget:g} s", flush=True)
            return


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    options.add_argument("--dataset", default="medium", choices=list(synthetic.DATASETS))
    options.add_argument("--device", default="auto")
    options.add_argument("--kernel", help="version of seismic.migrate, where not the default")
    options.add_argument("--runs", type=int, default=3, help="rounds at most")
    options.add_argument("--budget", type=float, default=float("inf"), help="seconds after which no round is begun")
    options.add_argument("--out")
    options.add_argument("--source", default="file", choices=["file", "pool"], help="samples from disk, or made up")
    given = options.parse_args()

    def report(found: dict[str, Any]) -> None:
        shown = {key: found[key] for key in ("rounds", "seconds", "kernel_share", "hidden_share", "memory", "met")}
        print(json.dumps(shown), flush=True)
        if given.out:
            from seismic_scaling import described, written

            written(Path(given.out), {"machine": described(), "samples": study.seconds, **found})

    with tempfile.TemporaryDirectory(prefix="elinvar-job-") as place:
        study = Study(given.dataset, given.device, given.source, given.kernel, Path(place))
        loop(study, given.runs, given.budget, report)
        print(study.image.job)


if __name__ == "__main__":
    main()
