"""Version v1 on the CPU: the baseline with everything taken out of the loops that does not belong in them.

What depends on the output time alone is laid out once for vector loads, and kept for the next block of traces. What
depends on the pair of pillar and trace is computed once per pair: distances, and the range of output samples that the
aperture and the end of the trace leave. The loop over samples then has no branch and an exact travel time for each, and
the compiler makes vectors of it. Buffers belong to the thread. While a block of traces is in here, the job's pipeline
reads and filters the next one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, cast

import numba
import numpy as np
import torch

from elinvar.runtime.parallel import parallel_for
from elinvar.seismic.kernels.migrate.aperture import RadiusAperture
from elinvar.seismic.kernels.migrate.cpu_v2 import _cache
from elinvar.seismic.kernels.migrate.kept import kept_tables
from elinvar.seismic.kernels.migrate.physics import PHYSICS, stretched
from elinvar.seismic.kernels.migrate.tables import Tables

__all__ = ["migrate"]

f4 = np.float32
LEAST = f4(1e-18)  # stands for 0 where one divides by the product of two
_jit = cast(
    "Callable[[Callable[..., Any]], Callable[..., Any]]",
    # contract: multiply-add in one rounding. Nothing that may ignore NaN or infinity.
    numba.njit(nogil=True, error_model="numpy", fastmath={"contract"}, cache=_cache()),
)


class _Rows(NamedTuple):
    """Tables of all velocity rows. One array each: the compiler proves that loops may become vectors from addresses."""

    samples: Any  # [rows, 7 * samples]: t0 / 2 and 1 / (V dt)^2 in input samples, radius, 1 / rim width, gain, and
    #               what else the physics needs (`Tables.bends`), one after the other
    reach: Any  # [rows, 3, samples]: largest radius up to here, smallest 1 / (V dt)^2 from here on, and t0 / 2 or s


# Working memory of a thread: where the values for CHUNK samples of a pair begin.
CHUNK = 256
MOVED, PLACE, SHARE, INSIDE, WORK = 0, CHUNK, 2 * CHUNK, 3 * CHUNK, 4 * CHUNK


def _arrays(t: Tables) -> tuple[_Rows, Tables]:
    bends = torch.zeros(*t.gain.shape, 2) if t.bends is None else t.bends
    samples = torch.cat([t.legs, t.gain[..., None], bends], 2).permute(0, 2, 1)
    furthest = t.blocks[..., 0].cummax(-1).values
    fastest = t.blocks[..., 3].flip(-1).cummin(-1).values.flip(-1)
    reach = torch.stack([furthest, fastest, bends[..., 0] if t.kappa else t.legs[..., 0]], 1)
    return _Rows(samples.reshape(len(samples), -1).contiguous().numpy(), reach.contiguous().numpy()), t


@_jit
def _straight(work: Any, table: Any, nt: int, ds: Any, dr: Any, begin: int, number: int) -> None:
    for i in range(number):
        tau, slow = table[begin + i], table[nt + begin + i]
        a, b = ds * slow, dr * slow
        # A leg beyond t0 / 2 as A / (sqrt(tau^2 + A) + tau), which keeps its digits where tau is large.
        m, n = max(np.sqrt(tau * tau + a) + tau, LEAST), max(np.sqrt(tau * tau + b) + tau, LEAST)
        work[MOVED + i] = (a * n + b * m) / (m * n)


@_jit
def _vti(work: Any, table: Any, nt: int, ds: Any, dr: Any, begin: int, number: int) -> None:
    for i in range(number):
        tau, slow, p = table[begin + i], table[nt + begin + i], table[5 * nt + begin + i]
        square, a, b = tau * tau, ds * slow, dr * slow
        a = a * (square + a) / max(square + p * a, f4(1e-20))
        b = b * (square + b) / max(square + p * b, f4(1e-20))
        m, n = max(np.sqrt(square + a) + tau, LEAST), max(np.sqrt(square + b) + tau, LEAST)
        work[MOVED + i] = (a * n + b * m) / (m * n)


@_jit
def _curved(work: Any, table: Any, nt: int, kappa: Any, ds: Any, dr: Any, begin: int, number: int) -> None:
    for i in range(number):
        slow, s, c = table[nt + begin + i], table[5 * nt + begin + i], table[6 * nt + begin + i]
        a, b, g = ds * slow, dr * slow, kappa * s + c
        r, q = np.sqrt(s * s + a), np.sqrt(s * s + b)
        m, n = max(r + s, f4(1e-20)), max(q + s, f4(1e-20))
        d, e = np.sqrt(f4(1) + kappa * kappa * (r * r)) + c, np.sqrt(f4(1) + kappa * kappa * (q * q)) + c
        z, y = kappa * a * (d + kappa * m) / (m * d * g), kappa * b * (e + kappa * n) / (n * e * g)
        work[MOVED + i] = z + y + z * y
    for i in range(number):
        work[MOVED + i] = np.log1p(work[MOVED + i]) / kappa


@_jit
def _places(work: Any, table: Any, nt: int, reach: Any, job: Any, begin: int, number: int) -> None:
    """Where on the trace the samples of a pillar come from, with what weight, and which of them do."""
    last, shift, rim, weighted = job
    one, half, tiny = f4(1), f4(0.5), f4(1e-20)
    for i in range(number):
        tau, radius, slope = table[begin + i], table[2 * nt + begin + i], table[3 * nt + begin + i]
        moved = work[MOVED + i]
        zero = tau + tau - shift
        # Compared before the sum is rounded: which samples the ends of a trace count is the answer, not noise.
        inside = one if (reach <= radius) & (moved >= -zero) & (moved <= last - zero) else f4(0)
        work[PLACE + i] = min(max(zero + moved, f4(0)), last)
        # (1 + cos(pi u)) / 2 across the rim: an odd polynomial about its middle, error below 1e-6.
        u = min(max(reach * slope - rim, f4(0)), one) - half
        q = u * u
        weight = (((q * f4(0.2773181) - f4(1.27094951)) * q + f4(2.5835714)) * q - f4(1.57079101)) * u + half
        ratio = (tau + tau) / max(tau + tau + moved, tiny) if weighted else one
        work[SHARE + i] = weight * (ratio * ratio) * inside
        work[INSIDE + i] = inside


@_jit
def _add(total: Any, count: Any, trace: Any, work: Any, begin: int, number: int) -> None:
    most = np.uint32(len(trace) - 2)
    for i in range(number):
        x = work[PLACE + i]
        left = min(np.uint32(np.int32(x)), most)
        before = trace[left]
        value = before + (x - f4(np.int32(left))) * (trace[left + np.uint32(1)] - before)
        total[begin + i] += value * work[SHARE + i]
        count[begin + i] += np.int32(work[INSIDE + i])


@_jit
def _rows(
    image: Any, fold: Any, traces: Any, ends: Any, pillars: Any, r: Any, job: Any, rays: Any, first: int, end: int
) -> None:
    ntr, nt = len(traces), image.shape[1]
    physics, kappa, latest = rays
    total, count, work = np.empty(nt, f4), np.empty(nt, np.int32), np.empty(WORK, f4)
    for p in range(first, end):
        row = min(p, len(r.samples) - 1)
        table, furthest, fastest, start = r.samples[row], r.reach[row, 0], r.reach[row, 1], r.reach[row, 2]
        total[:] = 0
        count[:] = 0
        x, y = pillars[p]
        lo = hi = 0
        for k in range(ntr):
            sx, sy, rx, ry = ends[0, k] - x, ends[1, k] - y, ends[2, k] - x, ends[3, k] - y
            mx, my = f4(0.5) * (ends[0, k] + ends[2, k]) - x, f4(0.5) * (ends[1, k] + ends[3, k]) - y
            ds, dr, reach = sx * sx + sy * sy, rx * rx + ry * ry, np.sqrt(mx * mx + my * my)
            # Where the radius first reaches the trace, and where the trace has ended: T^2 >= t0^2 + (ds + dr)^2 / V^2.
            # Neighbouring traces differ little, so walk there from the last answer.
            spread = ds + dr + f4(2) * np.sqrt(ds * dr)
            while lo > 0 and furthest[lo - 1] >= reach:
                lo -= 1
            while lo < nt and furthest[lo] < reach:
                lo += 1
            while hi < nt and f4(4) * start[hi] * start[hi] + spread * fastest[hi] <= latest:
                hi += 1
            while hi > 0 and f4(4) * start[hi - 1] * start[hi - 1] + spread * fastest[hi - 1] > latest:
                hi -= 1
            for begin in range(lo, hi, CHUNK):
                number = min(CHUNK, hi - begin)
                if physics == 0:
                    _straight(work, table, nt, ds, dr, begin, number)
                elif physics == 1:
                    _curved(work, table, nt, kappa, ds, dr, begin, number)
                else:
                    _vti(work, table, nt, ds, dr, begin, number)
                _places(work, table, nt, reach, job, begin, number)
                _add(total, count, traces[k], work, begin, number)
        for t in range(nt):
            image[p, t] += table[4 * nt + t] * total[t]
        if len(fold) > 0:
            fold[p] += count


def migrate(
    image: torch.Tensor,
    fold: torch.Tensor | None,
    traces: torch.Tensor,
    source: torch.Tensor,
    receiver: torch.Tensor,
    pillars: torch.Tensor,
    vrms: torch.Tensor,
    *,
    amplitude: str = "true",
    aperture: RadiusAperture | None = None,
    area: float = 1.0,
    physics: str = "straight",
    medium: tuple[float, float] | None = None,
    eta: torch.Tensor | None = None,
    **axes: float,
) -> None:
    """Add the migrated traces to ``image``; arguments as ``migrate.run``."""
    options: dict[str, Any] = {"amplitude": amplitude, "aperture": aperture, "area": area, **axes}
    rows, tables = kept_tables(vrms, _arrays, **options, block=1, nodes=(0,), medium=medium, eta=eta)
    latest = stretched(max(traces.shape[1] - 1 + tables.shift, 0.0) + 0.1, tables.kappa)
    rays = PHYSICS.index(physics), f4(tables.kappa), f4(latest) * f4(latest)
    job = f4(traces.shape[1] - 1), f4(tables.shift), f4(tables.rim), amplitude == "true"
    ends = torch.cat([source.T, receiver.T]).contiguous().numpy()
    count = np.zeros((0, 0), np.int32) if fold is None else fold.numpy()
    arrays = (image.numpy(), count, traces.numpy(), ends, pillars.numpy(), rows, job, rays)
    parallel_for(len(pillars), lambda first, end: _rows(*arrays, first, end))
