"""Recurrent steps with numba: no allocation, no GIL, one thread; callable from other compiled code of this file."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import numba
import numpy as np
from torch import Tensor

__all__ = ["gru_layer", "gru_step", "lstm_layer", "lstm_step", "products"]

f4, i4 = np.float32, np.int32
_jit = cast(
    "Callable[[Callable[..., Any]], Callable[..., Any]]",
    numba.njit(nogil=True, error_model="numpy", cache=True, fastmath={"contract"}),
)
_jit_sums = cast(
    "Callable[[Callable[..., Any]], Callable[..., Any]]",
    # reassoc lets a dot product run in as many lanes as the processor has; their number is fixed per machine.
    numba.njit(nogil=True, error_model="numpy", cache=True, fastmath={"contract", "reassoc"}),
)


@numba.njit(nogil=True, error_model="numpy", fastmath={"contract"}, inline="always")
def _exp(x: Any) -> Any:
    """Exp by range reduction and a polynomial (Cephes expf, Moshier 1992), 2 ulp; NaN would be -87 here."""
    x = min(max(x, f4(-87.0)), f4(87.0))
    n = np.floor(x * f4(1.4426950408889634) + f4(0.5))
    r = x - n * f4(0.693359375) + n * f4(2.12194440e-4)
    p = f4(1.9875691500e-4)
    p = p * r + f4(1.3981999507e-3)
    p = p * r + f4(8.3334519073e-3)
    p = p * r + f4(4.1665795894e-2)
    p = p * r + f4(1.6666665459e-1)
    p = p * r + f4(5.0000001201e-1)
    return (p * (r * r) + r + f4(1)) * i4((i4(n) + i4(127)) << i4(23)).view(np.float32)


@numba.njit(nogil=True, error_model="numpy", fastmath={"contract"}, inline="always")
def _sigmoid(x: Any) -> Any:
    return f4(1) / (f4(1) + _exp(-x)) + (x - x)  # the second term lets NaN through


@numba.njit(nogil=True, error_model="numpy", fastmath={"contract"}, inline="always")
def _tanh(x: Any) -> Any:
    return f4(1) - f4(2) / (f4(1) + _exp(x + x)) + (x - x)


@_jit_sums
def _product(w: Any, x: Any, b: Any, out: Any, add: Any) -> None:
    """``out (+)= w @ x + b``: row by row, which reads the weights as one stream, at the cache's bandwidth."""
    rows, n = w.shape
    for i in range(rows):
        s = f4(0)
        for j in range(n):
            s += w[i, j] * x[j]
        out[i] = out[i] + s + b[i] if add else s + b[i]


@_jit
def lstm_layer(x: Any, h: Any, c: Any, w: Any, u: Any, b: Any, d: Any, gates: Any) -> None:
    """One step of every row of a batch; ``gates [4 * hidden]`` is room to work in."""
    n = h.shape[1]
    for k in range(h.shape[0]):
        _product(w, x[k], b, gates, False)
        _product(u, h[k], d, gates, True)
        for j in range(n):
            keep = _sigmoid(gates[n + j]) * c[k, j]
            c[k, j] = keep + _sigmoid(gates[j]) * _tanh(gates[2 * n + j])
            h[k, j] = _sigmoid(gates[3 * n + j]) * _tanh(c[k, j])


@_jit
def gru_layer(x: Any, h: Any, w: Any, u: Any, b: Any, d: Any, gates: Any) -> None:
    """One step of every row of a batch; ``gates [6 * hidden]`` is room to work in."""
    n = h.shape[1]
    own, other = gates[: 3 * n], gates[3 * n : 6 * n]
    for k in range(h.shape[0]):
        _product(w, x[k], b, own, False)
        _product(u, h[k], d, other, False)
        for j in range(n):
            z = _sigmoid(own[n + j] + other[n + j])
            new = _tanh(own[2 * n + j] + _sigmoid(own[j] + other[j]) * other[2 * n + j])
            h[k, j] = new + z * (h[k, j] - new)


def lstm_step(x: Tensor, h: Tensor, c: Tensor, w: Tensor, u: Tensor, b: Tensor, d: Tensor) -> None:
    """Arguments as those of the reference, all contiguous float32."""
    arrays = [t.numpy() for t in (x, h, c, w, u, b, d)]
    lstm_layer(*arrays, np.empty(len(arrays[5]), f4))


def gru_step(x: Tensor, h: Tensor, w: Tensor, u: Tensor, b: Tensor, d: Tensor) -> None:
    """Arguments as those of the reference, all contiguous float32."""
    arrays = [t.numpy() for t in (x, h, w, u, b, d)]
    gru_layer(*arrays, np.empty(2 * len(arrays[4]), f4))


@_jit
def products(w: Any, x: Any, b: Any, out: Any) -> None:
    """``out[k] = w @ x[k] + b`` for a few rows; an empty ``b`` is none."""
    if b.shape[0] == 0:
        b = np.zeros(w.shape[0], f4)
    for k in range(x.shape[0]):
        _product(w, x[k], b, out[k], False)
