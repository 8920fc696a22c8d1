"""In which order traces go through the kernel: neighbours together, so that what one trace needs the next one has.

The order is a function of positions alone: it is fixed before a job starts, and the same when it is gone on with.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["morton"]

_BITS = 16  # per coordinate: a metre in 65 km
_SPREAD = ((8, 0x00FF00FF), (4, 0x0F0F0F0F), (2, 0x33333333), (1, 0x55555555))


def morton(places: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return the order of places along a Z-shaped curve through the plane (Morton 1966).

    Parameters
    ----------
    places
        Map coordinates in metres, (n, 2). The curve's cells are 1 / 65,536 of the larger extent.

    Returns
    -------
    ndarray
        Positions, (n,); places in one cell keep their order.
    """
    low = places.min(axis=0)
    extent = float((places.max(axis=0) - low).max())
    cells = (2**_BITS - 1) / extent if extent > 0 else 0.0
    code = np.zeros(len(places), np.uint32)
    for axis in (0, 1):
        bits = ((places[:, axis] - low[axis]) * cells).astype(np.uint32)
        for shift, mask in _SPREAD:  # abcd -> 0a0b0c0d
            bits = (bits | (bits << np.uint32(shift))) & np.uint32(mask)
        code |= bits << np.uint32(axis)
    return np.argsort(code, kind="stable").astype(np.int64)
