"""The sound of a timeline: clips at exact samples, cross-fades at its transitions, tracks added together.

A clip sounds from the sample nearest to its beginning to before the one nearest to its end, so that neighbours meet
without a gap and a timeline has as many samples as its seconds times the rate, rounded once. At a transition the
outgoing clip goes on into its handle and fades while the incoming one rises: with ``cos`` and ``sin`` of a quarter turn
(equal power: the sum of squares is 1) or linearly (the sum is 1). ``metadata["elinvar"]`` of a transition may say
``{"curve": "linear"}``, that of a clip ``{"stream": 1}`` for another audio stream of its file.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from elinvar.errors import InputError
from elinvar.video._check import choice, count, optional_library
from elinvar.video.cutting import Clip, Cut, Join
from elinvar.video.probing import opened

__all__ = ["CURVES", "Soundtrack"]

_log = logging.getLogger("elinvar.video")

CURVES = ("equal-power", "linear")
_LAYOUTS = {1: "mono", 2: "stereo", 3: "2.1", 4: "4.0", 5: "5.0", 6: "5.1", 7: "6.1", 8: "7.1"}
_PREROLL = Fraction(1, 4)
"""Seconds a decoder is given before its samples count: transforms overlap, and seeks land on packets."""

Samples = NDArray[np.float32]


@dataclass(frozen=True)
class _Stream:
    """An audio stream of a file."""

    path: str
    index: int
    rate: int
    channels: int
    begin: Fraction
    """Time stamp, in seconds, that is the media's time 0."""
    exact: bool
    """Whether time stamps tell single samples apart."""


@dataclass(frozen=True)
class _Fade:
    begin: int
    end: int
    rising: bool
    curve: str

    def gain(self, first: int, n: int) -> NDArray[np.float64]:
        """Return the gain of samples `first` to ``first + n``."""
        at = (np.arange(first, first + n) + 0.5 - self.begin) / max(1, self.end - self.begin)
        part = np.clip(at if self.rising else 1 - at, 0, 1)
        gains: NDArray[np.float64] = np.sin(0.5 * math.pi * part) if self.curve == "equal-power" else part
        return gains


@dataclass(frozen=True)
class _Part:
    """What sounds of one clip, handles included, in samples."""

    begin: int
    end: int
    stream: _Stream
    offset: Fraction
    speed: Fraction
    name: str
    fades: tuple[_Fade, ...]


class Soundtrack:
    """What a timeline sounds like.

    Parameters
    ----------
    cuts
        Its tracks.
    fades
        "equal-power" or "linear", where a transition does not say.
    rate, channels
        Of the mixture; None takes the highest rate and the most channels of any clip.

    Attributes
    ----------
    rate, channels
        Samples per second; channels, in FFmpeg's order for `layout`.
    tracks
        How many tracks there are, silent ones included.
    """

    def __init__(
        self, cuts: Sequence[Cut], fades: str = "equal-power", rate: int | None = None, channels: int | None = None
    ) -> None:
        self._fades = choice("Soundtrack", "fades", fades, CURVES)
        self._cuts = tuple(cuts)
        self._known: dict[tuple[str, int], _Stream | None] = {}
        streams = [s for cut in cuts for clip in cut.clips if (s := self._stream(clip)) is not None]
        finest = max((s.rate for s in streams), default=48000)
        self.rate = count("Soundtrack", "rate", rate or finest, 1000, 768_000)
        most = max((s.channels for s in streams), default=2)
        self.channels = count("Soundtrack", "channels", channels or most, 1, max(_LAYOUTS))
        self.layout = _LAYOUTS[self.channels]
        self.tracks = len(cuts)
        self._parts = [self._of(cut) for cut in cuts]
        self.sample_count = max((self._at(cut.end) for cut in cuts), default=0)

    @property
    def silent(self) -> bool:
        """Whether nothing sounds at all."""
        return not any(self._parts)

    @classmethod
    def of_file(cls, path: Path, index: int, start: Fraction, duration: Fraction) -> Soundtrack:
        """Return a part of one audio stream of a file; `start` by the file's own time stamps."""
        clip = Clip(Fraction(0), duration, str(path), start, Fraction(1), path.name, {"stream": index, "stamped": True})
        return cls([Cut([clip], [], duration)])

    def at_rate(self, rate: int) -> Soundtrack:
        """Return the same at another rate."""
        return Soundtrack(self._cuts, self._fades, rate, self.channels)

    def _at(self, seconds: Fraction) -> int:
        """Return the sample nearest to a time."""
        return math.floor(seconds * self.rate + Fraction(1, 2))

    def _stream(self, clip: Clip) -> _Stream | None:
        wanted = int(clip.chosen.get("stream", 0))
        key = (clip.media, wanted)
        if key in self._known:
            return self._known[key]
        found = None
        with opened(Path(clip.media), picture=False) as file:
            picture = next(iter(file.streams.video), None)
            if wanted < len(file.streams.audio):
                stream = file.streams.audio[wanted]
                first = stream if picture is None else picture
                base, begin = Fraction(stream.time_base), Fraction(first.start_time or 0) * Fraction(first.time_base)
                begin = Fraction(0) if clip.chosen.get("stamped") else begin
                channels = stream.codec_context.channels
                found = _Stream(
                    clip.media, wanted, stream.rate, min(channels, max(_LAYOUTS)), begin, base * stream.rate <= 1
                )
            elif "stream" in clip.chosen:
                raise InputError(
                    f"Timeline: clip {clip.name!r} asks for audio stream {wanted} of {clip.media}, which has "
                    f"{len(file.streams.audio)}; count from 0."
                )
        self._known[key] = found
        return found

    def _of(self, cut: Cut) -> list[_Part]:
        parts = []
        for clip in cut.clips:
            stream = self._stream(clip)
            if stream is None or clip.speed <= 0:
                if clip.speed < 0:
                    _log.warning("clip %r runs backwards; its sound is left out", clip.name)
                continue
            begin, end, fades = clip.begin, clip.end, []
            for join in cut.joins:
                if clip not in (join.old, join.new):
                    continue
                begin = min(begin, join.begin) if clip is join.new else begin
                end = max(end, join.end) if clip is join.old else end
                fades.append(self._fade(join, clip is join.new))
            offset = clip.offset - (clip.begin - begin) * clip.speed
            parts.append(_Part(self._at(begin), self._at(end), stream, offset, clip.speed, clip.name, tuple(fades)))
        return parts

    def _fade(self, join: Join, rising: bool) -> _Fade:
        curve = choice("Timeline", "curve", str(join.chosen.get("curve", self._fades)), CURVES)
        return _Fade(self._at(join.begin), self._at(join.end), rising, curve)

    def blocks(self, first: int, n: int, tracks: Sequence[int] | None = None, size: int = 4096) -> Iterator[Samples]:
        """Yield samples ``first`` to ``first + n`` as [channels, <= size], float32, full scale 1; sums are not limited.

        Parameters
        ----------
        tracks
            Which, from 0 on; None mixes all of them.
        """
        chosen = range(self.tracks) if tracks is None else tracks
        parts = [p for k in chosen for p in self._parts[k] if p.begin < first + n and p.end > first]
        readers: dict[int, _Reader] = {}
        try:
            for at in range(first, first + n, size):
                many = min(size, first + n - at)
                mixed = np.zeros((self.channels, many), np.float32)
                for k, part in enumerate(parts):
                    a, b = max(at, part.begin), min(at + many, part.end)
                    if a < b:
                        if k not in readers:
                            readers[k] = _Reader(part, self.rate, self.channels, a - part.begin)
                        mixed[:, a - at : b - at] += _faded(part, readers[k].read(b - a), a)
                    elif k in readers:
                        readers.pop(k).close()
                yield mixed
        finally:
            for reader in readers.values():
                reader.close()

    def samples(self, first: int = 0, n: int | None = None, tracks: Sequence[int] | None = None) -> Samples:
        """Return samples ``first`` to ``first + n`` as [channels, n] float32; None for all there are."""
        many = max(0, self.sample_count - first) if n is None else n
        found = list(self.blocks(first, many, tracks))
        return np.concatenate(found, 1) if found else np.zeros((self.channels, 0), np.float32)


def _faded(part: _Part, samples: Samples, first: int) -> Samples:
    for fade in part.fades:
        if (fade.rising and first < fade.end) or (not fade.rising and first + samples.shape[1] > fade.begin):
            samples = samples * fade.gain(first, samples.shape[1]).astype(np.float32)
    return samples


class _Reader:
    """A part's samples in order, at the mixture's rate and in its channels; silence where the file has none."""

    def __init__(self, part: _Part, rate: int, channels: int, skip: int) -> None:
        av = optional_library("av", "Soundtrack")
        self._part, self._rate, self._channels = part, rate, channels
        self._file = av.open(part.stream.path)
        self._source = self._file.streams.audio[part.stream.index]
        layout = _LAYOUTS[channels] if part.stream.channels > 1 else "mono"
        self._resampler = av.AudioResampler(format="fltp", layout=layout, rate=rate)
        self._pending: list[Samples] = []
        self._missing = 0
        # Where reading begins in the file's own time, and where the part's next sample is from there.
        self._from = part.offset + Fraction(skip, rate) * part.speed
        self._made = self._resampled()

    def close(self) -> None:
        """Close the file; say when it was too short."""
        self._file.close()
        if self._missing > self._rate // 25:
            _log.warning(
                "clip %r needs %.2f s more of sound than %s has; they are silent",
                self._part.name, self._missing / self._rate, self._part.stream.path,
            )  # fmt: skip

    def read(self, n: int) -> Samples:
        """Return the next `n` samples [channels, n]."""
        have = sum(block.shape[1] for block in self._pending)
        while have < n:
            block = next(self._made, None)
            if block is None:
                self._missing += n - have
                block = np.zeros((self._channels, n - have), np.float32)
            self._pending.append(block)
            have += block.shape[1]
        joined = np.concatenate(self._pending, 1)
        self._pending = [joined[:, n:]]
        return joined[:, :n]

    def _resampled(self) -> Iterator[Samples]:
        """Yield blocks from `_from` on."""
        stream, speed = self._part.stream, self._part.speed
        skip: int | None = None  # samples of the mixture before `_from`
        for frame, at in self._decoded():
            if skip is None:
                ahead = (self._from - at) / speed * self._rate
                skip = math.floor(ahead + Fraction(1, 2))
                if skip < 0:  # the file's sound begins later
                    yield np.zeros((self._channels, -skip), np.float32)
                    skip = 0
            if speed != 1:  # as a tape that runs faster: the pitch goes along
                frame.sample_rate = round(stream.rate * speed)
            frame.pts = None
            for made in self._resampler.resample(frame):
                skip, block = self._cut(skip, made)
                if block.shape[1]:
                    yield block
        if skip is not None:
            for made in self._resampler.resample(None):
                skip, block = self._cut(skip, made)
                yield block

    def _cut(self, skip: int, frame: Any) -> tuple[int, Samples]:
        block = frame.to_ndarray().astype(np.float32, copy=False)
        drop = min(skip, block.shape[1])
        block = block[:, drop:]
        if block.shape[0] == 1 and self._channels > 1:  # one voice in the middle, as loud as it is
            wide = np.zeros((self._channels, block.shape[1]), np.float32)
            wide[:2] = block
            block = wide
        return skip - drop, block

    def _decoded(self) -> Iterator[tuple[Any, Fraction]]:
        """Yield frames with the media time of their first sample, from before `_from` on."""
        stream = self._part.stream
        base, start = Fraction(self._source.time_base), self._from - _PREROLL + stream.begin
        if stream.exact and start > 0:
            self._file.seek(math.floor(start / base), stream=self._source)
        position: Fraction | None = None
        for frame in self._file.decode(self._source):
            told = None if frame.pts is None else frame.pts * base - stream.begin
            if position is None:
                position = Fraction(0) if told is None else told
            elif told is not None and told - position > 2 * max(2 * base, Fraction(1, stream.rate)):
                yield from self._silence(frame, position, told)  # what the file leaves out between two frames
                position = told
            begins, position = position, position + Fraction(frame.samples, stream.rate)
            if position + _PREROLL > self._from:
                yield frame, begins

    def _silence(self, like: Any, begin: Fraction, end: Fraction) -> Iterator[tuple[Any, Fraction]]:
        av = optional_library("av", "Soundtrack")
        rate = self._part.stream.rate
        lost = round((end - begin) * rate)
        for at in range(0, lost, 1 << 16):
            silence = av.AudioFrame(format="fltp", layout=like.layout.name, samples=min(lost - at, 1 << 16))
            for plane in silence.planes:
                plane.update(bytes(plane.buffer_size))
            silence.sample_rate = rate
            (silence,) = av.AudioResampler(format=like.format.name).resample(silence)
            yield silence, begin + Fraction(at, rate)
