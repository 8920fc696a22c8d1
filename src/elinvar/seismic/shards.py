"""A lane whose work is done by others: shards of the traces on Dask workers, images added here in shard order.

A shard is some blocks of one pass: the part of the survey that they are, and where to put them. How the traces are cut
depends on the job alone, never on how many workers there are or which of them is faster, so the image is the same bits
from run to run. Every worker must have the same device and run the same kernel.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from elinvar.errors import InputError
from elinvar.runtime.device import device as resolve_device
from elinvar.runtime.kernels import kernel as choose_kernel
from elinvar.runtime.pipeline import Pipeline, Stage

from .choosing import choose
from .job import Item, Job, Pass, blocks, neighbours
from .lane import CLOCKS, DeviceLane, Lane, State
from .options import KERNEL
from .survey import Survey
from .traces import ArrayTraces

if TYPE_CHECKING:
    from elinvar.runtime.cluster import ClusterExecutor

    from .options import Options

__all__ = ["SHARDS", "Shard", "ShardLane", "Workers", "migrate_shard", "shard_traces", "workers_of"]

SHARDS = 32
"""How many shards the traces are cut into: enough to keep sixteen workers busy to the end."""


@dataclass(frozen=True)
class Workers:
    """What the workers of a cluster are: one sort of device, or the image would depend on who made which shard."""

    count: int
    device: str
    version: str
    backend: str


@dataclass(frozen=True)
class Shard:
    """One task: the options with the part of the survey to migrate, and where."""

    step: int
    count: int
    options: Options
    job: Job
    pillars: slice
    device: str
    version: str


@dataclass(frozen=True)
class ShardImage:
    """What a worker sends back."""

    step: int
    count: int
    sounding: int
    image: NDArray[np.float32]
    fold: NDArray[np.int32]
    seconds: dict[str, float]
    worker: str


def shard_traces(job: Job, shards: int) -> int:
    """Return the traces of one shard: whole blocks."""
    wanted = -(-job.traces // max(1, shards))
    return -(-wanted // job.block) * job.block


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
    step = Pass(shard.pillars, None, np.arange(shard.options.survey.n_traces))
    job = replace(shard.job, plan=replace(shard.job.plan, tile_rows=rows))
    lane = DeviceLane(shard.options, chosen, job, [step])
    board = _Solo(shard.options.survey, step, job.block)
    lane.run(board, State())
    worker = f"{socket.gethostname()}:{os.getpid()}"
    return ShardImage(shard.step, shard.count, lane.sounding, board.image, board.fold, lane.seconds, worker)


class _Solo:
    """The board of a lane that is alone and has one pass."""

    image: NDArray[np.float32]
    fold: NDArray[np.int32]

    def __init__(self, survey: Survey, step: Pass, size: int) -> None:
        self._items = (survey, [step], size)

    def items(self, lane: Lane, start: State) -> Iterator[Item]:
        return blocks(*self._items)

    def counted(self, lane: Lane, traces: int) -> None:
        pass

    def arrive(self, lane: Lane) -> None:
        state = lane.state()
        # The lane's memory goes back to the pool.
        self.image, self.fold = np.array(state.image), np.array(state.fold)


class ShardLane(Lane):
    """Shards go out to the workers of a cluster; their images come back in order and are added on the host."""

    def __init__(
        self,
        options: Options,
        job: Job,
        steps: Sequence[Pass],
        executor: ClusterExecutor,
        workers: Workers,
        device: str,
        shard: int,
    ) -> None:
        super().__init__(options, job, steps)
        self._executor = executor
        self._workers = workers
        self._device = device
        self._shard = shard
        self._clocks: dict[str, dict[str, float]] = defaultdict(lambda: dict.fromkeys(CLOCKS, 0.0))
        # The grid's cached maps would travel with every shard.
        self._options = replace(options, bins=None, grid=replace(options.grid))

    @property
    def item_traces(self) -> int:
        """Most traces in one shard."""
        return self._shard

    def state(self) -> State:
        """Return what the shards so far add up to."""
        return State(self.step, self.blocks, self.image, self.fold)

    def absorb(self, other: Lane) -> None:
        """Refuse: workers are many already, lanes are not."""
        raise NotImplementedError("ShardLane.absorb: a cluster is one lane.")

    def _open(self, held: contextlib.ExitStack, items: Iterable[Item]) -> Iterable[ShardImage]:
        stage = Stage(migrate_shard, name="seismic.shard", compute=True)
        flight = 2 * self._workers.count + 1
        pipeline = held.enter_context(Pipeline([stage], in_flight=flight, executor=self._executor))
        return pipeline.run(self._shards(items))

    def _shards(self, items: Iterable[Item]) -> Iterator[Shard]:
        for item in items:
            index = neighbours(self.options.survey, item).index
            part = replace(self._options, survey=_portable(self.options.survey, index))
            span = self.steps[item.step].pillars
            yield Shard(item.step, len(item.index), part, self.job, span, self._device, self._workers.version)

    def _enter(self, step: Pass, start: State) -> None:
        shape = (step.pillars.stop - step.pillars.start, self.job.times)
        self.image = np.zeros(shape, np.float32) if start.image is None else start.image
        self.fold = np.zeros(shape, np.int32) if start.fold is None else start.fold

    def _add(self, result: ShardImage) -> None:
        self.sounding += result.sounding
        self.image += result.image
        self.fold += result.fold
        mine = self._clocks[result.worker]
        for name, seconds in result.seconds.items():
            mine[name] += seconds
        self.seconds = {name: max(clock[name] for clock in self._clocks.values()) for name in CLOCKS}
