"""What is done to a summed image at the end: the factor of a line, and normalisation by fold or illumination.

Illumination is the sum of the weights that the contributions of a sample have: what the same migration makes of traces
that are 1, where they are not muted. It is made in the same pass, as a second image beside the first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from .filters import line_factor, line_gain
from .job import Job, Layout, Pass, describe, row_bytes, rows_for
from .lane import DeviceLane, Lane, SideBySideLane, _Block, _velocities
from .run import Run, Volumes

if TYPE_CHECKING:
    from elinvar.runtime.kernels import Kernel

    from .checkpoint import Session
    from .options import Options
    from .run import Progress

__all__ = [
    "FLOOR",
    "WeighedVolumes",
    "describe_weighed",
    "divide",
    "divisor",
    "drop_weights",
    "images_of",
    "lane_of",
    "lanes_of",
    "run_of",
    "scale_line",
]

FLOOR = 0.01
"""Part of the largest sum of weights at the same time below which there is no mean to speak of, and a sample is 0."""
_AT_ONCE = 1 << 22  # samples of a velocity that exist at a time


def scale_line(options: Options, *volumes: NDArray[np.float32]) -> None:
    """Multiply volumes (pillars, ..., times), in place, by what the weight of a line has and that of an area has not.

    Normalising by illumination needs none: it is in both.
    """
    if not options.line or options.normalize == "illumination":
        return
    grid, velocity = options.grid, options.velocity
    step = max(1, _AT_ONCE // grid.nt)
    for first in range(0, grid.size, step):
        rows = slice(first, min(first + step, grid.size))
        own = rows if velocity.varies_laterally else slice(0, 1)
        factor = line_factor(torch.from_numpy(_velocities(velocity, grid.t, grid.pillars[own]))).numpy()
        for volume in volumes:
            volume[rows] *= factor.reshape(len(factor), *(1,) * (volume.ndim - 2), -1)


def divide(volume: NDArray[np.float32], divisor: NDArray[Any], floor: Any = 0.0) -> NDArray[np.float32]:
    """Divide a volume in place by its fold or weights; 0 where these are 0 or below a floor."""
    enough = (divisor > 0) & (divisor >= floor)
    np.divide(volume, divisor, out=volume, where=enough)
    volume[~enough] = 0.0
    return volume


def floor_of(weights: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the least weight at each time that is divided by."""
    return np.asarray(FLOOR * weights.max(axis=tuple(range(weights.ndim - 1))), np.float32)


class _OnesLane(DeviceLane):
    """A lane whose traces are 1, and have no filter.

    The kernel leaves out what is muted. The mute's rise is the data's: filtering spreads what it leaves, and divided by
    the rise itself that would grow without bound towards the muted zone.
    """

    def _add(self, result: _Block) -> None:
        super()._add(replace(result, traces=self._ones(result)))

    def _ones(self, block: _Block) -> torch.Tensor:
        options = self.options
        ones = torch.ones_like(block.traces[:, : block.traces.shape[1] // options.copies])
        if options.line:
            ones = line_gain(ones, block.start, options.survey.dt / options.oversample)
        return ones.repeat(1, options.copies).contiguous()


class WeighedVolumes(Volumes):
    """Host arrays with an image's times, then its weights', in every row."""

    def __init__(self, options: Options) -> None:
        bins = 0 if options.bins is None else len(options.bins)
        super().__init__(options.grid.size, bins, 2 * options.grid.nt)

    def finish(self, options: Options) -> None:
        """Divide the images by their weights, which are dropped."""
        drop_weights(self, options.grid.nt)

    def weights(self) -> NDArray[np.float32]:
        """Return the sums of weights of the stack, or of the gathers where there are some."""
        both = self.panels if self.panels.shape[1] else self.stack
        return np.ascontiguousarray(both[..., both.shape[-1] // 2 :])


def drop_weights(volumes: Volumes, nt: int) -> None:
    """Divide each image of `nt` times by the weights that follow it in its row, and keep the images only."""
    many = volumes.stack.shape[-1] // (2 * nt)
    for name, fold in (("stack", "fold"), ("panels", "panel_fold")):
        rows = getattr(volumes, name).shape[:-1]
        both, counts = (getattr(volumes, each).reshape(*rows, many, 2, nt) for each in (name, fold))
        values = np.ascontiguousarray(both[..., 0, :])
        for k in range(many if values.size else 0):
            weights = both[..., k, 1, :]
            divide(values[..., k, :], weights, floor_of(weights))
        setattr(volumes, name, values.reshape(*rows, many * nt))
        setattr(volumes, fold, np.ascontiguousarray(counts[..., 0, :]).reshape(*rows, many * nt))


def lane_of(
    images: Sequence[Options], kernel: Kernel, job: Job, steps: Sequence[Pass], number: int = 0
) -> DeviceLane | SideBySideLane:
    """Return the lane that makes an image of each of these options, each with the sum of its weights where needed."""
    parts = [kind(one, kernel, job, steps, number) for one in images for kind in _kinds(one)]
    return parts[0] if len(parts) == 1 else SideBySideLane(images[-1], parts, job, steps, number)


def _kinds(options: Options) -> tuple[type[DeviceLane], ...]:
    return (DeviceLane, _OnesLane) if options.normalize == "illumination" else (DeviceLane,)


def images_of(images: Sequence[Options]) -> int:
    """Return how many images the lane of these options has, sums of weights included."""
    return sum(len(_kinds(one)) for one in images)


def lanes_of(options: Options, kernels: Sequence[Kernel], job: Job, steps: Sequence[Pass]) -> list[Lane]:
    """Return a lane for each device's kernel."""
    return [lane_of([options], chosen, job, steps, i) for i, chosen in enumerate(kernels)]


def run_of(
    options: Options,
    job: Job,
    steps: Sequence[Pass],
    lanes: Sequence[Lane],
    session: Session | None = None,
    progress: Progress | None = None,
) -> Run:
    """Return the run of these lanes, with the volumes they fill."""
    run = Run(options, job, steps, lanes, session, progress)
    if options.normalize == "illumination":
        run.volumes = WeighedVolumes(options)
    return run


def describe_weighed(
    options: Options, kernel: Kernel, *, layout: Layout | None = None, **limits: Any
) -> tuple[Job, list[Pass]]:
    """Plan a migration as `describe` does, with two images where there are weights to be summed."""
    job, steps = describe(options, kernel, layout=layout, **limits)
    if options.normalize != "illumination":
        return job, steps
    if layout is None:
        rows = rows_for("migrate", job, options, 2)
        if rows < job.plan.tile_rows:
            job, steps = describe(options, kernel, layout=Layout(job.block, rows, job.lanes), **limits)
    more = row_bytes(options) * job.plan.tile_rows
    seconds = None if job.plan.seconds is None else 2 * job.plan.seconds
    notes = (*job.plan.notes, "Every block is migrated twice: once for the image, once for the sum of its weights.")
    plan = replace(job.plan, seconds=seconds, memory_bytes=job.plan.memory_bytes + more, notes=notes)
    panels = 1 + job.bins
    host = 8 * options.grid.nt * options.grid.size * panels
    there = job.lanes * more if kernel.device.kind != "cuda" else 0
    return replace(job, plan=plan, host_bytes=job.host_bytes + host, peak_bytes=job.peak_bytes + host + there), steps


class _Quiet:
    """Traces that are 1: their migration counts and weighs every live trace."""

    def __init__(self, shape: tuple[int, int]) -> None:
        self.shape = shape

    def read(self, index: NDArray[np.int64]) -> NDArray[np.float32]:
        return np.ones((len(index), self.shape[1]), np.float32)


def divisor(options: Options, kernel: Kernel, **limits: Any) -> tuple[NDArray[Any], Any]:
    """Return what a normalised migration of live traces divides by, and the floor: (pillars, [bins,] times).

    It costs a migration; no sample is read.
    """
    survey = options.survey.with_traces(_Quiet(options.survey.traces.shape))
    asked = replace(options, survey=survey, phase_filter=False)
    if options.normalize == "fold":
        asked = replace(asked, normalize=None)
    job, steps = describe_weighed(asked, kernel, **limits)
    run = run_of(asked, job, steps, lanes_of(asked, [kernel], job, steps))
    volumes = run.sum_up()
    if isinstance(volumes, WeighedVolumes):
        weights = volumes.weights()
        return weights, floor_of(weights)
    return (volumes.panel_fold if volumes.panel_fold.shape[1] else volumes.fold), 0.0
