"""Surveys with a known answer: diffractors, flat reflectors, a dipping plane. Constant velocity, any geometry.

Amplitudes are *spreading-corrected*: a reflector of reflectivity 1 gives every trace the wavelet with unit peak, so the
true-amplitude image of it has unit peak as well. Traces are computed when they are read (the large data set is 6.6 GB),
the same ones whatever the block size, since the noise of each trace has its own random stream.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from elinvar.errors import InputError

from ._check import choice, count, number, points
from .grid import Grid
from .survey import Survey
from .velocity import Velocity
from .wavelet import ricker, ricker_derivative

__all__ = ["DATASETS", "SyntheticSurvey", "dataset", "diffractors", "dipping_plane", "flat_reflectors"]

Floats = NDArray[np.float64]

#: name -> (extent in metres, offsets in metres, samples): two azimuths each, midpoints every 25 m.
DATASETS: dict[str, tuple[float, tuple[float, ...], int]] = {
    "tiny": (500.0, tuple(range(200, 401, 200)), 501),
    "small": (1000.0, tuple(range(200, 801, 200)), 1001),
    "medium": (2000.0, tuple(range(200, 1601, 200)), 1501),
    "large": (4000.0, tuple(range(200, 3201, 200)), 2001),
}


class SyntheticSurvey(Survey):
    """A survey that knows its truth.

    Attributes
    ----------
    velocity
        What it was made with.
    grid
        One bin per midpoint, all times: where to image it.
    truth
        What is in it: ``points`` (x, y, t0) or ``times`` or ``plane``, with ``amplitudes`` and ``frequency``.
    """

    velocity: Velocity
    grid: Grid
    truth: dict[str, Any]


@dataclass(frozen=True)
class _Geometry:
    """Every midpoint of a rectangle for every offset vector."""

    source: Floats
    receiver: Floats
    grid: Grid

    @classmethod
    def make(
        cls,
        extent: float | tuple[float, float],
        spacing: float | tuple[float, float],
        offsets: Sequence[float],
        azimuths: Sequence[float],
        origin: tuple[float, float],
        rotation: float,
        nt: int,
        dt: float,
    ) -> _Geometry:
        """Lay midpoints out along `rotation` degrees (the +inline axis) from `origin`."""
        size, step = (tuple(map(float, np.broadcast_to(v, (2,)))) for v in (extent, spacing))
        n = [round(e / s) + 1 for e, s in zip(size, step, strict=True)]
        grid = Grid(origin, rotation, n[0], n[1], step[0], step[1], nt, dt)
        sources, receivers = [], []
        for offset in offsets:
            for azimuth in azimuths:
                angle = math.radians(azimuth)
                half = 0.5 * offset * np.array([math.sin(angle), math.cos(angle)])
                sources.append(grid.pillars - half)
                receivers.append(grid.pillars + half)
        if not sources:
            raise InputError("synthetic: no offsets or no azimuths given; give at least one of each.")
        return cls(np.concatenate(sources), np.concatenate(receivers), grid)


@dataclass(frozen=True)
class _Events:
    """Traces that are sums of events, each a wavelet at a time per trace, plus noise."""

    times: Floats  # (events, traces), seconds
    amplitudes: Floats  # (events,)
    frequency: float
    kind: Literal["reflector", "diffractor"]
    samples: int
    dt: float
    start: float
    noise: float
    seed: int

    @property
    def shape(self) -> tuple[int, int]:
        return self.times.shape[1], self.samples

    def read(self, index: NDArray[np.int64]) -> NDArray[np.float32]:
        """Compute the traces at `index`."""
        wavelet = ricker if self.kind == "reflector" else ricker_derivative
        reach = math.ceil(2.5 / (self.frequency * self.dt))  # there the Ricker has fallen below 1e-20 of its peak
        margin = 2 * reach + 2  # an event that only reaches into the record still lies wholly inside this
        out = np.zeros((len(index), self.samples + 2 * margin))
        for times, amplitude in zip(self.times, self.amplitudes, strict=True):
            centre = (times[index] - self.start) / self.dt
            row = np.flatnonzero((centre > -reach) & (centre < self.samples + reach))
            column = np.floor(centre[row]).astype(np.int64)[:, None] - reach + np.arange(2 * reach + 2)
            value = wavelet((column - centre[row, None]) * self.dt, self.frequency)
            out[row[:, None], column + margin] += amplitude * value
        result = out[:, margin : margin + self.samples].astype(np.float32)
        if self.noise > 0:
            for samples, trace in zip(result, index, strict=True):
                stream = np.random.Generator(np.random.Philox(key=self.seed, counter=[0, 0, 0, int(trace)]))
                samples += np.float32(self.noise) * stream.standard_normal(self.samples, dtype=np.float32)
        return result


def _survey(
    geometry: _Geometry,
    times: Floats,
    amplitudes: ArrayLike,
    kind: Literal["reflector", "diffractor"],
    velocity: float,
    truth: dict[str, Any],
    *,
    frequency: float,
    nt: int,
    dt: float,
    start: float,
    noise: float,
    seed: int,
    name: str,
) -> SyntheticSurvey:
    strength = np.broadcast_to(np.asarray(amplitudes, np.float64), (len(times),))
    events = _Events(
        times,
        strength,
        number(name, "frequency", frequency, low=0.0, high=0.5 / dt, open_low=True),
        kind,
        count(name, "nt", nt, minimum=2),
        dt,
        number(name, "start", start),
        number(name, "noise", noise, low=0.0),
        count(name, "seed", seed, minimum=0),
    )
    cell = (geometry.grid.dx, geometry.grid.dy)
    survey = SyntheticSurvey(events, geometry.source, geometry.receiver, dt, delay=start, bin_size=cell, name=name)
    survey.grid = geometry.grid
    survey.velocity = Velocity.constant(velocity)
    survey.truth = {**truth, "amplitudes": strength.tolist(), "frequency": frequency, "velocity": velocity}
    return survey


def diffractors(
    places: ArrayLike,
    *,
    amplitudes: ArrayLike = 1.0,
    velocity: float = 2500.0,
    extent: float | tuple[float, float] = 1000.0,
    spacing: float | tuple[float, float] = 25.0,
    offsets: Sequence[float] = (200.0,),
    azimuths: Sequence[float] = (0.0,),
    origin: tuple[float, float] = (0.0, 0.0),
    rotation: float = 0.0,
    nt: int = 1001,
    dt: float = 0.002,
    start: float = 0.0,
    frequency: float = 25.0,
    noise: float = 0.0,
    seed: int = 0,
    name: str = "diffractors",
) -> SyntheticSurvey:
    """Return a survey over point scatterers.

    Parameters
    ----------
    places
        Map coordinates and depth of each scatterer in metres, shape (n, 3).
    amplitudes
        Peak of each one's response, scalar or (n,). The response is :func:`~elinvar.seismic.wavelet.ricker_derivative`:
        migrated, a scatterer peaks positive at its own place and time.
    velocity
        Constant velocity, m/s.
    extent, spacing
        Midpoint rectangle and midpoint spacing along the +inline and the crossline axis, metres.
    offsets, azimuths
        Every combination is shot over all midpoints; metres, and degrees clockwise from north.
    origin, rotation
        Map coordinates of the first midpoint, and the azimuth of the +inline axis in degrees.
    nt, dt, start
        Samples, their interval and the recording delay in seconds.
    frequency
        Ricker peak frequency, Hz.
    noise
        Standard deviation of white noise relative to the response's peak (0.05 is 5 %).
    seed
        Seed of the noise.
    """
    place = np.asarray(places, np.float64)
    if place.ndim != 2 or place.shape[1] != 3 or not np.isfinite(place).all() or (place[:, 2] <= 0).any():
        raise InputError(f"diffractors: places have shape {place.shape}; give (n, 3): x, y and depth > 0 in metres.")
    v = number("diffractors", "velocity", velocity, low=0.0, open_low=True)
    geometry = _Geometry.make(extent, spacing, offsets, azimuths, origin, rotation, nt, dt)
    legs = [
        np.sqrt(((end[None] - place[:, None, :2]) ** 2).sum(-1) + place[:, 2:] ** 2)
        for end in (geometry.source, geometry.receiver)
    ]
    truth = {"points": [(float(x), float(y), float(2.0 * z / v)) for x, y, z in place]}
    return _survey(
        geometry, (legs[0] + legs[1]) / v, amplitudes, "diffractor", v, truth,
        frequency=frequency, nt=nt, dt=dt, start=start, noise=noise, seed=seed, name=name,
    )  # fmt: skip


def flat_reflectors(
    times: ArrayLike,
    *,
    amplitudes: ArrayLike = 1.0,
    velocity: float = 2500.0,
    extent: float | tuple[float, float] = 1000.0,
    spacing: float | tuple[float, float] = 25.0,
    offsets: Sequence[float] = (200.0,),
    azimuths: Sequence[float] = (0.0,),
    origin: tuple[float, float] = (0.0, 0.0),
    rotation: float = 0.0,
    nt: int = 1001,
    dt: float = 0.002,
    start: float = 0.0,
    frequency: float = 25.0,
    noise: float = 0.0,
    seed: int = 0,
    name: str = "flat reflectors",
) -> SyntheticSurvey:
    """Return a survey over horizontal reflectors at the given two-way vertical times (s).

    A trace of offset h sees them at ``sqrt(t0^2 + h^2/v^2)`` with the zero-phase Ricker of unit peak. Other parameters
    as in :func:`diffractors`.
    """
    t0 = np.atleast_1d(np.asarray(times, np.float64))
    if t0.ndim != 1 or not np.isfinite(t0).all() or (t0 <= 0).any():
        raise InputError(f"flat_reflectors: times {t0.tolist()} must be two-way seconds > 0.")
    v = number("flat_reflectors", "velocity", velocity, low=0.0, open_low=True)
    geometry = _Geometry.make(extent, spacing, offsets, azimuths, origin, rotation, nt, dt)
    h = np.hypot(*(geometry.receiver - geometry.source).T)
    return _survey(
        geometry, np.hypot(t0[:, None], h / v), amplitudes, "reflector", v, {"times": t0.tolist()},
        frequency=frequency, nt=nt, dt=dt, start=start, noise=noise, seed=seed, name=name,
    )  # fmt: skip


def dipping_plane(
    dip: float,
    dip_azimuth: float,
    depth: float,
    *,
    amplitudes: ArrayLike = 1.0,
    velocity: float = 2500.0,
    extent: float | tuple[float, float] = 1000.0,
    spacing: float | tuple[float, float] = 25.0,
    offsets: Sequence[float] = (200.0,),
    azimuths: Sequence[float] = (0.0,),
    origin: tuple[float, float] = (0.0, 0.0),
    rotation: float = 0.0,
    nt: int = 1001,
    dt: float = 0.002,
    start: float = 0.0,
    frequency: float = 25.0,
    noise: float = 0.0,
    seed: int = 0,
    name: str = "dipping plane",
) -> SyntheticSurvey:
    """Return a survey over a plane (Levin 1971): ``T^2 = (2D/v)^2 + (h/v)^2 (1 - sin^2 dip cos^2 phi)``.

    ``D`` is the plane's distance from the midpoint, ``h`` the full offset, ``phi`` the angle between the offset and the
    direction of dip.

    Parameters
    ----------
    dip
        Degrees from horizontal, in [0, 90).
    dip_azimuth
        Direction in which the plane deepens, degrees clockwise from north.
    depth
        Depth in metres below the middle of the midpoint rectangle.
    **others
        As in :func:`diffractors`. ``truth["plane"]`` holds ``(x, y, depth, dip, dip_azimuth)``; the image of
        the plane at map point p lies at the two-way time of its depth there.
    """
    angle = math.radians(number("dipping_plane", "dip", dip, low=0.0, high=90.0, open_high=True))
    down = math.radians(number("dipping_plane", "dip_azimuth", dip_azimuth))
    z = number("dipping_plane", "depth", depth, low=0.0, open_low=True)
    v = number("dipping_plane", "velocity", velocity, low=0.0, open_low=True)
    geometry = _Geometry.make(extent, spacing, offsets, azimuths, origin, rotation, nt, dt)
    direction = np.array([math.sin(down), math.cos(down)])
    middle = np.array(geometry.grid.centre)
    midpoint = points("dipping_plane", "midpoints", 0.5 * (geometry.source + geometry.receiver))
    distance = z * math.cos(angle) + (midpoint - middle) @ direction * math.sin(angle)
    if (distance <= 0).any():
        raise InputError(
            f"dipping_plane: a plane of dip {dip:g} degrees at {z:g} m depth reaches the surface inside the survey; "
            "make it deeper or the survey smaller."
        )
    vector = geometry.receiver - geometry.source
    along = (vector @ direction) * math.sin(angle)
    offset_term = np.square(vector).sum(1) - np.square(along)
    times = np.sqrt(np.square(2.0 * distance) + offset_term) / v
    truth = {"plane": (float(middle[0]), float(middle[1]), z, float(dip), float(dip_azimuth))}
    return _survey(
        geometry, times[None], amplitudes, "reflector", v, truth,
        frequency=frequency, nt=nt, dt=dt, start=start, noise=noise, seed=seed, name=name,
    )  # fmt: skip


def dataset(name: str = "small", *, noise: float = 0.05, seed: int = 0) -> SyntheticSurvey:
    """Return one of the standard benchmark surveys: a diffractor 800 m below the centre, 2500 m/s, Ricker 25 Hz, 2 ms.

    Midpoints every 25 m, azimuths 0 and 90 degrees; two-way time of the diffractor 0.64 s.

    ========  ========  ==================  ========  =======  ========
    name      extent m  offsets m           samples   traces   MB
    ========  ========  ==================  ========  =======  ========
    tiny      500       200, 400            501       1764     3.5
    small     1000      200 to 800          1001      13448    53.8
    medium    2000      200 to 1600         1501      104976   630
    large     4000      200 to 3200         2001      829472   6640
    ========  ========  ==================  ========  =======  ========

    Parameters
    ----------
    name
        ``"tiny"``, ``"small"``, ``"medium"`` or ``"large"``.
    noise
        Standard deviation of white noise relative to the diffraction's peak amplitude.
    seed
        Seed of the noise.
    """
    choice("dataset", "name", name, tuple(DATASETS))
    extent, offsets, nt = DATASETS[name]
    return diffractors(
        [(0.5 * extent, 0.5 * extent, 800.0)],
        velocity=2500.0, extent=extent, spacing=25.0, offsets=offsets, azimuths=(0.0, 90.0),
        nt=nt, dt=0.002, frequency=25.0, noise=noise, seed=seed, name=name,
    )  # fmt: skip
