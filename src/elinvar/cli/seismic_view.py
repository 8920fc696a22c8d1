"""``elinvar seismic report | view | pyramid | preview``: look at an image, or at what it will be."""

from __future__ import annotations

import sys
import time
import webbrowser
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from elinvar.cli.common import emit, progress
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
    sides,
    velocity_of,
    warn_of_a_line,
)
from elinvar.errors import InputError

if TYPE_CHECKING:
    from elinvar.seismic import Grid, Survey, Velocity

__all__ = ["register"]

Folder = Annotated[Path, typer.Argument(help="Image folder (Zarr) that `migrate` or `run` wrote.")]
File = Annotated[Path, typer.Argument(help="Prestack SEG-Y file.")]
Kind = Annotated[
    str | None, typer.Option(help="What the values are: rms, interval or average; default: what a file says, else rms.")
]
Gradient = Annotated[float, typer.Option(help="k of V = V0 + k z, in 1/s, with one velocity.")]


def register(app: typer.Typer) -> None:
    """Add the commands to ``elinvar seismic``."""
    app.command()(report)
    app.command()(view)
    app.command()(pyramid)
    app.command()(preview)


def report(
    image: Folder,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="HTML file to write; beside the image.")] = None,
    survey: Annotated[Path | None, typer.Option(help="The SEG-Y file it was made from: offsets, coverage.")] = None,
    velocity: Annotated[
        str | None, typer.Option("--velocity", "-v", help="What it was migrated with: 2500, or ms:m/s,ms:m/s.")
    ] = None,
    kind: Kind = None,
    gradient: Gradient = 0.0,
    header: Header = None,
    endian: Endian = "auto",
    dt: Interval = None,
    json_: Json = False,
) -> None:
    """Write a report a person can look at: sections, fold, gathers, survey, velocity, spectra."""
    from elinvar.seismic import qc_report

    target = _page(image, "report.html", out, survey)
    recorded = None if survey is None else open_any(survey, header, endian, dt)
    field = None if velocity is None else velocity_of(velocity, gradient, kind)
    begin = time.perf_counter()
    path = qc_report(image, recorded, field, target)
    spent = time.perf_counter() - begin
    found = {"path": path, "bytes": path.stat().st_size, "seconds": spent}
    emit(found, json_, lambda: f"{path}: {path.stat().st_size / 1e6:.1f} MB, {spent:.1f} s; open it in a browser")


def view(
    image: Folder,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="HTML file to write; beside the image.")] = None,
    port: Annotated[
        int | None, typer.Option(help="Serve slices on this port of 127.0.0.1; 0 takes a free one.")
    ] = None,
    browser: Annotated[bool, typer.Option("--browser/--no-browser", help="Open a browser.")] = True,
    json_: Json = False,
) -> None:
    """Scroll the volume and its gathers: one HTML file, or above 64 MB a server on this machine until Ctrl-C."""
    from elinvar.seismic import viewer

    if out is not None and port is not None:
        raise InputError("view: --out writes a file and --port serves without one; give one of them.")
    if out is not None or (port is None and viewer.fits(image)):
        path = viewer.write_page(image, _page(image, "view.html", out))
        emit({"path": path, "bytes": path.stat().st_size}, json_, lambda: f"{path}: {path.stat().st_size / 1e6:.1f} MB")
        if browser:
            webbrowser.open(path.resolve().as_uri())
        return
    with viewer.serve(image, port or 0) as server:
        emit({"url": server.url, "port": server.port}, json_, lambda: f"{server.url} shows {image}; Ctrl-C ends it")
        sys.stdout.flush()  # who reads a pipe waits for the address
        if browser:
            webbrowser.open(server.url)
        server.wait()


def pyramid(
    image: Folder,
    levels: Annotated[int | None, typer.Option(help="Coarser levels; as many as are of use by default.")] = None,
    json_: Json = False,
) -> None:
    """Store coarser levels of an image in its folder, so that a large one can be looked at quickly."""
    from elinvar.seismic import pyramid as module

    with progress("building", unit="samples") as tell:
        built = module.build(image, levels, progress=tell)
    found = {"path": image, "levels": [{"factors": level.factors, "shape": level.shape} for level in built]}
    text = ", ".join(" x ".join(map(str, level.shape)) for level in built[1:])
    emit(found, json_, lambda: f"{image}: {len(built) - 1} levels of {text} samples")


def preview(  # one option per knob of the library: a long signature is the interface
    path: File,
    out: Annotated[Path, typer.Argument(help="Zarr folder to write; replaced when it exists.")],
    velocity: Annotated[
        str, typer.Option("--velocity", "-v", help="m/s: 2500, or picks in ms:m/s such as 0:1800,1000:2400.")
    ],
    kind: Kind = None,
    gradient: Gradient = 0.0,
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
    inlines: Annotated[
        str | None, typer.Option(help="Target inlines to migrate exactly: 100,120 or 100:200:20.")
    ] = None,
    crosslines: Annotated[str | None, typer.Option(help="Target crosslines.")] = None,
    coarse: Annotated[int, typer.Option(help="Without target lines: one line in this many first.")] = 4,
    threshold: Annotated[float, typer.Option(help="Amplitude, relative to the peak, that is migrated finely.")] = 0.001,
    dilate: Annotated[int, typer.Option(help="Coarse pillars by which that area grows.")] = 2,
    cost: Annotated[bool, typer.Option("--cost", help="Print what it would cost, and stop.")] = False,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 or mps.")] = "auto",
    header: Header = None,
    endian: Endian = "auto",
    dt: Interval = None,
    json_: Json = False,
) -> None:
    """Look before migrating: target lines alone, or the image coarse first and fine where something is."""
    from elinvar import seismic
    from elinvar.seismic.outputs import check_folder

    check_folder(out, path)
    survey = open_any(path, header, endian, dt)
    grid = survey_grid(survey, bin_size, azimuth, t_max, dt_out)
    field = velocity_of(velocity, gradient, kind)
    options: dict[str, Any] = {"aperture": seismic.Aperture(dip=dip), "device": device}
    ways = {"physics": physics, "eta": eta, "antialias": antialias, "interpolation": interpolation}
    options |= {**ways, "dimension": dimension}
    warn_of_a_line(survey, grid, dimension)
    if inlines is not None or crosslines is not None:
        _target(survey, field, target_lines(grid, inlines, crosslines), out, options, cost=cost, json_=json_)
        return
    if cost:
        price = seismic.preview_cost(survey, field, grid, coarse=coarse, **options)
        emit(price, json_, lambda: str(price))
        return
    stages = seismic.preview(
        survey, field, grid, coarse=coarse, threshold=threshold, dilate=dilate, progressive=True, **options
    )
    for stage in stages:
        stage.image.to_zarr(out)  # the coarse picture is there while the fine one is made
        typer.echo(f"elinvar: {out}: {stage}", err=True)
        found = {"path": out, "fraction": stage.fraction, "shape": grid.shape, "timing_s": stage.image.timing}
    emit(
        found,
        json_,
        lambda: f"{out}: a preview, not an image: {100 * stage.fraction:.1f} % of the pillars are migrated",
    )


def _target(
    survey: Survey,
    field: Velocity,
    part: Grid,
    out: Path,
    options: dict[str, Any],
    *,
    cost: bool,
    json_: bool,
) -> None:
    """Migrate target lines, or say what they cost."""
    from elinvar import seismic

    job = seismic.plan(survey, field, part, **options)
    if cost:
        emit(job, json_, lambda: str(job))
        return
    with progress("migrating", total=job.traces, unit="traces") as tell:
        image = seismic.migrate(survey, field, part, progress=tell, **options)
    image.to_zarr(out)
    found = {"path": out, "inlines": part.inlines, "crosslines": part.crosslines, "shape": part.shape}
    emit(found, json_, lambda: f"{out}: {part.nx} inlines x {part.ny} crosslines x {part.nt} samples")


def survey_grid(
    survey: Survey, bin_size: str | None, azimuth: float | None, t_max: float | None, dt_out: float | None
) -> Grid:
    """Return the grid that covers a survey, with what --bin, --azimuth, --t-max and --dt-out say."""
    from elinvar.seismic import Grid

    step = survey.dt if dt_out is None else 1e-3 * dt_out
    nt = None if t_max is None else round(1e-3 * t_max / step) + 1
    return Grid.from_survey(survey, bin_size=sides(bin_size), azimuth=azimuth, nt=nt, dt=step)


def target_lines(grid: Grid, inlines: str | None, crosslines: str | None) -> Grid:
    """Return the part of a grid that --inlines and --crosslines name; the whole without them."""
    from elinvar.seismic import targets

    if inlines is None and crosslines is None:
        return grid
    chosen = [None if t is None else numbers(t, o) for t, o in ((inlines, "--inlines"), (crosslines, "--crosslines"))]
    return targets.lines(grid, *chosen)


def _page(image: Path, name: str, out: Path | None, survey: Path | None = None) -> Path:
    """Return where a page goes, ``image.report.html`` for ``image.zarr`` by default; it must not be what is read."""
    from elinvar.seismic.outputs import check_file

    if out is None:
        return image.with_name(f"{image.name.removesuffix('.zarr')}.{name}")
    check_file(out, survey)
    return out
