"""RGB to codes and ACES output at 1080p on one core, beside swscale and OpenColorIO.

Rows
----
elinvar nv12, p010, ...
    ``color.to_yuv`` of float32 planes: exact codes, left-sited chroma.
reading the frame
    The sum of its 25 MB: what memory alone asks of a conversion.
swscale ...
    PyAV's reformat of 8-bit RGB to NV12 and of gbrpf32 to P010; the latter's codes are wrong (white 943).
aces exact, fast
    ``color.transform(frame, "acescg", "aces1.3-sdr")``: OpenColorIO lossless, and the 97³ table over ACEScct.

CPU time of the process, one thread.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from elinvar.bench import Result, interleave
from elinvar.runtime.parallel import set_threads
from elinvar.video import color, decode
from elinvar.video.yuv import coding

WIDTH, HEIGHT = 1920, 1080
BARS = {
    "convert core-ms": 1.0,
    "fast over exact": 10.0,
    "fast mean dE": 0.1,
    "fast max dE": 0.8,
    "exact max error": 1e-4,
}


def rows(frame: torch.Tensor) -> dict[str, Any]:
    import av

    found: dict[str, Any] = {}
    for pixels_as, dither in (
        ("nv12", False),
        ("p010", False),
        ("yuv420p", False),
        ("yuv444p10", False),
        ("nv12", True),
    ):
        how = coding(pixels_as)
        planes = how.format.empty(WIDTH, HEIGHT)
        name = f"elinvar {pixels_as}{' dithered' if dither else ''}"
        found[name] = lambda f=pixels_as, p=planes, d=dither: color.to_yuv(frame, f, dither=d, out=p)
    found["reading the frame"] = frame.sum
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
    return found


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
        samples = interleave(rows(frame), runs=runs, warmup=warmup, clock="process_cpu")
    finally:
        set_threads(before)
        torch.set_num_threads(wide)
    medians = {name: 1e3 * s.median for name, s in samples.items()}
    ratios = {
        "fast over exact": medians["aces exact"] / medians["aces fast"],
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
