"""``audio.gate`` with numba: statistics of a block that is still in cache, then one pass that writes the result."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
import torch
from numba import types
from numba.extending import overload
from torch import Tensor

from elinvar.audio.kernels.gate import check
from elinvar.runtime.parallel import parallel_for

__all__ = ["gate", "norm_gelu"]

# Time steps of one block: with 192 channels float32 about 200 KB, which stays in a second-level cache.
_BLOCK_BYTES = 200_000
f4, i4, u4 = np.float32, np.int32, np.uint32
_EMPTY = np.zeros(0, f4)


# bfloat16 arrives as int16: numba has no such type. Widening is a shift; narrowing rounds to nearest, ties to even.
def _widen(v: Any) -> Any:
    raise NotImplementedError  # only ever compiled


@overload(_widen, inline="always")
def _widen_typed(v: Any) -> Any:
    def from_bfloat16(v: Any) -> Any:
        return i4(i4(v) << i4(16)).view(np.float32)

    def same(v: Any) -> Any:
        return v

    return from_bfloat16 if isinstance(v, types.Integer) else same


def _narrow(v: Any, like: Any) -> Any:
    raise NotImplementedError  # only ever compiled


@overload(_narrow, inline="always")
def _narrow_typed(v: Any, like: Any) -> Any:  # noqa: ARG001
    def to_bfloat16(v: Any, like: Any) -> Any:  # noqa: ARG001
        bits = u4(f4(v).view(np.uint32))
        return np.int16(u4(bits + u4(0x7FFF) + u4(u4(bits >> u4(16)) & u4(1))) >> u4(16))

    def same(v: Any, like: Any) -> Any:  # noqa: ARG001
        return v

    return to_bfloat16 if isinstance(like, types.Integer) else same


@numba.njit(nogil=True, error_model="numpy", fastmath={"contract"}, inline="always")
def _exp(x: Any) -> Any:
    """Exp as a power of two: a polynomial of the fraction (3e-7), the integer added to its exponent.

    Adding 1.5 * 2**23 leaves the nearest integer in the last bits: nothing here may be reordered.
    """
    y = min(max(x * f4(1.4426950408889634), f4(-126.0)), f4(126.0))
    shifted = y + f4(12582912.0)
    r = y - (shifted - f4(12582912.0))
    p = f4(1.34004322e-3)
    p = p * r + f4(9.6760371e-3)
    p = p * r + f4(5.55032721e-2)
    p = p * r + f4(0.240221074)
    p = p * r + f4(0.693147207)
    p = p * r + f4(1.00000008)
    return i4(f4(p).view(np.int32) + (i4(f4(shifted).view(np.int32)) << i4(23))).view(np.float32)


@numba.njit(nogil=True, error_model="numpy", fastmath={"contract"}, inline="always")
def _sigmoid(x: Any) -> Any:
    return f4(1) / (f4(1) + _exp(-x))


@numba.njit(nogil=True, error_model="numpy", cache=True, fastmath={"contract", "reassoc"})
def _moments(y: Any, first: int, end: int) -> Any:
    """Mean and sum of squared deviations of ``y[first:end]``; in float64 over float32 sums of a thousand."""
    flat = y[first:end].reshape(-1)
    n = len(flat)
    total = 0.0
    for a in range(0, n, 1024):
        block = flat[a : a + 1024]
        s: Any = f4(0)
        for k in range(len(block)):
            s += _widen(block[k])
        total += float(s)
    centre = f4(total / n)
    squares, rest = 0.0, 0.0
    for a in range(0, n, 1024):
        block = flat[a : a + 1024]
        q: Any = f4(0)
        s = f4(0)
        for k in range(len(block)):
            d = _widen(block[k]) - centre
            q += d * d
            s += d
        squares += float(q)
        rest += float(s)
    return centre + rest / n, squares - rest * rest / n


@numba.njit(nogil=True, error_model="numpy", cache=True, fastmath={"contract"})
def _apply(
    y: Any, into: Any, weight: Any, bias: Any, scale: Any, mean: float, rstd: float, first: int, end: int
) -> None:
    """Normalise, gate and add ``y[first:end]``."""
    half = into.shape[1]
    gain, shift = np.empty(2 * half, f4), np.empty(2 * half, f4)
    for c in range(2 * half):
        gain[c] = f4(weight[c] * rstd)
        shift[c] = f4(bias[c] - mean * rstd * weight[c])
    for t in range(first, end):
        for c in range(half):
            a = _widen(y[t, c]) * gain[c] + shift[c]
            g = _widen(y[t, half + c]) * gain[half + c] + shift[half + c]
            old = into[t, c]
            into[t, c] = _narrow(_widen(old) + scale[c] * (a * _sigmoid(g)), old)


@numba.njit(nogil=True, error_model="numpy", cache=True, fastmath={"contract"})
def _plain(y: Any, out: Any, first: int, end: int) -> None:
    half = out.shape[1]
    for t in range(first, end):
        for c in range(half):
            out[t, c] = _narrow(_widen(y[t, c]) * _sigmoid(_widen(y[t, half + c])), y[t, c])


@numba.njit(nogil=True, error_model="numpy", fastmath={"contract"}, inline="always")
def _gelu(x: Any) -> Any:
    """X (1 + erf(x / sqrt 2)) / 2; erf by Abramowitz and Stegun 7.1.26, error 1.5e-7."""
    z = abs(x) * f4(0.7071067811865476)
    t = f4(1) / (f4(1) + f4(0.3275911) * z)
    p = f4(1.061405429)
    p = p * t - f4(1.453152027)
    p = p * t + f4(1.421413741)
    p = p * t - f4(0.284496736)
    p = p * t + f4(0.254829592)
    tail = p * t * _exp(-z * z)  # 1 - erf(z)
    return x * (f4(1) - f4(0.5) * tail if x > f4(0) else f4(0.5) * tail)


@numba.njit(nogil=True, error_model="numpy", cache=True, fastmath={"contract"})
def _apply_gelu(y: Any, weight: Any, bias: Any, mean: float, rstd: float, first: int, end: int) -> None:
    """Normalise and activate ``y[first:end]`` in place; several time steps at once where channels are few."""
    n = y.shape[1]
    width = n * max(1, 512 // n)
    gain, shift = np.empty(width, f4), np.empty(width, f4)
    for c in range(width):
        gain[c] = f4(weight[c % n] * rstd)
        shift[c] = f4(bias[c % n] - mean * rstd * weight[c % n])
    flat = y[first:end].reshape(-1)
    for a in range(0, len(flat), width):
        block = flat[a : a + width]
        for c in range(len(block)):
            old = block[c]
            block[c] = _narrow(_gelu(_widen(old) * gain[c] + shift[c]), old)


@numba.njit(nogil=True, error_model="numpy", cache=True)
def _short_gelu(rows: Any, w: Any, b: Any, eps: float, first: int, end: int) -> None:
    for i in range(first, end):
        times = rows.shape[1]
        start: Any = np.int64(0)  # for the constant 0, numba would compile both once more
        mean, squares = _moments(rows[i], start, times)
        _apply_gelu(rows[i], w, b, mean, 1.0 / np.sqrt(squares / (times * rows.shape[2]) + eps), start, times)


@numba.njit(nogil=True, error_model="numpy", cache=True)
def _merge(parts: Any, sizes: Any) -> Any:
    """Join the moments of blocks (Chan, Golub, LeVeque 1979)."""
    n, mean, squares = 0.0, 0.0, 0.0
    for k in range(len(sizes)):
        m = sizes[k]
        delta = parts[k, 0] - mean
        n += m
        mean += delta * m / n
        squares += parts[k, 1] + delta * delta * m * (n - m) / n
    return mean, squares / n


def _array(x: Tensor) -> Any:
    return (x.view(torch.int16) if x.dtype == torch.bfloat16 else x).numpy()


def _row(x: Tensor | None) -> Any:
    return _EMPTY if x is None else x.float().numpy()


def gate(
    y: Tensor,
    into: Tensor | None = None,
    *,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    scale: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    """Arguments as those of the reference; ``into`` without a norm, and float64, go to the reference."""
    check(y, into, weight, bias, scale)
    channels = y.shape[-1] // 2
    times = y.shape[2]
    step = max(1, _BLOCK_BYTES // (2 * channels * y.element_size()))
    if weight is None and into is None and y.dtype != torch.float64:
        out = y.new_empty(*y.shape[:-1], channels)
        source, target = _array(y).reshape(-1, 2 * channels), _array(out).reshape(-1, channels)
        parallel_for(len(source), lambda a, b: _plain(source, target, a, b), chunk=step)
        return out
    if weight is None or into is None or y.dtype == torch.float64 or not into.is_contiguous():
        from elinvar.audio.kernels.gate import reference

        return reference.gate(y, into, weight=weight, bias=bias, scale=scale, eps=eps)
    rows = _array(y).reshape(-1, times, 2 * channels)
    targets = _array(into).reshape(-1, times, channels)
    w, b = _row(weight), _row(bias)
    s = np.ones(channels, f4) if scale is None else _row(scale)
    if times <= 2 * step:
        parallel_for(len(rows), lambda i, j: _short(rows, targets, w, b, s, eps, i, j), chunk=max(1, step // times))
    else:
        for row, target in zip(rows, targets, strict=True):
            _long(row, target, w, b, s, eps, step)
    return into


@numba.njit(nogil=True, error_model="numpy", cache=True)
def _short(rows: Any, targets: Any, w: Any, b: Any, s: Any, eps: float, first: int, end: int) -> None:
    """Sequences that fit into cache: statistics and result of one after the other."""
    for i in range(first, end):
        times = rows.shape[1]
        start: Any = np.int64(0)  # for the constant 0, numba would compile both once more
        mean, squares = _moments(rows[i], start, times)
        rstd = 1.0 / np.sqrt(squares / (times * rows.shape[2]) + eps)
        _apply(rows[i], targets[i], w, b, s, mean, rstd, start, times)


def _long(row: Any, target: Any, w: Any, b: Any, s: Any, eps: float, step: int) -> None:
    """One sequence longer than the cache: statistics of its blocks, then the result."""
    mean, rstd = _statistics(row, eps, step)
    parallel_for(len(row), lambda a, z: _apply(row, target, w, b, s, mean, rstd, a, z), chunk=step)


def _statistics(row: Any, eps: float, step: int) -> tuple[float, float]:
    times, channels = row.shape
    starts = range(0, times, step)
    parts = np.empty((len(starts), 2))
    sizes = np.array([(min(times, a + step) - a) * channels for a in starts], np.float64)

    def measure(i: int, j: int) -> None:
        for k in range(i, j):
            parts[k] = _moments(row, k * step, min(times, (k + 1) * step))

    parallel_for(len(starts), measure, chunk=1)
    mean, variance = _merge(parts, sizes)
    return mean, 1.0 / np.sqrt(variance + eps)


def _long_gelu(row: Any, w: Any, b: Any, eps: float, step: int) -> None:
    mean, rstd = _statistics(row, eps, step)
    parallel_for(len(row), lambda a, z: _apply_gelu(row, w, b, mean, rstd, a, z), chunk=step)


def norm_gelu(y: Tensor, weight: Tensor, bias: Tensor, eps: float = 1e-5) -> Tensor:
    """Arguments as those of the reference; works in place."""
    check(y, None, weight, bias, name="audio.norm_gelu")
    channels, times = y.shape[-1], y.shape[2]
    step = max(1, _BLOCK_BYTES // (channels * y.element_size()))
    rows = _array(y).reshape(-1, times, channels)
    w, b = _row(weight), _row(bias)
    if times <= 2 * step:
        parallel_for(len(rows), lambda i, j: _short_gelu(rows, w, b, eps, i, j), chunk=max(1, step // times))
        return y
    for row in rows:
        _long_gelu(row, w, b, eps, step)
    return y
