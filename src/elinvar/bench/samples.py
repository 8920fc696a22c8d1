"""Samples: every number a measurement took, and what may honestly be said about them."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, get_args

from elinvar.errors import BenchError, InputError

__all__ = ["CLOCKS", "CONFIDENCE", "Clock", "Load", "Samples", "Work", "Yardstick", "median_interval"]

Clock = Literal["wall", "thread_cpu", "process_cpu", "cuda_events"]
CLOCKS: tuple[str, ...] = get_args(Clock)

CONFIDENCE = 0.95
"""Every interval printed by this package covers the true value this often."""

FOREIGN_LIMIT = 0.05
"""Foreign CPU seconds above this share of (wall seconds × cores) flag a measurement as contended."""

FOREIGN_FLOOR = 0.03
"""Foreign CPU seconds below this are rounding: the kernel counts in ticks of 10 ms per core."""

YARDSTICK_LIMIT = 0.10
"""Two yardsticks, before and after, further apart than this flag a measurement: the machine changed speed."""


def median_interval(values: Sequence[float], confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Return the order-statistic confidence interval of the median.

    Distribution-free and deterministic: with ``n`` independent samples the number below the true median is
    Binomial(n, ½), so ``[x_(k), x_(n+1-k)]`` covers it with probability ``1 - 2·P(B < k)`` (Conover, *Practical
    Nonparametric Statistics*, 1999, §3.2). The largest ``k`` that still reaches `confidence` is used. Fewer than six
    samples cannot reach 95 %: the interval is then ``(-inf, inf)``.
    """
    ordered = sorted(values)
    n = len(ordered)
    tail, total, k = 0.0, 2.0**n, 0
    for below in range((n + 1) // 2):
        tail += math.comb(n, below) / total
        if 1.0 - 2.0 * tail < confidence:
            break
        k = below + 1
    if k == 0:
        return -math.inf, math.inf
    return ordered[k - 1], ordered[n - k]


@dataclass(frozen=True)
class Work:
    """What one call does, so that a time becomes a rate and a percentage of the machine's ceiling.

    Parameters
    ----------
    bytes
        Bytes that must cross the memory bus once, reads plus writes. 0 when memory is not the point.
    flops
        Floating-point operations. 0 when arithmetic is not the point.
    dtype
        Which matmul ceiling `flops` is held against: "fp32" or "bf16".
    items, unit
        How many of what the call produces, e.g. ``items=8.2e6, unit="contributions"``.
    """

    bytes: float = 0.0
    flops: float = 0.0
    dtype: Literal["fp32", "bf16"] = "fp32"
    items: float = 0.0
    unit: str = "items"

    def __post_init__(self) -> None:
        for name in ("bytes", "flops", "items"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise InputError(f"Work: {name}={value!r} is not a count; pass a finite number >= 0.")
        if self.dtype not in ("fp32", "bf16"):
            raise InputError(f"Work: dtype={self.dtype!r} has no measured ceiling; use 'fp32' or 'bf16'.")


@dataclass(frozen=True)
class Yardstick:
    """The machine's own speed at one moment: STREAM triad in GB/s and a square GEMM in GFLOP/s."""

    triad_gbps: float
    gemm_gflops: float
    dtype: str = "fp32"

    def drift(self, other: Yardstick) -> float:
        """Return the larger relative difference of the two speeds, e.g. 0.12 for 12 %."""
        pairs = ((self.triad_gbps, other.triad_gbps), (self.gemm_gflops, other.gemm_gflops))
        return max((max(a, b) / min(a, b) - 1.0 for a, b in pairs if min(a, b) > 0), default=0.0)


@dataclass(frozen=True)
class Load:
    """What else the machine did while the samples were taken.

    `foreign_cpu` is the CPU seconds used by everybody else, or None where the system does not say; `switches` counts
    involuntary context switches of this process.
    """

    wall_seconds: float = 0.0
    cores: int = 1
    foreign_cpu: float | None = None
    switches: int | None = None

    @property
    def foreign_share(self) -> float:
        """Foreign CPU seconds as a share of wall seconds × cores; 0 when unknown or mere rounding."""
        if self.foreign_cpu is None or self.wall_seconds <= 0 or self.foreign_cpu <= FOREIGN_FLOOR:
            return 0.0
        return self.foreign_cpu / (self.wall_seconds * self.cores)


@dataclass(frozen=True)
class Samples:
    """All timings of one thing, in seconds per call, with the circumstances they were taken under.

    Parameters
    ----------
    name
        What was measured.
    values
        Seconds per call, in the order taken. Nothing is ever dropped.
    clock
        "wall", "thread_cpu", "process_cpu" or "cuda_events".
    work
        What one call does; gives `rate` and `percent_of_roofline`.
    rounds
        An identifier shared by samples that were interleaved round by round: value *i* of each was taken in the same
        moment, so they are compared pairwise. Empty when measured alone.
    machine, device
        Fingerprint and name of the machine (see `elinvar.bench.machine`) and the device; empty when synthetic.
    load, before, after
        Contention during the samples, and the yardsticks on either side.
    """

    name: str
    values: tuple[float, ...]
    clock: str = "wall"
    work: Work | None = None
    rounds: str = ""
    machine: str = ""
    machine_name: str = ""
    device: str = ""
    load: Load = field(default_factory=Load)
    before: Yardstick | None = None
    after: Yardstick | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "values", tuple(float(v) for v in self.values))
        if not self.values:
            raise BenchError(f"Samples '{self.name}': no values; take at least one sample.")
        bad = [v for v in self.values if not (math.isfinite(v) and v > 0)]
        if bad:
            raise BenchError(f"Samples '{self.name}': {bad[0]!r} is not a duration; a sample is a finite number > 0.")
        if self.clock not in CLOCKS:
            raise BenchError(f"Samples '{self.name}': unknown clock {self.clock!r}; use one of {', '.join(CLOCKS)}.")

    def __len__(self) -> int:
        return len(self.values)

    @property
    def median(self) -> float:
        """Median, seconds."""
        return statistics.median(self.values)

    @property
    def interval(self) -> tuple[float, float]:
        """95 % confidence interval of the median, seconds; (min, max) below six samples, which cannot reach 95 %."""
        low, high = median_interval(self.values)
        return (self.min, self.max) if math.isinf(low) else (low, high)

    @property
    def min(self) -> float:
        """Fastest sample, seconds."""
        return min(self.values)

    @property
    def max(self) -> float:
        """Slowest sample, seconds."""
        return max(self.values)

    @property
    def mean(self) -> float:
        """Arithmetic mean, seconds."""
        return statistics.fmean(self.values)

    @property
    def std(self) -> float:
        """Sample standard deviation (n-1), seconds; 0 for a single sample."""
        return statistics.stdev(self.values) if len(self.values) > 1 else 0.0

    @property
    def rate(self) -> float | None:
        """``work.items`` per second at the median, or None."""
        return self.work.items / self.median if self.work and self.work.items else None

    @property
    def foreign_cpu(self) -> float | None:
        """CPU seconds other processes used meanwhile, or None where unknown."""
        return self.load.foreign_cpu

    @property
    def concerns(self) -> tuple[str, ...]:
        """Why these numbers may be worthless, one phrase each; empty when nothing was noticed."""
        found = []
        # A CPU clock does not count the time spent descheduled, so foreign work alone does not spoil it.
        if self.clock in ("wall", "cuda_events") and self.load.foreign_share > FOREIGN_LIMIT:
            found.append(f"others used {100 * self.load.foreign_share:.0f} % of the CPU")
        if self.before and self.after:
            drift = self.before.drift(self.after)
            if drift > YARDSTICK_LIMIT:
                found.append(f"the machine's speed moved by {100 * drift:.0f} %")
        return tuple(found)

    @property
    def contended(self) -> bool:
        """Whether something else on the machine may have decided these numbers."""
        return bool(self.concerns)

    @property
    def percent_of_roofline(self) -> float | None:
        """Percent of the speed the yardsticks measured in this very process, or None without work or yardsticks.

        The bound is ``max(bytes / triad bandwidth, flops / GEMM rate)`` (Williams, Waterman, Patterson, 2009,
        "Roofline: an insightful visual performance model"); the mean of both yardsticks is used. Data that stays in a
        cache can exceed 100 %: the yardstick streams from main memory.
        """
        marks = [mark for mark in (self.before, self.after) if mark is not None]
        if self.work is None or not marks:
            return None
        triad = statistics.fmean(mark.triad_gbps for mark in marks)
        gemm = statistics.fmean(mark.gemm_gflops for mark in marks)
        bound = 0.0
        if self.work.bytes and triad > 0:
            bound = self.work.bytes / (triad * 1e9)
        if self.work.flops and gemm > 0 and all(mark.dtype == self.work.dtype for mark in marks):
            bound = max(bound, self.work.flops / (gemm * 1e9))
        return 100.0 * bound / self.median if bound else None

    def to_json(self) -> dict[str, Any]:
        """Return plain data: every sample, the derived statistics, and the circumstances."""
        low, high = self.interval
        data = asdict(self)
        data["values"] = list(self.values)
        data["statistics"] = {
            "median": self.median,
            "interval": [low, high],
            "min": self.min,
            "max": self.max,
            "mean": self.mean,
            "std": self.std,
            "rate": self.rate,
            "percent_of_roofline": self.percent_of_roofline,
            "contended": self.contended,
            "concerns": list(self.concerns),
        }
        return data

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Samples:
        """Rebuild from `to_json`; statistics are computed again from the samples, never trusted."""
        try:
            fields = {key: data[key] for key in cls.__dataclass_fields__ if key in data}
            fields["values"] = tuple(data["values"])
            fields["work"] = Work(**data["work"]) if data.get("work") else None
            fields["load"] = Load(**data.get("load", {}))
            for mark in ("before", "after"):
                fields[mark] = Yardstick(**data[mark]) if data.get(mark) else None
            return cls(**fields)
        except (KeyError, TypeError, ValueError) as error:
            raise BenchError(
                f"Samples.from_json: not a stored sample set ({error}); write one with Result.write."
            ) from error
