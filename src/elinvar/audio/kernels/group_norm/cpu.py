"""``audio.group_norm`` with numba: four ways to the statistics of a group, one way to apply them."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
import torch
from torch import Tensor

from elinvar.audio.kernels.group_norm import ALGORITHMS
from elinvar.runtime.parallel import parallel_for

__all__ = ["group_norm", "moments"]

f4 = np.float32
_LANES = 32  # two AVX-512 registers, or four of AVX2: enough independent sums to hide an addition's latency
_BLOCK = 4096  # a multiple of the lanes
_PIECE = 65_536  # samples per task


# reassoc lets a sum run in as many lanes as the processor has; the number of lanes is fixed per machine.
@numba.njit(nogil=True, error_model="numpy", cache=True, fastmath={"contract", "reassoc"})
def _standard(x: Any) -> Any:
    n = x.shape[0]
    total = 0.0
    for first in range(0, n, _BLOCK):
        s: Any = f4(0)
        for i in range(first, min(n, first + _BLOCK)):
            s += x[i]
        total += float(s)
    centre = f4(total / n)
    squares, rest = 0.0, 0.0
    for first in range(0, n, _BLOCK):
        q: Any = f4(0)
        s = f4(0)
        for i in range(first, min(n, first + _BLOCK)):
            d = x[i] - centre
            q += d * d
            s += d
        squares += float(q)
        rest += float(s)
    return centre + rest / n, squares - rest * rest / n


# No reassoc here: it would let the compiler prove that the compensation is zero.
@numba.njit(nogil=True, error_model="numpy", cache=True)
def _kahan(x: Any) -> Any:
    n = x.shape[0]
    whole = n - n % _LANES
    s, e = np.zeros(_LANES, f4), np.zeros(_LANES, f4)
    for first in range(0, whole, _LANES):
        for k in range(_LANES):
            y = x[first + k] - e[k]
            t = s[k] + y
            e[k] = (t - s[k]) - y
            s[k] = t
    total = 0.0
    for k in range(_LANES):
        total += np.float64(s[k]) - np.float64(e[k])
    for i in range(whole, n):
        total += x[i]
    mean = total / n
    high = f4(mean)
    low = f4(mean - high)
    s[:] = 0
    e[:] = 0
    for first in range(0, whole, _LANES):
        for k in range(_LANES):
            d = (x[first + k] - high) - low
            y = d * d - e[k]
            t = s[k] + y
            e[k] = (t - s[k]) - y
            s[k] = t
    squares = 0.0
    for k in range(_LANES):
        squares += np.float64(s[k]) - np.float64(e[k])
    for i in range(whole, n):
        d = (x[i] - high) - low
        squares += d * d
    return mean, squares


@numba.njit(nogil=True, error_model="numpy", cache=True, fastmath={"contract"})
def _welford(x: Any) -> Any:
    n = x.shape[0]
    whole = n - n % _LANES
    mean, squares = np.zeros(_LANES, f4), np.zeros(_LANES, f4)
    count, centre, total = 0.0, 0.0, 0.0
    for begin in range(0, whole, _BLOCK):  # short runs per lane: rounding grows with their length
        end = min(whole, begin + _BLOCK)
        mean[:] = 0
        squares[:] = 0
        for first in range(begin, end, _LANES):
            share = f4(1) / f4((first - begin) // _LANES + 1)
            for k in range(_LANES):
                d = x[first + k] - mean[k]
                mean[k] += d * share
                squares[k] += d * (x[first + k] - mean[k])
        each = float((end - begin) // _LANES)
        for k in range(_LANES):
            delta = mean[k] - centre
            count += each
            centre += delta * each / count
            total += squares[k] + delta * delta * each * (count - each) / count
    for i in range(whole, n):
        delta = x[i] - centre
        count += 1.0
        centre += delta / count
        total += delta * (x[i] - centre)
    return centre, total


@numba.njit(nogil=True, error_model="numpy", cache=True, fastmath={"contract", "reassoc"})
def _float64(x: Any) -> Any:
    n = x.shape[0]
    total = 0.0
    for i in range(n):
        total += np.float64(x[i])
    mean = total / n
    squares = 0.0
    for i in range(n):
        d = np.float64(x[i]) - mean
        squares += d * d
    return mean, squares


@numba.njit(nogil=True, error_model="numpy", cache=True)
def _apply(x: Any, out: Any, mean: float, rstd: float, gain: float, shift: float) -> None:
    high = f4(mean)
    low = f4(mean - high)
    a, b = f4(rstd * gain), f4(shift)
    for i in range(x.shape[0]):
        out[i] = ((x[i] - high) - low) * a + b


_MOMENTS = {"standard": _standard, "kahan": _kahan, "welford": _welford, "float64": _float64}
assert tuple(_MOMENTS) == ALGORITHMS


def moments(x: Any, algorithm: str) -> tuple[float, float]:
    """Return mean and variance of a float32 array, summed in one of `ALGORITHMS`."""
    flat = np.ascontiguousarray(x, f4).reshape(-1)
    mean, squares = _MOMENTS[algorithm](flat)
    return float(mean), float(squares) / flat.size


def group_norm(
    x: Tensor,
    groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    *,
    eps: float = 1e-5,
    algorithm: str = "kahan",
    out: Tensor | None = None,
) -> Tensor:
    """Arguments as those of the reference; float32 on the CPU. ``out`` has the shape of ``x`` and may be ``x``."""
    batch, channels = x.shape[0], x.shape[1]
    result = torch.empty_like(x, memory_format=torch.contiguous_format) if out is None else out
    source = x.contiguous().numpy().reshape(batch * groups, channels // groups, -1)
    target = result.numpy().reshape(source.shape)
    gain = np.ones(channels) if weight is None else weight.double().numpy()
    shift = np.zeros(channels) if bias is None else bias.double().numpy()
    measure = _MOMENTS[algorithm]
    size = source.shape[1] * source.shape[2]

    def rows(first: int, end: int) -> None:
        for row in range(first, end):
            mean, squares = measure(source[row].reshape(-1))
            rstd = 1.0 / np.sqrt(squares / size + eps)
            base = row % groups * source.shape[1]
            for c in range(source.shape[1]):
                _apply(source[row, c], target[row, c], mean, rstd, gain[base + c], shift[base + c])

    parallel_for(len(source), rows, chunk=max(1, _PIECE // max(1, size)))
    return result
