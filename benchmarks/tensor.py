"""Tensor engine: fused against unfused with pooled and with fresh memory, batches, half storage, pool reuse.

    elinvar bench tensor --output benchmarks/results/tensor.json --report tensor.html
    python benchmarks/tensor.py [--device cuda] [--save]     # the table of bars; --save keeps the batch sizes

On a CPU everything runs on one thread and times are its CPU time. ``extras["bars"]`` judges what the project promises.
Rows called "unfused, allocating" are what one writes first in torch; "unfused, pooled" is the best one can write by
hand with ``out=`` and in-place calls.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from elinvar import keep_pages, tensor
from elinvar.bench import Case, Result, Samples, Work, compare, interleave
from elinvar.bench import roofline as measure_roofline
from elinvar.runtime.device import device as find
from elinvar.tensor import measure

EDGES = {"cpu": (64, 128, 256, 512, 1024), "cuda": (256, 1024, 4096), "mps": (256, 1024, 2048)}
COUNTS = (1_000, 10_000, 100_000, 1_000_000)
SIXTEEN_MILLION = 1 << 24
SWEEPS = (("linear", 64), ("linear", 256), ("matmul", 64), ("layer_norm", 256), ("affine", 256))
LEAST_FASTER = {64: 0.15, 128: 0.08, 256: 0.0}


def rows(
    title: str,
    ways: dict[str, Callable[[], object]],
    work: Work | None,
    runs: int,
    warmup: int,
    device: str,
    inner: Any,
) -> dict[str, Samples]:
    """Interleave some ways of doing one thing."""
    named = {f"{title}: {name}": fn for name, fn in ways.items()}
    clock = "thread_cpu" if find(device).kind == "cpu" else "wall"
    with torch.no_grad():
        return interleave(named, runs=runs, warmup=warmup, work=work, device=device, clock=clock, inner=inner)


class Bars:
    """What is promised, what was measured, and whether it holds."""

    def __init__(self, samples: dict[str, Samples]) -> None:
        self.samples = samples
        self.found: list[dict[str, Any]] = []

    def faster(self, title: str, a: str, b: str, least: float, text: str) -> None:
        """B takes at most 1 - least of A's time, paired by round."""
        verdict = compare(self.samples[f"{title}: {a}"], self.samples[f"{title}: {b}"])
        gain = 1 - verdict.ratio
        self.add(f"{title}, {b} against {a}", text, f"{100 * gain:+.1f} %", gain >= least, verdict.word)

    def times(self, title: str, a: str, b: str, least: float, text: str | None = None) -> None:
        """B is at least so many times faster than A."""
        verdict = compare(self.samples[f"{title}: {a}"], self.samples[f"{title}: {b}"])
        factor = 1 / verdict.ratio
        self.add(f"{title}, {b} against {a}", text or f">= {least:g}x", f"{factor:.2f}x", factor >= least, verdict.word)

    def add(self, what: str, bar: str, value: str, met: bool, verdict: str = "") -> None:
        self.found.append({"what": what, "bar": bar, "value": value, "met": bool(met), "verdict": verdict})


def products(runs: int, warmup: int, device: str) -> dict[str, Samples]:
    samples = {}
    for edge in EDGES[find(device).kind]:
        ways, work = measure.linear_ways(edge, find(device).torch)
        few = runs if edge < 512 else max(7, runs // 3)
        samples |= rows(f"linear {edge}", ways, work, few, warmup, device, "auto")
    return samples


def elementwise(runs: int, warmup: int, device: str) -> dict[str, Samples]:
    samples = {}
    for operation in ("add", "mul"):
        for n in COUNTS:
            ways, work = measure.elementwise_ways(operation, n, find(device).torch)
            samples |= rows(f"{operation}_relu {n:,}", ways, work, runs, warmup, device, "auto")
    return samples


def affine(runs: int, warmup: int, device: str, suffix: str = "") -> dict[str, Samples]:
    ways, work = measure.affine_ways(SIXTEEN_MILLION, find(device).torch)
    return rows(f"affine+relu 16M{suffix}", ways, work, runs, warmup, device, 1)


def affine_with_kept_pages(runs: int, warmup: int) -> dict[str, Samples]:
    """In a process of its own: there is no way back from keep_pages()."""
    command = [sys.executable, __file__, "--keep-pages", str(runs), str(warmup)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return {name: Samples.from_json(row) for name, row in json.loads(done.stdout.splitlines()[-1]).items()}


def halves(runs: int, warmup: int, device: str) -> tuple[dict[str, Samples], float]:
    """1024³ in half and single storage, and how much slower a native product is (at 512³, a few times)."""
    x, w, b = measure.random(1024, 1024), measure.random(1024, 1024) / 32, measure.random(1024)
    pool = find(device).pool
    half = [t.half() for t in (x, w, b)]

    def pooled(*args: torch.Tensor) -> None:
        with pool.frame():
            tensor.linear(*args, "relu", pool=pool)

    ways = {
        "float32 storage": lambda: pooled(x, w, b),
        "float16 storage": lambda: pooled(*half),
        "torch float32": lambda: torch.relu(x @ w.t() + b),
    }
    samples = rows("linear 1024", ways, Work(flops=2.0 * 1024**3), max(7, runs // 2), warmup, device, 1)
    small, native = measure.random(512, 512), measure.random(512, 512).half()
    both = interleave(
        {"single": lambda: small @ small, "native": lambda: native @ native},
        runs=3, warmup=1, clock="thread_cpu", yardsticks=False,
    )  # fmt: skip
    return samples, both["native"].median / both["single"].median


def batches(runs: int, warmup: int, device: str) -> dict[str, Samples]:
    place = find(device).torch
    samples = {}
    for width in (64, 256):
        w, b = measure.random(width, width, device=place), measure.random(width, device=place)
        items = list(measure.random(64, width, device=place))
        together = torch.stack(items)
        samples |= rows(
            f"64 rows, {width} wide",
            {
                "loop": lambda items=items, w=w, b=b: [torch.relu(x @ w.t() + b) for x in items],
                "one batch": lambda x=together, w=w, b=b: tensor.linear(x, w, b, "relu"),
                "batched() with stack and unbind": lambda items=items, w=w, b=b: tensor.batched(
                    lambda x: tensor.linear(x, w, b, "relu"), items, 64
                ),
            },
            Work(items=64, unit="rows"), runs, warmup, device, "auto",
        )  # fmt: skip
    a, b = measure.random(64, 64, 64, device=place), measure.random(64, 64, 64, device=place) / 8
    lists = list(a), list(b)
    samples |= rows(
        "64 products of 64x64",
        {
            "loop": lambda: [x @ y for x, y in zip(*lists, strict=True)],
            "one batch": lambda: tensor.matmul(a, b),
        },
        Work(flops=2.0 * 64**4), runs, warmup, device, "auto",
    )  # fmt: skip
    return samples


def judge(samples: dict[str, Samples], kind: str, ratio: float | None, rates: dict[str, Any]) -> list[dict[str, Any]]:
    """Hold everything against what the project promises for a CPU."""
    bars = Bars(samples)
    for edge, least in LEAST_FASTER.items():
        if kind == "cpu":
            bars.faster(f"linear {edge}", "unfused, allocating", "fused", least, f">= {100 * least:.0f} % faster")
    for operation in ("add", "mul"):
        for n in COUNTS:
            title, least = f"{operation}_relu {n:,}", 0.2 if n == COUNTS[-1] else -0.05
            text = ">= 20 % faster" if n == COUNTS[-1] else "never worse"
            bars.faster(title, "unfused, allocating", "fused, pooled", least, text)
            bars.faster(title, "unfused, pooled", "fused, pooled", -0.05, "reported")
    title = "affine+relu 16M"
    copy, fused = samples[f"{title}: copy of as many bytes"], samples[f"{title}: fused, pooled"]
    share = copy.median / fused.median
    bars.add(f"{title}, of a copy's bandwidth", ">= 90 %", f"{100 * share:.0f} %", share >= 0.9)
    bars.times(title, "unfused, pooled", "fused, pooled", 1.3)
    bars.times(title, "unfused, allocating", "fused, pooled", 0, "reported")
    kept = f"{title} under keep_pages()"
    if f"{kept}: fused, pooled" in samples:
        bars.times(kept, "unfused, allocating", "fused, pooled", 0, "reported")
    if ratio is not None:
        half = compare(samples["linear 1024: float32 storage"], samples["linear 1024: float16 storage"]).ratio
        bars.add("linear 1024, float16 against float32 storage", "<= 1.5x the time", f"{half:.2f}x", half <= 1.5)
        bars.add("native float16 product 512, against float32", "reported", f"{ratio:.0f}x", True)
    for width, least in ((64, 10), (256, 3)):
        bars.times(f"64 rows, {width} wide", "loop", "one batch", least if kind == "cpu" else 20)
        bars.times(f"64 rows, {width} wide", "loop", "batched() with stack and unbind", 0, "reported")
    bars.times("64 products of 64x64", "loop", "one batch", 2 if kind == "cpu" else 20)
    for name, least in (("training workspaces", 0.95), ("batch inference", 0.6), ("one-off", 0.0)):
        rate = rates[name]["reuse_rate"]
        bars.add(f"pool reuse, {name}", f">= {least}" if least else "reported", f"{rate:.3f}", rate >= least)
    new = rates["training workspaces"]["new allocations after step 2"]
    bars.add("pool, new allocations after training step 2", "0", str(new), new == 0)
    return bars.found


def ci_cases() -> dict[str, Case]:
    """The calls whose cost is mostly ours."""
    ways, work = measure.linear_ways(64)
    few, _ = measure.elementwise_ways("add", 1000)
    many, bytes_moved = measure.elementwise_ways("mul", 1_000_000)
    return {
        "tensor: linear 64": Case(ways["fused"], work),
        "tensor: add_relu 1K": Case(few["fused, pooled"]),
        "tensor: mul_relu 1M": Case(many["fused, pooled"], bytes_moved),
    }


def run(*, runs: int = 31, warmup: int = 3, device: str = "cpu", save: bool = False) -> Result:
    """Measure everything; the promises are in ``extras["bars"]``."""
    kind = find(device).kind
    with measure.one_thread() if kind == "cpu" else contextlib.nullcontext():
        samples = products(runs, warmup, device)
        samples |= elementwise(runs, warmup, device)
        samples |= affine(max(11, runs // 2), warmup, device)
        samples |= batches(runs, warmup, device)
        ratio = None
        if kind == "cpu":
            more, ratio = halves(runs, warmup, device)
            samples |= more
            samples |= affine_with_kept_pages(max(11, runs // 2), warmup) if keep_pages_works() else {}
        sweeps = {
            f"{operation}, {width} wide": measure.batch_sweep(width, measure.BATCHES, device, operation=operation)
            for operation, width in (
                ("linear", 64),
                ("linear", 256),
                ("matmul", 64),
                ("layer_norm", 256),
                ("affine", 256),
            )
        }
        roof = measure_roofline(device, runs=5, warmup=1)
    sizes = {name: measure.efficient_sizes(sweep) for name, sweep in sweeps.items()}
    if save:
        for name, pair in sizes.items():
            measure.save_sizes(name.partition(",")[0], device, pair)
    rates = measure.pool_rates(device=device)
    extras = {
        "threads": 1 if kind == "cpu" else None,
        "bars": judge(samples, kind, ratio, rates),
        "pool": rates,
        "batch sweep": sweeps,
        "rows in a batch": {name: {"smallest efficient": least, "best": best} for name, (least, best) in sizes.items()},
        "roofline": roof.to_json(),
    }
    return Result("tensor", samples, extras=extras)


def keep_pages_works() -> bool:
    """Ask in a child, for asking applies it."""
    code = "import elinvar, sys; sys.exit(not elinvar.keep_pages())"
    return subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def main() -> int:
    if sys.argv[1:2] == ["--keep-pages"]:
        if not keep_pages():
            sys.exit("keep_pages() does nothing here")
        with measure.one_thread():
            found = affine(int(sys.argv[2]), int(sys.argv[3]), "cpu", " under keep_pages()")
        print(json.dumps({name: samples.to_json() for name, samples in found.items()}))
        return 0
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--runs", type=int, default=31)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--save", action="store_true", help="keep the batch sizes for elinvar.tensor.batched")
    options = parser.parse_args()
    result = run(runs=options.runs, device=options.device, save=options.save)
    for row in result.extras["bars"]:
        word = "ok  " if row["met"] else "MISS"
        print(f"{word} {row['value']:>10}  {row['bar']:>16}  {row['verdict']:>12}  {row['what']}")
    if options.output:
        result.write(options.output)
    return 0


if __name__ == "__main__":
    sys.exit(main())
