"""Compressor, limiter and gate, delay and gain: processors whose gain is one for all channels, so images stay put.

Levels are peak levels in dB of full scale, times in seconds. The compressor's curve and smoothing follow Giannoulis,
Massberg and Reiss (2012), "Digital dynamic range compressor design": soft knee, smoothing of the gain in dB.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from elinvar.errors import InputError

from . import _dynamics as kernel
from ._check import Signal, count, number, rate
from ._processor import Processor

__all__ = ["Compressor", "Delay", "Gain", "Gate", "Limiter"]


class _Dynamic(Processor):
    """Parameters in two sets, so that the audio thread never sees half a change; state behind them."""

    _smallest = 0
    """Fewest samples of the delay line."""

    def __init__(self) -> None:
        self._rate = 0.0

    def _parameters(self, sample_rate: float) -> list[float]:
        raise NotImplementedError

    def _line(self, sample_rate: float) -> int:
        """Samples of the delay line."""
        del sample_rate
        return 0

    def _floats(self, channels: int, size: int) -> int:
        return channels * size

    def prepare(self, sample_rate: float, max_block: int, channels: int = 1) -> Any:
        """Allocate state and compile."""
        name = type(self).__name__
        self._rate = rate(f"{name}.prepare", sample_rate)
        n = count(f"{name}.prepare", "channels", channels)
        size = max(self._smallest, self._line(self._rate))
        m = np.array([n, size, 0, 0, 0, 0], np.int64)
        d = np.zeros(kernel.STATE + 8)
        f = np.zeros(max(1, self._floats(n, size)), np.float32)
        values = self._parameters(self._rate)
        d[: len(values)] = values
        root = np.array([m.ctypes.data, m.size, d.ctypes.data, d.size, f.ctypes.data, f.size], np.int64)
        self._ready((m, d, f), root, n, n)
        return self

    def reset(self) -> None:
        """Forget everything heard."""
        m, d, f = self._checked()
        m[kernel.AT], m[kernel.HELD] = 0, 0
        d[kernel.STATE :], f[:] = 0.0, 0.0

    @property
    def nonfinite(self) -> int:
        """NaN and infinite input samples taken for silence since `prepare`."""
        return int(self._checked()[0][kernel.BAD])

    def _changed(self) -> None:
        """Hand the present parameters to a running kernel, all at once."""
        if self._arrays is None:
            return
        m, d, _ = self._arrays
        spare, values = 1 - int(m[kernel.ACTIVE]), self._parameters(self._rate)
        d[kernel.WIDTH * spare : kernel.WIDTH * spare + len(values)] = values
        m[kernel.ACTIVE] = spare

    def __call__(self, x: Signal, sample_rate: float, *, out: Any = None) -> Any:
        """Process a whole signal [channels, time] or [time], latency removed."""
        from .chain import Chain

        return Chain([self])(x, sample_rate, out=out)


def _smoothing(seconds: float, sample_rate: float) -> float:
    """Coefficient of a one-pole that covers 63 % of a step in so many seconds."""
    return math.exp(-1.0 / (seconds * sample_rate)) if seconds > 0.0 else 0.0


class Compressor(_Dynamic):
    """Turn down what is louder than a threshold.

    Parameters
    ----------
    threshold_db
        Peak level above which gain falls.
    ratio
        dB in over dB out above it, from 1.
    attack, release
        Seconds in which gain follows by 63 %.
    knee_db
        Width of the soft bend around the threshold.
    makeup_db
        Gain of the result.
    """

    _kernel = staticmethod(kernel.compress)
    _entry = kernel.compress_entry

    def __init__(
        self, threshold_db: float = -20.0, ratio: float = 4.0, attack: float = 0.005, release: float = 0.1,
        knee_db: float = 6.0, makeup_db: float = 0.0,
    ) -> None:  # fmt: skip
        super().__init__()
        self.set(threshold_db, ratio, attack, release, knee_db, makeup_db)

    def set(
        self, threshold_db: float = -20.0, ratio: float = 4.0, attack: float = 0.005, release: float = 0.1,
        knee_db: float = 6.0, makeup_db: float = 0.0,
    ) -> None:  # fmt: skip
        """Change all parameters, also while running."""
        self._threshold = number("Compressor", "threshold_db", threshold_db, low=-180.0, high=60.0)
        self._slope = 1.0 - 1.0 / number("Compressor", "ratio", ratio, low=1.0)
        self._attack = number("Compressor", "attack", attack, low=0.0)
        self._release = number("Compressor", "release", release, low=0.0)
        self._knee = number("Compressor", "knee_db", knee_db, low=0.0)
        self._makeup = number("Compressor", "makeup_db", makeup_db, low=-120.0, high=120.0)
        self._changed()

    def _parameters(self, sample_rate: float) -> list[float]:
        a, r = _smoothing(self._attack, sample_rate), _smoothing(self._release, sample_rate)
        return [self._threshold, self._slope, self._knee, a, r, self._makeup]

    @property
    def reduction_db(self) -> float:
        """How much the gain is reduced now."""
        return float(self._checked()[1][kernel.STATE])


class Limiter(_Dynamic):
    """Keep every sample below a ceiling, by looking ahead: no sample ever exceeds it, and there is no distortion of a
    gain that jumps.

    Parameters
    ----------
    ceiling_db
        Peak level that is never exceeded.
    lookahead
        Seconds the sound is delayed by; gain falls over this time before a peak.
    release
        Seconds in which gain recovers by 63 %.
    """

    _kernel = staticmethod(kernel.limit)
    _entry = kernel.limit_entry
    _smallest = 1

    def __init__(self, ceiling_db: float = -1.0, lookahead: float = 0.005, release: float = 0.05) -> None:
        super().__init__()
        self._ceiling = 10.0 ** (number("Limiter", "ceiling_db", ceiling_db, low=-120.0, high=60.0) / 20.0)
        self._lookahead = number("Limiter", "lookahead", lookahead, low=0.0, high=1.0)
        self._release = number("Limiter", "release", release, low=0.0)

    @property
    def latency(self) -> int:
        """The look-ahead in samples, at least 1; known once prepared."""
        return int(self._checked()[0][kernel.SIZE])

    def _line(self, sample_rate: float) -> int:
        return round(self._lookahead * sample_rate)

    def _floats(self, channels: int, size: int) -> int:
        return (channels + 2) * size

    def _parameters(self, sample_rate: float) -> list[float]:
        return [self._ceiling, _smoothing(self._release, sample_rate)]

    def reset(self) -> None:
        """Forget everything heard; gain 1."""
        super().reset()
        m, d, f = self._checked()
        size = int(m[kernel.SIZE])
        f[-2 * size :] = 1.0
        d[kernel.STATE : kernel.STATE + 3] = 1.0, size, 1.0


class Gate(_Dynamic):
    """Silence what is quieter than a threshold.

    Parameters
    ----------
    threshold_db
        Peak level at which the gate opens.
    hysteresis_db
        How far below it closes.
    attack, release
        Seconds in which gain follows by 63 %.
    hold
        Seconds it stays open at least.
    floor_db
        Gain when closed.
    """

    _kernel = staticmethod(kernel.gate)
    _entry = kernel.gate_entry

    def __init__(
        self, threshold_db: float = -50.0, hysteresis_db: float = 6.0, attack: float = 0.001, release: float = 0.05,
        hold: float = 0.02, floor_db: float = -80.0,
    ) -> None:  # fmt: skip
        super().__init__()
        self._opens = 10.0 ** (number("Gate", "threshold_db", threshold_db, low=-180.0, high=60.0) / 20.0)
        self._closes = self._opens * 10.0 ** (-number("Gate", "hysteresis_db", hysteresis_db, low=0.0) / 20.0)
        self._attack = number("Gate", "attack", attack, low=0.0)
        self._release = number("Gate", "release", release, low=0.0)
        self._hold = number("Gate", "hold", hold, low=0.0)
        self._floor = 10.0 ** (number("Gate", "floor_db", floor_db, low=-180.0, high=0.0) / 20.0)

    def _parameters(self, sample_rate: float) -> list[float]:
        a, r = _smoothing(self._attack, sample_rate), _smoothing(self._release, sample_rate)
        level = _smoothing(0.01, sample_rate)  # the level follows peaks at once and falls in 10 ms
        return [self._opens, self._closes, self._floor, a, r, self._hold * sample_rate, level]


class Delay(_Dynamic):
    """Echo: ``y = (1 - mix) x + mix e``, ``e[t] = x[t - d] + feedback e[t - d]``.

    Parameters
    ----------
    seconds
        Delay, rounded to a sample.
    feedback
        Gain of an echo's echo, below 1 in magnitude.
    mix
        Part of the echoes in the result, 0 to 1.
    """

    _kernel = staticmethod(kernel.delay)
    _entry = kernel.delay_entry

    def __init__(self, seconds: float = 0.3, feedback: float = 0.3, mix: float = 0.35) -> None:
        super().__init__()
        self._seconds = number("Delay", "seconds", seconds, low=0.0, high=60.0)
        self._feedback = number("Delay", "feedback", feedback, low=-1.0, high=1.0, open_low=True, open_high=True)
        self._mix = number("Delay", "mix", mix, low=0.0, high=1.0)

    def _line(self, sample_rate: float) -> int:
        return round(self._seconds * sample_rate)

    def _parameters(self, sample_rate: float) -> list[float]:
        del sample_rate
        return [self._feedback, 1.0 - self._mix, self._mix]

    @property
    def tail_length(self) -> int:
        """Samples until echoes are 120 dB down."""
        size = int(self._checked()[0][kernel.SIZE])
        echoes = 1 if self._feedback == 0.0 else 1 + math.ceil(math.log(1e-6) / math.log(abs(self._feedback)))
        return size * echoes


class Gain(_Dynamic):
    """A factor in dB.

    Parameters
    ----------
    gain_db
        -inf is silence.
    """

    _kernel = staticmethod(kernel.delay)
    _entry = kernel.delay_entry

    def __init__(self, gain_db: float = 0.0) -> None:
        super().__init__()
        self.set(gain_db)

    def set(self, gain_db: float) -> None:
        """Change the gain, also while running."""
        if gain_db == -math.inf:
            self._factor = 0.0
        elif math.isfinite(gain_db) and gain_db <= 120.0:
            self._factor = 10.0 ** (gain_db / 20.0)
        else:
            raise InputError(f"Gain: gain_db is {gain_db!r}; give a number up to 120, or -inf.")
        self._changed()

    def _parameters(self, sample_rate: float) -> list[float]:
        del sample_rate
        return [0.0, self._factor, 0.0]
