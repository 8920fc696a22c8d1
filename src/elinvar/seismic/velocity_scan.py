"""Velocity scan: one pass over the traces makes an image for each percentage of a velocity.

Reading, filtering and copying a block of traces is shared; the kernel runs once per percentage on it. That many images
are resident at a time, and the grid is made in tiles when they do not fit: a scan is meant for target lines
(:func:`elinvar.seismic.targets.lines`) or a coarse grid.
"""

from __future__ import annotations

import contextlib
import inspect
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import ArrayLike

from elinvar.errors import InputError

from .checkpoint import Checkpoint, identity
from .finishing import divide, drop_weights, images_of, lane_of, scale_line
from .job import Job, Layout, Pass, describe, row_bytes, rows_for
from .lane import Lane
from .migration import _kernels, devices_of, migrate, staff_of
from .options import Options, check_options, resolve
from .run import Progress, Run, Volumes
from .scanned import Scan
from .statics import warn_of_elevations

if TYPE_CHECKING:
    import os

    from elinvar.runtime.kernels import Kernel

    from .binning import Assignment, Binning
    from .grid import Grid
    from .image import Image, Timing
    from .survey import Survey
    from .velocity import Velocity

__all__ = ["PERCENTS", "plan_scan", "scan"]

#: First, last and step of the percentages that are scanned by default.
PERCENTS = (90.0, 110.0, 2.5)
_MOST = 1000  # images


def scan(
    survey: Survey,
    velocity: Velocity,
    grid: Grid,
    percents: tuple[float, float, float] = PERCENTS,
    *,
    gathers: ArrayLike | Binning | None = None,
    kernel: str | None = None,
    device: Any = "auto",
    devices: Sequence[Any] | str | None = None,
    checkpoint: Checkpoint | str | os.PathLike[str] | None = None,
    progress: Progress | None = None,
    in_flight: int | None = None,
    memory: int | None = None,
    cluster: Any = None,
    shards: int | None = None,
    **ways: Any,
) -> Scan:
    """Migrate a survey with several percentages of a velocity in one pass over its traces.

    Parameters
    ----------
    survey, velocity, grid
        As for :func:`~elinvar.seismic.migrate`; `velocity` is 100 %.
    percents
        First, last and step: ``(90, 110, 2.5)``.
    gathers
        Bins, so that picks can go by the flatness of gathers. Images for every bin and percentage are then in memory.
    kernel, device, devices, checkpoint, progress, in_flight, memory, cluster, shards, **ways
        As for :func:`~elinvar.seismic.migrate`.

    Returns
    -------
    Scan
        ``.image`` (inline, crossline, percent, time), ``.semblance()``, ``.pick()``, ``.at(percent)``.

    Raises
    ------
    InputError
        As :func:`~elinvar.seismic.migrate`; percentages that do not lead from the first to the last.
    """
    tried = _tried(survey, velocity, grid, percents, gathers, ways)
    options, images = tried[-1][1], [one for _, one in tried]
    begin = time.perf_counter()
    with contextlib.ExitStack() as held:
        staff = None if cluster is None else staff_of(cluster, held, devices, device, kernel, options)
        kernels = _kernels(devices_of(device, devices), kernel if staff is None else staff.workers.version, options)
        compiled = time.perf_counter() - begin
        session = None
        if checkpoint is not None:
            kept = checkpoint if isinstance(checkpoint, Checkpoint) else Checkpoint(checkpoint)
            cut = {"memory": memory, "percents": [p for p, _ in tried]}
            cut |= {} if staff is None else {"shards": shards}
            session = held.enter_context(
                kept.open(identity(options, kernels, cut, None if staff is None else staff.workers))
            )
        job, steps = _describe(
            kernels,
            tried,
            layout=None if session is None else session.layout,
            in_flight=in_flight,
            memory=memory,
        )
        lanes: list[Lane] = [lane_of(images, one, job, steps, i) for i, one in enumerate(kernels)]
        if staff is not None:
            job, lanes = staff.lane(images, job, steps, shards, session)
        if session is not None:
            session.begin(job.layout)
        run = Run(options, job, steps, lanes, session, progress)
        run.volumes = _ScanVolumes(velocity, tried)
        return cast("Scan", run.execute(compiled))


def plan_scan(
    survey: Survey,
    velocity: Velocity,
    grid: Grid,
    percents: tuple[float, float, float] = PERCENTS,
    *,
    gathers: ArrayLike | Binning | None = None,
    kernel: str | None = None,
    device: Any = "auto",
    devices: Sequence[Any] | str | None = None,
    in_flight: int | None = None,
    memory: int | None = None,
    rate: float | None = None,
    **ways: Any,
) -> Job:
    """Return what :func:`scan` would do with these arguments, in numbers, without reading a sample."""
    tried = _tried(survey, velocity, grid, percents, gathers, ways)
    kernels = _kernels(devices_of(device, devices), kernel, tried[-1][1])
    job, _ = _describe(kernels, tried, in_flight=in_flight, memory=memory, rate=rate)
    return job


def _tried(
    survey: Survey,
    velocity: Velocity,
    grid: Grid,
    percents: tuple[float, float, float],
    gathers: ArrayLike | Binning | None,
    ways: dict[str, Any],
) -> list[tuple[float, Options]]:
    """Return percentages and the options of their migrations, slowest velocity first.

    The last has the widest aperture, and decides which traces take part.
    """
    defaults = {name: each.default for name, each in inspect.signature(migrate).parameters.items()}
    unknown = sorted(set(ways) - set(defaults))
    if unknown:
        raise InputError(f"scan: there is no option {unknown[0]!r}; it takes those of migrate().")
    given = {**defaults, **ways, "survey": survey, "grid": grid, "gathers": gathers}

    def call(function: Callable[..., Any], **more: Any) -> Any:
        """Give a function those of migrate's arguments that it takes."""
        return function(**{name: {**given, **more}[name] for name in inspect.signature(function).parameters})

    call(check_options)
    if given["datum"] is None:
        warn_of_elevations(survey)
    _not_too_many(percents)
    fields = sorted(velocity.scan(percents), key=lambda pair: pair[0])
    first = call(resolve, velocity=fields[0][1])
    rest = [(p, replace(call(resolve, velocity=v, gathers=None), bins=first.bins)) for p, v in fields[1:]]
    return [(fields[0][0], first), *rest]


def _not_too_many(percents: tuple[float, float, float]) -> None:
    if len(percents) == 3 and percents[2] and (percents[1] - percents[0]) / percents[2] >= _MOST:
        raise InputError(
            f"scan: {percents[0]:g} to {percents[1]:g} in steps of {percents[2]:g} are more than {_MOST} percentages; "
            "take larger steps."
        )


def _describe(
    kernels: Sequence[Kernel],
    tried: Sequence[tuple[float, Options]],
    *,
    layout: Layout | None = None,
    in_flight: int | None = None,
    memory: int | None = None,
    rate: float | None = None,
) -> tuple[Job, list[Pass]]:
    """Plan a scan: the plan of one migration, with as many images as there are percentages."""
    options = tried[-1][1]
    many = images_of([one for _, one in tried])
    given: dict[str, Any] = {"lanes": len(kernels), "in_flight": in_flight, "budget_bytes": memory, "rate": rate}
    one, steps = describe(options, kernels[0], layout=layout, **given)
    if layout is None:
        rows = rows_for("scan", one, options, many)
        if rows < one.plan.tile_rows:
            one, steps = describe(options, kernels[0], layout=Layout(one.block, rows, one.lanes), **given)
    work = many * describe(tried[len(tried) // 2][1], kernels[0], layout=one.layout, **given)[0].contributions
    bins = 0 if options.bins is None else len(options.bins)
    on_host = (many - 1) * 8 * one.times * one.pillars * (1 + bins)
    on_device = (many - 1) * row_bytes(options) * one.plan.tile_rows
    seconds = None if one.plan.seconds is None else one.plan.seconds * work / max(one.contributions, 1.0)
    ends = f"from {tried[0][0]:g} to {tried[-1][0]:g} % of the velocity"
    notes = (*one.plan.notes, f"{len(tried)} images, {ends}, from one pass over the traces.")
    if many > len(tried):
        notes = (*notes, "As many sums of weights are made with them.")
    plan = replace(one.plan, work=work, seconds=seconds, memory_bytes=one.plan.memory_bytes + on_device, notes=notes)
    shared = on_device * one.lanes if kernels[0].device.kind != "cuda" else 0
    job = replace(
        one,
        plan=plan,
        contributions=work,
        host_bytes=one.host_bytes + on_host,
        peak_bytes=one.peak_bytes + on_host + shared + on_device,
    )
    return job, steps


class _ScanVolumes(Volumes):
    """Host arrays with one percentage's times after the other's in every row."""

    def __init__(self, velocity: Velocity, tried: Sequence[tuple[float, Options]]) -> None:
        options = tried[-1][1]
        bins = 0 if options.bins is None else len(options.bins)
        super().__init__(options.grid.size, bins, options.grid.nt * images_of([one for _, one in tried]))
        self._velocity = velocity
        self._tried = tried
        self._percents = np.asarray([percent for percent, _ in tried], np.float64)

    def finish(self, options: Options) -> None:
        """Make of each percentage's sums what was asked for, with its own velocity."""
        nt = options.grid.nt
        if options.normalize == "illumination":
            drop_weights(self, nt)
            return
        for k, (_, one) in enumerate(self._tried):
            mine = slice(k * nt, (k + 1) * nt)
            scale_line(one, self.stack[..., mine], self.panels[..., mine])
        if options.normalize == "fold":
            divide(self.stack, self.fold)
            divide(self.panels, self.panel_fold)

    def image(
        self,
        grid: Grid,
        bins: Assignment | None,
        members: list[int],
        timing: Timing,
        job: Job,
        attributes: dict[str, Any],
    ) -> Image:
        """Label the volumes as a scan."""
        many = len(self._percents)
        flat, deep = (grid.nx, grid.ny, many, grid.nt), (grid.nx, grid.ny, -1, many, grid.nt)
        found = Scan(
            grid,
            self._velocity,
            self._percents,
            self.stack.reshape(flat),
            self.fold.reshape(flat),
            None if bins is None else bins.axis,
            None if bins is None else self.panels.reshape(deep),
            None if bins is None else self.panel_fold.reshape(deep),
            tuple(members),
            timing,
            job,
            {**attributes, "velocity": str(self._velocity)},
        )
        return cast("Image", found)  # what the run passes on as it is
