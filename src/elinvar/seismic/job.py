"""What a migration will do before it does it: trace blocks, image tiles, gather bins, memory and work."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from elinvar.errors import BudgetExceeded, InputError
from elinvar.runtime.device import device
from elinvar.runtime.plan import Job as RuntimeJob
from elinvar.runtime.plan import Plan, preset
from elinvar.runtime.plan import plan as runtime_plan

from .aperture import Aperture
from .kernels.migrate.limits import limited
from .order import morton
from .traveltime import straight_leg

if TYPE_CHECKING:
    from elinvar.runtime.device import DeviceProfile
    from elinvar.runtime.kernels import Kernel

    from .binning import Assignment
    from .grid import Grid
    from .options import Options
    from .survey import Survey
    from .velocity import Velocity

__all__ = [
    "Item",
    "Job",
    "Layout",
    "Pass",
    "block_size",
    "blocks",
    "count_blocks",
    "describe",
    "neighbours",
    "passes",
    "pillars_at_once",
    "row_bytes",
    "rows_for",
    "shares",
]

Indices = NDArray[np.int64]
_SAMPLED = 96  # traces, pillars and times looked at to estimate the work
_BLOCKS_PER_LANE = 8  # at least, where there are traces enough: devices finish together
_SLOW = {"baseline": 5e8, "v1": 3e9}  # contributions in some 10 s of one thread: blocks are what is kept and paused at
TABLE_BYTES = 96  # that a kernel makes of one velocity: travel-time constants in float64 on their way to float32
_TABLES = 1 << 28  # bytes of them that exist at a time
_KEPT = 40  # bytes of the float32 that are kept of one velocity for the next block, and of its copy
_PER_TRACE = 120  # bytes of geometry on the way to a list of passes: midpoints in two frames, flags, positions


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
class Item:
    """Traces that go through the kernel together: of one pass, of one recording delay.

    Attributes
    ----------
    step, number
        Which pass, and which block of it.
    index
        Positions of the traces: in file order until `neighbours` puts those together that are near each other.
    """

    step: int
    number: int
    index: Indices


@dataclass(frozen=True)
class Layout:
    """What decides in which order traces are added up; fixed at the start of a job, also for the run that resumes it.

    Attributes
    ----------
    block
        Traces per block.
    tile_rows
        Pillars per tile.
    lanes
        Images that are made side by side and added at the end of a pass: block i belongs to lane i modulo lanes.
    shards
        Into how many parts a cluster's traces are cut; 0 without one.
    """

    block: int
    tile_rows: int
    lanes: int = 1
    shards: int = 0


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
    lanes
        Devices that work side by side.
    peak_bytes
        Estimated host memory at most, above what the process held before: `host_bytes`, and the device's share where
        the device is the CPU.
    passes
        How often traces are streamed: once per tile and gather bin, each trace once per tile.
    shards
        Parts that the workers of a cluster get, about; 0 without one.
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
    lanes: int = 1
    peak_bytes: int = 0
    passes: int = 1
    shards: int = 0

    @property
    def layout(self) -> Layout:
        """What decides the order of summation."""
        return Layout(self.block, self.plan.tile_rows, self.lanes, self.shards)

    @property
    def version(self) -> str:
        """The kernel version that runs."""
        return next(iter(self.plan.kernels.values()))

    @property
    def tiles(self) -> int:
        """Parts of the image that are resident one after the other."""
        return self.plan.tiles

    def __str__(self) -> str:
        side = f" on each of {self.lanes} devices" if self.lanes > 1 else ""
        bins = f", {self.bins} gather bins" if self.bins else ""
        return (
            f"{self.plan}\n"
            f"  {'traces':<10}{self.traces:,} x {self.samples} samples in {self.blocks} blocks of {self.block}{side}\n"
            f"  {'image':<10}{self.pillars:,} pillars x {self.times} times{bins}, "
            f"{self.passes} {'pass' if self.passes == 1 else 'passes'}\n"
            f"  {'host':<10}{self.peak_bytes / 2**20:,.0f} MiB at most\n"
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


def blocks(survey: Survey, plan: Sequence[Pass], size: int, first_pass: int = 0) -> Iterator[Item]:
    """Yield blocks of at most `size` traces of one recording delay, from a pass on."""
    for step in range(first_pass, len(plan)):
        index = plan[step].index
        number = 0
        for group in np.split(index, np.flatnonzero(np.diff(survey.delay[index])) + 1):
            for first in range(0, len(group), size):
                yield Item(step, number, group[first : first + size])
                number += 1


def shares(survey: Survey, plan: Sequence[Pass], size: int, count: int, first_pass: int = 0) -> Iterator[Item]:
    """Yield what `blocks` does, in about `count` items: as many of each pass as its traces are of all.

    Item i of the n of a pass has its blocks i, i + n, i + 2 n ...: all cost about the same, wherever in the survey the
    traces with much to do are. Blocks of different recording delays are not mixed.
    """
    total = sum(len(step.index) for step in plan)
    for step in range(first_pass, len(plan)):
        index, number = plan[step].index, 0
        for group in np.split(index, np.flatnonzero(np.diff(survey.delay[index])) + 1):
            whole = -(-len(group) // size)
            among = min(whole, max(1, round(count * len(group) / total)))
            for k in range(among):
                parts = [group[first * size : (first + 1) * size] for first in range(k, whole, among)]
                yield Item(step, number, np.concatenate(parts))
                number += 1


def neighbours(survey: Survey, item: Item) -> Item:
    """Return an item in the order in which a kernel takes it.

    A trace that follows its neighbour finds knots, pillars and windows in cache. That order takes some time to find,
    which whoever asks for the next item has not.
    """
    middle = 0.5 * (survey.source[item.index] + survey.receiver[item.index])  # not of all traces, for every item
    return replace(item, index=item.index[morton(middle)])


def count_blocks(survey: Survey, plan: Sequence[Pass], size: int) -> int:
    """Return how many items :func:`blocks` yields."""
    total = 0
    for step in plan:
        starts = np.flatnonzero(np.diff(survey.delay[step.index], prepend=np.nan))
        total += int((-(-np.diff(starts, append=len(step.index)) // size)).sum())
    return total


def pillars_at_once(options: Options) -> int:
    """Return how many pillars go through the kernel in one call: with rays of their own, its tables are large."""
    return max(1, _TABLES // (TABLE_BYTES * options.grid.nt)) if options.own_rays else options.grid.size


def row_bytes(options: Options) -> int:
    """Return the bytes of image, fold, velocity, eta and travel-time tables of one pillar."""
    return (8 + (4 * options.own_rays + _KEPT if options.own_rays else 0)) * options.grid.nt


def rows_for(operation: str, one: Job, options: Options, many: int) -> int:
    """Return how many pillars fit with `many` images resident, for a plan of one.

    Raises
    ------
    BudgetExceeded
        None does.
    """
    per_row, plan = row_bytes(options), one.plan
    rest = max(0, plan.memory_bytes - 2 * per_row * plan.tile_rows)
    left = (plan.budget_bytes - rest) // (2 * many)  # the pool rounds up to powers of two: at most twice as much
    if left < per_row:
        raise BudgetExceeded(
            f"{operation}: {many} images of one pillar need {many * per_row / 2**20:.1f} MiB beside "
            f"{rest / 2**20:.1f} MiB of traces, and {plan.budget_bytes / 2**20:.1f} MiB may be used; raise memory, or "
            "make fewer images at a time."
        )
    tiles = -(-one.pillars // min(one.pillars, left // per_row))
    return min(plan.tile_rows, -(-one.pillars // tiles))


def describe(
    options: Options,
    kernel: Kernel,
    *,
    lanes: int = 1,
    layout: Layout | None = None,
    in_flight: int | None = None,
    budget_bytes: int | None = None,
    rate: float | None = None,
) -> tuple[Job, list[Pass]]:
    """Plan a migration: what happens on the device, and the passes that make it up.

    Parameters
    ----------
    options
        What is wanted.
    kernel
        The kernel, on the first of the devices.
    lanes
        Devices.
    layout
        Blocks and tiles of the job that is gone on with; None decides them.
    in_flight, budget_bytes
        Limits of the user's, per device.
    rate
        Contributions per second of one device, when they are known better than the tuning does.
    """
    survey, grid, velocity, bins = options.survey, options.grid, options.velocity, options.bins
    _check_room(grid, 0 if bins is None else len(bins))
    whole = passes(survey, grid, velocity, options.aperture, bins, grid.size)
    traces = sum(len(step.index) for step in whole)
    width = options.oversample * options.copies  # of what a trace becomes
    # GPUs' kernels read a line per sample, a value and a slope, and with filtered copies the next one's beside it.
    read = 0 if kernel.device.kind == "cpu" else 2 * width if options.copies == 1 else 4 * (width - options.oversample)
    block = block_size(survey.n_samples * width, traces, kernel.device.profile) if layout is None else layout.block
    if lanes > 1 and layout is None:
        block = min(block, max(64, -(-traces // (_BLOCKS_PER_LANE * lanes)) // 64 * 64))
    work = estimate_contributions(survey, grid, velocity, options.aperture, whole)
    if layout is None and kernel.backend != "metal" and kernel.version in _SLOW:
        block = min(block, max(16, int(traces * _SLOW[kernel.version] / max(work, 1.0))))
    count = count_blocks(survey, whole, block)
    trace_bytes = 4 * survey.n_samples
    per_call = pillars_at_once(options)
    per_lane = RuntimeJob(
        kernel.name,
        work / lanes,
        "contributions",
        rows=grid.size,
        row_bytes=row_bytes(options),
        block_bytes=(4 + width + read) * block * trace_bytes,  # samples, padded, spectrum (two), filtered, read
        blocks=-(-count // lanes),
        fixed_bytes=TABLE_BYTES * grid.nt * (min(grid.size, per_call) if options.own_rays else 1),
        bytes_in=traces * (trace_bytes + 16) // lanes,
        bytes_out=8 * grid.size * grid.nt,
        kernels={kernel.name: kernel.version},
        rate=rate,
    )
    limits: dict[str, Any] = {"in_flight": in_flight, "budget_bytes": budget_bytes}
    given = {name: value for name, value in limits.items() if value is not None}
    fixed = runtime_plan(kernel.device, per_lane, **given)
    if lanes > 1:
        fixed = replace(fixed, work=work)
    if layout is not None and layout.tile_rows != fixed.tile_rows:
        fixed = replace(fixed, tile_rows=layout.tile_rows, tiles=-(-grid.size // layout.tile_rows))
    steps = whole if fixed.tiles == 1 else passes(survey, grid, velocity, options.aperture, bins, fixed.tile_rows)
    panels = 0 if bins is None else len(bins)
    host = 8 * grid.size * grid.nt * (1 + panels) + lanes * fixed.in_flight * 2 * block * trace_bytes
    host += _PER_TRACE * survey.n_traces
    on_host = kernel.device.kind != "cuda"
    copy = 0 if kernel.device.kind == "cpu" and lanes == 1 else 8 * fixed.tile_rows * grid.nt
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
        host_bytes=host,
        contributions=work,
        lanes=lanes,
        peak_bytes=host + copy + (lanes * fixed.memory_bytes if on_host else 0),
        passes=len(steps),
    )
    return job, steps


def _check_room(grid: Grid, bins: int) -> None:
    """Refuse an image that this machine cannot hold, before anything of its size is made."""
    needed = 8 * grid.size * grid.nt * (1 + bins)
    there = device("cpu").profile.memory_bytes
    if needed > there:
        gathers = f" and {bins} gather bins" if bins else ""
        raise InputError(
            f"migrate: an image of {grid.nx:,} x {grid.ny:,} pillars x {grid.nt:,} times{gathers} takes "
            f"{needed / 2**30:,.0f} GiB of memory and this machine has {there / 2**30:,.0f}; take larger bins, longer "
            "sample intervals, or target lines."
        )


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
        inside &= _limited(survey, grid, aperture, index, chosen, v[0], t)
        total += float(inside.mean()) * len(step.index) * len(pillars) * grid.nt
    return total


def _limited(
    survey: Survey,
    grid: Grid,
    aperture: Aperture,
    index: Indices,
    chosen: Indices,
    v: NDArray[np.float64],
    t: NDArray[np.float64],
) -> NDArray[np.bool_] | bool:
    """Return what the aperture's further limits leave of (traces, pillars, times)."""
    limits = aperture.limits()
    if limits is None:
        return True
    ends = [torch.from_numpy(grid.local(end[index])) for end in (survey.source, survey.receiver)]
    places, times = torch.from_numpy(grid.local_pillars[chosen]), torch.from_numpy(t)
    rows = torch.from_numpy(np.broadcast_to(v, (len(chosen), len(t))).copy())
    inside = [limited(limits, ends[0], ends[1], place, row, times)[0] for place, row in zip(places, rows, strict=True)]
    return np.stack([one.numpy() for one in inside], axis=1)


def _even(values: Indices) -> Indices:
    """Return up to `_SAMPLED` evenly spread values."""
    step = max(1, math.ceil(len(values) / _SAMPLED))
    return values[step // 2 :: step]
