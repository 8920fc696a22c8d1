"""``elinvar seismic``: make a survey, look at one, migrate one. Times are milliseconds here, as in files."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Any

import typer

from elinvar.cli import seismic_data, seismic_job, seismic_scan, seismic_view
from elinvar.cli.common import emit, progress, si
from elinvar.cli.seismic_data import (
    AntiAlias,
    Datum,
    Dimension,
    Endian,
    Eta,
    Header,
    HeaderMute,
    Interpolation,
    Interval,
    Json,
    MuteTable,
    MuteTaper,
    Normalize,
    Physics,
    Replacement,
    datum_of,
    mute_of,
    numbers,
    open_any,
    velocity_of,
)

__all__ = ["app"]

app = typer.Typer(add_completion=False, no_args_is_help=True, help="Prestack time migration: SEG-Y in, image out.")

File = Annotated[Path, typer.Argument(help="Prestack survey: SEG-Y, SU, or a Zarr folder.")]


@app.command()
def synth(
    path: Annotated[Path, typer.Argument(help="SEG-Y file to write.")],
    dataset: Annotated[str, typer.Option(help="tiny, small, medium or large: 4 MB to 6.6 GB.")] = "small",
    noise: Annotated[float, typer.Option(help="Noise relative to the signal's peak.")] = 0.05,
    seed: Annotated[int, typer.Option(help="Seed of the noise.")] = 0,
    sample_format: Annotated[int, typer.Option("--format", help="1 (IBM float), 5 (IEEE float) or 6 (double).")] = 5,
    json_: Json = False,
) -> None:
    """Write a survey with a known answer: a diffractor 800 m below the centre, in 2500 m/s."""
    from elinvar.seismic import synthetic

    survey = synthetic.dataset(dataset, noise=noise, seed=seed)
    with progress(f"writing {path.name}", total=survey.n_traces, unit="traces") as report:
        survey.write_segy(path, sample_format=sample_format, progress=report)
    x, y, t0 = survey.truth["points"][0]
    result = {
        "path": path,
        "traces": survey.n_traces,
        "samples": survey.n_samples,
        "bytes": path.stat().st_size,
        "diffractor": {"x_m": x, "y_m": y, "two_way_ms": 1e3 * t0},
        "velocity_m_s": survey.truth["velocity"],
    }
    line = f"{path}: {survey.n_traces:,} traces; the diffractor is at x {x:g} m, y {y:g} m, {1e3 * t0:g} ms"
    emit(result, json_, lambda: line)


@app.command()
def migrate(  # one option per knob of the library: a long signature is the interface
    path: File,
    out: Annotated[Path, typer.Argument(help="Zarr folder to write; replaced when it exists.")],
    velocity: Annotated[
        str, typer.Option("--velocity", "-v", help="m/s: 2500, picks in ms:m/s such as 0:1800,1000:2400, or a file.")
    ],
    kind: Annotated[str | None, typer.Option(help="What the values are: rms (default), interval or average.")] = None,
    gradient: Annotated[float, typer.Option(help="k of V = V0 + k z, in 1/s, with one velocity.")] = 0.0,
    bin_size: Annotated[str | None, typer.Option("--bin", help="Bin size in m: 25 or 25,12.5.")] = None,
    azimuth: Annotated[float | None, typer.Option(help="Of the +inline axis, degrees clockwise from north.")] = None,
    t_max: Annotated[float | None, typer.Option("--t-max", help="Last output time in ms.")] = None,
    dt_out: Annotated[float | None, typer.Option("--dt-out", help="Output sample interval in ms.")] = None,
    dip: Annotated[float, typer.Option(help="Largest dip to image, degrees.")] = 45.0,
    radius: Annotated[float | None, typer.Option(help="Largest midpoint distance, m.")] = None,
    taper: Annotated[float, typer.Option(help="Part of the aperture that is tapered.")] = 0.2,
    inline_limit: Annotated[
        float | None, typer.Option("--inline-limit", help="Largest midpoint distance along the inline axis, m.")
    ] = None,
    crossline_limit: Annotated[
        float | None, typer.Option("--crossline-limit", help="Largest midpoint distance along the crossline axis, m.")
    ] = None,
    leg_dip: Annotated[
        float | None, typer.Option("--leg-dip", help="Largest angle of either leg from the vertical, degrees.")
    ] = None,
    stretch: Annotated[float | None, typer.Option(help="Largest stretch of the wavelet, above 1: 1.5.")] = None,
    physics: Physics = "straight",
    eta: Eta = None,
    antialias: AntiAlias = None,
    interpolation: Interpolation = "linear",
    oversample: Annotated[int, typer.Option(help="2 puts a sample between any two of the traces first.")] = 1,
    dimension: Dimension = "3d",
    normalize: Normalize = None,
    datum: Datum = None,
    replacement: Replacement = None,
    mute_header: HeaderMute = False,
    mute: MuteTable = None,
    mute_taper: MuteTaper = 20.0,
    amplitude: Annotated[str, typer.Option(help="true or none.")] = "true",
    phase_filter: Annotated[bool, typer.Option(help="Apply the -d/dt filter.")] = True,
    gathers: Annotated[str | None, typer.Option(help="Offset bin edges in m: 0,400,800 or 0:800:200.")] = None,
    kernel: Annotated[str | None, typer.Option(help="Kernel version; see `elinvar kernels`.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 or mps.")] = "auto",
    devices: Annotated[str | None, typer.Option(help="Several GPUs: all, or cuda:0,cuda:1.")] = None,
    cluster: Annotated[
        str | None, typer.Option(help="Dask workers: local, or a scheduler's address, tcp://host:8786.")
    ] = None,
    plan_only: Annotated[bool, typer.Option("--plan", help="Print what would be done, and stop.")] = False,
    header: Header = None,
    endian: Endian = "auto",
    dt: Interval = None,
    json_: Json = False,
) -> None:
    """Migrate a survey and write image, fold and gathers as Zarr."""
    from elinvar import seismic
    from elinvar.seismic.outputs import check_folder, space

    check_folder(out, path)
    survey = open_any(path, header, endian, dt)
    grid = seismic_view.survey_grid(survey, bin_size, azimuth, t_max, dt_out)
    field = velocity_of(velocity, gradient, kind)
    given: dict[str, Any] = {
        "aperture": seismic.Aperture(
            dip=dip, radius=radius, taper=taper, inline=inline_limit, crossline=crossline_limit, leg_dip=leg_dip,
            stretch=stretch,
        ),
        "gathers": None if gathers is None else numbers(gathers, "--gathers"), "kernel": kernel, "device": device,
        "physics": physics, "eta": eta, "antialias": antialias, "interpolation": interpolation,
        "oversample": oversample, "dimension": dimension, "normalize": normalize, "datum": datum_of(datum),
        "replacement": replacement, "mute": mute_of(mute_header, mute, mute_taper),
    }  # fmt: skip
    given["devices"] = devices.split(",") if devices is not None and devices != "all" else devices
    job = seismic.plan(survey, field, grid, **given)
    if plan_only:
        emit(job, json_, lambda: str(job))
        return
    typer.echo(f"elinvar: {job}", err=True)
    seismic_data.warn_of_a_line(survey, grid, dimension)
    short = space(out, 8 * job.pillars * job.times * (1 + job.bins))
    if short is not None:
        typer.echo(f"elinvar: warning: {short}", err=True)
    begin = time.perf_counter()
    given |= {"amplitude": amplitude, "phase_filter": phase_filter, "cluster": cluster}
    with progress("migrating", total=job.traces, unit="traces") as report:
        image = seismic.migrate(survey, field, grid, progress=report, **given)
    image.to_zarr(out)
    spent = time.perf_counter() - begin
    result = {
        "path": out,
        "shape": grid.shape,
        "contributions": image.contributions,
        "contributions_per_second": image.contributions / max(image.timing.kernel, 1e-9),
        "timing_s": image.timing,
        "job": job,
    }
    rate = si(image.contributions / max(image.timing.kernel, 1e-9))
    line = (
        f"{out}: {' x '.join(map(str, grid.shape))}, {image.contributions:.3g} contributions at {rate}/s, {spent:.1f} s"
    )
    emit(result, json_, lambda: line)


seismic_data.register(app)
seismic_job.register(app)
seismic_scan.register(app)
seismic_view.register(app)
