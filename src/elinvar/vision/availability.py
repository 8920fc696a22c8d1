"""Where the engine can run, and in which precision."""

from __future__ import annotations

from elinvar.errors import InputError
from elinvar.runtime.device import Device
from elinvar.runtime.precision import Precision

__all__ = ["available", "resolve_precision"]

_FASTEST = {"cpu": ("bf16",), "cuda": ("fp16",), "mps": ("fp16",)}


def available() -> dict[str, str]:
    """Say for each kind of device whether the engine can run there, and why not."""
    from elinvar.runtime.device import devices

    present = {device.kind: device for device in devices()}
    absent = {
        "cuda": "no: torch sees no NVIDIA GPU (a CUDA build of torch and a driver are needed)",
        "mps": "no: torch sees no Apple GPU (macOS on Apple silicon is needed)",
    }
    out = {}
    for kind in ("cpu", "cuda", "mps"):
        device = present.get(kind)
        out[kind] = (
            absent.get(kind, "no") if device is None else f"yes: {device.name}, {resolve_precision('auto', device)}"
        )
    return out


def resolve_precision(spec: str | Precision, device: Device) -> Precision:
    """Return the precision to compute in; "auto" is the device's fastest one."""
    found = Precision.resolve(spec, device.profile, _FASTEST[device.kind])
    if "fp64" in (found.storage, found.compute):
        raise InputError("vision.Engine: precision 'fp64' is not offered; use auto, fp32, bf16 or fp16.")
    return found
