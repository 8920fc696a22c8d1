"""Audio files through libsndfile: WAV, FLAC, OGG, MP3, AIFF; float32 [channels, time] in memory."""

from __future__ import annotations

import errno
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from elinvar.errors import InputError
from elinvar.runtime.files import atomic_write

from ._check import Array, Signal, choice, count, finite, number, optional_library, rate, signal

__all__ = ["FileInfo", "info", "read", "stream", "write"]

EXACT = ("WAV", "WAVEX", "RF64", "W64", "AIFF", "FLAC")
"""Formats in which a frame is found exactly, so that parts of a file can be read at once."""
BLOCK = 65_536
"""Frames written at once: longer writes of OGG crash libsndfile (libsndfile issue 1095)."""
_ENCODINGS = {"pcm16": "PCM_16", "pcm24": "PCM_24", "float": "FLOAT", "double": "DOUBLE", "vorbis": "VORBIS",
              "mp3": "MPEG_LAYER_III", "opus": "OPUS"}  # fmt: skip
_DEFAULT = {".wav": ("WAV", "FLOAT"), ".flac": ("FLAC", "PCM_24"), ".ogg": ("OGG", "VORBIS"),
            ".mp3": ("MP3", "MPEG_LAYER_III"), ".aiff": ("AIFF", "PCM_24"), ".aif": ("AIFF", "PCM_24")}  # fmt: skip
_WHOLE = ("PCM_16", "PCM_24")


@dataclass(frozen=True)
class FileInfo:
    """What an audio file says about itself; `duration` in seconds, `truncated` when it is shorter than it says."""

    path: str
    sample_rate: int
    channels: int
    frames: int
    format: str
    encoding: str
    truncated: bool = False

    @property
    def duration(self) -> float:
        """Seconds."""
        return self.frames / self.sample_rate


def _open(path: Path, operation: str, *, truncated: bool = False) -> Any:
    soundfile = optional_library("soundfile", operation)
    if not path.is_file():
        raise InputError(f"{operation}: {path} does not exist or is no file.")
    try:
        file = soundfile.SoundFile(str(path))
    except soundfile.LibsndfileError as error:
        raise InputError(
            f"{operation}: {path} ({path.stat().st_size} bytes) is no audio libsndfile reads: {error.error_string}"
        ) from None
    if not truncated and _cut_off(path):
        frames = len(file)
        file.close()
        raise InputError(
            f"{operation}: {path} ends after {frames} frames, before the length its header declares; get it again, or "
            "take these with truncated=True (--truncated)."
        )
    return file


def _cut_off(path: Path) -> bool:
    """Whether a WAV, AIFF or OGG file ends before its own end, about which libsndfile keeps silent."""
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(12)
        if head[:4] == b"OggS":
            return not _has_last_page(file, size)
        if head[:4] == b"RIFF" and head[8:] == b"WAVE":
            order, wanted = "<", b"data"
        elif head[:4] == b"FORM" and head[8:] in (b"AIFF", b"AIFC"):
            order, wanted = ">", b"SSND"
        else:
            return False
        while len(chunk := file.read(8)) == 8:
            name, length = chunk[:4], int(struct.unpack(f"{order}I", chunk[4:])[0])
            if name == wanted:  # all ones: written to a pipe, whose end nobody knew
                return length < 0xFFFFFFF0 and file.tell() + length > size
            file.seek(length + length % 2, 1)
    return False


def _has_last_page(file: Any, size: int) -> bool:
    """Whether the last page of an OGG file is whole and says that it is the last (RFC 3533: a page has up to 65307)."""
    file.seek(max(0, size - 2 * 65_307))
    tail = file.read()
    at = tail.rfind(b"OggS")
    while at >= 0:
        segments = tail[at + 26] if at + 27 <= len(tail) else 0
        end = at + 27 + segments + sum(tail[at + 27 : at + 27 + segments])
        if end <= len(tail) and tail[at + 4] == 0:  # else cut, or four letters in the middle of the sound
            return bool(tail[at + 5] & 4)
        at = tail.rfind(b"OggS", 0, at)
    return False


def info(path: str | Path) -> FileInfo:
    """Return rate, channels, frames and format of a file without reading its samples."""
    with _open(Path(path), "info", truncated=True) as file:
        cut = _cut_off(Path(path))
        return FileInfo(str(path), file.samplerate, file.channels, len(file), file.format, file.subtype, cut)


def read(
    path: str | Path, *, start: float = 0.0, duration: float | None = None, truncated: bool = False
) -> tuple[Array, int]:
    """Read a file.

    Parameters
    ----------
    path
        WAV, FLAC, OGG, MP3, AIFF, or what else libsndfile reads.
    start, duration
        Seconds; to the end by default.
    truncated
        Accept a file that ends before the length it declares, and return what is there.

    Returns
    -------
    tuple
        float32 [channels, time], integer formats scaled to [-1, 1), and the sampling rate in Hz.

    Raises
    ------
    InputError
        When the file is missing, is no audio, or ends early.
    """
    begin = number("read", "start", start, low=0.0)
    with _open(Path(path), "read", truncated=truncated) as file:
        first = min(round(begin * file.samplerate), len(file))
        wanted = len(file) - first
        if duration is not None:
            wanted = min(wanted, round(number("read", "duration", duration, low=0.0) * file.samplerate))
        samples = np.empty((wanted, file.channels), np.float32)
        done = _fill(file, samples, first, Path(path), truncated)
        return np.ascontiguousarray(samples[:done].T), int(file.samplerate)


def _fill(file: Any, samples: Array, first: int, path: Path, truncated: bool) -> int:
    soundfile = optional_library("soundfile", "read")
    done, step = 0, 1024 if truncated else BLOCK  # a block with damage in it is lost whole
    try:
        if first:
            file.seek(first)
        while done < len(samples):
            got = len(file.read(dtype="float32", out=samples[done : done + step]))
            done += got
            if got == 0:
                break
    except soundfile.LibsndfileError as error:
        if not truncated:
            raise InputError(
                f"read: {path} is damaged after {first + done} of {len(file)} frames ({error.error_string}); get "
                "it again, or take what is readable with truncated=True (--truncated)."
            ) from None
    if done < len(samples) and not truncated:
        raise InputError(
            f"read: {path} ends after {first + done} of {len(file)} frames; get it again, or take these with "
            "truncated=True (--truncated)."
        )
    return done


def stream(path: str | Path, block: int = BLOCK, *, truncated: bool = False) -> Iterator[Array]:
    """Yield a file's samples as float32 [channels, block]; the last block is shorter. Memory stays flat.

    With `truncated`, a file that ends before the length it declares ends the blocks; otherwise it is an error.
    """
    frames = count("stream", "block", block)
    with _open(Path(path), "stream", truncated=truncated) as file:
        buffer = np.empty((frames, file.channels), np.float32)
        left = len(file)
        while left > 0:
            wanted = min(left, frames)
            got = _fill(file, buffer[:wanted], 0, Path(path), truncated=truncated)
            left = left - got if got == wanted else 0
            if got:
                yield np.array(buffer[:got].T, order="C")  # a copy also of one channel, whose rows are the buffer


def frames_of(path: Path, start: int, stop: int) -> Array:
    """Return frames `start` to `stop` as float32 [channels, n]; for formats that find a frame exactly."""
    with _open(path, "read") as file:
        samples = np.empty((stop - start, file.channels), np.float32)
        _fill(file, samples, start, path, truncated=False)
        return np.array(samples.T, order="C")


def write(
    path: str | Path, x: Signal, sample_rate: float, *, encoding: str | None = None, clip: str = "clip"
) -> FileInfo:
    """Write samples to a file, whole or not at all; the suffix chooses the format.

    Parameters
    ----------
    path
        .wav, .flac, .ogg, .mp3 or .aiff; replaced when it exists.
    x
        [channels, time] or [time].
    sample_rate
        Hz, a whole number.
    encoding
        "pcm16", "pcm24", "float", "double", "vorbis", "mp3" or "opus"; by default float for WAV, 24 bit for FLAC.
    clip
        What to do beyond full scale where the format cannot hold it: "clip", "rescale" the whole signal, or "error".

    Raises
    ------
    InputError
        For NaN or infinite samples, an unknown suffix, or an encoding or rate the format does not have.
    OSError
        When the disk is full or the folder cannot be written; an existing file is as it was.
    """
    soundfile = optional_library("soundfile", "write")
    target = Path(path)
    choice("write", "clip", clip, ("clip", "rescale", "error"))
    if target.suffix.lower() not in _DEFAULT:
        raise InputError(f"write: {target.name} has suffix {target.suffix!r}; choose one of {', '.join(_DEFAULT)}.")
    kind, subtype = _DEFAULT[target.suffix.lower()]
    if encoding is not None:
        subtype = _ENCODINGS[choice("write", "encoding", encoding, tuple(_ENCODINGS))]
    hertz = rate("write", sample_rate)
    if hertz != int(hertz) or not soundfile.check_format(kind, subtype):
        raise InputError(f"write: {target.name} cannot hold {subtype} at {sample_rate!r} Hz; files have whole rates.")
    samples, _ = signal("write", x)
    samples = np.atleast_2d(samples)
    if samples.ndim != 2 or samples.shape[0] == 0:
        raise InputError(f"write: the signal has shape {samples.shape}; give [channels, time] or [time].")
    if samples.shape[1] == 0 and kind not in ("WAV", "AIFF"):
        raise InputError(f"write: {target.name} would be empty, which {kind} cannot be; write WAV, or some samples.")
    finite("write", samples)
    samples = _fitted(samples, subtype, clip)
    with atomic_write(target) as temporary:
        _write_blocks(soundfile, temporary, samples, int(hertz), kind, subtype)
    return FileInfo(str(target), int(hertz), samples.shape[0], samples.shape[1], kind, subtype)


def _fitted(samples: Array, subtype: str, clip: str) -> Array:
    if subtype in ("FLOAT", "DOUBLE") or samples.size == 0:
        return samples
    peak = float(np.abs(samples).max())
    if peak <= 1.0:
        return samples
    if clip == "error":
        raise InputError(f"write: the loudest sample is {peak:.3g} and {subtype} holds 1; rescale it, or clip.")
    fitted: Array = samples / np.float32(peak) if clip == "rescale" else np.clip(samples, -1.0, 1.0)
    return fitted


def _write_blocks(soundfile: Any, path: Any, samples: Array, hertz: int, kind: str, subtype: str) -> None:
    try:
        with soundfile.SoundFile(str(path), "w", hertz, samples.shape[0], subtype, format=kind) as file:
            for begin in range(0, samples.shape[1], BLOCK):
                file.write(np.ascontiguousarray(samples[:, begin : begin + BLOCK].T))
    except soundfile.LibsndfileError as error:
        text = str(error.error_string)
        if "space" in text.lower() or "system error" in text.lower():
            raise OSError(errno.ENOSPC, f"write: {text.strip()} (is the disk full?)", str(path)) from None
        raise InputError(
            f"write: {samples.shape[0]} channels at {hertz} Hz cannot be written as {kind} {subtype}: {text}"
        ) from None
