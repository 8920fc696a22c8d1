"""The migration anyone would write first, in numpy and as a plain numba loop: what the kernels are compared with.

Same physics as :mod:`elinvar.seismic.kernels.migrate` (straight rays, linear interpolation, true-amplitude weight), no
aperture, one thread, no trick. For the tour and for benchmarks, not for work.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

__all__ = ["compiled_loop", "numpy_loop"]

Array = NDArray[np.float32]


def numpy_loop(
    traces: Array,
    dt: float | np.float32,
    source: Array,
    receiver: Array,
    pillars: Array,
    t0: Array,
    v: float | np.float32,
) -> tuple[Array, int]:
    """Migrate traces (ntr, ns) into an image (pillars, nt), vectorised over traces x times; return it and the work.

    Parameters
    ----------
    traces, dt
        Filtered samples and their interval in seconds, starting at time 0.
    source, receiver, pillars
        Local coordinates in metres, (ntr, 2) and (np, 2).
    t0, v
        Two-way output times (s) and one velocity (m/s).

    Returns
    -------
    tuple
        The image, and the number of contributions.
    """
    image, work = np.zeros((len(pillars), len(t0)), np.float32), 0
    rows = np.arange(len(traces))[:, None]
    last = traces.shape[1] - 1
    for p, place in enumerate(pillars):
        ds = np.square(source - place).sum(axis=1)[:, None] / v**2
        dr = np.square(receiver - place).sum(axis=1)[:, None] / v**2
        t = np.sqrt(0.25 * t0**2 + ds) + np.sqrt(0.25 * t0**2 + dr)
        x = t / dt
        inside = x <= last
        j = np.minimum(x.astype(np.int32), last - 1)
        value = traces[rows, j] * (1 - (x - j)) + traces[rows, j + 1] * (x - j)
        weight = 2 * t0 / (math.pi * v**2 * np.maximum(t, dt) ** 2)
        image[p] = np.where(inside, value * weight, 0).sum(axis=0)
        work += int(inside.sum())
    return image, work


@cache
def compiled_loop() -> Callable[..., tuple[Array, int]]:
    """Return :func:`numpy_loop` as three nested loops compiled by numba (the first call compiles)."""
    import numba

    @numba.njit(nogil=True)
    def loop(
        traces: Any, dt: float, source: Any, receiver: Any, pillars: Any, t0: Any, v: float
    ) -> tuple[Any, int]:  # pragma: no cover - compiled
        image, work = np.zeros((len(pillars), len(t0)), np.float32), 0
        last = traces.shape[1] - 1
        for p in range(len(pillars)):
            for k in range(len(traces)):
                ds = ((source[k, 0] - pillars[p, 0]) ** 2 + (source[k, 1] - pillars[p, 1]) ** 2) / (v * v)
                dr = ((receiver[k, 0] - pillars[p, 0]) ** 2 + (receiver[k, 1] - pillars[p, 1]) ** 2) / (v * v)
                for i in range(len(t0)):
                    half = np.float32(0.25) * t0[i] * t0[i]
                    t = np.sqrt(half + ds) + np.sqrt(half + dr)
                    x = t / dt
                    j = int(x)
                    if j < last:
                        f = x - j
                        value = traces[k, j] * (1 - f) + traces[k, j + 1] * f
                        image[p, i] += value * 2 * t0[i] / (math.pi * v * v * t * t) if t > 0 else 0.0
                        work += 1
        return image, work

    return cast("Callable[..., tuple[Array, int]]", loop)
