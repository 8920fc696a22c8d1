"""Surveys in MDIO version 1: Zarr version 3 folders with the traces of a SEG-Y file in a grid of their numbers.

::

    survey.mdio/
      zarr.json          apiVersion, name of the template, attributes.defaultVariableName
      amplitude/         float32 (shot_point, channel, ..., time); other names with other templates
      headers/           trace headers as in the file, one structure per trace
      trace_mask/        true where the grid holds a trace
      time/              ms, from 0: the recording delay is in the headers

Only zarr is needed. What is in ``headers`` is not scaled there, and is taken as :func:`open_segy` takes it.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from elinvar.errors import InputError

from ._check import number, optional_library
from .headers import FOOT, WORDS, scaled
from .survey import Survey, from_file
from .tracefile import assembled

__all__ = ["FIELDS", "MdioTraces", "is_mdio", "open_mdio"]

#: What MDIO calls the words of a trace header; words of one's own specification may have the short names as well.
FIELDS = {
    "sx": "source_coord_x", "sy": "source_coord_y", "gx": "group_coord_x", "gy": "group_coord_y",
    "scalco": "coordinate_scalar", "counit": "coordinate_unit", "offset": "source_to_receiver_distance",
    "trid": "trace_id_code", "delrt": "delay_recording_time", "scalt": "times_scalar",
    "scalel": "elevation_depth_scalar", "fldr": "orig_field_record_num", "tracf": "trace_num_orig_record",
    "ep": "energy_source_point_num", "cdp": "ensemble_num", "gelev": "receiver_group_elevation",
    "selev": "source_surface_elevation", "sdepth": "source_depth_below_surface", "gdel": "receiver_datum_elevation",
    "sdel": "source_datum_elevation", "swdep": "source_water_depth", "gwdep": "receiver_water_depth",
    "sstat": "source_static_correction", "gstat": "receiver_static_correction", "tstat": "total_static_applied",
    "muts": "mute_time_start", "mute": "mute_time_end", "cdp_x": "cdp_x", "cdp_y": "cdp_y", "inline": "inline",
    "xline": "crossline",
}  # fmt: skip
_NEEDED = ("sx", "sy", "gx", "gy")
_PER_SECOND = {"s": 1.0, "ms": 1e3, "us": 1e6, "µs": 1e6}


def is_mdio(folder: Path) -> bool:
    """Say whether a folder looks like MDIO, of any version."""
    return folder.suffix.lower() == ".mdio" or (folder / "trace_mask").is_dir()


@dataclass(frozen=True)
class MdioTraces:
    """Samples of the grid's traces. Each read opens the array anew: safe from any thread, and once pickled.

    Attributes
    ----------
    cells
        Where in the grid, counted through, each trace is, (n,), ascending.
    """

    path: Path
    variable: str
    cells: NDArray[np.int64]
    shape: tuple[int, int]

    def read(self, index: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return the traces at ascending positions `index`, float32; every chunk that holds one is read once."""
        out = np.empty((len(index), self.shape[1]), np.float32)
        if not len(index):
            return out
        array = _opened(self.path)[self.variable]
        if array.shape[-1] != self.shape[1]:
            raise InputError(f"{self.path.name}: the survey changed since it was opened; open it again.")
        grid, chunk = array.shape[:-1], array.chunks[:-1]
        place = np.unravel_index(self.cells[index], grid)
        chunks = tuple(-(-size // step) for size, step in zip(grid, chunk, strict=True))
        of = np.ravel_multi_index(tuple(p // step for p, step in zip(place, chunk, strict=True)), chunks)
        order = np.argsort(of, kind="stable")
        for mine in np.split(order, np.flatnonzero(np.diff(of[order])) + 1):
            box = tuple(slice(int(p[mine].min()), int(p[mine].max()) + 1) for p in place)
            try:
                part = array[box]
            except (OSError, ValueError, KeyError, RuntimeError) as error:
                raise InputError(
                    f"{self.path.name}: samples of trace {int(index[mine[0]])} cannot be read ({str(error)[:200]}); "
                    "the folder is damaged, copy or write it again."
                ) from error
            out[mine] = part[tuple(p[mine] - b.start for p, b in zip(place, box, strict=True))]
        return out


@dataclass(frozen=True)
class MdioColumns:
    """Reads one column of the trace headers, in metres and seconds."""

    path: Path
    cells: NDArray[np.int64]
    where: tuple[tuple[str, str], ...]
    feet: float

    def __call__(self, name: str) -> NDArray[Any]:
        """Return the column, (n,)."""
        scale = WORDS[name].scale
        word = self.words([name, scale] if scale in dict(self.where) else [name])
        return scaled(name, word[name], word.get(scale), self.feet)

    def words(self, names: Sequence[str]) -> dict[str, NDArray[Any]]:
        """Return words as stored."""
        where = dict(self.where)
        with warnings.catch_warnings():  # zarr: structures are no part of the specification yet
            warnings.simplefilter("ignore")
            try:
                found = np.asarray(_opened(self.path)["headers"][...]).reshape(-1)[self.cells]
            except (OSError, ValueError, KeyError, RuntimeError, TypeError) as error:
                raise InputError(
                    f"{self.path.name}: the trace headers cannot be read ({str(error)[:200]}); the folder is damaged, "
                    "or was written without them."
                ) from error
        return {name: np.asarray(found[where[name]]) for name in names}


def open_mdio(
    path: str | os.PathLike[str],
    *,
    variable: str | None = None,
    dt: float | None = None,
    bin_size: tuple[float, float] | None = None,
    **fields: str,
) -> Survey:
    """Open a prestack survey in MDIO version 1 lazily: headers now, samples when they are needed.

    Parameters
    ----------
    path
        The folder.
    variable
        Which of its volumes; by default the one it names as its own.
    dt
        Sample interval in seconds, when that of the time axis is wrong.
    bin_size
        Midpoint cell (dx, dy) in metres of one common-offset volume.
    **fields
        What header words are called, where they have not the names of :data:`FIELDS`: ``sx="shot_x"``.

    Returns
    -------
    Survey
        The traces that are there, in the order of the grid.

    Raises
    ------
    InputError
        No such folder, version 0, a volume in depth, no trace headers or none with source and receiver coordinates.

    Warns
    -----
    SurveyWarning
        As :func:`~elinvar.seismic.open_segy`.
    """
    place = Path(path)
    group = _checked(place)
    about = dict(group.attrs)
    name = variable or about.get("attributes", {}).get("defaultVariableName") or "amplitude"
    if name not in group:
        raise InputError(f"{place.name}: there is no volume {name!r} in it; name one with variable=.")
    array = group[name]
    grid, ns = array.shape[:-1], int(array.shape[-1])
    axis = (array.metadata.dimension_names or ("time",))[-1]
    if axis != "time":
        raise InputError(f"{place.name}: {name} is over {axis}, not time; this migration takes traces in time.")
    step = _interval(group, place, ns, dt)
    cells = np.flatnonzero(np.asarray(group["trace_mask"][...]).ravel()) if "trace_mask" in group else None
    if cells is None:
        cells = np.arange(int(np.prod(grid)))
    if not len(cells):
        raise InputError(f"{place.name}: its trace_mask says that there is no trace in it; nothing to open.")
    where = _fields(group, place, grid, fields)
    feet = any(dict(each.attrs).get("unitsV1", {}).get("length") == "ft" for _, each in group.arrays())
    reader = MdioColumns(place.absolute(), cells, tuple(where.items()), FOOT if feet else 1.0)
    shown = {key: f"({value})" for key, value in where.items()}
    found = assembled(place, shown, reader.words, reader, feet=feet)
    template = f"{about['name']}, " if about.get("name") else ""
    note = f"MDIO {about.get('apiVersion', '1')}, {template}{' x '.join(map(str, grid))} places"
    found = replace(found, notes=(note, *found.notes))
    return from_file(MdioTraces(place.absolute(), name, cells, (len(cells), ns)), found, step, bin_size=bin_size)


def _opened(path: Path) -> Any:
    zarr = optional_library("zarr", "open_mdio")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return zarr.open_group(path, mode="r", zarr_format=3, use_consolidated=False)


def _checked(place: Path) -> Any:
    """Return the group after checking that it is MDIO's."""
    optional_library("zarr", "open_mdio")
    if not place.is_dir():
        raise InputError(f"open_mdio: {place} {'is a file' if place.exists() else 'does not exist'}; give a folder.")
    if (place / ".zgroup").exists() or (place / ".zmetadata").exists():
        raise InputError(
            f"open_mdio: {place} is MDIO version 0 (Zarr version 2), which is not read; write it again with multidimio "
            "1 or later, or export it as SEG-Y (`mdio segy export`)."
        )
    try:
        group = _opened(place)
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"open_mdio: {place} is no Zarr folder ({str(error)[:200]}).") from error
    if "headers" not in group:
        raise InputError(
            f"{place.name}: there are no trace headers in it, and no geometry without them; import it with headers, or "
            "open the SEG-Y file."
        )
    return group


def _interval(group: Any, place: Path, ns: int, given: float | None) -> float:
    """Return the sample interval in seconds, from the time axis: ms, unless it says otherwise."""
    if given is not None:
        return number("open_mdio", "dt", given, low=0.0, high=1.0, open_low=True)
    times = np.asarray(group["time"][...], np.float64) if "time" in group else np.zeros(0)
    steps = np.diff(times)
    unit = dict(group["time"].attrs).get("unitsV1", {}).get("time", "ms") if "time" in group else "ms"
    if len(times) != ns or ns < 2 or unit not in _PER_SECOND or (steps <= 0).any() or np.ptp(steps) > 1e-6 * steps[0]:
        raise InputError(
            f"{place.name}: its time axis ({len(times)} values for {ns} samples, unit {unit}) gives no sample "
            "interval; pass dt= in seconds."
        )
    if times[0] != 0:
        raise InputError(
            f"{place.name}: its time axis begins at {times[0]:g} {unit}; those that multidimio writes begin at 0, and "
            "the headers hold the delay. Cut the survey in SEG-Y, or write the delay into the headers."
        )
    return float(steps.mean() / _PER_SECOND[unit])


def _fields(group: Any, place: Path, grid: tuple[int, ...], given: dict[str, str]) -> dict[str, str]:
    """Return what the words that are there are called in the headers."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        headers = group["headers"]
        there = tuple(headers.dtype.names or ())
    if tuple(headers.shape) != tuple(grid):
        raise InputError(f"{place.name}: headers of shape {headers.shape} do not belong to traces of shape {grid}.")
    unknown = sorted(set(given) - set(FIELDS))
    if unknown:
        raise InputError(f"open_mdio: {', '.join(unknown)} is no header name; these can be named: {', '.join(FIELDS)}.")
    lost = sorted(value for value in given.values() if value not in there)
    if lost:
        raise InputError(f"{place.name}: the trace headers have no {lost[0]!r}; there are {', '.join(there)}.")
    found = dict(given)
    for key, name in FIELDS.items():
        for each in (name, key):
            if key not in found and each in there:
                found[key] = each
    missing = [key for key in _NEEDED if key not in found]
    if missing:
        raise InputError(
            f"{place.name}: the trace headers have no {FIELDS[missing[0]]!r}, and a migration needs source and "
            f"receiver coordinates; say what it is called ({missing[0]}=...). There are {', '.join(there)}."
        )
    return found
