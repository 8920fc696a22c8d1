"""Video files as sources: exact frames by number, conformed to a constant rate, upright, with their colours known."""

# ruff: noqa: A002  (range is what the field calls it)

from __future__ import annotations

import bisect
import threading
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import torch

from elinvar.errors import InputError
from elinvar.video._check import choice, frame_rate, optional_library
from elinvar.video.decode import Codes
from elinvar.video.ocio import CAMERAS
from elinvar.video.probing import MediaInfo, probe
from elinvar.video.spaces import SPACES
from elinvar.video.yuv import FORMATS, MATRICES, RANGES, coding

__all__ = ["VideoFile"]

_AHEAD = 48  # frames that are decoded through rather than sought
_FORMATS = {f.av: f.name for f in FORMATS.values()} | {
    "yuvj420p": "yuv420p", "yuvj422p": "yuv422p", "yuvj444p": "yuv444p",
}  # fmt: skip
_FORMATS |= {name.replace("yuv", "yuva"): kind for name, kind in _FORMATS.items() if name.startswith("yuv4")}


class VideoFile:
    """A video file's frames by number.

    Frame n is the one shown at ``n / frame_rate`` seconds after the first: variable rates are conformed by repeating
    and dropping, non-zero starts begin at the first frame, rotation is applied.

    Parameters
    ----------
    path
        A media file.
    frame_rate
        Another constant rate to conform to; None keeps the file's.
    space, matrix, range
        Override what the file says, or does not say, about its colours.
    truncated
        Take what there is of a file that ends before its header says.

    Raises
    ------
    InputError
        No media file, a truncated one, or a pixel format that cannot be read exactly.
    """

    def __init__(
        self,
        path: Any,
        frame_rate: Any = None,
        space: str | None = None,
        matrix: str | None = None,
        range: str | None = None,
        truncated: bool = False,
    ) -> None:
        self.path = Path(path)
        told = space is not None and matrix is not None
        self.info: MediaInfo = probe(self.path, warn=not told)
        if self.info.missing and not truncated:
            raise InputError(
                f"video {self.path}: it ends {float(self.info.missing):.2f} s before its header says: it is truncated; "
                "get the whole file, or take what there is with VideoFile(..., truncated=True)."
            )
        if space is not None:
            choice("video.VideoFile", "space", space, [*SPACES, *CAMERAS])
        self.space = space or self.info.space
        self._matrix = choice("video.VideoFile", "matrix", matrix or self.info.matrix, [*MATRICES, "rgb"])
        self._range = choice("video.VideoFile", "range", range or self.info.range, RANGES)
        self.frame_rate = self.info.frame_rate if frame_rate is None else _rate(frame_rate)
        self.width, self.height = self.info.width, self.info.height
        self.pixel_aspect = self.info.pixel_aspect
        count = round(self.info.duration * self.frame_rate)
        self.frame_count: int | None = max(1, count) if frame_rate is not None else self.info.frame_count
        self._lock = threading.Lock()
        self._container: Any = None
        self._frames: Any = None
        self._next = 0
        self._last: tuple[int, Any] | None = None

    @property
    def files(self) -> tuple[Path, ...]:
        """What is read."""
        return (self.path,)

    def close(self) -> None:
        """Close the file; the next frame opens it again."""
        with self._lock:
            self._close()

    def _close(self) -> None:
        if self._container is not None:
            self._container.close()
        self._container = self._frames = self._last = None

    def index(self, n: int) -> int:
        """Return which of the file's frames is shown as frame `n`."""
        info = self.info
        if not info.variable and self.frame_rate == info.frame_rate:
            return n
        # A time base rounds: half a tick early still counts as on time.
        place = info.pts[0] + Fraction(n) / self.frame_rate / info.time_base + Fraction(1, 2)
        return max(0, bisect.bisect_right(info.pts, place) - 1)

    def frame(self, n: int) -> torch.Tensor:
        """Return frame `n` as R'G'B' [3, H, W] float32.

        Raises
        ------
        InputError
            The frame is not in the file, or cannot be decoded: nothing is made up in its place.
        """
        codes = self.codes(n)
        if codes is not None:
            return codes.pixels()
        with self._lock:
            pixels = self._packed(self._decoded(self.index(n)))
        turns = self.info.rotation // 90
        return pixels if not turns else torch.rot90(pixels, turns, (1, 2)).contiguous()

    def codes(self, n: int, *, pinned: bool = False) -> Codes | None:
        """Return frame `n` as it lies in the file, before its conversion to R'G'B'; None where it is R'G'B' already.

        Parameters
        ----------
        pinned
            In memory that a CUDA device reads while the host works on.
        """
        if self.frame_count is None or not 0 <= n < self.frame_count:
            raise InputError(f"video {self.path}: frame {n} is outside 0 to {(self.frame_count or 1) - 1}.")
        with self._lock:
            return self._codes(self._decoded(self.index(n)), pinned)

    def _open(self, k: int) -> None:
        av = optional_library("av", "video")
        if self._container is None:
            self._container = av.open(str(self.path))
            self._container.streams.video[0].thread_type = "AUTO"
        stream = self._container.streams.video[0]
        self._container.seek(self.info.pts[k], stream=stream, backward=True)
        self._frames = self._container.decode(stream)
        self._next = -1

    def _decoded(self, k: int) -> Any:
        if self._last is not None and self._last[0] == k:
            return self._last[1]
        if self._frames is None or not self._next <= k < self._next + _AHEAD:
            self._open(k)
        picture = self._walk(k)
        if picture is None:  # a seek landed too late: from the start
            self._open(0)
            picture = self._walk(k)
        if picture is None:
            raise InputError(
                f"video {self.path}: frame {k} of {len(self.info.pts)} is missing; the file is damaged or truncated."
            )
        self._last = (k, picture)
        return picture

    def _walk(self, k: int) -> Any:
        av = optional_library("av", "video")
        wanted = self.info.pts[k]
        while True:
            try:
                picture = next(self._frames)
            except StopIteration:
                return None
            except av.error.FFmpegError as error:
                raise InputError(
                    f"video {self.path}: frame {k} cannot be decoded ({error}); the file is damaged or truncated."
                ) from error
            if picture.pts is None:
                continue
            if picture.pts == wanted:
                if picture.is_corrupt:
                    raise InputError(f"video {self.path}: frame {k} is damaged; the file is truncated or corrupt.")
                self._next = k + 1
                return picture
            if picture.pts > wanted:
                self._frames = None
                return None

    def _codes(self, picture: Any, pinned: bool) -> Codes | None:
        name = picture.format.name
        if name not in _FORMATS or self._matrix == "rgb":
            return None
        how = coding(_FORMATS[name], self._matrix, self._range)
        if self.space in ("rec2020", "rec709", "srgb") and self._matrix == "bt2020":
            how = coding(_FORMATS[name], self._matrix, self._range, "left")
        shapes = how.format.shapes(picture.width, picture.height)
        planes = [_plane(p, shape, how.format.dtype, pinned) for p, shape in zip(picture.planes, shapes, strict=False)]
        alpha = None
        if name.startswith("yuva"):
            alpha = _plane(picture.planes[3], shapes[0], how.format.dtype, pinned)
        return Codes(tuple(planes), how, self.info.rotation // 90, alpha)

    def _packed(self, picture: Any) -> torch.Tensor:
        """RGB to RGB: swscale changes the layout, no matrix is involved."""
        name = picture.format.name
        if name.startswith(("rgb", "bgr", "gbr", "argb", "abgr", "gray", "pal")):
            array = picture.to_ndarray(format="rgb48le")
            return torch.from_numpy(array.astype(np.float32) / 65535.0).movedim(-1, 0).contiguous()
        raise InputError(
            f"video {self.path}: pixel format {name} is not read; convert the file to one of {', '.join(FORMATS)}."
        )


def _plane(plane: Any, shape: tuple[int, ...], dtype: torch.dtype, pinned: bool) -> torch.Tensor:
    words = np.dtype(np.uint8 if dtype == torch.uint8 else np.uint16)
    rows = np.frombuffer(plane, words).reshape(-1, plane.line_size // words.itemsize)
    codes = rows[: shape[0], : int(np.prod(shape[1:]))]
    if not pinned:  # where FFmpeg has no padding, the decoder's own memory
        return torch.from_numpy(np.ascontiguousarray(codes).reshape(shape))
    result = torch.empty(shape, dtype=dtype, pin_memory=True)
    result.numpy().reshape(shape[0], -1)[:] = codes
    return result


def _rate(value: Any) -> Fraction:
    return frame_rate("video.VideoFile", value)
