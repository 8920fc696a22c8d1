"""A survey: traces that may live on disk, and where each one was shot and recorded.

Geometry always comes from source and receiver coordinates. Samples are read block by block when they are needed; the
geometry (a few numbers per trace) is in memory.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator, Mapping
from copy import copy
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from elinvar.errors import InputError

from ._check import count, number, points
from .headers import Columns
from .order import morton
from .traces import ArrayTraces, ChosenTraces, Indices, Samples, Traces

if TYPE_CHECKING:
    from .mdio import MdioTraces
    from .tracefile import Geometry, SegyTraces

__all__ = ["Survey", "SurveyWarning", "TraceBlock", "open_segy"]

Floats = NDArray[np.float64]


class SurveyWarning(UserWarning):
    """A survey is usable but something in it does not add up."""


@dataclass(frozen=True)
class TraceBlock:
    """Some traces of a survey with their geometry.

    Attributes
    ----------
    index
        Positions of the traces in the survey, int64 (n,).
    traces
        Samples, float32 (n, ns).
    source, receiver
        Map coordinates in metres, float64 (n, 2).
    delay
        Time of the first sample in seconds, float64 (n,).
    """

    index: Indices
    traces: Samples
    source: Floats
    receiver: Floats
    delay: Floats


class Survey:
    """Prestack traces with source and receiver coordinates. See :func:`open_segy` and :meth:`from_arrays`.

    Attributes
    ----------
    source, receiver
        Map coordinates (x east, y north) in metres, float64 (n, 2).
    dt
        Sample interval in seconds.
    delay
        Recording delay of each trace in seconds, float64 (n,).
    live
        False for traces that are dead or not seismic; they are never read, bool (n,).
    bin_size
        Midpoint cell (dx, dy) in metres that each trace of one common-offset volume stands for; None when unknown.
    headers
        More values per trace, each (n,), read when first asked for: ``survey.headers["cdp"]``. What a file brings is in
        :data:`elinvar.seismic.headers.WORDS`; :func:`~elinvar.seismic.selection.where` knows them by these names.
    name, notes, text
        For people: where the survey came from, what was done to it on the way in, and its text header.
    """

    def __init__(
        self,
        traces: Traces,
        source: ArrayLike,
        receiver: ArrayLike,
        dt: float,
        *,
        delay: ArrayLike = 0.0,
        live: ArrayLike | None = None,
        bin_size: tuple[float, float] | None = None,
        source_elevation: ArrayLike | None = None,
        receiver_elevation: ArrayLike | None = None,
        datum: ArrayLike | None = None,
        headers: Mapping[str, ArrayLike] | None = None,
        name: str = "survey",
        notes: tuple[str, ...] = (),
        text: tuple[str, ...] = (),
    ) -> None:
        n, ns = traces.shape
        count("Survey", "number of traces", n)
        count("Survey", "number of samples", ns)
        self.traces = traces
        self.source, self.receiver = (
            points("Survey", k, v, n) for k, v in (("source", source), ("receiver", receiver))
        )
        self.dt = number("Survey", "dt", dt, low=0.0, open_low=True)
        if self.dt > 1.0:
            raise InputError(f"Survey: dt is {self.dt:g}; it is given in seconds (2 ms is 0.002).")
        self.delay: Floats = _per_trace("a recording delay", delay, n, "seconds")
        self.live: NDArray[np.bool_] = np.ones(n, bool) if live is None else np.array(live, bool)
        if self.live.shape != (n,):
            raise InputError(f"Survey: live has shape {self.live.shape}; give one flag for each of {n} traces.")
        if not self.live.any():
            raise InputError(f"{name}: all {n} traces are marked dead (trace identification code); nothing to image.")
        self.bin_size = None
        if bin_size is not None:
            dx, dy = (number("Survey", "bin_size", s, low=0.0, open_low=True) for s in bin_size)
            self.bin_size = (dx, dy)
        self.headers = headers if isinstance(headers, Columns) else _columns(headers or {}, n)
        heights = {"source_elevation": source_elevation, "receiver_elevation": receiver_elevation, "datum": datum}
        for key, value in heights.items():
            if value is not None:  # otherwise worked out from the headers when asked for
                self.__dict__[key] = _per_trace(f"a {key.replace('_', ' ')}", value, n, "metres")
        self.name = name
        self.notes = notes
        self.text = text

    @classmethod
    def from_arrays(
        cls,
        traces: ArrayLike,
        source: ArrayLike,
        receiver: ArrayLike,
        dt: float,
        *,
        delay: ArrayLike = 0.0,
        live: ArrayLike | None = None,
        bin_size: tuple[float, float] | None = None,
        source_elevation: ArrayLike | None = None,
        receiver_elevation: ArrayLike | None = None,
        datum: ArrayLike | None = None,
        headers: Mapping[str, ArrayLike] | None = None,
        name: str = "survey",
    ) -> Survey:
        """Return a survey over samples in memory.

        Parameters
        ----------
        traces
            Real numbers, shape (n, ns); they become float32 when read.
        source, receiver
            Map coordinates in metres, shape (n, 2).
        dt
            Sample interval in seconds.
        delay
            Time of the first sample in seconds, one number or (n,).
        live
            Flags (n,); False traces are ignored.
        bin_size
            Midpoint cell (dx, dy) in metres of one common-offset volume, when known.
        source_elevation, receiver_elevation, datum
            Metres above sea level, one number or (n,): of the source itself, of the receiver, and of the surface that
            times are counted from.
        headers
            More values per trace, each (n,).

        Raises
        ------
        InputError
            Shapes that do not fit, coordinates that are not finite, dt that is not seconds, no live trace.
        """
        array = np.asarray(traces)
        if array.ndim != 2 or array.dtype.kind not in "fiu":
            raise InputError(
                f"Survey.from_arrays: traces are {array.dtype} of shape {array.shape}; give real (traces, samples)."
            )
        return cls(
            ArrayTraces(array), source, receiver, dt, delay=delay, live=live, bin_size=bin_size, name=name,
            source_elevation=source_elevation, receiver_elevation=receiver_elevation, datum=datum, headers=headers,
        )  # fmt: skip

    @cached_property
    def source_elevation(self) -> Floats:
        """Elevation of each source in metres, (n,): that of the surface less the source's depth; 0 when not said."""
        return self._length("selev") - self._length("sdepth")

    @cached_property
    def receiver_elevation(self) -> Floats:
        """Elevation of each receiver in metres, (n,); 0 when not said."""
        return self._length("gelev")

    @cached_property
    def datum(self) -> Floats:
        """Elevation in metres that the times of each trace are counted from, (n,): source's and receiver's mean."""
        return 0.5 * (self._length("sdel") + self._length("gdel"))

    def _length(self, name: str) -> Floats:
        return np.asarray(self.headers[name], np.float64) if name in self.headers else np.zeros(self.n_traces)

    @property
    def n_traces(self) -> int:
        """Number of traces, dead ones included."""
        return len(self.source)

    @property
    def n_samples(self) -> int:
        """Samples per trace."""
        return self.traces.shape[1]

    def __len__(self) -> int:
        return self.n_traces

    def __repr__(self) -> str:
        return f"<Survey {self.name!r}: {self.n_traces:,} traces x {self.n_samples} samples at {self.dt * 1e3:g} ms>"

    @property
    def midpoint(self) -> Floats:
        """Source-receiver midpoints in metres, (n, 2)."""
        return 0.5 * (self.source + self.receiver)

    @property
    def offset(self) -> Floats:
        """Source-receiver distances in metres, (n,): from the coordinates, never from a header."""
        return np.asarray(np.hypot(*(self.receiver - self.source).T), np.float64)

    @property
    def azimuth(self) -> Floats:
        """Source-to-receiver directions in degrees clockwise from north, in [0, 360), (n,)."""
        east, north = (self.receiver - self.source).T
        return np.asarray(np.degrees(np.arctan2(east, north)) % 360.0, np.float64)

    def select(self, which: ArrayLike) -> Survey:
        """Return a survey of some traces, sharing the samples.

        Parameters
        ----------
        which
            Flags (n,) or positions.
        """
        chosen = np.asarray(which)
        if chosen.dtype == bool and chosen.shape != (self.n_traces,):
            raise InputError(f"Survey.select: {chosen.shape} flags given for {self.n_traces} traces.")
        index = (np.flatnonzero(chosen) if chosen.dtype == bool else chosen.ravel()).astype(np.int64)
        if index.size == 0:
            raise InputError("Survey.select: no trace is selected; widen the selection.")
        if index.min() < -self.n_traces or index.max() >= self.n_traces:
            raise InputError(f"Survey.select: positions reach {index.max()}; the survey has {self.n_traces} traces.")
        index = index % self.n_traces
        heights = {name: self.__dict__[name][index] for name in _HEIGHTS if name in self.__dict__}
        return Survey(
            ChosenTraces(self.traces, index),
            self.source[index],
            self.receiver[index],
            self.dt,
            delay=self.delay[index],
            live=self.live[index],
            bin_size=self.bin_size,
            headers=self.headers.at(index),
            name=self.name,
            notes=self.notes,
            text=self.text,
            **heights,
        )

    def by_midpoint(self) -> Survey:
        """Return the survey with neighbouring midpoints together, sharing the samples.

        Migration is faster the nearer the traces of a block are to each other. It sorts within its blocks, but reads
        files from front to back: a file in no order at all is worth writing again, ``by_midpoint().to_zarr(path)``.
        """
        return self.select(morton(self.midpoint))

    def with_traces(self, traces: Traces) -> Survey:
        """Return this survey over other samples: processed ones, weights, residuals.

        Raises
        ------
        InputError
            Another number of traces.
        """
        if traces.shape[0] != self.n_traces:
            raise InputError(f"Survey.with_traces: {traces.shape[0]} traces given for {self.n_traces}.")
        other = copy(self)
        other.traces = traces
        return other

    def read(self, index: ArrayLike | None = None) -> Samples:
        """Return samples at the given positions (all by default), float32 (n, ns)."""
        if index is None:
            return self.traces.read(np.arange(self.n_traces))
        wanted = np.asarray(index, np.int64).ravel()
        if (wanted[1:] >= wanted[:-1]).all():
            return self.traces.read(wanted)
        order = np.argsort(wanted, kind="stable")
        out = np.empty((wanted.size, self.n_samples), np.float32)
        out[order] = self.traces.read(wanted[order])
        return out

    def block(self, index: Indices) -> TraceBlock:
        """Return the traces at positions `index`, in that order, with their geometry; they are read in file order."""
        return TraceBlock(index, self.read(index), self.source[index], self.receiver[index], self.delay[index])

    def blocks(self, size: int = 4096) -> Iterator[TraceBlock]:
        """Yield the live traces in file order, at most `size` at a time."""
        n = count("Survey.blocks", "size", size)
        index = np.flatnonzero(self.live)
        for first in range(0, index.size, n):
            yield self.block(index[first : first + n])

    def info(self) -> dict[str, Any]:
        """Return what a person wants to know first, as plain values (metres, seconds, degrees)."""
        offset, midpoint = self.offset[self.live], self.midpoint[self.live]
        heights = np.stack([self.source_elevation, self.receiver_elevation])[:, self.live]
        return {
            "name": self.name,
            "traces": self.n_traces,
            "live_traces": int(self.live.sum()),
            "samples": self.n_samples,
            "dt_s": self.dt,
            "delay_s": [float(self.delay.min()), float(self.delay.max())],
            "record_end_s": float(self.delay.max()) + (self.n_samples - 1) * self.dt,
            "source_positions": len(np.unique(self.source[self.live], axis=0)),
            "receiver_positions": len(np.unique(self.receiver[self.live], axis=0)),
            "midpoint_x_m": [float(midpoint[:, 0].min()), float(midpoint[:, 0].max())],
            "midpoint_y_m": [float(midpoint[:, 1].min()), float(midpoint[:, 1].max())],
            "offset_m": [float(offset.min()), float(offset.max())],
            "elevation_m": [float(heights.min()), float(heights.max())],
            "datum_m": [float(self.datum.min()), float(self.datum.max())],
            "size_bytes": 4 * self.n_traces * self.n_samples,
            "notes": list(self.notes),
        }

    def write_segy(
        self,
        path: str | os.PathLike[str],
        *,
        sample_format: int = 5,
        endian: str = "big",
        progress: Callable[[int, int | None], object] | None = None,
    ) -> None:
        """Write the survey as SEG-Y rev 1; see :func:`elinvar.seismic.segy_write.write_segy`."""
        from .segy_write import write_segy

        write_segy(self, path, sample_format=sample_format, endian=endian, progress=progress)

    def to_zarr(
        self, path: str | os.PathLike[str], *, progress: Callable[[int, int | None], object] | None = None
    ) -> None:
        """Write the survey as a folder, samples as Zarr and headers as Parquet; see :mod:`elinvar.seismic.archive`."""
        from .archive import write_survey

        write_survey(self, path, progress=progress)


_HEIGHTS = ("source_elevation", "receiver_elevation", "datum")


def _per_trace(what: str, value: ArrayLike, n: int, unit: str) -> Floats:
    """Return one finite number per trace."""
    array = np.asarray(value, np.float64)
    if array.shape not in ((), (n,)):
        raise InputError(f"Survey: {what} has shape {array.shape}; give one number, or one for each of {n} traces.")
    if not np.isfinite(array).all():
        raise InputError(f"Survey: {what} is not a finite number; give {unit}.")
    return np.broadcast_to(array, (n,)).copy()


def _columns(headers: Mapping[str, ArrayLike], n: int) -> Columns:
    """Return given arrays as columns."""
    arrays = {name: np.array(column) for name, column in headers.items()}
    for name, array in arrays.items():
        if array.shape != (n,) or array.dtype.kind not in "fiub":
            raise InputError(f"Survey: header {name!r} is {array.dtype} of shape {array.shape}; give {n} numbers.")
    return Columns(arrays.__getitem__, tuple(arrays))


def open_segy(
    path: str | os.PathLike[str],
    *,
    endian: str = "auto",
    dt: float | None = None,
    bin_size: tuple[float, float] | None = None,
    **header_bytes: int,
) -> Survey:
    """Open a prestack SEG-Y file lazily: headers now, samples when they are needed.

    Parameters
    ----------
    path
        A file of revision 0, 1 or 2; sample formats 1, 2, 3, 5, 6 and 8.
    endian
        ``"big"``, ``"little"``, or ``"auto"``, which takes the one that fits.
    dt
        Sample interval in seconds, when the file's is missing or contradicts itself.
    bin_size
        Midpoint cell (dx, dy) in metres of one common-offset volume, when you know it.
    **header_bytes
        Where trace header words are, as 1-based bytes, for a file that differs from the standard: ``sx=73, sy=77,
        gx=81, gy=85, scalco=71, offset=37, trid=29, delrt=109, counit=89, cdp=21, inline=189, xline=193, gelev=41``
        and the others of :data:`elinvar.seismic.headers.WORDS`.

    Returns
    -------
    Survey
        Coordinates in metres: ``scalco`` applied (positive multiplies, negative divides, 0 means 1), feet converted.
        Traces whose identification code (``trid``) says dead, dummy or auxiliary are not ``live``.

    Raises
    ------
    InputError
        Not a SEG-Y file, cut off, without traces, with all coordinates zero, with a sample interval of 0 or one that
        contradicts itself, or an unknown header name.

    Warns
    -----
    SurveyWarning
        The offset words or the CDP coordinates disagree with source and receiver. These are used; ``scalco`` does not
        apply to offset.
    """
    from .segy import read_headers

    found = read_headers(path, endian=endian, dt=dt, header_bytes=header_bytes)
    return from_file(found.traces, found.geometry, found.dt, bin_size=bin_size, text=found.text)


def from_file(
    traces: SegyTraces | MdioTraces,
    geometry: Geometry,
    dt: float,
    *,
    bin_size: tuple[float, float] | None,
    text: tuple[str, ...] = (),
) -> Survey:
    """Return a survey of what was read from a file's headers, and warn of what does not add up."""
    for sentence in geometry.warnings:
        warnings.warn(sentence, SurveyWarning, stacklevel=3)
    return Survey(
        traces,
        geometry.source,
        geometry.receiver,
        dt,
        delay=geometry.delay,
        live=geometry.live,
        bin_size=bin_size,
        headers=geometry.columns,
        name=os.fspath(traces.path.name),
        notes=geometry.notes,
        text=text,
    )
