"""What a migration will do before it does it: trace blocks, image tiles, gather bins, memory and work."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from elinvar.errors import InputError
from elinvar.runtime.plan import Job as RuntimeJob
from elinvar.runtime.plan import Plan, preset
from elinvar.runtime.plan import plan as runtime_plan

from .aperture import Aperture
from .traveltime import straight_leg

if TYPE_CHECKING:
    from elinvar.runtime.device import DeviceProfile
    from elinvar.runtime.kernels import Kernel

    from .binning import Assignment
    from .grid import Grid
    from .survey import Survey
    from .velocity import Velocity

__all__ = ["Job", "Pass", "block_size", "blocks", "describe", "passes"]

Indices = NDArray[np.int64]
_SAMPLED = 96  # traces, pillars and times looked at to estimate the work


@dataclass(frozen=True)
class Pass:
    """One stream of trace blocks into one part of the image.

    Attributes
    ----------
    pillars
        Range of pillars whose image is resident.
    bin
        Gather bin, or None for traces of no bin.
    index
        Positions of the traces, grouped by recording delay, in file order within a group.
    """

    pillars: slice
    bin: int | None
    index: Indices


@dataclass(frozen=True)
class Job:
    """A printable description of a migration.

    Attributes
    ----------
    plan
        Device, kernel version, tiles, blocks in flight, memory, time: fixed for the run.
    why
        Why that kernel version was chosen.
    traces, samples, pillars, times, bins
        Sizes: live traces inside reach of the grid, image pillars, times, gather bins (0: no gathers).
    block, blocks
        Traces per block, and blocks per tile.
    host_bytes
        Estimated memory for the result and the blocks on their way.
    contributions
        Estimated from a sample of traces and pillars.
    """

    plan: Plan
    why: str
    traces: int
    samples: int
    pillars: int
    times: int
    bins: int
    block: int
    blocks: int
    host_bytes: int
    contributions: float

    @property
    def version(self) -> str:
        """The kernel version that runs."""
        return next(iter(self.plan.kernels.values()))

    @property
    def tiles(self) -> int:
        """Parts of the image that are resident one after the other."""
        return self.plan.tiles

    def __str__(self) -> str:
        return (
            f"{self.plan}\n"
            f"  {'traces':<10}{self.traces:,} x {self.samples} samples in {self.blocks} blocks of {self.block}\n"
            f"  {'image':<10}{self.pillars:,} pillars x {self.times} times"
            f"{f', {self.bins} gather bins' if self.bins else ''}, {self.host_bytes / 2**20:,.0f} MiB on the host\n"
            f"  {'chosen':<10}{self.why}"
        )


def passes(
    survey: Survey, grid: Grid, velocity: Velocity, aperture: Aperture, bins: Assignment | None, tile: int
) -> list[Pass]:
    """Cut the work into passes: tiles of `tile` pillars, and within each the gather bins. Empty passes are left out."""
    local = grid.local_pillars
    reach = _reach(grid, velocity, aperture)
    live = np.flatnonzero(survey.live)
    live = live[np.argsort(survey.delay[live], kind="stable")]  # one kernel call has one start time
    midpoint = grid.local(survey.midpoint[live])
    member = np.full(len(live), -1) if bins is None else bins.member[live]
    result = []
    for first in range(0, len(local), tile):
        part = local[first : first + tile]
        near = ((midpoint >= part.min(axis=0) - reach) & (midpoint <= part.max(axis=0) + reach)).all(axis=1)
        for number in range(-1, 0 if bins is None else len(bins)):
            index = live[near & (member == number)]
            if index.size:
                span = slice(first, first + len(part))
                result.append(Pass(span, None if number < 0 else number, index))
    if not result:
        low, high = (survey.midpoint[live].min(axis=0), survey.midpoint[live].max(axis=0))
        corner = grid.pillars
        raise InputError(
            f"migrate: no trace lies within {reach:.0f} m of the grid: midpoints span x {low[0]:.0f} to {high[0]:.0f}, "
            f"y {low[1]:.0f} to {high[1]:.0f} m, the grid x {corner[:, 0].min():.0f} to {corner[:, 0].max():.0f}, "
            f"y {corner[:, 1].min():.0f} to {corner[:, 1].max():.0f} m; Grid.from_survey(survey) covers it."
        )
    return result


def _reach(grid: Grid, velocity: Velocity, aperture: Aperture) -> float:
    """Return the largest aperture radius anywhere in the image, metres."""
    corners = grid.pillars[:: max(1, grid.size // 256)]
    fastest = velocity.on_pillars(grid.t, corners).max(axis=0)
    widest = float(aperture.radius_at(grid.t, fastest).max())
    # Velocities between the sampled pillars may be higher; culling must never drop a contribution.
    return widest * (1.5 if velocity.varies_laterally else 1.0)


def block_size(samples: int, traces: int, profile: DeviceProfile) -> int:
    """Return how many traces one block holds, a multiple of 64 unless there are fewer."""
    # A block also exists padded, as a spectrum and filtered: its samples get a quarter of what a block may take.
    wanted = preset(profile).block_bytes // 4 // (4 * samples)
    return min(max(64, wanted // 64 * 64), max(traces, 1))


def blocks(survey: Survey, plan: Sequence[Pass], size: int) -> Iterator[tuple[Pass, Indices]]:
    """Yield blocks of at most `size` traces of one recording delay."""
    for step in plan:
        for group in np.split(step.index, np.flatnonzero(np.diff(survey.delay[step.index])) + 1):
            for first in range(0, len(group), size):
                yield step, np.sort(group[first : first + size])


def describe(
    survey: Survey,
    grid: Grid,
    velocity: Velocity,
    aperture: Aperture,
    bins: Assignment | None,
    kernel: Kernel,
) -> tuple[Job, list[Pass]]:
    """Plan a migration: what happens on the device, and the passes that make it up."""
    whole = passes(survey, grid, velocity, aperture, bins, grid.size)
    traces = sum(len(step.index) for step in whole)
    block = block_size(survey.n_samples, traces, kernel.device.profile)
    count = sum(1 for _ in blocks(survey, whole, block))
    work = estimate_contributions(survey, grid, velocity, aperture, whole)
    trace_bytes = 4 * survey.n_samples
    fixed = runtime_plan(
        kernel.device,
        RuntimeJob(
            kernel.name,
            work,
            "contributions",
            rows=grid.size,
            row_bytes=(12 if velocity.varies_laterally else 8) * grid.nt,  # image, fold, velocity
            block_bytes=5 * block * trace_bytes,  # samples, padded, spectrum (two), filtered
            blocks=count,
            fixed_bytes=4 * grid.nt,
            bytes_in=traces * (trace_bytes + 16),
            bytes_out=8 * grid.size * grid.nt,
            kernels={kernel.name: kernel.version},
        ),
    )
    panels = 0 if bins is None else len(bins)
    job = Job(
        plan=fixed,
        why=kernel.why,
        traces=traces,
        samples=survey.n_samples,
        pillars=grid.size,
        times=grid.nt,
        bins=panels,
        block=block,
        blocks=count,
        host_bytes=8 * grid.size * grid.nt * (1 + panels) + fixed.in_flight * 2 * block * trace_bytes,
        contributions=work,
    )
    if fixed.tiles == 1:
        return job, whole
    return job, passes(survey, grid, velocity, aperture, bins, fixed.tile_rows)


def estimate_contributions(
    survey: Survey, grid: Grid, velocity: Velocity, aperture: Aperture, plan: Sequence[Pass]
) -> float:
    """Estimate the sum of the fold from an even sample of traces, pillars and times."""
    total = 0.0
    for step in plan:
        pillars = np.arange(step.pillars.start, step.pillars.stop)
        index, chosen = _even(step.index), _even(pillars)
        times = _even(np.arange(grid.nt))
        t = grid.t[times]
        place = grid.pillars[chosen]
        v = velocity.on_pillars(t, place)[None]
        legs = []
        for end in (survey.source[index], survey.receiver[index]):
            distance = np.hypot(*np.moveaxis(end[:, None] - place[None], -1, 0))
            legs.append(straight_leg(distance[..., None], 0.5 * t, v))
        away = np.hypot(*np.moveaxis(survey.midpoint[index][:, None] - place[None], -1, 0))[..., None]
        arrival = legs[0] + legs[1] - survey.delay[index][:, None, None]
        inside = (away <= aperture.radius_at(t, v)) & (arrival >= 0) & (arrival <= (survey.n_samples - 1) * survey.dt)
        total += float(inside.mean()) * len(step.index) * len(pillars) * grid.nt
    return total


def _even(values: Indices) -> Indices:
    """Return up to `_SAMPLED` evenly spread values."""
    step = max(1, math.ceil(len(values) / _SAMPLED))
    return values[step // 2 :: step]
