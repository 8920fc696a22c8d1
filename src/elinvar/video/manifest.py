"""Graphs as data: JSON or YAML.

::

    nodes:
      clip: {source: clip.mp4}
      glow: {pass: Bloom, inputs: [clip], intensity: 0.3}
      film: {look: classicFilm, inputs: [glow]}
    output: {node: film, view: aces1.3-sdr}

A node is a ``source``, a ``pass`` or a ``look``; ``inputs`` name other nodes in any order; other keys are its
parameters.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from elinvar.errors import ConfigError, InputError
from elinvar.video._check import optional_library
from elinvar.video.graph import Graph, Node
from elinvar.video.looks import look, make_pass

__all__ = ["build", "load"]

GENERATORS = ("color_checker", "ramp", "smpte", "solid", "starfield", "zone_plate")


def load(manifest: Any) -> Mapping[str, Any]:
    """Return a manifest as a dictionary: from a dictionary, a path, or text.

    Raises
    ------
    ConfigError
        It is no JSON or YAML, or not a mapping with ``nodes``.
    """
    if isinstance(manifest, Mapping):
        found: Any = manifest
    else:
        path = Path(manifest)
        if not path.is_file():
            raise ConfigError(f"graph manifest {path}: there is no such file.")
        text = path.read_text(encoding="utf-8")
        if path.suffix.lower() == ".json":
            try:
                found = json.loads(text)
            except json.JSONDecodeError as error:
                raise ConfigError(f"graph manifest {path}: it is no JSON ({error}).") from error
        else:
            yaml = optional_library("yaml", "Graph.from_manifest")
            try:
                found = yaml.safe_load(text)
            except yaml.YAMLError as error:
                raise ConfigError(f"graph manifest {path}: it is no YAML ({error}).") from error
    if not isinstance(found, Mapping) or not isinstance(found.get("nodes"), Mapping) or not found["nodes"]:
        raise ConfigError("graph manifest: it has no nodes; write nodes: {name: {source: file}}.")
    unknown = set(found) - {"nodes", "output"}
    if unknown:
        raise ConfigError(f"graph manifest: unknown keys {sorted(unknown)}; nodes and output are known.")
    return found


def _ordered(nodes: Mapping[str, Any]) -> list[str]:
    """Return the names so that inputs come first, in the manifest's order otherwise; refuse cycles."""
    done: list[str] = []
    state: dict[str, int] = {}

    def visit(name: str, trail: tuple[str, ...]) -> None:
        if name not in nodes:
            raise ConfigError(f"graph manifest: node {trail[-1]!r} has input {name!r}, which is not there.")
        if state.get(name) == 1:
            raise ConfigError(
                f"graph manifest: nodes {' -> '.join((*trail, name))} form a cycle; a frame cannot wait for itself."
            )
        if state.get(name) == 2:
            return
        state[name] = 1
        for part in _inputs(name, nodes[name]):
            visit(part, (*trail, name))
        state[name] = 2
        done.append(name)

    for name in nodes:
        visit(name, ())
    return done


def _inputs(name: str, node: Any) -> list[str]:
    if not isinstance(node, Mapping):
        raise ConfigError(f"graph manifest: node {name!r} is {node!r}; write {{source: ...}} or {{pass: ...}}.")
    given = node.get("inputs", [])
    return [given] if isinstance(given, str) else list(given)


def build(manifest: Any, device: Any = "auto") -> Graph:
    """Build the graph of a manifest.

    Raises
    ------
    ConfigError
        Unknown keys, missing inputs, a cycle.
    InputError
        What a source or pass does not accept.
    """
    data = load(manifest)
    base = Path(manifest).parent if not isinstance(manifest, Mapping) else Path()
    graph = Graph(device)
    made: dict[str, Node] = {}
    for name in _ordered(data["nodes"]):
        entry = dict(data["nodes"][name])
        inputs = [made[part] for part in _inputs(name, entry)]
        entry.pop("inputs", None)
        made[name] = _node(graph, name, entry, inputs, base)
    output = dict(data.get("output") or {})
    root = made.get(output.pop("node", list(data["nodes"])[-1]))
    if root is None:
        raise ConfigError("graph manifest: output names a node that is not there.")
    try:
        return graph.output(output.pop("view", "aces-fit"), root, **output)
    except TypeError as error:
        raise ConfigError(
            f"graph manifest: output does not take {sorted(output)}; view, mode and node are known."
        ) from error


def _node(graph: Graph, name: str, entry: dict[str, Any], inputs: list[Node], base: Path) -> Node:
    kinds = [k for k in ("source", "pass", "look") if k in entry]
    if len(kinds) != 1:
        raise ConfigError(f"graph manifest: node {name!r} has {kinds or 'neither'}; give one of source, pass, look.")
    value = entry.pop(kinds[0])
    try:
        if kinds[0] == "source":
            return graph.source(_source(value, entry, base), **entry)
        if kinds[0] == "look":
            return graph.add(look(value, **entry), *inputs)
        if isinstance(entry.get("path"), str) and not Path(entry["path"]).is_absolute():
            entry["path"] = str(base / entry["path"])
        return graph.add(make_pass(value, entry), *inputs)
    except TypeError as error:
        raise InputError(f"graph manifest: node {name!r} does not take these parameters ({error}).") from error


def _source(value: Any, entry: dict[str, Any], base: Path) -> Any:
    from elinvar.video import sources

    if value in GENERATORS:
        options = {k: entry.pop(k) for k in list(entry) if k not in ("start", "fit", "filter")}
        return getattr(sources, value)(**options)
    path = Path(str(value))
    return path if path.is_absolute() else base / path
