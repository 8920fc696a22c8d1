r"""Reading a trace between its samples: two, four or eight neighbours, weighted by where the time falls among them.

With :math:`f` from 0 to 1 the part of the way to the next sample and :math:`d` the distance of a neighbour in samples,

linear
    weights :math:`1 - |d|` of two neighbours.
cubic
    Keys' (1981) convolution with a = -1/2, which goes through the samples and is exact for parabolas: four neighbours.
sinc8
    :math:`\mathrm{sinc}(d)\cos^2(\pi d/8)`, a sinc under a Hann window, divided by its sum: eight neighbours.

Before the first sample of a trace and behind its last there are zeros; which times lie on the trace does not depend on
the interpolation. Nothing is looked up or evaluated by sines while migrating: the weights of either end of the row of
neighbours mirror each other, and their even and odd parts about the middle are polynomials in :math:`(f - 1/2)^2`,
made once (`pairs`).
"""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

__all__ = ["INTERPOLATIONS", "TAPS", "loss", "padded", "pairs", "weights"]

Floats = NDArray[np.float64]
TAPS = {"linear": 2, "cubic": 4, "sinc8": 8}
"""How many neighbours each interpolation reads."""

INTERPOLATIONS = tuple(TAPS)
_DEGREE = {4: 3, 8: 7}  # of the weights in f: exact for Keys' cubic, off by 2e-6 for the sinc


def weights(kind: str, f: ArrayLike) -> Floats:
    """Return the weights, shape (..., taps), of the neighbours of times `f` in [0, 1] behind their left sample."""
    part = np.asarray(f, np.float64)[..., None]
    taps = TAPS[kind]
    d = part - np.arange(1 - taps // 2, 1 + taps // 2)
    away = np.abs(d)
    if kind == "linear":
        return np.asarray(1 - away)
    if kind == "cubic":
        near, far = (1.5 * away - 2.5) * away**2 + 1, ((2.5 - 0.5 * away) * away - 4) * away + 2
        return np.asarray(np.where(away < 1, near, far))
    values = np.sinc(d) * np.cos(np.pi * d / 8) ** 2
    return np.asarray(values / values.sum(-1, keepdims=True))


@cache
def pairs(taps: int) -> tuple[tuple[tuple[float, ...], tuple[float, ...]], ...]:
    """Return polynomials of the weights of ``taps`` neighbours, 4 or 8, outermost pair first.

    Of a pair, the left neighbour has the weight ``E(q) + g O(q)`` and the right one ``E(q) - g O(q)``, with
    ``g = f - 1/2`` and ``q = g^2``: both polynomials are given lowest power first.
    """
    degree = _DEGREE[taps]
    kind = next(name for name, count in TAPS.items() if count == taps)
    nodes = 0.5 * np.cos(np.pi * (np.arange(degree + 1) + 0.5) / (degree + 1))
    fit = np.polynomial.polynomial.polyfit(nodes, weights(kind, nodes + 0.5), degree)
    return tuple((tuple(fit[::2, i].tolist()), tuple(fit[1::2, i].tolist())) for i in range(taps // 2))


def padded(traces: torch.Tensor, taps: int) -> torch.Tensor:
    """Return traces between the zeros that interpolation reads beyond their ends, left neighbours first; contiguous."""
    return torch.nn.functional.pad(traces, (taps // 2 - 1, taps // 2)) if taps > 2 else traces


@cache
def _spectrum(kind: str) -> tuple[float, ...]:
    """Polynomial, lowest power first, in the squared frequency (cycles per sample) of the interpolation's spectrum."""
    at, w = np.polynomial.legendre.leggauss(24)
    f, w = 0.5 * (at + 1), 0.5 * w
    d = f[:, None] - np.arange(1 - TAPS[kind] // 2, 1 + TAPS[kind] // 2)
    values = weights(kind, f) * w[:, None]

    def response(square: Floats) -> Floats:
        return np.asarray((values * np.cos(2 * np.pi * np.sqrt(square)[:, None, None] * d)).sum((1, 2)))

    fit = np.polynomial.Chebyshev.interpolate(response, 12, domain=[0.0, 0.25])
    return tuple(fit.convert(kind=np.polynomial.Polynomial, domain=[-1, 1], window=[-1, 1]).coef.tolist())


def loss(kind: str, cycles: torch.Tensor) -> torch.Tensor:
    """Return the mean response of an interpolation, over all places between samples, at cycles per sample up to 1/2.

    It is the Fourier transform of the weights as a function of distance: ``sinc^2`` for linear.
    """
    square = cycles.square()
    total = torch.zeros_like(square)
    for c in reversed(_spectrum(kind)):
        total = total * square + c
    return total
