"""One stream of trace blocks into one resident image: on a device of this process (`DeviceLane`).

A job has one lane, or one per device. Its passes come one after the other; what a lane holds after so many blocks of a
pass depends on nothing else, so that (pass, blocks, image, fold) is all there is to keep in order to go on later.
"""

from __future__ import annotations

import contextlib
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from elinvar.errors import InputError
from elinvar.runtime.pipeline import Pipeline, Stage
from elinvar.runtime.trace import trace
from elinvar.runtime.transfers import to_device, to_host, transfers

from .elevations import heights
from .filters import bank, line_gain, resample
from .filters import phase_filter as apply_phase_filter
from .job import Item, Job, Pass, blocks, neighbours, pillars_at_once
from .kernels.migrate import Relief

if TYPE_CHECKING:
    from elinvar.runtime.kernels import Kernel

    from .options import Options
    from .velocity import Velocity

__all__ = ["CLOCKS", "Board", "DeviceLane", "Lane", "State"]

CLOCKS = ("load", "filter", "transfer", "kernel", "store")
_VELOCITIES_AT_ONCE = 1 << 18  # in float64 on their way to float32: an interpolation holds a dozen such arrays


@dataclass(frozen=True)
class State:
    """How far a lane is: all of passes before `step`, and `blocks` of its items in that one.

    `image` and `fold` are what those blocks left, (pillars of the pass, times); None at the beginning of a pass.
    `fresh` says that they are nobody else's.
    """

    step: int = 0
    blocks: int = 0
    image: NDArray[np.float32] | None = None
    fold: NDArray[np.int32] | None = None
    fresh: bool = False


class Board(Protocol):
    """What a lane reports to."""

    def items(self, lane: Lane, start: State) -> Iterator[Item]:
        """Return the lane's items from `start` on, in order."""

    def counted(self, lane: Lane, traces: int) -> None:
        """Take note of an item that is in the image; may keep the lane's state, and may raise to end the run."""

    def arrive(self, lane: Lane) -> None:
        """Collect what the lane holds at the end of a pass; returns when every lane may go on to the next."""


class Lane(ABC):
    """See the module.

    Attributes
    ----------
    step, blocks
        How far it is.
    sounding
        Traces so far that are not zero throughout.
    seconds
        One clock per thread that writes it.
    """

    def __init__(self, options: Options, job: Job, steps: Sequence[Pass], number: int = 0) -> None:
        self.options = options
        self.job = job
        self.steps = steps
        self.number = number
        self.step = 0
        self.blocks = 0
        self.sounding = 0
        self.seconds = dict.fromkeys(CLOCKS, 0.0)

    def run(self, board: Board, start: State) -> None:
        """Work through every pass from `start` on."""
        with contextlib.ExitStack() as held:
            results = self._open(held, board.items(self, start))
            self.step, self.blocks = start.step, start.blocks
            self._enter(self.steps[self.step], start)
            for result in results:
                while self.step < result.step:
                    self._leave(board)
                self._add(result)
                self.blocks += 1
                board.counted(self, result.count)
            while self.step < len(self.steps):
                self._leave(board)

    def _leave(self, board: Board) -> None:
        """End a pass and enter the next, if there is one."""
        board.arrive(self)
        self.step, self.blocks = self.step + 1, 0
        if self.step < len(self.steps):
            self._enter(self.steps[self.step], State(self.step))

    def cut(self, first: int) -> Iterator[Item]:
        """Cut the traces of all lanes together into items, from a pass on."""
        return blocks(self.options.survey, self.steps, self.job.block, first)

    @property
    def pillars(self) -> int:
        """Pillars of the pass that is under way."""
        span = self.steps[self.step].pillars
        return int(span.stop - span.start)

    @abstractmethod
    def state(self, room: tuple[NDArray[np.float32], NDArray[np.int32]] | None = None) -> State:
        """Return how far the lane is, its arrays on the host; on the CPU they are the lane's own, not copies.

        `room` for image and fold is used where they have to be copied: memory that was written to before takes a copy
        several times as fast as new memory.
        """

    @abstractmethod
    def absorb(self, other: Lane) -> None:
        """Add what another lane made of the same pass."""

    def resident(self) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Return its images of the pass, with their folds, where they are."""
        raise NotImplementedError(f"{type(self).__name__}.resident: nothing of it is on a device.")

    @abstractmethod
    def _open(self, held: contextlib.ExitStack, items: Iterable[Item]) -> Iterable[Any]:
        """Start what turns items into results in their order; each has `step` and `count`."""

    @abstractmethod
    def _enter(self, step: Pass, start: State) -> None:
        """Make the image of a pass resident, zero or as it was."""

    @abstractmethod
    def _add(self, result: Any) -> None:
        """Add one result to the resident image."""


@dataclass(frozen=True)
class _Block:
    """A trace block on its way to the kernel; the tensors move from host to device."""

    step: int
    count: int  # traces it stands for, silent ones included
    start: float
    traces: torch.Tensor
    source: torch.Tensor
    receiver: torch.Tensor
    muted: torch.Tensor | None = None  # from when to when, seconds, (n, 2)
    heights: torch.Tensor | None = None  # of source and receiver, metres, (n, 2)


class DeviceLane(Lane):
    """Blocks are loaded and prepared in the background and migrated by the thread that calls ``run``."""

    image: torch.Tensor
    fold: torch.Tensor
    _places: torch.Tensor
    _vrms: torch.Tensor
    _eta: torch.Tensor | None = None
    _level: torch.Tensor | None = None

    def __init__(self, options: Options, kernel: Kernel, job: Job, steps: Sequence[Pass], number: int = 0) -> None:
        super().__init__(options, job, steps, number)
        self.kernel = kernel
        self.device = kernel.device
        self._resident: slice | None = None
        self._at_once = pillars_at_once(options)
        # Filtering one block must not wait until another has left the GPU: its few kernels go before what is queued.
        stream: Any = torch.cuda.Stream
        self._ahead = stream(self.device.torch, priority=-1) if self.device.kind == "cuda" else None

    def resident(self) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Return its image and fold."""
        n = self.pillars
        return [(self.image[:n], self.fold[:n])]

    def state(self, room: tuple[NDArray[np.float32], NDArray[np.int32]] | None = None) -> State:
        """Return how far it is."""
        both = self.resident()[0]
        if room is not None and self.device.kind == "cuda":
            for place, resident in zip(room, both, strict=True):
                torch.from_numpy(place).copy_(resident)
                transfers.record(False, place.nbytes)
            return State(self.step, self.blocks, *room, fresh=True)
        image, fold = (to_host(x).numpy() for x in both)
        return State(self.step, self.blocks, image, fold, fresh=self.device.kind != "cpu")

    def absorb(self, other: Lane) -> None:
        """Add another device's image of the same pass to this one's."""
        assert isinstance(other, DeviceLane)
        n = self.pillars
        for mine, theirs in ((self.image, other.image), (self.fold, other.fold)):
            mine[:n] += theirs[:n].to(mine.device)

    def _open(self, held: contextlib.ExitStack, items: Iterable[Item]) -> Iterable[_Block]:
        if self.device.kind == "cuda":
            held.enter_context(torch.cuda.device(self.device.torch))
        shape = (self.job.plan.tile_rows, self.options.grid.nt)
        self.image = held.enter_context(self.device.pool.acquire(shape, torch.float32)).tensor
        self.fold = held.enter_context(self.device.pool.acquire(shape, torch.int32)).tensor
        stages = [
            Stage(lambda item: self._load(neighbours(self.options.survey, item)), name="seismic.load"),
            Stage(self._prepare, name="seismic.prepare", device=self.device),
        ]
        self._resident = None
        return held.enter_context(Pipeline(stages, in_flight=self.job.plan.in_flight)).run(items)

    def _load(self, item: Item) -> _Block:
        """Read samples, drop silent traces, refuse broken ones, and move coordinates to the local frame."""
        begin = time.perf_counter()
        block = self.options.survey.block(item.index)
        sounding = _sounding(block.traces)
        if sounding is None:
            bad = int(item.index[np.flatnonzero(~np.isfinite(block.traces).all(axis=1))[0]])
            raise InputError(
                f"migrate: trace {bad} of {self.options.survey.name} has samples that are not finite; repair the file, "
                "or leave the trace out with survey.select()."
            )
        local = [self.options.grid.local(end[sounding]).astype(np.float32) for end in (block.source, block.receiver)]
        samples = block.traces if sounding.all() else block.traces[sounding]
        source, receiver = (torch.from_numpy(end) for end in local)
        start, options, index = float(block.delay[0]), self.options, item.index[sounding]
        of_trace = {
            "muted": None if options.mute is None else options.mute.zones(options.survey, index),
            "heights": None if options.datum is None else heights(options.survey, index),
        }
        more = {name: torch.from_numpy(x) for name, x in of_trace.items() if x is not None}
        self.seconds["load"] += time.perf_counter() - begin
        return _Block(item.step, len(item.index), start, torch.from_numpy(samples), source, receiver, **more)

    def _prepare(self, block: _Block) -> _Block:
        """Copy to the device and filter there; done when it returns."""
        with contextlib.nullcontext() if self._ahead is None else torch.cuda.stream(self._ahead):
            return self._prepared(block)

    def _prepared(self, block: _Block) -> _Block:
        begin = time.perf_counter()
        names = ("traces", "source", "receiver", "muted", "heights")
        given = {name: getattr(block, name) for name in names if getattr(block, name) is not None}
        there: dict[str, Any] = {name: to_device(x, self.device) for name, x in given.items()}
        self._wait()
        copied = time.perf_counter()
        if len(block.traces):
            there["traces"] = self._filtered(there["traces"], block)
            self._wait()
        self.seconds["transfer"] += copied - begin
        self.seconds["filter"] += time.perf_counter() - copied
        return replace(block, **there)

    def _filtered(self, traces: torch.Tensor, block: _Block) -> torch.Tensor:
        """What the kernel reads: traces after mute and phase filter, at its sampling."""
        options = self.options
        dt = options.survey.dt
        if options.mute is not None:
            traces = traces * self._mute(block, dt, traces.shape[1])
        if options.phase_filter:
            how: dict[str, Any] = {"interpolation": options.interpolation, "oversample": options.oversample}
            dimensions = 3 if options.dimension == "3d" else 2
            traces = apply_phase_filter(traces, dt, dimensions=dimensions, **how)
        elif options.oversample > 1:
            traces = resample(traces, options.oversample)
        if options.line:
            traces = line_gain(traces, block.start, dt / options.oversample)
        return traces if options.antialias is None else bank(traces, options.copies, options.antialias)

    def _mute(self, block: _Block, dt: float, ns: int) -> torch.Tensor:
        """What the mute multiplies samples by, (traces, ns)."""
        mute = self.options.mute
        assert mute is not None
        assert block.muted is not None
        zones = to_host(block.muted).numpy()  # a few numbers, where they are not here already
        return to_device(torch.from_numpy(mute.weights(zones, block.start, dt, ns)), self.device)

    def _enter(self, step: Pass, start: State) -> None:
        """Make a pass's part of the image resident; pillars and velocities go up once per tile."""
        if self._resident != step.pillars:
            grid, velocity = self.options.grid, self.options.velocity
            pillars = grid.local_pillars[step.pillars].astype(np.float32)
            self._places = to_device(torch.from_numpy(pillars), self.device)
            rows = step.pillars if velocity.varies_laterally else slice(0, 1)
            vrms = _velocities(velocity, grid.t, grid.pillars[rows])
            self._vrms = to_device(torch.from_numpy(vrms), self.device)
            eta = self.options.eta
            if eta is not None:
                part = (eta[step.pillars] if len(eta) > 1 else eta).astype(np.float32)
                self._eta = to_device(torch.from_numpy(part), self.device)
            if self.options.datum is not None:
                level = self.options.datum[step.pillars] if len(self.options.datum) > 1 else self.options.datum
                self._level = to_device(torch.from_numpy(level.astype(np.float32)), self.device)
            self._resident = step.pillars
        for resident, kept in ((self.image, start.image), (self.fold, start.fold)):
            if kept is None:
                resident.zero_()
            else:
                resident[: len(kept)].copy_(to_device(torch.from_numpy(kept), self.device))

    def _add(self, result: _Block) -> None:
        """Add one block to the resident image."""
        if not len(result.traces):
            return
        self.sounding += len(result.traces)
        n = self.pillars
        begin = time.perf_counter()
        with trace("seismic.kernel", traces=len(result.traces), pillars=n):
            for first in range(0, n, self._at_once):
                part = slice(first, min(first + self._at_once, n))
                own = self.options.velocity.varies_laterally
                self.kernel(
                    self.image[part],
                    self.fold[part],
                    result.traces,
                    result.source,
                    result.receiver,
                    self._places[part],
                    self._vrms[part] if own else self._vrms,
                    dt=self.options.survey.dt / self.options.oversample,
                    start=result.start,
                    dt_out=self.options.grid.dt,
                    t0_out=self.options.grid.t0,
                    amplitude=self.options.amplitude,
                    aperture=self.options.aperture.for_kernel(),
                    area=self.options.area,
                    physics=self.options.physics,
                    medium=self.options.medium,
                    eta=None if self._eta is None else self._eta[part] if len(self._eta) > 1 else self._eta,
                    **self.options.features(),
                    **self._of_traces(result, part),
                )
            self._wait()
        self.seconds["kernel"] += time.perf_counter() - begin

    def _of_traces(self, block: _Block, part: slice) -> dict[str, Any]:
        """What the kernel is told of single traces beside where their ends are."""
        told: dict[str, Any] = {} if block.muted is None else {"mute": block.muted}
        if block.heights is not None:
            assert self._level is not None
            level = self._level[part] if len(self._level) > 1 else self._level
            told["relief"] = Relief(block.heights, level, self.options.replacement)
        return told

    def _wait(self) -> None:
        """Wait for this thread's work on the device, so that the clocks mean something."""
        if self.device.kind == "cuda":
            torch.cuda.current_stream(self.device.torch).synchronize()
        elif self.device.kind == "mps":
            self.device.synchronize()


class SideBySideLane(Lane):
    """One stream of traces into several images of a `DeviceLane` each, side by side in every row.

    For the run that it belongs to they are one image of as many times more.
    """

    def __init__(
        self, options: Options, parts: Sequence[DeviceLane], job: Job, steps: Sequence[Pass], number: int = 0
    ) -> None:
        super().__init__(options, job, steps, number)
        self._parts = list(parts)
        for part in self._parts:
            part.seconds = self.seconds  # one clock for all

    def resident(self) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Return image and fold of each part."""
        return [both for part in self._parts for both in part.resident()]

    def state(self, room: tuple[NDArray[np.float32], NDArray[np.int32]] | None = None) -> State:
        """Return how far it is, the images side by side."""
        del room
        states = [part.state() for part in self._parts]
        image, fold = (np.concatenate([getattr(s, name) for s in states], axis=1) for name in ("image", "fold"))
        return State(self.step, self.blocks, image, fold, fresh=True)

    def absorb(self, other: Lane) -> None:
        """Add another device's images of the same pass to this one's."""
        assert isinstance(other, type(self))
        for mine, theirs in zip(self._parts, other._parts, strict=True):  # noqa: SLF001
            mine.absorb(theirs)

    def _open(self, held: contextlib.ExitStack, items: Iterable[Item]) -> Iterable[_Block]:
        first, *others = self._parts
        for part in others:
            part._open(held, ())  # noqa: SLF001  (its image only: nothing goes through its pipeline)
        return first._open(held, items)  # noqa: SLF001

    def _enter(self, step: Pass, start: State) -> None:
        nt = self.job.times
        for k, part in enumerate(self._parts):
            part.step, part.blocks = self.step, self.blocks
            mine = slice(k * nt, (k + 1) * nt)
            image = None if start.image is None else np.ascontiguousarray(start.image[:, mine])
            fold = None if start.fold is None else np.ascontiguousarray(start.fold[:, mine])
            part._enter(step, replace(start, image=image, fold=fold))  # noqa: SLF001

    def _add(self, result: _Block) -> None:
        for part in self._parts:
            part._add(result)  # noqa: SLF001
        self.sounding = self._parts[0].sounding


def _sounding(traces: NDArray[np.float32]) -> NDArray[np.bool_] | None:
    """Return which traces are not zero throughout, or None when a sample is not finite."""
    # One pass over memory; only what over- or underflows in it is looked at sample by sample.
    energy = np.einsum("ij,ij->i", traces, traces)
    odd = ~(np.isfinite(energy) & (energy > 0))
    sounding: NDArray[np.bool_] = ~odd
    if odd.any():
        rest = traces[odd]
        if not np.isfinite(rest).all():
            return None
        sounding[odd] = rest.any(axis=1)
    return sounding


def _velocities(velocity: Velocity, t: NDArray[np.float64], places: NDArray[np.float64]) -> NDArray[np.float32]:
    """Return RMS velocities at places (n, 2), float32 (n, nt), some at a time."""
    result = np.empty((len(places), len(t)), np.float32)
    step = max(1, _VELOCITIES_AT_ONCE // len(t))
    for first in range(0, len(places), step):
        result[first : first + step] = velocity.on_pillars(t, places[first : first + step])
    return result
