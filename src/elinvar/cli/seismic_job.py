"""``elinvar seismic create-config | wizard | validate | run``: a migration as a file."""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from elinvar.cli.common import EXIT_INTERRUPTED, emit, fail, progress, si
from elinvar.cli.seismic_data import Json, header_bytes
from elinvar.errors import Cancelled, ConfigError, InputError

if TYPE_CHECKING:
    from elinvar.seismic.checkpoint import Checkpoint
    from elinvar.seismic.workflow import Work

__all__ = ["register"]

JobFile = Annotated[Path, typer.Argument(help="Job file (YAML); `create-config` or `wizard` makes one.")]


def register(app: typer.Typer) -> None:
    """Add the commands to ``elinvar seismic``."""
    app.command("create-config")(create_config)
    app.command()(wizard)
    app.command()(validate)
    app.command()(run)


def _assemble(job: Path, cluster: str | None = None) -> Work:
    from elinvar.seismic import jobfile, workflow

    config = jobfile.read(job)
    if cluster is not None:
        config = jobfile.changed(config, job.name, "execution", cluster=cluster)
    try:
        return workflow.assemble(config, job.parent)
    except ConfigError as error:
        raise ConfigError(f"{job.name}: {error}") from error


def create_config(
    survey: Annotated[Path | None, typer.Argument(help="Survey whose coverage fills in the grid.")] = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="Job file to write.")] = Path("job.yaml"),
    header: Annotated[
        list[str] | None,
        typer.Option(
            "--header", help="Where a trace header word is, e.g. sx=73 (may be repeated).", metavar="NAME=BYTE"
        ),
    ] = None,
    endian: Annotated[str, typer.Option(help="Byte order: auto, big or little.")] = "auto",
    dt: Annotated[float | None, typer.Option("--dt", help="Sample interval in ms, when the file's is wrong.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the job file when it exists.")] = False,
    json_: Json = False,
) -> None:
    """Write a job file with every option, its unit and its default."""
    from elinvar.seismic import jobfile, workflow
    from elinvar.seismic.wizard import relative

    if out.exists() and not overwrite:
        raise InputError(f"{out} exists; pass --overwrite to replace it, or another name with -o.")
    given: dict[str, Any] = {"endian": endian, "dt_ms": dt, "header_bytes": header_bytes(header)}
    name = None if survey is None else relative(survey, out.parent)
    config = workflow.create(name, out.parent, **given)
    jobfile.write(config, out)
    grid = config.model_dump(mode="json")["grid"]
    known = grid["type"] == "explicit"
    size = f"{grid['nx']} x {grid['ny']} bins, {grid['nt']} samples" if known else "the grid follows the survey"
    line = f"{out}: {size}; set the velocity, then `elinvar seismic validate {out}` and `elinvar seismic run {out}`"
    emit({"path": out, "job": config.model_dump(mode="json")}, json_, lambda: line)


def wizard(
    out: Annotated[Path, typer.Option("--out", "-o", help="Job file to write.")] = Path("job.yaml"),
) -> None:
    """Ask for what a migration needs, one question at a time, and write the job file."""
    from elinvar.seismic import wizard as questions

    questions.ask(out)
    typer.echo(f"{out}: check it with `elinvar seismic validate {out}`, run it with `elinvar seismic run {out}`")


def validate(
    job: JobFile,
    check_data: Annotated[bool, typer.Option("--check-data", help="Read every sample of the survey too.")] = False,
    json_: Json = False,
) -> None:
    """Check a job file: options, files, grid and velocity against the survey; print the plan."""
    from elinvar.seismic import workflow

    work = _assemble(job)
    plan = workflow.estimate(work, measure=True)
    said = workflow.findings(work, plan)
    try:
        workflow.refuse_overwriting(work)
    except ConfigError as error:
        said.append(f"`run` would stop: {error}")
    data = None
    if check_data:
        with progress("reading", total=int(work.survey.live.sum()), unit="traces") as report:
            data = workflow.check_data(work.survey, report)
        if data.silent:
            said.append(f"{data.silent} of {data.traces} live traces are zero throughout; they do not count.")
    lines = [str(plan), *(f"  - {text}" for text in said), f"{job}: nothing is wrong"]
    emit({"job": job, "valid": True, "plan": plan, "notes": said, "data": data}, json_, lambda: "\n".join(lines))


def run(
    job: JobFile,
    resume: Annotated[
        bool | None,
        typer.Option(
            "--resume/--restart", help="Insist on going on / start afresh. Default: go on if there is something."
        ),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan and stop.")] = False,
    cluster: Annotated[
        str | None, typer.Option(help="local, or the address of a Dask scheduler, instead of execution.cluster.")
    ] = None,
    json_: Json = False,
) -> None:
    """Run a job; Ctrl-C, SIGTERM or SIGUSR1 pauses it, the same command goes on."""
    from elinvar.seismic import workflow

    work = _assemble(job, cluster)
    plan = workflow.estimate(work, measure=True)
    if dry_run:
        emit({"job": job, "plan": plan}, json_, lambda: str(plan))
        return
    checkpoint = work.checkpoint(resume)
    if resume and checkpoint is None:
        why = "a preview is not kept" if work.config.preview is not None else "execution.checkpoint.enabled is false"
        raise ConfigError(f"{job.name}: {why}, so there is nothing to go on with.")
    workflow.refuse_overwriting(work)
    said = "".join(f"\n  - {text}" for text in workflow.findings(work, plan))
    typer.echo(f"elinvar: {plan}{said}", err=True)
    begin = time.perf_counter()
    rest = checkpoint is not None and checkpoint.resume is not False and (checkpoint.folder / "job.json").exists()
    try:
        with _pausing(checkpoint), progress("migrating", total=plan.traces, unit="traces") as report:
            image = workflow.execute(work, checkpoint, report)
    except Cancelled as paused:
        fail(f"{str(paused).partition(';')[0]}; go on with: elinvar seismic run {job}", code=EXIT_INTERRUPTED)
    out = work.config.output
    paths = [work.path(name) for name in (out.zarr, out.segy, out.products.qc) if name is not None]
    # The clocks know what this run did, which is less than all when it went on with another's.
    rate = None if rest else image.contributions / max(image.timing.kernel, 1e-9)
    result = {
        "paths": paths,
        "shape": work.grid.shape,
        "contributions": image.contributions,
        "contributions_per_second": rate,
        "timing_s": image.timing,
        "plan": image.job,
    }
    line = (
        f"{', '.join(map(str, paths))}: {' x '.join(map(str, work.grid.shape))}, {image.contributions:.3g} "
        f"contributions {'in all, the rest of them in' if rate is None else f'at {si(rate)}/s,'} "
        f"{time.perf_counter() - begin:.1f} s"
    )
    emit(result, json_, lambda: line)


@contextlib.contextmanager
def _pausing(checkpoint: Checkpoint | None) -> Iterator[None]:
    """Let signals pause the job: the first asks, a second Ctrl-C ends it at once."""
    if checkpoint is None or threading.current_thread() is not threading.main_thread():
        yield
        return
    asked = False

    def pause(number: int, _frame: object) -> None:
        nonlocal asked
        if asked and number == signal.SIGINT:
            raise KeyboardInterrupt
        asked = True
        name = "Ctrl-C was pressed" if number == signal.SIGINT else f"{signal.Signals(number).name} came"
        checkpoint.pause(name)
        sys.stderr.write("elinvar: pausing after this block; Ctrl-C again ends at once\n")

    wanted = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1") if hasattr(signal, name)]
    before = {number: signal.signal(number, pause) for number in wanted}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
