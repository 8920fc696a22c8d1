"""One kernel, one answer, on every device.

Every public name below is loaded on first use (PEP 562), so ``import elinvar`` costs milliseconds and pulls in
neither torch nor numba nor numpy.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ._lazy import lazy

__version__ = "0.1.0"

__all__ = [
    "Device",
    "DeviceProfile",
    "Lease",
    "Monitor",
    "Pipeline",
    "Plan",
    "Pool",
    "PoolStats",
    "Precision",
    "Pressure",
    "Runtime",
    "Stage",
    "__version__",
    "audio",
    "bench",
    "device",
    "devices",
    "errors",
    "fuse",
    "keep_pages",
    "kernel",
    "kernels",
    "metal",
    "no_transfers",
    "seismic",
    "tensor",
    "testing",
    "trace",
    "transfers",
    "video",
    "vision",
]

_HOME = {
    "fuse": "metal.fuse",
    "Device": "runtime.device",
    "DeviceProfile": "runtime.device",
    "Runtime": "runtime.device",
    "device": "runtime.device",
    "devices": "runtime.device",
    "Lease": "runtime.memory",
    "Pool": "runtime.memory",
    "PoolStats": "runtime.memory",
    "keep_pages": "runtime.memory",
    "Pipeline": "runtime.pipeline",
    "Stage": "runtime.pipeline",
    "Plan": "runtime.plan",
    "Precision": "runtime.plan",
    "Monitor": "runtime.pressure",
    "Pressure": "runtime.pressure",
    "no_transfers": "runtime.transfers",
    "transfers": "runtime.transfers",
    "kernel": "runtime.kernels",
    "kernels": "runtime.kernels",
    "trace": "runtime.trace",
}
_MODULES = ("audio", "bench", "errors", "metal", "seismic", "tensor", "testing", "video", "vision")

if TYPE_CHECKING:
    from . import audio, bench, errors, metal, seismic, tensor, testing, video, vision
    from .metal.fuse import fuse
    from .runtime.device import Device, DeviceProfile, Runtime, device, devices
    from .runtime.kernels import kernel, kernels
    from .runtime.memory import Lease, Pool, PoolStats, keep_pages
    from .runtime.pipeline import Pipeline, Stage
    from .runtime.plan import Plan, Precision
    from .runtime.pressure import Monitor, Pressure
    from .runtime.trace import trace
    from .runtime.transfers import no_transfers, transfers

__getattr__, __dir__ = lazy(__name__, _HOME, _MODULES)
