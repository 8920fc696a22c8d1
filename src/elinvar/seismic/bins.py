"""Bins for midpoints: the lattice they lie on, or a standard size."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ._check import optional_library, points

__all__ = ["Bins", "suggest_bins"]

Floats = NDArray[np.float64]
_SAMPLE = 20_000  # midpoints looked at for a bin suggestion
_STANDARD_BINS = (3.125, 6.25, 12.5, 18.75, 20.0, 25.0, 30.0, 37.5, 50.0, 75.0, 100.0, 150.0, 200.0)


@dataclass(frozen=True)
class Bins:
    """A suggestion for bins: spacing in metres, lattice direction in degrees, and whether there is a lattice at all."""

    dx: float
    dy: float
    azimuth: float
    regular: bool


def suggest_bins(midpoints: ArrayLike) -> Bins:
    """Suggest bins for midpoints of shape (n, 2).

    A lattice is found from the vectors between nearest neighbours: their common direction modulo 90 degrees is the
    azimuth (in -45..45); a least-squares fit of the whole lattice gives the spacing. Without one (irregular land
    geometry) the suggestion is the standard size next to the square root of area per distinct midpoint.
    """
    place = np.unique(np.round(points("suggest_bins", "midpoints", midpoints), 2), axis=0)
    if len(place) < 2:
        return Bins(25.0, 25.0, 0.0, regular=False)
    tree = optional_library("scipy.spatial", "suggest_bins").cKDTree(place)
    chosen = place[:: max(1, len(place) // _SAMPLE)]
    distance, neighbour = tree.query(chosen, k=2)
    vector = place[neighbour[:, 1]] - chosen
    # Four times the angle makes directions 90 degrees apart equal, so the mean is that of the lattice.
    angle = np.arctan2(vector[:, 0], vector[:, 1])
    mean = np.mean(np.exp(4j * angle))
    nearest = float(np.median(distance[:, 1]))
    if abs(mean) < 0.9 or np.percentile(distance[:, 1], 90) > 1.1 * nearest:
        area = max(float(np.ptp(place[:, 0]) * np.ptp(place[:, 1])), nearest * nearest)
        size = min(_STANDARD_BINS, key=lambda s: abs(math.log(s / math.sqrt(area / len(place)))))
        return Bins(size, size, 0.0, regular=False)
    azimuth = math.degrees(np.angle(mean)) / 4.0
    turn = math.radians(azimuth)
    axes = np.array([[math.sin(turn), math.cos(turn)], [math.cos(turn), -math.sin(turn)]])
    middle = place[np.argmin(np.square(place - place.mean(axis=0)).sum(axis=1))]
    steps = [
        _step((place - middle) @ axis, (place - middle) @ other, nearest)
        for axis, other in ((axes[0], axes[1]), (axes[1], axes[0]))
    ]
    known = [s for s in steps if s is not None] or [nearest]
    dx, dy = (known[0] if s is None else s for s in steps)
    along = np.array([dx * axes[0], dy * axes[1]])
    along, number_of = _fit_lattice(place - middle, along)
    longest = int(np.argmax(number_of * np.hypot(*along.T)))
    # The crossline axis points 90 degrees further.
    fitted = math.degrees(math.atan2(along[longest, 0], along[longest, 1])) - 90.0 * longest
    azimuth = (fitted + 180.0) % 360.0 - 180.0
    sizes = [_tidy(float(np.hypot(*step)), int(n)) for step, n in zip(along, number_of, strict=True)]
    return Bins(sizes[0], sizes[1], _tidy(azimuth, 10) + 0.0, regular=True)


def _step(coordinate: Floats, across: Floats, nearest: float) -> float | None:
    """Return the usual gap between distinct values near the middle; None when there is but one value anywhere."""
    reach = 10.0 * nearest
    while True:
        # Far from the middle, the error of the azimuth would smear values of one line into many.
        gaps = np.diff(np.sort(coordinate[(np.abs(coordinate) <= reach) & (np.abs(across) <= reach)]))
        gaps = gaps[gaps > 0.2 * nearest]
        if gaps.size or reach > max(np.abs(coordinate).max(), np.abs(across).max()):
            return float(np.median(gaps)) if gaps.size else None
        reach *= 3.0


def _fit_lattice(place: Floats, along: Floats) -> tuple[Floats, NDArray[np.int64]]:
    """Refine two lattice vectors by least squares, from the middle outwards, so that no index is ever ambiguous.

    `place` is relative to one of the points. Returns the vectors (2, 2) and how many steps the points span along each.
    """
    away = np.hypot(*place.T)
    reach = 10.0 * float(np.hypot(*along.T).max())
    while True:
        near = place[away <= reach]
        index = np.round(near @ np.linalg.inv(along))
        spans = np.ptp(index, axis=0)
        columns = np.concatenate([np.ones((len(near), 1)), index], axis=1)
        fit, *_ = np.linalg.lstsq(columns, near, rcond=None)
        along = np.where((spans > 0)[:, None], fit[1:], along)
        if reach >= away.max():
            return along, spans.astype(np.int64)
        reach *= 3.0


def _tidy(value: float, n: int) -> float:
    """Round to the hundredth where that moves nothing by more than a centimetre over `n` steps."""
    short = round(value, 2)
    return short if abs(value - short) * max(n, 1) < 0.01 else round(value, 6)
