"""Textures from a pool: formats, budgets, reuse by frame number, targets that are never stored.

The semantics are those of a GPU texture pool, on top of `elinvar.Pool`: a key is format, size and usage; the most
recently released texture of a key is lent again first; when the budget is exceeded the texture unused for most frames
goes first. Age is counted in frames (`end_frame`), never in seconds, so that two runs evict the same.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from elinvar.errors import BudgetExceeded, DoubleRelease, ForeignLease, StaleLease
from elinvar.runtime.device import Device
from elinvar.runtime.device import device as find_device
from elinvar.runtime.memory import Lease
from elinvar.runtime.transfers import to_host
from elinvar.video._check import choice, count

__all__ = ["FORMATS", "Texture", "TexturePool", "TextureStats"]

FORMATS: dict[str, tuple[int, torch.dtype]] = {
    "rgba32f": (4, torch.float32),
    "rgb32f": (3, torch.float32),
    "r32f": (1, torch.float32),
    "rgba16f": (4, torch.float16),
    "rgb16f": (3, torch.float16),
    "r16f": (1, torch.float16),
    "rgba8": (4, torch.uint8),
    "r8": (1, torch.uint8),
    "rg8": (2, torch.uint8),
    "depth32f": (1, torch.float32),
}
"""Channels and dtype of a texel. Textures are planar: [channels, height, width]."""
USAGES = ("device", "host")


@dataclass(frozen=True)
class TextureStats:
    """What a pool did and holds."""

    texture_allocation_count: int
    reuse_count: int
    cpu_readback_count: int
    evictions: int
    live: int
    waiting: int
    bytes_live: int
    bytes_waiting: int
    frame: int


class Texture:
    """A texture lent by a `TexturePool`; `tensor` is its planes until it is released."""

    def __init__(
        self, pool: TexturePool, lease: Lease, key: tuple[int, int, str, str], name: str | None, number: int
    ) -> None:
        self._pool = pool
        self._lease: Lease | None = lease
        self.width, self.height, self.format, self.usage = key
        self.name = name or f"texture {number}"
        self.number = number
        self.transient = False
        self._ended: str | None = None

    @property
    def tensor(self) -> torch.Tensor:
        """The planes [channels, height, width].

        Raises
        ------
        StaleLease
            The texture was released, or it is transient and its pass has ended.
        """
        if self._ended is not None:
            raise StaleLease(
                f"TexturePool: transient texture {self.name!r} was read after its pass {self._ended!r}; it is never "
                f"stored, "
                "use acquire() for what outlives a pass."
            )
        if self._lease is None:
            raise StaleLease(f"TexturePool: texture {self.name!r} was used after its release.")
        return self._lease.tensor

    @property
    def nbytes(self) -> int:
        """Bytes of its texels."""
        channels, dtype = FORMATS[self.format]
        return channels * dtype.itemsize * self.width * self.height

    def read(self) -> torch.Tensor:
        """Copy to the host; counted as a readback."""
        return self._pool._read(self)  # noqa: SLF001  (a pool and its textures are two halves of one thing)


class TexturePool:
    """Textures of one device.

    Parameters
    ----------
    budget_bytes
        Limit on live plus waiting texels; None sets none. See `PRESETS`.
    device
        Where they live.
    """

    PRESETS = {"default": 512 << 20, "multistream": 1 << 30, "low-memory": 256 << 20}  # noqa: RUF012
    """Budgets by name."""

    def __init__(self, budget_bytes: int | str | None = "default", device: str | Device = "auto") -> None:
        if isinstance(budget_bytes, str):
            budget_bytes = self.PRESETS[choice("TexturePool", "budget_bytes", budget_bytes, self.PRESETS)]
        self.budget_bytes = (
            None if budget_bytes is None else count("TexturePool", "budget_bytes", budget_bytes, 1, 1 << 62)
        )
        self.device = find_device(device)
        self._lock = threading.RLock()
        self._waiting: dict[tuple[int, int, str, str], list[tuple[int, Lease]]] = {}
        self._live: dict[int, Texture] = {}
        self._numbers = itertools.count()
        self._frame = 0
        self._allocations = self._reuses = self._readbacks = self._evictions = 0
        self.events: list[Callable[[str, Texture | None], object]] = []
        """Called with ("acquire" | "reuse" | "release" | "evict" | "end_frame", texture)."""

    # -- counters ----------------------------------------------------------------------------------------------------

    @property
    def texture_allocation_count(self) -> int:
        """Textures that needed new memory."""
        return self._allocations

    @property
    def cpu_readback_count(self) -> int:
        """Textures copied to the host."""
        return self._readbacks

    def stats(self) -> TextureStats:
        """Return all counters and sizes at once."""
        with self._lock:
            waiting = [key for key, items in self._waiting.items() for _ in items]
            return TextureStats(
                self._allocations,
                self._reuses,
                self._readbacks,
                self._evictions,
                len(self._live),
                len(waiting),
                sum(t.nbytes for t in self._live.values()),
                sum(_nbytes(key) for key in waiting),
                self._frame,
            )

    # -- lending -----------------------------------------------------------------------------------------------------

    def acquire(
        self,
        width: int,
        height: int,
        format: str = "rgba16f",  # noqa: A002  (what textures call it)
        *,
        usage: str = "device",
        name: str | None = None,
        clear: bool = False,
    ) -> Texture:
        """Lend a texture.

        Parameters
        ----------
        width, height
            Texels.
        format
            One of `FORMATS`.
        usage
            "device", or "host" for what the host reads too.
        clear
            Zero-filled on the stream that will use it; otherwise what an earlier user left must not be read.

        Raises
        ------
        BudgetExceeded
            It does not fit even after everything waiting was given up.
        """
        count("TexturePool.acquire", "width", width, 1, 1 << 16)
        count("TexturePool.acquire", "height", height, 1, 1 << 16)
        choice("TexturePool.acquire", "format", format, FORMATS)
        choice("TexturePool.acquire", "usage", usage, USAGES)
        key = (width, height, format, usage)
        with self._lock:
            kept = self._waiting.get(key)
            if kept:
                _, lease = kept.pop()
                self._reuses += 1
                event = "reuse"
            else:
                lease = self._new(key)
                self._allocations += 1
                event = "acquire"
            texture = Texture(self, lease, key, name, next(self._numbers))
            self._live[texture.number] = texture
        if clear:
            texture.tensor.zero_()
        self._tell(event, texture)
        return texture

    @contextmanager
    def transient(
        self,
        width: int,
        height: int,
        format: str = "depth32f",  # noqa: A002
        *,
        name: str | None = None,
        clear: bool = True,
        used_by: str = "the block",
    ) -> Iterator[Texture]:
        """Lend a target for one pass: after the block its content is gone, and reading it raises and names the pass.

        Parameters
        ----------
        clear
            depth32f is filled with 1 (the far plane), everything else with 0.
        used_by
            The pass's name, for the error.
        """
        texture = self.acquire(width, height, format, name=name)
        texture.transient = True
        if clear:
            texture.tensor.fill_(1.0 if format == "depth32f" else 0)
        try:
            yield texture
        finally:
            texture._ended = used_by  # noqa: SLF001
            self.release(texture)

    def release(self, texture: Texture) -> None:
        """Take a texture back; work on its stream that was started before still sees it.

        Raises
        ------
        ForeignLease
            It belongs to another pool.
        DoubleRelease
            It was released before.
        """
        if not isinstance(texture, Texture) or texture._pool is not self:  # noqa: SLF001
            raise ForeignLease("TexturePool.release: this texture belongs to another pool; release it there.")
        with self._lock:
            lease = texture._lease  # noqa: SLF001
            if lease is None:
                raise DoubleRelease(f"TexturePool.release: texture {texture.name!r} was released before.")
            texture._lease = None  # noqa: SLF001
            del self._live[texture.number]
            key = (texture.width, texture.height, texture.format, texture.usage)
            self._waiting.setdefault(key, []).append((self._frame, lease))
        self._tell("release", texture)

    def end_frame(self) -> None:
        """Count one frame, and give up what no longer fits the budget, oldest first."""
        with self._lock:
            self._frame += 1
            self._evict(0)
        self._tell("end_frame", None)

    def clear(self) -> None:
        """Give up everything that waits."""
        with self._lock:
            while self._drop_oldest():
                pass

    # -- inside ------------------------------------------------------------------------------------------------------

    def _tell(self, event: str, texture: Texture | None) -> None:
        for callback in self.events:
            callback(event, texture)

    def _new(self, key: tuple[int, int, str, str]) -> Lease:
        needed = _nbytes(key)
        if self.budget_bytes is not None:
            self._evict(needed)
            live = sum(t.nbytes for t in self._live.values())
            if live + needed > self.budget_bytes:
                raise BudgetExceeded(
                    f"TexturePool.acquire: {key[0]} x {key[1]} {key[2]} needs {needed} bytes, {live} are live and the "
                    f"budget is "
                    f"{self.budget_bytes}; release textures or raise the budget."
                )
        width, height, form, _ = key
        channels, dtype = FORMATS[form]
        return self.device.pool.acquire((channels, height, width), dtype)

    def _evict(self, needed: int) -> None:
        if self.budget_bytes is None:
            return
        while True:
            stats = self.stats()
            if stats.bytes_live + stats.bytes_waiting + needed <= self.budget_bytes or not self._drop_oldest():
                return

    def _drop_oldest(self) -> bool:
        oldest: Any = min(((items[0][0], key) for key, items in self._waiting.items() if items), default=None)
        if oldest is None:
            return False
        _, lease = self._waiting[oldest[1]].pop(0)
        lease.release()
        self._evictions += 1
        self._tell("evict", None)
        return True

    def _read(self, texture: Texture) -> torch.Tensor:
        result = to_host(texture.tensor)
        with self._lock:
            self._readbacks += 1
        return result.clone() if result.data_ptr() == texture.tensor.data_ptr() else result


def _nbytes(key: tuple[int, int, str, str]) -> int:
    channels, dtype = FORMATS[key[2]]
    return channels * dtype.itemsize * key[0] * key[1]
