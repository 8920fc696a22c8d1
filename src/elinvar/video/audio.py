"""Sound carried along: packets copied where the new container takes them, else encoded again."""

# ruff: noqa: A002  (format and range are what the field calls them)

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

from elinvar.video._check import optional_library

__all__ = ["AudioTrack"]

_TAKES = {
    "mp4": {"aac", "mp3", "mp3float", "ac3", "eac3", "alac", "opus", "flac"},
    "mov": {"aac", "mp3", "mp3float", "ac3", "eac3", "alac", "pcm_s16le", "pcm_s24le"},
    "webm": {"vorbis", "opus"},
}


class AudioTrack:
    """The first audio stream of a file on its way into an output container.

    Parameters
    ----------
    path
        File with the sound.
    container, format
        PyAV's output container and its short name.
    start, duration
        Seconds of the file to take.
    """

    def __init__(self, path: Path, container: Any, format: str, start: Fraction, duration: Fraction) -> None:
        av = optional_library("av", "video.export")
        self._input = av.open(str(path))
        self._stream = self._input.streams.audio[0]
        self._start, self._end = start, start + duration
        self._container = container
        name = self._stream.codec_context.name
        takes = _TAKES.get(format)
        self.copied = takes is None or name in takes
        if self.copied:
            self._out = container.add_stream_from_template(self._stream)
        else:
            codec = "libopus" if format == "webm" else "aac"
            rate = 48000 if codec == "libopus" else self._stream.rate
            self._out = container.add_stream(codec, rate=rate)
            self._out.layout = self._stream.layout
        self._packets = self._read()
        self._waiting: tuple[Fraction, Any] | None = next(self._packets, None)

    def _read(self) -> Any:
        """Yield (seconds from the start, packet for the output)."""
        base = Fraction(self._stream.time_base)
        if self._start > 0:
            self._input.seek(int(self._start / base), stream=self._stream)
        samples = 0
        for packet in self._input.demux(self._stream):
            if self.copied:
                if packet.pts is None or packet.pts * base < self._start:
                    continue
                when = packet.pts * base - self._start
                if when >= self._end - self._start:
                    break
                shift = int(self._start / base)
                packet.pts -= shift
                packet.dts = packet.pts
                packet.stream = self._out
                yield when, packet
                continue
            for frame in packet.decode():
                when = (frame.pts or 0) * base - self._start
                if when >= self._end - self._start:
                    break
                if when < 0:
                    continue
                frame.pts, frame.time_base = samples, Fraction(1, frame.sample_rate)
                samples += frame.samples
                for made in self._out.encode(frame):
                    yield when, made
        if not self.copied:
            for made in self._out.encode(None):
                yield self._end - self._start, made

    def until(self, seconds: Fraction) -> None:
        """Write what sounds before a time, so that sound and picture lie beside each other in the file."""
        while self._waiting is not None and self._waiting[0] <= seconds:
            self._container.mux(self._waiting[1])
            self._waiting = next(self._packets, None)

    def close(self) -> None:
        """Write the rest and close the input."""
        self.until(self._end)
        self._input.close()
