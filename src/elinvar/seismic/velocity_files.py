"""Velocity files: cubes as SEG-Y or Zarr, tables as text.

SEG-Y: one trace per bin, inline 189, crossline 193, coordinates 181 and 185 (or 73 and 77), values in m/s, or ft/s when
the binary header says feet. A complete rectangle of bins becomes a cube; anything else, functions at scattered places.

Zarr: an xarray Dataset with ``velocity`` (or one variable only) over inline, crossline, time (s), with ``cdp_x`` and
``cdp_y``; the attribute ``kind`` says what the values are.

Text: a row per pick, ``x y t v`` (or ``t v`` for one function everywhere), blanks, tabs or commas between, anything
after ``#`` or ``!`` ignored, rows of one place anywhere in the file. Other columns are named with ``columns="- - x y t
v"``. Times above 50 make it milliseconds, otherwise seconds, unless ``unit`` says so. Or cards::

    V2 LINE-1  101  431000.0 6780000.0    0 1500   800 1800  1500 2300      Esso V2: line, point, x, y, then t v ...
    V2 LINE-1  101  431000.0 6780000.0 2500 2900                            a second card of the same point
    SPNT 101 431000.0 6780000.0                                             Western: the last two numbers are x, y
    VELF 0 1500 800 1800 1500 2300

V2 cards without coordinates, as Esso meant them, need ``places={101: (x, y), ...}``.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from elinvar.errors import InputError
from elinvar.runtime.files import atomic_directory, write_text

from ._check import choice, optional_library
from .grid import Grid
from .headers import FOOT
from .segy_volume import Layout, read_volume, write_volume
from .velocity_field import cube, scattered
from .velocity_kinds import KINDS, Kind

if TYPE_CHECKING:
    from .velocity import Velocity

__all__ = ["open_velocity", "save_velocity"]

Floats = NDArray[np.float64]
Rows = list[tuple[float, float, float, float]]
_SAYS = "elinvar velocity, kind"
_LONGEST_S = 50.0  # no record lasts 50 s, and no table in milliseconds ends before 50 ms


def open_velocity(
    path: str | os.PathLike[str], kind: Kind | None, bounds: tuple[float, float], **options: Any
) -> Velocity:
    """Open a velocity file; see :meth:`Velocity.open`."""
    place = Path(path)
    if kind is not None:
        choice("Velocity.open", "kind", kind, KINDS)
    if place.is_dir():
        _only(options, ())
        return _open_zarr(place, kind, bounds)
    try:
        with place.open("rb") as file:
            head = file.read(4000)
    except FileNotFoundError:
        raise InputError(f"Velocity.open: there is no file {place}; check the name.") from None
    if b"\0" in head or head.isspace() or not head:
        return _open_segy(place, kind, bounds, options)
    _only(options, ("columns", "unit", "places"))
    return _open_text(place, kind, bounds, **options)


def _only(options: Mapping[str, Any], known: tuple[str, ...]) -> None:
    for name in sorted(set(options) - set(known)):
        accepted = f"options of such a file are {', '.join(known)}" if known else "such a file has no options"
        raise InputError(f"Velocity.open: {name} is no option here; {accepted}.")


def _agreed(name: str, given: Kind | None, said: str | None) -> Kind:
    """Return the kind of the values; what the file says and what the user says must not differ."""
    if said is not None and said not in KINDS:
        raise InputError(f"{name}: the file says its velocities are {said!r}; {', '.join(KINDS)} are understood.")
    if given is not None and said is not None and given != said:
        raise InputError(
            f"{name}: the file says its velocities are {said}, not {given}; leave kind= out, or correct it."
        )
    return cast("Kind", given or said or "rms")


# -------------------------------------------------------------------- cubes


def _open_segy(path: Path, kind: Kind | None, bounds: tuple[float, float], options: Mapping[str, Any]) -> Velocity:
    volume = read_volume(path, operation="Velocity.open", **options)
    found = [line.partition(_SAYS)[2].split()[0].strip(".,") for line in volume.text if _SAYS in line]
    what = _agreed(path.name, kind, found[0] if found else None)
    values = volume.samples.astype(np.float64) * (FOOT if volume.feet else 1.0)
    t = volume.t0 + volume.dt * np.arange(values.shape[1], dtype=np.float64)
    return _placed(path.name, volume.inlines, volume.crosslines, volume.places, t, values, what, bounds)


def _open_zarr(path: Path, kind: Kind | None, bounds: tuple[float, float]) -> Velocity:
    xarray = optional_library("xarray", "Velocity.open")
    optional_library("zarr", "Velocity.open")
    try:
        data = xarray.open_zarr(path, consolidated=False, chunks=None)
    except (OSError, ValueError, KeyError) as error:
        raise InputError(
            f"Velocity.open: {path} cannot be opened as Zarr ({error}); give a velocity's folder."
        ) from error
    with data:
        dims = ("inline", "crossline", "time")
        cubes = [name for name, values in data.data_vars.items() if set(values.dims) == set(dims)]
        chosen = "velocity" if "velocity" in cubes else cubes[0] if len(cubes) == 1 else None
        if chosen is None:
            raise InputError(
                f"Velocity.open: {path.name} has {len(cubes)} variables over inline, crossline and time and none is "
                "named velocity; name the one that is."
            )
        missing = [name for name in (*dims, "cdp_x", "cdp_y") if name not in data.coords]
        if missing:
            raise InputError(f"Velocity.open: {path.name} has no coordinate {missing[0]}; add it to the Dataset.")
        values = data[chosen].transpose(*dims)
        x, y = (data[name].transpose("inline", "crossline").values for name in ("cdp_x", "cdp_y"))
        lines = np.meshgrid(data["inline"].values, data["crossline"].values, indexing="ij")
        said = values.attrs.get("kind", data.attrs.get("kind"))
        what = _agreed(path.name, kind, None if said is None else str(said))
        inlines, crosslines = (n.ravel().astype(np.int64) for n in lines)
        flat = values.values.astype(np.float64).reshape(-1, values.shape[2])
        t = data["time"].values.astype(np.float64)
        if len(t) > 2 and np.ptp(np.diff(t)) > 1e-6:
            raise InputError(f"Velocity.open: the times of {path.name} are not evenly spaced; resample them.")
    places = np.stack([x.ravel(), y.ravel()], axis=1).astype(np.float64)
    return _placed(path.name, inlines, crosslines, places, t, flat, what, bounds)


def _placed(
    name: str,
    inlines: NDArray[np.int64],
    crosslines: NDArray[np.int64],
    places: Floats,
    t: Floats,
    values: Floats,
    kind: Kind,
    bounds: tuple[float, float],
) -> Velocity:
    """Return one trace per bin as a cube when the bins are a rectangle, else as functions at scattered places."""
    if len(places) > 1 and not places.any():
        raise InputError(f"Velocity.open: all coordinates of {name} are zero; name their bytes (cdp_x=..., cdp_y=...).")
    rows, columns = np.unique(inlines), np.unique(crosslines)
    if len(places) > 1 and len(rows) * len(columns) == len(places):
        step = float(t[1] - t[0]) if len(t) > 1 else 1.0
        grid = _grid(rows, columns, inlines, crosslines, places, (len(t), step, float(t[0])))
        if grid is not None:
            order = np.lexsort((crosslines, inlines))
            return cube(values[order].reshape(grid.shape), grid, kind, bounds)
    skip = int(kind != "rms" and t[0] == 0.0 and len(t) > 1)  # no layer ends at time 0
    functions = [(float(x), float(y), t[skip:], v[skip:]) for (x, y), v in zip(places, values, strict=True)]
    return scattered(functions, kind, bounds, f"Velocity.open: {name}")


def _grid(
    rows: NDArray[np.int64],
    columns: NDArray[np.int64],
    inlines: NDArray[np.int64],
    crosslines: NDArray[np.int64],
    places: Floats,
    times: tuple[int, float, float],
) -> Grid | None:
    """Return the rectangular grid that numbered bins lie on, or None when they do not."""
    ranges = []
    for numbers in (rows, columns):
        steps = np.unique(np.diff(numbers))
        if len(steps) > 1:
            return None
        ranges.append((int(numbers[0]), int(numbers[-1]), int(steps[0]) if len(steps) else 1))
    known = np.concatenate([np.stack([inlines, crosslines], axis=1).astype(np.float64), places], axis=1)
    if min(len(rows), len(columns)) == 1:  # a section: the bins beside it, to the right of the inline axis
        order = np.argsort(inlines + crosslines)
        step = (places[order[-1]] - places[order[0]]) / (len(places) - 1)
        beside = np.array([step[1], -step[0]]) if len(columns) == 1 else np.array([-step[1], step[0]])
        extra = known.copy()
        extra[:, int(len(columns) == 1)] += ranges[int(len(columns) == 1)][2]
        extra[:, 2:] += beside
        known = np.concatenate([known, extra])
    try:
        nt, dt, t0 = times
        return Grid.from_lines(known, ranges[0], ranges[1], nt=nt, dt=dt, t0=t0)
    except InputError:
        return None


# -------------------------------------------------------------------- tables


def _open_text(
    path: Path,
    kind: Kind | None,
    bounds: tuple[float, float],
    *,
    columns: str | None = None,
    unit: str = "auto",
    places: Mapping[Any, tuple[float, float]] | None = None,
) -> Velocity:
    choice("Velocity.open", "unit", unit, ("auto", "ms", "s"))
    try:
        text = path.read_text(encoding="utf-8", errors="strict")
    except UnicodeDecodeError:
        text = path.read_text(encoding="latin-1")
    said = re.search(r"^[#!]\s*kind:?\s*(\w+)", text, flags=re.MULTILINE | re.IGNORECASE)
    what = _agreed(path.name, kind, said.group(1).lower() if said else None)
    lines = [(i, re.split(r"[#!]", line)[0].replace(",", " ")) for i, line in enumerate(text.splitlines(), 1)]
    lines = [(i, line.strip()) for i, line in lines if line.strip()]
    card = re.compile(r"^(V2|SPNT|VELF)(?=\s|[A-Za-z])", re.IGNORECASE)
    if any(card.match(line) for _, line in lines):
        picks = _read_cards(path.name, lines, places or {})
    else:
        picks = _read_columns(path.name, lines, columns)
    if not picks:
        raise InputError(f"Velocity.open: {path.name} holds no picks; rows are x y t v, or t v.")
    table = np.array(picks, np.float64)
    if unit == "ms" or (unit == "auto" and table[:, 2].max() > _LONGEST_S):
        table[:, 2] *= 1e-3
    found, member = np.unique(table[:, :2], axis=0, return_inverse=True)
    functions = []
    for i, (x, y) in enumerate(found):
        part = table[member.ravel() == i]
        part = part[np.argsort(part[:, 2], kind="stable")]
        functions.append((float(x), float(y), part[:, 2], part[:, 3]))
    return scattered(functions, what, bounds, f"Velocity.open: {path.name}")


def _numbers(name: str, line: int, words: list[str]) -> list[float]:
    try:
        return [float(word) for word in words]
    except ValueError:
        bad = next(word for word in words if not _is_number(word))
        raise InputError(
            f"Velocity.open: {name}, line {line}: {bad!r} is no number; rows are x y t v, or t v."
        ) from None


def _is_number(word: str) -> bool:
    try:
        return bool(np.isfinite(float(word)))
    except ValueError:
        return False


def _read_columns(name: str, lines: list[tuple[int, str]], columns: str | None) -> Rows:
    """Read rows of ``x y t v`` or ``t v``; a title row may come first."""
    while lines and not _is_number(lines[0][1].split()[0]):
        lines = lines[1:]
    names = None if columns is None else columns.replace(",", " ").split()
    if names is not None and (sorted(n for n in names if n != "-") not in (["t", "v", "x", "y"], ["t", "v"])):
        raise InputError(f"Velocity.open: columns is {columns!r}; name x, y, t and v once each, others with '-'.")
    rows: Rows = []
    for i, line in lines:
        words = line.split()
        if names is None:
            names = ["x", "y", "t", "v"] if len(words) == 4 else ["t", "v"]
        if len(words) != len(names):
            raise InputError(
                f"Velocity.open: {name}, line {i} has {len(words)} columns, not {len(names)} ({' '.join(names)}); pass "
                "columns= to say what they are."
            )
        row = dict(zip(names, words, strict=True))
        x, y, t, v = _numbers(name, i, [row.get("x", "0"), row.get("y", "0"), row["t"], row["v"]])
        rows.append((x, y, t, v))
    return rows


def _read_cards(name: str, lines: list[tuple[int, str]], places: Mapping[Any, tuple[float, float]]) -> Rows:
    """Read V2, or SPNT and VELF cards."""
    known = {str(point): place for point, place in places.items()}
    rows: Rows = []
    here: tuple[float, float] | None = None
    for i, line in lines:
        words = line.split()
        keyword = words[0].upper()
        if keyword.startswith("V2"):
            words = words if keyword == "V2" else ["V2", words[0][2:], *words[1:]]
            point, rest = (words[2] if len(words) > 2 else ""), _numbers(name, i, words[3:])
            if known:
                if point not in known:
                    raise InputError(f"Velocity.open: {name}, line {i}: point {point} is not in places=; add it.")
                here = known[point]
            else:
                here, rest = ((rest[0], rest[1]) if len(rest) > 3 else None), rest[2:]
        elif keyword == "SPNT":
            values = _numbers(name, i, [w for w in words[1:] if _is_number(w)])
            here, rest = ((values[-2], values[-1]) if len(values) > 2 else None), []
        elif keyword == "VELF":
            rest = _numbers(name, i, words[1:])
        else:
            continue  # titles and other cards
        if here is None:
            raise InputError(
                f"Velocity.open: {name}, line {i}: the point has no x and y; put them on the card, or pass places=."
            )
        if len(rest) % 2:
            raise InputError(f"Velocity.open: {name}, line {i}: {len(rest)} numbers are no pairs of time and velocity.")
        rows += [(*here, t, v) for t, v in zip(rest[::2], rest[1::2], strict=True)]
    return rows


# -------------------------------------------------------------------- writing


def save_velocity(velocity: Velocity, path: str | os.PathLike[str], grid: Grid, kind: Kind) -> None:
    """Write a field; see :meth:`Velocity.save`."""
    target = Path(path)
    writers = {".sgy": _save_segy, ".segy": _save_segy, ".zarr": _save_zarr, ".txt": _save_text}
    choice("Velocity.save", "the name's ending", target.suffix.lower(), tuple(writers))
    writers[target.suffix.lower()](velocity.sampled(grid, kind), target, grid, kind)


def _save_segy(values: Floats, path: Path, grid: Grid, kind: Kind) -> None:
    places = np.stack(grid.map, axis=-1)
    layout = Layout(grid.inlines, grid.crosslines, places, grid.t, np.zeros(1, np.int64))
    write_volume(
        path,
        layout,
        lambda rows, columns: values[rows, columns, None],
        operation="Velocity.save",
        text=[f"{_SAYS} {kind}, m/s", f"azimuth {grid.azimuth:g}, bins {grid.dx:g} x {grid.dy:g} m"],
    )


def _save_zarr(values: Floats, path: Path, grid: Grid, kind: Kind) -> None:
    xarray = optional_library("xarray", "Velocity.save")
    optional_library("zarr", "Velocity.save")
    if path.exists() and not (path / "velocity").exists():
        raise InputError(f"Velocity.save: {path} exists and is no velocity; give another name, or remove it first.")
    dims = ("inline", "crossline", "time")
    x, y = grid.map
    data = xarray.Dataset(
        {"velocity": (dims, values.astype(np.float32), {"units": "m/s", "kind": kind})},
        {
            "inline": grid.inlines, "crossline": grid.crosslines, "time": ("time", grid.t, {"units": "s"}),
            "cdp_x": (dims[:2], x, {"units": "m"}), "cdp_y": (dims[:2], y, {"units": "m"}),
        },
    )  # fmt: skip
    with atomic_directory(path) as folder:
        data.to_zarr(folder, mode="w", zarr_format=3, consolidated=False)


def _save_text(values: Floats, path: Path, grid: Grid, kind: Kind) -> None:
    skip = int(kind != "rms" and grid.t0 == 0.0)  # no layer ends at time 0
    lines = [f"# kind: {kind}", "# x (m) y (m) t (ms, two-way) v (m/s)"]
    for (x, y), function in zip(grid.pillars, values.reshape(grid.size, -1), strict=True):
        lines += [f"{x:.2f} {y:.2f} {1e3 * t:.6g} {v:.4f}" for t, v in zip(grid.t[skip:], function[skip:], strict=True)]
    write_text(path, "\n".join(lines) + "\n")
