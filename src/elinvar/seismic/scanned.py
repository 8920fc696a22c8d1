"""What a velocity scan found: one image per percentage of the velocity, and the percentage that fits best where."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from elinvar.errors import InputError
from elinvar.runtime.files import atomic_directory

from ._check import choice, number, optional_library
from .gathers import crest, semblance, window_samples
from .image import Gathers, Image, Timing
from .velocity import Velocity

if TYPE_CHECKING:
    import xarray as xr

    from .binning import GatherAxis
    from .grid import Grid
    from .job import Job

__all__ = ["Scan"]

Floats = NDArray[np.float64]
Measure = Literal["semblance", "power"]
_CHUNK = 64  # pillars per side of one Zarr chunk


@dataclass
class Scan:
    """Images of one survey for several percentages of one velocity.

    Attributes
    ----------
    grid
        Where the samples are.
    velocity
        What 100 % is.
    percents
        Percentages of it, (n,), evenly spaced.
    values, counts
        Stacks, float32, and contributions, int32, both (nx, ny, n, nt).
    axis, panels, panel_counts
        Bins of the gathers and what is in them, (nx, ny, bins, n, nt), or None.
    timing, job, attributes
        As an :class:`~elinvar.seismic.Image` has them, for all percentages together.
    """

    grid: Grid
    velocity: Velocity
    percents: Floats
    values: NDArray[np.float32]
    counts: NDArray[np.int32]
    axis: GatherAxis | None
    panels: NDArray[np.float32] | None
    panel_counts: NDArray[np.int32] | None
    members: tuple[int, ...]
    timing: Timing
    job: Job
    attributes: dict[str, Any]

    @property
    def contributions(self) -> int:
        """How many (trace, sample) pairs were added, all percentages together."""
        return int(self.counts.sum(dtype=np.int64))

    def at(self, percent: float) -> Image:
        """Return the image of one percentage, as :func:`~elinvar.seismic.migrate` makes it.

        Raises
        ------
        InputError
            A percentage that was not scanned.
        """
        k = self._place(percent)
        panels = None
        if self.axis is not None and self.panels is not None and self.panel_counts is not None:
            panels = Gathers(self.axis, self.panels[:, :, :, k], self.panel_counts[:, :, :, k], self.members)
        said = {**self.attributes, "velocity": str(self.velocity.scaled(percent)), "percent": float(percent)}
        return Image(self.grid, self.values[:, :, k], self.counts[:, :, k], panels, self.timing, self.job, said)

    def _place(self, percent: float) -> int:
        p = number("Scan.at", "percent", percent)
        found = np.flatnonzero(np.isclose(self.percents, p, atol=1e-6))
        if not found.size:
            raise InputError(f"Scan.at: {p:g} % was not scanned; there are {_shown(self.percents)}.")
        return int(found[0])

    @property
    def image(self) -> xr.DataArray:
        """The stacks, dimensions inline, crossline, percent, time."""
        return self._labelled("scan", self.values, {"long_name": "migrated amplitude", "units": "1"})

    @property
    def fold(self) -> xr.DataArray:
        """Contributions to each sample of the stacks."""
        return self._labelled("scan_fold", self.counts, {"long_name": "contributions", "units": "1"})

    def semblance(self, window: float = 0.04) -> xr.DataArray:
        """Return how alike the bins of the gathers are, dimensions inline, crossline, percent, time, in [0, 1].

        See :func:`elinvar.seismic.gathers.semblance`. NaN where nothing is live.

        Raises
        ------
        InputError
            The scan has no gathers.
        """
        if self.panels is None or self.panel_counts is None:
            raise InputError("Scan.semblance: there are no gathers; scan with gathers=, or pick by='power'.")
        found = np.empty(self.values.shape, np.float32)
        for ix in range(self.grid.nx):  # one inline at a time: semblance works in float64
            a, fold = (np.moveaxis(volume[ix], 2, 1) for volume in (self.panels, self.panel_counts))
            found[ix] = semblance(a, self.grid.dt, fold=fold, window=window)
        return self._labelled("semblance", found, {"long_name": "semblance", "units": "1"})

    def power(self, window: float = 0.04) -> xr.DataArray:
        """Return the mean square of the stacks in a sliding window, dimensions inline, crossline, percent, time.

        With ``amplitude="true"`` the weight falls with the square of the velocity; that is undone here, so that slow
        velocities have no advantage. A stack is strongest where its traces add up in phase.
        """
        n = window_samples(window, self.grid.dt)
        scale = self.percents / 100.0 if self.attributes.get("amplitude") == "true" else np.ones(len(self.percents))
        kernel = np.full(n, 1.0 / n)
        squares = np.square(self.values.astype(np.float64) * np.square(scale)[:, None]).reshape(-1, self.grid.nt)
        half, found = n // 2, np.empty(squares.shape, np.float32)
        for i, row in enumerate(squares):
            found[i] = np.convolve(row, kernel)[half : half + len(row)]
        return self._labelled("power", found.reshape(self.values.shape), {"long_name": "power", "units": "1"})

    def pick(
        self, by: Measure | None = None, *, window: float = 0.04, minimum: float = 0.3, energy: float = 1e-3
    ) -> xr.Dataset:
        """Pick the percentage that fits best at every sample.

        Parameters
        ----------
        by
            ``"semblance"``: the gathers are flattest; ``"power"``: the stack is strongest. By default semblance where
            there are gathers.
        window
            Seconds.
        minimum
            For semblance: coherence below which nothing is picked, from 0, the 1/N that noise has in N bins, to 1.
        energy
            Part of a pillar's largest power below which nothing is picked.

        Returns
        -------
        xarray.Dataset
            ``percent`` (inline, crossline, time), refined between the percentages and NaN where there is nothing to
            pick or the best is an end of the scan; ``quality``, the semblance or power there.

        Raises
        ------
        InputError
            Fewer than three percentages, or semblance without gathers.
        """
        way = ("power" if self.panels is None else "semblance") if by is None else by
        choice("Scan.pick", "by", way, ("semblance", "power"))
        if len(self.percents) < 3:
            raise InputError(f"Scan.pick: {len(self.percents)} percentages were scanned; three are needed to pick.")
        power = self.power(window)
        measure = power if way == "power" else self.semblance(window)
        best, peak, inner = crest(measure.values.astype(np.float64), self.percents)
        strongest = power.values.max(axis=2)
        found = inner & (strongest > energy * strongest.max(axis=-1, keepdims=True))
        if way == "semblance" and self.panel_counts is not None:
            live = (self.panel_counts > 0).sum(axis=2).max(axis=2)
            noise = 1.0 / np.maximum(live, 1)
            found &= np.nan_to_num(peak) >= noise + minimum * (1.0 - noise)
        flat = measure.isel(percent=0, drop=True)
        chosen = flat.copy(data=np.where(found, best, np.nan).astype(np.float32)).assign_attrs(
            long_name="best percentage of the velocity", units="percent"
        )
        quality = flat.copy(data=peak.astype(np.float32)).assign_attrs(long_name=way)
        xarray = optional_library("xarray", "Scan.pick")
        result: xr.Dataset = xarray.Dataset({"percent": chosen, "quality": quality}, attrs={"by": way})
        return result

    def picked(self, picks: xr.Dataset | None = None) -> Velocity:
        """Return the velocity with the picked percentages: between picks linear in time, where there are none 100 %.

        Smooth it (:meth:`Velocity.smoothed`) before migrating with it: picks scatter.
        """
        chosen = np.asarray((self.pick() if picks is None else picks)["percent"].values, np.float64)
        t = self.grid.t
        factors = np.ones(self.grid.shape)
        for at in np.ndindex(*factors.shape[:2]):
            known = np.isfinite(chosen[at])
            if known.any():
                factors[at] = 0.01 * np.interp(t, t[known], chosen[at][known])
        return Velocity.cube(self.velocity.sampled(self.grid) * factors, self.grid, "rms", bounds=(1.0, 1e6))

    def dataset(self, window: float = 0.04) -> xr.Dataset:
        """Return everything but the gathers: the stacks, what the picks go by, the picks, and the image nearest 100 %.

        Its ``image`` and ``fold`` are an image as :func:`~elinvar.seismic.migrate` makes it, so that whatever looks at
        images can look at a scan.
        """
        middle = self.at(float(self.percents[np.argmin(np.abs(self.percents - 100.0))]))
        merged = middle.dataset().drop_vars(["gathers", "gather_fold"], errors="ignore")
        merged = merged.drop_dims([name for name in ("offset", "azimuth", "tile") if name in merged.dims])
        for volume in (self.image, self.fold, *self._measures(window)):
            merged[str(volume.name)] = volume
        if len(self.percents) > 2:
            picks = self.pick(window=window)
            merged["pick"] = picks["percent"]
            merged["pick_quality"] = picks["quality"]
        return merged

    def _measures(self, window: float) -> Iterator[xr.DataArray]:
        yield self.power(window)
        if self.panels is not None:
            yield self.semblance(window)

    def to_zarr(self, path: str | os.PathLike[str], *, window: float = 0.04) -> None:
        """Write :meth:`dataset` as a Zarr version 3 group, whole or not at all; an existing folder is replaced."""
        optional_library("zarr", "Scan.to_zarr")
        data = self.dataset(window)
        encoding = {}
        for name, variable in data.data_vars.items():
            sides = (_CHUNK, _CHUNK, 1, self.grid.nt) if variable.ndim == 4 else (_CHUNK, _CHUNK, self.grid.nt)
            encoding[str(name)] = {"chunks": tuple(min(a, b) for a, b in zip(sides, variable.shape, strict=True))}
        with atomic_directory(path) as temporary:
            data.to_zarr(temporary, mode="w", zarr_format=3, consolidated=False, encoding=encoding)

    def _labelled(self, name: str, values: NDArray[Any], attributes: dict[str, Any]) -> xr.DataArray:
        xarray = optional_library("xarray", "Scan")
        dims = ("inline", "crossline", "percent", "time")
        labelled: xr.DataArray = xarray.DataArray(
            values, self._coordinates, dims, name, {**self.attributes, **attributes}
        )
        return labelled

    @cached_property
    def _coordinates(self) -> dict[str, Any]:
        x, y = self.grid.map
        return {
            "inline": ("inline", self.grid.inlines),
            "crossline": ("crossline", self.grid.crosslines),
            "percent": ("percent", self.percents, {"units": "percent", "long_name": "of the velocity"}),
            "time": ("time", self.grid.t, {"units": "s", "long_name": "two-way time"}),
            "cdp_x": (("inline", "crossline"), x, {"units": "m", "long_name": "easting"}),
            "cdp_y": (("inline", "crossline"), y, {"units": "m", "long_name": "northing"}),
        }


def _shown(percents: Floats) -> str:
    step = percents[1] - percents[0] if len(percents) > 1 else 0.0
    return f"{percents[0]:g} to {percents[-1]:g} in steps of {step:g}"
