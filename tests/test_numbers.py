"""Numbers on the README and in the guides are those of the committed results.

A claim is a phrase with its numbers in round brackets, and where each stands in ``benchmarks/results``. A number may
differ by one unit of its last digit or by a tenth: what is printed is rounded, and a result that was measured again
within its noise need not change a sentence. A phrase that is gone is a skip that says so: the claim here is due.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from elinvar.bench import Result, compare

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
SLACK = 0.1
Number = Callable[[], float]


@cache
def _result(name: str) -> Any:
    return json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))


def at(name: str, *path: str | int, times: float = 1.0) -> Number:
    """Say what stands in a result at a path of keys."""

    def value() -> float:
        found = _result(name)
        for key in path:
            found = found[key]
        return times * float(found)

    return value


def median(name: str, sample: str, times: float = 1.0) -> Number:
    """Say the median of a sample."""
    return at(name, "samples", sample, "statistics", "median", times=times)


def over(above: Number, below: Number) -> Number:
    """Say the ratio of two."""
    return lambda: above() / below()


def named(name: str, rows: str, row: str, *path: str | int, times: float = 1.0) -> Number:
    """Say what stands in the first row of a list whose name begins so."""

    def value() -> float:
        found = next(each for each in _result(name)[rows] if each["name"].startswith(row))
        for key in path:
            found = found[key]
        return times * float(found)

    return value


PYLOPS = ("seismic_vs_pylops", "extras", "per contribution")
PHYSICS = ("seismic_physics", "extras")
GPU_PHYSICS = ("seismic_physics_h200", "extras")
FASTER = ("audio_spectral", "extras", "times as fast as")
FILTERS = ("audio_filters", "extras", "times as fast as")
STREAM = ("audio_streaming", "extras", "10 s, 64")
TRACK = ("audio_htdemucs_h200", "precisions")
BEST = "v2 Tuning(simdgroups=4, samples=2, pairs=True, tolerance=0.0004, window=2048"
PAIR = ("vision_pair", "extras", "ratios")
ROOMS = ("vision_training", "extras", "rooms")
PHOTOGRAPHS = ("vision_training", "extras", "motorcycle")
POINTS = "median relative point error, % (bar 5)"
LOOK = ("video_look", "extras")
CONVERT = ("video_convert", "extras", "core-ms")
LINEAR = ("tensor_h200", "linear+bias+relu float16")
AFFINE = ("tensor_h200", "affine+relu float16")
LAUNCH = ("gpu_check_h200", "launch_us")


def _less(size: int, than: str) -> Number:
    """Say how much less time the fused layer takes, percent, by pairs of rounds as the benchmark's verdict has it."""

    def value() -> float:
        samples = Result.read(RESULTS / "tensor.json").samples
        return 100 * (1 - compare(samples[f"linear {size}: {than}"], samples[f"linear {size}: fused"]).ratio)

    return value


def _of_copy(what: str, who: str) -> Number:
    return at(*AFFINE, what, "of a copy's bandwidth", who, times=100)


CLAIMS: list[tuple[str, str, list[Number]]] = [
    (
        "README.md",
        r"(\S+) times pylops in float32, (\S+) times its faster float64, at (\S+) of float64",
        [
            at(*PYLOPS, "elinvar v2", "pylops kinematic"),
            at(*PYLOPS, "elinvar v2", "pylops kinematic, float64"),
            at("seismic_vs_pylops", "extras", "rows", "elinvar v2", "relative_l2"),
        ],
    ),
    ("README.md", r"AVX2 only \| (\S+) times pylops", [at(*PYLOPS, "elinvar v2 (AVX2)", "pylops kinematic (AVX2)")]),
    (
        "README.md",
        r"(\S+) and (\S+) of the straight rate; (\S+), (\S+) and (\S+) times pylops",
        [
            at(*PHYSICS, "of straight", "curved"),
            at(*PHYSICS, "of straight", "vti"),
            at(*PHYSICS, "over pylops", "pylops kinematic", "cubic"),
            at(*PHYSICS, "over pylops", "pylops kinematic", "sinc8"),
            at(*PHYSICS, "over pylops", "pylops kinematic", "anti-alias bank"),
        ],
    ),
    (
        "README.md",
        r"(\S+) T contributions/s at (\S+) of float64; curved rays (\S+), VTI (\S+) of .* bank (\S+) T",
        [
            named("seismic_h200", "timings", BEST, "rate_tera"),
            named("seismic_h200", "checks", BEST, "relative_l2"),
            at(*GPU_PHYSICS, "of straight", "curved"),
            at(*GPU_PHYSICS, "of straight", "vti"),
            at(*GPU_PHYSICS, "contributions per second", "anti-alias bank", times=1e-12),
        ],
    ),
    (
        "README.md",
        r"(\S+) s, (\S+) % of it in the kernel; on four GPUs (\S+) s, (\S+) times as fast",
        [
            at("seismic_job_large_h200", "seconds", "whole job"),
            at("seismic_job_large_h200", "kernel_share", times=100),
            at("seismic_scaling_4xh200", "seconds", "4"),
            at("seismic_scaling_4xh200", "speedup", "4"),
        ],
    ),
    (
        "README.md",
        r"(\S+) µs a block, no added latency, no allocation; pedalboard (\S+) µs",
        [at(*STREAM, "elinvar, 10 s, 64", "mean_us"), at(*STREAM, "pedalboard, 10 s, 64", "mean_us")],
    ),
    (
        "README.md",
        r"(\S+) and (\S+) times librosa; (\S+) to (\S+) times sosfilt; (\S+) times oaconvolve",
        [
            at(*FASTER, "STFT", "librosa"),
            at(*FASTER, "ISTFT", "librosa"),
            at(*FILTERS, "4 biquads, stereo, 1024", "sosfilt"),
            at(*FILTERS, "4 biquads, stereo, 64", "sosfilt"),
            at(*FILTERS, "convolution, 60 s by 10 s", "oaconvolve"),
        ],
    ),
    (
        "README.md",
        r"(\S+) of the reference; (\S+) times the `demucs` package in float32, (\S+) times in bfloat16",
        [
            at("audio_htdemucs", "extras", "relative rms to demucs, float32"),
            at("audio_htdemucs", "extras", "ratios", "float32: demucs / elinvar"),
            at("audio_htdemucs", "extras", "ratios", "bfloat16: demucs / elinvar"),
        ],
    ),
    (
        "README.md",
        r"(\S+) times real time in float32, (\S+ \S+) in bfloat16, (\S+ \S+) in float16",
        [at(*TRACK, kind, "x real time") for kind in ("fp32", "bf16", "fp16")],
    ),
    (
        "README.md",
        r"(\S+) times the same network in plain PyTorch; (\S+) times in exact float32",
        [at(*PAIR, "default over plain (bar 3.1)"), at(*PAIR, "fp32 over plain (bar 1.7)")],
    ),
    (
        "README.md",
        r"(\S+) ms a pair, (\S+) in batches of 8, (\S+) in a sequence of ten",
        [
            median("vision_pair_h200", "engine", 1e3),
            at("vision_pair_h200", "extras", "facts", "batch", "milliseconds per pair"),
            at("vision_pair_h200", "extras", "facts", "sequence", "milliseconds per pair", "sequence, 10 images"),
        ],
    ),
    (
        "README.md",
        r"(\S+) times brute force by rows, the same matches",
        [
            over(
                median("vision_match", "brute force by rows, seeds 8 apart"),
                median("vision_match", "elinvar, seeds 8 apart"),
            )
        ],
    ),
    (
        "README.md",
        r"every pixel, exact and mutual \| (\S+) ms; (\S+) ms",
        [
            median("vision_match_h200", "elinvar, seeds 8 apart", 1e3),
            median("vision_match_h200", "elinvar, every pixel", 1e3),
        ],
    ),
    (
        "README.md",
        r"(\S+) core-ms: (\S+) of ffmpeg's filters, (\S+) of moviepy",
        [
            at(*LOOK, "core-ms", "elinvar"),
            at(*LOOK, "ratios", "to ffmpeg with float lut3d"),
            at(*LOOK, "ratios", "to moviepy + cv2"),
        ],
    ),
    (
        "README.md",
        r"(\S+); (\S+) core-ms \(reading it takes (\S+); swscale, from 8 bits, (\S+)\)",
        [
            at(*CONVERT, "elinvar nv12, frame just written"),
            at(*CONVERT, "elinvar nv12"),
            at(*CONVERT, "reading the frame"),
            at(*CONVERT, "swscale rgb24 to nv12"),
        ],
    ),
    ("README.md", r"(\S+ \S+) frames/s, without an encoder", [at("video_look_h200", "extras", "nv12", "frames/s")]),
    (
        "README.md",
        r"(\S+) times torch's `out=` chain, (\S+) times eager under",
        [
            over(
                median("tensor", "affine+relu 16M: unfused, pooled"), median("tensor", "affine+relu 16M: fused, pooled")
            ),
            over(
                median("tensor", "affine+relu 16M under keep_pages(): unfused, allocating"),
                median("tensor", "affine+relu 16M under keep_pages(): fused, pooled"),
            ),
        ],
    ),
    (
        "README.md",
        r"(\S+) % of a copy's bandwidth, (\S+) % with values per channel \(torch.compile (\S+) and (\S+) %\)",
        [
            _of_copy(what, who)
            for who in ("elinvar", "torch.compile")
            for what in ("full-size scale and bias", "scale and bias per channel")
        ],
    ),
    (
        "README.md",
        r"(\S+) to (\S+) % (?:faster|less time) than three torch operations",
        [_less(64, "unfused, allocating"), _less(256, "unfused, allocating")],
    ),
    (
        "README.md",
        r"(\S+) times as fast on the device, (\S+) times by the clock",
        [at(*LINEAR, "256", "device, three ops / elinvar"), at(*LINEAR, "256", "wall, three ops / elinvar")],
    ),
    (
        "README.md",
        r"(\S+) µs; torch's own (\S+)",
        [at(*LAUNCH, "metal asynchronous"), at(*LAUNCH, "torch asynchronous")],
    ),
    ("README.md", r"(\S+) times the time of `torch.empty`", [at("pool", "extras", "ratios", "lease / torch.empty")]),
    (
        "README.md",
        r"(\S+) times as fast as allocating; (\S+) times with `keep_pages\(\)`",
        [
            at("pool", "extras", "ratios", "allocating / pool"),
            at("pool", "extras", "ratios", "allocating / pool, both under keep_pages()"),
        ],
    ),
    (
        "README.md",
        r"(\S+) ms \(one after the other: (\S+) ms\)",
        [median("pipeline", "two 10 ms stages, in_flight=2", 1e3), median("pipeline", "plain loop", 1e3)],
    ),
    (
        "docs/audio.md",
        r"1/(\S+) of the CPU in turns, 1/(\S+) one after the other",
        [at(*STREAM, "times_less_cpu_interleaved"), at(*STREAM, "times_less_cpu")],
    ),
    (
        "docs/audio.md",
        r"librosa \| (\S+) and (\S+) times",
        [at(*FASTER, "STFT", "librosa"), at(*FASTER, "ISTFT", "librosa")],
    ),
    (
        "docs/fuse.md",
        r"takes (\S+) µs in float32 and (\S+) µs in float16,\n`torch.compile`'s (\S+) and (\S+) ",
        [
            at("tensor_h200", "fuse, six operations", kind, who)
            for who in ("elinvar", "torch.compile")
            for kind in ("float32", "float16")
        ],
    ),
    *[
        (
            "docs/tensor.md",
            rf"{size}×{size} \| (\S+) % less(?: time)? \| (\S+) % less",
            [_less(size, "unfused, allocating"), _less(size, "unfused, pooled")],
        )
        for size in (64, 128, 256)
    ],
    (
        "docs/seismic.md",
        r"one exact travel time after the other \| 1 \((\S+) M/s\) \| 1 \((\S+) M/s\) \| 1 \((\S+) M/s\)",
        [
            at("seismic_versions", "samples", f"medium {rays} baseline", "statistics", "rate", times=1e-6)
            for rays in ("straight", "curved", "vti")
        ],
    ),
    *[
        (
            "docs/seismic.md",
            rf"{words} \| (\S+) \| (\S+) \| (\S+) \| \d",
            [
                at("seismic_versions", "extras", "over baseline, per contribution", f"medium {rays}", version)
                for rays in ("straight", "curved", "vti")
            ],
        )
        for version, words in (
            ("v1", "filtered meanwhile"),
            ("v2", r"along time \(GPU\)"),
            ("v3", "anti-alias banks as v2"),
        )
    ],
    (
        "docs/vision.md",
        r"\| 26.7 s \(21.8 s with torch's fused attention\) \| (\S+) s \| \*\*(\S+)x\*\* \((\S+)x\)",
        [
            median("vision_pair", "engine"),
            at(*PAIR, "default over plain (bar 3.1)"),
            at(*PAIR, "default over plain with sdpa"),
        ],
    ),
    (
        "docs/video.md",
        r"frames from memory \| (\S+), (\S+), (\S+); NV12 of a frame just written (\S+) \|",
        [at(*CONVERT, f"elinvar {kind}") for kind in ("nv12", "p010", "yuv444p10", "nv12, frame just written")],
    ),
    (
        "docs/video.md",
        r"draws (\S+) 4K frames per second into NV12 on the host, (\S+) into memory for NVENC \((\S+) from float32",
        [
            at("video_upload_h200", "extras", "exports", row, "frames/s")
            for row in ("codes to nv12 on the host", "codes to nv12 for NVENC", "float32 to nv12 on the host")
        ],
    ),
    (
        "docs/video.md",
        r"The conversion takes (\S+) µs, a (\S+)th of torch's time; the codes' way up (\S+) µs",
        [
            at("video_upload_h200", "extras", "us", "decode nv12"),
            at("video_upload_h200", "extras", "times as fast as torch", "nv12"),
            at("video_upload_h200", "extras", "us", "codes up"),
        ],
    ),
    (
        "docs/video.md",
        r"fast mode \| (\S+) \| by OpenColorIO (\S+) \|",
        [at(*CONVERT, "aces fast"), at(*CONVERT, "aces exact")],
    ),
    ("docs/metal.md", r"a launch takes (\S+) µs", [at(*LAUNCH, "metal asynchronous")]),
    (
        "docs/metal.md",
        r"reaches (\S+) GB/s on an H200, as\n`Tensor.copy_` does, `half4` (\S+) and `float` (\S+),",
        [at("gpu_check_h200", "bandwidth_gbps", f"metal {kind}") for kind in ("float4", "half4 affine", "float")],
    ),
    ("CHANGELOG.md", r"ViT-L pair of 512 x 384 takes (\S+) ms", [median("vision_pair_h200", "engine", 1e3)]),
    ("CHANGELOG.md", r"points within (\S+) % in the median", [at(*ROOMS, POINTS)]),
    (
        "docs/vision.md",
        r"relative error \| \*\*(\S+) %\*\* .*half of the rooms (\S+) to (\S+) %, mean (\S+) %, .* above (\S+) %",
        [
            at(*ROOMS, POINTS),
            *(at(*ROOMS, "point error, quarter and three quarters of pairs, %", k) for k in (0, 1)),
            *(at(*ROOMS, "point error, mean and worst tenth of pairs, %", k) for k in (0, 1)),
        ],
    ),
    (
        "docs/vision.md",
        r"upright pictures \(64 rooms each\) \| (\S+) %; (\S+) %",
        [at(*ROOMS[:2], "rooms, in that precision", POINTS), at(*ROOMS[:2], "rooms, upright", POINTS)],
    ),
    ("docs/vision.md", r"focal length from the points \| (\S+) %", [at(*ROOMS, "focal error, %")]),
    (
        "docs/vision.md",
        r"seeds 8 apart \| (\S+) % / (\S+) % of (\S+) \|",
        [
            at(*ROOMS, "matches within 2 px", times=100),
            at(*ROOMS, "matches within 5 px", times=100),
            at(*ROOMS, "matches per pair"),
        ],
    ),
    (
        "docs/vision.md",
        r"points, depth: median relative error \| (\S+) %, (\S+) %",
        [at(*PHOTOGRAPHS, "median relative point error, %"), at(*PHOTOGRAPHS, "median relative depth error, %")],
    ),
    ("docs/vision.md", r"focal length \| (\S+) px \(true: 995\)", [at(*PHOTOGRAPHS, "focal, px")]),
    (
        "docs/vision.md",
        r"of the photograph \| (\S+) % / (\S+) % of",
        [
            at(*PHOTOGRAPHS, "matches within 3 px of the photograph", times=100),
            at(*PHOTOGRAPHS, "matches within 10 px of the photograph", times=100),
        ],
    ),
]


def _value(text: str) -> tuple[float, float]:
    """Read a printed number, and one unit of its last digit."""
    digits = text.strip("*(),;").replace(" ", "").replace(",", "")
    mantissa, _, exponent = digits.partition("e")
    unit = 10.0 ** (int(exponent or 0) - len(mantissa.partition(".")[2]))
    return float(digits), unit


@pytest.mark.parametrize(("page", "phrase", "numbers"), CLAIMS, ids=[f"{c[0]}: {c[1][:40]}" for c in CLAIMS])
def test_a_claim_is_what_was_measured(page: str, phrase: str, numbers: list[Number]) -> None:
    found = re.search(phrase, (ROOT / page).read_text(encoding="utf-8"))
    if found is None:
        pytest.skip(f"{page} no longer says {phrase!r}: bring the claim up to date")
    assert len(found.groups()) == len(numbers)
    for text, number in zip(found.groups(), numbers, strict=True):
        said, unit = _value(text)
        measured = number()
        assert abs(said - measured) <= max(unit, SLACK * measured), f"{page} says {text}, the result {measured:.4g}"


def test_every_result_that_the_readme_names_is_there() -> None:
    rows = re.findall(r"^\|.*\| ([^|]*) \|$", (ROOT / "README.md").read_text(encoding="utf-8"), flags=re.MULTILINE)
    names = {name for row in rows for name in re.findall(r"`(\w+)`", row) if "," in row}
    assert len(names) > 15
    assert {name for name in names if not (RESULTS / f"{name}.json").exists()} == set()
