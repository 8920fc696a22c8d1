"""Frames of files on their way to a GPU and back, at 4K: codes converted there, beside float32 made on the CPU.

Rows
----
decode nv12, decode p010
    Kernel ``video.decode`` from codes to float32 planes, both on the device, as a CUDA graph; sixteen launches over
    eight frames of codes and four of planes, more than the second-level cache holds.
torch nv12, torch p010
    Its reference in plain torch operations.
copy
    ``copy_`` of a float32 frame, one launch by itself: its rate contains the launch, the recordings' hardly does.
codes up
    NV12 planes from pinned memory to the device.

Extras: frames per second of an export's stages (read ahead, upload, a look of six-level bloom, Hill's fit, vignette
and grain, codes into pinned host memory, or into device memory for NVENC), with an encoder that does nothing, fed with
codes or with float32 frames in ordinary memory; bytes that crossed the bus per frame.

GPU time by CUDA events; frames per second by the wall clock.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from elinvar.bench import Result, interleave
from elinvar.runtime.transfers import transfers
from elinvar.video import passes, rendering
from elinvar.video.decode import Codes
from elinvar.video.graph import Graph
from elinvar.video.kernels.decode import metal, reference
from elinvar.video.yuv import coding

WIDTH, HEIGHT = 3840, 2160


class Film:
    """Four frames of codes, as a decoder hands them out."""

    width, height, frame_rate, frame_count, space = WIDTH, HEIGHT, Fraction(25), 1 << 20, "rec709"
    coding = coding("nv12", "bt709")

    def __init__(self) -> None:
        make = torch.Generator().manual_seed(1)
        shapes = self.coding.format.shapes(WIDTH, HEIGHT)
        self._frames = [
            tuple(torch.randint(16, 236, s, generator=make).to(torch.uint8).pin_memory() for s in shapes)
            for _ in range(4)
        ]

    def codes(self, n: int, *, pinned: bool = False) -> Codes:
        """Return frame `n`."""
        return Codes(self._frames[n % 4], self.coding)

    def frame(self, n: int) -> torch.Tensor:
        """Return frame `n` as R'G'B'."""
        return self.codes(n).pixels()


class Floats:
    """The same as R'G'B' that was made before: uploads alone are compared."""

    width, height, frame_rate, frame_count, space = WIDTH, HEIGHT, Fraction(25), 1 << 20, "rec709"

    def __init__(self, film: Film) -> None:
        self._frames = [film.frame(n) for n in range(2)]

    def frame(self, n: int) -> torch.Tensor:
        """Return frame `n`."""
        return self._frames[n % 2]


def export_rate(source: Any, form: str, surface: str, frames: int, device: str) -> dict[str, float]:
    """Return frames per second of an export's stages, and megabytes that crossed the bus per frame."""
    graph = Graph(device)
    graph.source(source)
    for one in (passes.Bloom(0.2), passes.Vignette(0.3), passes.Grain(0.02)):
        graph.add(one)
    graph.output("aces-fit")
    settings = SimpleNamespace(surface=surface, width=WIDTH, height=HEIGHT, rate=Fraction(25))
    job: Any = SimpleNamespace(
        graph=graph, settings=settings, coding=coding(form, dither=form == "nv12"), first=0, in_flight=4,
        size=(WIDTH, HEIGHT), fit="fit", monitor=None,
    )  # fmt: skip

    def go(many: int) -> float:
        job.frames = many
        slots = rendering.slots_for(job)
        begin = time.perf_counter()
        for _, slot in rendering.rendered(job, slots):
            slot.discard()
        return time.perf_counter() - begin

    go(12)
    with transfers.count() as counted:
        seconds = go(frames)
    graph.close()
    return {
        "frames/s": frames / seconds,
        "MB up": counted.h2d_bytes / frames / 1e6,
        "MB down": counted.d2h_bytes / frames / 1e6,
    }


def kernels(device: torch.device) -> dict[str, Callable[[], object]]:
    """Return what is timed on the device alone."""
    planes = [torch.empty(3, HEIGHT, WIDTH, device=device) for _ in range(4)]
    rows: dict[str, Callable[[], object]] = {"copy": lambda: planes[0].copy_(planes[1])}
    for form in ("nv12", "p010"):
        how = coding(form, "bt709")
        sets = [how.format.empty(WIDTH, HEIGHT, device) for _ in range(8)]
        for codes in sets:
            for plane in codes:
                plane.zero_()
        rows[f"decode {form}"] = _recorded(sets, planes, how, device)
        rows[f"torch {form}"] = lambda codes=sets[0], how=how: reference.decode(codes, planes[0], how)
    return rows


def _recorded(sets: list[Any], planes: list[torch.Tensor], how: Any, device: torch.device) -> Callable[[], object]:
    def many() -> None:
        for k in range(16):
            metal.decode(sets[k % 8], planes[k % 4], how, device=device)

    many()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        many()

    def replay(_memory: object = (sets, planes)) -> None:  # a recording does not keep what it reads and writes
        graph.replay()

    return replay


def run(*, runs: int = 15, warmup: int = 2, device: str = "cuda", frames: int = 300) -> Result:
    film = Film()
    where = Graph(device).device
    rows = kernels(where.torch)
    up = [torch.empty_like(p, device=where.torch) for p in film.codes(0).planes]
    rows["codes up"] = lambda: [d.copy_(h, non_blocking=True) for d, h in zip(up, film.codes(0).planes, strict=True)]
    samples = interleave(rows, runs=runs, warmup=warmup, device=device, clock="cuda_events")
    launches = {name: 16 if name.startswith("decode") else 1 for name in rows}
    us = {name: 1e6 * s.median / launches[name] for name, s in samples.items()}
    pixels = WIDTH * HEIGHT
    moved = {"decode nv12": 13.5 * pixels, "decode p010": 15.0 * pixels, "copy": 24.0 * pixels}
    rates = {name: b / us[name] / 1e3 for name, b in moved.items()}
    floats = Floats(film)
    exports = {
        "codes to nv12 on the host": export_rate(film, "nv12", "host", frames, device),
        "codes to p010 on the host": export_rate(film, "p010", "host", frames, device),
        "codes to nv12 for NVENC": export_rate(film, "nv12", "cuda", frames, device),
        "codes to p010 for NVENC": export_rate(film, "p010", "cuda", frames, device),
        "float32 to nv12 on the host": export_rate(floats, "nv12", "host", max(12, frames // 5), device),
    }
    extras = {
        "us": us,
        "GB/s": rates,
        "of a copy's rate": {name: rates[name] / rates["copy"] for name in ("decode nv12", "decode p010")},
        "times as fast as torch": {form: us[f"torch {form}"] / us[f"decode {form}"] for form in ("nv12", "p010")},
        "exports": exports,
    }
    kind = "h200" if "H200" in where.name else where.kind
    return Result(name=f"video_upload_{kind}", samples=samples, extras=extras)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--runs", type=int, default=15)
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results")
    options = parser.parse_args()
    result = run(runs=options.runs, device=options.device)
    result.write(options.output / f"{result.name}.json")
    print(json.dumps(result.extras, indent=1))
