"""The result of a migration: labelled volumes that xarray and Zarr users can open, and how the time was spent."""

from __future__ import annotations

import os
import time
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from elinvar.errors import InputError
from elinvar.runtime.files import atomic_directory
from elinvar.runtime.trace import trace

from ._check import choice, optional_library
from .grid import Grid

if TYPE_CHECKING:
    import xarray as xr

    from .binning import GatherAxis
    from .job import Job

__all__ = ["Gathers", "Image", "Timing"]

_CHUNK = 64  # bins per side of one Zarr chunk; time is never split


@dataclass(frozen=True)
class Timing:
    """Seconds of a migration. Stages overlap, so they may add up to more than `total`.

    Attributes
    ----------
    compile
        Getting the kernel ready: just-in-time compilation and its self-check. Once per process.
    prepare
        Reading samples, local coordinates, the phase filter.
    transfer
        Host to device.
    kernel
        The migration kernel.
    store
        Device to host, adding up, and writing (``to_zarr`` adds to it).
    total
        Wall clock of ``migrate`` after `compile`.
    """

    compile: float = 0.0
    prepare: float = 0.0
    transfer: float = 0.0
    kernel: float = 0.0
    store: float = 0.0
    total: float = 0.0

    def to_dict(self) -> dict[str, float]:
        """Return plain data for JSON."""
        return asdict(self)


@dataclass(frozen=True)
class Gathers:
    """Raw volumes of one bin each: what was added up, not a mean.

    Attributes
    ----------
    axis
        What the bins are: offsets, azimuth sectors or offset-vector tiles.
    values, fold
        float32 and int32 of shape (nx, ny, bins, nt).
    traces
        Live traces in each bin.
    """

    axis: GatherAxis
    values: NDArray[np.float32]
    fold: NDArray[np.int32]
    traces: tuple[int, ...]

    @property
    def centres(self) -> NDArray[np.float64]:
        """Coordinate of each bin: metres or degrees, or the number of a tile."""
        return self.axis.values


@dataclass
class Image:
    """A migrated volume.

    Attributes
    ----------
    grid
        Where its samples are.
    values, counts
        Stack, float32, and contributions per sample, int32, both (nx, ny, nt); `image` and `fold` label them.
    panels
        Raw gathers, or None when none were asked for; `gathers` labels them.
    timing
        Where the seconds went.
    job
        What was run: device, kernel version, sizes.
    """

    grid: Grid
    values: NDArray[np.float32]
    counts: NDArray[np.int32]
    panels: Gathers | None
    timing: Timing
    job: Job
    attributes: dict[str, Any] = field(default_factory=dict)

    @property
    def contributions(self) -> int:
        """Sum of the fold: how many (trace, sample) pairs were added."""
        return int(self.counts.sum(dtype=np.int64))

    @cached_property
    def image(self) -> xr.DataArray:
        """The stack, dimensions inline, crossline, time (s), with map coordinates."""
        labels = {"long_name": "migrated amplitude", "units": "1", **self.attributes}
        return self._labelled("image", self.values, ("inline", "crossline", "time"), labels)

    @cached_property
    def fold(self) -> xr.DataArray:
        """Contributions to each sample of the stack."""
        return self._labelled(
            "fold", self.counts, ("inline", "crossline", "time"), {"long_name": "contributions", "units": "1"}
        )

    @cached_property
    def gathers(self) -> xr.DataArray | None:
        """The gathers, dimensions inline, crossline, offset (m) | azimuth (degrees) | tile, time (s), or None.

        The stack is their sum, plus the traces that are in no bin.
        """
        if self.panels is None:
            return None
        dims = ("inline", "crossline", self.panels.axis.dim, "time")
        # Attributes, not coordinates: Zarr version 3 has no specified text type.
        counted = {"traces": list(self.panels.traces), "bins": list(self.panels.axis.labels)}
        labels = {"long_name": "migrated amplitude", "units": "1", **counted}
        return self._labelled("gathers", self.panels.values, dims, labels)

    @cached_property
    def gather_fold(self) -> xr.DataArray | None:
        """Contributions to each gather sample, or None."""
        if self.panels is None:
            return None
        dims = ("inline", "crossline", self.panels.axis.dim, "time")
        return self._labelled("gather_fold", self.panels.fold, dims, {"units": "1"})

    def normalised(
        self,
        by: Literal["fold", "weights"] = "fold",
        *,
        of: Literal["image", "gathers"] = "image",
        weights: Image | None = None,
        least: float = 1.0,
    ) -> xr.DataArray:
        """Return the stack or the gathers divided by what made them, 0 where that is too little.

        Irregular coverage no longer shows as amplitude. The result is a mean, not a reflectivity: dividing undoes the
        scale of ``amplitude="true"``.

        Parameters
        ----------
        by
            ``"fold"``: the number of contributions. ``"weights"``: the sum of their weights.
        of
            What to divide.
        weights
            For ``"weights"``: :func:`~elinvar.seismic.illumination` of the same survey, grid and gathers.
        least
            Fold below which a sample is 0; with weights, the percentage of the largest sum at the same time.

        Raises
        ------
        InputError
            No gathers, no weights, or weights of another shape.
        """
        choice("Image.normalised", "by", by, ("fold", "weights"))
        choice("Image.normalised", "of", of, ("image", "gathers"))
        volume = self.image if of == "image" else self.gathers
        divisor: NDArray[Any] | None = self.counts if of == "image" else getattr(self.panels, "fold", None)
        if volume is None or divisor is None:
            raise InputError("Image.normalised: there are no gathers; migrate with gathers=.")
        floor: Any = least
        if by == "weights":
            if weights is None:
                raise InputError("Image.normalised: by='weights' needs weights=seismic.illumination(...).")
            divisor = weights.values if of == "image" else getattr(weights.panels, "values", None)
            if divisor is None or divisor.shape != volume.shape:
                shape = None if divisor is None else divisor.shape
                raise InputError(f"Image.normalised: weights have shape {shape}; {volume.shape} is needed.")
            floor = 0.01 * least * divisor.max(axis=tuple(range(divisor.ndim - 1)))
        # Below the floor there is no mean to speak of; `> 0` also when the floor itself is 0.
        enough = (divisor >= floor) & (divisor > 0)
        mean = np.divide(volume.values, divisor, out=np.zeros(volume.shape, np.float32), where=enough)
        return volume.copy(data=mean).assign_attrs(normalised=by)

    def dataset(self) -> xr.Dataset:
        """Return all volumes in one xarray Dataset."""
        xarray = optional_library("xarray", "Image.dataset")
        volumes = [v for v in (self.image, self.fold, self.gathers, self.gather_fold) if v is not None]
        merged: xr.Dataset = xarray.Dataset({str(v.name): v for v in volumes})
        merged.attrs.update(self.attributes)
        return merged

    def to_zarr(self, path: str | os.PathLike[str]) -> None:
        """Write all volumes as a Zarr version 3 group, whole or not at all; an existing folder is replaced.

        Open it with ``xarray.open_zarr(path, consolidated=False)``.
        """
        optional_library("zarr", "Image.to_zarr")
        start = time.perf_counter()
        with trace("seismic.store"):
            data = self.dataset()
            encoding = {}
            for name, variable in data.data_vars.items():
                sides = (_CHUNK, _CHUNK, 1, self.grid.nt) if variable.ndim == 4 else (_CHUNK, _CHUNK, self.grid.nt)
                encoding[str(name)] = {"chunks": tuple(min(a, b) for a, b in zip(sides, variable.shape, strict=True))}
            with atomic_directory(path) as temporary:
                data.to_zarr(temporary, mode="w", zarr_format=3, consolidated=False, encoding=encoding)
        self.timing = replace(self.timing, store=self.timing.store + time.perf_counter() - start)

    def to_segy(
        self, path: str | os.PathLike[str], *, of: str = "image", sample_format: int = 5, endian: str = "big"
    ) -> None:
        """Write the stack (or ``of="fold"``, ``"gathers"``) as SEG-Y; see :func:`~elinvar.seismic.export_segy`."""
        from .export import export_segy

        start = time.perf_counter()
        with trace("seismic.store"):
            export_segy(self, path, of=of, sample_format=sample_format, endian=endian)
        self.timing = replace(self.timing, store=self.timing.store + time.perf_counter() - start)

    def _labelled(
        self, name: str, values: NDArray[Any], dims: tuple[str, ...], attributes: dict[str, Any]
    ) -> xr.DataArray:
        xarray = optional_library("xarray", "Image")
        x, y = self.grid.map
        metres = {"units": "m"}
        coordinates: dict[str, Any] = {
            "inline": ("inline", self.grid.inlines),
            "crossline": ("crossline", self.grid.crosslines),
            "time": ("time", self.grid.t, {"units": "s", "long_name": "two-way time"}),
            "cdp_x": (("inline", "crossline"), x, {**metres, "long_name": "easting"}),
            "cdp_y": (("inline", "crossline"), y, {**metres, "long_name": "northing"}),
        }
        if self.panels is not None and len(dims) == 4:
            axis = self.panels.axis
            coordinates[axis.dim] = (axis.dim, axis.values, {"units": axis.units})
            coordinates["rms_offset"] = (axis.dim, axis.rms_offset, {**metres, "long_name": "root mean square offset"})
            coordinates["mean_azimuth"] = (axis.dim, axis.mean_azimuth, {"units": "degree"})
        labelled: xr.DataArray = xarray.DataArray(values, coordinates, dims, name, attributes)
        return labelled
