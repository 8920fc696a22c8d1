"""Export in pieces that survive an interruption, joined without encoding again."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

from elinvar.errors import InputError
from elinvar.video._check import number, optional_library

__all__ = ["export_segments"]


def _fingerprint(job: Any, length: int) -> str:
    """Name what makes two runs the same job: settings, graph, frames."""
    graph = job.graph
    rows = [
        repr(dataclasses.asdict(job.settings)),
        repr(job.coding),
        graph.explain(job.size),
        graph.view,
        graph.mode,
        job.fit,
    ]
    for node in graph.nodes:
        content = node.content
        rows.append(
            f"{node.id} {[n.id for n in node.inputs]} {node.start} {getattr(content, 'describe', lambda: '')()}"
        )
        rows += [_code(value) for value in getattr(content, "__dict__", {}).values() if callable(value)]
        for path in getattr(content, "files", ()):
            known = Path(path).stat()
            rows.append(f"{path} {known.st_size} {known.st_mtime_ns}")
    rows.append(f"{job.first} {job.frames} {length}")
    return hashlib.sha256("\n".join(rows).encode()).hexdigest()[:16]


def _code(function: Any) -> str:
    """Return what tells a Python function from others: what it does, and the numbers it was made with."""
    code = getattr(function, "__code__", None)
    if code is None:
        return repr(type(function))
    closed = [c.cell_contents for c in function.__closure__ or ()]
    plain = [v for v in (*closed, *(function.__defaults__ or ())) if isinstance(v, (int, float, str, tuple))]
    return f"{code.co_code!r} {[c for c in code.co_consts if not hasattr(c, 'co_code')]} {code.co_names} {plain}"


def export_segments(
    job: Any, seconds: float, progress: Callable[[int, int | None], object] | None, cancel: Callable[[], bool] | None
) -> Any:
    """Encode every missing segment, then join all of them and the sound into the job's file."""
    from elinvar.video.exporting import encode_frames, part_of, summary, writing

    number("video.export", "segment", seconds, 0.05, 86400)
    length = max(1, round(seconds * job.settings.rate))
    folder = job.path.with_name(f".{job.path.name}.parts")
    folder.mkdir(parents=True, exist_ok=True)
    note = folder / "job.json"
    mark = _fingerprint(job, length)
    if note.exists() and json.loads(note.read_text(encoding="utf-8")).get("job") != mark:
        shutil.rmtree(folder)  # other settings: these pieces do not belong to this job
        folder.mkdir()
    note.write_text(json.dumps({"job": mark}), encoding="utf-8")
    parts, made = [], 0
    for k, (first, count) in enumerate(_pieces(job.frames, length)):
        part = folder / f"{k:06d}{job.path.suffix}"
        parts.append((part, first, count))
        if part.exists():
            if progress is not None:
                progress(first + count, job.frames)
            continue

        def report(done: int, _total: int | None, first: int = first) -> None:
            if progress is not None:
                progress(first + done, job.frames)

        with writing(part) as container:
            made = max(made, encode_frames(part_of(job, part, first, count), container, report, cancel)[0])
    track = _join(job, parts)
    shutil.rmtree(folder)
    return summary(job, made, track)


def _pieces(frames: int, length: int) -> list[tuple[int, int]]:
    """Return (first, count) of pieces; one or two frames that are left over go with the last piece.

    Encoders set up films that short differently, and all pieces share one header.
    """
    firsts = list(range(0, frames, length))
    if len(firsts) > 1 and length > 2 and frames - firsts[-1] <= 2:
        firsts.pop()
    return [(a, b - a) for a, b in zip(firsts, [*firsts[1:], frames], strict=True)]


def _join(job: Any, parts: list[tuple[Path, int, int]]) -> Any:
    """Copy the packets of all parts behind each other, frame numbers as times."""
    from elinvar.video.exporting import sound_of, writing

    av = optional_library("av", "video.export")
    rate: Fraction = job.settings.rate
    with writing(job.path) as container:
        out = None
        track = None
        for part, first, count in parts:
            with av.open(str(part)) as source:
                stream = source.streams.video[0]
                if out is None:
                    out = container.add_stream_from_template(stream)
                    out.time_base = 1 / rate
                    track = sound_of(job, container)
                seen = 0
                for packet in _packets(source, stream, rate, first):
                    seen += 1
                    packet.stream = out
                    container.mux(packet)
                    if track is not None:
                        track.until(Fraction(first + seen) / rate)
            if seen != count:
                raise InputError(
                    f"video.export: segment {part} has {seen} of {count} frames; delete it and export again."
                )
        if track is not None:
            track.close()
    return track


def _packets(source: Any, stream: Any, rate: Fraction, first: int) -> Iterator[Any]:
    base = Fraction(stream.time_base)
    packets = [p for p in source.demux(stream) if p.size]
    origin = min(p.pts for p in packets)
    for packet in packets:
        packet.pts = first + round((packet.pts - origin) * base * rate)
        packet.dts = first + round((packet.dts - origin) * base * rate)
        packet.time_base = 1 / rate
        packet.duration = 1
        yield packet
