"""A migration under way: lanes that work side by side, passes that are added up in order, what is kept on disk."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from elinvar.errors import Cancelled, InputError
from elinvar.runtime.trace import trace

from .image import Gathers, Image, Timing
from .job import Item, Job, Pass
from .lane import CLOCKS, DeviceLane, Lane, State

if TYPE_CHECKING:
    from .binning import Assignment
    from .checkpoint import Session
    from .grid import Grid
    from .options import Options

__all__ = ["Progress", "Run"]

Progress = Callable[[int, "int | None"], object]
_TOUCHED = 1 << 22  # samples of a stack whose pages are asked for at a time
_POLL = 0.2  # seconds between looks of the main thread at its lanes: Ctrl-C needs it awake


class _Abandoned(Exception):
    """Another lane ended the run."""


class Run:
    """Carries out one job; use it once."""

    def __init__(
        self,
        options: Options,
        job: Job,
        steps: Sequence[Pass],
        lanes: Sequence[Lane],
        session: Session | None,
        progress: Progress | None,
    ) -> None:
        self.options = options
        self.job = job
        self.steps = steps
        self.lanes = lanes
        self.session = session
        self.progress = progress
        bins = options.bins
        self.volumes = Volumes(options.grid.size, 0 if bins is None else len(bins), options.grid.nt)
        self.done, self.total = 0, sum(len(step.index) for step in steps)
        self._lock = threading.RLock()  # counts, progress, how the run ends
        self._disk = threading.RLock()  # which passes are on disk
        self._pending: list[int] = []  # finished passes that are not on disk
        self._store = 0.0
        self._stop: BaseException | None = None
        self._barrier = threading.Barrier(len(lanes), self._collect)

    def execute(self, compile_seconds: float) -> Image:
        """Run to the end, or to a pause, and label what came out."""
        begin = time.perf_counter()
        self.sum_up()
        self.volumes.finish(self.options)
        # Lanes work at the same time: the slowest one's clocks are the job's.
        clock = {name: max(lane.seconds[name] for lane in self.lanes) for name in CLOCKS}
        timing = Timing(
            compile=compile_seconds,
            prepare=clock["load"] + clock["filter"],
            transfer=clock["transfer"],
            kernel=clock["kernel"],
            store=clock["store"] + self._store,
            total=time.perf_counter() - begin,
        )
        bins = self.options.bins
        members = [] if bins is None else [self._traces_in(number) for number in range(len(bins))]
        return self.volumes.image(self.options.grid, bins, members, timing, self.job, self.options.attributes())

    def sum_up(self) -> Volumes:
        """Run to the end, or to a pause, and return the sums as they are."""
        starts = self._restore()
        first = self.lanes[0]
        if len(self.steps) == 1 and isinstance(first, DeviceLane) and first.device.kind == "cuda":
            self.volumes.touch()
        if starts[0].step < len(self.steps):
            if len(self.lanes) == 1:
                self.lanes[0].run(self, starts[0])
            else:
                self._side_by_side(starts)
        self._check_sound(anew=not starts[0].step and not any(start.blocks for start in starts))
        return self.volumes

    def _check_sound(self, *, anew: bool) -> None:
        """Refuse to call an image what holds nothing because no trace does."""
        if anew and not any(lane.sounding for lane in self.lanes):
            survey = self.options.survey
            raise InputError(
                f"migrate: all {self.job.traces} traces of {survey.name} near the grid are zero throughout; there is "
                "nothing to image: check the file."
            )

    def _traces_in(self, number: int) -> int:
        """Count the traces of a gather bin; tiles may share some."""
        parts = [step.index for step in self.steps if step.bin == number]
        return len(np.unique(np.concatenate(parts))) if parts else 0

    # ---------------------------------------------------------------- going on

    def _restore(self) -> list[State]:
        """Take what is on disk and return where each lane starts."""
        if self.session is None:
            return [State() for _ in self.lanes]
        for step in range(self.session.passes):
            self.volumes.add(self.steps[step], *self.session.read_pass(step))
            self.done += len(self.steps[step].index)
        starts = [self.session.read_lane(lane.number) for lane in self.lanes]
        for lane, start in zip(self.lanes, starts, strict=True):
            if start.blocks:
                behind = self._of(lane, State(start.step))
                self.done += sum(len(next(behind).index) for _ in range(start.blocks))
        if self.done and self.progress is not None:
            self.progress(self.done, self.total)
        return starts

    def _of(self, lane: Lane, start: State) -> Iterator[Item]:
        among = len(self.lanes)
        for item in lane.cut(start.step):
            turn, mine = divmod(item.number, among)
            if mine == lane.number and (item.step > start.step or turn >= start.blocks):
                yield item

    # ---------------------------------------------------------------- what lanes report

    def items(self, lane: Lane, start: State) -> Iterator[Item]:
        """Return a lane's items from `start` on."""
        return self._of(lane, start)

    def counted(self, lane: Lane, traces: int) -> None:
        """Count an item, keep the lane when it is time, and end the run when that is wanted."""
        with self._lock:
            self.done += traces
            if self.progress is not None:
                self.progress(self.done, self.total)
        if self._stop is not None:
            raise self._abandoned(lane)
        if self.session is None:
            return
        why = self.session.pausing()
        if why is not None or self.session.due(lane.number, 8 * lane.pillars * self.job.times):
            self._keep(lane)
        if why is not None:
            raise self._paused(why)

    def arrive(self, lane: Lane) -> None:
        """Wait for the other lanes at the end of a pass; the last one to come collects it."""
        try:
            self._barrier.wait()
        except threading.BrokenBarrierError:
            raise self._abandoned(lane) from None

    def _abandoned(self, lane: Lane) -> _Abandoned:
        """Keep what a lane has when it is a pause that ends the run."""
        if self.session is not None and isinstance(self._stop, Cancelled):
            self._keep(lane)
        return _Abandoned()

    def _paused(self, why: str) -> Cancelled:
        assert self.session is not None
        share = 100.0 * self.done / max(self.total, 1)
        return Cancelled(
            f"migrate paused at {share:.0f} % because {why}; everything is kept in {self.session.folder}: the same "
            "call goes on from there."
        )

    def _keep(self, lane: Lane) -> None:
        """Put a lane's state on disk, and before it the passes it builds on."""
        assert self.session is not None
        begin = time.perf_counter()
        with trace("seismic.checkpoint"):
            with self._disk:
                while self._pending:
                    step = self._pending[0]
                    self.session.keep_pass(step, *self.volumes.recover(self.steps[step]))
                    self._pending.pop(0)
            self.session.keep_lane(lane.number, lane.state())
        lane.seconds["store"] += time.perf_counter() - begin

    def _collect(self) -> None:
        """Add the pass that every lane has finished to the volumes."""
        begin = time.perf_counter()
        first = self.lanes[0]
        with trace("seismic.store"), self._disk:
            for other in self.lanes[1:]:
                first.absorb(other)
            step = self.steps[first.step]
            state = first.state(self.volumes.room(step))
            assert state.image is not None
            assert state.fold is not None
            self.volumes.add(step, state.image, state.fold, fresh=state.fresh)
            if self.session is not None:
                if step.bin is None and self.options.bins is not None:
                    # Bins will be added to this part of the stack, and nothing else holds it.
                    self.session.keep_pass(first.step, state.image, state.fold)
                else:
                    self._pending.append(first.step)
        self._store += time.perf_counter() - begin

    # ---------------------------------------------------------------- several lanes

    def _side_by_side(self, starts: list[State]) -> None:
        """Run every lane in a thread of its own; the first error ends all of them."""
        threads = [
            threading.Thread(target=self._guarded, args=pair, name=f"elinvar-lane-{pair[0].number}")
            for pair in zip(self.lanes, starts, strict=True)
        ]
        for thread in threads:
            thread.start()
        try:
            for thread in threads:
                while thread.is_alive():
                    thread.join(_POLL)
        except BaseException as error:
            self._end(error)
            for thread in threads:
                thread.join()
            raise
        if self._stop is not None:
            raise self._stop

    def _guarded(self, lane: Lane, start: State) -> None:
        try:
            lane.run(self, start)
        except _Abandoned:
            pass
        except BaseException as error:  # noqa: BLE001  (raised again in the thread that asked)
            self._end(error)

    def _end(self, error: BaseException) -> None:
        with self._lock:
            # A pause is seen by every lane; anything else is worth more than a pause.
            if self._stop is None or (isinstance(self._stop, Cancelled) and not isinstance(error, Cancelled)):
                self._stop = error
        self._barrier.abort()


class Volumes:
    """Host arrays that passes are added to, in pass order: the same bits whatever the timing."""

    def __init__(self, pillars: int, bins: int, nt: int) -> None:
        self.empty = True
        self._touching: threading.Thread | None = None
        self.stack = np.zeros((pillars, nt), np.float32)
        self.fold = np.zeros((pillars, nt), np.int32)
        self.panels = np.zeros((pillars, bins, nt), np.float32)
        self.panel_fold = np.zeros((pillars, bins, nt), np.int32)

    def add(self, step: Pass, image: NDArray[np.float32], fold: NDArray[np.int32], *, fresh: bool = False) -> None:
        """Add one pass to the stack and, when it belongs to a bin, to its gather; `fresh` arrays may be kept."""
        if fresh and self.empty and self.panels.shape[1] == 0 and len(image) == len(self.stack):
            self.stack, self.fold, self.empty = image, fold, False
            return
        self.empty = False
        self.stack[step.pillars] += image
        self.fold[step.pillars] += fold
        if step.bin is not None:
            self.panels[step.pillars, step.bin] = image
            self.panel_fold[step.pillars, step.bin] = fold

    def touch(self) -> None:
        """Write to the stack's memory in the background, so that a copy into it need not wait for pages."""
        if self.empty and self.panels.shape[1] == 0:
            self._touching = threading.Thread(target=self._fill, name="elinvar-pages", daemon=True)
            self._touching.start()

    def _fill(self) -> None:
        rows = max(1, _TOUCHED // self.stack.shape[1])
        for first in range(0, len(self.stack), rows):
            self.stack[first : first + rows] = 0.0
            self.fold[first : first + rows] = 0

    def room(self, step: Pass) -> tuple[NDArray[np.float32], NDArray[np.int32]] | None:
        """Return the arrays that a pass may be copied into, where it is all there is and their memory is ready."""
        if self._touching is None or step.pillars.stop - step.pillars.start != len(self.stack):
            return None
        self._touching.join()
        self._touching = None
        return self.stack, self.fold

    def recover(self, step: Pass) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
        """Return what was added in a pass; not for traces of no bin beside gathers, whose sum nothing else holds."""
        if step.bin is None:
            assert self.panels.shape[1] == 0
            return self.stack[step.pillars], self.fold[step.pillars]
        return self.panels[step.pillars, step.bin], self.panel_fold[step.pillars, step.bin]

    def finish(self, options: Options) -> None:
        """Make of the sums what was asked for, in place; nothing is added afterwards."""
        from .finishing import divide, scale_line

        scale_line(options, self.stack, self.panels)
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
        """Label the volumes."""
        panels = None
        if bins is not None:
            shape = (grid.nx, grid.ny, len(bins), grid.nt)
            panels = Gathers(bins.axis, self.panels.reshape(shape), self.panel_fold.reshape(shape), tuple(members))
        stack, fold = self.stack.reshape(grid.shape), self.fold.reshape(grid.shape)
        return Image(grid, stack, fold, panels, timing, job, attributes)
