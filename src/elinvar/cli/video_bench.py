"""``elinvar bench video``: what a frame costs at fixed settings, checked against a budgets file."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated

import typer

from elinvar.cli.common import emit, fail, table

__all__ = ["video"]


def video(
    budgets: Annotated[Path, typer.Option(help="JSON file of what is allowed.")] = Path(
        "benchmarks/video_budgets.json"
    ),
    record: Annotated[bool, typer.Option("--record", help="Write the file from what is measured, plus 30 %.")] = False,
    size: Annotated[str | None, typer.Option(help="1920x1080, with --record.")] = None,
    frames: Annotated[int | None, typer.Option(min=2, help="Of the export, with --record; 24.")] = None,
    runs: Annotated[int, typer.Option(min=1, help="Frames drawn for each row; the median counts.")] = 9,
    json_: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Measure passes, memory and export on the CPU; exit code 1 when a budget is exceeded."""
    from elinvar.cli.video import _size
    from elinvar.video import budgets as module

    allowed = None if record else module.read(budgets)
    settings = allowed or module.Costs()
    if record:
        width, height = _size(size) or (settings.width, settings.height)
        settings = dataclasses.replace(settings, width=width, height=height, frames=frames or settings.frames)
    measured = module.measure(settings, runs=runs)
    if allowed is None:
        allowed = module.record(measured, budgets)
    rows = [
        {"what": f"{name}, core-ms", "measured": f"{value:.2f}", "allowed": f"{allowed.core_ms.get(name, '-')}"}
        for name, value in measured.core_ms.items()
    ]
    rows += [
        {"what": "memory of frames, MB", "measured": f"{measured.memory_mb}", "allowed": f"{allowed.memory_mb}"},
        {"what": "export, frames/s of CPU", "measured": f"{measured.export_fps}", "allowed": f"{allowed.export_fps}"},
    ]
    found = module.exceeded(measured, allowed)
    result = {"measured": measured, "allowed": allowed, "exceeded": found}
    emit(result, json_, lambda: table(rows, title=f"{settings.width} x {settings.height}, {settings.frames} frames"))
    if found:
        fail(f"bench video: {'; '.join(found)}.")
