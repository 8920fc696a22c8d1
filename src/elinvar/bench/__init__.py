"""Benchmarks that know when their own numbers are worthless.

`interleave` times alternatives round by round, `compare` says better, same, worse or inconclusive, `Samples` keeps
every number with the load of the machine and its speed before and after, `roofline` measures what the machine could
do, and `Result` stores it all with the machine's description. Times of different machines are never compared.
"""

from __future__ import annotations

from .ceilings import Roofline, roofline, roofline_samples
from .history import History
from .machines import LoadProbe, machine
from .registry import Benchmark, Case, benchmark, benchmarks, find_checkout
from .results import Comparison, Result, compare_results
from .samples import Load, Samples, Work, Yardstick, median_interval
from .timers import CudaTimer, HostTimer, Timer
from .timing import interleave, measure, observed
from .verdicts import Verdict, compare, noise
from .yardsticks import Yardsticks

__all__ = [
    "Benchmark",
    "Case",
    "Comparison",
    "CudaTimer",
    "History",
    "HostTimer",
    "Load",
    "LoadProbe",
    "Result",
    "Roofline",
    "Samples",
    "Timer",
    "Verdict",
    "Work",
    "Yardstick",
    "Yardsticks",
    "benchmark",
    "benchmarks",
    "compare",
    "compare_results",
    "find_checkout",
    "interleave",
    "machine",
    "measure",
    "median_interval",
    "noise",
    "observed",
    "roofline",
    "roofline_samples",
]
