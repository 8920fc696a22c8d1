"""What `blocks` does for traces whose ends are above or below the datum, as LLVM IR; formulas: `relief`."""

from __future__ import annotations

from typing import Any, NamedTuple

from elinvar.seismic.kernels.migrate.simd import Emit, Vector

__all__ = ["Lift", "lifting", "raised_legs", "raised_strength"]


class Lift(NamedTuple):
    """What heights of a trace's ends add, in input samples (`relief`): one-way times and their like, and sums."""

    times: list[Any]
    seconds: list[Any]
    fourths: list[Any]
    time: Any
    second: Any


def lifting(builder: Any, above: list[Any], replaced: Any) -> Lift:
    """Return what heights of source and receiver add with a replacement velocity in metres per sample."""
    b = builder
    times = [b.fdiv(x, replaced) for x in above]
    seconds = [b.fmul(x, replaced) for x in above]
    square = b.fmul(replaced, replaced)
    fourths = [b.fmul(x, square) for x in seconds]
    return Lift(times, seconds, fourths, b.fadd(*times), b.fadd(*seconds))


def raised_legs(e: Emit, lift: Lift, tau: Vector, slow: Vector, p: Vector | None, squares: tuple[Any, Any]) -> Vector:
    """T less its vertical part, t0 and what heights add to it; NaN where a leg has no way."""
    own, total = tau / slow, e.floats(0.0)
    for k, square in enumerate(squares):
        time = e.scalar(lift.times[k])
        level = ~(time.unary("fabs") > 0.0)
        t, second = tau + time, own + e.scalar(lift.seconds[k])
        a = level.where((slow, t / second))
        if p is not None:
            fourth = (p * 4.0 - 3.0) * own / slow + e.scalar(lift.fourths[k])
            bent = ((fourth * t / (second * second) - 1.0) * 0.25 + 1.0).max(0.0).min(2.0)
            bent = level.where((p, bent))
        a = a * square
        if p is not None:
            a = a * (t * t + a) / (bent * a + t * t).max(1e-20)
        leg = (t * t + a).sqrt() - t
        there = level | ((t > 0.0) & (second > 0.0))
        total = total + there.where((leg, float("nan")))
    return total


def raised_strength(e: Emit, lift: Lift, tau: Vector, slow: Vector, moved: Vector, times: tuple[Any, Any]) -> Vector:
    """What `cpu_v2._gain` leaves of the weight; `times` are what it adds to t0, and when energy begins."""
    late, earliest = (e.scalar(x) for x in times)
    vertical = tau + tau + e.scalar(lift.time)
    ratio = vertical / (vertical + moved).max(1e-20)
    second = (tau + tau) / slow + e.scalar(lift.second)
    there = (vertical >= earliest) & (second > 0.0)
    return there.where((ratio * ratio * (tau + tau + late) / (slow * second), 0.0))
