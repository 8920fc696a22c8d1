"""Audio files read and written piece by piece, so that ten hours take no more memory than ten seconds."""

from __future__ import annotations

import errno
import math
import shutil
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from elinvar.audio._check import finite, optional_library
from elinvar.audio.files import BLOCK as _BLOCK
from elinvar.audio.files import EXACT, frames_of, info, stream
from elinvar.audio.resampling import Resampler
from elinvar.errors import InputError
from elinvar.runtime.parallel import cpu_threads
from elinvar.runtime.pipeline import Pipeline, Stage

__all__ = ["CLIP_MODES", "FORMATS", "Fitted", "Reader", "StemWriter", "Window", "Writer", "resampled"]

_READERS, _BLOCKS = 4, 4  # threads that decode a file, and blocks each takes: 6 s, 2 MB
_WAV_LIMIT = (1 << 32) - (1 << 20)

FORMATS = {
    "wav": ("WAV", "FLOAT"),
    "wav16": ("WAV", "PCM_16"),
    "wav24": ("WAV", "PCM_24"),
    "flac": ("FLAC", "PCM_24"),
    "flac16": ("FLAC", "PCM_16"),
    "mp3": ("MP3", "MPEG_LAYER_III"),
    "ogg": ("OGG", "VORBIS"),
}
"""Format name -> libsndfile's container and encoding."""
CLIP_MODES = ("none", "clamp", "rescale")


class Reader:
    """An audio file, or its first `most` seconds, as float32 stereo blocks.

    Formats that find a frame exactly are decoded by several threads. With `truncated`, a file may end early.

    Attributes
    ----------
    frames, rate, channels
        As the file declares them; one channel is heard on both sides.
    """

    def __init__(self, path: Path, most: float = math.inf, *, truncated: bool = False) -> None:
        found = info(path)
        self.path, self._truncated = path, truncated
        self.rate, self.channels = int(found.sample_rate), found.channels
        self._threads = 1 if truncated or found.format not in EXACT else min(_READERS, cpu_threads() // 3)
        self.frames = int(min(found.frames, most * self.rate))
        if truncated:  # only reading tells how much there is
            self.frames = min(self.frames, sum(block.shape[1] for block in stream(path, _BLOCK, truncated=True)))
        if self.channels > 2:
            raise InputError(f"{path} has {self.channels} channels; mix it down to one or two first.")

    def blocks(self, *, once: bool = False) -> Generator[NDArray[np.float32], None, None]:
        """Yield ``[2, n]`` until the declared end; ``[channels, n]`` with `once`.

        Raises
        ------
        InputError
            The file ends early, or has samples that are NaN or infinite.
        """
        done = 0
        for whole in self._decoded():
            block = whole[:, : self.frames - done]
            finite("separate_file", block, f"{self.path.name} near {done / self.rate:.1f} s")
            done += block.shape[1]
            if block.shape[1] == 0:
                return
            yield block if once or len(block) == 2 else np.repeat(block, 2, axis=0)

    def _decoded(self) -> Iterator[NDArray[np.float32]]:
        """Yield ``[channels, n]`` blocks of one length: sums over them do not depend on who decoded them."""
        if self._threads < 2:
            yield from stream(self.path, _BLOCK, truncated=self._truncated)
            return
        step = _BLOCKS * _BLOCK

        def decode(start: int) -> NDArray[np.float32]:
            return frames_of(self.path, start, min(start + step, self.frames))

        with Pipeline([Stage(decode, workers=self._threads)], in_flight=self._threads + 1) as pipeline:
            for part in pipeline.run(range(0, self.frames, step)):
                for at in range(0, part.shape[1], _BLOCK):
                    yield part[:, at : at + _BLOCK]


class Fitted:
    """Change of rate of a stream in blocks ``[channels, n]``: exactly `length` samples in all."""

    def __init__(self, given: float, wanted: float, channels: int, length: int) -> None:
        self._stream = Resampler(given, wanted, channels, quality="best")
        self._channels, self._left = channels, length

    def push(self, block: NDArray[np.float32], *, last: bool = False) -> NDArray[np.float32]:
        """Return what is ready; with `last` also all that is left, and zeros where the audio is a sample short."""
        ready = self._stream.process(np.ascontiguousarray(block), last=last)[:, : self._left]
        self._left -= ready.shape[1]
        if last and self._left > 0:
            ready, self._left = np.pad(ready, ((0, 0), (0, self._left))), 0
        return ready


def resampled(
    blocks: Iterator[NDArray[np.float32]], given: float, wanted: float, length: int
) -> Iterator[NDArray[np.float32]]:
    """Convert ``[channels, n]`` blocks to another rate, exactly `length` samples in all."""
    stream, channels = None, 2
    for block in blocks:
        if stream is None:
            channels = len(block)
            stream = Fitted(given, wanted, channels, length)
        yield stream.push(block)
    rest = np.empty((channels, 0), np.float32)
    yield np.zeros((channels, length), np.float32) if stream is None else stream.push(rest, last=True)


class Window:
    """Random access to a stream that is read once: what lies more than `reach` behind is forgotten.

    What it reads is on `device`.
    """

    def __init__(self, blocks: Iterator[NDArray[np.float32]], length: int, reach: int, device: torch.device) -> None:
        self._blocks, self._length, self._reach, self._device = blocks, length, reach, device
        self._held: NDArray[np.float32] = np.zeros((2, 0), np.float32)
        self._begin = 0

    def read(self, start: int, stop: int) -> Tensor:
        """Return ``[2, stop - start]``, zeros outside the audio."""
        first, last = max(0, start), min(stop, self._length)
        pieces, end = [self._held], self._begin + self._held.shape[1]
        while end < last:
            piece = next(self._blocks)
            pieces.append(piece)
            end += piece.shape[1]
        if len(pieces) > 1:
            drop = max(0, min(first - self._reach - self._begin, self._held.shape[1]))
            pieces[0] = pieces[0][:, drop:]
            self._begin += drop
            self._held = np.concatenate(pieces, axis=1)
        assert first >= self._begin or last <= first
        out = np.zeros((2, stop - start), np.float32)
        if last > first:
            out[:, first - start : last - start] = self._held[:, first - self._begin : last - self._begin]
        return torch.from_numpy(out).to(self._device)


class Writer:
    """One stem's file, written in blocks.

    Attributes
    ----------
    clipped
        Samples beyond full scale, which every format but float WAV cuts off.
    """

    def __init__(self, path: Path, rate: int, channels: int, kind: str, frames: int, quality: float | None) -> None:
        sf = optional_library("soundfile", "writing audio files")
        container, encoding = FORMATS[kind]
        if container == "WAV" and frames * channels * 4 > _WAV_LIMIT:
            container = "RF64"  # WAV counts its bytes in 32 bits
        options: dict[str, Any] = {} if quality is None else {"compression_level": quality}
        self._float = encoding == "FLOAT"
        self._path, self._error = path, sf.LibsndfileError
        self.clipped = 0
        try:
            self._file = sf.SoundFile(path, "w", rate, channels, encoding, format=container, **options)
        except (sf.LibsndfileError, ValueError) as error:
            raise InputError(
                f"{kind} cannot hold {channels} channels at {rate} Hz ({error}); choose wav or flac."
            ) from None

    def write(self, samples: NDArray[np.float32], *, clamp: bool = False) -> None:
        """Append ``[channels, n]``; `clamp` cuts off in float WAV too."""
        rows = np.ascontiguousarray(samples.T)
        if clamp or not self._float:
            self.clipped += int((np.abs(rows) > 1).sum())
            rows = np.clip(rows, -1.0, 1.0)
        for at in range(0, len(rows), _BLOCK):
            self._guard(lambda at=at: self._file.write(rows[at : at + _BLOCK]))  # type: ignore[misc]

    def close(self) -> None:
        """Finish the file."""
        self._guard(self._file.close)

    def _guard(self, act: Callable[[], object]) -> None:
        try:
            act()
        except (self._error, AssertionError) as error:  # soundfile asserts that all frames were written
            if shutil.disk_usage(self._path.parent).free < 1 << 20:
                raise OSError(errno.ENOSPC, "No space left on device", str(self._path)) from error
            raise OSError(errno.EIO, f"writing failed ({error})", str(self._path)) from error


class StemWriter:
    """One stem's file and what happens to samples beyond full scale; see `CLIP_MODES`.

    To rescale, samples are kept as float WAV beside the file until the loudest is known. Samples at another rate than
    the file's, `given`, are converted.
    """

    def __init__(
        self,
        path: Path,
        rate: int,
        channels: int,
        frames: int,
        kind: str,
        quality: float | None,
        clip_mode: str,
        given: int,
    ) -> None:
        self._target, self._mode, self._peak, self._channels = path, clip_mode, 0.0, channels
        self._convert = None if given == rate else Fitted(given, rate, channels, frames)
        self._what = (rate, channels, kind, frames, quality)
        self._kept = path.with_name(path.name + ".float.wav") if clip_mode == "rescale" else None
        first = Writer(self._kept, rate, channels, "wav", frames, None) if self._kept is not None else None
        self._writer = first or Writer(path, *self._what)

    @property
    def clipped(self) -> int:
        """Samples cut off."""
        return self._writer.clipped

    def write(self, samples: NDArray[np.float32]) -> None:
        """Append ``[channels, n]``."""
        self._append(samples if self._convert is None else self._convert.push(samples))

    def _append(self, samples: NDArray[np.float32]) -> None:
        if self._kept is not None and samples.size:
            self._peak = max(self._peak, float(np.abs(samples).max()))
        self._writer.write(samples, clamp=self._mode == "clamp")

    def finish(self) -> None:
        """Complete the file: everything has been written."""
        if self._convert is not None:
            self._append(self._convert.push(np.empty((self._channels, 0), np.float32), last=True))
        self.close()
        if self._kept is None:
            return
        factor = np.float32(1.0 / max(1.01 * self._peak, 1.0))
        self._writer = Writer(self._target, *self._what)
        for block in stream(self._kept, _BLOCK):
            self._writer.write(block * factor)
        self.close()
        self._kept.unlink()

    def close(self) -> None:
        """Let go of the file, whatever is in it."""
        self._writer.close()
