"""The Kirchhoff phase filter.

Summing along diffraction surfaces integrates: over a surface (3-D) it multiplies the spectrum by ``1/(-j w)``, over a
line (2-D) by ``1/sqrt(-j w)``, with the Fourier kernel ``exp(+j w t)``. Unfiltered, every reflector would come out
early and with the wrong shape. The filter is therefore ``-d/dt`` in 3-D and its square root, the half derivative
``sqrt(-j w)``, in 2-D (with the opposite sign of the Fourier kernel the same filter reads ``sqrt(j w)``).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch

from elinvar.errors import InputError
from elinvar.seismic.kernels.migrate.antialias import response
from elinvar.seismic.kernels.migrate.interpolation import INTERPOLATIONS, loss

from ._check import choice, number

__all__ = ["bank", "fast_length", "line_factor", "line_gain", "phase_filter", "resample"]

_ROLL_OFF = 24  # samples over which a record that ends on a non-zero value is continued to zero


def fast_length(n: int) -> int:
    """Return the smallest even length >= n with no prime factor above 5: quick on every FFT library."""
    best = 1 << max(1, (n - 1).bit_length())
    five = 1
    while five < best:
        three = five
        while three < best:
            two = three * 2
            while two < n:
                two *= 2
            best = min(best, two)
            three *= 3
        five *= 5
    return best


def phase_filter(
    traces: torch.Tensor, dt: float, *, dimensions: int = 3, interpolation: str | None = None, oversample: int = 1
) -> torch.Tensor:
    """Filter traces for Kirchhoff summation, on whichever device they are.

    Parameters
    ----------
    traces
        Float tensor of shape (ntr, ns).
    dt
        Sample interval in seconds.
    dimensions
        3 for ``-d/dt`` (units 1/s), 2 for the half derivative (units s**-0.5).
    interpolation
        ``"linear"``, ``"cubic"`` or ``"sinc8"`` when the traces will be interpolated so at arbitrary times, as a
        migration does: the filter then also divides by that interpolation's mean response, for linear ``sinc^2(f dt)``
        (its triangle's spectrum). At 2 ms that is 1.3 % at 30 Hz and 5 % at 60 Hz, which true amplitudes would
        otherwise lose. None leaves it out.
    oversample
        Samples of the result per sample interval of the traces, exact for what lies below their Nyquist frequency.

    Returns
    -------
    Tensor
        Same dtype, a new tensor of shape (ntr, oversample * (ns - 1) + 1).

    Notes
    -----
    The transform is zero-padded, so nothing wraps round. A record that is cut off while not zero is continued by a
    short half cosine outside its ends first: the derivative of a cliff would ring through the whole trace. The Nyquist
    bin is dropped: an odd filter has no real value there.
    """
    step = number("phase_filter", "dt", dt, low=0.0, open_low=True)
    if traces.ndim != 2 or not traces.is_floating_point() or 0 in traces.shape:
        raise InputError(
            f"phase_filter: traces are {traces.dtype} of shape {tuple(traces.shape)}; give floats (traces, samples)."
        )
    if dimensions not in {2, 3}:
        raise InputError(f"phase_filter: dimensions is {dimensions!r}; 2 or 3 is accepted.")
    if interpolation is not None:
        choice("phase_filter", "interpolation", interpolation, INTERPOLATIONS)

    def factor(omega: torch.Tensor) -> torch.Tensor:
        if dimensions == 3:
            filtering = torch.complex(torch.zeros_like(omega), -omega)
        else:
            root = torch.sqrt(0.5 * omega)
            filtering = torch.complex(root, -root)
        if interpolation is not None:
            filtering = filtering / loss(interpolation, omega * (step / (2.0 * math.pi * oversample)))
        return filtering

    return _filtered(traces, step, factor, oversample)


def resample(traces: torch.Tensor, factor: int) -> torch.Tensor:
    """Return traces (ntr, ns) with ``factor`` samples per sample: (ntr, factor * (ns - 1) + 1), band-limited."""
    return _filtered(traces, 1.0, torch.ones_like, factor)


def line_gain(traces: torch.Tensor, start: float, dt: float) -> torch.Tensor:
    """Return traces times the square root of their time in seconds; see :func:`line_factor`."""
    t = start + dt * torch.arange(traces.shape[1], dtype=torch.float64)
    return traces * t.clamp(min=0.0).sqrt().to(traces.device, traces.dtype)


def line_factor(v: torch.Tensor) -> torch.Tensor:
    """Return what turns the weight of an area into that of a line, but for the root of the travel time.

    Stationary phase over the midpoints of a line leaves one factor ``sqrt(T_xx / (2 pi))`` of the two that make up
    ``W = 2 t0 / (pi V^2 T^2)``, with ``T_xx = 4 t0^2 / (V^2 T^3)`` and ``T_yy = 4 / (V^2 T)`` over a flat reflector:

    ``W_line = t0 / V sqrt(2 / (pi T^3)) = W * V sqrt(pi T / 2)``.

    ``sqrt(T)`` belongs to the trace (:func:`line_gain`), ``V sqrt(pi / 2)``, returned here, to the image: no kernel has
    to know that it migrates a line. With ends off the datum `V` is still that below it, not that of the whole leg
    (:mod:`elinvar.seismic.kernels.migrate.relief`): amplitudes are then off by the ratio of the two.
    """
    return v * math.sqrt(0.5 * math.pi)


def bank(traces: torch.Tensor, copies: int, kind: str) -> torch.Tensor:
    """Return copies of traces (ntr, ns) that operators of growing slope do not alias, side by side: (ntr, copies * ns).

    ``kind`` is ``"bank"`` or ``"triangle"``; the filters are those of
    :func:`elinvar.seismic.kernels.migrate.antialias.response`, without phase. The first copy is the traces.
    """
    padded, n = _padded(traces)
    spectrum = torch.fft.rfft(padded, dim=1)
    cycles = torch.arange(n // 2 + 1, dtype=traces.dtype, device=traces.device) / n
    ns = traces.shape[1]
    out = traces.new_empty((len(traces), copies, ns))
    out[:, 0] = traces
    for copy in range(1, copies):
        filtered = torch.fft.irfft(spectrum * response(kind, copy, cycles), n=n, dim=1)
        out[:, copy] = filtered[:, _ROLL_OFF : _ROLL_OFF + ns]
    return out.flatten(1)


def _padded(traces: torch.Tensor) -> tuple[torch.Tensor, int]:
    """Return traces between continuations to zero, ``_ROLL_OFF`` samples each, and the length of the rows."""
    ns = traces.shape[1]
    n = fast_length(ns + 4 * _ROLL_OFF)
    padded = traces.new_zeros((traces.shape[0], n))
    padded[:, _ROLL_OFF : _ROLL_OFF + ns] = traces
    place = torch.arange(1, _ROLL_OFF + 1, dtype=traces.dtype, device=traces.device)
    ramp = 0.5 + 0.5 * torch.cos(place * (math.pi / (_ROLL_OFF + 1)))
    padded[:, _ROLL_OFF + ns : 2 * _ROLL_OFF + ns] = traces[:, -1:] * ramp
    padded[:, :_ROLL_OFF] = traces[:, :1] * ramp.flip(0)
    return padded, n


def _filtered(
    traces: torch.Tensor, step: float, response: Callable[[torch.Tensor], torch.Tensor], oversample: int
) -> torch.Tensor:
    """Multiply the spectrum at angular frequencies of sample interval ``step`` by a response."""
    if oversample not in {1, 2, 4}:
        raise InputError(f"phase_filter: oversample is {oversample!r}; 1, 2 or 4 is accepted.")
    padded, n = _padded(traces)
    ns = traces.shape[1]
    spectrum = torch.fft.rfft(padded, dim=1)
    omega = torch.arange(n // 2 + 1, dtype=traces.dtype, device=traces.device) * (2.0 * math.pi / (n * step))
    spectrum *= response(omega)
    spectrum[:, -1] = 0.0
    filtered: torch.Tensor = torch.fft.irfft(spectrum, n=oversample * n, dim=1)
    if oversample > 1:
        filtered *= oversample
    first = oversample * _ROLL_OFF
    return filtered[:, first : first + oversample * (ns - 1) + 1].contiguous()
