"""``audio.exponentials`` with numba: passes over a row that is in cache, the second of which writes it."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
import torch
from torch import Tensor

from elinvar.audio.kernels.exponentials import check
from elinvar.audio.kernels.gate.cpu import _narrow, _widen
from elinvar.runtime.parallel import parallel_for

__all__ = ["exponentials"]

f4, i4, u4 = np.float32, np.int32, np.uint32
_ROUND = f4(12582912.0)  # 1.5 * 2**23: adding it leaves the nearest integer in the last bits


# Compiled by itself: what may be reordered around it must not reorder the rounding in it.
@numba.njit(nogil=True, error_model="numpy", fastmath={"contract"})
def _exp2(x: Any) -> Any:
    """2 ** x for x from -126 to 0, error 3e-7: a polynomial of the fraction, the integer added to its exponent."""
    shifted = x + _ROUND
    r = x - (shifted - _ROUND)
    p = f4(1.34004322e-3)
    p = p * r + f4(9.6760371e-3)
    p = p * r + f4(5.55032721e-2)
    p = p * r + f4(0.240221074)
    p = p * r + f4(0.693147207)
    p = p * r + f4(1.00000008)
    return i4(f4(p).view(np.int32) + (i4(f4(shifted).view(np.int32)) << i4(23))).view(np.float32)


@numba.njit(nogil=True, error_model="numpy", cache=True)
def _largest(words: Any) -> Any:
    """Return the bits of a row's largest number.

    As integers, with those of negative numbers turned round, numbers keep their order (NaN above all): unlike
    comparisons of floats, which must mind NaN, those vectorise.
    """
    best = i4(words[0]) ^ ((i4(words[0]) >> i4(31)) & i4(0x7FFFFFFF))
    for j in range(len(words)):
        word = i4(words[j])
        best = max(best, i4(word ^ ((word >> i4(31)) & i4(0x7FFFFFFF))))
    return i4(best ^ ((best >> i4(31)) & i4(0x7FFFFFFF)))


@numba.njit(nogil=True, error_model="numpy", cache=True, fastmath={"contract", "reassoc"})
def _rows(scores: Any, words: Any, reciprocals: Any, scale: float, first: int, end: int) -> None:
    columns = scores.shape[1]
    factor = f4(scale * 1.4426950408889634)
    for i in range(first, end):
        row = scores[i]
        best = _largest(words[i])
        top = i4(best << i4(16)).view(np.float32) if words.itemsize == 2 else i4(best).view(np.float32)
        total: Any = f4(0)
        for j in range(columns):
            old = row[j]
            far = (_widen(old) - top) * factor
            p = _narrow(_exp2(max(f4(-126.0), far)), old)
            row[j] = p
            total += _widen(p)
        reciprocals[i] = f4(1) / total if top == top else f4(np.nan)


def exponentials(scores: Tensor, scale: float = 1.0) -> tuple[Tensor, Tensor]:
    """Arguments and results as those of the reference."""
    check(scores)
    reciprocals = scores.new_empty(len(scores), dtype=torch.float32)
    half = scores.dtype == torch.bfloat16
    words = scores.view(torch.int16 if half else torch.int32).numpy()
    rows = words if half else scores.numpy()
    sums = reciprocals.numpy()
    parallel_for(len(rows), lambda a, b: _rows(rows, words, sums, scale, a, b), chunk=64)
    return scores, reciprocals
