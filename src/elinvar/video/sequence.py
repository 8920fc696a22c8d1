"""Export to a folder of OpenEXR files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from elinvar.errors import Cancelled, InputError
from elinvar.runtime.files import atomic_directory
from elinvar.runtime.pipeline import Pipeline, Stage
from elinvar.runtime.pressure import Monitor
from elinvar.runtime.transfers import to_host
from elinvar.video.adaptive import Limits, giving_way
from elinvar.video.exr import write_exr
from elinvar.video.graph import Graph
from elinvar.video.spaces import SPACES

__all__ = ["write_sequence"]


def write_sequence(
    graph: Graph,
    folder: Path,
    start: int,
    frames: int | None,
    in_flight: int,
    progress: Callable[[int, int | None], object] | None,
    cancel: Callable[[], bool] | None,
    size: tuple[int, int] | None,
    monitor: Monitor | None = None,
    fit: str = "fit",
) -> Any:
    """Write ``frame.000000.exr`` and so on: half float, ZIP, with chromaticities; whole or not at all."""
    from elinvar.video.exporting import Exported

    if SPACES[graph.space].transfer != "linear":
        raise InputError(
            f"video.export: EXR holds linear light, the graph gives {graph.space}; use graph.output('acescg')."
        )
    total = graph.frame_count
    if frames is None:
        if total is None:
            raise InputError("video.export: the source never ends; say how many frames=.")
        frames = total - start
    if frames < 1 or start < 0 or (total is not None and start + frames > total):
        raise InputError(f"video.export: frames {start} to {start + frames - 1} were asked for, there are {total}.")
    plan = graph.plan(size, fit)
    with atomic_directory(folder) as temporary:

        def render(k: int) -> tuple[int, torch.Tensor]:
            return k, to_host(plan.draw(start + k, plan.fetch(start + k)))

        def write(item: tuple[int, torch.Tensor]) -> int:
            k, frame = item
            write_exr(temporary / f"frame.{start + k:06d}.exr", frame, graph.space)
            return k

        stages = [Stage(render, "render", compute=True), Stage(write, "write", workers=2)]
        with (
            Pipeline(stages, in_flight) as pipeline,
            giving_way(monitor, pipeline, graph.device.pool, Limits(in_flight, 0)),
        ):
            for k in pipeline.run(range(frames)):
                if progress is not None:
                    progress(k + 1, frames)
                if cancel is not None and cancel():
                    raise Cancelled(f"video.export: cancelled after {k + 1} of {frames} frames; the folder is gone.")
    return Exported(
        folder, frames, plan.width, plan.height, graph.frame_rate, "exr", "half", graph.space, in_flight, None
    )
