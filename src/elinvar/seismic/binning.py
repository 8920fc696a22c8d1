"""What gathers are made of: offset bins, azimuth sectors or offset-vector tiles, and which trace is in which.

A description (:class:`OffsetBins`, :class:`AzimuthSectors`, :class:`OffsetVectorTiles`) is small, frozen and knows no
survey. ``assign(survey)`` gives every trace the number of its bin, or -1: such traces are in the stack only.

Coordinates are held to the centimetre, as SEG-Y holds them, and angles to the hundredth of a degree, so that an offset
of 399.9999999 m belongs to the bin that starts at 400 m.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Literal, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from elinvar.errors import InputError

from ._check import number

if TYPE_CHECKING:
    from .survey import Survey

__all__ = ["Assignment", "AzimuthSectors", "Binning", "GatherAxis", "OffsetBins", "OffsetVectorTiles", "binning"]

Floats = NDArray[np.float64]
Indices = NDArray[np.int64]
Dimension = Literal["offset", "azimuth", "tile"]
_MOST_TILES = 4096


@dataclass(frozen=True, eq=False)
class GatherAxis:
    """The bin dimension of gathers.

    Attributes
    ----------
    dim
        ``"offset"``, ``"azimuth"`` or ``"tile"``.
    values
        Coordinate of each bin, (n,): its middle in metres or degrees, or the tile's number.
    units
        ``"m"``, ``"degree"`` or ``"1"``.
    labels
        For people, one per bin: ``"0 to 400 m"``.
    edges
        Bin edges, (n + 1,), or None for tiles.
    rms_offset
        Root of the mean squared offset of each bin's live traces in metres, NaN for an empty bin: moveout grows with
        the square of the offset, so this is the offset a gather trace stands for.
    mean_azimuth
        Mean source-receiver direction of each bin's live traces, sources and receivers alike: degrees in [0, 180), NaN
        for an empty bin.
    """

    dim: Dimension
    values: Floats
    units: str
    labels: tuple[str, ...]
    edges: Floats | None
    rms_offset: Floats
    mean_azimuth: Floats

    def __len__(self) -> int:
        return len(self.values)


@dataclass(frozen=True, eq=False)
class Assignment:
    """Which trace of a survey is in which bin.

    Attributes
    ----------
    axis
        What the bins are.
    member
        Bin of each trace, int64 (n,), -1 for none.
    """

    axis: GatherAxis
    member: Indices

    def __len__(self) -> int:
        return len(self.axis)


class Binning(Protocol):
    """A description of gathers."""

    def assign(self, survey: Survey) -> Assignment:
        """Return the bin of every trace of a survey."""


@dataclass(frozen=True)
class OffsetBins:
    """Common-offset bins: ``edge <= offset < next``, the last one closed.

    Parameters
    ----------
    edges
        Metres, strictly increasing.
    along
        None for absolute offsets. An azimuth in degrees makes them signed: negative where the receiver lies on the
        other side of the source than this direction.
    """

    edges: tuple[float, ...]
    along: float | None = None

    def __init__(self, edges: ArrayLike, along: float | None = None) -> None:
        array = np.asarray(edges, dtype=np.float64)
        if array.ndim != 1 or array.size < 2 or not np.isfinite(array).all() or (np.diff(array) <= 0).any():
            raise InputError(
                f"migrate: gathers={np.asarray(edges).tolist()} must be offset bin edges in rising metres."
            )
        object.__setattr__(self, "edges", tuple(array.tolist()))
        object.__setattr__(self, "along", None if along is None else number("OffsetBins", "along", along))

    def assign(self, survey: Survey) -> Assignment:
        """Return the bin of every trace."""
        offset = np.round(survey.offset, 2)
        if self.along is not None:
            direction = np.radians(self.along)
            east, north = (survey.receiver - survey.source).T
            back = np.round(east * np.sin(direction) + north * np.cos(direction), 2) < 0  # never by a rounding error
            offset = np.where(back, -offset, offset)
        edges = np.asarray(self.edges)
        labels = tuple(f"{a:g} to {b:g} m" for a, b in pairwise(edges))
        middle = 0.5 * (edges[1:] + edges[:-1])
        return _assignment(survey, _between(offset, edges), "offset", middle, "m", labels, edges)


@dataclass(frozen=True)
class AzimuthSectors:
    """Sectors of the source-to-receiver direction, clockwise: ``edge <= azimuth < next``, the last one closed.

    Parameters
    ----------
    edges
        Degrees clockwise from north, strictly increasing, spanning at most half a turn (a whole one when not
        reciprocal); they may start below 0: ``(-15, 15, 45)``.
    reciprocal
        Count opposite directions as the same, as is usual for pressure data.

    Notes
    -----
    Traces of zero offset have no direction and are in no sector.
    """

    edges: tuple[float, ...]
    reciprocal: bool = True

    def __init__(self, edges: ArrayLike, reciprocal: bool = True) -> None:
        array = np.asarray(edges, dtype=np.float64)
        turn = 180.0 if reciprocal else 360.0
        if array.ndim != 1 or array.size < 2 or not np.isfinite(array).all() or (np.diff(array) <= 0).any():
            raise InputError(
                f"AzimuthSectors: edges {np.asarray(edges).tolist()} must be rising degrees, two at least."
            )
        if array[-1] - array[0] > turn:
            raise InputError(
                f"AzimuthSectors: edges span {array[-1] - array[0]:g} degrees; "
                f"{'reciprocal sectors' if reciprocal else 'sectors'} span at most {turn:g}."
            )
        object.__setattr__(self, "edges", tuple(array.tolist()))
        object.__setattr__(self, "reciprocal", bool(reciprocal))

    def assign(self, survey: Survey) -> Assignment:
        """Return the sector of every trace."""
        edges = np.asarray(self.edges)
        turn = 180.0 if self.reciprocal else 360.0
        # Rounded before and after the modulo: 359.999 degrees is north, and so is 360.
        relative = np.round(np.round(survey.azimuth - edges[0], 2) % turn, 2) % turn
        member = _between(relative, np.round(edges - edges[0], 6))
        member[np.round(survey.offset, 2) == 0.0] = -1
        labels = tuple(f"{a:g} to {b:g} degrees" for a, b in pairwise(edges))
        middle = 0.5 * (edges[1:] + edges[:-1])
        return _assignment(survey, member, "azimuth", middle, "degree", labels, edges)


@dataclass(frozen=True)
class OffsetVectorTiles:
    """Offset-vector tiles: cells of the plane of offset vectors (Vermeer 1998; Cary 1999).

    One tile is a volume of near-common offset and azimuth, of about single fold. The tiles are those in which a survey
    has live traces, ordered along the first axis, then the second; a tile's corner lies at zero offset.

    Parameters
    ----------
    dx, dy
        Size in metres along and across `azimuth`; twice the receiver-line and source-line interval for an orthogonal
        land spread.
    azimuth
        Direction of the first tile axis, degrees clockwise from north; the second lies 90 degrees clockwise of it.
    reciprocal
        Turn vectors of the far half plane round first, so that opposite tiles are one.
    """

    dx: float
    dy: float
    azimuth: float = 0.0
    reciprocal: bool = False

    def __post_init__(self) -> None:
        for name in ("dx", "dy"):
            size = number("OffsetVectorTiles", name, getattr(self, name), low=0.0, open_low=True)
            object.__setattr__(self, name, size)
        object.__setattr__(self, "azimuth", number("OffsetVectorTiles", "azimuth", self.azimuth))

    def assign(self, survey: Survey) -> Assignment:
        """Return the tile of every trace."""
        angle = np.radians(self.azimuth)
        east, north = (survey.receiver - survey.source).T
        vector = np.stack(
            [east * np.sin(angle) + north * np.cos(angle), east * np.cos(angle) - north * np.sin(angle)], axis=1
        )
        vector = np.round(vector, 2)
        if self.reciprocal:
            far = (vector[:, 0] < 0) | ((vector[:, 0] == 0) & (vector[:, 1] < 0))
            vector[far] *= -1.0
        cell = np.floor(vector / (self.dx, self.dy)).astype(np.int64)
        tiles = np.unique(cell[survey.live], axis=0)
        if len(tiles) > _MOST_TILES:
            raise InputError(
                f"OffsetVectorTiles: {self.dx:g} x {self.dy:g} m cuts this survey into {len(tiles):,} tiles; at most "
                f"{_MOST_TILES:,} are accepted: make them larger."
            )
        order = {(int(i), int(j)): k for k, (i, j) in enumerate(tiles)}
        found, place = np.unique(cell, axis=0, return_inverse=True)
        number_of = np.array([order.get((int(i), int(j)), -1) for i, j in found], np.int64)
        labels = tuple(
            f"{i * self.dx:g} to {(i + 1) * self.dx:g} m, {j * self.dy:g} to {(j + 1) * self.dy:g} m" for i, j in tiles
        )
        numbers = np.arange(len(tiles), dtype=np.float64)
        return _assignment(survey, number_of[place.ravel()], "tile", numbers, "1", labels, None)


def _assignment(
    survey: Survey,
    member: Indices,
    dim: Dimension,
    values: Floats,
    units: str,
    labels: tuple[str, ...],
    edges: Floats | None,
) -> Assignment:
    chosen = survey.live & (member >= 0)
    bins = len(values)
    count = np.bincount(member[chosen], minlength=bins).astype(np.float64)

    def mean(per_trace: Floats) -> Floats:
        total = np.bincount(member[chosen], per_trace[chosen], bins)
        return np.asarray(np.divide(total, count, out=np.full(bins, np.nan), where=count > 0), np.float64)

    # The mean of a direction that has no sign: double the angle, average, halve.
    twice = 2.0 * np.radians(survey.azimuth)
    direction = np.degrees(np.arctan2(mean(np.sin(twice)), mean(np.cos(twice)))) / 2.0 % 180.0
    axis = GatherAxis(dim, values, units, labels, edges, np.sqrt(mean(np.square(survey.offset))), direction)
    return Assignment(axis, member)


def _between(values: Floats, edges: Floats) -> Indices:
    """Return the bin of each value, edge <= value < next edge, the last bin closed; -1 outside."""
    member = np.searchsorted(edges, values, side="right") - 1
    member[values == edges[-1]] = len(edges) - 2
    member[(member < 0) | (member > len(edges) - 2)] = -1
    return member.astype(np.int64)


def binning(gathers: ArrayLike | Binning) -> Binning:
    """Return a description of gathers: itself, or offset bins with the given edges in metres."""
    if isinstance(gathers, (OffsetBins, AzimuthSectors, OffsetVectorTiles)):
        return gathers
    return OffsetBins(gathers)  # type: ignore[arg-type]
