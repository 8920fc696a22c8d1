"""RGB to codes and ACES output at 1080p on one core, beside swscale and OpenColorIO.

Rows
----
elinvar nv12, p010, ...
    ``color.to_yuv`` of float32 planes into planes that are given: exact codes, left-sited chroma. Six frames in turn,
    150 MB, so that each comes from memory.
elinvar nv12, frame just written
    The same behind a copy into the frame, as when it was just rendered: what the last cache holds of it is there.
reading the frame
    The sum of each frame's 25 MB, in the same turn: what memory alone asks of a conversion.
swscale ...
    PyAV's reformat of 8-bit RGB to NV12 and of gbrpf32 to P010; the latter's codes are wrong (white 943).
aces exact, fast
    ``color.transform(frame, "acescg", "aces1.3-sdr")``: OpenColorIO lossless, and the 97³ table over ACEScct.

CPU time of the process, one thread.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from video_look import Told, timed

from elinvar.bench import Result, interleave
from elinvar.runtime.parallel import set_threads
from elinvar.video import color, decode
from elinvar.video.yuv import coding

WIDTH, HEIGHT = 1920, 1080
FRAMES = 6
BARS = {
    "convert core-ms": 1.0,
    "fast over exact": 10.0,
    "fast mean dE": 0.1,
    "fast max dE": 0.8,
    "exact max error": 1e-4,
}


class Prepared:
    """A function that is timed behind another one, which takes no part in its time."""

    def __init__(self, before: Callable[[], object], fn: Callable[[], object]) -> None:
        self.before, self.timed = before, timed(fn)

    def __call__(self) -> float:
        self.before()
        return self.timed()


def in_turn(fn: Callable[[int], object]) -> Callable[[], float]:
    """Return the median of a function's times, called for every frame in turn."""
    each = [timed(lambda k=k: fn(k)) for k in range(FRAMES)]
    return lambda: float(np.median([one() for one in each]))


def conversions(frame: torch.Tensor) -> dict[str, Callable[[], float]]:
    found: dict[str, Callable[[], float]] = {}
    frames = [frame.clone() for _ in range(FRAMES)]
    for form, dither in (
        ("nv12", False),
        ("p010", False),
        ("yuv420p", False),
        ("yuv444p10", False),
        ("nv12", True),
    ):
        planes = [coding(form).format.empty(WIDTH, HEIGHT) for _ in range(FRAMES)]
        found[f"elinvar {form}{' dithered' if dither else ''}"] = in_turn(
            lambda k, f=form, p=planes, d=dither: color.to_yuv(frames[k], f, dither=d, out=p[k])
        )
    one = coding("nv12").format.empty(WIDTH, HEIGHT)
    found["elinvar nv12, frame just written"] = Prepared(
        lambda: frames[0].copy_(frame), lambda: color.to_yuv(frames[0], "nv12", out=one)
    )
    found["reading the frame"] = in_turn(lambda k: frames[k].sum())
    return found


def rows(frame: torch.Tensor) -> dict[str, Callable[[], float]]:
    import av

    found: dict[str, Callable[[], object]] = {}
    how = coding("nv12")
    codes, back = color.to_yuv(frame, "nv12"), torch.empty_like(frame)
    found["elinvar nv12 to RGB"] = lambda: decode.from_planes(codes, how, back)
    pixels = (frame.clamp(0, 1) * 255).byte().movedim(0, -1).contiguous().numpy()
    eight = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), "rgb24")
    wide = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame.movedim(0, -1).numpy()), "gbrpf32le")
    for name, source, target in (("rgb24 to nv12", eight, "nv12"), ("gbrpf32 to p010", wide, "p010le")):
        found[f"swscale {name}"] = lambda s=source, f=target: s.reformat(format=f)
    found["aces exact"] = lambda: color.transform(frame, "acescg", "aces1.3-sdr")
    found["aces fast"] = lambda: color.transform(frame, "acescg", "aces1.3-sdr", "fast")
    return conversions(frame) | {name: timed(fn) for name, fn in found.items()}


def accuracy() -> dict[str, float]:
    make = torch.Generator().manual_seed(3)
    scene = torch.exp2(torch.rand(3, 200, 300, generator=make) * 10 - 7)
    exact, fast, fit = (
        color.transform(scene, "acescg", view, mode)
        for view, mode in (("aces1.3-sdr", "exact"), ("aces1.3-sdr", "fast"), ("aces-fit", "fast"))
    )
    near, far = color.delta_e(exact, fast, "rec709"), color.delta_e(exact, fit, "rec709")
    return {
        "fast mean dE": float(near.mean()),
        "fast max dE": float(near.max()),
        "fit mean dE": float(far.mean()),
        "fit max dE": float(far.max()),
    }


def run(*, runs: int = 15, warmup: int = 2) -> Result:
    make = torch.Generator().manual_seed(0)
    frame = torch.rand(3, HEIGHT, WIDTH, generator=make)
    before, wide = set_threads(1), torch.get_num_threads()
    torch.set_num_threads(1)  # its threads spin after a copy, and their time would count
    try:
        samples = interleave(rows(frame), runs=runs, warmup=warmup, timer=Told())
    finally:
        set_threads(before)
        torch.set_num_threads(wide)
    medians = {name: 1e3 * s.median for name, s in samples.items()}
    ratios = {
        "fast over exact": medians["aces exact"] / medians["aces fast"],
        "nv12 to reading the frame": medians["elinvar nv12"] / medians["reading the frame"],
        "p010 to reading the frame": medians["elinvar p010"] / medians["reading the frame"],
        "nv12 over swscale": medians["swscale rgb24 to nv12"] / medians["elinvar nv12"],
        "p010 over swscale": medians["swscale gbrpf32 to p010"] / medians["elinvar p010"],
    }
    least = {name: 1e3 * s.min for name, s in samples.items()}
    extras = {"core-ms": medians, "least core-ms": least, "ratios": ratios, "accuracy": accuracy(), "bars": BARS}
    return Result(name="video_convert", samples=samples, extras=extras)


if __name__ == "__main__":
    result = run()
    result.write(Path(__file__).parent / "results" / "video_convert.json")
    print(json.dumps(result.extras, indent=1))
