"""What the sections ``input``, ``velocity``, ``grid`` and ``algorithm.gathers`` of a job file describe, built."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from elinvar import seismic
from elinvar.errors import ConfigError

from . import config as cfg
from .binning import AzimuthSectors, Binning, OffsetBins, OffsetVectorTiles
from .grid import Grid
from .mute import Mute
from .selection import azimuths, offsets, where
from .targets import lines
from .velocity import Velocity

if TYPE_CHECKING:
    from .survey import Survey

__all__ = ["build_gathers", "build_grid", "build_mute", "build_velocity", "open_survey"]

_READERS = {"segy": "open_segy", "su": "open_su", "zarr": "open_zarr"}
_SUFFIXES = {".sgy": "segy", ".segy": "segy", ".seg": "segy", ".su": "su", ".zarr": "zarr", ".mdio": "zarr"}


def open_survey(options: cfg.Input, folder: Path) -> Survey:
    """Open what the section ``input`` names, selection included."""
    path = folder / options.path
    form = _SUFFIXES.get(path.suffix.lower(), "segy") if options.format == "auto" else options.format
    reader: Callable[..., Survey] = getattr(seismic, _READERS[form])
    given: dict[str, Any] = {}
    if options.bin_size is not None:
        given["bin_size"] = options.bin_size
    if form != "zarr":
        given |= {"endian": options.endian, **options.header_bytes}
        given["dt"] = None if options.dt_ms is None else 1e-3 * options.dt_ms
    elif options.header_bytes or options.dt_ms is not None or options.endian != "auto":
        raise ConfigError("input.header_bytes, endian and dt_ms belong to SEG-Y and SU files; leave them out for Zarr.")
    survey = reader(path, **given)
    flags = _selected(options.select, survey)
    return survey if flags.all() else survey.select(flags)


def _selected(options: cfg.Selection, survey: Survey) -> Any:
    flags = np.ones(survey.n_traces, bool)
    if options.where is not None:
        flags &= where(survey, options.where)
    if options.offset is not None:
        flags &= offsets(survey, *options.offset, along=options.along)
    elif options.along is not None:
        raise ConfigError("input.select.along says how offsets are signed; give input.select.offset with it.")
    if options.azimuth is not None:
        flags &= azimuths(survey, *options.azimuth, reciprocal=options.reciprocal)
    if not flags.any():
        raise ConfigError("input.select leaves no trace; widen it.")
    return flags


def build_velocity(options: Any, folder: Path) -> Velocity:
    """Return the field that the section ``velocity`` describes."""
    bounds = tuple(options.bounds)
    if isinstance(options, cfg.ConstantVelocity):
        field = Velocity.constant(options.v, bounds=bounds)
    elif isinstance(options, cfg.LinearVelocity):
        field = Velocity.linear(options.v0, options.k, bounds=bounds)
    elif isinstance(options, cfg.TableVelocity):
        field = Velocity.table([1e-3 * t for t in options.times_ms], options.v, options.kind, bounds=bounds)
    else:
        given: dict[str, Any] = {}
        if isinstance(options, cfg.CubeVelocity):
            given = {**options.header_bytes, **({"dt": 1e-3 * options.dt_ms} if options.dt_ms is not None else {})}
        elif options.columns is not None or options.unit != "auto":
            given = {"columns": options.columns, "unit": options.unit}
        field = Velocity.open(folder / options.path, options.kind, bounds=bounds, **given)
    if options.smooth_m or options.smooth_ms:
        field = field.smoothed(options.smooth_m, 1e-3 * options.smooth_ms)
    return field if options.percent == 100.0 else field.scaled(options.percent)


def build_grid(options: Any, survey: Survey) -> Grid:
    """Return the grid that the section ``grid`` describes."""
    if isinstance(options, cfg.SurveyGrid):
        step = survey.dt if options.dt_ms is None else 1e-3 * options.dt_ms
        nt = None if options.t_max_ms is None else round(1e-3 * options.t_max_ms / step) + 1
        grid = Grid.from_survey(survey, bin_size=options.bin_size, azimuth=options.azimuth, nt=nt, dt=step)
    else:
        given = cfg.plain(options)
        for name in ("type", "inlines", "crosslines"):
            given.pop(name)
        given |= {name: 1e-3 * given.pop(f"{name}_ms") for name in ("dt", "t0")}
        makers: dict[str, Callable[..., Grid]] = {
            "explicit": Grid, "corners": Grid.from_corners, "box": Grid.from_box, "lines": Grid.from_lines
        }  # fmt: skip
        grid = makers[options.type](**given)
    if options.inlines is not None or options.crosslines is not None:
        grid = lines(grid, options.inlines, options.crosslines)
    return grid


def build_mute(options: cfg.MuteOptions | None) -> Mute | None:
    """Return the mute that ``algorithm.mute`` describes."""
    if options is None:
        return None
    table = None if options.table is None else tuple((offset, 1e-3 * time) for offset, time in options.table)
    return Mute(options.header, table, 1e-3 * options.taper_ms)


def build_gathers(options: Any) -> Binning | None:
    """Return the gathers that ``algorithm.gathers`` describes."""
    if options is None:
        return None
    if isinstance(options, cfg.OffsetGathers):
        return OffsetBins(options.edges, options.along)
    if isinstance(options, cfg.AzimuthGathers):
        return AzimuthSectors(options.edges, options.reciprocal)
    return OffsetVectorTiles(options.dx, options.dy, options.azimuth, options.reciprocal)
