"""Where a plan's source frames arrive on its device: at the same addresses for every frame.

Frames of video files come as codes and become R'G'B' on the device; others come as they are. Fixed addresses let a
recorded frame be replayed whatever its sources are.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch

from elinvar.runtime.device import Device
from elinvar.runtime.transfers import transfers
from elinvar.video.decode import Codes

if TYPE_CHECKING:
    from elinvar.runtime.memory import Lease

__all__ = ["Arrivals", "Fetched"]

Fetched = torch.Tensor | Codes
"""A source's frame: pixels [3 or 4, H, W], or codes."""


class Arrivals:
    """Device memory for fetched frames, acquired once for each source and shape."""

    def __init__(self, device: Device) -> None:
        self._device = device
        self._leases: dict[int, Lease] = {}

    def place(self, fetched: Mapping[int, Fetched]) -> dict[int, torch.Tensor]:
        """Return where each frame will be; frames that are on the device stay where they are."""
        return {key: self._place(key, frame) for key, frame in fetched.items()}

    def _place(self, key: int, frame: Fetched) -> torch.Tensor:
        if isinstance(frame, torch.Tensor):
            where = frame.device
            if where.type == self._device.kind and where.index in (None, self._device.index):
                return frame
        shape, dtype = tuple(frame.shape), frame.dtype if isinstance(frame, torch.Tensor) else torch.float32
        lease = self._leases.get(key)
        if lease is not None and (tuple(lease.tensor.shape), lease.tensor.dtype) != (shape, dtype):
            lease.release()
            lease = None
        if lease is None:
            lease = self._leases[key] = self._device.pool.acquire(shape, dtype)
        return lease.tensor

    def bring(self, fetched: Mapping[int, Fetched]) -> None:
        """Fill the places, in stream order; what crosses the bus is counted."""
        for key, frame in fetched.items():
            place = self._place(key, frame)
            if isinstance(frame, Codes):
                frame.on(self._device.torch).pixels(place)
            elif place is not frame:
                transfers.record(True, frame.nbytes)
                place.copy_(frame)  # whoever made it may write to it again: it has arrived when this returns

    def close(self) -> None:
        """Give the memory back."""
        for lease in self._leases.values():
            lease.release()
        self._leases = {}
