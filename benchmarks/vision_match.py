"""Matching two images of 384 x 512 pixels by 24-channel descriptors: the same matches as brute force, sooner.

Rows
----
elinvar, seeds 8 apart
    ``vision.match(..., subsample=8)``: the fixed point from 3,072 seeds, kernel ``vision.nearest``.
torch tiles, seeds 8 apart
    The same fixed point with tiles of 3,072 x 1,024 products and an argmax each: the kernel's reference.
brute force by rows, seeds 8 apart
    The same with 256 queries against all keys at a time.
elinvar, every pixel
    ``vision.match(...)``: all 196,608 pixels, exactly (one run on a CPU).
products alone, every pixel / brute force by rows, every pixel
    On GPUs: the same with the kernel's version v1, and with 2,048 queries against all keys at a time in torch.

One thread, CPU time of that thread; on ``--device cuda`` CUDA events. The descriptors of image 2 are those of image 1
moved by 7 pixels, plus noise, so that most pixels have a true partner.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from elinvar.bench import Result, Work, interleave
from elinvar.runtime.kernels import use
from elinvar.runtime.parallel import set_threads
from elinvar.vision import match
from elinvar.vision.matching import _seeds

HEIGHT, WIDTH, CHANNELS, STEP = 384, 512, 24, 8
Nearest = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def descriptors(device: str) -> tuple[torch.Tensor, torch.Tensor]:
    make = torch.Generator().manual_seed(0)
    one = torch.randn(HEIGHT, WIDTH, CHANNELS, generator=make)
    two = one.roll(7, 1) + 0.25 * torch.randn(one.shape, generator=make)
    return tuple(torch.nn.functional.normalize(x, dim=-1).to(device) for x in (one, two))  # type: ignore[return-value]


def settle(d1: torch.Tensor, d2: torch.Tensor, nearest: Nearest) -> set[tuple[int, int]]:
    """The fixed-point iteration as it is described, with any way to find nearest neighbours."""
    here = _seeds((HEIGHT, WIDTH), STEP, d1.device)
    found: set[tuple[int, int]] = set()
    for _ in range(10):
        if len(here) == 0:
            break
        there = nearest(d1[here], d2)
        new = nearest(d2[there], d1)
        still = new == here
        found |= set(zip(here[still].tolist(), there[still].tolist(), strict=True))
        here = torch.unique(new[~still])
    return found


def by_rows(queries: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
    return torch.cat([(part @ keys.T).argmax(1) for part in queries.split(256)])


def mutual(d1: torch.Tensor, d2: torch.Tensor, rows: int = 2048) -> torch.Tensor:
    """All mutual nearest neighbours by products in torch, rows of one image at a time."""
    there = torch.cat([(part @ d2.T).argmax(1) for part in d1.split(rows)])
    back = torch.cat([(part @ d1.T).argmax(1) for part in d2.split(rows)])
    one = torch.arange(len(d1), device=d1.device)
    both = back[there] == one
    return torch.stack([one[both], there[both]], 1)


def every_pixel(one: torch.Tensor, two: torch.Tensor, runs: int, device: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Time and check the exact search over all pixels."""
    clock = "thread_cpu" if device == "cpu" else "cuda_events"
    kept: dict[str, Any] = {}
    ways: dict[str, Callable[[], Any]] = {"elinvar, every pixel": lambda: kept.update(ours=match(one, two))}
    base = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    if device == "cpu":
        samples = interleave(ways, runs=1, warmup=0, clock=clock, device=device)
        rise = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - base) / 1e3
        facts = {"every pixel": len(kept["ours"]), "rise of the peak resident memory, every pixel, MB (bar: 300)": rise}
        return samples, facts
    ways["elinvar, every pixel"]()
    torch.cuda.reset_peak_memory_stats()
    held = torch.cuda.memory_allocated()
    ways["elinvar, every pixel"]()
    rise = (torch.cuda.max_memory_allocated() - held) / 1e6
    samples = interleave(ways, runs=runs, warmup=2, clock=clock, device=device)
    d1, d2 = (x.reshape(-1, CHANNELS) for x in (one, two))

    def alone() -> None:
        with use("vision.nearest=v1"):
            kept.update(alone=match(one, two))

    def brute() -> None:
        kept.update(brute=mutual(d1, d2))

    others = {"products alone, every pixel": alone, "brute force by rows, every pixel": brute}
    samples |= interleave(others, runs=2, warmup=1, clock=clock, device=device)
    pairs = {
        name: set(zip(kept[name].idx_1.tolist(), kept[name].idx_2.tolist(), strict=True)) for name in ("ours", "alone")
    }
    truth = {tuple(row) for row in kept["brute"].tolist()}
    facts = {
        "every pixel": len(pairs["ours"]),
        "every pixel, same matches as products alone": pairs["ours"] == pairs["alone"],
        "every pixel, matches that brute force (another order of summation) has not, or has alone": len(
            pairs["ours"] ^ truth
        ),
        "rise of the GPU's memory, every pixel, MB (bar: 300)": rise,
    }
    return samples, facts


def by_tiles(queries: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
    from elinvar.vision.kernels.nearest.reference import nearest

    return nearest(queries, keys)[0]


def run(*, runs: int = 5, warmup: int = 1, device: str = "cpu") -> Result:
    before = (set_threads(1), torch.get_num_threads())
    torch.set_num_threads(1)
    try:
        one, two = descriptors(device)
        d1, d2 = one.reshape(-1, CHANNELS), two.reshape(-1, CHANNELS)
        ways: dict[str, Callable[[], Any]] = {
            "elinvar, seeds 8 apart": lambda: match(one, two, subsample=STEP),
            "torch tiles, seeds 8 apart": lambda: settle(d1, d2, by_tiles),
            "brute force by rows, seeds 8 apart": lambda: settle(d1, d2, by_rows),
        }
        match(one[:16, :16], two[:16, :16])  # compiles
        if device != "cpu":
            ways["elinvar, seeds 8 apart"]()  # so does this: the matrix units' half
        base = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        ours = ways["elinvar, seeds 8 apart"]()
        extra = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - base) / 1e3
        mine = set(zip(ours.idx_1.tolist(), ours.idx_2.tolist(), strict=True))
        more, dense = every_pixel(one, two, runs, device)  # before others raise the peak
        others = {name: ways[name]() for name in list(ways)[1:]}
        clock = "thread_cpu" if device == "cpu" else "cuda_events"
        samples = interleave(ways, runs=runs, warmup=warmup, work=Work(items=len(mine), unit="matches"), clock=clock,
                             device=device)  # fmt: skip
        samples |= more
    finally:
        set_threads(before[0])
        torch.set_num_threads(before[1])
    first = samples["elinvar, seeds 8 apart"].median
    truth = np.abs(ours.xy_2 - ours.xy_1 - [7, 0]).max(1) < 1
    extras = {
        "times as fast (bar: 5 over brute force by rows)": {n: s.median / first for n, s in samples.items()},
        "matches": {"elinvar": len(mine), **{name: len(found) for name, found in others.items()}},
        "same matches": {name: found == mine for name, found in others.items()},
        "matches on the true shift": float(truth.mean()),
        "rise of the peak resident memory, MB (bar: 300)": extra,
        **dense,
    }
    return Result(name=f"vision_match{'' if device == 'cpu' else '_' + device}", samples=samples, extras=extras)


if __name__ == "__main__":
    words = argparse.ArgumentParser()
    words.add_argument("--runs", type=int, default=5)
    words.add_argument("--device", default="cpu")
    given = words.parse_args(sys.argv[1:])
    result = run(runs=given.runs, device=given.device)
    result.write(f"{result.name}.json")
    for name, row in result.samples.items():
        print(f"{name:40s} {row.median:8.3f} s")
    print(json.dumps(result.extras, indent=1))
