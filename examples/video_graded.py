"""Render a look over a generated clip, export it, and read the file's colours back."""

from __future__ import annotations

import tempfile
from pathlib import Path

from elinvar import video


def main() -> None:
    clip = video.sources.starfield(320, 180, frame_rate="24000/1001", frame_count=12)
    graph = video.Graph("cpu")
    graph.source(clip)
    graph.add(video.look("classicFilm"))
    graph.output("aces-fit")
    print(graph.explain())
    with tempfile.TemporaryDirectory() as folder:
        done = video.export(graph, Path(folder) / "stars.mp4", quality=0.7, speed="veryfast")
        info = video.probe(done.path)
    print(f"{done.frames} frames, {info.frame_rate} frames/s, {info.codec}, {info.space}")
    assert not info.assumed, "primaries, transfer and matrix are all in the file"


if __name__ == "__main__":
    main()
