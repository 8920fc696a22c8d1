"""One pair through the whole network, all eight outputs, beside the same network in plain PyTorch.

Rows
----
plain fp32
    ``elinvar.vision.plain``: float32, scores of attention formed as the equations say; what the published code does.
plain fp32, sdpa
    The same with torch's fused attention.
engine
    ``Engine`` as it chooses itself (bfloat16 where the CPU has it), feature cache off.
engine fp32
    The same with ``precision="fp32"``: equal to the plain rendition within 3e-5.
looped infer, 10 images / pipelined, 10 images / sequence, 10 images
    ``infer`` of each image with the next, cache off; ``infer_batch_pipelined(compute=True)``;
    ``infer_pairs(images, "sequence")`` and all heads (GPUs only): nine pairs each, all eight outputs.
batch of 8 pairs
    ``infer_pairs`` of sixteen images, eight pairs together, all eight outputs (GPUs only).

Random weights (speed does not depend on them), 4:3 images. On the CPU: process CPU time with a fixed number of threads
(``VISION_THREADS``, default 1), because the machine may be shared; each part in a process of its own, with the peak
of its resident memory. ``--device cuda`` times the engine alone, with CUDA events around everything from the host's
arrays to outputs on the device; "percent of the floor" sets the network's operations (2.04 T for a large pair, fewer
where images are encoded once) over the rate of a float16 product of 8192 x 8192 in the same process against that.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import resource
import subprocess
import sys
from typing import Any

import numpy as np
import torch

from elinvar.bench import Result, Samples, Work, compare, interleave
from elinvar.runtime.parallel import set_threads
from elinvar.vision import Engine
from elinvar.vision.catalogue import variant
from elinvar.vision.timing import image_pair, plain_call

THREADS = int(os.environ.get("VISION_THREADS", "1"))
LARGE, SMALL = ("mast3r_vit_large", int(os.environ.get("VISION_SIZE", "512"))), ("dune_vit_small_14", 448)
PARTS = ("pair", "exact", "sequence", "batch", "dune", "memory")


def peak() -> float:
    """Peak resident memory of this process so far, GB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


def engine_for(model: str, size: int, precision: str, device: str) -> Engine:
    return Engine(model, size, precision, device, THREADS if device == "cpu" else None, cache_bytes=0).load_random(0)


def timed(
    ways: dict[str, Any], model: str, images: Any, runs: int, warmup: int, device: str, items: float = 1.0
) -> Any:
    flops = sum(variant(model).flops(*images[0].shape[:2]).values()) * items
    clock = "process_cpu" if device == "cpu" else "cuda_events"
    work = Work(items=items, unit="pairs", flops=flops)
    return interleave(ways, runs=runs, warmup=warmup, work=work, clock=clock, device=device, yardsticks=device == "cpu")


def pair(runs: int, warmup: int, device: str) -> tuple[dict[str, Samples], dict[str, Any]]:
    """The default engine beside both plain renditions."""
    images = image_pair(variant(LARGE[0]), LARGE[1])
    engine = engine_for(*LARGE, "auto", device)
    ways: dict[str, Any] = {"engine": lambda: engine.infer(*images).compute()}
    if device == "cpu":
        ways["plain fp32"] = plain_call(variant(LARGE[0]), images)
        ways["plain fp32, sdpa"] = plain_call(variant(LARGE[0]), images, attention="sdpa")
    warmup = warmup if device == "cpu" else max(3, warmup)
    samples = timed(ways, LARGE[0], images, runs, warmup, device)
    facts: dict[str, Any] = {"engine": str(engine), "paths": str(engine.paths)}
    if device == "cuda":
        flops = sum(variant(LARGE[0]).flops(*images[0].shape[:2]).values())
        facts |= floor_facts(samples, {"engine": flops})
        facts["peak GPU memory GB"] = torch.cuda.max_memory_allocated() / 1e9
    return samples, facts


def exact(runs: int, warmup: int, device: str) -> tuple[dict[str, Samples], dict[str, Any]]:
    """The float32 engine beside the plain rendition, and how far apart their outputs are."""
    images = image_pair(variant(LARGE[0]), LARGE[1])
    engine = engine_for(*LARGE, "fp32", device)
    kept: dict[str, Any] = {}
    ways: dict[str, Any] = {"engine fp32": lambda: kept.update(engine=engine.infer(*images).compute())}
    if device == "cpu":
        plain = plain_call(variant(LARGE[0]), images)
        ways["plain fp32 (beside exact)"] = lambda: kept.update(plain=plain())
    samples = timed(ways, LARGE[0], images, runs, warmup, device)
    facts: dict[str, Any] = {"paths": str(engine.paths)}
    if "plain" in kept:
        want, got = kept["plain"], kept["engine"].outputs()
        errors = [float(np.linalg.norm(x.numpy() - want[name].numpy()) / want[name].norm()) for name, x in got.items()]
        facts["largest relative L2 difference"] = max(errors)
    return samples, facts


def peak_rate() -> float:
    """Return the rate of a large float16 product on the GPU, operations per second."""
    a, b = (torch.randn(8192, 8192, device="cuda", dtype=torch.float16) for _ in range(2))
    times = []
    for _ in range(13):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        a @ b
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end) / 1e3)
    return 2 * 8192**3 / float(np.median(times[3:]))


def floor_facts(samples: dict[str, Samples], flops: dict[str, float]) -> dict[str, Any]:
    """How far each row is from its operations at the rate of a large product."""
    rate = peak_rate()
    return {
        "rate of a large product, TFLOP/s": rate / 1e12,
        "percent of the floor": {name: 100 * flops[name] / rate / samples[name].median for name in flops},
    }


def sequence(runs: int, warmup: int, device: str) -> tuple[dict[str, Samples], dict[str, Any]]:
    """Ten images: a loop over infer, and what encodes each image once."""
    # Half a minute and more each on a CPU: there the first run counts.
    runs, warmup = (max(1, runs // 3), 0) if device == "cpu" else (runs, max(2, warmup))
    make = np.random.default_rng(1)
    kind = variant(LARGE[0])
    shape = image_pair(kind, LARGE[1])[0].shape
    images = [make.integers(0, 256, shape, np.uint8) for _ in range(10)]
    engine = engine_for(*LARGE, "auto", device)
    engine.warmup(1)
    counted: dict[str, Any] = {}

    def loop() -> None:
        for a, b in itertools.pairwise(images):
            engine.infer(a, b).compute()

    def pipelined() -> None:
        before = engine.encodes
        engine.infer_batch_pipelined(images, compute=True)
        counted["encodes of a pipelined run"] = engine.encodes - before

    def graph() -> None:
        before = engine.encodes
        for result in engine.infer_pairs(images, "sequence"):
            result.compute()
        counted["encodes of a sequence"] = engine.encodes - before

    ways = {"looped infer, 10 images": loop, "pipelined, 10 images": pipelined}
    if device != "cpu":
        ways["sequence, 10 images"] = graph
    samples = timed(ways, LARGE[0], images, runs, warmup, device, items=9.0)
    if device == "cuda":
        part = kind.flops(*shape[:2])
        once = 9 * sum(part.values()) - 4 * part["encoder"]
        flops = dict.fromkeys(list(ways)[1:], once) | {"looped infer, 10 images": 9 * sum(part.values())}
        counted |= floor_facts(samples, flops)
        counted["milliseconds per pair"] = {name: 1e3 * row.median / 9 for name, row in samples.items()}
    return samples, dict(counted)


def batch(runs: int, warmup: int, device: str) -> tuple[dict[str, Samples], dict[str, Any]]:
    """Eight pairs of sixteen images together."""
    if device == "cpu":
        return {}, {}
    make = np.random.default_rng(2)
    kind = variant(LARGE[0])
    shape = image_pair(kind, LARGE[1])[0].shape
    images = [make.integers(0, 256, shape, np.uint8) for _ in range(16)]
    engine = engine_for(*LARGE, "auto", device)
    pairs = [(2 * k, 2 * k + 1) for k in range(8)]

    def call() -> None:
        for result in engine.infer_pairs(images, pairs, batch=8):
            result.compute()

    samples = timed({"batch of 8 pairs": call}, LARGE[0], images, runs, max(2, warmup), device, items=8.0)
    facts: dict[str, Any] = {"milliseconds per pair": 1e3 * samples["batch of 8 pairs"].median / 8}
    if device == "cuda":
        facts |= floor_facts(samples, {"batch of 8 pairs": 8 * sum(kind.flops(*shape[:2]).values())})
        facts["peak GPU memory GB"] = torch.cuda.max_memory_allocated() / 1e9
    return samples, facts


def dune(runs: int, warmup: int, device: str) -> tuple[dict[str, Samples], dict[str, Any]]:
    """DUNE small at 448 x 336."""
    images = image_pair(variant(SMALL[0]), SMALL[1])
    engine = engine_for(*SMALL, "auto", device)
    ways: dict[str, Any] = {"dune-small engine": lambda: engine.infer(*images).compute()}
    if device == "cpu":
        ways["dune-small plain fp32"] = plain_call(variant(SMALL[0]), images)
    return timed(ways, SMALL[0], images, runs, warmup, device), {"paths": str(engine.paths)}


def memory(runs: int, warmup: int, device: str) -> tuple[dict[str, Samples], dict[str, Any]]:
    """Peak resident memory of loading the large network and running two pairs."""
    del runs, warmup
    images = image_pair(variant(LARGE[0]), LARGE[1])
    engine = engine_for(*LARGE, "auto", device)
    loaded = peak()
    for _ in range(2):
        engine.infer(*images).compute()
    return {}, {
        "peak GB, loading": loaded,
        "peak GB, two pairs": peak(),
        "weights GB": engine.info()["weights_bytes"] / 1e9,
    }


def part(name: str, runs: int, warmup: int, device: str) -> tuple[dict[str, Samples], dict[str, Any]]:
    """Run one part in a process of its own."""
    command = [
        sys.executable,
        __file__,
        "--part",
        name,
        "--runs",
        str(runs),
        "--warmup",
        str(warmup),
        "--device",
        device,
    ]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    told = json.loads(done.stdout.splitlines()[-1])
    return {key: Samples.from_json(row) for key, row in told["samples"].items()}, told["facts"]


def ratios(samples: dict[str, Samples]) -> dict[str, Any]:
    """Every bar with its number: plain over engine, loop over pipeline, plain over a pipelined pair."""
    wanted = {
        "default over plain (bar 3.1)": ("plain fp32", "engine", 1.0),
        "default over plain with sdpa": ("plain fp32, sdpa", "engine", 1.0),
        "fp32 over plain (bar 1.7)": ("plain fp32 (beside exact)", "engine fp32", 1.0),
        "pipelined over looped (bar 1.25)": ("looped infer, 10 images", "pipelined, 10 images", 1.0),
        "sequence of 10 over plain, per pair (bar 3.7)": ("plain fp32", "pipelined, 10 images", 9.0),
        "dune-small over plain (bar 2.3)": ("dune-small plain fp32", "dune-small engine", 1.0),
    }
    out = {}
    for name, (slow, fast, items) in wanted.items():
        if slow in samples and fast in samples:
            out[name] = samples[slow].median * items / samples[fast].median
    if "plain fp32" in samples and "engine" in samples:
        out["verdict, engine against plain"] = str(compare(samples["engine"], samples["plain fp32"]))
    return out


def run(*, runs: int = 3, warmup: int = 1, device: str = "cpu", parts: tuple[str, ...] = PARTS) -> Result:
    samples: dict[str, Samples] = {}
    facts: dict[str, Any] = {"threads": THREADS}
    for name in parts:
        more, known = part(name, runs, warmup, device)
        samples |= more
        facts[name] = known
    suffix = "" if device == "cpu" else f"_{device}"
    return Result(name=f"vision_pair{suffix}", samples=samples, extras={"ratios": ratios(samples), "facts": facts})


if __name__ == "__main__":
    words = argparse.ArgumentParser()
    words.add_argument("--part", choices=PARTS)
    words.add_argument("--runs", type=int, default=3)
    words.add_argument("--warmup", type=int, default=1)
    words.add_argument("--device", default="cpu")
    given = words.parse_args()
    if given.part:
        if given.device == "cpu":
            torch.set_num_threads(THREADS)
            set_threads(THREADS)
        rows, known = globals()[given.part](given.runs, given.warmup, given.device)
        known["peak resident GB"] = peak()
        print(json.dumps({"samples": {name: row.to_json() for name, row in rows.items()}, "facts": known}))
    else:
        result = run(runs=given.runs, warmup=given.warmup, device=given.device)
        result.write(f"{result.name}.json")
        print(json.dumps(result.extras, indent=1))
