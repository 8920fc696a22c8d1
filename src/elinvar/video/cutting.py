"""OpenTimelineIO's tracks as exact times: which media are where, and the transitions between them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from elinvar.errors import InputError
from elinvar.video._check import frame_rate as exact_rate
from elinvar.video._check import optional_library

__all__ = ["Clip", "Cut", "Join", "read_track", "seconds"]


@dataclass(frozen=True)
class Clip:
    """A clip on a track.

    Attributes
    ----------
    begin, end
        On the timeline, seconds.
    media
        File, or whatever the caller's `find` made of the media reference.
    offset
        Media time at `begin`, in seconds from the media's beginning.
    speed
        Of its time warps; 0 for a freeze.
    chosen
        ``metadata["elinvar"]``.
    """

    begin: Fraction
    end: Fraction
    media: Any
    offset: Fraction
    speed: Fraction
    name: str
    chosen: dict[str, Any]


@dataclass(frozen=True)
class Join:
    """A transition from `begin` to `end`; `old` or `new` is None where it borders on a gap or an end."""

    begin: Fraction
    end: Fraction
    old: Clip | None
    new: Clip | None
    name: str
    chosen: dict[str, Any]


@dataclass(frozen=True)
class Cut:
    """A track: its clips in order, its transitions, its end."""

    clips: list[Clip]
    joins: list[Join]
    end: Fraction


def seconds(time: Any) -> Fraction:
    """Return an OTIO time as an exact fraction; its rates are floats such as 23.976023976."""
    rate = exact_rate("Timeline", float(time.rate))
    return Fraction(time.value).limit_denominator(1 << 20) / rate


def read_track(track: Any, find: Callable[[Any], Any]) -> Cut:
    """Return a track's clips and transitions; what is disabled is a gap.

    Parameters
    ----------
    find
        Returns a clip's media.

    Raises
    ------
    InputError
        A nested composition, a transition without a clip on either side.
    """
    otio = optional_library("opentimelineio", "Timeline")
    clips: list[Clip] = []
    joins: list[Join] = []
    position = Fraction(0)
    pending: tuple[Any, Clip | None] | None = None
    last: Clip | None = None
    for item in track:
        if isinstance(item, otio.schema.Transition):
            pending = item, last
            continue
        if not isinstance(item, (otio.schema.Clip, otio.schema.Gap)):
            raise InputError(
                f"Timeline: track {track.name!r} holds the {type(item).__name__} {item.name!r}; flatten nested "
                "sequences first, with opentimelineio.algorithms.flatten_stack()."
            )
        length = seconds(item.trimmed_range().duration)
        clip = None
        if isinstance(item, otio.schema.Clip) and item.enabled:
            clip = _clip(item, position, length, find)
            clips.append(clip)
        if pending is not None:
            joins.append(_join(pending[0], pending[1], clip, position))
            pending = None
        last, position = clip, position + length
    if pending is not None:
        joins.append(_join(pending[0], pending[1], None, position))
    return Cut(clips, joins, position)


def _clip(item: Any, position: Fraction, length: Fraction, find: Callable[[Any], Any]) -> Clip:
    otio = optional_library("opentimelineio", "Timeline")
    start = seconds(item.trimmed_range().start_time)
    available = item.media_reference.available_range
    if available is not None:  # media with time code start at it, not at 0
        start -= seconds(available.start_time)
    speed = Fraction(1)
    for effect in item.effects:
        if isinstance(effect, otio.schema.LinearTimeWarp):
            speed *= Fraction(effect.time_scalar).limit_denominator(1 << 16)
    chosen = dict(item.metadata.get("elinvar", {}))
    return Clip(position, position + length, find(item), start, speed, item.name or "clip", chosen)


def _join(item: Any, old: Clip | None, new: Clip | None, cut: Fraction) -> Join:
    if old is None and new is None:
        raise InputError(f"Timeline: transition {item.name!r} has no clip on either side; put it on a cut.")
    begin, end = cut - seconds(item.in_offset), cut + seconds(item.out_offset)
    begin = max(begin, old.begin) if old is not None else cut
    end = min(end, new.end) if new is not None else cut
    return Join(begin, end, old, new, item.name or "transition", dict(item.metadata.get("elinvar", {})))
