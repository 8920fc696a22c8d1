"""Whole volumes: semblance, residual moveout and flatness everywhere; the sum of weights to normalise by."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from elinvar.errors import InputError

from ._check import count, optional_library
from .gathers import PERCENTS, flatness_ms, residual_moveout, semblance
from .migration import migrate
from .survey import Survey
from .traces import Traces
from .volume import Source, Volume

if TYPE_CHECKING:
    import xarray as xr

    from .grid import Grid
    from .image import Image
    from .velocity import Velocity

__all__ = ["analyse", "illumination"]

_AT_ONCE = 1 << 20  # gather samples in one batch: tens of megabytes with all that is computed from them


def analyse(
    source: Source,
    velocity: Velocity | None = None,
    *,
    window: float = 0.04,
    percents: ArrayLike = PERCENTS,
    every: int = 1,
    progress: Callable[[int, int | None], object] | None = None,
) -> xr.Dataset:
    """Analyse the gathers of an image, a batch of pillars at a time.

    Parameters
    ----------
    source
        An Image with gathers, its Dataset, or its Zarr folder.
    velocity
        What it was migrated with. Without it there is no residual moveout.
    window
        Of the semblance, seconds.
    percents
        Velocity errors to try, see :func:`~elinvar.seismic.gathers.residual_moveout`.
    every
        Look at every n-th inline and crossline only.
    progress
        Called with (pillars done, pillars in all).

    Returns
    -------
    xarray.Dataset
        Dimensions inline, crossline, time: ``semblance`` and ``flatness`` (ms, rms over bins of the events' time), and
        with a velocity ``moveout`` (percent) and ``moveout_semblance``.

    Raises
    ------
    InputError
        The image has no gathers, or a velocity was given and its bins are azimuth sectors.
    """
    xarray = optional_library("xarray", "analyse")
    step = count("analyse", "every", every)
    with Volume.open(source) as volume:
        values, fold = volume.gathers, volume.gather_fold
        if values is None or fold is None:
            raise InputError(f"analyse: {volume.name} has no gathers; migrate with gathers=.")
        if velocity is not None and volume.bin_dim == "azimuth":
            raise InputError("analyse: azimuth sectors mix all offsets; residual moveout needs offset bins or tiles.")
        rows, columns = np.arange(0, volume.shape[0], step), np.arange(0, volume.shape[1], step)
        names = ["semblance", "flatness", *(("moveout", "moveout_semblance") if velocity is not None else ())]
        found = {name: np.empty((len(rows), len(columns), volume.shape[2]), np.float32) for name in names}
        h = volume.offsets() if velocity is not None else None
        width = max(1, _AT_ONCE // (values.shape[2] * values.shape[3]))
        for i, row in enumerate(rows):
            for first in range(0, len(columns), width):
                part = columns[first : first + width]
                batch = _Batch(
                    values[int(row), part].values, fold[int(row), part].values, volume.t, h, window, percents
                )
                v = None if velocity is None else velocity.on_pillars(volume.t, volume.map[row, part])
                for name, part_found in batch.run(v).items():
                    found[name][i, first : first + width] = part_found
            if progress is not None:
                progress((i + 1) * len(columns), len(rows) * len(columns))
        units = {"semblance": "1", "flatness": "ms", "moveout": "percent", "moveout_semblance": "1"}
        dims = ("inline", "crossline", "time")
        here = {"inline": volume.inlines[rows], "crossline": volume.crosslines[columns], "time": volume.t}
        labelled = {name: (dims, data, {"units": units[name]}) for name, data in found.items()}
        result: xr.Dataset = xarray.Dataset(labelled, here, {"window_ms": 1e3 * window, "every": step})
        return result


@dataclass(frozen=True)
class _Batch:
    """Some gathers of one inline."""

    values: NDArray[Any]
    fold: NDArray[Any]
    t: NDArray[np.float64]
    h: NDArray[np.float64] | None
    window: float
    percents: ArrayLike

    def run(self, v: NDArray[np.float64] | None) -> dict[str, NDArray[np.float64]]:
        dt = float(self.t[-1] - self.t[0]) / (len(self.t) - 1)
        found = {"semblance": semblance(self.values, dt, fold=self.fold, window=self.window)}
        if v is None or self.h is None:
            return {**found, "flatness": flatness_ms(self.values, self.t, fold=self.fold)}
        picked = residual_moveout(
            self.values, self.t, self.h, v, fold=self.fold, percents=self.percents, window=self.window
        )
        flat = flatness_ms(self.values, self.t, fold=self.fold, offset=self.h, v=v, moveout=picked)
        return {**found, "flatness": flat, "moveout": picked.percent, "moveout_semblance": picked.semblance}


def illumination(survey: Survey, velocity: Velocity, grid: Grid, **options: Any) -> Image:
    """Return the sum of the weights that :func:`~elinvar.seismic.migrate` gives to the traces at every sample.

    It is the migration of traces that are 1 everywhere, without the phase filter, and costs as much as the migration
    itself. Give it the same options, and the result to :meth:`Image.normalised`: irregular coverage then no longer
    shows as amplitude.

    Parameters
    ----------
    survey, velocity, grid, **options
        As for the migration.
    """
    for name in ("phase_filter", "normalize"):
        if name in options:
            raise InputError(f"illumination: {name} does not apply to a sum of weights; leave it out.")
    ones = survey.with_traces(_Ones(survey.traces))
    result = migrate(ones, velocity, grid, phase_filter=False, **options)
    result.attributes["quantity"] = "sum of weights"
    return result


@dataclass(frozen=True)
class _Ones:
    """1 where another source's trace sounds; silent traces stay silent, as they count for nothing."""

    traces: Traces

    @property
    def shape(self) -> tuple[int, int]:
        return self.traces.shape

    def read(self, index: NDArray[np.int64]) -> NDArray[np.float32]:
        samples = self.traces.read(index)
        return np.repeat(samples.any(axis=1, keepdims=True).astype(np.float32), samples.shape[1], axis=1)
