"""Adapting to the machine: presets, and throttling what runs. Never a pixel: frames in flight and cache sizes only."""

from __future__ import annotations

from dataclasses import dataclass, replace

from elinvar.runtime.device import DeviceProfile
from elinvar.video._check import number

__all__ = ["Limits", "Snapshot", "adjusted", "for_profile", "fraction"]


@dataclass(frozen=True)
class Limits:
    """What an export may use at a time.

    Attributes
    ----------
    in_flight
        Frames between source and encoder, at least 1.
    decoders
        Sources read ahead, at least 1.
    cache_bytes
        Textures kept for reuse.
    """

    in_flight: int
    decoders: int
    cache_bytes: int


@dataclass(frozen=True)
class Snapshot:
    """How the machine is doing.

    Attributes
    ----------
    memory
        "normal", "warning" or "critical".
    thermal
        "nominal", "fair", "serious" or "critical".
    on_battery_low
        Running from a battery that is nearly empty, or in a low-power mode.
    """

    memory: str = "normal"
    thermal: str = "nominal"
    on_battery_low: bool = False


_THERMAL = {"nominal": 1.0, "fair": 0.8, "serious": 0.5, "critical": 0.25}
_MEMORY = {"normal": 1.0, "warning": 0.7, "critical": 0.4}


def for_profile(profile: DeviceProfile) -> Limits:
    """Return the limits for a machine: half its cores decode, in flight between 2 and 8 by memory."""
    memory = profile.memory_bytes or (4 << 30)
    units = max(1, profile.compute_units or 1)
    return Limits(
        in_flight=min(8, max(2, memory // (4 << 30))),
        decoders=max(1, min(8, units // 2)),
        cache_bytes=max(64 << 20, memory // 16),
    )


def fraction(snapshot: Snapshot) -> float:
    """Return which part of the limits may be used: the strictest of heat, memory and battery decides."""
    parts = [_THERMAL[snapshot.thermal], _MEMORY[snapshot.memory], 0.5 if snapshot.on_battery_low else 1.0]
    return min(parts)


def adjusted(limits: Limits, snapshot: Snapshot) -> Limits:
    """Return lower limits for a machine under pressure; everything stays at least 1."""
    part = number("adaptive.adjusted", "fraction", fraction(snapshot), 0, 1)
    return replace(
        limits,
        in_flight=max(1, int(limits.in_flight * part)),
        decoders=max(1, int(limits.decoders * part)),
        cache_bytes=int(limits.cache_bytes * part),
    )
