"""Recursive filters: the eight of the Audio EQ Cookbook, cascades, equalisers, and scipy's designs.

Coefficients and state are float64: with float32 a 20 Hz filter of Q 10 is wrong by 4e-3. Every filter works on whole
signals (``filter(x)``) and on streams (``prepare``, ``process``), and in a `Chain`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from elinvar.errors import InputError
from elinvar.runtime.parallel import parallel_for
from elinvar.runtime.trace import trace

from . import _recursive as kernel
from ._check import Signal, choice, count, number, optional_library, rate, rows_of, signal, write_out
from ._processor import Processor

__all__ = ["Biquad", "Cascade", "FilterBank", "butterworth", "chebyshev1", "chebyshev2", "elliptic"]


class Cascade(Processor):
    """Second-order sections in series.

    Parameters
    ----------
    sections
        Biquads, or rows of coefficients (b0, b1, b2, a0, a1, a2) as scipy's ``sos``.

    Raises
    ------
    InputError
        When a section is unstable (a pole on or outside the unit circle) or its coefficients are not finite.
    """

    _kernel = staticmethod(kernel.process)
    _entry = kernel.process_entry

    def __init__(self, sections: Iterable[Cascade | Sequence[float]] | NDArray[np.float64]) -> None:
        rows: list[NDArray[np.float64]] = []
        for section in sections:
            if isinstance(section, Cascade):
                rows.extend(section.coefficients)
            else:
                rows.append(_normal(type(self).__name__, section))
        if not rows:
            raise InputError(f"{type(self).__name__}: no sections; give at least one.")
        self._coefficients = np.array(rows)

    @property
    def coefficients(self) -> NDArray[np.float64]:
        """Rows (b0, b1, b2, a1, a2), float64, a0 = 1."""
        return self._coefficients.copy()

    @property
    def sos(self) -> NDArray[np.float64]:
        """Rows (b0, b1, b2, 1, a1, a2), for scipy.signal.sosfilt."""
        return np.insert(self._coefficients, 3, 1.0, axis=1)

    @property
    def tail_length(self) -> int:
        """Samples until the impulse response is below -120 dB, from the poles; at most 10 million."""
        longest = 0.0
        for _, _, _, a1, a2 in self._coefficients:
            radius = float(np.abs(np.roots([1.0, a1, a2])).max()) if a1 or a2 else 0.0
            longest += math.log(1e-6) / math.log(radius) if radius > 0.0 else 2.0
        return min(10_000_000, math.ceil(longest))

    def response(self, frequencies: ArrayLike, sample_rate: float) -> NDArray[np.complex128]:
        """Return the complex gain at frequencies in Hz."""
        w = np.exp(-2j * np.pi * np.asarray(frequencies, np.float64) / rate("response", sample_rate))
        total: NDArray[np.complex128] = np.ones_like(w)
        for b0, b1, b2, a1, a2 in self._coefficients:
            total = total * (b0 + w * (b1 + w * b2)) / (1.0 + w * (a1 + w * a2))
        return total

    @trace("audio.filter")
    def __call__(self, x: Signal, *, out: Any = None) -> Any:
        """Filter a whole signal [..., time] from rest; NaN and infinite samples are taken for silence.

        Runs on the CPU: a recursion in time has nothing to spread over a GPU, so a tensor there travels both ways.
        """
        samples, back = signal(type(self).__name__, x)
        rows = np.array(rows_of(samples))
        y = np.empty_like(rows)

        def two(begin: int, end: int) -> None:
            m, d = _memory(self._coefficients, end - begin)
            kernel.process(m, d, rows[begin:end], y[begin:end])

        parallel_for(len(rows), two, chunk=2)
        return write_out(type(self).__name__, back(y.reshape(samples.shape)), out)

    def prepare(self, sample_rate: float, max_block: int, channels: int = 1) -> Any:
        """Allocate state for so many channels; the coefficients know their rate already."""
        n = count(f"{type(self).__name__}.prepare", "channels", channels)
        m, d = _memory(self._coefficients, n)
        root = np.array([m.ctypes.data, m.size, d.ctypes.data, d.size], np.int64)
        self._ready((m, d), root, n, n)
        return self

    def reset(self) -> None:
        """Forget everything heard."""
        m, d = self._checked()
        d[kernel.TABLE + 10 * int(m[kernel.SECTIONS]) :] = 0.0

    @property
    def nonfinite(self) -> int:
        """NaN and infinite input samples taken for silence since `prepare`."""
        return int(self._checked()[0][kernel.BAD])

    def update(self, other: Cascade) -> None:
        """Take over another cascade's coefficients while running: between two blocks, never half of them.

        Raises
        ------
        InputError
            When it has another number of sections.
        """
        if other._coefficients.shape != self._coefficients.shape:
            raise InputError(
                f"{type(self).__name__}.update: {len(other._coefficients)} sections for {len(self._coefficients)}; "
                "give as many, or prepare a new filter."
            )
        self._coefficients = other.coefficients
        if self._arrays is not None:
            m, d = self._arrays
            sections, spare = int(m[kernel.SECTIONS]), 1 - int(m[kernel.ACTIVE])
            at = kernel.TABLE + 5 * sections * spare
            d[at : at + 5 * sections] = self._coefficients.ravel()
            m[kernel.ACTIVE] = spare


def _memory(coefficients: NDArray[np.float64], channels: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    sections = len(coefficients)
    m = np.array([sections, channels, 0, 0], np.int64)
    d = np.zeros(kernel.TABLE + 10 * sections + 4 * sections * channels + 4)
    flat = np.concatenate([coefficients.ravel()] * 2)
    d[kernel.TABLE : kernel.TABLE + 10 * sections] = flat
    return m, d


def _normal(operation: str, section: Sequence[float] | NDArray[np.float64]) -> NDArray[np.float64]:
    """Check one row (b0, b1, b2, a0, a1, a2) and divide by a0."""
    row = np.asarray(section, np.float64)
    if row.shape != (6,) or not np.isfinite(row).all() or row[3] == 0.0:
        raise InputError(
            f"{operation}: coefficients {row.tolist()}; give six finite numbers b0, b1, b2, a0, a1, a2 with a0 not 0."
        )
    b0, b1, b2, _, a1, a2 = row / row[3]
    if not (abs(a2) < 1.0 and abs(a1) < 1.0 + a2):
        raise InputError(
            f"{operation}: a1 = {a1:g}, a2 = {a2:g} is unstable: a pole lies on or outside the unit circle; it needs "
            "|a2| < 1 and |a1| < 1 + a2."
        )
    return np.array([b0, b1, b2, a1, a2])


class Biquad(Cascade):
    """One second-order section, by hand or from the Audio EQ Cookbook (Bristow-Johnson 1998).

    ::

        low = audio.Biquad.lowpass(1000, 0.707, sample_rate=48000)
        y = low(x)

    Parameters
    ----------
    b0, b1, b2, a1, a2
        Of H(z) = (b0 + b1 / z + b2 / z^2) / (1 + a1 / z + a2 / z^2).
    """

    def __init__(self, b0: float, b1: float, b2: float, a1: float, a2: float) -> None:
        super().__init__([(b0, b1, b2, 1.0, a1, a2)])

    @classmethod
    def _of(cls, b: tuple[float, float, float], a: tuple[float, float, float]) -> Biquad:
        return cls(b[0] / a[0], b[1] / a[0], b[2] / a[0], a[1] / a[0], a[2] / a[0])

    @classmethod
    def lowpass(cls, frequency: float, q: float, sample_rate: float) -> Biquad:
        """Return a low-pass of 12 dB per octave; its gain at `frequency` (Hz) is q."""
        c, alpha = _angles("lowpass", frequency, q, sample_rate)
        return cls._of(((1 - c) / 2, 1 - c, (1 - c) / 2), (1 + alpha, -2 * c, 1 - alpha))

    @classmethod
    def highpass(cls, frequency: float, q: float, sample_rate: float) -> Biquad:
        """Return a high-pass of 12 dB per octave; its gain at `frequency` (Hz) is q."""
        c, alpha = _angles("highpass", frequency, q, sample_rate)
        return cls._of(((1 + c) / 2, -(1 + c), (1 + c) / 2), (1 + alpha, -2 * c, 1 - alpha))

    @classmethod
    def bandpass(cls, frequency: float, q: float, sample_rate: float) -> Biquad:
        """Return a band-pass with gain 1 at `frequency` (Hz) and bandwidth frequency / q."""
        c, alpha = _angles("bandpass", frequency, q, sample_rate)
        return cls._of((alpha, 0.0, -alpha), (1 + alpha, -2 * c, 1 - alpha))

    @classmethod
    def notch(cls, frequency: float, q: float, sample_rate: float) -> Biquad:
        """Return a filter that removes `frequency` (Hz), with bandwidth frequency / q."""
        c, alpha = _angles("notch", frequency, q, sample_rate)
        return cls._of((1.0, -2 * c, 1.0), (1 + alpha, -2 * c, 1 - alpha))

    @classmethod
    def allpass(cls, frequency: float, q: float, sample_rate: float) -> Biquad:
        """Return a filter of gain 1 whose phase is -180 degrees at `frequency` (Hz)."""
        c, alpha = _angles("allpass", frequency, q, sample_rate)
        return cls._of((1 - alpha, -2 * c, 1 + alpha), (1 + alpha, -2 * c, 1 - alpha))

    @classmethod
    def peaking(cls, frequency: float, q: float, gain_db: float, sample_rate: float) -> Biquad:
        """Return an equaliser band: gain_db at `frequency` (Hz), 0 dB far away."""
        c, alpha = _angles("peaking", frequency, q, sample_rate)
        a = _amplitude("peaking", gain_db)
        return cls._of((1 + alpha * a, -2 * c, 1 - alpha * a), (1 + alpha / a, -2 * c, 1 - alpha / a))

    @classmethod
    def low_shelf(cls, frequency: float, q: float, gain_db: float, sample_rate: float) -> Biquad:
        """Return a shelf: gain_db far below `frequency` (Hz), half of it there, 0 dB far above."""
        return cls._shelf("low_shelf", frequency, q, gain_db, sample_rate, 1.0)

    @classmethod
    def high_shelf(cls, frequency: float, q: float, gain_db: float, sample_rate: float) -> Biquad:
        """Return a shelf: gain_db far above `frequency` (Hz), half of it there, 0 dB far below."""
        return cls._shelf("high_shelf", frequency, q, gain_db, sample_rate, -1.0)

    @classmethod
    def _shelf(cls, name: str, frequency: float, q: float, gain_db: float, sample_rate: float, side: float) -> Biquad:
        c, alpha = _angles(name, frequency, q, sample_rate)
        a = _amplitude(name, gain_db)
        up, down, c, root = a + 1, a - 1, side * c, 2 * math.sqrt(a) * alpha
        return cls._of(
            (a * (up - down * c + root), side * 2 * a * (down - up * c), a * (up - down * c - root)),
            (up + down * c + root, -side * 2 * (down + up * c), up + down * c - root),
        )


def _angles(name: str, frequency: float, q: float, sample_rate: float) -> tuple[float, float]:
    """Cosine of the frequency's angle and alpha = sin / 2 q."""
    hertz = rate(f"Biquad.{name}", sample_rate)
    f = number(f"Biquad.{name}", "frequency", frequency, low=0.0, high=hertz / 2, open_low=True, open_high=True)
    quality = number(f"Biquad.{name}", "q", q, low=0.0, open_low=True)
    w = 2.0 * math.pi * f / hertz
    return math.cos(w), math.sin(w) / (2.0 * quality)


def _amplitude(name: str, gain_db: float) -> float:
    return float(10.0 ** (number(f"Biquad.{name}", "gain_db", gain_db, low=-120.0, high=120.0) / 40.0))


class FilterBank(Cascade):
    """Graphic equaliser: peaking bands, spaced evenly in pitch.

    Parameters
    ----------
    bands
        How many, at least 2.
    low, high
        Centres of the first and last band in Hz.
    sample_rate
        Hz.
    q
        Of every band; 1.414 makes octave bands meet.
    gains_db
        One gain per band, by default all 0.
    """

    def __init__(
        self,
        bands: int,
        low: float,
        high: float,
        sample_rate: float,
        *,
        q: float = 1.414,
        gains_db: Sequence[float] | None = None,
    ) -> None:
        n = count("FilterBank", "bands", bands, minimum=2)
        if not 0 < low < high:
            raise InputError(f"FilterBank: low is {low!r} and high {high!r} Hz; give 0 < low < high.")
        self.frequencies: NDArray[np.float64] = np.geomspace(low, high, n)
        """Centres in Hz."""
        self._rate, self._q = sample_rate, q
        self.gains_db = self._gains(gains_db)
        super().__init__(self._bands())

    def _gains(self, gains_db: Sequence[float] | None) -> list[float]:
        gains = [0.0] * len(self.frequencies) if gains_db is None else list(gains_db)
        if len(gains) != len(self.frequencies):
            raise InputError(f"FilterBank: {len(gains)} gains for {len(self.frequencies)} bands; give one for each.")
        return [number("FilterBank", "gain", g, low=-120.0, high=120.0) for g in gains]

    def _bands(self) -> list[Cascade]:
        return [
            Biquad.peaking(float(f), self._q, g, self._rate)
            for f, g in zip(self.frequencies, self.gains_db, strict=True)
        ]

    def set_gains(self, gains_db: Sequence[float]) -> None:
        """Change all gains (dB), also while running."""
        self.gains_db = self._gains(gains_db)
        self.update(Cascade(self._bands()))

    def parallel(self, x: Signal) -> Any:
        """Return the mean of all bands' outputs instead of one after the other: what bands side by side sound like."""
        parts = [band(x) for band in self._bands()]
        return sum(parts[1:], parts[0]) / len(parts)


_KINDS = ("lowpass", "highpass", "bandpass", "bandstop")


def _designed(
    name: str, design: Any, order: int, cutoff: Any, sample_rate: float, kind: str, *ripple: float
) -> Cascade:
    hertz = rate(name, sample_rate)
    choice(name, "kind", kind, _KINDS)
    edges = np.atleast_1d(np.asarray(cutoff, np.float64))
    wanted = 2 if kind.startswith("band") else 1
    if edges.shape != (wanted,) or not np.all(np.diff(edges) > 0) or not 0 < edges[0] <= edges[-1] < hertz / 2:
        raise InputError(
            f"{name}: cutoff is {cutoff!r} Hz; a {kind} needs {wanted} below half the sampling rate, rising."
        )
    n = count(name, "order", order)
    found = design(n, *ripple, edges if wanted == 2 else float(edges[0]), btype=kind, output="sos", fs=hertz)
    return Cascade(found)


def butterworth(order: int, cutoff: Any, sample_rate: float, kind: str = "lowpass") -> Cascade:
    """Return a Butterworth filter as sections: flattest pass band, -3 dB at `cutoff`.

    Parameters
    ----------
    order
        From 1; bands have twice as many poles.
    cutoff
        Hz, or (low, high) for a band.
    sample_rate
        Hz.
    kind
        "lowpass", "highpass", "bandpass" or "bandstop".
    """
    design = optional_library("scipy.signal", "butterworth").butter
    return _designed("butterworth", design, order, cutoff, sample_rate, kind)


def chebyshev1(order: int, ripple_db: float, cutoff: Any, sample_rate: float, kind: str = "lowpass") -> Cascade:
    """Return a Chebyshev filter with `ripple_db` in its pass band; see `butterworth`."""
    ripple = number("chebyshev1", "ripple_db", ripple_db, low=0.0, open_low=True)
    design = optional_library("scipy.signal", "chebyshev1").cheby1
    return _designed("chebyshev1", design, order, cutoff, sample_rate, kind, ripple)


def chebyshev2(order: int, stop_db: float, cutoff: Any, sample_rate: float, kind: str = "lowpass") -> Cascade:
    """Return a Chebyshev filter at least `stop_db` down in its stop band, which begins at `cutoff`."""
    stop = number("chebyshev2", "stop_db", stop_db, low=0.0, open_low=True)
    design = optional_library("scipy.signal", "chebyshev2").cheby2
    return _designed("chebyshev2", design, order, cutoff, sample_rate, kind, stop)


def elliptic(
    order: int, ripple_db: float, stop_db: float, cutoff: Any, sample_rate: float, kind: str = "lowpass"
) -> Cascade:
    """Return an elliptic filter: steepest for its order, with ripple in both bands; see `butterworth`."""
    ripple = number("elliptic", "ripple_db", ripple_db, low=0.0, open_low=True)
    stop = number("elliptic", "stop_db", stop_db, low=ripple, open_low=True)
    design = optional_library("scipy.signal", "elliptic").ellip
    return _designed("elliptic", design, order, cutoff, sample_rate, kind, ripple, stop)
