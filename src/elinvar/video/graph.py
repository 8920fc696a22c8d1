"""The render graph: sources and passes, declared once, planned once, drawn for any frame number.

::

    graph = Graph()
    clip = graph.source("clip.mp4")
    graph.add(passes.Exposure(0.5), clip)
    graph.add(passes.Bloom(0.3))
    graph.output("aces1.3-sdr")
    frame = graph.render(0)                  # [3, H, W], Rec.709
    print(graph.explain())

Every source gets one input transform to linear ACEScg, the root one output transform. What a frame looks like depends
on its number alone: not on what was drawn before, on threads, or on memory.
"""

# ruff: noqa: A002  (filter is what the field calls it)

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import torch

from elinvar.errors import InputError
from elinvar.runtime.device import Device
from elinvar.runtime.device import device as find_device
from elinvar.video._check import choice, count
from elinvar.video.color import FITS, output_space
from elinvar.video.ocio import VIEWS
from elinvar.video.passes.base import Custom, Pass
from elinvar.video.passes.scale import FILTERS
from elinvar.video.passes.scale import FITS as SCALE_FITS
from elinvar.video.sources import Source, open_source
from elinvar.video.spaces import SPACES

if TYPE_CHECKING:
    from elinvar.video.arrivals import Fetched
    from elinvar.video.plan import GraphPlan
    from elinvar.video.yuv import Coding

__all__ = ["Graph", "Node"]


@dataclass(frozen=True, eq=False)
class Node:
    """One source or pass of a graph, as `Graph.source` and `Graph.add` return it."""

    id: int
    graph: Graph
    content: Any
    """A `Source` or a `Pass`."""
    inputs: tuple[Node, ...] = ()
    start: int = 0
    """For sources: the source's frame that is the graph's frame 0."""
    fit: str | None = None
    """How it fills the graph's size; None: as the plan says."""
    filter: str = "lanczos"

    @property
    def is_source(self) -> bool:
        """Whether this is a source."""
        return not isinstance(self.content, Pass)

    def __repr__(self) -> str:
        name = self.content.name if isinstance(self.content, Pass) else type(self.content).__name__
        return f"<node {self.id}: {name}>"


class Graph:
    """A render graph.

    Parameters
    ----------
    device
        Where to render.
    """

    def __init__(self, device: str | Device = "auto") -> None:
        self.device = find_device(device)
        self.nodes: list[Node] = []
        self._root: Node | None = None
        self._view = "aces-fit"
        self._mode = "fast"
        self._plans: dict[tuple[int, int, str], GraphPlan] = {}

    # -- declaring ---------------------------------------------------------------------------------------------------

    def source(
        self, source: Any, *, start: int = 0, fit: str | None = None, filter: str = "lanczos", **options: Any
    ) -> Node:
        """Add a source.

        Parameters
        ----------
        source
            A path, arrays, or a `Source`; see `elinvar.video.open_source`, which takes `options`.
        start
            Its frame that becomes the graph's frame 0.
        fit, filter
            How it is brought to the graph's size when it has another, in linear light; see `passes.Scale`. Without
            `fit`, as `plan` or `elinvar.video.export` say.
        """
        if fit is not None:
            choice("Graph.source", "fit", fit, SCALE_FITS[:3])
        choice("Graph.source", "filter", filter, FILTERS)
        if not isinstance(start, int):
            raise InputError(f"Graph.source: start is {start!r}; give a whole frame number.")
        return self._append(Node(len(self.nodes), self, open_source(source, **options), (), start, fit, filter))

    def add(self, what: Pass | Callable[..., torch.Tensor], *inputs: Node) -> Node:
        """Add a pass behind some nodes.

        Parameters
        ----------
        what
            A pass, a look, or any function of frames [3, H, W] returning one.
        inputs
            Nodes of this graph; by default the one added last.

        Raises
        ------
        InputError
            Another number of inputs than the pass takes, a foreign node, parameters out of range.
        """
        if not isinstance(what, Pass):
            if not callable(what) or isinstance(what, type):
                raise InputError(
                    f"Graph.add: {what!r} is no pass; give an instance such as passes.Bloom(), or a function."
                )
            what = Custom(what, max(1, len(inputs)))
        if not inputs:
            if not self.nodes:
                raise InputError(f"Graph.add: {what.name} has nothing to work on; add a source first.")
            inputs = (self.nodes[-1],)
        if len(inputs) != what.inputs:
            raise InputError(f"Graph.add: {what.name} takes {what.inputs} input(s), got {len(inputs)}.")
        if any(node.graph is not self for node in inputs):
            raise InputError(f"Graph.add: an input of {what.name} belongs to another graph; build one graph.")
        what.check()
        built = what.build(self, inputs)
        if built is not None:
            return built
        return self._append(Node(len(self.nodes), self, what, tuple(inputs)))

    def output(self, view: str = "aces-fit", node: Node | None = None, *, mode: str = "fast") -> Graph:
        """Say what comes out: `view` is an output transform or a space of ``color.spaces()``.

        Parameters
        ----------
        view
            "aces-fit" (a formula, Rec.709), "aces1.3-sdr", "aces2-pq1000", ..., or a space for no rendering at all.
        node
            The root; by default the node added last.
        mode
            "fast" or "exact", see `color.transform`.
        """
        choice("Graph.output", "view", view, [*SPACES, *FITS, *VIEWS])
        choice("Graph.output", "mode", mode, ("exact", "fast"))
        if node is not None and node.graph is not self:
            raise InputError("Graph.output: the node belongs to another graph.")
        self._view, self._mode, self._root = view, mode, node
        self._forget()
        return self

    def _append(self, node: Node) -> Node:
        self.nodes.append(node)
        self._forget()
        return node

    def _forget(self) -> None:
        for plan in self._plans.values():
            plan.close()
        self._plans.clear()

    # -- asking ------------------------------------------------------------------------------------------------------

    @property
    def root(self) -> Node:
        """The node whose pixels come out."""
        if not self.nodes:
            raise InputError("Graph: it is empty; add a source first.")
        return self._root or self.nodes[-1]

    @property
    def sources(self) -> list[Node]:
        """The sources the root depends on, in the order they were added."""
        seen: set[int] = set()

        def walk(node: Node) -> Iterator[Node]:
            if node.id not in seen:
                seen.add(node.id)
                yield node
                for part in node.inputs:
                    yield from walk(part)

        found = sorted((n for n in walk(self.root) if n.is_source), key=lambda n: n.id)
        if not found:
            raise InputError("Graph: the root depends on no source.")
        return found

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of the first source: the graph's own size."""
        first: Source = self.sources[0].content
        return first.width, first.height

    @property
    def frame_rate(self) -> Fraction:
        """Of the first source."""
        first: Source = self.sources[0].content
        return first.frame_rate

    @property
    def frame_count(self) -> int | None:
        """Frames until the first source ends; None when none of them does."""
        counts = [n.content.frame_count - n.start for n in self.sources if n.content.frame_count is not None]
        return min(counts) if counts else None

    @property
    def view(self) -> str:
        """The output transform."""
        return self._view

    @property
    def mode(self) -> str:
        """Either fast or exact."""
        return self._mode

    @property
    def space(self) -> str:
        """The colour space of rendered pixels."""
        return output_space(self._view)

    def plan(self, size: tuple[int, int] | None = None, fit: str = "fit") -> GraphPlan:
        """Return how the graph is drawn at a size: steps, fusions, memory. Plans are kept until the graph changes.

        Parameters
        ----------
        size
            Width and height; None takes the first source's. A smaller one is a preview.
        fit
            How sources of another size, and with another wish of their own, are brought to it.
        """
        from elinvar.video.plan import GraphPlan

        width, height = self.size if size is None else size
        count("Graph.plan", "width", width, 1, 1 << 16)
        count("Graph.plan", "height", height, 1, 1 << 16)
        key = (width, height, choice("Graph.plan", "fit", fit, SCALE_FITS[:3]))
        if key not in self._plans:
            self._plans[key] = GraphPlan(self, width, height, fit)
        return self._plans[key]

    def explain(self, size: tuple[int, int] | None = None) -> str:
        """Return what is done for a frame: steps, what was fused, bytes moved, memory."""
        return self.plan(size).explain()

    # -- drawing -----------------------------------------------------------------------------------------------------

    def fetch(self, n: int) -> dict[int, Fetched]:
        """Read what frame `n` needs from the sources; may run in another thread than `draw`."""
        return self.plan().fetch(n)

    def render(self, n: int, size: tuple[int, int] | None = None, out: torch.Tensor | None = None) -> torch.Tensor:
        """Draw frame `n`.

        Returns
        -------
        Tensor[3, H, W] float32
            In `space`; new memory unless `out` was given.

        Raises
        ------
        InputError
            A source has no such frame.
        """
        plan = self.plan(size)
        return plan.draw(n, plan.fetch(n), out)

    def render_yuv(
        self, n: int, coding: Coding, size: tuple[int, int] | None = None, planes: Sequence[torch.Tensor] | None = None
    ) -> tuple[torch.Tensor, ...]:
        """Draw frame `n` as Y'CbCr codes: the last run of passes and the conversion are one kernel."""
        plan = self.plan(size)
        return plan.draw_yuv(n, plan.fetch(n), coding, planes)

    def close(self) -> None:
        """Give the plans' memory back."""
        self._forget()

    # -- manifests ---------------------------------------------------------------------------------------------------

    @classmethod
    def from_manifest(cls, manifest: Any, device: str | Device = "auto") -> Graph:
        """Build a graph from a dictionary, or a JSON or YAML file; see `elinvar.video.manifest`."""
        from elinvar.video.manifest import build

        return build(manifest, device)
