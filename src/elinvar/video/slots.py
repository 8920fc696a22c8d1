"""Memory that an encoder reads without a copy, and that is written again only when the encoder has let go of it.

FFmpeg's frame-threaded encoders keep references to frames long after ``encode`` returned; recycling a buffer then
corrupts most of the frames in flight. A slot therefore comes back when the last reference to the views handed out for
one use is gone, which `weakref.finalize` sees, whoever held it.
"""

# ruff: noqa: A002  (format and range are what the field calls them)

from __future__ import annotations

import threading
import weakref
from typing import Any

import numpy as np
import torch

from elinvar.video._check import optional_library
from elinvar.video.spaces import Tag
from elinvar.video.yuv import PixelFormat

__all__ = ["Slot", "Slots"]


class Slot:
    """One frame's planes. `planes` are to be written; `frame` wraps them for an encoder."""

    def __init__(self, home: Slots, arrays: list[Any]) -> None:
        self._home = home
        self._arrays = arrays
        self.planes = tuple(torch.from_numpy(a) for a in arrays)
        self._held = 0

    def frame(self, pts: int, tag: Tag) -> Any:
        """Wrap the planes as an ``av.VideoFrame`` without a copy; the slot comes back when FFmpeg is done with it."""
        av = optional_library("av", "video.export")
        views = [a.view() for a in self._arrays]
        self._held = len(views)
        for view in views:
            weakref.finalize(view, self._let_go).atexit = False
        frame = av.VideoFrame.from_dlpack(tuple(views), format=self._home.format.av)
        del views
        frame.pts = pts
        frame.color_primaries, frame.color_trc, frame.colorspace = tag.primaries, tag.transfer, tag.matrix
        frame.color_range = 2 if tag.full_range else 1
        return frame

    def _let_go(self) -> None:
        with self._home.lock:
            self._held -= 1
            if self._held == 0:
                self._home.free.append(self)

    def discard(self) -> None:
        """Give the slot back unused."""
        with self._home.lock:
            self._home.free.append(self)


class Slots:
    """Slots of one format and size, made when needed and reused.

    Attributes
    ----------
    made
        How many exist: frames in flight plus what the encoder keeps.
    """

    def __init__(self, format: PixelFormat, width: int, height: int) -> None:
        self.format, self.width, self.height = format, width, height
        self.lock = threading.RLock()  # re-entrant: a finaliser may run wherever this thread allocates
        self.free: list[Slot] = []
        self.made = 0

    def acquire(self) -> Slot:
        """Return a slot nobody reads."""
        with self.lock:
            if self.free:
                return self.free.pop()
            self.made += 1
        dtype = np.uint8 if self.format.bits == 8 else np.uint16
        return Slot(self, [np.empty(shape, dtype) for shape in self.format.shapes(self.width, self.height)])
