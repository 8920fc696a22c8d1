"""What a media file holds, read without decoding it: size, exact rate, colour tags, whether its rate varies."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

from elinvar.errors import InputError
from elinvar.video._check import optional_library
from elinvar.video.spaces import TAGS, Tag

__all__ = ["AudioInfo", "ColorWarning", "MediaInfo", "interpret", "opened", "probe"]

_RATES = tuple(Fraction(r) for r in (24, 25, 30, 48, 50, 60, 90, 100, 120)) + tuple(
    Fraction(r * 1000, 1001) for r in (24, 30, 48, 60, 120)
)


class ColorWarning(UserWarning):
    """A file does not say what its colours mean, and a documented default was taken."""


@dataclass(frozen=True)
class AudioInfo:
    """One audio stream."""

    codec: str
    rate: int
    channels: int
    seconds: float | None
    language: str | None = None
    title: str | None = None


@dataclass(frozen=True)
class MediaInfo:
    """What `probe` finds.

    Attributes
    ----------
    width, height
        As shown, after rotation.
    frame_rate
        Exact. For variable rates the broadcast rate nearest to the average.
    frame_count
        Frames at that rate.
    variable
        Whether frames are unevenly spaced.
    start, duration
        Of the video stream, seconds.
    rotation
        Degrees counter-clockwise the decoder's pictures are turned for display.
    pixel_format, codec
        FFmpeg's names.
    tag
        The colours' codes as found; 2 is unspecified.
    space, matrix, range
        What this library takes the pixels to be.
    assumed
        Which of those were not in the file.
    pixel_aspect
        Width of a pixel over its height, as shown; 1 for square ones.
    interlaced
        Whether frames are two fields; they are read as if they were not.
    missing
        Seconds that the file's header promises and that are not there: it is truncated. 0 for a whole file.
    """

    path: str
    container: str
    codec: str
    width: int
    height: int
    frame_rate: Fraction
    frame_count: int
    variable: bool
    start: Fraction
    duration: Fraction
    rotation: int
    pixel_format: str
    tag: Tag
    space: str
    matrix: str
    range: str
    assumed: tuple[str, ...]
    audio: tuple[AudioInfo, ...] = ()
    pts: tuple[int, ...] = ()
    time_base: Fraction = Fraction(1)
    missing: Fraction = Fraction(0)
    pixel_aspect: Fraction = Fraction(1)
    interlaced: bool = False


@contextmanager
def opened(path: Path, *, picture: bool = True) -> Iterator[Any]:
    """Open a container for reading; FFmpeg's complaints become sentences. Without `picture`, sound alone will do."""
    av = optional_library("av", "video")
    if not path.is_file():
        raise InputError(f"video {path}: there is no such file; check the path.")
    try:
        container = av.open(str(path))
    except (av.error.FFmpegError, OSError, ValueError) as error:
        raise InputError(f"video {path}: FFmpeg cannot open it ({error}); it is damaged or no media file.") from error
    with container:
        if picture and not container.streams.video:
            raise InputError(f"video {path}: it has no video stream.")
        yield container


def interpret(tag: Tag, height: int) -> tuple[str, str, tuple[str, ...]]:
    """Return (space, matrix, what was assumed) for a file's tag.

    Defaults for what is not specified: Rec.709 from 720 lines up, else Rec.601 (525 lines up to 486, 625 above), which
    is what players do.
    """
    assumed = [name for name in ("primaries", "transfer", "matrix") if getattr(tag, name) in (0, 2)]
    small = "rec709" if height >= 720 else ("rec601-525" if height <= 486 else "rec601-625")
    matrix = {0: "rgb", 1: "bt709", 5: "bt601", 6: "bt601", 9: "bt2020", 10: "bt2020"}.get(tag.matrix)
    if matrix is None:
        matrix = {"rec709": "bt709"}.get(small, "bt601")
        if tag.matrix not in (0, 2):
            assumed.append("matrix")
    if tag.transfer == 16:
        found = "rec2100-pq"
    elif tag.transfer == 18:
        found = "rec2100-hlg"
    elif tag.primaries in (9, 10) or (tag.primaries == 2 and matrix == "bt2020"):
        found = "rec2020"
    elif tag.primaries in (11, 12):
        found = "p3-d65"
    elif tag.transfer == 13:
        found = "srgb"
    elif tag.primaries in (1, 5, 6):
        found = {1: "rec709", 5: "rec601-625", 6: "rec601-525"}[tag.primaries]
    else:
        found = {"bt709": "rec709"}.get(matrix, small if small != "rec709" else "rec601-625")
    return found, matrix, tuple(assumed)


def _presented(container: Any, stream: Any, path: Path) -> tuple[list[int], Fraction]:
    """Return the presentation times of the picture's packets, in order, and how far any stream reaches, in seconds;
    nothing is decoded.
    """
    av = optional_library("av", "video")
    times, reach = [], Fraction(0)
    try:
        for packet in container.demux():
            if packet.pts is not None and packet.size:
                reach = max(reach, (packet.pts + (packet.duration or 0)) * Fraction(packet.time_base))
                if packet.stream.index == stream.index:
                    times.append(int(packet.pts))
    except av.error.FFmpegError as error:
        if not times:  # what was read before an error counts
            raise InputError(f"video {path}: its packets cannot be read ({error}); the file is damaged.") from error
    if not times:
        raise InputError(f"video {path}: it has no video frame; the file is empty or truncated.")
    return sorted(set(times)), reach


def _lost(container: Any, reach: Fraction, rate: Fraction) -> Fraction:
    """Return the seconds a header promises behind what was found; containers without an index only guess theirs."""
    if container.duration is None or not {"mov", "matroska"} & set(container.format.name.split(",")):
        return Fraction(0)
    promised = Fraction(container.duration + (container.start_time or 0), 1_000_000)
    return promised - reach if promised - reach > max(Fraction(1, 2), 2 / rate) else Fraction(0)


def _pace(times: list[int], base: Fraction, declared: Fraction | None) -> tuple[Fraction, bool]:
    """Return the exact rate, and whether the frames are uneven."""
    if len(times) < 2:
        return declared or Fraction(25), False
    span = (times[-1] - times[0]) * base
    average = (len(times) - 1) / span
    near = min((*_RATES, *([declared] if declared else [])), key=lambda r: abs(r / average - 1))
    # Coarse time bases (1/1000) hide the exact rate: within what they can resolve, the broadcast rate is meant.
    close = abs(1 / near - 1 / average) * (len(times) - 1) <= max(2 * base, Fraction(1, 2000))
    rate = near if close or abs(near / average - 1) < Fraction(1, 20000) else average.limit_denominator(1001)
    grid = max(Fraction(3, 2) * base, 1 / rate / 5)
    uneven = any(abs((t - times[0]) * base - n / rate) > grid for n, t in enumerate(times))
    if uneven:
        rate = (
            min(_RATES, key=lambda r: abs(r - average))
            if abs(near - average) <= Fraction(1, 5)
            else average.limit_denominator(1001)
        )
    return rate, uneven


def probe(path: Any, *, warn: bool = True) -> MediaInfo:
    """Read what a media file holds, without decoding more than one frame.

    Parameters
    ----------
    path
        A media file.
    warn
        Emit a `ColorWarning` when colours are not specified.

    Raises
    ------
    InputError
        No media file, no video, or damaged.
    """
    place = Path(path)
    av = optional_library("av", "video")
    with opened(place) as container:
        stream = container.streams.video[0]
        try:
            first = next(container.decode(stream))
        except (StopIteration, av.error.FFmpegError) as error:
            raise InputError(
                f"video {place}: not one frame can be decoded; the file is damaged or truncated."
            ) from error
        container.seek(0)
        times, reach = _presented(container, stream, place)
        base = Fraction(stream.time_base)
        declared = Fraction(stream.average_rate) if stream.average_rate else None
        rate, variable = _pace(times, base, declared)
        last = 1 / rate
        duration = (times[-1] - times[0]) * base + last
        full = first.color_range == 2 or first.format.name.startswith("yuvj")
        tag = Tag(int(first.color_primaries), int(first.color_trc), int(first.colorspace), full)
        where, matrix, assumed = interpret(tag, max(first.height, 1))
        if first.format.name.startswith(("rgb", "bgr", "gbr", "pal", "argb", "abgr", "x2")):
            matrix, assumed = "rgb", tuple(a for a in assumed if a != "matrix")
            where = where if tag.primaries not in (0, 2) else "srgb"
        if assumed and warn:
            warnings.warn(
                f"{place.name} does not specify its {', '.join(assumed)}; taken as {where} with the {matrix} matrix, "
                f"pass "
                "space= or matrix= to say otherwise.",
                ColorWarning,
                stacklevel=2,
            )
        turned = int(first.rotation or 0) % 360
        width, height = (first.height, first.width) if turned % 180 else (first.width, first.height)
        aspect = Fraction(stream.sample_aspect_ratio or 1) or Fraction(1)
        fields = bool(first.interlaced_frame)
        if fields and warn:
            warnings.warn(
                f"{place.name} is interlaced; frames are read as they are, two fields in one: deinterlace it first.",
                ColorWarning,
                stacklevel=2,
            )
        audio = tuple(_audio(a) for a in container.streams.audio)
        count = len(times) if not variable else max(1, round(duration * rate))
        return MediaInfo(
            str(place), container.format.name, stream.codec_context.name, width, height, rate, count, variable,
            times[0] * base, duration, turned, first.format.name, tag, where, matrix,
            "full" if full else "limited", assumed, audio, tuple(times), base, _lost(container, reach, rate),
            1 / aspect if turned % 180 else aspect, fields,
        )  # fmt: skip


def _audio(stream: Any) -> AudioInfo:
    told = stream.metadata
    seconds = float(stream.duration * stream.time_base) if stream.duration else None
    language = None if told.get("language") == "und" else told.get("language")
    context = stream.codec_context
    return AudioInfo(
        context.name, stream.rate, stream.channels, seconds, language, told.get("title") or told.get("name")
    )


def tag_of(space: str) -> Tag:
    """Return the codes a file in a space carries."""
    if space not in TAGS:
        raise InputError(
            f"video: {space} has no H.273 codes, so that no film can say what it holds; deliver in one of "
            f"{', '.join(TAGS)}, or through a rendering such as aces1.3-sdr (--view, or Graph.output)."
        )
    return TAGS[space]
