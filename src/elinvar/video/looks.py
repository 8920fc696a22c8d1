"""Named looks: passes with their parameters, as data.

``graph.add(look("classicFilm"))`` adds all of them in the order light meets them: lens, glow, leaks, fall-off, grain.
"""

# ruff: noqa: D102  (what the methods do is written at Pass)

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from elinvar.errors import InputError
from elinvar.video import passes
from elinvar.video._check import choice, number
from elinvar.video.passes.base import Pass

if TYPE_CHECKING:
    from elinvar.video.graph import Graph, Node

__all__ = ["LOOKS", "Look", "look", "make_pass"]

LOOKS: dict[str, tuple[tuple[str, dict[str, Any]], ...]] = {
    "none": (),
    "subtle": (
        ("Bloom", {"intensity": 0.08}),
        ("Vignette", {"intensity": 0.15}),
        ("Grain", {"amount": 0.008}),
    ),
    "classicFilm": (
        ("Grade", {"contrast": 1.08, "saturation": 0.95, "temperature": 0.15}),
        ("Bloom", {"intensity": 0.12, "threshold": 0.8}),
        ("Halation", {"intensity": 0.3, "threshold": 0.85}),
        ("Vignette", {"intensity": 0.3}),
        ("Grain", {"amount": 0.03, "shadows": 1.3}),
    ),
    "blockbuster": (
        ("Grade", {"contrast": 1.15, "temperature": -0.2, "tint": 0.05, "saturation": 1.05}),
        ("Bloom", {"intensity": 0.15, "threshold": 0.9}),
        ("Anamorphic", {"intensity": 0.35, "length": 1.4}),
        ("Vignette", {"intensity": 0.35}),
        ("Grain", {"amount": 0.012}),
    ),
    "documentary": (
        ("Grade", {"contrast": 1.03, "saturation": 0.9}),
        ("Vignette", {"intensity": 0.1}),
        ("Grain", {"amount": 0.02}),
    ),
    "dreamlike": (
        ("Grade", {"contrast": 0.92, "temperature": 0.2}),
        ("Diffusion", {"intensity": 0.35}),
        ("Bloom", {"intensity": 0.3, "threshold": 0.6}),
        ("LightLeak", {"intensity": 0.12}),
        ("Vignette", {"intensity": 0.2}),
    ),
    "prismatic": (
        ("Lens", {"k1": 0.03, "aberration": 0.004}),
        ("Dispersion", {"spread": 5.0}),
        ("Bloom", {"intensity": 0.2}),
        ("LightLeak", {"intensity": 0.2, "colour": (0.4, 0.6, 1.0), "centre": (1.0, 0.2)}),
    ),
    "interview": (
        ("Grade", {"temperature": 0.1, "contrast": 1.02}),
        ("Diffusion", {"intensity": 0.06}),
        ("Vignette", {"intensity": 0.2}),
    ),
    "corporate": (("Grade", {"contrast": 1.05, "saturation": 1.08}), ("Bloom", {"intensity": 0.05})),
    "beauty": (
        ("Grade", {"temperature": 0.12, "contrast": 0.97}),
        ("Bilateral", {"sigma": 2.5, "difference": 0.06}),
        ("Diffusion", {"intensity": 0.12}),
    ),
}
"""Looks by name: the passes' names and parameters."""


@dataclass(frozen=True)
class Look(Pass):
    """Several passes under one name."""

    title: str
    parts: tuple[Pass, ...]

    @property
    def name(self) -> str:
        """The look's name."""
        return f"look {self.title}"

    def build(self, graph: Graph, inputs: Sequence[Node]) -> Node:
        node = inputs[0]
        for part in self.parts:
            node = graph.add(part, node)
        return node


def make_pass(name: str, parameters: Mapping[str, Any]) -> Pass:
    """Make a pass from its name and parameters, as looks and manifests spell it.

    Raises
    ------
    InputError
        No such pass, or no such parameter.
    """
    kind = getattr(passes, name, None)
    if not isinstance(kind, type) or not issubclass(kind, Pass) or kind in (passes.Pass, passes.Point, passes.Spatial):
        known = [
            n for n in passes.__all__ if isinstance(getattr(passes, n), type) and issubclass(getattr(passes, n), Pass)
        ]
        raise InputError(f"video: there is no pass {name!r}; known are {', '.join(sorted(known))}.")
    values = {k: tuple(v) if isinstance(v, list) else v for k, v in parameters.items()}
    try:
        made: Pass = kind(**values)
    except TypeError as error:
        raise InputError(f"video: pass {name} does not take these parameters ({error}).") from error
    return made


def look(name: str, strength: float = 1.0) -> Look:
    """Return a look by name.

    Parameters
    ----------
    name
        One of `LOOKS`.
    strength
        Scales what the passes add: intensities and amounts.
    """
    choice("video.look", "name", name, LOOKS)
    number("video.look", "strength", strength, 0, 10)
    parts = []
    for kind, parameters in LOOKS[name]:
        values = dict(parameters)
        for key in ("intensity", "amount", "temperature", "tint", "k1", "aberration", "spread"):
            if key in values:
                values[key] = values[key] * strength
        for key in ("contrast", "saturation"):
            if key in values:
                values[key] = 1.0 + (values[key] - 1.0) * strength
        if kind == "Vignette":
            values["intensity"] = min(1.0, values["intensity"])
        parts.append(make_pass(kind, values))
    return Look(name, tuple(parts))
