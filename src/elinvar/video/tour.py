"""The video part of ``elinvar tour``: a clip graded and exported, beside what a usual script writes, with scopes."""

from __future__ import annotations

import tempfile
import time
import warnings
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from elinvar.video import color, looks, passes, sources
from elinvar.video._check import optional_library
from elinvar.video.exporting import export
from elinvar.video.graph import Graph
from elinvar.video.media import VideoFile
from elinvar.video.probing import ColorWarning, probe
from elinvar.video.scopes import picture, vectorscope, waveform
from elinvar.video.yuv import coding

if TYPE_CHECKING:
    from elinvar.report import Page

__all__ = ["tour"]

_RATE = Fraction(24000, 1001)


def _scene(width: int, height: int, frames: int) -> sources.Generator:
    """Lights drifting in front of a dusk: something to bloom, in linear light."""
    stars = sources.starfield(width, height, stars=60, seed=4)

    def make(n: int, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        sky = torch.exp(-2.5 * (1 - y / height)) * (0.8 + 0.2 * torch.cos(3 * x / width + 0.05 * n))
        glow = torch.stack([0.55 * sky, 0.22 * sky, 0.12 * sky + 0.04])
        sun = 6.0 * torch.exp(
            -(((x - (0.44 + 0.004 * n) * width) ** 2 + (y - 0.62 * height) ** 2) / (0.0012 * width**2))
        )
        return glow + stars.frame(4 * n) + sun * torch.tensor([1.0, 0.7, 0.4])[:, None, None]

    return sources.Generator(make, width, height, _RATE, frames, "acescg")


def _graded(source: Any) -> Graph:
    graph = Graph("cpu")
    graph.source(source)
    graph.add(passes.Grade(exposure=0.3))
    graph.add(looks.look("classicFilm"))
    graph.add(passes.Anamorphic(0.25))
    return graph.output("aces-fit")


def _naive(source: sources.Source, path: Path) -> None:
    """Write a file the way most scripts do: 8-bit RGB into FFmpeg's own conversion, no tags."""
    av = optional_library("av", "tour")
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=source.frame_rate)
        stream.width, stream.height, stream.pix_fmt = source.width, source.height, "yuv420p"
        for n in range(source.frame_count or 0):
            pixels = (source.frame(n).clamp(0, 1) * 255).round().byte().movedim(0, -1).contiguous().numpy()
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode(None))


def _chart_error(path: Path, chart: sources.Generator, told: dict[str, Any]) -> tuple[float, float]:
    """Mean and largest dE2000 over the chart of a file as a player shows it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ColorWarning)
        file = VideoFile(path, **told)
    seen = color.transform(file.frame(1), file.space, "srgb")
    inner = torch.nn.functional.avg_pool2d
    difference = color.delta_e(inner(seen[None], 16)[0], inner(chart.frame(0)[None], 16)[0], "srgb")
    return float(difference.median()), float(difference.quantile(0.95))


def tour(page: Page, context: Any) -> None:
    """Add the video engine's sections to the tour's page."""
    width, height, frames = (320, 180, 12) if context.quick else (640, 360, 36)
    scene = _scene(width, height, frames)
    graph = _graded(scene)
    how = coding("nv12", dither=True)
    with context.jit("the look as one kernel"):
        graph.render_yuv(0, how)
        graph.render(0)
    page.section(
        "Video",
        "A clip in linear light gets a film look, an ACES tone curve and grain, and is exported with its colours "
        "tagged.",
    )
    with tempfile.TemporaryDirectory() as folder:
        plain_path, graded_path = Path(folder) / "plain.mp4", Path(folder) / "graded.mp4"
        plain = Graph("cpu")
        plain.source(scene)
        plain.output("rec709")
        with (
            context.stage("exporting", frames=frames),
            context.progress("exporting", total=frames, unit="frames") as report,
        ):
            done = export(graph, graded_path, quality=0.75, speed="veryfast", progress=report)
        export(plain, plain_path, quality=0.75, speed="veryfast")
        with page.row():
            page.video(plain_path, "The source, converted without a tone curve: lights clip.")
            page.video(
                graded_path, f"Graded: {done.encoder} {done.format}, {done.frame_rate} frames/s, tagged {done.space}."
            )
    _pictures(page, plain, graph, frames // 2)
    _rates(page, context, graph)
    _colours(page, context)


def _pictures(page: Page, plain: Graph, graph: Graph, n: int) -> None:
    before, after = plain.render(n), graph.render(n)
    middle = before.shape[2] // 2
    wipe = torch.cat([before[:, :, :middle], after[:, :, middle:]], 2)
    page.image(_bytes(wipe), caption="One frame: the source on the left, graded on the right.", alt="a wipe")
    with page.row():
        for name, frame in (("source", before), ("graded", after)):
            wave = picture(waveform(frame, 320, 160).flip(0))
            page.image(_bytes(wave), caption=f"Waveform of the {name} frame.", alt=f"waveform, {name}")
        vector = picture(vectorscope(after, 160), (0.9, 0.9, 1.0))
        page.image(_bytes(vector), caption="Vectorscope, graded.", alt="vectorscope")


def _bytes(frame: torch.Tensor) -> np.ndarray[Any, Any]:
    pixels: np.ndarray[Any, Any] = (frame.clamp(0, 1) * 255 + 0.5).byte().movedim(0, -1).contiguous().numpy()
    return pixels


def _rates(page: Page, context: Any, graph: Graph) -> None:
    """Core-milliseconds per frame of the graph, and its steps."""
    plan, how = graph.plan(), coding("nv12", dither=True)
    planes = how.format.empty(plan.width, plan.height)
    fetched = plan.fetch(0)
    with context.stage("timing"):
        spent = []
        for n in range(8):
            begin = time.process_time()
            plan.draw_yuv(n, fetched, how, planes)
            spent.append(1e3 * (time.process_time() - begin))
    page.text(
        f"Look and conversion to NV12: **{sorted(spent)[4]:.1f} core-ms** per {plan.width} x {plan.height} frame. "
        f"What is done:"
    )
    page.html("<pre>" + plan.explain().replace("<", "&lt;") + "</pre>")


def _colours(page: Page, context: Any) -> None:
    """A colour chart written by us and by the usual script, as a player shows it."""
    chart = sources.color_checker(1280, 720, frame_rate=_RATE, frame_count=4)
    with tempfile.TemporaryDirectory() as folder, context.stage("colour chart"):
        ours, usual = Path(folder) / "ours.mp4", Path(folder) / "usual.mp4"
        export(chart, ours, speed="veryfast")
        _naive(chart, usual)
        rows = []
        for name, path, told in (
            ("elinvar", ours, {}),
            # What a player takes an untagged file of this size to be.
            ("8-bit RGB through FFmpeg's default, untagged", usual, {"space": "srgb", "matrix": "bt709"}),
        ):
            median, most = _chart_error(path, chart, told)
            info = probe(path, warn=False)
            rows.append(
                {
                    "written by": name,
                    "dE2000, median": f"{median:.2f}",
                    "dE2000, 95 %": f"{most:.2f}",
                    "tags": "complete" if not info.assumed else f"no {', '.join(info.assumed)}",
                    "rate": str(info.frame_rate),
                }
            )
    page.table(rows, caption="A ColorChecker at 720 lines, decoded again as a player would.")
