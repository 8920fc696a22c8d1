"""OpenTimelineIO timelines as sources: clips, gaps, transitions, several tracks, exact times.

The uppermost video track with a clip at a time is seen. A transition mixes the outgoing clip, which goes on into its
handles, with the incoming one, in linear light. ``SMPTE_Dissolve`` is a cross-fade; ``metadata["elinvar"]`` of a
transition may name another pass with its parameters: ``{"pass": "Wipe", "direction": "left"}``. Linear time warps and
freeze frames are applied.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlparse

import torch

from elinvar.errors import InputError
from elinvar.video import shade
from elinvar.video._check import frame_rate as exact_rate
from elinvar.video._check import optional_library
from elinvar.video.color import decode_ops, transform
from elinvar.video.looks import make_pass
from elinvar.video.ocio import CAMERAS
from elinvar.video.passes.base import Moment, Pass, Point, Spatial
from elinvar.video.passes.scale import Scale
from elinvar.video.sources import Source, open_source

__all__ = ["Timeline"]


@dataclass(frozen=True)
class _Clip:
    """A clip on the timeline, in the timeline's frames; `offset` is the media time in seconds at `begin`."""

    begin: int
    end: int
    media: str
    offset: Fraction
    speed: Fraction
    name: str


@dataclass(frozen=True)
class _Change:
    """A transition from frame `begin` to before `end`."""

    begin: int
    end: int
    old: _Clip
    new: _Clip
    kind: str
    parameters: dict[str, Any]


@dataclass(frozen=True)
class _Track:
    clips: list[_Clip] = field(default_factory=list)
    changes: list[_Change] = field(default_factory=list)


def _seconds(time: Any) -> Fraction:
    """Return an OTIO time as an exact fraction; its rates are floats such as 23.976023976."""
    rate = exact_rate("Timeline", float(time.rate))
    return Fraction(time.value).limit_denominator(1 << 20) / rate


class Timeline:
    """A timeline as a source of frames in ACEScg.

    Parameters
    ----------
    timeline
        An ``opentimelineio.schema.Timeline``.
    folder
        Where relative media paths start.
    size, frame_rate
        Of the result; None takes the first clip's.

    Raises
    ------
    InputError
        No video, media that are missing, transitions without two clips.
    """

    space = "acescg"

    def __init__(
        self, timeline: Any, folder: Any = ".", size: tuple[int, int] | None = None, frame_rate: Any = None
    ) -> None:
        self._folder = Path(folder)
        self._media: dict[str, Source] = {}
        self._lock = threading.Lock()
        tracks = list(timeline.video_tracks())
        if not tracks:
            raise InputError("Timeline: there is no video track.")
        first = next((c for t in tracks for c in t.find_clips()), None)
        if first is None:
            raise InputError("Timeline: there is no clip on a video track.")
        opened = self._open(self._target(first))
        self.frame_rate = opened.frame_rate if frame_rate is None else exact_rate("Timeline", frame_rate)
        self.width, self.height = size or (opened.width, opened.height)
        self._tracks = [self._read(track) for track in tracks]
        self.frame_count: int | None = max((c.end for t in self._tracks for c in t.clips), default=0)

    @classmethod
    def open(cls, path: Any, **options: Any) -> Timeline:
        """Read a file OpenTimelineIO understands (.otio, .otioz)."""
        otio = optional_library("opentimelineio", "Timeline.open")
        place = Path(path)
        if not place.is_file():
            raise InputError(f"Timeline: {place} is not there.")
        try:
            found = otio.adapters.read_from_file(str(place))
        except otio.exceptions.OTIOError as error:
            raise InputError(f"Timeline: {place} cannot be read ({error}).") from error
        if not isinstance(found, otio.schema.Timeline):
            raise InputError(f"Timeline: {place} holds a {type(found).__name__}, not a timeline.")
        return cls(found, place.parent, **options)

    # -- reading -----------------------------------------------------------------------------------------------------

    def _target(self, clip: Any) -> str:
        reference = clip.media_reference
        url = getattr(reference, "target_url", None)
        if not url:
            raise InputError(f"Timeline: clip {clip.name!r} has no media; link it to a file.")
        parsed = urlparse(url)
        path = Path(unquote(parsed.path) if parsed.scheme == "file" else unquote(url))
        path = path if path.is_absolute() else self._folder / path
        if not path.exists() and "*" not in path.name:
            raise InputError(f"Timeline: the media {path} of clip {clip.name!r} is missing; relink it.")
        return str(path)

    def _open(self, media: str) -> Source:
        if media not in self._media:
            self._media[media] = open_source(media)
        return self._media[media]

    def _frames(self, seconds: Fraction) -> int:
        return round(seconds * self.frame_rate)

    def _read(self, track: Any) -> _Track:
        otio = optional_library("opentimelineio", "Timeline")
        result = _Track()
        position = Fraction(0)
        pending: Any = None
        for item in track:
            if isinstance(item, otio.schema.Transition):
                pending = item
                continue
            length = _seconds(item.trimmed_range().duration)
            clip = None
            if isinstance(item, otio.schema.Clip):
                clip = self._clip(item, position, length)
                result.clips.append(clip)
            if pending is not None:
                before = result.clips[-2] if len(result.clips) > 1 else None
                if clip is None or before is None or before.end != clip.begin:
                    raise InputError(
                        f"Timeline: transition {pending.name!r} is not between two clips; put it on a cut."
                    )
                result.changes.append(self._change(pending, before, clip))
                pending = None
            position += length
        if pending is not None:
            raise InputError(f"Timeline: transition {pending.name!r} is at the end of a track; put it on a cut.")
        return result

    def _clip(self, item: Any, position: Fraction, length: Fraction) -> _Clip:
        otio = optional_library("opentimelineio", "Timeline")
        trimmed = item.trimmed_range()
        start = _seconds(trimmed.start_time)
        available = item.media_reference.available_range
        if available is not None:  # media with time code start at it, not at 0
            start -= _seconds(available.start_time)
        speed = Fraction(1)
        for effect in item.effects:
            if isinstance(effect, otio.schema.LinearTimeWarp):
                speed *= Fraction(effect.time_scalar).limit_denominator(1 << 16)
        return _Clip(
            self._frames(position),
            self._frames(position + length),
            self._target(item),
            start,
            speed,
            item.name or "clip",
        )

    def _change(self, item: Any, old: _Clip, new: _Clip) -> _Change:
        cut = new.begin
        begin, end = cut - self._frames(_seconds(item.in_offset)), cut + self._frames(_seconds(item.out_offset))
        chosen = dict(item.metadata.get("elinvar", {}))
        kind = chosen.pop("pass", "Crossfade")
        return _Change(max(begin, old.begin), min(end, new.end), old, new, str(kind), chosen)

    # -- drawing -----------------------------------------------------------------------------------------------------

    def frame(self, n: int) -> torch.Tensor:
        """Return frame `n`: black where no track has a clip."""
        if not 0 <= n < (self.frame_count or 0):
            raise InputError(f"Timeline: frame {n} is outside 0 to {(self.frame_count or 1) - 1}.")
        with self._lock:
            for track in reversed(self._tracks):
                change = next((c for c in track.changes if c.begin <= n < c.end), None)
                if change is not None:
                    return self._mixed(change, n)
                clip = next((c for c in track.clips if c.begin <= n < c.end), None)
                if clip is not None:
                    return self._picture(clip, n)
        return torch.zeros(3, self.height, self.width)

    def _picture(self, clip: _Clip, n: int) -> torch.Tensor:
        source = self._open(clip.media)
        seconds = clip.offset + Fraction(n - clip.begin) / self.frame_rate * clip.speed
        at = int(seconds * source.frame_rate + Fraction(1, 1000))  # the frame shown then
        if source.frame_count is not None and not 0 <= at < source.frame_count:
            raise InputError(
                f"Timeline: clip {clip.name!r} needs frame {at} of {clip.media}, which has {source.frame_count}; "
                f"shorten the "
                "clip or its transition."
            )
        pixels = source.frame(at)
        if source.space in CAMERAS:
            pixels = transform(pixels, source.space, "acescg")
        else:
            pixels = shade.apply(pixels, decode_ops(source.space))
        if tuple(pixels.shape[1:]) == (self.height, self.width):
            return pixels
        out = torch.empty(3, self.height, self.width)
        moment = Moment(n, self.frame_rate, self.width, self.height)
        Scale(self.width, self.height).run(moment, [pixels], out, [])
        return out

    def _mixed(self, change: _Change, n: int) -> torch.Tensor:
        progress = (n - change.begin + 1) / (change.end - change.begin + 1)
        made: Pass = make_pass(change.kind, {**change.parameters, "progress": progress})
        made.check()
        old, new = self._picture(change.old, n), self._picture(change.new, n)
        moment = Moment(n, self.frame_rate, self.width, self.height)
        if isinstance(made, Point):
            ops = made.ops(moment)
            return shade.apply(old, ops, [new for op in ops for _ in op.extras])
        if not isinstance(made, Spatial) or made.inputs != 2:
            raise InputError(
                f"Timeline: {change.kind} is no transition; use Crossfade, Dip, Wipe, Iris, Push or Slide."
            )
        out = torch.empty_like(old)
        made.run(moment, [old, new], out, [])
        return out
