"""Memory that an encoder reads without a copy, and that is written again only when the encoder has let go of it.

FFmpeg's frame-threaded encoders keep references to frames long after ``encode`` returned; recycling a buffer then
corrupts most of the frames in flight. A slot therefore comes back when the last reference to the views handed out for
one use is gone, which `weakref.finalize` sees, whoever held it. That holds for host memory and, through DLPack, for
memory of a CUDA device, which NVENC reads where it lies.
"""

# ruff: noqa: A002  (format and range are what the field calls them)

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable
from typing import Any

import torch

from elinvar.video._check import optional_library
from elinvar.video.spaces import Tag
from elinvar.video.yuv import PixelFormat

__all__ = ["DeviceSlots", "Slot", "Slots"]

_HOST = torch.device("cpu")


class Slot:
    """One frame's planes. `planes` are to be written; `frame` wraps them for an encoder."""

    def __init__(self, home: Slots, planes: tuple[torch.Tensor, ...]) -> None:
        self._home = home
        self.planes = planes
        self._held = 0

    def frame(self, pts: int, tag: Tag) -> Any:
        """Wrap the planes as an ``av.VideoFrame`` without a copy; the slot comes back when FFmpeg is done with it."""
        loans, views = self._home.lend(self.planes)
        self._held = len(loans)
        for loan in loans:
            weakref.finalize(loan, self._let_go).atexit = False
        del loans
        frame = self._home.wrap(views)
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
    """Slots of one format and size, made when needed and reused. Encoders read those in host memory.

    Parameters
    ----------
    device
        Of their memory.
    pinned
        Host memory that a CUDA device writes by itself, while the host works on.

    Attributes
    ----------
    made
        How many exist: frames in flight plus what the encoder keeps.
    """

    def __init__(
        self,
        format: PixelFormat,
        width: int,
        height: int,
        *,
        device: torch.device = _HOST,
        pinned: bool = False,
    ) -> None:
        self.format, self.width, self.height = format, width, height
        self.device = device
        self.lock = threading.RLock()  # re-entrant: a finaliser may run wherever this thread allocates
        self.free: list[Slot] = []
        self.made = 0
        self._pinned = pinned

    def acquire(self) -> Slot:
        """Return a slot nobody reads."""
        with self.lock:
            if self.free:
                return self.free.pop()
            self.made += 1
        return Slot(self, self.planes())

    def planes(self) -> tuple[torch.Tensor, ...]:
        """Return memory for one frame."""
        dtype, shapes = self.format.dtype, self.format.shapes(self.width, self.height)
        return tuple(torch.empty(shape, dtype=dtype, device=self.device, pin_memory=self._pinned) for shape in shapes)

    def lend(self, planes: tuple[torch.Tensor, ...]) -> tuple[list[Any], list[Any]]:
        """Return objects that live as long as someone reads the planes, and views for DLPack that keep them alive."""
        views = [plane.numpy().view() for plane in planes]
        return views, views

    def wrap(self, views: list[Any]) -> Any:
        """Return an ``av.VideoFrame`` of views."""
        return optional_library("av", "video.export").VideoFrame.from_dlpack(tuple(views), format=self.format.av)


class _Loan:
    """A plane on a device as the array interface of NumPy and CUDA describes it; it keeps the plane."""

    def __init__(self, plane: torch.Tensor) -> None:
        self._plane = plane
        word = "|u1" if plane.dtype == torch.uint8 else "<u2"
        self.__array_interface__ = self.__cuda_array_interface__ = {
            "shape": tuple(plane.shape), "typestr": word, "data": (plane.data_ptr(), False), "version": 3,
        }  # fmt: skip


class DeviceSlots(Slots):
    """Slots in a CUDA device's memory that NVENC reads: luma, and behind it the pairs of chroma, with the same pitch.

    NVENC is told where luma begins and its pitch, nothing more: both planes are one piece of memory.

    Parameters
    ----------
    device
        Where.
    borrow
        Makes a tensor of a loan, that keeps it; by default torch's own by CUDA's array interface.
    """

    def __init__(
        self,
        format: PixelFormat,
        width: int,
        height: int,
        device: torch.device,
        borrow: Callable[[Any], torch.Tensor] | None = None,
    ) -> None:
        super().__init__(format, width, height, device=device)
        self._borrow = borrow or (lambda loan: torch.as_tensor(loan, device=device))
        self._context: Any = None

    def planes(self) -> tuple[torch.Tensor, ...]:
        """Return memory for one frame, in one piece."""
        luma, chroma = self.format.shapes(self.width, self.height)
        middle = luma[0] * luma[1]
        whole = torch.empty(middle + chroma[0] * chroma[1] * 2, dtype=self.format.dtype, device=self.device)
        return whole[:middle].view(luma), whole[middle:].view(chroma)

    def lend(self, planes: tuple[torch.Tensor, ...]) -> tuple[list[Any], list[Any]]:
        """See `Slots`. The loan lives in the storage of its view, whichever library holds that."""
        loans = [_Loan(plane) for plane in planes]
        return loans, [self._borrow(loan) for loan in loans]

    def wrap(self, views: list[Any]) -> Any:
        """See `Slots`. All frames share one context of FFmpeg's around torch's own of the device.

        FFmpeg refuses to retain a primary context that torch made with other flags (``primary_ctx``), and memory of one
        context cannot be registered in another: it is given the one that is current.
        """
        if self.device.type != "cuda":
            return super().wrap(views)
        frames = optional_library("av.video.frame", "video.export")
        if self._context is None:
            index = torch.cuda.current_device() if self.device.index is None else self.device.index
            torch.cuda.current_stream(index).query()  # makes torch's context this thread's
            self._context = frames.CudaContext(device_id=index, primary_ctx=False, current_ctx=True)
        return frames.VideoFrame.from_dlpack(tuple(views), format=self.format.av, cuda_context=self._context)
