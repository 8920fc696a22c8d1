"""What `plan_separation` says before, beside what is measured after: time and memory, in memory and file to file.

Rows
----
in memory
    Durations, overlaps, models, precisions, batches and modes; each is planned, separated once, and then timed.
files
    The same from file to file, by format.
growth
    Peak of resident memory of a process that separates a 20 s file, and of one that separates 600 s.

A plan holds when time and memory are within 20 % of the measured. Nothing in a plan is fitted to these cases: see
`elinvar.audio.planning`. Weights are random; time does not depend on them. ``--device cuda`` measures on that GPU.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parent))
from audio_htdemucs import RATE, mix, status_bytes, weights, write_song

from elinvar.audio.htdemucs import HTDemucs
from elinvar.audio.htdemucs_weights import Bag
from elinvar.audio.planning import plan_separation
from elinvar.audio.separation import separate
from elinvar.audio.separation_file import separate_file
from elinvar.bench import Result, machine
from elinvar.runtime.device import Device, device
from elinvar.runtime.parallel import set_threads

Models = dict[str, Any]
Options = dict[str, Any]

CPU_CASES: list[tuple[str, float, Options]] = [
    ("htdemucs", 10, {}),
    ("htdemucs", 30, {"precision": "bf16"}),
    ("htdemucs", 30, {"precision": "bf16", "overlap": 0.0}),
    ("htdemucs_6s", 20, {"precision": "bf16", "overlap": 0.5}),
    ("htdemucs", 60, {"mode": "preview"}),
]
GPU_CASES: list[tuple[str, float, Options]] = [
    *[("htdemucs", seconds, {"precision": "fp16"}) for seconds in (20, 60, 240, 600)],
    ("htdemucs", 240, {"precision": "bf16"}),
    ("htdemucs", 240, {"precision": "fp16", "overlap": 0.0}),
    ("htdemucs", 120, {"precision": "fp16", "overlap": 0.5}),
    ("htdemucs", 60, {"precision": "fp16", "shifts": 2}),
    ("htdemucs", 60, {"precision": "fp16", "batch": 5}),
    ("htdemucs", 240, {"precision": "fp16", "mode": "preview"}),
    ("htdemucs", 240, {"precision": "fp32"}),
    ("htdemucs_6s", 120, {"precision": "fp16"}),
    ("bag of 2", 60, {"precision": "fp16"}),
]


def loaded() -> Models:
    """Random weights; the two models of the bag are one."""
    found: Models = {}
    for name in ("htdemucs", "htdemucs_6s"):
        found[name] = HTDemucs(name)
        found[name].load_state_dict(weights(found[name]))
    return found | {"bag of 2": Bag([found["htdemucs"]] * 2)}


def timed(place: Device, runs: int, work: Callable[[], object]) -> list[float]:
    """Seconds of every run, after one that does not count."""
    work()
    spent = []
    for _ in range(runs):
        place.synchronize()
        begin = time.perf_counter()
        work()
        place.synchronize()
        spent.append(time.perf_counter() - begin)
    return spent


def in_memory(place: Device, models: Models, runs: int) -> Iterator[dict[str, Any]]:
    for name, seconds, options in GPU_CASES if place.kind == "cuda" else CPU_CASES:
        wave, model = mix(seconds), models[name]
        plan = plan_separation(seconds, model, device=place, **options)
        if place.kind == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated() if place.kind == "cuda" else 0
        spent = timed(place, runs, lambda wave=wave, model=model, options=options: separate(
            wave, RATE, model, device=place, **options))  # fmt: skip
        row = {"model": name, "audio_s": seconds, **options, "seconds": spent, "seconds planned": plan.seconds,
               "planned / measured, time": plan.seconds / statistics.median(spent),
               "x real time": seconds / statistics.median(spent)}  # fmt: skip
        if place.kind == "cuda":
            peak = torch.cuda.max_memory_allocated() - before
            row |= {
                "bytes": peak,
                "bytes planned": plan.work_bytes,
                "planned / measured, memory": plan.work_bytes / peak,
            }
        yield row


def from_files(place: Device, model: Any, runs: int, folder: Path) -> Iterator[dict[str, Any]]:
    cuda = place.kind == "cuda"
    options: Options = {"device": place, "precision": "fp16" if cuda else "bf16"}
    long = ((240, "wav"), (240, "flac"), (60, "flac"), (60, "ogg"))
    for seconds, kind in long if cuda else ((20, "flac"), (20, "mp3")):
        song = folder / f"{seconds}.flac"
        if not song.exists():
            write_song(song, seconds)
        plan = plan_separation(seconds, model, file=song, format=kind, **options)
        out = (folder / f"{seconds}{kind}{i}" for i in itertools.count())  # a new folder each: replacing takes time
        spent = timed(place, runs, lambda song=song, kind=kind, out=out: separate_file(
            song, next(out), model, format=kind, **options))  # fmt: skip
        yield {"audio_s": seconds, "from": "flac", "to": kind, "precision": options["precision"], "seconds": spent,
               "seconds planned": plan.seconds, "planned / measured, time": plan.seconds / statistics.median(spent),
               "x real time": seconds / statistics.median(spent)}  # fmt: skip


def one_file(spec: str, path: str, out: str) -> dict[str, Any]:
    """In a process of its own: separate one file twice; seconds and the peak of resident memory."""
    place = device(spec)
    if place.kind == "cpu":
        torch.set_num_threads(1)
        set_threads(1)
    model = HTDemucs()
    model.load_state_dict(weights(model))
    options: Options = {"device": place, "precision": "fp16" if place.kind == "cuda" else "bf16", "format": "flac16",
                        "overwrite": True}  # fmt: skip
    if place.kind == "cuda":
        model.to(place.torch)
    before = status_bytes("VmRSS")
    spent = []
    for _ in range(2 if place.kind == "cuda" and "600" in path else 1):
        begin = time.perf_counter()
        done = separate_file(path, out, model, **options)
        spent.append(time.perf_counter() - begin)
    return {"audio_s": done.seconds, "seconds": spent, "x real time": done.seconds / spent[-1],
            "peak_rss_bytes": status_bytes("VmHWM"), "rss_before": before}  # fmt: skip


def growth(spec: str, folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for seconds in (20, 600):
        song = folder / f"grow{seconds}.flac"
        write_song(song, seconds)
        command = [sys.executable, __file__, "--one", spec, str(song), str(folder / "grown")]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        found[f"{seconds} s"] = json.loads(done.stdout.splitlines()[-1])
    short, long = found["20 s"], found["600 s"]
    found["growth_MiB"] = (long["peak_rss_bytes"] - short["peak_rss_bytes"]) / 2**20
    return found


def everything(spec: str, runs: int, say: Callable[[dict[str, Any], dict[str, Any]], object]) -> dict[str, Any]:
    place = device(spec)
    models = loaded()
    found: dict[str, Any] = {"device": place.name, "in memory": [], "files": []}
    for row in in_memory(place, models, runs):
        found["in memory"].append(row)
        say(found, row)
    with tempfile.TemporaryDirectory() as folder:
        for row in from_files(place, models["htdemucs"], runs, Path(folder)):
            found["files"].append(row)
            say(found, row)
        if place.kind == "cuda":  # on the CPU benchmarks/audio_htdemucs.py measures it
            found["growth"] = growth(spec, Path(folder))
            say(found, found["growth"])
    return found


def run(*, runs: int = 3, warmup: int = 1) -> Result:
    """Measure on the CPU; one run warms up."""
    del warmup
    return Result(name="audio_separation_plan", samples={}, extras=everything("cpu", runs, lambda *_: None))


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--one", nargs=3)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--json", help="write the result there")
    given = parser.parse_args()
    if given.one:
        print(json.dumps(one_file(*given.one)))
    else:
        about = {"name": "audio_separation_plan", "machine": machine()}

        def say(found: dict[str, Any], row: dict[str, Any]) -> None:
            print(json.dumps(row), flush=True)
            if given.json:  # what is there so far
                Path(given.json).write_text(json.dumps(about | found, indent=1) + "\n")

        everything(given.device, given.runs, say)
