"""What the GPU backends share: constants that need device memory, and groups that a compiled kernel allows."""

from __future__ import annotations

import threading
from collections import OrderedDict

import torch

from elinvar.errors import MetalLaunchError

from .signature import Signature

__all__ = ["Constants", "fitting_group"]

_KEPT_CONSTANTS = 64


class Constants:
    """Device copies of constants that do not travel in the launch: arrays for pointers, large structs.

    One copy per content and device. The upload has finished when `tensor` returns, so any stream may read it; the least
    recently used copies are dropped, except those that a CUDA graph was recorded with.
    """

    def __init__(self, kept: int = _KEPT_CONSTANTS) -> None:
        self._kept = kept
        self._copies: OrderedDict[tuple[bytes, str], torch.Tensor] = OrderedDict()
        self._pinned: dict[tuple[bytes, str], torch.Tensor] = {}
        self._lock = threading.Lock()

    def tensor(self, data: bytes, device: torch.device) -> torch.Tensor:
        """Return a uint8 tensor on `device` that begins with `data`."""
        key = (data, str(device))
        with self._lock:
            found = self._pinned.get(key)
            if found is not None:
                return found
            found = self._copies.get(key)
            if found is None:
                found = torch.frombuffer(bytearray(data or b"\0"), dtype=torch.uint8).to(device, copy=True)
                self._copies[key] = found
                if len(self._copies) > self._kept:
                    self._copies.popitem(last=False)
            self._copies.move_to_end(key)
            if found.is_cuda:
                # Dropped while another stream than the uploading one still reads it, it must not be handed out again.
                found.record_stream(torch.cuda.current_stream(device))
                if torch.cuda.is_current_stream_capturing():
                    self._pinned[key] = self._copies.pop(key)
            return found


def fitting_group(signature: Signature, group: tuple[int, int, int], most: int) -> tuple[int, int, int]:
    """Return `group`, made smaller where it was a default and the compiled kernel does not allow it.

    Raises
    ------
    MetalLaunchError
        The kernel needs the group it was given and its registers do not allow so many threads.
    """
    x, y, z = group
    if x * y * z <= most:
        return group
    if signature.needs_group:
        raise MetalLaunchError(
            f"[{signature.name}] group_size {group} is {x * y * z} threads; compiled for this device the kernel allows "
            f"{most}: use smaller groups, or declare [[max_total_threads_per_threadgroup({x * y * z})]]"
        )
    while x * y * z > most:
        x, y, z = (x, y // 2, z) if y > 1 else (x, y, z // 2) if z > 1 else (x // 2, y, z)
    return x, y, z
