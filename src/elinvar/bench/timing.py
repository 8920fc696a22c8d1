"""Taking samples: one function alone, or several interleaved round by round."""

from __future__ import annotations

import contextlib
import gc
import secrets
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from typing import TYPE_CHECKING

from elinvar.errors import BenchError, InputError

from .machines import LoadProbe, machine
from .samples import Samples, Work
from .timers import Timer, flusher, timer_for
from .yardsticks import Yardsticks

if TYPE_CHECKING:
    from elinvar.runtime.device import Device

__all__ = ["Observer", "interleave", "measure", "observed"]

Observer = Callable[[str, int, int], None]
"""Called between samples, never inside one: (what is measured, rounds done, rounds in all)."""

_observer: ContextVar[Observer | None] = ContextVar("elinvar_bench_observer", default=None)

_TARGET = 200e-6
"""With inner="auto" a sample lasts at least this long, some thousand times the clock's resolution, seconds."""

_MOST_INNER = 1_000_000


@contextlib.contextmanager
def observed(observer: Observer) -> Iterator[None]:
    """Within the block, tell `observer` how far every measurement is; there is no thread, so nothing is disturbed."""
    token = _observer.set(observer)
    try:
        yield
    finally:
        _observer.reset(token)


def _resolve(device: str | Device | None) -> Device | None:
    if device is None:
        return None
    from elinvar.runtime.device import device as find

    return find(device)


@contextlib.contextmanager
def _no_collection() -> Iterator[None]:
    """Keep Python's cyclic collector out of the samples, as timeit does."""
    gc.collect()
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


def _calibrate(timer: Timer, fn: Callable[[], object]) -> int:
    """Return how many calls make a sample of at least `_TARGET`."""
    inner = 1
    while inner < _MOST_INNER:
        elapsed = timer.time(fn, inner) * inner
        if elapsed >= _TARGET:
            return inner
        growth = 2.0 if elapsed <= 0 else min(16.0, max(2.0, 1.2 * _TARGET / elapsed))
        inner = min(_MOST_INNER, int(inner * growth))
    return inner


def _check(functions: Mapping[str, Callable[[], object]], runs: int, warmup: int, inner: int | str) -> None:
    if not functions:
        raise InputError("interleave: no functions; pass a mapping of at least one name to a callable.")
    for name, fn in functions.items():
        if not callable(fn):
            raise InputError(f"measure: '{name}' is a {type(fn).__name__}; pass something callable without arguments.")
    if runs < 1:
        raise InputError(f"measure: runs={runs} takes no sample; pass at least 1, and 6 or more for an interval.")
    if warmup < 0:
        raise InputError(f"measure: warmup={warmup} is negative; pass 0 or more.")
    if inner != "auto" and (not isinstance(inner, int) or inner < 1):
        raise InputError(f"measure: inner={inner!r} is not a count of calls; pass 1 or more, or 'auto'.")


def _sample(
    functions: Mapping[str, Callable[[], object]],
    timer: Timer,
    runs: int,
    warmup: int,
    inner: int | str,
    between: Callable[[], object] | None,
) -> dict[str, list[float]]:
    names = list(functions)
    label = names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"
    tell = _observer.get() or (lambda _what, _done, _total: None)
    tell(label, 0, runs)
    calls: dict[str, int] = {}
    for name, fn in functions.items():
        for _ in range(warmup):
            timer.time(fn, 1)
        calls[name] = _calibrate(timer, fn) if inner == "auto" else int(inner)
    values: dict[str, list[float]] = {name: [] for name in names}
    for index in range(runs):
        # Nobody always goes first: with two functions the order is A B, B A, A B, ...
        first = index % len(names)
        for name in names[first:] + names[:first]:
            if between is not None:
                between()
            values[name].append(timer.time(functions[name], calls[name]))
        tell(label, index + 1, runs)
    return values


def interleave(
    functions: Mapping[str, Callable[[], object]],
    *,
    runs: int = 31,
    warmup: int = 3,
    work: Work | Mapping[str, Work] | None = None,
    device: str | Device | None = None,
    clock: str = "wall",
    inner: int | str = 1,
    flush: bool = False,
    yardsticks: bool = True,
    timer: Timer | None = None,
) -> dict[str, Samples]:
    """Time several functions round by round, so that what disturbs one disturbs all.

    Parameters
    ----------
    functions
        Name to callable without arguments. Each round calls every function once; the order rotates.
    runs
        Rounds; at least 6 for a 95 % interval, 31 by default.
    warmup
        Untimed calls of each function first (JIT, page faults, clocks).
    work
        What one call does, for all functions or by name.
    device
        Drained around each sample; None or "cpu" needs no draining.
    clock
        "wall", "thread_cpu", "process_cpu" or "cuda_events".
    inner
        Calls per sample, divided out; "auto" lengthens samples of short functions to 0.2 ms.
    flush
        Evict the last-level cache before every sample, outside the timing.
    yardsticks
        Measure the machine's own speed (triad and GEMM, ~20 ms each) before and after.
    timer
        Replaces the clock; for tests.

    Returns
    -------
    dict[str, Samples]
        One per function, marked as interleaved with each other: `compare` pairs them by round.
    """
    _check(functions, runs, warmup, inner)
    target = _resolve(device)
    stopwatch = timer or timer_for(clock, target)
    works = dict(work) if isinstance(work, Mapping) else dict.fromkeys(functions, work)
    dtype = next((w.dtype for w in works.values() if w and w.flops), "fp32")
    marks = Yardsticks(target, stopwatch if timer is None else None, dtype) if yardsticks else None
    between = flusher(target) if flush else None
    with _no_collection():
        before = marks.read() if marks else None
        probe = LoadProbe()
        values = _sample(functions, stopwatch, runs, warmup, inner, between)
        load = probe.read()
        after = marks.read() if marks else None
    here = machine()
    rounds = secrets.token_hex(8) if len(functions) > 1 else ""
    return {
        name: Samples(
            name=name,
            values=tuple(_positive(name, values[name])),
            clock=clock,
            work=works.get(name),
            rounds=rounds,
            machine=here["id"],
            machine_name=here["name"],
            device=str(target or "cpu"),
            load=load,
            before=before,
            after=after,
        )
        for name in functions
    }


def _positive(name: str, values: list[float]) -> list[float]:
    """A call shorter than one tick of its clock reads as zero: say so instead of dividing by it later."""
    if min(values) <= 0:
        raise BenchError(
            f"measure: '{name}' is shorter than one tick of the clock; pass inner='auto' or a larger inner."
        )
    return values


def measure(
    fn: Callable[[], object],
    *,
    runs: int = 31,
    warmup: int = 3,
    name: str,
    work: Work | None = None,
    device: str | Device | None = None,
    clock: str = "wall",
    inner: int | str = 1,
    flush: bool = False,
    yardsticks: bool = True,
    timer: Timer | None = None,
) -> Samples:
    """Time one function; see `interleave` for the parameters.

    To say that A is faster than B use `interleave`: two sets measured apart see two different machines.
    """
    return interleave(
        {name: fn},
        runs=runs,
        warmup=warmup,
        work=work,
        device=device,
        clock=clock,
        inner=inner,
        flush=flush,
        yardsticks=yardsticks,
        timer=timer,
    )[name]
