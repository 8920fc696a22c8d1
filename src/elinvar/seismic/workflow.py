"""From a job file to an image on disk: build what it describes, check it, plan it, run it, go on with it."""

from __future__ import annotations

import contextlib
import inspect
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from elinvar.errors import ConfigError, ElinvarError, InputError
from elinvar.runtime.parallel import set_threads
from elinvar.runtime.tuning import save_tuned, tuned

from . import config as cfg
from .adaptive import preview, preview_cost
from .aperture import Aperture
from .building import build_gathers, build_grid, build_mute, build_velocity, open_survey
from .checkpoint import Checkpoint, free_bytes
from .covering import along_a_line, coverage
from .elevations import datum_of
from .gathers import window_samples
from .grid import Grid
from .locking import Lock
from .migration import devices_of, migrate, plan
from .options import KERNEL, check_options
from .outputs import check_file, check_folder
from .targets import pillars
from .traces import ArrayTraces
from .velocity import Velocity
from .velocity_scan import plan_scan, scan

if TYPE_CHECKING:
    from elinvar.runtime.device import DeviceProfile

    from .adaptive import Preview
    from .image import Image
    from .job import Job
    from .run import Progress
    from .scanned import Scan
    from .survey import Survey

__all__ = [
    "A_LINE",
    "DataCheck",
    "Work",
    "assemble",
    "build_gathers",
    "build_grid",
    "build_velocity",
    "check_data",
    "create",
    "estimate",
    "execute",
    "open_survey",
]

A_LINE = (
    "The midpoints lie along one line, which dimension 3d sums as an area: wavelets turn by 45 degrees and amplitudes "
    "are off; take 2.5d (point sources) or 2d (line sources)."
)
_TRACES_TRIED = 512
_TRIED = {"cpu": 2e8, "gpu": 2e10}  # trace samples times pillars of a small part of a job: a tenth of a second or so
_EMPTY = 0.2  # part of the bins without a midpoint that is worth a sentence
_WORTH_A_RATE = 1.0  # seconds in the kernel from which a run says something about the next


@dataclass(frozen=True)
class Work:
    """A job file with everything it names opened and checked.

    Attributes
    ----------
    config, folder
        The file's content, and the folder its paths are relative to.
    survey, velocity, grid
        What is migrated, with what, to where.
    options
        The other arguments of :func:`~elinvar.seismic.migrate`.
    """

    config: cfg.JobConfig
    folder: Path
    survey: Survey
    velocity: Velocity
    grid: Grid
    options: Mapping[str, Any]

    def path(self, name: str | None) -> Path | None:
        """Return a path of the file as it is seen from here."""
        return None if name is None else self.folder / name

    @property
    def output(self) -> Path:
        """The main result: the Zarr folder, or the SEG-Y file when there is no such folder."""
        out = self.config.output
        found = self.path(out.zarr if out.zarr is not None else out.segy)
        assert found is not None
        return found

    def checkpoint(self, resume: bool | None = None) -> Checkpoint | None:
        """Return where the job is kept; None when the file says that it is not, and for a preview."""
        kept, limit = self.config.execution.checkpoint, self.config.execution.limits.minutes
        if not kept.enabled or self.config.preview is not None:
            return None
        folder = self.path(kept.folder) or self.output.with_name(f"{self.output.name}.checkpoint")
        return Checkpoint(folder, seconds=kept.seconds, resume=resume, limit=None if limit is None else 60.0 * limit)


# -------------------------------------------------------------------- building


def assemble(config: cfg.JobConfig, folder: str | os.PathLike[str] = ".") -> Work:
    """Open and build everything a job names; headers are read, samples are not.

    Raises
    ------
    ConfigError
        With every problem that was found, options that are not built yet among them.
    """
    place = Path(folder)
    found: dict[str, Any] = {}
    problems: list[str] = []

    def attempt(name: str, build: Callable[[], Any]) -> None:
        try:
            found[name] = build()
        except (ElinvarError, NotImplementedError) as error:
            problems.append(str(error).rstrip("."))

    ways, where_to = config.algorithm, config.execution
    attempt("survey", lambda: open_survey(config.input, place))
    attempt("velocity", lambda: build_velocity(config.velocity, place))
    if "survey" in found:
        attempt("grid", lambda: build_grid(config.grid, found["survey"]))
    attempt("aperture", lambda: Aperture(**cfg.plain(ways.aperture)))
    attempt("gathers", lambda: build_gathers(ways.gathers))
    attempt("mute", lambda: build_mute(ways.mute))
    chosen = (ways.physics, ways.eta, ways.antialias, ways.amplitude, ways.interpolation, ways.oversample)
    attempt("ways", lambda: check_options(*chosen))
    if ways.physics == "curved" and "velocity" in found:
        attempt("medium", found["velocity"].gradient)
    if {"survey", "mute"} <= set(found) and found["mute"] is not None:
        attempt("muted", lambda: found["mute"].check(found["survey"]))
    if {"survey", "grid", "velocity"} <= set(found):
        raised = (ways.datum, ways.replacement, found["grid"], found["survey"], found["velocity"], ways.physics)
        attempt("datum", lambda: datum_of(*raised))
    attempt("output", lambda: _check_output(config.output, place, config.input.path))
    _raise(problems)
    names = (
        "physics",
        "eta",
        "amplitude",
        "phase_filter",
        "antialias",
        "interpolation",
        "oversample",
        "spacing",
        "area",
        "normalize",
        "dimension",
        "datum",
        "replacement",
    )
    options = {name: getattr(ways, name) for name in names}
    options |= {name: getattr(where_to, name) for name in ("device", "devices", "kernel", "in_flight", "shards")}
    options |= {"aperture": found["aperture"], "gathers": found["gathers"], "mute": found["mute"]}
    options["cluster"] = where_to.cluster
    options["memory"] = cfg.memory_bytes(where_to.memory)
    return Work(config, place, found["survey"], found["velocity"], found["grid"], options)


def _raise(problems: list[str]) -> None:
    if len(problems) == 1:
        raise ConfigError(f"{problems[0]}.")
    if problems:
        listed = "; ".join(f"({i}) {text}" for i, text in enumerate(problems, 1))
        raise ConfigError(f"the job has {len(problems)} problems: {listed}.")


def _check_output(options: cfg.Output, folder: Path, source: str) -> None:
    if options.zarr is not None:
        check_folder(folder / options.zarr, folder / source)
    for name in (options.segy, options.products.qc):
        if name is not None:
            check_file(folder / name, folder / source)


def refuse_overwriting(work: Work) -> None:
    """Stop before an existing result would be replaced unasked."""
    if work.config.output.overwrite:
        return
    for name in (work.config.output.zarr, work.config.output.segy):
        path = work.path(name)
        if path is not None and path.exists():
            raise ConfigError(f"output {path} exists; set output.overwrite: true, or give another name.")


# -------------------------------------------------------------------- looking before running


def estimate(work: Work, *, measure: bool = False) -> Job:
    """Return the plan, with the time it will take and where that number comes from.

    With `measure`, a machine that knows no rate migrates a small part of the job, with noise for samples, to find one.
    """
    job = _plan(work, None)
    rate, source = _known_rate(_profile(work), job.version, work)
    if rate is None and measure:
        rate, source = _measured_rate(work), "measured just now on a small part of the job"
    if rate is None:
        return job
    job = _plan(work, rate)
    note = f"The time assumes {rate:.3g} contributions/s{' per device' if job.lanes > 1 else ''}, {source}."
    notes = [*job.plan.notes, note]
    if work.options["cluster"] is not None:
        notes.append("That is for one worker; a cluster divides it.")
    return replace(job, plan=replace(job.plan, notes=tuple(notes)))


def _plan(work: Work, rate: float | None) -> Job:
    """Return the plan of what the file asks for: an image, a scan, or a preview's first pass."""
    grid, config = work.grid, work.config
    if config.scan is not None:
        window_samples(1e-3 * config.scan.window_ms, grid.dt)  # refuses what would fail after the work
        ways = {name: value for name, value in work.options.items() if name not in ("cluster", "shards")}
        return plan_scan(work.survey, work.velocity, grid, _percents(config.scan), rate=rate, **ways)
    names = set(work.options) & set(inspect.signature(plan).parameters)
    options = {**{name: work.options[name] for name in names}, "rate": rate}
    if config.preview is None:
        return plan(work.survey, work.velocity, grid, **options)
    cost = preview_cost(work.survey, work.velocity, grid, coarse=config.preview.coarse, **options)
    return replace(cost.coarse, plan=replace(cost.coarse.plan, notes=(*cost.coarse.plan.notes, str(cost))))


def _percents(options: cfg.ScanOptions) -> tuple[float, float, float]:
    return options.first, options.last, options.step


def _measured_rate(work: Work) -> float | None:
    """Return contributions per second of the kernel for traces and pillars near the middle of the grid."""
    grid, survey = work.grid, work.survey
    device = devices_of(work.options["device"], work.options["devices"])[0]
    wanted = _TRIED["cpu" if device.kind == "cpu" else "gpu"]
    live = np.flatnonzero(survey.live)
    away = np.square(grid.local(survey.midpoint[live])).sum(axis=1)
    nearest = np.sort(live[np.argsort(away, kind="stable")[:_TRACES_TRIED]])
    rows = max(1, min(grid.size, int(wanted // (len(nearest) * grid.nt))))
    middle = np.argsort(np.square(grid.local_pillars).sum(axis=1), kind="stable")[:rows]
    flags = np.zeros(grid.size, bool)
    flags[middle] = True
    noise = np.random.default_rng(0).standard_normal((len(nearest), survey.n_samples), dtype=np.float32)
    part = survey.select(nearest).with_traces(ArrayTraces(noise))
    spot = pillars(grid, flags.reshape(grid.nx, grid.ny))
    alone = {"devices": None, "device": device, "cluster": None, "gathers": None, "memory": None, "normalize": None}
    with _threads(work.config.execution.threads):
        for _ in range(2):  # the first compiles and warms up
            image = migrate(part, work.velocity, spot, **{**work.options, **alone})
    return image.contributions / image.timing.kernel if image.contributions and image.timing.kernel else None


def _profile(work: Work) -> DeviceProfile:
    return devices_of(work.options["device"], work.options["devices"])[0].profile


def _rate_key(version: str, work: Work) -> str:
    ways = work.config.algorithm
    return f"{KERNEL}.{version}.{ways.physics}.{ways.antialias or 'plain'}.{ways.interpolation}.rate"


def _known_rate(profile: DeviceProfile, version: str, work: Work) -> tuple[float | None, str]:
    """Return contributions per second, and who measured it."""
    known = tuned(profile)
    last = known.options.get(_rate_key(version, work))
    with contextlib.suppress(TypeError, KeyError, ValueError):
        if float(last["rate"]) > 0:  # type: ignore[index]
            return float(last["rate"]), f"measured by the run of {last['when']} on this machine"  # type: ignore[index]
    if KERNEL in known.rates and version not in ("baseline", "reference"):  # it times the default version
        return known.rates[KERNEL], "measured by `elinvar tune`"
    return None, ""


@dataclass(frozen=True)
class DataCheck:
    """What reading every live trace found."""

    traces: int
    silent: int
    broken: int
    first_broken: int | None
    rms: float


def check_data(survey: Survey, progress: Progress | None = None) -> DataCheck:
    """Read every live trace and look for samples that are not finite and traces that are zero throughout.

    Raises
    ------
    InputError
        No trace holds a signal, or samples are not finite.
    """
    done = silent = broken = 0
    first: int | None = None
    energy, samples = 0.0, 0
    total = int(survey.live.sum())
    for block in survey.blocks():
        finite = np.isfinite(block.traces).all(axis=1)
        if first is None and not finite.all():
            first = int(block.index[np.flatnonzero(~finite)[0]])
        broken += int((~finite).sum())
        sound = block.traces[finite]
        silent += int((~sound.any(axis=1)).sum())
        energy += float(np.square(sound, dtype=np.float64).sum())
        samples += sound.size
        done += len(block.index)
        if progress is not None:
            progress(done, total)
    if broken:
        raise InputError(
            f"{survey.name}: {broken} of {total} traces have samples that are not finite, first trace {first}; repair "
            f"the file, or leave them out (input.select.where: trace != {first})."
        )
    if silent == total:
        raise InputError(f"{survey.name}: all {total} live traces are zero throughout; there is nothing to image.")
    return DataCheck(total, silent, broken, first, float(np.sqrt(energy / max(samples, 1))))


def findings(work: Work, job: Job) -> list[str]:
    """Return what is allowed but deserves a look, one sentence each."""
    from .velocity_checks import check_velocity

    said = [*work.survey.notes]
    grid = work.grid
    if type(grid) is Grid:  # bins of target lines are not next to each other
        covered = coverage(work.survey, grid)
        if covered.empty > _EMPTY:
            said.append(
                f"{100 * covered.empty:.0f} % of the bins hold no midpoint (the widest hole is {covered.largest_gap} "
                "bins away from one that does): larger bins, or another azimuth, may suit the survey better."
            )
    if work.options["dimension"] == "3d" and along_a_line(work.survey, grid):
        said.append(A_LINE)
    thin = grid.pillars.reshape(grid.nx, grid.ny, 2)[:: max(1, grid.nx // 32), :: max(1, grid.ny // 32)]
    if grid.nt > 2:
        said += check_velocity(work.velocity, grid.t[:: max(1, grid.nt // 100)], thin).findings()
    needed = 8 * job.pillars * job.times * (1 + job.bins)
    if work.config.scan is not None:
        percents = _percents(work.config.scan)
        needed *= int((percents[1] - percents[0]) / percents[2] + 1e-9) + 1
    kept = work.checkpoint()
    wanted = needed * (3 if kept is not None else 1)
    free = free_bytes(work.output.parent)
    if free < wanted:
        what = "the image and its checkpoint" if kept is not None else "the image"
        said.append(f"{what} may need {wanted / 2**30:.2f} GiB and the disk has {free / 2**30:.2f} GiB left.")
    if work.config.preview is not None:
        said.append("A preview is not kept while it runs: when it is interrupted it starts afresh.")
    return said


# -------------------------------------------------------------------- running


def execute(work: Work, checkpoint: Checkpoint | None, progress: Progress | None = None) -> Image | Scan:
    """Make what the file asks for, write everything, and clear the checkpoint.

    What was migrated stays in the checkpoint until everything is written.

    Raises
    ------
    Cancelled
        The run was paused.
    """
    refuse_overwriting(work)
    afresh = checkpoint is None or checkpoint.resume is False or not (checkpoint.folder / "job.json").exists()
    with contextlib.ExitStack() as held:
        if checkpoint is None:
            work.output.parent.mkdir(parents=True, exist_ok=True)
            held.enter_context(Lock(work.output.with_name(f".{work.output.name}.lock"), f"output {work.output}"))
        held.enter_context(_threads(work.config.execution.threads))
        result = _make(work, checkpoint, progress)
    if checkpoint is not None:
        checkpoint.clear()
    _make_products(work)
    if afresh and work.config.preview is None:  # else the clocks know a part of the work only
        _remember_rate(work, result)
    return result


def _make(work: Work, checkpoint: Checkpoint | None, progress: Progress | None) -> Image | Scan:
    """Migrate and write."""
    where = work.path(work.config.output.zarr)
    given = {**work.options, "progress": progress}
    if work.config.scan is not None:
        assert where is not None
        percents = _percents(work.config.scan)
        found = scan(work.survey, work.velocity, work.grid, percents, checkpoint=checkpoint, **given)
        found.to_zarr(where, window=1e-3 * work.config.scan.window_ms)
        return found
    if work.config.preview is not None:
        assert where is not None
        ways = {**given, **cfg.plain(work.config.preview)}
        *_, last = _shown(preview(work.survey, work.velocity, work.grid, progressive=True, **ways), where)
        return last
    image = migrate(work.survey, work.velocity, work.grid, checkpoint=checkpoint, **given)
    segy = work.path(work.config.output.segy)
    if where is not None:
        image.to_zarr(where)
    if segy is not None:
        image.to_segy(segy)
    return image


def _shown(stages: Iterator[Preview], where: Path) -> Iterator[Image]:
    """Write each stage of a preview as soon as it is there."""
    for stage in stages:
        stage.image.to_zarr(where)
        yield stage.image


@contextlib.contextmanager
def _threads(n: int | None) -> Iterator[None]:
    if n is None:
        yield
        return
    old = set_threads(n)
    try:
        yield
    finally:
        set_threads(old)


def _make_products(work: Work) -> None:
    """Make what is made from the written image; when that fails, the image is not lost with it."""
    from . import pyramid
    from .qc import qc_report

    zarr, wanted = work.path(work.config.output.zarr), work.config.output.products
    if zarr is None:
        return
    try:
        if wanted.pyramid and len(pyramid.plan(work.grid.shape, work.grid.dt)) > 1:
            pyramid.build(zarr)
        report = work.path(wanted.qc)
        if report is not None:
            qc_report(zarr, work.survey, work.velocity, report)
    except ElinvarError as error:
        raise InputError(f"{zarr} is written and whole, but not what should follow it: {error}") from error


def _remember_rate(work: Work, image: Image | Scan) -> None:
    """Store how fast this was, for the next plan; a machine that cannot store it has no better plan."""
    seconds = image.timing.kernel
    many = work.options["cluster"] is not None or image.job.lanes > 1
    if many or seconds < _WORTH_A_RATE or not image.contributions:
        return
    today = datetime.now(UTC).date().isoformat()
    with contextlib.suppress(OSError):
        sums = 2 if work.options["normalize"] == "illumination" else 1
        value = {"rate": sums * image.contributions / seconds, "when": today}
        save_tuned(_profile(work), f"option.{_rate_key(image.job.version, work)}", value)


# -------------------------------------------------------------------- making a job file


def create(survey: str | None = None, folder: str | os.PathLike[str] = ".", **given: Any) -> cfg.JobConfig:
    """Return a job for a survey, its grid filled in from the survey's coverage; of a line, with its weights (2.5d).

    Parameters
    ----------
    survey
        Path of the survey relative to `folder`; None writes a job to be filled in.
    folder
        Where the job file will be.
    **given
        Options of the section ``input``.
    """
    if survey is None:
        return cfg.JobConfig(input=cfg.Input(path="survey.sgy", **given), velocity=cfg.ConstantVelocity(v=2000.0))
    options = cfg.Input(path=survey, **given)
    opened = open_survey(options, Path(folder))
    grid = Grid.from_survey(opened)
    ways = cfg.Algorithm(dimension="2.5d" if along_a_line(opened, grid) else "3d")
    return cfg.JobConfig(input=options, velocity=cfg.ConstantVelocity(v=2000.0), grid=explicit(grid), algorithm=ways)


def explicit(grid: Grid) -> cfg.ExplicitGrid:
    """Return a grid as the section ``grid``."""
    return cfg.ExplicitGrid(
        origin=grid.origin, azimuth=grid.azimuth, nx=grid.nx, ny=grid.ny, dx=grid.dx, dy=grid.dy, nt=grid.nt,
        dt_ms=round(1e3 * grid.dt, 9), t0_ms=round(1e3 * grid.t0, 9), inline=grid.inline, crossline=grid.crossline,
        crossline_side=grid.crossline_side,
    )  # fmt: skip
