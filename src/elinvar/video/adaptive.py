"""Adapting to the machine: how much an export uses at a time, and less of it under pressure. Never a pixel.

``export(..., in_flight=None)`` takes what `for_profile` says of the graph's device, and ``export(..., monitor=m)``
gives way while an `elinvar.Monitor` sees memory, heat or power run short: fewer frames on their way, and buffers that
only wait are given back. When the pressure is gone, everything is as before.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from elinvar.runtime.device import DeviceProfile
from elinvar.runtime.pressure import Change, Monitor, Pressure, Relief

__all__ = ["Limits", "adjusted", "for_profile", "fraction", "giving_way"]


@dataclass(frozen=True)
class Limits:
    """What an export may use at a time.

    Attributes
    ----------
    in_flight
        Frames between source and encoder, at least 1.
    cache_bytes
        A budget for a `TexturePool`.
    """

    in_flight: int
    cache_bytes: int


_PARTS = {
    "thermal": {Pressure.WARNING: 0.5, Pressure.CRITICAL: 0.25},
    "memory": {Pressure.WARNING: 0.7, Pressure.CRITICAL: 0.4},
    "power": {Pressure.WARNING: 0.5, Pressure.CRITICAL: 0.5},
}
"""Which part of the limits is left at a level."""


def for_profile(profile: DeviceProfile) -> Limits:
    """Return a machine's limits: in flight 2 to 8, one for every 4 GiB; a sixteenth of the memory for textures."""
    memory = profile.memory_bytes or (4 << 30)
    return Limits(in_flight=min(8, max(2, memory // (4 << 30))), cache_bytes=max(64 << 20, memory // 16))


def fraction(levels: Mapping[str, Pressure]) -> float:
    """Return which part of the limits may be used at `Monitor.levels`: the strictest kind decides."""
    return min((_PARTS[kind].get(level, 1.0) for kind, level in levels.items()), default=1.0)


def adjusted(limits: Limits, levels: Mapping[str, Pressure]) -> Limits:
    """Return the limits under pressure; a frame is always on its way."""
    part = fraction(levels)
    return replace(limits, in_flight=max(1, int(limits.in_flight * part)), cache_bytes=int(limits.cache_bytes * part))


@contextmanager
def giving_way(monitor: Monitor | None, pipeline: Any, pool: Any, limits: Limits) -> Iterator[None]:
    """Let a monitor lower a pipeline's frames in flight and shrink a pool, by the rules above, for a while."""
    if monitor is None:
        yield
        return

    def answer(change: Change) -> Relief:
        if change.new is Pressure.NOMINAL:
            return Relief()
        level = {change.kind: change.new}
        return Relief(in_flight=adjusted(limits, level).in_flight, pool_keep=fraction(level))

    forget = monitor.on_change(answer)
    monitor.watch(pipeline, pool)
    try:
        yield
    finally:
        forget()
