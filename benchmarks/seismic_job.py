"""A whole migration from disk: at least 85 % of its time inside the kernel, memory as planned, 3 % for checkpoints.

    python benchmarks/seismic_job.py --dataset medium --device auto --runs 3 --out seismic_job.json
    python benchmarks/seismic_job.py --dataset large --device cuda --source pool --runs 3

Rows
----
whole job
    ``migrate`` of a survey on disk into the grid of its midpoints: reading, filtering, copying, the kernel, collecting.
with a checkpoint
    The same, kept every 5 s at most.

extras, each with its bar: the kernel's share of the wall time; the part of the preparation (reading, filter, copies)
that is hidden behind the kernel; the peak of the resident memory above that of the process before, measured by the
kernel of the operating system in a process of its own, over the plan's; what keeping costs. ``elinvar bench`` takes the
data set from ``ELINVAR_DATASET`` (small unless set).
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from elinvar.bench import Result
from elinvar.seismic import Checkpoint, migrate, synthetic
from elinvar.seismic.survey import Survey
from elinvar.seismic.traces import ArrayTraces

BARS = {"kernel_share": 0.85, "hidden_share": 0.30, "memory_over_plan": 1.10, "checkpoint_share": 0.03}


def stored(name: str, folder: Path, source: str = "file") -> Survey:
    """Return a data set whose samples are in a file (SEG-Y where segyio is, else raw float32), or a pool of noise."""
    if source == "pool":
        import seismic_scaling

        return seismic_scaling.survey(name, 1)[0]
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


def job(name: str, folder: Path, device: str, source: str, **options: Any) -> Any:
    made = synthetic.dataset(name, noise=0.0)
    return migrate(stored(name, folder, source), made.velocity, made.grid, device=device, **options)


def status(key: str) -> int:
    """Return a number of kilobytes from the kernel's account of this process, in bytes."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith(f"{key}:"):
            return 1024 * int(line.split()[1])
    raise RuntimeError(f"no {key} in /proc/self/status")


def memory(name: str, folder: Path, device: str, source: str) -> dict[str, float]:
    """Return what a job takes at its peak above the process before it, and what was planned; needs Linux."""
    survey, made = stored(name, folder, source), synthetic.dataset(name)
    # Compiled code, FFT plans and thread stacks are the process's, not the job's.
    tiny = synthetic.dataset("tiny")
    migrate(tiny.select(np.arange(200)), tiny.velocity, tiny.grid, device=device)
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # forget the peak so far
    base = status("VmRSS")
    image = migrate(survey, made.velocity, made.grid, device=device)
    peak = status("VmHWM") - base
    return {"peak_bytes": peak, "planned_bytes": image.job.peak_bytes, "ratio": peak / image.job.peak_bytes}


def memory_elsewhere(name: str, folder: Path, device: str, source: str) -> dict[str, float]:
    """Run :func:`memory` in a fresh process."""
    words = [sys.executable, __file__, "--memory", "--dataset", name, "--device", device, "--folder", str(folder)]
    words += ["--source", source]
    done = subprocess.run(words, capture_output=True, text=True, check=True, env={**os.environ})
    return dict(json.loads(done.stdout.splitlines()[-1]))


def run(*, runs: int = 5, warmup: int = 1, device: str = "auto") -> Result:
    """Time whole jobs, then look at one's memory."""
    from elinvar.bench import interleave

    name = os.environ.get("ELINVAR_DATASET", "small")
    samples, extras = study(name, device, "file", runs, lambda rows: interleave(rows, runs=runs, warmup=warmup))
    return Result("seismic_job", samples, extras=extras)


def study(name: str, device: str, source: str, runs: int, measure: Any) -> tuple[Any, dict[str, Any]]:
    """Measure whole jobs with and without a checkpoint; return the samples and what they mean."""
    with tempfile.TemporaryDirectory(prefix="elinvar-job-") as place:
        folder = Path(place)
        timings: list[dict[str, float]] = []
        keeping: list[dict[str, float]] = []
        work: list[int] = []

        def whole() -> None:
            image = job(name, folder, device, source)
            timings.append(image.timing.to_dict())
            work.append(image.contributions)

        def kept() -> None:
            checkpoint = Checkpoint(folder / "kept", seconds=5.0)
            keeping.append(job(name, folder, device, source, checkpoint=checkpoint).timing.to_dict())
            checkpoint.clear()

        samples = measure({"whole job": whole, "with a checkpoint": kept})
        used = memory_elsewhere(name, folder, device, source)
    return samples, judged(name, timings[-runs:], keeping[-runs:], work[-1], used)


def judged(
    name: str, timings: list[dict[str, float]], keeping: list[dict[str, float]], work: int, used: dict[str, float]
) -> dict[str, Any]:
    """Return the numbers beside their bars."""
    middle, kept = ({key: float(np.median([t[key] for t in side])) for key in side[0]} for side in (timings, keeping))
    preparing = middle["prepare"] + middle["transfer"]
    exposed = max(0.0, middle["total"] - middle["kernel"] - middle["store"])
    found = {
        "kernel_share": middle["kernel"] / middle["total"],
        "hidden_share": 1.0 - min(1.0, exposed / max(preparing, 1e-9)),
        "memory_over_plan": used["ratio"],
        "checkpoint_share": (kept["store"] - middle["store"]) / kept["total"],
    }
    met = {
        key: value >= BARS[key] if key in ("kernel_share", "hidden_share") else value <= BARS[key]
        for key, value in found.items()
    }
    rate = work / middle["kernel"]
    return {
        "dataset": name, "seconds": middle, "seconds_kept": kept, "contributions": work,
        "contributions_per_second": rate, **found, "bars": BARS, "met": met, "memory": used,
    }  # fmt: skip


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    options.add_argument("--dataset", default="medium", choices=list(synthetic.DATASETS))
    options.add_argument("--device", default="auto")
    options.add_argument("--runs", type=int, default=3)
    options.add_argument("--warmup", type=int, default=1)
    options.add_argument("--out")
    options.add_argument("--memory", action="store_true", help=argparse.SUPPRESS)
    options.add_argument("--folder", help=argparse.SUPPRESS)
    options.add_argument("--source", default="file", choices=["file", "pool"], help="samples from disk, or made up")
    given = options.parse_args()
    if given.memory:
        print(json.dumps(memory(given.dataset, Path(given.folder), given.device, given.source)))
        return

    def loop(rows: dict[str, Any]) -> dict[str, list[float]]:
        """Time without elinvar.bench, whose libraries a GPU machine may lack."""
        seconds: dict[str, list[float]] = {row: [] for row in rows}
        for turn in range(given.warmup + given.runs):
            for row, call in rows.items():
                begin = time.perf_counter()
                call()
                if turn >= given.warmup:
                    seconds[row].append(time.perf_counter() - begin)
        return seconds

    samples, extras = study(given.dataset, given.device, given.source, given.runs, loop)
    if given.out:
        from seismic_scaling import described

        Path(given.out).parent.mkdir(parents=True, exist_ok=True)
        data = {"machine": described(), "seconds": samples, **extras}
        Path(given.out).write_text(json.dumps(data, indent=1, default=str), encoding="utf-8")
    print(json.dumps({key: value for key, value in extras.items() if key != "bars"}, indent=1))


if __name__ == "__main__":
    main()
