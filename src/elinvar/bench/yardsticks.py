"""Yardsticks: the machine's own speed, read in about 40 ms before and after a measurement."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from .samples import Yardstick
from .timers import Timer, timer_for

if TYPE_CHECKING:
    import torch

    from elinvar.runtime.device import Device

__all__ = ["Yardsticks", "random_tensor"]

YARDSTICK_SECONDS = 0.02


def _median_rate(timer: Timer, fn: Callable[[], object], amount: float, seconds: float, least: int = 3) -> float:
    """Repeat `fn` for about `seconds` and return amount per second at the median, in 1e9."""
    fn()  # first touch: pages, caches, lazily built handles
    values: list[float] = []
    end = time.perf_counter() + seconds
    while len(values) < least or time.perf_counter() < end:
        values.append(max(timer.time(fn, 1), 1e-9))
    return amount / sorted(values)[len(values) // 2] / 1e9


def _sizes(kind: str) -> tuple[int, int]:
    """Elements per streaming array (well beyond any cache) and GEMM edge (long enough not to be launch-bound)."""
    return (8 * 2**20, 512) if kind == "cpu" else (64 * 2**20, 4096)


def random_tensor(shape: tuple[int, ...], where: torch.device, dtype: torch.dtype) -> torch.Tensor:
    """Random data: GPUs run all-ones and all-zeros products measurably faster because fewer bits toggle."""
    import torch

    generator = torch.Generator().manual_seed(1)
    edge = min(shape[0], 4096)
    block = torch.randn((edge, *shape[1:]), generator=generator)
    repeats = (-(-shape[0] // edge), *(1 for _ in shape[1:]))
    return block.repeat(repeats)[: shape[0]].to(where, dtype).contiguous()


class Yardsticks:
    """STREAM triad ``a = b + s·c`` and a square GEMM, about 20 ms each, with their buffers kept between readings.

    The triad counts three transfers per element (McCalpin, 1995, "Memory bandwidth and machine balance"); traffic for
    write-allocation is not counted, as in STREAM.

    Parameters
    ----------
    device
        A `Device`, or None for the CPU.
    timer
        The clock to use; None means the device's wall clock.
    dtype
        "fp32" or "bf16" for the GEMM.
    """

    def __init__(self, device: Device | None = None, timer: Timer | None = None, dtype: str = "fp32") -> None:
        import torch

        where = device.torch if device else torch.device("cpu")
        n, edge = _sizes(where.type)
        self._timer = timer or timer_for("wall", device)
        self._dtype = dtype
        self._b, self._c = (random_tensor((n,), where, torch.float32) for _ in range(2))
        self._a = torch.empty_like(self._b)
        storage = torch.float32 if dtype == "fp32" else torch.bfloat16
        self._x, self._y = (random_tensor((edge, edge), where, storage) for _ in range(2))
        self._z = torch.empty_like(self._x)

    def read(self, seconds: float = YARDSTICK_SECONDS) -> Yardstick:
        """Measure both speeds now."""
        import torch

        def triad() -> None:
            torch.add(self._b, self._c, alpha=1.5, out=self._a)

        def gemm() -> None:
            torch.mm(self._x, self._y, out=self._z)

        edge = self._x.shape[0]
        return Yardstick(
            triad_gbps=_median_rate(self._timer, triad, 12.0 * self._b.numel(), seconds),
            gemm_gflops=_median_rate(self._timer, gemm, 2.0 * edge**3, seconds),
            dtype=self._dtype,
        )
