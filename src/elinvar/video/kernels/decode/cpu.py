"""The same on the CPU: rows in turn, every inner loop along x, so that it fills vector registers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

import numba
import numpy as np
import torch

from elinvar.runtime.parallel import parallel_for
from elinvar.video.yuv import SITINGS, Coding

__all__ = ["decode"]

_jit = cast(
    "Callable[[Callable[..., None]], Callable[..., None]]",
    numba.njit(nogil=True, error_model="numpy", fastmath={"contract"}, cache=True),
)
_CHUNK = 32


def decode(planes: Sequence[torch.Tensor], out: torch.Tensor, how: Coding) -> None:
    """Write R'G'B' into `out` [3, H, W] float32."""
    form = how.format
    arrays = [p.numpy() for p in planes]
    cb, cr = (arrays[1][..., 0], arrays[1][..., 1]) if form.interleaved else (arrays[1], arrays[2])
    values = (how.vector(), np.int32(form.shift), form.across, form.down, SITINGS[how.siting])
    target = out.numpy()
    parallel_for(
        target.shape[1],
        lambda first, last: _rows(first, last, arrays[0], cb, cr, *values, target),
        chunk=_CHUNK,
    )


@_jit
def _rows(  # noqa: C901  (one branch for each way chroma lies; numba drops what is constant)
    first: int,
    last: int,
    luma: Any,
    cb: Any,
    cr: Any,
    k: Any,
    shift: Any,
    across: int,
    down: int,
    siting: int,
    out: Any,
) -> None:
    width = luma.shape[1]
    rows, columns = cb.shape
    half, quarter = np.float32(0.5), np.float32(0.25)
    kr, kg, kb, scale, offset, middle = k[0], k[1], k[2], np.float32(1) / k[3], k[4], k[9]
    sb, sr = np.float32(1) / k[7], np.float32(1) / k[8]
    gb, gr = kb / kg, kr / kg
    line = np.empty((2, columns + 1), np.float32)
    full = np.empty((2, width + 1), np.float32)
    for y in range(first, last):
        near, far, part = y, y, np.float32(0)
        if down == 2:
            near = y >> 1
            if siting == 2:
                far, part = (min(near + 1, rows - 1), half) if y & 1 else (near, np.float32(0))
            else:
                far, part = min(max(near + (1 if y & 1 else -1), 0), rows - 1), quarter
        for c in range(2):
            plane = cb if c == 0 else cr
            a, b, to = plane[near], plane[far], line[c]
            keep = np.float32(1) - part
            for i in range(columns):
                to[i] = keep * np.float32(a[i] >> shift) + part * np.float32(b[i] >> shift) - middle
            to[columns] = to[columns - 1]
            wide = full[c]
            if across == 1:
                for i in range(width):
                    wide[i] = to[i]
            elif siting == 1:
                for i in range(columns):
                    wide[2 * i] = np.float32(0.75) * to[i] + quarter * to[max(i - 1, 0)]
                    if 2 * i + 1 < width:
                        wide[2 * i + 1] = np.float32(0.75) * to[i] + quarter * to[i + 1]
            else:
                for i in range(columns):
                    wide[2 * i] = to[i]
                    if 2 * i + 1 < width:
                        wide[2 * i + 1] = half * (to[i] + to[i + 1])
        codes, u, v = luma[y], full[0], full[1]
        r, g, b = out[0, y], out[1, y], out[2, y]
        for i in range(width):
            grey = (np.float32(codes[i] >> shift) - offset) * scale
            blue, red = u[i] * sb, v[i] * sr
            r[i] = grey + red
            g[i] = grey - gb * blue - gr * red
            b[i] = grey + blue
