"""Microseconds per launch of an empty kernel: waiting for each, without waiting, and replayed from a graph.

A pipeline of small kernels cannot be faster than this. On the CPU there is no launch; the rows there are for
orientation: one torch operation on 32 numbers, one numba function, and one launch on the emulator, which exists to
verify kernels and not to be fast.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from .results import Result
from .samples import Samples
from .timers import Timer, timer_for
from .timing import measure

if TYPE_CHECKING:
    from elinvar.runtime.device import Device

__all__ = ["EMPTY", "run"]

EMPTY = """#include <metal_stdlib>
using namespace metal;
kernel void empty(device float* x [[buffer(0)]], constant uint& n [[buffer(1)]], uint i [[thread_position_in_grid]])
{
    if (i >= n) { x[i] = 0.0f; }
}
"""
_IN_GRAPH = 100
_THREADS = 32


class _PerLaunch:
    """Divides another timer's reading by the launches in one call."""

    def __init__(self, timer: Timer, launches: int) -> None:
        self._timer = timer
        self._launches = launches

    def time(self, fn: Callable[[], object], inner: int) -> float:
        """Return seconds per launch."""
        return self._timer.time(fn, inner) / self._launches


def _metal(target: Device) -> Callable[[], object]:
    """Return a call that launches the empty kernel on a device."""
    import torch

    from elinvar import metal

    library = metal.compile(EMPTY, target)
    x = torch.zeros(_THREADS, device=target.torch)
    return lambda: library.empty(x, _THREADS, threads=_THREADS)


def _torch(target: Device) -> Callable[[], object]:
    import torch

    x = torch.zeros(_THREADS, device=target.torch)
    return lambda: x.add_(1.0)


def _numba() -> Callable[[], object] | None:
    try:
        import numba
        import numpy as np
    except ImportError:
        return None

    def touch(x: Any) -> None:
        for i in range(x.size):
            x[i] += 1.0

    compiled: Callable[[Any], None] = numba.njit(nogil=True)(touch)
    x = np.zeros(_THREADS, dtype=np.float32)
    return lambda: compiled(x)


def _graph(target: Device, launch: Callable[[], object]) -> Callable[[], object]:
    """Capture launches in a CUDA graph and return its replay."""
    import torch

    aside: Any = torch.cuda.Stream(target.torch)  # type: ignore[no-untyped-call]
    with torch.cuda.stream(aside):
        launch()  # what is compiled or loaded on first use must not be captured
    target.synchronize()
    graph: Any = torch.cuda.CUDAGraph()
    replay: Callable[[], object] = graph.replay
    with torch.cuda.graph(graph):
        for _ in range(_IN_GRAPH):
            launch()
    return replay


def _synchronous(target: Device, launch: Callable[[], object]) -> Callable[[], object]:
    def call() -> None:
        launch()
        target.synchronize()

    return call


def _on_gpu(target: Device, runs: int, warmup: int) -> dict[str, Samples]:
    found: dict[str, Samples] = {}
    for what, launch in (("metal", _metal(target)), ("torch", _torch(target))):
        for mode, call in (("synchronous", _synchronous(target, launch)), ("asynchronous", launch)):
            name = f"{what} {mode}"
            found[name] = measure(call, name=name, runs=runs, warmup=warmup, device=target, inner="auto")
        if target.kind == "cuda":
            name = f"{what} graph"
            timer = _PerLaunch(timer_for("wall", target), _IN_GRAPH)
            replay = _graph(target, launch)
            found[name] = measure(
                replay, name=name, runs=runs, warmup=warmup, device=target, timer=timer, yardsticks=False
            )
    return found


def _on_cpu(target: Device, runs: int, warmup: int) -> dict[str, Samples]:
    from elinvar.errors import MissingDependency

    calls: dict[str, Callable[[], object] | None] = {"torch operation": _torch(target), "numba function": _numba()}
    try:
        calls["metal on the emulator"] = _metal(target)
    except MissingDependency:  # without g++ there is no emulator; the other rows stand
        pass
    return {
        name: measure(call, name=name, runs=runs, warmup=warmup, inner="auto", yardsticks=False)
        for name, call in calls.items()
        if call is not None
    }


def run(*, runs: int = 31, warmup: int = 3, device: str = "auto") -> Result:
    """Measure the launches of one device.

    Parameters
    ----------
    runs, warmup
        As in `elinvar.bench.measure`.
    device
        Which device; ``"cpu"`` gives the rows for orientation.

    Returns
    -------
    Result
        Rows in seconds per launch; ``extras["us"]`` has the medians in microseconds.
    """
    from elinvar.runtime.device import device as find

    target = find(device)
    samples = (_on_cpu if target.kind == "cpu" else _on_gpu)(target, runs, warmup)
    micro = {name: round(one.median * 1e6, 3) for name, one in samples.items()}
    return Result("launch", samples, extras={"device": str(target), "us": micro})
