"""A deterministic render graph, and an exporter whose colours are right.

::

    from elinvar import video

    graph = video.Graph()
    graph.source("clip.mp4")
    graph.add(video.look("classicFilm"))
    graph.output("aces1.3-sdr")
    video.export(graph, "graded.mp4")

Frames are planar tensors [C, H, W], rates are fractions, light is linear ACEScg between one input and one output
transform. Names are loaded on first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from elinvar._lazy import lazy

_HOME = {
    "ColorWarning": "probing",
    "Exported": "exporting",
    "Graph": "graph",
    "MediaInfo": "probing",
    "TexturePool": "textures",
    "Timeline": "timeline",
    "VideoFile": "media",
    "export": "exporting",
    "look": "looks",
    "open_source": "sources",
    "probe": "probing",
    "verify": "verifying",
}
_MODULES = ("adaptive", "color", "passes", "scopes", "sources", "text")

__all__ = [
    "ColorWarning",
    "Exported",
    "Graph",
    "MediaInfo",
    "TexturePool",
    "Timeline",
    "VideoFile",
    "adaptive",
    "color",
    "export",
    "look",
    "open_source",
    "passes",
    "probe",
    "scopes",
    "sources",
    "text",
    "verify",
]

if TYPE_CHECKING:
    from . import adaptive, color, passes, scopes, sources, text
    from .exporting import Exported, export
    from .graph import Graph
    from .looks import look
    from .media import VideoFile
    from .probing import ColorWarning, MediaInfo, probe
    from .sources import open_source
    from .textures import TexturePool
    from .timeline import Timeline
    from .verifying import verify

__getattr__, __dir__ = lazy(__name__, _HOME, _MODULES)
