r"""What common-image gathers say: semblance, residual moveout, flatness.

Arrays here are ``(..., bins, times)``; any leading dimensions are gathers. A bin is *live* at a sample when its fold
there is not 0 (without a fold: everywhere); dead samples take part in nothing and are never counted.

Residual moveout. A flat reflector at :math:`t_0` under the velocity :math:`V'` that was migrated with :math:`V` lies in
the gather at

.. math:: \tau(h) = \sqrt{t_0^2 + h^2 (1/V'^2 - 1/V^2)}

(both sides are the same recorded hyperbola; Taner and Koehler 1969). A scan tries :math:`V' = V (1 + p/100)` and keeps
the percentage *p* with the largest semblance: positive means that the ground is faster than the migration believed.
For dipping reflectors the moveout after migration is smaller; the sign stays right, and migrating again with the new
velocity converges.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from elinvar.errors import InputError

from ._check import number

__all__ = [
    "PERCENTS",
    "Moveout",
    "align",
    "crest",
    "flatness_ms",
    "moveout_scan",
    "moveout_times",
    "residual_moveout",
    "semblance",
    "time_shifts",
]

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]

#: Velocity errors a scan tries by default, percent.
PERCENTS: tuple[float, ...] = tuple(np.arange(-10.0, 10.1, 0.5).tolist())
_SMALLEST = 3  # samples in a window: fewer is not a window


@dataclass(frozen=True, eq=False)
class Moveout:
    """Residual moveout of gathers.

    Attributes
    ----------
    percent
        Velocity error p at each time, NaN where there is nothing to pick: no energy, too little semblance, or a
        maximum at the end of the scan. Shape (..., nt).
    semblance
        Its semblance, NaN where nothing is live. Shape (..., nt).
    percents
        What was tried.
    """

    percent: Floats
    semblance: Floats
    percents: Floats


def semblance(values: ArrayLike, dt: float, *, fold: ArrayLike | None = None, window: float = 0.024) -> Floats:
    r"""Return the semblance of gathers in a sliding time window (Neidell and Taner 1971).

    .. math:: S(t) = \frac{\sum_{t'} \left(\sum_h a_h(t')\right)^2}{\sum_{t'} N(t') \sum_h a_h(t')^2}

    over the samples ``t'`` within half a window of ``t`` and the live bins ``h``, of which there are ``N(t')``.

    Parameters
    ----------
    values
        Amplitudes (..., bins, nt).
    dt
        Sample interval in seconds.
    fold
        Contributions, of a shape that broadcasts to that of the values; 0 marks a dead sample.
    window
        Full width in seconds, rounded to an odd number of samples, three at least; about one period of the signal.

    Returns
    -------
    ndarray
        (..., nt) in [0, 1]: 1 for a flat gather of equal traces, about 1/N for noise. NaN where no sample in the window
        has two live bins with energy.
    """
    a, live = _gathers("semblance", values, fold)
    return _ratio(a, live, window_samples(window, dt))


def window_samples(window: float, dt: float) -> int:
    """Return the odd number of samples nearest to a window in seconds; fewer than three are refused."""
    step = number("gathers", "dt", dt, low=0.0, open_low=True)
    n = 2 * round(number("gathers", "window", window, low=0.0, open_low=True) / (2.0 * step)) + 1
    if n < _SMALLEST:
        raise InputError(
            f"gathers: a window of {1e3 * window:g} ms holds {n} sample at {1e3 * step:g} ms; give at least "
            f"{2e3 * step:g} ms."
        )
    return n


def _gathers(operation: str, values: ArrayLike, fold: ArrayLike | None) -> tuple[Floats, Flags]:
    """Return amplitudes as float64 with dead samples 0, and which samples are live."""
    a = np.array(values, np.float64)
    if a.ndim < 2 or 0 in a.shape:
        raise InputError(f"{operation}: gathers have shape {a.shape}; give (..., bins, times).")
    if fold is None:
        live = np.ones(a.shape, bool)
    else:
        counts = np.asarray(fold)
        try:
            live = np.broadcast_to(counts > 0, a.shape).copy()
        except ValueError:
            raise InputError(f"{operation}: a fold of shape {counts.shape} does not fit gathers {a.shape}.") from None
    if not np.isfinite(a[live]).all():
        raise InputError(f"{operation}: a live sample is not finite; leave it out with a fold of 0.")
    a[~live] = 0.0
    return a, live


def _slide(values: Floats, n: int) -> Floats:
    """Sum over `n` samples around each one, along the last axis; windows are cut off at the ends.

    Term by term: a difference of running sums would lose quiet samples behind loud ones.
    """
    half = n // 2
    total = values.copy()
    for shift in range(1, half + 1):
        total[..., shift:] += values[..., :-shift]
        total[..., :-shift] += values[..., shift:]
    return total


def _power(a: Floats, live: Flags, n: int) -> tuple[Floats, Floats]:
    """Return numerator and denominator of the semblance."""
    count = live.sum(axis=-2)
    speaks = count >= 2
    stack = np.where(speaks, a.sum(axis=-2), 0.0)
    energy = np.where(speaks, count * np.square(a).sum(axis=-2), 0.0)
    return _slide(np.square(stack), n), _slide(energy, n)


def _ratio(a: Floats, live: Flags, n: int) -> Floats:
    above, below = _power(a, live, n)
    ratio = np.divide(above, below, out=np.full(below.shape, np.nan), where=below > 0)
    return np.asarray(np.minimum(ratio, 1.0), np.float64)  # equal traces may exceed 1 by a rounding error


def moveout_times(t: ArrayLike, offset: ArrayLike, v: ArrayLike, percent: float) -> Floats:
    """Return where events at `t` lie in gathers when the velocity is `percent` higher than `v`.

    Parameters
    ----------
    t
        Two-way zero-offset times in seconds, (nt,).
    offset
        Metres, (bins,).
    v
        RMS velocity of the migration in m/s, (nt,) or (..., nt).
    percent
        p: the velocity tried is ``v (1 + p / 100)``.

    Returns
    -------
    ndarray
        Seconds, (..., bins, nt); NaN where an event would lie above time zero.
    """
    p = number("moveout_times", "percent", percent, low=-100.0, open_low=True)
    times, h, speed = np.asarray(t, np.float64), np.asarray(offset, np.float64), np.asarray(v, np.float64)
    slowness = (1.0 / (1.0 + 0.01 * p) ** 2 - 1.0) / np.square(speed)
    square = np.square(times) + np.square(h)[:, None] * slowness[..., None, :]
    return np.sqrt(np.where(square >= 0, square, np.nan))


def align(values: ArrayLike, t: ArrayLike, times: ArrayLike, fold: ArrayLike | None = None) -> tuple[Floats, Flags]:
    """Read gathers at other times: cubic (Catmull and Rom 1974), never across a dead sample.

    Parameters
    ----------
    values
        Gathers (..., bins, nt).
    t
        Their regular times in seconds, (nt,).
    times
        Where to read, seconds, broadcastable to (..., bins, nt).
    fold
        Contributions; 0 marks a dead sample.

    Returns
    -------
    tuple
        Amplitudes (..., bins, nt), 0 where dead, and flags of the samples that are live.
    """
    a, live = _gathers("align", values, fold)
    return _read(a, live, *_axis("align", t, a.shape[-1]), np.asarray(times, np.float64))


def _axis(operation: str, t: ArrayLike, nt: int) -> tuple[float, float]:
    """Return first time and interval of a regular time axis of `nt` samples."""
    times = np.asarray(t, np.float64)
    if times.shape != (nt,) or nt < 2:
        raise InputError(f"{operation}: times have shape {times.shape}; {nt} are needed, two at least.")
    return float(times[0]), float((times[-1] - times[0]) / (nt - 1))


def _read(a: Floats, live: Flags, t0: float, dt: float, times: Floats) -> tuple[Floats, Flags]:
    last = a.shape[-1] - 1
    x = (times - t0) / dt
    inside = (x >= -1e-9) & (x <= last + 1e-9)  # NaN is not
    x = np.clip(np.where(inside, x, 0.0), 0.0, last)
    j = np.minimum(x.astype(np.int64), last - 1)
    f = x - j
    weights = (
        0.5 * f * (-1.0 + f * (2.0 - f)),
        1.0 + 0.5 * f * f * (3.0 * f - 5.0),
        0.5 * f * (1.0 + f * (4.0 - 3.0 * f)),
        0.5 * f * f * (f - 1.0),
    )
    lead = (1,) * (a.ndim - j.ndim)
    result = np.zeros(a.shape)
    alive = np.broadcast_to(inside, a.shape).copy()
    for tap, weight in zip(range(-1, 3), weights, strict=True):
        at = np.clip(j + tap, 0, last).reshape(lead + j.shape)
        result += weight * np.take_along_axis(a, at, axis=-1)
        if tap in (0, 1):  # the two neighbours; a sample that is hit exactly needs no second one
            alive &= np.take_along_axis(live, at, axis=-1) | (np.abs(weight) < 1e-12)
    result[~alive] = 0.0
    return result, alive


def moveout_scan(
    values: ArrayLike,
    t: ArrayLike,
    offset: ArrayLike,
    v: ArrayLike,
    *,
    fold: ArrayLike | None = None,
    percents: ArrayLike = PERCENTS,
    window: float = 0.04,
) -> Floats:
    """Return the semblance of gathers along the moveout of each velocity error tried.

    Parameters
    ----------
    values, fold
        Gathers (..., bins, nt).
    t
        Two-way times in seconds, (nt,), regular.
    offset
        Offset of each bin in metres, (bins,): the root mean square of its traces' offsets is best.
    v
        RMS velocity the gathers were migrated with, m/s, (nt,) or (..., nt).
    percents
        Velocity errors to try.
    window
        Of the semblance, seconds.

    Returns
    -------
    ndarray
        (..., len(percents), nt); NaN also where a moveout leads half of the live bins out of the gather: the few that
        are left would agree too easily.
    """
    a, live = _gathers("moveout_scan", values, fold)
    first, dt = _axis("moveout_scan", t, a.shape[-1])
    h = np.asarray(offset, np.float64)
    if h.shape != (a.shape[-2],):
        raise InputError(f"moveout_scan: offsets have shape {h.shape}; the gathers have {a.shape[-2]} bins.")
    silent = ~np.isfinite(h)  # an empty bin has no mean offset
    live[..., silent, :] = False
    h = np.where(silent, 0.0, h)
    n = window_samples(window, dt)
    tried = np.atleast_1d(np.asarray(percents, np.float64))
    result = np.empty((*a.shape[:-2], len(tried), a.shape[-1]))
    wanted = 0.5 * live.sum(axis=-2)
    for k, p in enumerate(tried):
        moved, alive = _read(a, live, first, dt, moveout_times(t, h, v, p))
        found = _ratio(moved, alive, n)
        result[..., k, :] = np.where(alive.sum(axis=-2) >= wanted, found, np.nan)
    return result


def residual_moveout(
    values: ArrayLike,
    t: ArrayLike,
    offset: ArrayLike,
    v: ArrayLike,
    *,
    fold: ArrayLike | None = None,
    percents: ArrayLike = PERCENTS,
    window: float = 0.04,
    minimum: float = 0.4,
    energy: float = 1e-3,
) -> Moveout:
    """Pick the velocity error of gathers at every time.

    Parameters
    ----------
    values, t, offset, v, fold, percents, window
        See :func:`moveout_scan`; at least three percentages, evenly spaced.
    minimum
        Coherence below which nothing is picked, on a scale from 0, the 1/N that noise has in N live bins, to 1, flat.
    energy
        Part of the gather's largest windowed energy below which nothing is picked.
    """
    tried = np.atleast_1d(np.asarray(percents, np.float64))
    steps = np.diff(tried)
    if tried.size < 3 or (steps <= 0).any() or not np.allclose(steps, steps[0]):
        raise InputError(f"residual_moveout: percents {tried.tolist()[:6]} must be three or more, rising evenly.")
    panel = moveout_scan(values, t, offset, v, fold=fold, percents=tried, window=window)
    a, live = _gathers("residual_moveout", values, fold)
    n = window_samples(window, _axis("residual_moveout", t, a.shape[-1])[1])
    power = _slide(np.square(a).sum(axis=-2), n)
    loud = power > energy * power.max(axis=-1, keepdims=True)
    best, peak, inner = crest(panel, tried)
    noise = 1.0 / np.maximum(live.sum(axis=-2), 1)
    found = inner & loud & (peak >= noise + minimum * (1.0 - noise))
    return Moveout(np.where(found, best, np.nan), peak, tried)


def crest(panel: Floats, tried: Floats) -> tuple[Floats, Floats, Flags]:
    """Return where along axis -2 a panel is largest, refined by a parabola, how large, and whether inside the ends.

    Parameters
    ----------
    panel
        (..., n, nt); NaN counts as nothing.
    tried
        What the axis stands for, (n,), n >= 3, evenly spaced.
    """
    best = np.argmax(np.nan_to_num(panel, nan=-1.0), axis=-2)
    inner = (best > 0) & (best < tried.size - 1)
    at = np.clip(best, 1, tried.size - 2)
    low, mid, high = (np.take_along_axis(panel, (at + d)[..., None, :], axis=-2)[..., 0, :] for d in (-1, 0, 1))
    bend = low - 2.0 * mid + high
    shift = np.divide(0.5 * (low - high), bend, out=np.zeros(bend.shape), where=bend < 0)
    peak = np.take_along_axis(panel, best[..., None, :], axis=-2)[..., 0, :]
    return tried[at] + (tried[1] - tried[0]) * np.clip(shift, -0.5, 0.5), peak, inner


def time_shifts(
    values: ArrayLike,
    dt: float,
    *,
    fold: ArrayLike | None = None,
    window: float = 0.06,
    longest: float = 0.02,
    minimum: float = 0.5,
    energy: float = 1e-3,
) -> Floats:
    """Return how much later each bin's events are than in the mean of all bins, seconds, (..., bins, nt).

    The lag of the largest normalised correlation within a sliding window, refined by a parabola.

    Parameters
    ----------
    values, fold
        Gathers (..., bins, nt).
    dt
        Sample interval in seconds.
    window, longest
        Width of the window and largest lag, seconds. Moveout of more than half a period needs :func:`align` first.
    minimum, energy
        Correlation, and part of the gather's largest windowed energy, below which a shift is NaN.
    """
    a, live = _gathers("time_shifts", values, fold)
    n = window_samples(window, dt)
    reach = max(1, round(number("time_shifts", "longest", longest, low=0.0, open_low=True) / dt))
    count = live.sum(axis=-2, keepdims=True)
    pilot = np.divide(a.sum(axis=-2, keepdims=True), count, out=np.zeros(a[..., :1, :].shape), where=count > 1)
    scale = _slide(np.square(pilot), n)
    curve = np.empty((2 * reach + 1, *a.shape))
    for k, lag in enumerate(range(-reach, reach + 1)):
        moved = _moved(a, lag)
        norm = np.sqrt(_slide(np.square(moved), n) * scale)
        curve[k] = np.divide(_slide(moved * pilot, n), norm, out=np.zeros(a.shape), where=norm > 0)
    best = np.argmax(curve, axis=0)
    at = np.clip(best, 1, 2 * reach - 1)
    low, mid, high = (np.take_along_axis(curve, (at + d)[None], axis=0)[0] for d in (-1, 0, 1))
    bend = low - 2.0 * mid + high
    fine = at + np.clip(np.divide(0.5 * (low - high), bend, out=np.zeros(bend.shape), where=bend < 0), -0.5, 0.5)
    known = live & (best == at) & (mid >= minimum) & (scale > energy * scale.max(axis=-1, keepdims=True))
    return np.where(known, (fine - reach) * dt, np.nan)


def _moved(a: Floats, lag: int) -> Floats:
    """Return samples from `lag` later, zeros beyond the ends."""
    result = np.zeros_like(a)
    if abs(lag) >= a.shape[-1]:
        return result
    if lag >= 0:
        result[..., : a.shape[-1] - lag] = a[..., lag:]
    else:
        result[..., -lag:] = a[..., :lag]
    return result


def flatness_ms(
    values: ArrayLike,
    t: ArrayLike,
    *,
    fold: ArrayLike | None = None,
    offset: ArrayLike | None = None,
    v: ArrayLike | None = None,
    moveout: Moveout | None = None,
    window: float = 0.06,
    longest: float = 0.02,
) -> Floats:
    """Return how far from flat gathers are: the rms over bins of the events' time about its mean, milliseconds.

    Parameters
    ----------
    values, fold
        Gathers (..., bins, nt).
    t
        Two-way times in seconds, (nt,).
    offset, v, moveout
        With a picked moveout (and the offsets and velocities it was picked with) gathers are aligned along it first, so
        that bins more than half a period apart are not taken for one another; what it removed counts.
    window, longest
        See :func:`time_shifts`.

    Returns
    -------
    ndarray
        Milliseconds, (..., nt), NaN where fewer than two bins have an event in common.
    """
    a, live = _gathers("flatness_ms", values, fold)
    first, dt = _axis("flatness_ms", t, a.shape[-1])
    along = np.zeros(a.shape)
    if moveout is not None:
        if offset is None or v is None:
            raise InputError("flatness_ms: a moveout needs the offset and v it was picked with.")
        times = np.asarray(t, np.float64)
        h, speed = np.asarray(offset, np.float64), np.asarray(v, np.float64)
        known = np.where(np.isfinite(moveout.percent), moveout.percent, 0.0)
        slowness = (1.0 / np.square(1.0 + 0.01 * known) - 1.0) / np.square(speed)
        square = np.square(times) + np.square(np.nan_to_num(h))[:, None] * slowness[..., None, :]
        arrival = np.sqrt(np.maximum(square, 0.0))
        along = np.broadcast_to(arrival - times, a.shape)
        a, live = _read(a, live, first, dt, arrival)
    late = along + time_shifts(a, dt, fold=live, window=window, longest=longest)
    count = np.isfinite(late).sum(axis=-2)
    enough = count >= 2
    mean = np.divide(np.nansum(late, axis=-2), count, out=np.zeros(count.shape), where=enough)
    spread = np.nansum(np.square(late - mean[..., None, :]), axis=-2)
    rms = np.sqrt(np.divide(spread, count, out=np.full(count.shape, np.nan), where=enough))
    return np.asarray(1e3 * rms, np.float64)
