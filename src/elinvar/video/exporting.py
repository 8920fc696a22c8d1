"""Export: decode, render, convert and encode side by side, with the right colours and the tags that say so."""

# ruff: noqa: A001  (format and range are what the field calls them)

from __future__ import annotations

import dataclasses
import errno
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

from elinvar.errors import Cancelled, InputError, PipelineError
from elinvar.runtime.files import atomic_write
from elinvar.runtime.pressure import Monitor
from elinvar.video import adaptive, codecs
from elinvar.video._check import choice, count, optional_library
from elinvar.video._check import frame_rate as exact_rate
from elinvar.video.audio import Mixture, Sound, chosen_tracks
from elinvar.video.graph import Graph
from elinvar.video.media import VideoFile
from elinvar.video.passes.scale import FITS
from elinvar.video.probing import tag_of
from elinvar.video.rendering import rendered, slots_for
from elinvar.video.soundtrack import Soundtrack
from elinvar.video.sources import is_picture
from elinvar.video.spaces import SPACES, TAGS
from elinvar.video.timeline import Timeline
from elinvar.video.yuv import Coding, coding

__all__ = ["Exported", "Job", "encode_frames", "export"]

Progress = Callable[[int, "int | None"], object]


@dataclass(frozen=True)
class Exported:
    """What was written.

    Attributes
    ----------
    path
        The file, or the folder of a sequence.
    frames
        How many.
    encoder, format
        FFmpeg's encoder and the pixel format.
    slots
        Buffers that were in use at most: in flight, and kept by the encoder.
    audio
        "copied", "encoded", "copied and encoded", of a timeline "mixed", or None.
    audio_tracks
        How many.
    surface
        Where the encoder read its frames: "host", or "cuda" without a copy through the host.
    """

    path: Path
    frames: int
    width: int
    height: int
    frame_rate: Fraction
    encoder: str
    format: str
    space: str
    slots: int
    audio: str | None
    audio_tracks: int = 0
    surface: str = "host"


@dataclass(frozen=True)
class Job:
    """Everything an export does, checked."""

    graph: Graph
    path: Path
    settings: codecs.Settings
    coding: Coding
    first: int
    frames: int
    in_flight: int
    sound: Path | Soundtrack | None
    tracks: tuple[int, ...] = ()
    """Which audio tracks of `sound` go along."""
    late: int = 0
    """How many frames into the sound's file the graph begins."""
    monitor: Monitor | None = None
    """Sees pressure, and lets the job give way."""
    fit: str = "fit"
    """How sources of another size are brought to the job's."""

    @property
    def size(self) -> tuple[int, int]:
        """Width and height."""
        return self.settings.width, self.settings.height


def export(
    source: Any,
    path: Any,
    *,
    graph: Graph | None = None,
    codec: str | None = None,
    frame_rate: Any = None,
    bitrate: int | None = None,
    quality: float | None = None,
    keyframe_interval: float | None = None,
    bit_depth: int | None = None,
    dither: bool | None = None,
    delivery: str | None = None,
    in_flight: int | None = 3,
    device: Any = "auto",
    progress: Progress | None = None,
    preset: str | None = None,
    size: tuple[int, int] | None = None,
    fit: str | None = None,
    speed: str | None = None,
    start: int = 0,
    frames: int | None = None,
    audio: bool | str | int = "all",
    segment: float | None = None,
    cancel: Callable[[], bool] | None = None,
    monitor: Monitor | None = None,
    peak: float = 1000.0,
) -> Exported:
    """Render and encode.

    Parameters
    ----------
    source
        A path, a source, frames, or a `Graph`. With `graph`, only the sound is taken from it.
    path
        File to write; it appears when it is complete. The suffix chooses the container.
    graph
        What to render; None writes the source's pixels in `delivery`.
    codec
        "h264" (default), "hevc", "av1", "prores", "ffv1", or "exr" for a folder of half-float files.
    frame_rate
        Exact rate; None keeps the source's. Another rate conforms a video file by repeating and dropping frames.
    bitrate, quality
        Bits per second, or quality 0 to 1 at constant quality. Neither: bits by pixels, `codecs.automatic_bitrate`.
    keyframe_interval
        Seconds, 2 by default.
    bit_depth
        8 or 10 (12 for ffv1); None: 10 for HDR, ProRes and EXR sources, else 8.
    dither
        None dithers 8-bit video.
    delivery
        Space of the file: "rec709", "srgb", "p3-d65", "rec2020", "rec2100-pq", "rec2100-hlg"; a linear space for EXR.
        With a graph it must be the graph's.
    in_flight
        Frames between the source and the encoder at a time, from 1; None: by the device, `adaptive.for_profile`.
    device
        Where to render when no graph is given.
    progress
        ``progress(done, total)``; what it raises ends the export.
    preset
        One of `codecs.PRESETS`; other arguments override it.
    size, fit
        Width and height to deliver, and how the picture gets there: "fit", "fill", "stretch"; sources of a graph that
        were added with a `fit` of their own keep it.
    speed
        The encoder's own preset, e.g. "veryfast".
    start, frames
        First frame and number of frames; None takes all there are.
    audio
        Which of the source's audio tracks go along: "all" (or True), "first", "none" (or False), or a track's number
        from 0 on. They keep their language, title and disposition. A timeline's are mixed into one.
    segment
        Encode in pieces of so many seconds, each kept until the end: after an interruption, the same call goes on where
        it stopped.
    cancel
        Asked after every frame; True ends the export.
    monitor
        A started `elinvar.Monitor`: while it sees memory, heat or power run short, fewer frames are on their way
        (`elinvar.video.adaptive`). The file is the same.
    peak
        Of PQ: the mastering display's white and the brightest light of the film (MaxCLL), in cd/m², for its metadata.

    Returns
    -------
    Exported

    Raises
    ------
    InputError
        Arguments that do not fit, a missing frame, damaged media.
    Cancelled
        `cancel` said so. Nothing is left behind but finished segments.
    PipelineError
        The encoder failed.
    """
    chosen = codecs.PRESETS[choice("video.export", "preset", preset, codecs.PRESETS)] if preset else None
    if chosen is not None:
        codec, fit = codec or chosen.codec, fit or chosen.fit
        size, bit_depth = size or (chosen.width, chosen.height), bit_depth or chosen.bit_depth
        bitrate = bitrate if bitrate is not None or quality is not None else chosen.bitrate
    rate = None if frame_rate is None else exact_rate("video.export", frame_rate)
    if fit is not None:
        choice("video.export", "fit", fit, FITS[:3])
    built, found, late = _graph_of(source, graph, rate, delivery, device)
    sound: Path | Soundtrack | None = None
    if audio is not False and audio != "none" and codec != "exr":  # what is not wanted need not be there
        sound = found.soundtrack if isinstance(found, Timeline) else found
    _spare_sources(built, sound, Path(path))
    if in_flight is None:
        in_flight = adaptive.for_profile(built.device.profile).in_flight
    if codec == "exr":
        from elinvar.video.sequence import write_sequence

        written: Exported = write_sequence(
            built, Path(path), start, frames, in_flight, progress, cancel, size, monitor, fit or "fit"
        )
        return written
    job = plan_job(
        built, Path(path), codec or "h264", size or built.size, start, frames, in_flight, sound,
        bit_depth=bit_depth, dither=dither, delivery=delivery, bitrate=bitrate, quality=quality,
        keyframe_interval=keyframe_interval, speed=speed, fit=fit or "fit", peak=peak,
    )  # fmt: skip
    tracks = chosen_tracks(job.sound, audio) if job.sound is not None else ()
    job = dataclasses.replace(job, tracks=tracks, late=late, monitor=monitor)
    if segment is not None:
        from elinvar.video.segments import export_segments

        joined: Exported = export_segments(job, segment, progress, cancel)
        return joined
    return run_job(job, progress, cancel)


def _graph_of(
    source: Any, graph: Graph | None, rate: Fraction | None, delivery: str | None, device: Any
) -> tuple[Graph, Path | Timeline | None, int]:
    """Return what to render, where the sound is, and which of its frames is the graph's first."""
    if isinstance(source, Graph):
        graph, source = source, None
    if graph is None:
        options: dict[str, Any] = {"frame_rate": rate} if rate is not None else {}
        graph = Graph(device)
        node = graph.source(source, **options)
        graph.output(delivery or own_space(node.content))
    elif rate is not None and rate != graph.frame_rate:
        raise InputError(
            f"video.export: the graph runs at {graph.frame_rate}; give frame_rate={rate} to its source instead."
        )
    first = graph.sources[0]
    own: Path | Timeline | None = None
    if isinstance(first.content, VideoFile):
        own = first.content.path
    elif isinstance(first.content, Timeline):
        own = first.content
    told = Path(source) if isinstance(source, (str, Path)) and Path(source).is_file() else None
    if told is None or told == own or is_picture(told):  # a timeline's sound is the graph's own, pictures have none
        return graph, own, first.start
    return graph, told, 0


def _spare_sources(graph: Graph, sound: Path | Soundtrack | None, path: Path) -> None:
    """Refuse to write over a file that the graph reads: it would be replaced for ever by what was made of it."""
    read = [Path(file) for node in graph.sources for file in getattr(node.content, "files", ())]
    for file in [*read, sound] if isinstance(sound, Path) else read:
        if path.is_file() and file.is_file() and path.samefile(file):
            raise InputError(f"video.export: {path} is read by the graph; name another file to write.")


def own_space(source: Any) -> str:
    """Return a source's own space when files can be tagged with it, or it is linear light; else Rec.709.

    A timeline's is that of all its media.
    """
    where: str = getattr(source, "delivery", None) or source.space
    known = where in TAGS or (where in SPACES and SPACES[where].transfer == "linear")
    return where if known else "rec709"


def plan_job(
    graph: Graph,
    path: Path,
    codec: str,
    size: tuple[int, int],
    start: int,
    frames: int | None,
    in_flight: int,
    sound: Path | Soundtrack | None,
    *,
    bit_depth: int | None,
    dither: bool | None,
    delivery: str | None,
    fit: str,
    **encoder: Any,
) -> Job:
    """Check everything before anything is written."""
    choice("video.export", "codec", codec, [*codecs.CODECS, "exr"])
    known = codecs.CODECS[codec]
    if path.suffix.lower() not in known.suffixes:
        raise InputError(
            f"video.export: {codec} does not go into {path.suffix or 'a file without suffix'}; use "
            f"{', '.join(known.suffixes)}."
        )
    if delivery is not None and delivery != graph.space:
        raise InputError(
            f"video.export: the graph's output is {graph.space}, not {delivery}; choose its view with graph.output()."
        )
    tag = tag_of(graph.space)
    hdr = tag.transfer in (16, 18)
    depth = bit_depth or (10 if hdr or codec == "prores" else 8)
    if hdr and depth < 10:
        raise InputError("video.export: HDR in 8 bits shows bands; use bit_depth=10.")
    width, height = (count("video.export", n, v, 2, 16384) for n, v in zip(("width", "height"), size, strict=True))
    made = codecs.settings(codec, width, height, graph.frame_rate, tag, bit_depth=depth, device=graph.device, **encoder)
    matrix = {1: "bt709", 9: "bt2020", 5: "bt601", 6: "bt601"}[tag.matrix]
    how = coding(made.format, matrix, "limited", None, depth == 8 if dither is None else dither)
    if width % how.format.across or height % how.format.down:
        raise InputError(
            f"video.export: {width} x {height} is odd, which {made.format} cannot hold; give size=({width // 2 * 2}, "
            f"{height // 2 * 2}), or codec='prores' for odd heights."
        )
    made = dataclasses.replace(made, pixel_aspect=_pixel_aspect(graph, (width, height), fit))
    if made.pixel_aspect != 1 and codec not in ("h264", "hevc") and path.suffix.lower() in (".mkv", ".webm"):
        raise InputError(
            f"video.export: pixels of {made.pixel_aspect} cannot be noted for {codec} in {path.suffix}; make them "
            "square with fit='stretch', or use another container."
        )
    total = graph.frame_count
    count("video.export", "start", start, 0)
    if frames is None:
        if total is None:
            raise InputError("video.export: the source never ends; say how many frames=.")
        frames = total - start
    if frames < 1 or (total is not None and start + frames > total):
        raise InputError(f"video.export: frames {start} to {start + frames - 1} were asked for, there are {total}.")
    count("video.export", "in_flight", in_flight, 1, 64)
    return Job(graph, path, made, how, start, frames, in_flight, sound, fit=fit)


def _pixel_aspect(graph: Graph, size: tuple[int, int], fit: str) -> Fraction:
    """Return the shape of the pixels to deliver: the first source's, where its size is kept."""
    first = graph.sources[0].content
    aspect: Fraction = getattr(first, "pixel_aspect", Fraction(1))
    if aspect == 1 or size == (first.width, first.height):
        return aspect
    if fit == "stretch":
        return Fraction(1)
    square = round(first.width * aspect / 2) * 2
    raise InputError(
        f"video.export: the source's pixels are {aspect} times as wide as high and would be shown out of shape at "
        f"{size[0]} x {size[1]}; keep {first.width} x {first.height}, or make them square with fit='stretch' and "
        f"size=({square}, {first.height})."
    )


# -- running ---------------------------------------------------------------------------------------------------------


def encode_frames(
    job: Job, container: Any, progress: Progress | None, cancel: Callable[[], bool] | None
) -> tuple[int, Any]:
    """Encode a job's frames into an open container; return (slots made, sound)."""
    av = optional_library("av", "video.export")
    made = job.settings.lasting(job.frames)
    try:
        stream = container.add_stream(made.encoder, rate=made.rate)
    except ValueError as error:
        raise InputError(f"video.export: {error}; choose another codec or container.") from None
    made.apply(stream)
    track = sound_of(job, container)
    slots = slots_for(job)
    k = -1
    try:
        for k, slot in rendered(job, slots):
            frame = slot.frame(k, made.tag)
            container.mux(stream.encode(frame))
            del frame, slot
            if track is not None:
                track.until(Fraction(k + 1) / made.rate)
            if progress is not None:
                progress(k + 1, job.frames)
            if cancel is not None and cancel():
                raise Cancelled(
                    f"video.export: cancelled after {k + 1} of {job.frames} frames; the partial file is gone."
                )
        container.mux(stream.encode(None))
    except av.error.FFmpegError as error:
        raise _encoder_error(error, made.encoder, k) from error
    if k + 1 != job.frames:
        raise PipelineError(f"video.export: {k + 1} of {job.frames} frames were rendered; frames are missing.")
    if track is not None:
        track.close()
    return slots.made, track


_DISK = (errno.ENOSPC, errno.EACCES, errno.EROFS, errno.EDQUOT, errno.ENOENT, errno.ENOTDIR, errno.EPERM)


def _encoder_error(error: Any, encoder: str, k: int) -> Exception:
    if getattr(error, "errno", None) in _DISK:
        return OSError(error.errno, error.strerror, getattr(error, "filename", None))
    return PipelineError(
        f"video.export: {encoder} failed at frame {max(k, 0)} ({error}); the partial file is gone, try another codec "
        f"or size."
    )


def sound_of(job: Job, container: Any) -> Sound | Mixture | None:
    """Return the job's sound with its streams added to a container; None when there is none."""
    from elinvar.video.probing import opened

    if job.sound is None or not job.tracks:
        return None
    start, duration = (Fraction(n) / job.settings.rate for n in (job.late + job.first, job.frames))
    if not isinstance(job.sound, Path):
        lossless = job.settings.codec in ("prores", "ffv1")
        return Mixture(job.sound, job.tracks, container, start, duration, lossless=lossless)
    with opened(job.sound, picture=False) as file:
        stream = next(iter(file.streams.video), None)  # a file may be sound alone
        begin = Fraction(0) if stream is None else Fraction(stream.start_time or 0) * Fraction(stream.time_base)
    return Sound(job.sound, job.tracks, container, begin + start, duration)


@contextmanager
def writing(path: Path, suffix: str | None = None) -> Iterator[Any]:
    """Open an output container that becomes `path` when everything went well, and vanishes otherwise."""
    av = optional_library("av", "video.export")
    format = codecs.CONTAINERS[(suffix or path.suffix).lower()]
    # Colours also in the container, the index in front.
    flags = {"movflags": "+faststart+write_colr"} if format in ("mp4", "mov") else {}
    with atomic_write(path) as temporary:
        container = av.open(str(temporary), "w", format=format, options=flags)
        try:
            yield container
        except BaseException:
            try:
                container.close()
            except Exception:  # noqa: BLE001, S110  (the first error is the one to tell)
                pass
            raise
        container.close()


def run_job(job: Job, progress: Progress | None = None, cancel: Callable[[], bool] | None = None) -> Exported:
    """Encode a job into its file."""
    with writing(job.path) as container:
        made, track = encode_frames(job, container, progress, cancel)
    return summary(job, made, track)


def summary(job: Job, slots: int, sound: Sound | Mixture | None) -> Exported:
    """Return what a finished job wrote."""
    s = job.settings
    how, count = (sound.how, len(sound.tracks)) if sound is not None else (None, 0)
    return Exported(
        job.path, job.frames, s.width, s.height, s.rate, s.encoder, s.format, job.graph.space, slots, how, count,
        s.surface,
    )  # fmt: skip


def part_of(job: Job, path: Path, first: int, frames: int) -> Job:
    """Return the job for some of the frames, without sound."""
    return dataclasses.replace(job, path=path, first=job.first + first, frames=frames, sound=None)
