"""What a frame may cost: measured at fixed settings, and checked against a file.

A budgets file is JSON with the settings and what must not be exceeded::

    {"width": 1920, "height": 1080, "frames": 24,
     "core_ms": {"nv12": 2.0, "bloom": 8.0, "look": 18.0}, "memory_mb": 40.0, "export_fps": 30.0}

``core_ms`` is CPU time of one frame on one thread, from the source to NV12: for Hill's fit and the conversion alone
("nv12"), with one pass at a time, and for the look. ``memory_mb`` is what a graph and its export hold for frames at
most, and ``export_fps`` how many frames one second of CPU time carries through render, conversion and libx264's fastest
preset. CPU time, not the clock on the wall: other work on the machine moves it little.
"""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from elinvar.errors import InputError
from elinvar.runtime.files import write_text
from elinvar.runtime.parallel import set_threads
from elinvar.video import passes, sources
from elinvar.video._check import count
from elinvar.video.graph import Graph
from elinvar.video.yuv import coding

__all__ = ["PASSES", "Costs", "exceeded", "measure", "read", "record"]

PASSES: dict[str, Callable[[], list[Any]]] = {
    "nv12": list,
    "bloom": lambda: [passes.Bloom(0.2)],
    "halation": lambda: [passes.Halation(0.3)],
    "vignette": lambda: [passes.Vignette(0.3, 0.75, 1.0)],
    "grain": lambda: [passes.Grain(0.02)],
    "look": lambda: [passes.Bloom(0.2), passes.Vignette(0.3, 0.75, 1.0), passes.Grain(0.02)],
}
"""What is measured, by name; everything goes through Hill's fit and Rec.709's curve."""
MARGIN = 1.3
"""`record` allows this much more than it measured."""


@dataclass(frozen=True)
class Costs:
    """What was measured, or what is allowed: see the module's text for the units."""

    width: int = 1920
    height: int = 1080
    frames: int = 24
    core_ms: dict[str, float] = field(default_factory=dict)
    memory_mb: float | None = None
    export_fps: float | None = None


def _graph(name: str, width: int, height: int, frames: int) -> Graph:
    still = torch.rand(3, height, width, generator=torch.Generator().manual_seed(0)) ** 3 * 2
    graph = Graph("cpu")
    graph.source(sources.Function(lambda _n: still, width, height, frame_count=frames, space="acescg"))
    for one in PASSES[name]():
        graph.add(one)
    return graph.output("aces-fit")


def measure(settings: Costs | None = None, *, names: Sequence[str] | None = None, runs: int = 9) -> Costs:
    """Measure at the size and number of frames of `settings`.

    Parameters
    ----------
    names
        Some of `PASSES`; all by default. The export is measured with "look" only.
    runs
        Frames drawn for each name, in turns; the median counts.
    """
    wanted = settings or Costs()
    width, height, frames = wanted.width, wanted.height, wanted.frames
    count("video.budgets", "runs", runs, 1, 10000)
    chosen = list(PASSES) if names is None else list(names)
    unknown = [name for name in chosen if name not in PASSES]
    if unknown:
        raise InputError(f"video.budgets: {unknown[0]!r} is not measured; choose from {', '.join(PASSES)}.")
    how = coding("nv12")
    planes = how.format.empty(width, height)
    before = set_threads(1)
    try:
        plans = {name: _graph(name, width, height, frames).plan() for name in chosen}
        ready = {name: plan.fetch(0) for name, plan in plans.items()}
        spent: dict[str, list[float]] = {name: [] for name in chosen}
        for k in range(runs + 1):  # the first round compiles
            for name, plan in plans.items():
                begin = time.thread_time()
                plan.draw_yuv(0, ready[name], how, planes)
                if k:
                    spent[name].append(1e3 * (time.thread_time() - begin))
        memory, rate = _export(width, height, frames, plans["look"].memory_bytes) if "look" in plans else (None, None)
        for plan in plans.values():
            plan.close()
    finally:
        set_threads(before)
    core = {name: round(statistics.median(values), 3) for name, values in spent.items()}
    return Costs(width, height, frames, core, memory, rate)


def _export(width: int, height: int, frames: int, graph_bytes: int) -> tuple[float, float]:
    """Return (megabytes held, frames for a second of CPU time) of an export of the look."""
    from elinvar.video.exporting import export

    with tempfile.TemporaryDirectory() as folder:
        begin = time.process_time()
        done = export(_graph("look", width, height, frames), Path(folder) / "a.mkv", quality=0.6, speed="ultrafast")
        spent = time.process_time() - begin
    held = graph_bytes + done.slots * coding("nv12").format.frame_bytes(width, height)
    return round(held / 1e6, 3), round(frames / spent, 3)


def exceeded(measured: Costs, allowed: Costs) -> list[str]:
    """Return a sentence for everything that costs more than allowed; names that were not measured are passed over."""
    found = [
        f"{name} takes {measured.core_ms[name]:.2f} core-ms, {most:.2f} are allowed"
        for name, most in allowed.core_ms.items()
        if measured.core_ms.get(name, 0.0) > most
    ]
    held, most = measured.memory_mb, allowed.memory_mb
    if held is not None and most is not None and held > most:
        found.append(f"frames take {held:.1f} MB, {most:.1f} are allowed")
    rate, least = measured.export_fps, allowed.export_fps
    if rate is not None and least is not None and rate < least:
        found.append(f"an export does {rate:.1f} frames for a second of CPU time, {least:.1f} are wanted")
    return found


def read(path: Path) -> Costs:
    """Read a budgets file.

    Raises
    ------
    InputError
        It is missing, or not of the form above.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        costs = Costs(**values)
        costs.core_ms.items()
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise InputError(f"video.budgets: {path} is no budgets file ({error}); make one with --record.") from error
    return costs


def record(measured: Costs, path: Path) -> Costs:
    """Write what was measured, with a margin of `MARGIN`, as a budgets file."""
    allowed = Costs(
        measured.width, measured.height, measured.frames,
        {name: round(value * MARGIN, 2) for name, value in measured.core_ms.items()},
        None if measured.memory_mb is None else round(measured.memory_mb * MARGIN, 2),
        None if measured.export_fps is None else round(measured.export_fps / MARGIN, 2),
    )  # fmt: skip
    write_text(path, json.dumps(asdict(allowed), indent=1) + "\n")
    return allowed
