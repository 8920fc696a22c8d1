"""What an export costs beside its encoder and its graph, and how much of it overlaps.

Rows
----
encoder alone
    The graph's NV12 frames, rendered before, into libx264 ultrafast, muxed: PyAV, no copy.
graph alone
    The same frames rendered and converted.
export, in flight 1 / 3
    ``video.export`` of the graph: both, through the pipeline. CPU time of all threads, and wall time.
one thread each, in flight 1 / 3
    The same with one thread for the kernels and one for the encoder. With as many as there are cores a single frame
    keeps all of them busy, and the encoder's own threads run on beside the next frame; here what overlaps is the
    pipeline's doing.

1080p, 24 frames. Overhead is export minus encoder minus graph, in CPU milliseconds per frame: the median over the
rounds. Overlap is the wall time with one frame in flight over that with three, one thread each: the median over the
rounds, and means something on two idle cores only.
"""

from __future__ import annotations

import json
import tempfile
import time
from fractions import Fraction
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch

from elinvar.bench import Result, Samples, interleave
from elinvar.runtime.parallel import set_threads
from elinvar.video import passes, sources
from elinvar.video.codecs import Settings
from elinvar.video.exporting import encode_frames, export, plan_job, writing
from elinvar.video.graph import Graph

WIDTH, HEIGHT, FRAMES = 1920, 1080, 24
BARS = {"overhead core-ms": 1.0, "overlap": 1.3}


def graph_of() -> Graph:
    still = torch.rand(3, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(0)) ** 3 * 2
    graph = Graph("cpu")
    graph.source(sources.Function(lambda _n: still, WIDTH, HEIGHT, Fraction(24), FRAMES, "acescg"))
    graph.add(passes.Bloom(0.2))
    graph.add(passes.Vignette(0.3, 0.75, 1.0))
    return graph.output("aces-fit")


def rows(folder: Path) -> dict[str, Any]:
    graph = graph_of()
    out = folder / "a.mkv"
    job = plan_job(
        graph, out, "h264", (WIDTH, HEIGHT), 0, FRAMES, 1, None, bit_depth=8, dither=False, delivery=None, fit="fit",
        quality=0.6, speed="ultrafast",
    )  # fmt: skip
    plan = graph.plan()
    fetched = plan.fetch(0)
    ready = plan.draw_yuv(0, fetched, job.coding)
    planes = job.coding.format.empty(WIDTH, HEIGHT)

    class Ready:
        """A plan whose frames cost one copy: what the encoder is fed in the row without a graph."""

        def fetch(self, n: int) -> int:
            return n

        def draw_yuv(self, _n: int, _fetched: int, _coding: Any, planes: Any) -> Any:
            for target, plane in zip(planes, ready, strict=True):
                target.copy_(plane)
            return planes

    def encoder() -> None:
        real = graph.plan
        graph.plan = lambda *_: Ready()  # type: ignore[assignment, method-assign, return-value]
        try:
            with writing(out) as container:
                encode_frames(job, container, None, None)
        finally:
            graph.plan = real  # type: ignore[method-assign]

    def draw() -> None:
        for n in range(FRAMES):
            plan.draw_yuv(n, fetched, job.coding, planes)

    def whole(in_flight: int) -> None:
        export(graph, out, quality=0.6, speed="ultrafast", dither=False, in_flight=in_flight)

    def one_each(in_flight: int) -> None:
        apply = Settings.apply

        def alone(settings: Settings, stream: Any) -> None:
            apply(settings, stream)
            stream.codec_context.thread_count = 1

        before = set_threads(1)
        try:
            with mock.patch.object(Settings, "apply", alone):
                whole(in_flight)
        finally:
            set_threads(before)

    return {
        "encoder alone": encoder,
        "graph alone": draw,
        "export, in flight 1": lambda: whole(1),
        "export, in flight 3": lambda: whole(3),
        "one thread each, in flight 1": lambda: one_each(1),
        "one thread each, in flight 3": lambda: one_each(3),
    }


def run(*, runs: int = 15, warmup: int = 1) -> Result:
    with tempfile.TemporaryDirectory() as folder:
        work = rows(Path(folder))
        wall: dict[str, list[float]] = {name: [] for name in work}

        def watched(name: str) -> Any:
            def call() -> None:
                begin = time.perf_counter()
                work[name]()
                wall[name].append(time.perf_counter() - begin)

            return call

        samples: dict[str, Samples] = interleave(
            {name: watched(name) for name in work}, runs=runs, warmup=warmup, clock="process_cpu"
        )
    per_frame = {name: 1e3 * s.median / FRAMES for name, s in samples.items()}
    core_ms = {name: 1e3 * np.asarray(s.values) / FRAMES for name, s in samples.items()}
    overhead = core_ms["export, in flight 3"] - core_ms["encoder alone"] - core_ms["graph alone"]
    took = {name: np.asarray(values[warmup:]) for name, values in wall.items()}
    overlap = took["one thread each, in flight 1"] / took["one thread each, in flight 3"]
    contended = any(s.contended for s in samples.values())
    extras = {
        "core-ms per frame": per_frame,
        "overhead core-ms": float(np.median(overhead)),
        "overlap": float(np.median(overlap)),
        "rounds": {"overhead core-ms": overhead.round(3).tolist(), "overlap": overlap.round(3).tolist()},
        "wall ms per frame": {name: 1e3 * float(np.median(v)) / FRAMES for name, v in took.items()},
        "contended": contended,
        "bars": BARS,
    }
    return Result(name="video_export", samples=samples, extras=extras)


if __name__ == "__main__":
    result = run()
    result.write(Path(__file__).parent / "results" / "video_export.json")
    print(json.dumps(result.extras, indent=1))
