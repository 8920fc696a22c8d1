"""The roofline: what a device can do at best, measured in this process."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from .samples import Samples, Work
from .timing import measure
from .yardsticks import random_tensor

if TYPE_CHECKING:
    from elinvar.runtime.device import Device

__all__ = ["Roofline", "from_samples", "roofline", "roofline_samples"]

COPY, F32, BF16 = "copy", "gemm fp32", "gemm bf16"


@dataclass(frozen=True)
class Roofline:
    """Measured ceilings of one device.

    Attributes
    ----------
    copy_gbps
        Large copy, bytes read plus bytes written per second, in 1e9.
    f32_gflops, bf16_gflops
        Square matrix product in 1e9 operations per second; None where the device lacks the type.
    device, name
        Which device, and its name for humans.
    contended
        Whether something else used the machine meanwhile: the ceilings are then too low.
    """

    copy_gbps: float
    f32_gflops: float
    bf16_gflops: float | None
    device: str = "cpu"
    name: str = ""
    contended: bool = False

    def to_json(self) -> dict[str, Any]:
        """Return plain data."""
        return asdict(self)


def _gemm(device: Device, dtype: str, runs: int, warmup: int) -> Samples | None:
    import torch

    # Long enough not to be launch-bound: 2 n³ operations are 2 ms on a slow core pair, 1.4 ms on an H200 in bfloat16.
    edge = 1024 if device.kind == "cpu" else 8192
    name, kind = (F32, torch.float32) if dtype == "fp32" else (BF16, torch.bfloat16)
    work = Work(flops=2.0 * edge**3, bytes=3.0 * edge**2 * kind.itemsize, dtype="bf16" if dtype == "bf16" else "fp32")
    try:
        x, y = (random_tensor((edge, edge), device.torch, kind) for _ in range(2))
        out = torch.empty_like(x)
        return measure(
            lambda: torch.mm(x, y, out=out),
            name=name,
            work=work,
            runs=runs,
            warmup=warmup,
            device=device,
            yardsticks=False,
        )
    except (RuntimeError, TypeError):
        if dtype == "fp32":  # every device multiplies float32: this failure is real
            raise
        return None  # bfloat16 is absent on older Apple systems


def roofline_samples(device: str | Device = "auto", *, runs: int = 9, warmup: int = 3) -> dict[str, Samples]:
    """Measure what the roofline is made of, keeping every sample: "copy", "gemm fp32" and, where present, "gemm bf16".

    The copy moves arrays far beyond the caches (128 MB on a CPU, 1 GB on a GPU); the products are square (edge 1024 on
    a CPU, 8192 on a GPU) of random numbers. float32 uses torch's present matmul precision setting.
    """
    import torch

    from elinvar.runtime.device import device as find

    target = find(device)
    n = 2**25 if target.kind == "cpu" else 2**28
    source = random_tensor((n,), target.torch, torch.float32)
    sink = torch.empty_like(source)
    out = {
        COPY: measure(
            lambda: sink.copy_(source),
            name=COPY,
            work=Work(bytes=8.0 * n),
            runs=runs,
            warmup=warmup,
            device=target,
            yardsticks=False,
        )
    }
    for dtype in ("fp32", "bf16"):
        samples = _gemm(target, dtype, runs, warmup)
        if samples is not None:
            out[samples.name] = samples
    return out


def from_samples(samples: Mapping[str, Samples], name: str = "") -> Roofline:
    """Return the ceilings at the medians of `roofline_samples`."""

    def rate(row: str, amount: str) -> float | None:
        found = samples.get(row)
        return getattr(found.work, amount) / found.median / 1e9 if found and found.work else None

    copy = samples[COPY]
    busy = any(row.contended for row in samples.values())
    return Roofline(rate(COPY, "bytes") or 0.0, rate(F32, "flops") or 0.0, rate(BF16, "flops"), copy.device, name, busy)


def roofline(device: str | Device = "auto", *, runs: int = 9, warmup: int = 3) -> Roofline:
    """Measure the ceilings of `device` in this process: medians of `roofline_samples`."""
    from elinvar.runtime.device import device as find

    target = find(device)
    return from_samples(roofline_samples(target, runs=runs, warmup=warmup), target.name)
