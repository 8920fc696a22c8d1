"""Discrete Fourier transforms of the last axis: any length, single rows or batches, the fastest way by measurement.

Forward transforms have no factor, inverse ones 1 / n. float32 and complex64 in, complex64 and float32 out; float64
stays float64. On CPUs lengths of 2^k are done by this package's own kernels where these measure fastest, others by
scipy, numpy or torch; tensors on a GPU and those that require gradients by torch.
"""

from __future__ import annotations

import importlib.util
import math
import time
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from elinvar.errors import InputError
from elinvar.runtime.parallel import parallel_for

from . import _spectrum
from ._check import count, write_out
from ._convolve_torch import wants_torch

__all__ = ["FFT", "backend", "fft", "ifft", "irfft", "next_fast_length", "rfft"]

_NO_WINDOW = np.zeros(0, np.float32)
_PIECE = 1 << 17  # samples a thread takes at a time, in whole rows
Transform = Callable[[Any, int], Any]


def next_fast_length(n: int, device: str = "cpu") -> int:
    """Return the smallest length from n on that transforms fast: a power of two if within 12.5 %, else 2^a 3^b 5^c 7^d.

    Parameters
    ----------
    n
        Samples wanted.
    device
        "cpu", "cuda" or "mps": GPUs have no radix above 7 and favour powers of two by twice the margin.
    """
    wanted = count("next_fast_length", "n", n)
    power = 1 << (wanted - 1).bit_length()
    if power <= wanted * (1.125 if str(device).startswith("cpu") else 1.25):
        return power
    best = power
    for p7 in _powers(7, power):
        for p5 in _powers(5, power // p7):
            for p3 in _powers(3, power // (p7 * p5)):
                odd = p7 * p5 * p3
                best = min(best, odd << max(0, (-(-wanted // odd) - 1).bit_length()))
    return best


def _powers(base: int, limit: int) -> list[int]:
    return [base**k for k in range(1 + int(math.log(max(limit, 1), base) + 1e-9))]


# ---------------------------------------------------------------------------------------------------------------------
# Own kernels
# ---------------------------------------------------------------------------------------------------------------------
def _rows_at_a_time(n: int) -> int:
    return max(16, _PIECE // n)


def _own_rfft(x: NDArray[np.float32], n: int) -> NDArray[np.complex64]:
    y = np.empty((len(x), n // 2 + 1), np.complex64)
    flat, out = x.reshape(-1), y.view(np.float32)

    def rows(begin: int, end: int) -> None:
        _spectrum.forward_frames(_spectrum.plan(n // 2), flat, begin * n, n, _NO_WINDOW, out[begin:end])

    parallel_for(len(x), rows, chunk=_rows_at_a_time(n))
    return y


def _own_irfft(x: NDArray[np.complex64], n: int) -> NDArray[np.float32]:
    y = np.zeros((len(x), n), np.float32)
    source, flat, factor = x.view(np.float32), y.reshape(-1), np.full(n, 1.0 / n, np.float32)

    def rows(begin: int, end: int) -> None:
        _spectrum.inverse_frames(_spectrum.plan(n // 2), source[begin:end], factor, flat, begin * n, n)

    parallel_for(len(x), rows, chunk=_rows_at_a_time(n))
    return y


def _own_complex(x: NDArray[np.complex64], n: int, inverse: bool) -> NDArray[np.complex64]:
    y = np.empty_like(x)
    source, sink = x.view(np.float32), y.view(np.float32)

    def rows(begin: int, end: int) -> None:
        _spectrum.complex_rows(_spectrum.plan(n), source[begin:end], sink[begin:end], n, inverse)

    parallel_for(len(x), rows, chunk=_rows_at_a_time(n))
    if inverse:
        y *= np.float32(1.0 / n)
    return y


def _own(kind: str) -> Transform:
    if kind == "rfft":
        return _own_rfft
    if kind == "irfft":
        return _own_irfft
    return lambda x, n: _own_complex(x, n, inverse=kind == "ifft")


def _owned(kind: str, n: int) -> bool:
    smallest = _spectrum.SMALLEST_REAL if kind in ("rfft", "irfft") else _spectrum.SMALLEST_REAL // 2
    largest = _spectrum.LARGEST if kind in ("rfft", "irfft") else _spectrum.LARGEST // 2
    return n & (n - 1) == 0 and smallest <= n <= largest


# ---------------------------------------------------------------------------------------------------------------------
# The choice
# ---------------------------------------------------------------------------------------------------------------------
def _candidates(kind: str, n: int) -> dict[str, Transform]:
    found: dict[str, Transform] = {}
    if _owned(kind, n):
        found["elinvar"] = _own(kind)
    if importlib.util.find_spec("scipy") is not None:
        import scipy.fft

        found["scipy"] = getattr(scipy.fft, kind)
    import torch

    found["torch"] = lambda x, n: getattr(torch.fft, kind)(torch.from_numpy(x), n).numpy()
    found["numpy"] = getattr(np.fft, kind)
    return found


@cache
def backend(kind: str, n: int, batch: bool = True) -> str:
    """Return which library transforms rows of this length fastest here: the first call times them, about 1 ms.

    Parameters
    ----------
    kind
        "rfft", "irfft", "fft" or "ifft".
    n
        Length of a row.
    batch
        Whether there are many rows (64) or one.
    """
    if kind not in ("rfft", "irfft", "fft", "ifft"):
        raise InputError(f"backend: kind is {kind!r}; choose one of rfft, irfft, fft, ifft.")
    rows = min(64, max(1, 2**18 // n)) if batch else 1
    x: Any = np.random.default_rng(0).standard_normal((rows, n if kind == "rfft" else n // 2 + 1)).astype(np.float32)
    if kind != "rfft":
        x = (x if kind == "irfft" else np.resize(x, (rows, n))).astype(np.complex64)
    best: dict[str, float] = {}
    for name, transform in _candidates(kind, n).items():
        transform(x, n)
        for _ in range(3):
            begin = time.perf_counter()
            transform(x, n)
            best[name] = min(best.get(name, math.inf), time.perf_counter() - begin)
    return min(best, key=lambda name: best[name])


def _run(operation: str, x: Any, n: int | None, out: Any) -> Any:
    if wants_torch(x):
        import torch

        return write_out(operation, getattr(torch.fft, operation)(x, n), out)
    tensor = not isinstance(x, np.ndarray) and hasattr(x, "numpy")
    array = x.numpy() if tensor else np.asarray(x)
    if array.ndim == 0:
        raise InputError(f"{operation}: got one number; give an array whose last axis is transformed.")
    real = operation == "rfft"
    if real and array.dtype.kind not in "fiu":
        raise InputError(f"{operation}: dtype {array.dtype}; give real samples, or use fft.")
    wide = array.dtype in (np.float64, np.complex128, np.dtype(np.int64))
    kind: Any = (np.float64 if wide else np.float32) if real else (np.complex128 if wide else np.complex64)
    array = array.astype(kind, copy=False)
    bins = array.shape[-1]
    length = n if n is not None else (2 * (bins - 1) if operation == "irfft" else bins)
    if length < 1:
        raise InputError(f"{operation}: the last axis of shape {array.shape} has nothing to transform; pad it first.")
    rows = _fitted(array.reshape(-1, bins), length // 2 + 1 if operation == "irfft" else length)
    if wide or len(rows) == 0:
        result = getattr(np.fft, operation)(rows, length)
    else:
        result = _candidates(operation, length)[backend(operation, length, len(rows) >= 8)](rows, length)
    result = result.reshape(*array.shape[:-1], result.shape[-1])
    if tensor:
        import torch

        result = torch.from_numpy(np.ascontiguousarray(result))
    return write_out(operation, result, out)


def _fitted(rows: NDArray[Any], n: int) -> NDArray[Any]:
    """Cut or zero-pad rows to n."""
    if rows.shape[1] != n:
        fitted = np.zeros((len(rows), n), rows.dtype)
        keep = min(n, rows.shape[1])
        fitted[:, :keep] = rows[:, :keep]
        return fitted
    return np.ascontiguousarray(rows)


def rfft(x: Any, n: int | None = None, *, out: Any = None) -> Any:
    """Transform real samples [..., n] to bins [..., n // 2 + 1].

    Parameters
    ----------
    x
        numpy array or torch tensor.
    n
        Length to cut or zero-pad to.
    out
        Where to write.
    """
    return _run("rfft", x, n, out)


def irfft(x: Any, n: int | None = None, *, out: Any = None) -> Any:
    """Invert `rfft`: bins [..., n // 2 + 1] to samples [..., n]; by default n is even."""
    return _run("irfft", x, n, out)


def fft(x: Any, n: int | None = None, *, out: Any = None) -> Any:
    """Transform complex or real samples [..., n] to bins [..., n]."""
    return _run("fft", x, n, out)


def ifft(x: Any, n: int | None = None, *, out: Any = None) -> Any:
    """Invert `fft`, with the factor 1 / n."""
    return _run("ifft", x, n, out)


class FFT:
    """A real transform with tables and working memory prepared: for the audio thread and for many single rows.

    ::

        plan = audio.FFT(1024)
        plan.forward(block, spectrum)      # float32 [1024] into complex64 [513]: no allocation
        plan.inverse(spectrum, block)

    Parameters
    ----------
    n
        Samples: a power of two from 128 to 131072.

    Notes
    -----
    One thread at a time: the working memory belongs to the plan.
    """

    def __init__(self, n: int) -> None:
        self.n = count("FFT", "n", n)
        if not _owned("rfft", self.n):
            raise InputError(
                f"FFT: n is {n}; a prepared transform takes powers of two from 128 to {_spectrum.LARGEST}; "
                "audio.rfft takes any length."
            )
        self._plan = _spectrum.plan(self.n // 2)
        self._factor = np.full(self.n, 1.0 / self.n, np.float32)
        self.inverse(self.forward(np.zeros(self.n, np.float32)))

    def forward(self, x: NDArray[np.float32], out: NDArray[np.complex64] | None = None) -> NDArray[np.complex64]:
        """Return the n // 2 + 1 bins of float32 samples [n], contiguous."""
        y = np.empty(self.n // 2 + 1, np.complex64) if out is None else out
        self._check("forward", x, y)
        _spectrum.forward_frames(self._plan, x, 0, self.n, _NO_WINDOW, y.view(np.float32)[None])
        return y

    def inverse(self, X: NDArray[np.complex64], out: NDArray[np.float32] | None = None) -> NDArray[np.float32]:
        """Return the float32 samples [n] of n // 2 + 1 bins."""
        y = np.empty(self.n, np.float32) if out is None else out
        self._check("inverse", y, X)
        y[:] = 0.0
        _spectrum.inverse_frames(self._plan, X.view(np.float32)[None], self._factor, y, 0, self.n)
        return y

    def _check(self, name: str, x: Any, spectrum: Any) -> None:
        if (
            x.dtype != np.float32 or spectrum.dtype != np.complex64 or x.shape != (self.n,)
            or spectrum.shape != (self.n // 2 + 1,) or not (x.flags.carray and spectrum.flags.carray)
        ):  # fmt: skip
            raise InputError(
                f"FFT.{name}: got {x.dtype} {x.shape} and {spectrum.dtype} {spectrum.shape}; give contiguous, writable "
                f"float32 [{self.n}] and complex64 [{self.n // 2 + 1}]."
            )
