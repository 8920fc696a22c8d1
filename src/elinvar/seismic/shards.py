"""A lane whose work is done by others: shards of the traces on Dask workers, images added here in shard order.

A shard is some blocks of one pass, spread over the survey: their traces, and where to put them. How the traces are cut
is fixed when the job begins, whichever worker is faster, comes or goes, so the image is the same bits from run to run.
Every worker must have the same device and run the same kernel.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from elinvar.errors import InputError
from elinvar.runtime.device import device as resolve_device
from elinvar.runtime.kernels import kernel as choose_kernel
from elinvar.runtime.parallel import parallel_for
from elinvar.runtime.parcel import Parcel
from elinvar.runtime.pipeline import Pipeline, Stage
from elinvar.runtime.transfers import transfers

from ._check import count
from .choosing import choose
from .finishing import images_of, lane_of
from .job import Item, Job, Pass, shares
from .lane import CLOCKS, Lane, State
from .options import KERNEL
from .survey import Survey
from .traces import ArrayTraces

if TYPE_CHECKING:
    from elinvar.runtime.cluster import ClusterExecutor

    from .checkpoint import Session
    from .options import Options

__all__ = ["Shard", "ShardLane", "Staff", "Workers", "migrate_shard", "shard_count", "workers_of"]

_AT_ONCE = 1 << 18  # samples that one thread adds at a time

_SHARE = 10
"""A shard's work takes at least so many times as long as its image takes to arrive."""
_PER_SAMPLE = {"gpu": 5e3, "cpu": 5e1}
"""Contributions that a worker makes in the 5 ns that a sample of an image and its fold take from worker to sum."""
_MOST = 32
"""Shards per worker, at most: a worker that dies loses less, and a pause comes sooner, the more there are."""


@dataclass(frozen=True)
class Workers:
    """What the workers of a cluster are: one sort of device, or the image would depend on who made which shard."""

    count: int
    device: str
    version: str
    backend: str


@dataclass(frozen=True)
class Shard:
    """One task: the options of every image with the part of the survey to migrate, and where."""

    step: int
    count: int
    images: tuple[Options, ...]
    job: Job
    pillars: slice
    device: str
    version: str
    near: bool = False


@dataclass(frozen=True)
class ShardImage:
    """What a worker sends back: image and fold, (pillars, times of all images)."""

    step: int
    count: int
    sounding: int
    parcel: Parcel
    seconds: dict[str, float]
    worker: str


def shard_count(job: Job, workers: Workers, images: int = 1) -> int:
    """Return how many shards are worth it: two per worker, more while their images cost little beside them.

    With one, all images would come at once when all the work is done; of two, the first are added during the second.
    """
    samples = max(1, job.pillars * job.times * images)
    worth = job.contributions / (samples * _SHARE * _PER_SAMPLE["cpu" if workers.backend == "cpu" else "gpu"])
    return workers.count * int(min(max(worth / workers.count, 2), _MOST))


def _worker(device: str, version: str | None, needs: Sequence[str] = ()) -> tuple[str, str, str]:
    """Say what a worker has; runs there."""
    chosen = choose(KERNEL, resolve_device(device), version, needs)
    profile = chosen.device.profile
    name = " ".join([profile.name, *(sorted(profile.isa) if profile.kind == "cpu" else ())])
    return name, chosen.version, chosen.backend


def workers_of(executor: ClusterExecutor, device: str, version: str | None, needs: Sequence[str] = ()) -> Workers:
    """Ask every worker for its device and the kernel that does what is needed.

    Raises
    ------
    InputError
        There are no workers, or they differ.
    """
    answers = list(executor.client.run(_worker, device, version, needs).values())
    if not answers:
        raise InputError("migrate: the cluster has no workers; start some with `dask worker ADDRESS`.")
    kinds = sorted(set(answers))
    if len(kinds) > 1:
        shown = "; ".join(f"{name.split(' avx')[0]} with {version}" for name, version, _ in kinds[:3])
        raise InputError(f"migrate: the workers differ ({shown}), and so would the image; use workers of one kind.")
    return Workers(len(answers), *kinds[0])


def _portable(survey: Survey, index: NDArray[np.int64]) -> Survey:
    """Return some traces of a survey in a form that another process can read: a file by its full path, else samples."""
    part = survey.select(index)
    inner: Any = part.traces
    while not hasattr(inner, "path") and hasattr(inner, "traces"):
        inner = inner.traces  # a selection of a selection
    if not hasattr(inner, "path"):
        return part.with_traces(ArrayTraces(part.traces.read(np.arange(len(index)))))
    return part if Path(inner.path).is_absolute() else part.with_traces(_absolute(part.traces))


def _absolute(traces: Any) -> Any:
    if hasattr(traces, "path"):
        return replace(traces, path=Path(traces.path).absolute())
    return replace(traces, traces=_absolute(traces.traces))


def migrate_shard(shard: Shard) -> ShardImage:
    """Migrate one shard on this process's device."""
    chosen = choose_kernel(KERNEL, resolve_device(shard.device), shard.version)
    rows = shard.pillars.stop - shard.pillars.start
    step = Pass(shard.pillars, None, np.arange(shard.images[0].survey.n_traces))  # cut into the same blocks again
    job = replace(shard.job, plan=replace(shard.job.plan, tile_rows=rows))
    lane = lane_of(shard.images, chosen, job, [step])
    board = _Solo(shard.near)
    lane.run(board, State())
    worker = f"{socket.gethostname()}:{os.getpid()}"
    return ShardImage(shard.step, shard.count, lane.sounding, board.parcel, lane.seconds, worker)


class _Solo:
    """The board of a lane that is alone and has one pass."""

    parcel: Parcel

    def __init__(self, near: bool) -> None:
        self._near = near

    def items(self, lane: Lane, start: State) -> Iterator[Item]:
        return lane.cut(start.step)

    def counted(self, lane: Lane, traces: int) -> None:
        pass

    def arrive(self, lane: Lane) -> None:
        """Copy what the lane holds to where it is sent from; the lane's memory goes back to the pool."""
        begin = time.perf_counter()
        images = lane.resident()
        rows, nt = images[0][0].shape
        shape = (rows, nt * len(images))
        self.parcel = Parcel([(shape, np.float32), (shape, np.int32)], near=self._near)
        for k, image in enumerate(images):
            for whole, resident in zip(self.parcel.arrays, image, strict=True):
                place = torch.from_numpy(whole)[:, k * nt : (k + 1) * nt]
                place.copy_(resident)
                if resident.device.type != "cpu":
                    transfers.record(False, resident.numel() * resident.element_size())
        lane.seconds["store"] += time.perf_counter() - begin


class ShardLane(Lane):
    """Shards go out to the workers of a cluster; their images come back in order and are added on the host.

    Parameters
    ----------
    images
        Options of each image; the last says which traces take part.
    shards
        Into how many parts the traces are cut, about.
    """

    def __init__(
        self,
        images: Sequence[Options],
        job: Job,
        steps: Sequence[Pass],
        executor: ClusterExecutor,
        workers: Workers,
        device: str,
        shards: int,
    ) -> None:
        super().__init__(images[-1], job, steps)
        self._executor = executor
        self._workers = workers
        self._device = device
        self._shards = shards
        self._clocks: dict[str, dict[str, float]] = defaultdict(lambda: dict.fromkeys(CLOCKS, 0.0))
        self._adding = 0.0
        # The grid's cached maps would travel with every shard.
        self._images = [replace(one, bins=None, grid=replace(one.grid)) for one in images]

    def cut(self, first: int) -> Iterator[Item]:
        """Cut the traces into shards."""
        return shares(self.options.survey, self.steps, self.job.block, self._shards, first)

    def state(self, room: tuple[NDArray[np.float32], NDArray[np.int32]] | None = None) -> State:
        """Return what the shards so far add up to; the arrays are not written to after a pass."""
        del room
        return State(self.step, self.blocks, self.image, self.fold, fresh=True)

    def absorb(self, other: Lane) -> None:
        """Refuse: workers are many already, lanes are not."""
        raise NotImplementedError("ShardLane.absorb: a cluster is one lane.")

    def _open(self, held: contextlib.ExitStack, items: Iterable[Item]) -> Iterable[ShardImage]:
        stage = Stage(migrate_shard, name="seismic.shard", compute=True)
        flight = 2 * self._workers.count + 1
        pipeline = held.enter_context(Pipeline([stage], in_flight=flight, executor=self._executor))
        return pipeline.run(self._parts(items))

    def _parts(self, items: Iterable[Item]) -> Iterator[Shard]:
        version, near = self._workers.version, self._executor.near
        for item in items:
            part = _portable(self.options.survey, item.index)
            images = tuple(replace(one, survey=part) for one in self._images)
            span = self.steps[item.step].pillars
            yield Shard(item.step, len(item.index), images, self.job, span, self._device, version, near)

    def _enter(self, step: Pass, start: State) -> None:
        shape = (step.pillars.stop - step.pillars.start, self.job.times * images_of(self._images))
        self.image = np.zeros(shape, np.float32) if start.image is None else start.image
        self.fold = np.zeros(shape, np.int32) if start.fold is None else start.fold

    def _add(self, result: ShardImage) -> None:
        begin = time.perf_counter()
        self.sounding += result.sounding
        image, fold = result.parcel.arrays

        def some(first: int, stop: int) -> None:
            self.image[first:stop] += image[first:stop]
            self.fold[first:stop] += fold[first:stop]

        parallel_for(len(image), some, chunk=max(1, _AT_ONCE // image.shape[1]))
        mine = self._clocks[result.worker]
        for name, seconds in result.seconds.items():
            mine[name] += seconds
        self._adding += time.perf_counter() - begin
        self.seconds = {name: max(clock[name] for clock in self._clocks.values()) for name in CLOCKS}
        self.seconds["store"] += self._adding


@dataclass(frozen=True)
class Staff:
    """The workers of a cluster, and how to reach them."""

    executor: ClusterExecutor
    workers: Workers
    device: str

    def lane(
        self, images: Sequence[Options], job: Job, steps: Sequence[Pass], shards: int | None, session: Session | None
    ) -> tuple[Job, list[Lane]]:
        """Return the job with the number of its shards, as before when it is gone on with, and its one lane."""
        if shards is not None:
            parts = count("migrate", "shards", shards)
        elif session is not None and session.layout is not None:
            parts = session.layout.shards
        else:
            parts = shard_count(job, self.workers, images_of(images))
        job = replace(job, shards=parts)
        return job, [ShardLane(images, job, steps, self.executor, self.workers, self.device, parts)]
