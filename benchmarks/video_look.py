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
With ``--device cuda``: one 4K frame by CUDA events, and the share of the bytes' roofline.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from elinvar.bench import Result, interleave, measure, roofline
from elinvar.runtime.parallel import set_threads
from elinvar.video import ocio, passes, shade, sources
from elinvar.video.graph import Graph
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
    values, last = plan._upstream(0, fetched)
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
        plan._upstream(0, fetched)
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


def on_gpu(device: str, runs: int, warmup: int) -> Result:
    width, height = 3840, 2160
    graph = graph_of(device, width, height)
    plan, how = graph.plan(), coding("nv12")
    planes = how.format.empty(width, height, graph.device.torch)
    fetched = {k: v.to(graph.device.torch) for k, v in plan.fetch(0).items()}

    def call() -> None:
        plan.draw_yuv(0, fetched, how, planes)

    clock = "cuda_events" if graph.device.kind == "cuda" else "wall"
    samples = {"look 4K": measure(call, name="look 4K", runs=runs, warmup=warmup, device=device, clock=clock)}
    # Least bytes: the frame read twice, the pyramid written and read, the half-resolution bloom read, NV12 written.
    pixels = width * height
    moved = 12 * pixels * 2 + 12 * pixels / 4 * (4 / 3) * 3 + 12 * pixels / 4 + 1.5 * pixels
    copy = roofline(device).copy_gbps
    share = moved / samples["look 4K"].median / 1e9 / copy if copy else None
    return Result(
        name="video_look_gpu",
        samples=samples,
        extras={"bytes": moved, "roofline share": share, "frames/s": 1 / samples["look 4K"].median},
    )


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
