"""OpenTimelineIO timelines as sources: clips, gaps, transitions, several tracks, exact times.

The uppermost video track with a clip at a time is seen. A transition mixes the outgoing clip, which goes on into its
handles, with the incoming one, in linear light. ``SMPTE_Dissolve`` is a cross-fade; ``metadata["elinvar"]`` of a
transition may name another pass with its parameters: ``{"pass": "Wipe", "direction": "left"}``. Beside a gap or an end
it comes from black, or goes to it. Linear time warps and freeze frames are applied. The sound is mixed from the audio
tracks (`elinvar.video.soundtrack`).
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlparse

import torch

from elinvar.errors import InputError
from elinvar.video import shade
from elinvar.video._check import choice, optional_library
from elinvar.video._check import frame_rate as exact_rate
from elinvar.video.color import decode_ops, transform
from elinvar.video.cutting import Clip, Cut, Join, read_track
from elinvar.video.looks import make_pass
from elinvar.video.ocio import CAMERAS
from elinvar.video.passes.base import Moment, Pass, Point, Spatial
from elinvar.video.passes.scale import Scale
from elinvar.video.soundtrack import CURVES, Soundtrack
from elinvar.video.sources import Images, Source, is_picture, open_source

__all__ = ["Timeline"]


@dataclass(frozen=True)
class _Shot:
    """A clip in the timeline's frames."""

    begin: int
    end: int
    clip: Clip


@dataclass(frozen=True)
class _Change:
    """A transition from frame `begin` to before `end`; None is black."""

    begin: int
    end: int
    old: _Shot | None
    new: _Shot | None
    kind: str
    parameters: Mapping[str, Any]


@dataclass(frozen=True)
class _Track:
    shots: list[_Shot]
    changes: list[_Change]


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
    fades
        How sound crosses over at transitions: "equal-power", or "linear".

    Raises
    ------
    InputError
        No video, media that are missing, nested sequences, transitions without a clip.
    """

    space = "acescg"

    def __init__(
        self,
        timeline: Any,
        folder: Any = ".",
        size: tuple[int, int] | None = None,
        frame_rate: Any = None,
        fades: str = "equal-power",
    ) -> None:
        self._folder = Path(folder)
        self._text: str = timeline.to_json_string()
        self._fades = choice("Timeline", "fades", fades, CURVES)
        self._media: dict[Any, Source] = {}
        self._lock = threading.Lock()
        tracks = [track for track in timeline.video_tracks() if track.enabled]
        if not tracks:
            raise InputError("Timeline: there is no video track.")
        cuts = [read_track(track, self._target) for track in tracks]
        first = next((c for cut in cuts for c in cut.clips), None)
        if first is None:
            raise InputError("Timeline: there is no clip on a video track.")
        opened = self._open(first.media)
        self.frame_rate = opened.frame_rate if frame_rate is None else exact_rate("Timeline", frame_rate)
        self.width, self.height = size or (opened.width, opened.height)
        self._seen, self._heard = cuts, list[Cut]()
        self._tracks = [self._in_frames(cut) for cut in cuts]
        self._sounds = [track for track in timeline.audio_tracks() if track.enabled]
        self.frame_count: int | None = max((s.end for t in self._tracks for s in t.shots), default=0)

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

    @cached_property
    def delivery(self) -> str | None:
        """The space of all clips' media, in which a film of them is delivered unless told; None where they differ."""
        spaces = {self._open(c.media).space for cut in self._seen for c in cut.clips}
        return spaces.pop() if len(spaces) == 1 else None

    @cached_property
    def soundtrack(self) -> Soundtrack:
        """The timeline's sound: of its audio tracks; without any, what the files on its video tracks bring."""
        cuts = [read_track(track, self._target) for track in self._sounds] or [_only_films(cut) for cut in self._seen]
        self._heard = cuts
        return Soundtrack(cuts, self._fades)

    @property
    def files(self) -> tuple[Path, ...]:
        """What is read: the media of all clips; of those that sound alone, when the sound was asked for."""
        cuts = [*self._heard, *self._seen]
        media = {c.media: None for cut in cuts for c in cut.clips}
        return tuple(Path(path) for m in media for path in ((m,) if isinstance(m, str) else m[0]))

    def describe(self) -> str:
        """Return what tells this timeline from others."""
        content = hashlib.sha256(self._text.encode()).hexdigest()
        return f"{content} {self.width} {self.height} {self.frame_rate} {self._fades}"

    # -- reading -----------------------------------------------------------------------------------------------------

    def _target(self, clip: Any) -> Any:
        """Return a clip's file, or a sequence's files and rate."""
        otio = optional_library("opentimelineio", "Timeline")
        reference = clip.media_reference
        if isinstance(reference, otio.schema.ImageSequenceReference):
            if reference.available_range is None:
                raise InputError(f"Timeline: the images of clip {clip.name!r} have no available range; give it one.")
            count = reference.number_of_images_in_sequence()
            names = [reference.target_url_for_image_number(k) for k in range(count)]
            return tuple(self._path(name, clip.name) for name in names), float(reference.rate)
        url = getattr(reference, "target_url", None)
        if not url:
            raise InputError(f"Timeline: clip {clip.name!r} has no media; link it to a file.")
        return self._path(url, clip.name)

    def _path(self, url: str, name: str) -> str:
        parsed = urlparse(url)
        path = Path(unquote(parsed.path) if parsed.scheme == "file" else unquote(url))
        path = path if path.is_absolute() else self._folder / path
        if not path.exists() and "*" not in path.name:
            raise InputError(f"Timeline: the media {path} of clip {name!r} is missing; relink it.")
        return str(path)

    def _open(self, media: Any) -> Source:
        if media not in self._media:
            self._media[media] = open_source(media) if isinstance(media, str) else Images(media[0], media[1])
        return self._media[media]

    def _frames(self, seconds: Fraction) -> int:
        return round(seconds * self.frame_rate)

    def _in_frames(self, cut: Cut) -> _Track:
        shots = {id(c): _Shot(self._frames(c.begin), self._frames(c.end), c) for c in cut.clips}
        return _Track(list(shots.values()), [self._change(join, shots) for join in cut.joins])

    def _change(self, join: Join, shots: Mapping[int, _Shot]) -> _Change:
        chosen = dict(join.chosen)
        kind = str(chosen.pop("pass", "Crossfade"))
        old, new = shots.get(id(join.old)), shots.get(id(join.new))
        return _Change(self._frames(join.begin), self._frames(join.end), old, new, kind, chosen)

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
                shot = next((s for s in track.shots if s.begin <= n < s.end), None)
                if shot is not None:
                    return self._picture(shot, n)
        return torch.zeros(3, self.height, self.width)

    def _picture(self, shot: _Shot | None, n: int) -> torch.Tensor:
        if shot is None:
            return torch.zeros(3, self.height, self.width)
        clip = shot.clip
        source = self._open(clip.media)
        seconds = clip.offset + Fraction(n - shot.begin) / self.frame_rate * clip.speed
        at = int(seconds * source.frame_rate + Fraction(1, 1000))  # the frame shown then
        if source.frame_count is not None and not 0 <= at < source.frame_count:
            raise InputError(
                f"Timeline: clip {clip.name!r} needs frame {at} of {_named(clip.media)}, which has "
                f"{source.frame_count}; shorten the clip or its transition."
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


def _named(media: Any) -> str:
    return media if isinstance(media, str) else f"{media[0][0]} and the images behind it"


def _only_films(cut: Cut) -> Cut:
    """A video track as an audio track: of what may hold sound."""
    return Cut([c for c in cut.clips if isinstance(c.media, str) and not is_picture(Path(c.media))], cut.joins, cut.end)
