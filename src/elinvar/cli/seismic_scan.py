"""``elinvar seismic scan``: which percentage of a velocity fits best."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from elinvar.cli.common import emit, progress, si
from elinvar.cli.seismic_data import (
    AntiAlias,
    Dimension,
    Endian,
    Eta,
    Header,
    Interpolation,
    Interval,
    Json,
    Physics,
    numbers,
    open_any,
    velocity_of,
    warn_of_a_line,
)
from elinvar.cli.seismic_view import survey_grid, target_lines
from elinvar.errors import InputError

if TYPE_CHECKING:
    from elinvar.seismic import Scan

__all__ = ["described", "register"]


def register(app: typer.Typer) -> None:
    """Add the command to ``elinvar seismic``."""
    app.command()(scan)


def scan(  # one option per knob of the library: a long signature is the interface
    path: Annotated[Path, typer.Argument(help="Prestack survey: SEG-Y, SU, or a Zarr folder.")],
    out: Annotated[Path, typer.Argument(help="Zarr folder to write; replaced when it exists.")],
    velocity: Annotated[
        str, typer.Option("--velocity", "-v", help="100 %, m/s: 2500, picks such as 0:1800,1000:2400, or a file.")
    ],
    percents: Annotated[str, typer.Option(help="First, last and step of the percentages.")] = "90:110:2.5",
    kind: Annotated[str | None, typer.Option(help="What the values are: rms (default), interval or average.")] = None,
    gradient: Annotated[float, typer.Option(help="k of V = V0 + k z, in 1/s, with one velocity.")] = 0.0,
    gathers: Annotated[
        str | None, typer.Option(help="Offset bin edges in m: pick by the semblance of gathers, not by power.")
    ] = None,
    inlines: Annotated[str | None, typer.Option(help="Target inlines: 100,120 or 100:200:20.")] = None,
    crosslines: Annotated[str | None, typer.Option(help="Target crosslines.")] = None,
    bin_size: Annotated[str | None, typer.Option("--bin", help="Bin size in m: 25 or 25,12.5.")] = None,
    azimuth: Annotated[float | None, typer.Option(help="Of the +inline axis, degrees clockwise from north.")] = None,
    t_max: Annotated[float | None, typer.Option("--t-max", help="Last output time in ms.")] = None,
    dt_out: Annotated[float | None, typer.Option("--dt-out", help="Output sample interval in ms.")] = None,
    dip: Annotated[float, typer.Option(help="Largest dip to image, degrees.")] = 45.0,
    physics: Physics = "straight",
    eta: Eta = None,
    antialias: AntiAlias = None,
    interpolation: Interpolation = "linear",
    dimension: Dimension = "3d",
    window: Annotated[float, typer.Option(help="Length of the window that is compared, ms.")] = 40.0,
    kernel: Annotated[str | None, typer.Option(help="Kernel version; see `elinvar kernels`.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 or mps.")] = "auto",
    plan_only: Annotated[bool, typer.Option("--plan", help="Print what would be done, and stop.")] = False,
    header: Header = None,
    endian: Endian = "auto",
    dt: Interval = None,
    json_: Json = False,
) -> None:
    """Migrate with several percentages of a velocity in one pass over the traces, and pick what fits best."""
    from elinvar import seismic
    from elinvar.seismic.outputs import check_folder

    check_folder(out, path)
    survey = open_any(path, header, endian, dt)
    grid = target_lines(survey_grid(survey, bin_size, azimuth, t_max, dt_out), inlines, crosslines)
    field = velocity_of(velocity, gradient, kind)
    tried = _percents(percents)
    edges = None if gathers is None else numbers(gathers, "--gathers")
    given: dict[str, Any] = {
        "aperture": seismic.Aperture(dip=dip), "gathers": edges, "kernel": kernel, "device": device,
        "physics": physics, "eta": eta, "antialias": antialias, "interpolation": interpolation, "dimension": dimension,
    }  # fmt: skip
    job = seismic.plan_scan(survey, field, grid, tried, **given)
    seismic.gathers.window_samples(1e-3 * window, grid.dt)  # refuses what would fail after the work
    if plan_only:
        emit(job, json_, lambda: str(job))
        return
    typer.echo(f"elinvar: {job}", err=True)
    warn_of_a_line(survey, grid, dimension)
    begin = time.perf_counter()
    with progress("scanning", total=job.traces, unit="traces") as report:
        found = seismic.scan(survey, field, grid, tried, progress=report, **given)
    found.to_zarr(out, window=1e-3 * window)
    said = described(found, 1e-3 * window)
    rate = found.contributions / max(found.timing.kernel, 1e-9)
    result = {
        "path": out,
        "shape": found.values.shape,
        "percents": found.percents,
        "picks": said,
        "contributions": found.contributions,
        "contributions_per_second": rate,
        "timing_s": found.timing,
    }
    line = (
        f"{out}: {' x '.join(map(str, found.values.shape))} (inlines, crosslines, percentages, samples), "
        f"{found.contributions:.3g} contributions at {si(rate)}/s, {time.perf_counter() - begin:.1f} s; {said['says']}"
    )
    emit(result, json_, lambda: line)


def _percents(text: str) -> tuple[float, float, float]:
    try:
        first, last, step = (float(part) for part in text.split(":"))
    except ValueError:
        raise InputError(f"--percents {text!r} is not first:last:step, such as 90:110:2.5.") from None
    return first, last, step


def described(found: Scan, window: float) -> dict[str, Any]:
    """Return what the picks of a scan say, as numbers and as a sentence."""
    import numpy as np

    if len(found.percents) < 3:
        return {"by": None, "share": 0.0, "median": None, "says": "too few percentages to pick from"}
    picks = found.pick(window=window)
    percent = picks["percent"].values
    known = percent[np.isfinite(percent)]
    by = str(picks.attrs["by"])
    if not known.size:
        return {"by": by, "share": 0.0, "median": None, "says": f"no percentage stands out by {by}"}
    low, middle, high = (float(q) for q in np.percentile(known, [25, 50, 75]))
    says = f"picked by {by}: {middle:.1f} %, half of the picks from {low:.1f} to {high:.1f} %"
    return {"by": by, "share": known.size / percent.size, "median": middle, "quartiles": [low, high], "says": says}
