"""What a pass is: point-wise, spatial, or made of other passes."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import torch

from elinvar.errors import InputError
from elinvar.video.shadecode import Op

if TYPE_CHECKING:
    from elinvar.video.graph import Graph, Node

__all__ = ["Animated", "Custom", "Moment", "Pass", "Point", "Spatial"]

Animated = float | Callable[[float], float]
"""A number, or a function of the time in seconds giving one."""


@dataclass(frozen=True)
class Moment:
    """When and at which size a pass runs.

    Attributes
    ----------
    n
        Frame number.
    frame_rate
        Frames per second.
    width, height
        Of the frame.
    """

    n: int
    frame_rate: Fraction
    width: int
    height: int

    @property
    def seconds(self) -> float:
        """Time of the frame."""
        return float(self.n / self.frame_rate)

    @property
    def unit(self) -> float:
        """Pixels here per pixel at 1080 lines: what radii are scaled by, so that a preview looks like the result."""
        return self.height / 1080

    def value(self, x: Animated) -> float:
        """Return a number, evaluating an animated one now."""
        return float(x(self.seconds)) if callable(x) else float(x)


class Pass:
    """One step of a graph.

    A pass is pure: its output depends on its parameters, its inputs and the frame number, never on what was rendered
    before. Parameters documented as animated take a function of the time in seconds.
    """

    inputs = 1
    """How many frames it takes."""
    display = False
    """Whether it works on display-referred pixels, behind the output transform."""

    @property
    def name(self) -> str:
        """What `Graph.explain` calls it."""
        return type(self).__name__

    def check(self) -> None:
        """Raise InputError when a parameter is out of range; called when the pass is added."""

    def build(self, graph: Graph, inputs: Sequence[Node]) -> Node | None:
        """Add other passes in its place and return the last, or return None to be run itself."""
        return None

    def describe(self) -> str:
        """Return the parameters as ``name=value`` text."""
        rows = [(name, getattr(self, name)) for name in getattr(self, "__dataclass_fields__", ())]
        return ", ".join(f"{k}={v:g}" if isinstance(v, float) else f"{k}={v}" for k, v in rows if not callable(v))


class Point(Pass):
    """A point-wise pass: runs of them become one kernel."""

    def ops(self, at: Moment) -> list[Op]:
        """Return what to do to each pixel; further inputs are taken in the order of the ops' extras."""
        raise NotImplementedError

    def tables(self) -> list[torch.Tensor]:
        """Return the 3-D tables the ops read, in order."""
        return []


class Spatial(Pass):
    """A pass that looks at more than one pixel."""

    def output_size(self, width: int, height: int) -> tuple[int, int]:
        """Return the result's size for an input's."""
        return width, height

    def scratch(self, width: int, height: int) -> list[tuple[int, ...]]:
        """Return the shapes of float32 memory it wants for an input size."""
        return []

    def constants(self, at: Moment) -> Hashable | None:
        """Return everything of a moment that `run` depends on, if all it does is launch kernels on a GPU.

        Then frames with equal constants are drawn from one recording (a CUDA graph). None, the default: it is run for
        every frame.
        """
        return None

    def run(
        self, at: Moment, inputs: Sequence[torch.Tensor], out: torch.Tensor, scratch: Sequence[torch.Tensor]
    ) -> None:
        """Write the result into `out`."""
        raise NotImplementedError


class Custom(Spatial):
    """Any function of frames as a pass: ``graph.add(lambda frame: frame.flip(-1))``.

    Parameters
    ----------
    function
        Takes the input frames [3, H, W] and returns one of the same size. If it has a parameter ``at`` it gets the
        `Moment`.
    """

    def __init__(self, function: Callable[..., torch.Tensor], inputs: int = 1) -> None:
        self.function = function
        self.inputs = inputs
        code = getattr(function, "__code__", None)
        count = 0 if code is None else code.co_argcount + code.co_kwonlyargcount
        self._wants_moment = code is not None and "at" in code.co_varnames[:count]

    @property
    def name(self) -> str:
        """The function's name."""
        return f"Custom({getattr(self.function, '__name__', 'function')})"

    def run(
        self, at: Moment, inputs: Sequence[torch.Tensor], out: torch.Tensor, scratch: Sequence[torch.Tensor]
    ) -> None:
        """Call the function."""
        extra: dict[str, Any] = {"at": at} if self._wants_moment else {}
        result = self.function(*inputs, **extra)
        if not isinstance(result, torch.Tensor) or result.shape != out.shape:
            got = tuple(result.shape) if isinstance(result, torch.Tensor) else type(result).__name__
            raise InputError(f"{self.name}: it returned {got}; return a tensor of shape {tuple(out.shape)}.")
        out.copy_(result)
