"""Which way to compute is fastest here: measured in a fraction of a second when weights are loaded, then remembered.

What was measured is kept by `elinvar.runtime.tuning` per device, number format and number of threads; deleting that
file measures again. A way whose result differs from plain torch is never chosen.
"""

# torch leaves Tensor.split and Tensor.unflatten without types.
# mypy: disable-error-code="no-untyped-call, no-any-return"

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional

from elinvar.runtime.tuning import save_tuned, tuned

from . import rotate
from .layers import Linear, Paths, Rotary, attend, packed_available
from .safe import tested

if TYPE_CHECKING:
    from elinvar.runtime.device import Device

__all__ = ["choose", "measure"]

_ROWS, _WIDTH, _HEADS, _CHANNELS = 512, 1024, 4, 64
_CLOSE = {torch.float32: 1e-5, torch.bfloat16: 2e-2, torch.float16: 5e-3}
_MARGIN = 0.97  # another way than torch's own must win by this much


def _fits(got: Tensor, want: Tensor, dtype: torch.dtype) -> bool:
    difference = (got.double() - want.double()).norm() / want.double().norm()
    return bool(difference <= _CLOSE.get(dtype, 1e-5))


def _seconds(call: Callable[[], object]) -> float:
    """Best of four calls after one: the least disturbed."""
    call()
    best = float("inf")
    for _ in range(4):
        start = time.perf_counter()
        call()
        best = min(best, time.perf_counter() - start)
    return best


def _fastest(ways: Mapping[Any, Callable[[], Tensor]], dtype: torch.dtype, first: Any) -> tuple[Any, dict[str, float]]:
    """Return the fastest way that agrees with `first`, and what each took."""
    want = ways[first]()
    times: dict[Any, float] = {}
    for name, call in ways.items():
        try:
            if _fits(call(), want, dtype):
                times[name] = _seconds(call)
        except (RuntimeError, ImportError):  # a build of torch without it, numba without a place for its cache
            continue
    best = min(times, key=lambda name: times[name])
    if times[best] > _MARGIN * times[first]:
        best = first
    return best, {str(name): value for name, value in times.items()}


def _linear_ways(dtype: torch.dtype) -> dict[Any, Callable[[], Tensor]]:
    make = torch.Generator().manual_seed(0)
    x = torch.randn(1, _ROWS, _WIDTH, generator=make).to(dtype)
    weight = (torch.randn(_WIDTH, _WIDTH, generator=make) / _WIDTH**0.5).to(dtype)
    bias = torch.randn(_WIDTH, generator=make).to(dtype)
    ways: dict[Any, Callable[[], Tensor]] = {}
    for path in ("torch", "packed", "conv"):
        if path == "packed" and not packed_available():
            continue
        layer = Linear(weight, bias, path)
        ways[path] = lambda layer=layer: layer(x)  # type: ignore[misc]
    return ways


def _attention_ways(dtype: torch.dtype) -> dict[Any, Callable[[], Tensor]]:
    make = torch.Generator().manual_seed(1)
    q, k, v = (torch.randn(1, _HEADS, 768, _CHANNELS, generator=make).to(dtype) for _ in range(3))
    q = q * _CHANNELS**-0.5
    return {how: (lambda how=how: attend(q, k, v, how)) for how in ("sdpa", 1, 2, 4)}  # type: ignore[misc]


def _rotation_ways(dtype: torch.dtype) -> dict[Any, Callable[[], Tensor]]:
    make = torch.Generator().manual_seed(2)
    x = torch.randn(1, 384, _HEADS, _CHANNELS, generator=make).to(dtype).transpose(1, 2)
    tables = Rotary(_CHANNELS, torch.device("cpu"))(16, 24)
    return {how: (lambda how=how: rotate.apply(x, *tables, 0.125, how)) for how in ("torch", "numba")}  # type: ignore[misc]


def measure(dtype: torch.dtype) -> tuple[Paths, dict[str, dict[str, float]]]:
    """Measure every way on the CPU with torch's present number of threads; return the best and all times, seconds."""
    with torch.inference_mode():
        linear, linear_times = _fastest(_linear_ways(dtype), dtype, "torch")
        attention, attention_times = _fastest(_attention_ways(dtype), dtype, "sdpa")
        turning, turning_times = _fastest(_rotation_ways(dtype), dtype, "torch")
    paths = Paths(linear=linear, attention=attention, channels_last=True, rotate=turning)
    return paths, {"linear": linear_times, "attention": attention_times, "rotate": turning_times}


def _known(stored: Any) -> Paths | None:
    """Return remembered paths if they make sense with this torch."""
    try:
        paths = Paths(**{**stored, "on_cpu": tuple(stored.get("on_cpu", ()))})
    except (AttributeError, TypeError):
        return None
    sane = (
        paths.linear in ("torch", "packed", "conv")
        and (paths.attention == "sdpa" or paths.attention in (1, 2, 4))
        and paths.rotate in ("torch", "numba")
        and (paths.linear != "packed" or packed_available())
    )
    return paths if sane else None


def choose(device: Device, dtype: torch.dtype, threads: int) -> Paths:
    """Return how to compute on a device: remembered, else measured (CPU) or by rule (GPU), after a test of each op.

    On GPUs torch's fused attention and products are used as they are; convolutions run channels-last on CUDA and in
    torch's default order on Metal, which has no such path, and where what fails a test runs on the CPU.
    """
    if device.kind != "cpu":
        if device.kind == "cuda":
            return Paths(attention=_tested_attention(device.torch), channels_last=True, fused=True)
        wrong = tested(device.torch, dtype)
        attention = 4 if "attention" in wrong else "sdpa"  # explicit products do, without leaving the device
        return Paths(attention=attention, on_cpu=tuple(name for name in wrong if name != "attention"))
    version = torch.__version__.partition("+")[0]
    key = f"option.vision.{str(dtype).removeprefix('torch.')}.{threads}.torch-{version}"
    found = _known(tuned(device.profile).options.get(key.removeprefix("option."), {}))
    if found is None or not tuned(device.profile).options.get(key.removeprefix("option.")):
        found, _ = measure(dtype)
        try:
            save_tuned(device.profile, key, dataclasses.asdict(found))
        except OSError:  # a cache that cannot be written only means measuring again
            pass
    return found


def _tested_attention(device: torch.device) -> str | int:
    """Return "sdpa", or 4 (explicit products) where the fused attention is wrong."""
    make = torch.Generator().manual_seed(3)
    q, k, v = (torch.randn(1, 2, 80, _CHANNELS, generator=make) for _ in range(3))
    want = functional.scaled_dot_product_attention(q, k, v, scale=1.0).transpose(1, 2).flatten(2)
    there = [t.to(device).contiguous() for t in (q, k, v)]
    got = attend(there[0], there[1], there[2], "sdpa")
    return "sdpa" if _fits(got.cpu(), want, torch.float16) else 4
