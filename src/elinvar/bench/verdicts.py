"""Comparing two sets of samples: better, same, worse, or honestly inconclusive."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from elinvar.errors import BenchError, InputError

from .samples import CONFIDENCE, YARDSTICK_LIMIT, Samples, median_interval

__all__ = ["Verdict", "Word", "compare", "noise"]

Word = Literal["better", "same", "worse", "inconclusive"]

NOISE_SHARE = 0.4
"""A threshold is trusted when the A/A noise is below this share of it: 2 % for a threshold of 5 %."""

_RESAMPLES = 4000
_SEED = 20_09


@dataclass(frozen=True)
class Verdict:
    """The outcome of one comparison.

    Attributes
    ----------
    word
        "better", "same", "worse" or "inconclusive": how the second set stands to the first.
    ratio
        Time of the second over time of the first; 1.06 is 6 % slower.
    interval
        95 % confidence interval of `ratio`.
    noise
        The A/A ratio error: how far the baseline differs from itself, e.g. 0.01 for 1 %.
    threshold
        The relative change asked about.
    why
        One phrase that explains the word.
    paired
        Whether the sets were interleaved and compared round by round.
    """

    word: Word
    ratio: float
    interval: tuple[float, float]
    noise: float = 0.0
    threshold: float = 0.05
    why: str = ""
    paired: bool = False

    def __str__(self) -> str:
        low, high = self.interval
        return f"{self.word}: ×{self.ratio:.3f} [{low:.3f}, {high:.3f}] ({self.why})"


def _paired(a: Samples, b: Samples) -> bool:
    return bool(a.rounds) and a.rounds == b.rounds and len(a) == len(b)


def _ratio_of_medians(a: Sequence[float], b: Sequence[float]) -> tuple[float, tuple[float, float]]:
    """Ratio of medians with a percentile-bootstrap interval; the seed is fixed, so the answer is too."""
    import numpy as np

    generator = np.random.default_rng(_SEED)
    medians = []
    for values in (a, b):
        data = np.asarray(values, dtype=np.float64)
        picks = generator.integers(0, data.size, size=(_RESAMPLES, data.size))
        medians.append(np.median(data[picks], axis=1))
    tail = 100 * (1 - CONFIDENCE) / 2
    low, high = np.percentile(medians[1] / medians[0], [tail, 100 - tail])
    return statistics.median(b) / statistics.median(a), (float(low), float(high))


def noise(samples: Samples, *, interleaved: bool = False) -> float:
    """Return the A/A noise: the relative difference of the medians of two halves of one sample set.

    The halves are formed the way an A/B comparison of that kind is: even against odd rounds when `interleaved`,
    first against second half for sets measured apart, where slow drift counts in full.
    """
    values = samples.values
    if len(values) < 4:
        return math.inf
    middle = len(values) // 2
    halves = (values[0::2], values[1::2]) if interleaved else (values[:middle], values[middle:])
    first, second = (statistics.median(half) for half in halves)
    return max(first, second) / min(first, second) - 1.0


def _check(a: Samples, b: Samples, threshold: float) -> None:
    if not (math.isfinite(threshold) and 0 < threshold < 1):
        raise InputError(f"compare: threshold={threshold!r} is not a relative change; pass e.g. 0.05 for 5 %.")
    if a.machine and b.machine and a.machine != b.machine:
        raise BenchError(
            f"compare: '{a.name}' was measured on {a.machine_name or a.machine} and '{b.name}' on "
            f"{b.machine_name or b.machine}; times of different machines are not comparable, measure both on one."
        )
    if a.clock != b.clock:
        raise BenchError(
            f"compare: '{a.name}' used the clock {a.clock} and '{b.name}' {b.clock}; measure both with the same clock."
        )


def _spoiled(a: Samples, b: Samples) -> str:
    """Return why separately measured sets cannot be compared at all, or an empty string."""
    for samples in (a, b):
        if samples.contended:
            return f"{samples.name}: {samples.concerns[0]}"
    if a.after and b.before and a.device == b.device:
        drift = a.after.drift(b.before)
        if drift > YARDSTICK_LIMIT:
            return f"the machine's own speed differs by {100 * drift:.0f} % between the two measurements"
    return ""


def _decide(interval: tuple[float, float], error: float, threshold: float) -> tuple[Word, str]:
    low, high = interval
    slow, fast = 1 + threshold, 1 / (1 + threshold)
    trusted = error <= NOISE_SHARE * threshold
    percent = f"{100 * threshold:g} %"
    # A noisy baseline may still confirm a change that exceeds the threshold by more than the noise itself.
    if low > slow and (trusted or low > slow * (1 + error)):
        return "worse", f"slower by more than {percent}"
    if high < fast and (trusted or high * (1 + error) < fast):
        return "better", f"faster by more than {percent}"
    if not trusted:
        return "inconclusive", f"the baseline differs from itself by {100 * error:.1f} %"
    if fast <= low and high <= slow:
        return "same", f"within {percent}"
    return "inconclusive", f"the interval straddles {percent}"


def compare(a: Samples, b: Samples, threshold: float = 0.05) -> Verdict:
    """Say how `b` stands to the baseline `a`.

    Interleaved sets are compared round by round (median of the per-round ratios with an order-statistic interval), so
    drift of the machine cancels; sets measured apart by the ratio of their medians with a bootstrap interval.

    * ``worse`` / ``better``: the whole 95 % interval lies beyond ``1 + threshold`` / ``1 / (1 + threshold)``;
    * ``same``: the whole interval lies between the two;
    * ``inconclusive``: everything else: too few samples, too much spread, a baseline that differs from itself by more
      than 0.4 × threshold (2 % for 5 %), or sets measured apart on a machine that was busy or changed speed.

    Raises
    ------
    BenchError
        The sets come from different machines or different clocks.
    InputError
        `threshold` is not in (0, 1).
    """
    _check(a, b, threshold)
    paired = _paired(a, b)
    error = noise(a, interleaved=paired)
    if paired:
        ratios = [second / first for first, second in zip(a.values, b.values, strict=True)]
        ratio, interval = statistics.median(ratios), median_interval(ratios)
    else:
        ratio, interval = _ratio_of_medians(a.values, b.values)
    word: Word = "inconclusive"
    if min(len(a), len(b)) < 6:
        why = f"{min(len(a), len(b))} samples are too few for a 95 % interval; take at least 6"
        interval = (min(b.values) / max(a.values), max(b.values) / min(a.values))
    elif not paired and (spoiled := _spoiled(a, b)):
        why = spoiled
    else:
        word, why = _decide(interval, error, threshold)
    return Verdict(word, ratio, interval, error, threshold, why, paired)
