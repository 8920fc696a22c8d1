"""A film look to NV12 at 1080p on one CPU core, beside FFmpeg's filters and moviepy with OpenCV; or at 4K on a GPU.

Rows
----
elinvar
    Six-level bloom, Hill's ACES fit, vignette and grain on float32 planes in linear light, encoded and quantised to
    NV12:
    the pyramid, and one kernel for everything behind it.
elinvar, unfused
    The same passes as one kernel each, every result stored as float32 planes, then the conversion.
elinvar, points fused / points unfused
    The passes behind the pyramid alone.
ffmpeg, lut3d in float
    PyAV's libavfilter on 8-bit gbrp: threshold, gblur sigma 20 in 3 steps, addition; lut3d tetrahedral 33³ in gbrpf32;
    vignette, noise, yuv420p. The graphs are alike in kind, not in result.
ffmpeg, lut3d in 8 bits
    The same with lut3d on gbrp, as scripts write it.
moviepy + cv2
    ``VideoClip(...).transform(bloom)`` with cv2.GaussianBlur sigma 20 on float32, a curve, vignette and noise in numpy,
    8-bit
    RGB out; in a process of its own whose Python is named by ELINVAR_PEER_PYTHON. Absent without it.

CPU time of the process, one thread for elinvar; peers may use threads, all of their CPU time counts.
With ``--device cuda``, at 4K: GPU time of a frame's replay by CUDA events with its launches, and its share of the
bytes' roofline: the bytes every launch must read and write (`launch_bytes`) at the rate of a copy in the same process;
frames per second by the wall clock with some frames in flight; the point-wise chain fused and unfused, both as CUDA
graphs; pool requests, copies and Python memory of a steady frame.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import subprocess
import tempfile
import time
import tracemalloc
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from elinvar.bench import Result, interleave, measure, roofline
from elinvar.runtime.parallel import set_threads
from elinvar.video import ocio, passes, shade, sources
from elinvar.video.graph import Graph
from elinvar.video.kernels import bloom
from elinvar.video.replay import Values
from elinvar.video.yuv import coding

WIDTH, HEIGHT = 1920, 1080
BARS = {"core_ms": 12.0, "ffmpeg": 0.4, "moviepy": 0.12, "fusion": 1.6}
PEER = """
import sys, time
import cv2, numpy as np
from moviepy import VideoClip
cv2.setNumThreads(1)
h, w = 1080, 1920
rng = np.random.default_rng(0)
still = (rng.random((h, w, 3)) ** 3 * 255).astype(np.uint8)
y, x = np.mgrid[0:h, 0:w].astype(np.float32)
d2 = ((x - w / 2) ** 2 + (y - h / 2) ** 2) * (18 / (w / 2)) ** 2
fall = ((50.0**2 / (50.0**2 + d2)) ** 2)[..., None].astype(np.float32)
def look(get_frame, t):
    f = get_frame(t).astype(np.float32) / 255
    f = f + 0.2 * cv2.GaussianBlur(np.where(f > 0.8, f, 0), (0, 0), 20)
    f *= fall
    f = (f * (2.51 * f + 0.03)) / (f * (2.43 * f + 0.59) + 0.14)
    f = f + 0.02 * rng.standard_normal((h, w, 1), np.float32)
    return (np.clip(f, 0, 1) * 255).astype(np.uint8)
clip = VideoClip(lambda t: still, duration=1000).transform(look)
n = 0
for _ in sys.stdin:
    a = time.process_time()
    clip.get_frame(n / 24)
    n += 1
    print(time.process_time() - a, flush=True)
"""


class Told:
    """A clock for functions that return the seconds they took themselves."""

    def time(self, fn: Callable[[], object], inner: int) -> float:
        return sum(float(fn()) for _ in range(inner)) / inner  # type: ignore[arg-type]


def timed(fn: Callable[[], object]) -> Callable[[], float]:
    def call() -> float:
        begin = time.process_time()
        fn()
        return time.process_time() - begin

    return call


def graph_of(device: str, width: int, height: int) -> Graph:
    graph = Graph(device)
    graph.source(sources.Function(lambda _n: scene(width, height), width, height, space="acescg"))
    graph.add(passes.Bloom(0.2))
    graph.add(passes.Vignette(0.3, 0.75, 1.0))
    graph.add(passes.Grain(0.02))
    return graph.output("aces-fit")


def scene(width: int, height: int) -> torch.Tensor:
    make = torch.Generator().manual_seed(0)
    return torch.rand(3, height, width, generator=make) ** 3 * 2


def elinvar_rows() -> dict[str, Callable[[], object]]:
    graph = graph_of("cpu", WIDTH, HEIGHT)
    plan, how = graph.plan(), coding("nv12")
    planes = how.format.empty(WIDTH, HEIGHT)
    fetched = plan.fetch(0)
    given = {id(plan._order[k]): frame for k, frame in fetched.items()}
    values, last = plan._upstream(0, given)
    assert last is not None
    ops, frame, extras = plan._chain(last, 0, values)
    store = [torch.empty(3, HEIGHT, WIDTH) for _ in range(2)]

    def points_apart() -> None:
        x, used = frame, 0
        for k, op in enumerate(ops):
            given = extras[used : used + len(op.extras)]
            used += len(op.extras)
            x = shade.apply(x, [op], given, out=store[k % 2])
        shade.encode(x, (), (), how, planes)

    def apart() -> None:
        plan._upstream(0, given)
        points_apart()

    return {
        "elinvar": lambda: plan.draw_yuv(0, fetched, how, planes),
        "elinvar, unfused": apart,
        "elinvar, points fused": lambda: shade.encode(frame, ops, extras, how, planes),
        "elinvar, points unfused": points_apart,
    }


def ffmpeg_row(folder: Path, lut_format: str) -> Callable[[], object]:
    import av

    table = ocio.bake("aces1.3-sdr", 33)[..., :3].permute(2, 1, 0, 3).reshape(-1, 3)  # red runs fastest in a .cube
    cube = folder / "look.cube"
    cube.write_text("LUT_3D_SIZE 33\n" + "\n".join(" ".join(f"{v:.6f}" for v in row) for row in table.tolist()))
    pixels = (scene(WIDTH, HEIGHT).clamp(0, 1) * 255).byte().movedim(0, -1).contiguous().numpy()
    source = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), "rgb24").reformat(format="gbrp")
    graph = av.filter.Graph()
    graph.threads = 1
    feed = graph.add_buffer(width=WIDTH, height=HEIGHT, format="gbrp", time_base="1/24")
    chain = [
        ("split", ""), ("lutrgb", "r='if(gt(val,204),val,0)':g='if(gt(val,204),val,0)':b='if(gt(val,204),val,0)'"),
        ("gblur", "sigma=20:steps=3"), ("blend", "all_mode=addition:all_opacity=0.2"), ("format", lut_format),
        ("lut3d", f"file={cube}:interp=tetrahedral"), ("format", "gbrp"), ("vignette", ""), ("noise", "alls=6:allf=t"),
        ("format", "yuv420p"), ("buffersink", ""),
    ]  # fmt: skip
    nodes = [graph.add(name, arguments) for name, arguments in chain]
    feed.link_to(nodes[0])
    nodes[0].link_to(nodes[1], 0, 0)
    nodes[1].link_to(nodes[2])
    nodes[0].link_to(nodes[3], 1, 0)
    nodes[2].link_to(nodes[3], 0, 1)
    for a, b in itertools.pairwise(nodes[3:]):
        a.link_to(b)
    graph.configure()
    count = [0]

    def call() -> None:
        source.pts = count[0]
        count[0] += 1
        graph.push(source)
        graph.pull()

    return call


def peer_row(python: str) -> tuple[Callable[[], float], subprocess.Popen[str]]:
    process = subprocess.Popen([python, "-c", PEER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdin is not None
    assert process.stdout is not None

    def call() -> float:
        process.stdin.write("go\n")
        process.stdin.flush()
        return float(process.stdout.readline())

    return call, process


# -- on a GPU --------------------------------------------------------------------------------------------------------

GPU_BARS = {"roofline share": 0.6, "frames/s": 1000.0, "fusion": 3.0, "python bytes/frame": 1 << 20}
FLIGHT = 4
"""Frames in flight: as many inputs and outputs are used in turn."""


def launch_bytes(width: int, height: int, levels: int, code_bytes: float) -> dict[str, list[float]]:
    """Return the bytes that each launch of the fused look must read and write, every array once.

    ``bloom_first``, ``bloom_down``: the level above is read (the frame first), the level written. ``bloom_tail``: the
    last but two is read, the two smallest are written. ``bloom_up``: the smaller level is read, the larger one read and
    written. The last kernel: frame and first level are read, codes written. All is float32 in three planes but the
    codes.
    """
    sizes = [12.0 * width * height] + [12.0 * w * h for _, h, w in bloom.shapes(width, height, levels)]
    down = [sizes[k] + sizes[k + 1] for k in range(levels - 2)]
    up = [sizes[k + 1] + 2 * sizes[k] for k in range(levels - 2, 0, -1)]
    return {
        "bloom_first": down[:1],
        "bloom_down": down[1:],
        "bloom_tail": [sum(sizes[-3:])],
        "bloom_up": up,
        "shade_yuv": [sizes[0] + sizes[1] + code_bytes * width * height],
    }


class Look:
    """The look at 4K on a CUDA device, with inputs and outputs in turn."""

    def __init__(self, device: str, form: str) -> None:
        self.width, self.height = 3840, 2160
        self.graph = graph_of(device, self.width, self.height)
        self.plan, self.how = self.graph.plan(), coding(form)
        where = self.graph.device.torch
        first = self.plan.fetch(0)
        self.frames = [{k: (v * (1 + 0.01 * i)).to(where) for k, v in first.items()} for i in range(FLIGHT)]
        self.planes = [self.how.format.empty(self.width, self.height, where) for _ in range(FLIGHT)]
        for n in range(3 * FLIGHT):
            self.draw(n)
        torch.cuda.synchronize()

    def draw(self, n: int) -> None:
        self.plan.draw_yuv(n, self.frames[n % FLIGHT], self.how, self.planes[n % FLIGHT])

    def recording(self) -> Any:
        """Return the CUDA graph of one frame."""
        return next(f.graph for f in self.plan._replays._known.values() if f.graph is not None)

    def chain(self) -> tuple[list[Any], torch.Tensor, list[torch.Tensor]]:
        """Return the point-wise passes with what they read."""
        given = {id(self.plan._order[k]): frame for k, frame in self.frames[0].items()}
        values, last = self.plan._upstream(0, given)
        assert last is not None
        return self.plan._chain(last, 0, values)


def recorded(fn: Callable[[], object]) -> Callable[[], None]:
    """Return a function as a CUDA graph."""
    for _ in range(2):
        fn()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        fn()
    return graph.replay


def chains(look: Look) -> dict[str, Callable[[], None]]:
    """Return the point-wise passes to codes as one kernel, and as one kernel each."""
    ops, frame, extras = look.chain()
    how, planes = look.how, look.planes[0]
    apart = [[op] for op in ops] + [[]]
    lists = [shade.packed(ops), *(shade.packed(one) for one in apart)]
    given = Values(frame.device).fill(lists)
    assert given is not None
    store = [torch.empty(3, look.height, look.width, device=frame.device) for _ in range(2)]

    def one_by_one() -> None:
        x, used = frame, 0
        for k, op in enumerate(ops):
            extra = extras[used : used + len(op.extras)]
            used += len(op.extras)
            x = shade.apply(x, [op], extra, out=store[k % 2], values=given[k + 1])
        shade.encode(x, (), (), how, planes, values=given[-1])

    return {
        "points fused": recorded(lambda: shade.encode(frame, ops, extras, how, planes, values=given[0])),
        "points unfused": recorded(one_by_one),
    }


def profiled(look: Look, frames: int = 10) -> tuple[list[dict[str, Any]], dict[str, int]]:
    """Return the launches of one replayed frame with their GPU times, and what was copied in `frames` frames."""
    from torch.profiler import ProfilerActivity, profile

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with profile(activities=[ProfilerActivity.CUDA]) as seen:
            for n in range(frames):
                look.draw(n)
            torch.cuda.synchronize()
    events = [e for e in seen.events() if str(e.device_type).endswith("CUDA")]
    copies = {"host to device": 0, "device to host": 0}
    for e in events:
        copies["host to device"] += "HtoD" in e.name
        copies["device to host"] += "DtoH" in e.name
    kernels = sorted((e for e in events if "bloom" in e.name or "shade" in e.name), key=lambda e: e.time_range.start)
    each = len(kernels) // frames
    least = launch_bytes(look.width, look.height, 6, 1.5 * look.how.format.dtype.itemsize)
    wanted = [(name, b) for name, many in least.items() for b in many]
    rows = []
    for k, (name, b) in enumerate(wanted):
        assert name in kernels[k].name, f"launch {k} is {kernels[k].name}, not {name}"
        us = float(np.median([kernels[k + each * i].device_time for i in range(frames)]))
        rows.append({"kernel": name, "us": us, "MB": b / 1e6, "GB/s": b / us / 1e3})
    return rows, copies


def throughput(look: Look, frames: int, download: bool) -> float:
    """Return frames per second by the wall clock, the codes left on the device or brought to pinned host memory."""
    side = torch.cuda.Stream()
    host = [tuple(torch.empty(p.shape, dtype=p.dtype, pin_memory=True) for p in planes) for planes in look.planes]
    drawn = [torch.cuda.Event() for _ in range(FLIGHT)]
    left = [torch.cuda.Event() for _ in range(FLIGHT)]
    here = torch.cuda.current_stream()
    torch.cuda.synchronize()
    begin = time.perf_counter()
    for n in range(frames):
        k = n % FLIGHT
        if n >= FLIGHT:
            left[k].synchronize()  # the frame that used this slot is done: so many are in flight
        look.draw(n)
        drawn[k].record(here)
        if download:
            side.wait_event(drawn[k])
            with torch.cuda.stream(side):
                for to, plane in zip(host[k], look.planes[k], strict=True):
                    to.copy_(plane, non_blocking=True)
                left[k].record(side)
        else:
            left[k].record(here)
    torch.cuda.synchronize()
    return frames / (time.perf_counter() - begin)


def steady(look: Look, frames: int = 50) -> dict[str, float]:
    """Return what a frame costs beside kernels: pool requests, Python memory, host time."""
    pool = look.graph.device.pool
    before = pool.stats().requests
    tracemalloc.start()
    for n in range(frames):
        tracemalloc.reset_peak()
        look.draw(n)
    peak = float(tracemalloc.get_traced_memory()[1])
    tracemalloc.stop()
    torch.cuda.synchronize()
    begin = time.perf_counter()
    for n in range(frames):
        look.draw(n)
    host = (time.perf_counter() - begin) / frames
    torch.cuda.synchronize()
    return {"pool requests": pool.stats().requests - before, "python bytes/frame": peak, "host us/frame": 1e6 * host}


def on_gpu(device: str, runs: int, warmup: int) -> Result:
    samples, extras = {}, {"bars": GPU_BARS, "frames in flight": FLIGHT}
    copy = roofline(device).copy_gbps
    for form in ("nv12", "p010"):
        look = Look(device, form)
        name = f"look 4K {form}"
        samples[name] = measure(
            look.recording().replay, name=name, runs=runs, warmup=warmup, device=device, clock="cuda_events"
        )
        rows, copies = profiled(look)
        moved, median = 1e6 * sum(row["MB"] for row in rows), samples[name].median
        pixels, word = look.width * look.height, look.how.format.dtype.itemsize
        least = 24.0 * pixels + 1.5 * word * pixels  # whatever the kernels are: bloom needs all of a frame beforehand
        extras[form] = {
            "replay us": 1e6 * median,
            "launches": rows,
            "bytes": moved,
            "roofline share": moved / median / 1e9 / copy if copy else None,
            "roofline share, frame twice and codes alone": least / median / 1e9 / copy if copy else None,
            "frames/s": throughput(look, 400, False),
            "frames/s, codes brought to the host": throughput(look, 400, True),
            "steady state": steady(look) | {f"copies {k} in 10 frames": v for k, v in copies.items()},
            "recordings": look.plan._replays.recorded,
        }
        if form == "nv12":
            points = interleave(chains(look), runs=runs, warmup=warmup, device=device, clock="cuda_events")
            samples |= points
            extras["fusion of the point-wise chain"] = points["points unfused"].median / points["points fused"].median
        look.graph.close()
    extras["copy GB/s"] = copy
    kind = "h200" if "H200" in look.graph.device.name else look.graph.device.kind
    return Result(name=f"video_look_{kind}", samples=samples, extras=extras)


def run(*, runs: int = 15, warmup: int = 2, device: str = "cpu") -> Result:
    if device != "cpu":
        return on_gpu(device, runs, warmup)
    before = set_threads(1)
    peer = None
    try:
        with tempfile.TemporaryDirectory() as folder:
            rows = {name: timed(fn) for name, fn in elinvar_rows().items()}
            rows["ffmpeg, lut3d in float"] = timed(ffmpeg_row(Path(folder), "gbrpf32le"))
            rows["ffmpeg, lut3d in 8 bits"] = timed(ffmpeg_row(Path(folder), "gbrp"))
            python = os.environ.get("ELINVAR_PEER_PYTHON")
            if python:
                rows["moviepy + cv2"], peer = peer_row(python)
            samples = interleave(rows, runs=runs, warmup=warmup, timer=Told())
    finally:
        set_threads(before)
        if peer is not None:
            peer.stdin.close()
            peer.wait(10)
    medians = {name: 1e3 * s.median for name, s in samples.items()}
    least = {name: 1e3 * s.min for name, s in samples.items()}
    ours = medians["elinvar"]
    ratios = {
        "to ffmpeg with float lut3d": ours / medians["ffmpeg, lut3d in float"],
        "to ffmpeg with 8-bit lut3d": ours / medians["ffmpeg, lut3d in 8 bits"],
        "fusion of the point-wise chain": medians["elinvar, points unfused"] / medians["elinvar, points fused"],
        "fusion of the whole look": medians["elinvar, unfused"] / ours,
    }
    if "moviepy + cv2" in medians:
        ratios["to moviepy + cv2"] = ours / medians["moviepy + cv2"]
    return Result(
        name="video_look",
        samples=samples,
        extras={"core-ms": medians, "least core-ms": least, "ratios": ratios, "bars": BARS},
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--runs", type=int, default=15)
    options = parser.parse_args()
    result = run(runs=options.runs, device=options.device)
    folder = Path(__file__).parent / "results"
    result.write(folder / f"{result.name}.json")
    print(json.dumps(result.extras, indent=1))
