"""Sound carried along: packets copied where the new container takes them, else encoded again; and timelines' mixed."""

# ruff: noqa: A002  (format and range are what the field calls them)

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from elinvar.errors import InputError
from elinvar.video._check import optional_library

if TYPE_CHECKING:
    from elinvar.video.soundtrack import Soundtrack

__all__ = ["AudioTrack", "Mixture", "Sound", "chosen_tracks"]

_log = logging.getLogger("elinvar.video")

_TAKES = {
    "mp4": {"aac", "mp3", "mp3float", "ac3", "eac3", "alac", "opus", "flac"},
    "mov": {"aac", "mp3", "mp3float", "ac3", "eac3", "alac", "pcm_s16le", "pcm_s24le"},
    "webm": {"vorbis", "opus"},
}
_AAC_RATES = (96000, 88200, 64000, 48000, 44100, 32000, 24000, 22050, 16000, 12000, 11025, 8000, 7350)
_QUICKTIME = {
    "ces": "cze", "deu": "ger", "ell": "gre", "fas": "per", "isl": "ice", "mkd": "mac", "nld": "dut", "ron": "rum",
    "slk": "slo", "sqi": "alb", "zho": "chi",
}  # fmt: skip
"""QuickTime's list of languages has these by their bibliographic codes (ISO 639-2/B) and forgets others."""


def chosen_tracks(source: Path | Soundtrack, audio: bool | str | int) -> tuple[int, ...]:
    """Return which audio tracks of a file or a timeline go along.

    Parameters
    ----------
    audio
        "all" or True, "first", "none" or False, or a track's number from 0 on.

    Raises
    ------
    InputError
        Another word, or a track the file does not have.
    """
    from elinvar.video.probing import opened

    if isinstance(source, Path):
        with opened(source, picture=False) as file:
            count = len(file.streams.audio)
    else:
        count = 0 if source.silent else source.tracks
    if isinstance(audio, str) and audio.isdecimal():
        audio = int(audio)
    if isinstance(audio, bool):
        audio = "all" if audio else "none"
    if isinstance(audio, int):
        if not 0 <= audio < count:
            numbers = f"a number from 0 to {count - 1}, " if count else ""
            raise InputError(
                f"video.export: audio={audio}, but {_named(source)} has {count or 'no'} audio tracks; give {numbers}"
                "'all', 'first' or 'none'."
            )
        return (audio,)
    known = {"all": tuple(range(count)), "first": tuple(range(min(1, count))), "none": ()}
    if audio not in known:
        raise InputError(f"video.export: audio={audio!r}; give 'all', 'first', 'none' or a track's number.")
    return known[audio]


def _named(source: Any) -> str:
    return str(source) if isinstance(source, Path) else "the timeline"


class AudioTrack:
    """One audio track of a file on its way into an output container, packet by packet as it is.

    Parameters
    ----------
    path, index
        File with the sound, and which of its audio tracks.
    container
        PyAV's output container.
    start, duration
        Seconds of the file to take.
    """

    how = "copied"

    def __init__(self, path: Path, index: int, container: Any, start: Fraction, duration: Fraction) -> None:
        av = optional_library("av", "video.export")
        self._input = av.open(str(path))
        self._stream = self._input.streams.audio[index]
        self._start, self._end = start, start + duration
        self._container = container
        self.out = container.add_stream_from_template(self._stream)
        self._packets = self._copied()
        self._waiting: tuple[Fraction, Any] | None = next(self._packets, None)

    def _copied(self) -> Iterator[tuple[Fraction, Any]]:
        """Yield (seconds from the start, packet for the output)."""
        base = Fraction(self._stream.time_base)
        shift = int(self._start / base)
        if self._start > 0:
            self._input.seek(shift, stream=self._stream)
        for packet in self._input.demux(self._stream):
            if packet.pts is None or packet.pts * base < self._start:
                continue
            when = packet.pts * base - self._start
            if when >= self._end - self._start:
                return
            packet.pts -= shift
            packet.dts = packet.pts
            packet.stream = self.out
            yield when, packet

    def until(self, seconds: Fraction) -> None:
        """Write what sounds before a time, so that sound and picture lie beside each other in the file."""
        while self._waiting is not None and self._waiting[0] <= seconds:
            self._container.mux(self._waiting[1])
            self._waiting = next(self._packets, None)

    def close(self) -> None:
        """Write the rest and close the input."""
        self.until(self._end)
        self._input.close()


def _known(metadata: Any, format: str) -> dict[str, str]:
    """Return what is said of a track beside its samples, in the words of a container."""
    language, title = metadata.get("language"), metadata.get("title") or metadata.get("name")
    if format == "mov":
        language = _QUICKTIME.get(language, language)
    words = {"language": language, "title": title, "comment": metadata.get("comment")}
    return {key: value for key, value in words.items() if value}


class Sound:
    """Several tracks of one file beside each other, copied or encoded again; parameters as for `AudioTrack`."""

    def __init__(
        self, path: Path, indices: tuple[int, ...], container: Any, start: Fraction, duration: Fraction
    ) -> None:
        self.tracks = [_track(path, k, container, start, duration) for k in indices]

    @property
    def how(self) -> str | None:
        """Return "copied", "encoded", "copied and encoded", or None without a track."""
        return " and ".join(sorted({track.how for track in self.tracks})) or None

    def until(self, seconds: Fraction) -> None:
        """Write what sounds before a time."""
        for track in self.tracks:
            track.until(seconds)

    def close(self) -> None:
        """Write the rest and close the inputs."""
        for track in self.tracks:
            track.close()


def _track(path: Path, index: int, container: Any, start: Fraction, duration: Fraction) -> AudioTrack | Mixture:
    """Return a file's track on its way: as it is where the container takes it, else encoded again, sample by sample."""
    from elinvar.video.probing import opened
    from elinvar.video.soundtrack import Soundtrack

    kind = container.format.name.split(",")[0]
    takes = _TAKES.get(kind)
    with opened(path, picture=False) as file:
        stream = file.streams.audio[index]
        name, told, disposition = stream.codec_context.name, dict(stream.metadata), stream.disposition
    track: AudioTrack | Mixture
    if takes is None or name in takes:
        track = AudioTrack(path, index, container, start, duration)
    else:
        whole = Soundtrack.of_file(path, index, start, duration)
        track = Mixture(whole, (0,), container, Fraction(0), duration, how="encoded")
    track.out.metadata.update(_known(told, kind))
    track.out.disposition = disposition
    return track


class Mixture:
    """A timeline's sound on its way into an output container, mixed to one track; used as `Sound` is.

    Parameters
    ----------
    soundtrack, tracks
        What sounds, and which of its tracks.
    container
        PyAV's output container.
    start, duration
        Seconds of the timeline to take: from the sample nearest to the start to before the one nearest to the end.
    lossless
        PCM of 24 bits where the container takes it, as archives want it; else AAC, or Opus in WebM.
    how
        What `Exported.audio` calls it.
    """

    def __init__(
        self,
        soundtrack: Soundtrack,
        tracks: tuple[int, ...],
        container: Any,
        start: Fraction,
        duration: Fraction,
        *,
        lossless: bool = False,
        how: str = "mixed",
    ) -> None:
        self.how = how
        self.tracks = [soundtrack]
        self._container, self._rate = container, soundtrack.rate
        kind = container.format.name.split(",")[0]
        codec = "libopus" if kind == "webm" else ("pcm_s24le" if lossless and kind != "mp4" else "aac")
        rate = soundtrack.rate
        if (codec == "libopus" and rate != 48000) or (codec == "aac" and rate not in _AAC_RATES):
            soundtrack = soundtrack.at_rate(48000)
            self._rate = rate = 48000
        self.out = container.add_stream(codec, rate=rate)
        self.out.layout = soundtrack.layout
        if codec == "aac":
            self.out.codec_context.bit_rate = 96_000 * soundtrack.channels
        self._layout = soundtrack.layout
        first, last = (math.floor(t * rate + Fraction(1, 2)) for t in (start, start + duration))
        self._blocks = soundtrack.blocks(first, last - first, tracks)
        self._written = 0
        self.peak = 0.0
        """Largest sample so far; above 1 is beyond full scale."""

    def until(self, seconds: Fraction) -> None:
        """Write what sounds before a time, so that sound and picture lie beside each other in the file."""
        av = optional_library("av", "video.export")
        while self._written <= seconds * self._rate:
            block = next(self._blocks, None)
            if block is None:
                return
            self.peak = max(self.peak, float(np.abs(block).max(initial=0.0)))
            frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(block), format="fltp", layout=self._layout)
            frame.sample_rate, frame.pts, frame.time_base = self._rate, self._written, Fraction(1, self._rate)
            self._written += block.shape[1]
            self._container.mux(self.out.encode(frame))

    def close(self) -> None:
        """Write the rest; say when the sum of the tracks went beyond full scale."""
        self.until(Fraction(1 << 40))
        self._container.mux(self.out.encode(None))
        if self.peak > 1:
            _log.warning(
                "the %s sound peaks %.1f dB above full scale and is clipped; lower its level",
                self.how,
                20 * math.log10(self.peak),
            )
