"""From a graph to steps: what runs in which order, what is fused, which memory it shares.

Nodes become tasks, one for each node and time shift (temporal passes look back by rendering earlier frames again). Runs
of point-wise tasks whose results nobody else reads become one step. Results live in slots of the device's pool that are
assigned once, by when each is first written and last read; drawing a frame acquires nothing.
"""

# ruff: noqa: D102  (what the methods do is written at Pass)

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from elinvar.errors import InputError
from elinvar.runtime.trace import trace
from elinvar.video import ocio, shade
from elinvar.video.arrivals import Arrivals, Fetched
from elinvar.video.color import camera_ops, decode_ops, encode_ops
from elinvar.video.passes.base import Moment, Pass, Point, Spatial
from elinvar.video.passes.blur import Temporal
from elinvar.video.passes.scale import Scale
from elinvar.video.replay import Replays
from elinvar.video.shadecode import Op

if TYPE_CHECKING:
    from elinvar.runtime.memory import Lease
    from elinvar.video.graph import Graph, Node
    from elinvar.video.yuv import Coding

__all__ = ["GraphPlan", "Step"]

Finish = Callable[[dict[int, torch.Tensor], "Step | None", "shade.Given | None"], None]
"""Draws a last point-wise step, if there is one, from the results by task, given where its values are."""


class _Ops(Point):
    """Fixed ops as a pass: input and output transforms."""

    def __init__(self, label: str, ops: list[Op], tables: Sequence[torch.Tensor] = ()) -> None:
        self.label, self.fixed, self.read = label, ops, list(tables)

    @property
    def name(self) -> str:
        return self.label

    def ops(self, at: Moment) -> list[Op]:
        return self.fixed

    def tables(self) -> list[torch.Tensor]:
        return self.read


class _Processor(Spatial):
    """An OpenColorIO processor as a step of its own."""

    def __init__(self, label: str, processor: Any) -> None:
        self.label, self.processor = label, processor

    @property
    def name(self) -> str:
        return self.label

    def run(
        self, at: Moment, inputs: Sequence[torch.Tensor], out: torch.Tensor, scratch: Sequence[torch.Tensor]
    ) -> None:
        ocio.apply_processor(self.processor, inputs[0][:3], out)


@dataclass(eq=False)
class Task:
    """One thing to compute: a source's frame or a pass at a time shift."""

    content: Any
    inputs: list[Task]
    shift: int
    width: int
    height: int
    node: Node | None = None
    users: int = 0

    @property
    def point(self) -> bool:
        return isinstance(self.content, Point)


@dataclass(eq=False)
class Step:
    """One kernel or spatial pass.

    Attributes
    ----------
    tasks
        What it does; several when point-wise passes were fused.
    reads
        Tasks whose results it reads, the frame first.
    slot
        Where its result is kept; None for the last step.
    scratch
        Slots of its working memory.
    """

    tasks: list[Task]
    reads: list[Task]
    slot: int | None = None
    scratch: list[tuple[int, tuple[int, ...]]] = field(default_factory=list)

    @property
    def last(self) -> Task:
        return self.tasks[-1]

    @property
    def label(self) -> str:
        """The passes' names."""
        return " + ".join(t.content.name for t in self.tasks)

    def bytes(self) -> int:
        """Return the bytes it must read and write at least."""
        total = sum(12 * t.width * t.height for t in self.reads) + 12 * self.last.width * self.last.height
        return total + sum(8 * _size(shape) for _, shape in self.scratch)


def _size(shape: Sequence[int]) -> int:
    total = 1
    for n in shape:
        total *= n
    return total


class GraphPlan:
    """How a graph is drawn at one size; `Graph.plan` makes it.

    Attributes
    ----------
    steps
        In order.
    slot_bytes
        Bytes of each memory slot.
    """

    def __init__(self, graph: Graph, width: int, height: int, fit: str = "fit") -> None:
        self.graph = graph
        self.fit = fit
        self.width, self.height = width, height
        self.device = graph.device
        self._arrivals = Arrivals(graph.device)
        self._tasks: dict[tuple[int, int], Task] = {}
        self._order: list[Task] = []
        self._behind: set[int] = set()  # nodes that run behind the output transform
        self._root = self._with_output()
        self.steps: list[Step] = self._fuse()
        self.slot_bytes: list[int] = []
        self._assign()
        self._leases: list[Lease] = []
        self._memory: list[torch.Tensor] = []
        self._replays: Replays | None = None

    # -- building ----------------------------------------------------------------------------------------------------

    def _with_output(self) -> Task:
        """Build the tasks, the output transform in front of the display passes of the main chain."""
        graph = self.graph
        node, behind = graph.root, []
        while isinstance(node.content, Pass):
            if node.content.display:
                behind.append(node.content)
                self._behind.add(node.id)
            node = node.inputs[0]
        if self._passes_through(node, graph.view):
            task = self._new(None, [], 0, self.width, self.height, node)
            return self._finished(task, behind)
        task = self._task(graph.root, 0)
        misplaced = [t for t in self._order if isinstance(t.content, Pass) and t.content.display]
        if misplaced:
            raise InputError(
                f"Graph: {misplaced[0].content.name} works on display-referred pixels, but is on a branch of "
                f"scene-linear "
                "ones; add it to the main chain, behind what joins them."
            )
        if (task.width, task.height) != (self.width, self.height):
            task = self._new(Scale(self.width, self.height, fit=self.fit), [task], 0, self.width, self.height)
        view, mode = graph.view, graph.mode
        size = (task.width, task.height)
        if view in ocio.VIEWS and (mode == "exact" or self.device.kind == "cpu"):
            processor = ocio.view_processor(view) if mode == "exact" else ocio.table_processor(view)
            task = self._new(_Processor(f"output {view} ({mode})", processor), [task], 0, *size)
        else:
            ops, tables = encode_ops(view)
            moved = [t.to(self.device.torch) for t in tables]
            if ops:
                task = self._new(_Ops(f"output {view}", ops, moved), [task], 0, *size)
        return self._finished(task, behind)

    def _passes_through(self, source: Node, view: str) -> bool:
        """Whether nothing happens in linear light: then pixels stay as they are, bit by bit."""
        root, content = self.graph.root, source.content
        while root.id in self._behind:
            root = root.inputs[0]
        size = (content.width, content.height)
        return root is source and content.space == view and size == (self.width, self.height)

    def _finished(self, task: Task, behind: list[Pass]) -> Task:
        """Put the display passes behind the output transform."""
        size = (task.width, task.height)
        for content in reversed(behind):
            task = self._new(content, [task], 0, *size)
        if task.content is None or not isinstance(task.content, Pass):  # a source alone: copy it out
            task = self._new(_Ops("copy", []), [task], 0, *size)
        return task

    def _new(
        self, content: Any, inputs: list[Task], shift: int, width: int, height: int, node: Node | None = None
    ) -> Task:
        task = Task(content, inputs, shift, width, height, node)
        for part in inputs:
            part.users += 1
        self._order.append(task)
        return task

    def _task(self, node: Node, shift: int) -> Task:
        while node.id in self._behind:
            node = node.inputs[0]
        key = (node.id, shift)
        if key not in self._tasks:
            self._tasks[key] = self._source(node, shift) if node.is_source else self._pass(node, shift)
        return self._tasks[key]

    def _source(self, node: Node, shift: int) -> Task:
        """A source, its input transform, and its scaling in linear light."""
        source = node.content
        size = (source.width, source.height)
        task = self._new(None, [], shift, *size, node)
        if source.space in ocio.CAMERAS:
            curve, label = camera_ops(source.space), f"input {source.space}"
            content = _Ops(label, curve) if curve else _Processor(label, ocio.camera_processor(source.space))
            task = self._new(content, [task], shift, *size)
        else:
            ops = decode_ops(source.space)
            if ops:
                task = self._new(_Ops(f"input {source.space}", ops), [task], shift, *size)
        if size != (self.width, self.height):
            scale = Scale(self.width, self.height, node.filter, node.fit or self.fit)
            task = self._new(scale, [task], shift, self.width, self.height)
        return task

    def _pass(self, node: Node, shift: int) -> Task:
        content = node.content
        if isinstance(content, Temporal):
            inputs = [self._task(node.inputs[0], shift + k) for k in range(len(content.weights))]
        else:
            inputs = [self._task(part, shift) for part in node.inputs]
        width, height = inputs[0].width, inputs[0].height
        if isinstance(content, Spatial):
            width, height = content.output_size(width, height)
        return self._new(content, inputs, shift, width, height, node)

    def _fuse(self) -> list[Step]:
        """Group runs of point-wise tasks that nobody else reads in between."""
        steps: list[Step] = []
        home: dict[int, Step] = {}
        for task in self._order:
            if task.content is None:
                continue
            before = home.get(id(task.inputs[0]))
            joins = before is not None and task.point and before.last.point and task.inputs[0].users == 1
            if joins and before is not None:
                steps.remove(before)
                before.tasks.append(task)
                before.reads += task.inputs[1:]
                step = before
            else:
                step = Step([task], list(task.inputs))
            steps.append(step)
            home[id(task)] = step
        return steps

    def _assign(self) -> None:
        """Give every result and working memory a slot; slots are shared by what is never alive together."""
        last_use: dict[int, int] = {}
        for k, step in enumerate(self.steps):
            for task in step.reads:
                last_use[id(task)] = k
        free: list[int] = []
        ends: list[tuple[int, int]] = []  # (last step, slot)

        def take(nbytes: int) -> int:
            fitting = [s for s in free if self.slot_bytes[s] >= nbytes]
            if fitting:
                best = min(fitting, key=lambda s: (self.slot_bytes[s], s))
                free.remove(best)
                return best
            self.slot_bytes.append(nbytes)
            return len(self.slot_bytes) - 1

        for k, step in enumerate(self.steps):
            free += sorted(slot for end, slot in ends if end < k)
            ends = [(end, slot) for end, slot in ends if end >= k]
            task = step.last
            if isinstance(task.content, Spatial):
                first = step.reads[0]
                for shape in task.content.scratch(first.width, first.height):
                    slot = take(4 * _size(shape))
                    step.scratch.append((slot, shape))
                    ends.append((k, slot))
            final = k == len(self.steps) - 1
            if not final or not task.point:
                step.slot = take(12 * task.width * task.height)
                ends.append((last_use.get(id(task), k), step.slot))

    @property
    def memory_bytes(self) -> int:
        """Bytes of all slots."""
        return sum(self.slot_bytes)

    # -- drawing -----------------------------------------------------------------------------------------------------

    def _slots(self) -> list[torch.Tensor]:
        if not self._memory and self.slot_bytes:
            pool = self.device.pool
            self._leases = [pool.acquire((max(1, n // 4),), torch.float32) for n in self.slot_bytes]
            self._memory = [lease.tensor for lease in self._leases]
        return self._memory

    def close(self) -> None:
        """Give the memory back to the pool; recordings that use it are gone with it."""
        if self._replays is not None:
            self._replays.wait()
        self._replays = None
        self._memory = []
        self._arrivals.close()
        for lease in self._leases:
            lease.release()
        self._leases = []

    def fetch(self, n: int) -> dict[int, Fetched]:
        """Read the sources' frames that frame `n` needs, keyed for `draw`: for a GPU as codes, where there are any."""
        result: dict[int, Fetched] = {}
        for k, task in enumerate(self._order):
            if task.content is None and task.node is not None:
                source, at = task.node.content, max(n - task.shift, 0) + task.node.start
                if at < 0 or (source.frame_count is not None and at >= source.frame_count):
                    raise InputError(f"Graph.render: {task.node} has {source.frame_count} frames, not frame {at}.")
                frame = self._read(source, at)
                if tuple(frame.shape[-2:]) != (task.height, task.width):
                    raise InputError(
                        f"Graph.render: frame {at} of {task.node} is {tuple(frame.shape)}; {task.width} x "
                        f"{task.height} was "
                        "declared."
                    )
                result[k] = frame
        return result

    def _read(self, source: Any, at: int) -> Fetched:
        codes = getattr(source, "codes", None) if self.device.kind != "cpu" else None
        found: Fetched | None = codes(at, pinned=self.device.kind == "cuda") if codes is not None else None
        return source.frame(at) if found is None else found

    def draw(self, n: int, fetched: dict[int, Fetched], out: torch.Tensor | None = None) -> torch.Tensor:
        """Draw frame `n` from fetched frames into planes."""
        if out is None:
            out = torch.empty((3, self.height, self.width), device=self.device.torch)

        def finish(values: dict[int, torch.Tensor], last: Step | None, given: shade.Given | None) -> None:
            if last is None:
                out.copy_(values[id(self._root)])
            else:
                ops, frame, extras = self._chain(last, n, values)
                shade.apply(frame, ops, extras, out=out, values=given)

        self._drawn(n, fetched, [out], 0, finish)
        return out

    def draw_yuv(
        self, n: int, fetched: dict[int, Fetched], coding: Coding, planes: Sequence[torch.Tensor] | None = None
    ) -> tuple[torch.Tensor, ...]:
        """Draw frame `n` from fetched frames into codes."""
        codes = coding.format.empty(self.width, self.height, self.device.torch) if planes is None else tuple(planes)

        def finish(values: dict[int, torch.Tensor], last: Step | None, given: shade.Given | None) -> None:
            ops, frame, extras = self._chain(last, n, values) if last else ([], values[id(self._root)], [])
            shade.encode(frame, ops, extras, coding, codes, seed=n, values=given)

        self._drawn(n, fetched, codes, n, finish, coding)
        return codes

    def _drawn(
        self,
        n: int,
        fetched: dict[int, Fetched],
        written: Sequence[torch.Tensor],
        seed: int,
        finish: Finish,
        coding: Coding | None = None,
    ) -> None:
        """Draw a frame: on a CUDA device by replaying it, where it has been drawn before."""
        values = {id(self._order[k]): frame for k, frame in self._arrivals.place(fetched).items()}
        if self.device.kind != "cuda":
            self._arrivals.bring(fetched)
            finish(*self._upstream(n, values), None)
            return
        if self._replays is None:
            self._replays = Replays(self.device.torch)
        chains = [self._ops(step, n) if step.last.point else [] for step in self.steps]
        lists = [shade.packed(ops) for ops in chains]
        ends = self.steps[-1].slot is None
        lists.append(shade.packed(chains[-1] if ends else [], seed))

        def launches(given: list[shade.Given] | None) -> None:
            finish(*self._upstream(n, values, given), given[-1] if given else None)

        key = self._key(n, chains, [*values.values(), *written], coding)
        self._replays.draw(key, lists, launches, lambda: self._arrivals.bring(fetched))

    def _key(
        self, n: int, chains: list[list[Op]], tensors: Sequence[torch.Tensor], coding: Coding | None
    ) -> Hashable | None:
        """Everything a frame's launches depend on besides the values of its point-wise passes."""
        parts: list[Hashable] = [coding]
        moved = list(tensors)
        for step, ops in zip(self.steps, chains, strict=True):
            if step.last.point:
                parts.append(tuple((op.function, op.extras) for op in ops))
                moved += [table for task in step.tasks for table in task.content.tables()]
                continue
            constants = step.last.content.constants(self._moment(step.last, n, step.reads[0]))
            if constants is None:
                return None
            parts.append(constants)
        return (*parts, *((t.data_ptr(), t.dtype, tuple(t.shape), t.stride()) for t in moved))

    def _upstream(
        self, n: int, values: dict[int, torch.Tensor], given: list[shade.Given] | None = None
    ) -> tuple[dict[int, torch.Tensor], Step | None]:
        """Run every step but a last point-wise one on frames by task; return the results by task."""
        memory = self._slots()
        values = dict(values)
        for k, step in enumerate(self.steps):
            if step.slot is None:
                return values, step
            task = step.last
            out = memory[step.slot][: 3 * task.width * task.height].view(3, task.height, task.width)
            with trace(f"video.{step.label}"):
                if task.point:
                    ops, frame, extras = self._chain(step, n, values)
                    shade.apply(frame, ops, extras, out=out, values=given[k] if given else None)
                else:
                    scratch = [memory[slot][: _size(shape)].view(shape) for slot, shape in step.scratch]
                    inputs = [values[id(t)] for t in step.reads]
                    task.content.run(self._moment(task, n, step.reads[0]), inputs, out, scratch)
            values[id(task)] = out
        return values, None

    def _moment(self, task: Task, n: int, sized: Task) -> Moment:
        return Moment(max(n - task.shift, 0), self.graph.frame_rate, sized.width, sized.height)

    def _ops(self, step: Step, n: int) -> list[Op]:
        """Return the ops of a fused step."""
        return [op for task in step.tasks for op in task.content.ops(self._moment(task, n, task))]

    def _chain(
        self, step: Step, n: int, values: dict[int, torch.Tensor]
    ) -> tuple[list[Op], torch.Tensor, list[torch.Tensor]]:
        """Return the ops of a fused step with the frames and tables they read."""
        ops: list[Op] = []
        extras: list[torch.Tensor] = []
        for task in step.tasks:
            frames = [values[id(t)] for t in task.inputs[1:]]
            tables = task.content.tables()
            for op in task.content.ops(self._moment(task, n, task)):
                ops.append(op)
                extras += [tables.pop(0) if scale == "table" else frames.pop(0) for scale in op.extras]
        return ops, values[id(step.reads[0])], extras

    # -- saying ------------------------------------------------------------------------------------------------------

    def explain(self) -> str:
        """Return the steps as text."""
        lines = [f"{self.width} x {self.height} on {self.device}, {len(self.steps)} steps"]
        total = 0
        for k, step in enumerate(self.steps):
            task = step.last
            total += step.bytes()
            fused = f", {len(step.tasks)} passes in one kernel" if len(step.tasks) > 1 else ""
            where = "output" if step.slot is None else f"slot {step.slot}"
            lines.append(
                f"{k + 1:3d}. {step.label}{fused}: {task.width} x {task.height}, {step.bytes() / 1e6:.1f} MB moved -> "
                f"{where}"
            )
        lines.append(
            f"{total / 1e6:.1f} MB moved per frame, {self.memory_bytes / 1e6:.1f} MB in {len(self.slot_bytes)} slots, "
            f"view "
            f"{self.graph.view} ({self.graph.space})"
        )
        return "\n".join(lines)
