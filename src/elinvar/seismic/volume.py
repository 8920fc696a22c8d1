"""One way to look at a migrated volume, whether it is in memory or a Zarr folder larger than memory.

Nothing is read before it is asked for, and then only the chunks that hold it.
"""

from __future__ import annotations

import os
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from elinvar.errors import InputError

from ._check import optional_library
from .image import Image

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["Source", "Volume", "open_image"]

Floats = NDArray[np.float64]
BINS = ("offset", "azimuth", "tile")


def open_image(path: str | os.PathLike[str], group: str | None = None) -> xr.Dataset:
    """Open an image that :meth:`Image.to_zarr` wrote, lazily.

    Parameters
    ----------
    path
        The Zarr folder.
    group
        A group in it: ``"pyramid/1"``.

    Returns
    -------
    xarray.Dataset
        ``image``, ``fold``, and ``gathers``, ``gather_fold`` when there are any; close it when done.

    Raises
    ------
    InputError
        No such folder, or no image in it.
    """
    xarray = optional_library("xarray", "open_image")
    optional_library("zarr", "open_image")
    folder = Path(path)
    if not folder.exists():
        raise InputError(f"open_image: there is no {folder}; write an image with Image.to_zarr or `seismic migrate`.")
    try:
        data: xr.Dataset = xarray.open_zarr(folder, group=group, consolidated=False, chunks=None)
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"open_image: {folder} cannot be opened as Zarr ({error}); give an image folder.") from error
    if "image" not in data or data["image"].dims != ("inline", "crossline", "time"):
        data.close()
        raise InputError(f"open_image: {folder} holds no image (inline, crossline, time); give a migrated image.")
    return data


if TYPE_CHECKING:
    Source = Image | xr.Dataset | str | os.PathLike[str]
else:
    Source = Any


class Volume:
    """A migrated image with the geometry that sections, maps and spectra need.

    Attributes
    ----------
    data
        The xarray Dataset behind it.
    name
        For people.

    Examples
    --------
    ``with Volume.open("image.zarr") as volume: section = volume.inline(10)``
    """

    def __init__(self, data: xr.Dataset, name: str, folder: Path | None = None) -> None:
        self.data = data
        self.name = name
        self._folder = folder

    @classmethod
    def open(cls, source: Source) -> Volume:
        """Return a volume over an Image, a Dataset, or the folder of one."""
        if isinstance(source, Volume):
            return cls(source.data, source.name)
        if isinstance(source, Image):
            return cls(source.dataset(), str(source.attributes.get("survey", "image")))
        if isinstance(source, (str, os.PathLike)):
            return cls(open_image(source), Path(source).name, Path(source))
        variables = getattr(source, "data_vars", None)
        if variables is None or "image" not in variables:
            raise InputError(
                f"seismic: {type(source).__name__} is not a migrated image; give an Image, its Dataset or its folder."
            )
        return cls(source, str(source.attrs.get("survey", "image")))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close what was opened here."""
        if self._folder is not None:
            self.data.close()

    @property
    def image(self) -> xr.DataArray:
        """The stack (inline, crossline, time)."""
        return self.data["image"]

    @property
    def fold(self) -> xr.DataArray | None:
        """Contributions per sample, or None."""
        return self.data.get("fold")

    @property
    def gathers(self) -> xr.DataArray | None:
        """Gathers (inline, crossline, bin, time), or None."""
        return self.data.get("gathers")

    @property
    def gather_fold(self) -> xr.DataArray | None:
        """Contributions per gather sample, or None."""
        return self.data.get("gather_fold")

    @property
    def bin_dim(self) -> str | None:
        """``"offset"``, ``"azimuth"``, ``"tile"``, or None without gathers."""
        return None if self.gathers is None else str(self.gathers.dims[2])

    @property
    def shape(self) -> tuple[int, int, int]:
        """``(nx, ny, nt)``."""
        nx, ny, nt = self.image.shape
        return int(nx), int(ny), int(nt)

    @cached_property
    def t(self) -> Floats:
        """Two-way times in seconds."""
        return np.asarray(self.data["time"].values, np.float64)

    @property
    def dt(self) -> float:
        """Sample interval in seconds."""
        return float(self.t[-1] - self.t[0]) / max(len(self.t) - 1, 1)

    @property
    def inlines(self) -> NDArray[Any]:
        """Inline numbers."""
        return np.asarray(self.data["inline"].values)

    @property
    def crosslines(self) -> NDArray[Any]:
        """Crossline numbers."""
        return np.asarray(self.data["crossline"].values)

    @cached_property
    def map(self) -> Floats:
        """Map coordinates (easting, northing) of every pillar in metres, (nx, ny, 2); bin numbers when unknown."""
        if "cdp_x" in self.data and "cdp_y" in self.data:
            return np.stack([self.data["cdp_x"].values, self.data["cdp_y"].values], axis=-1).astype(np.float64)
        x, y = np.meshgrid(self.inlines, self.crosslines, indexing="ij")
        return np.stack([x, y], axis=-1).astype(np.float64)

    @property
    def spacing(self) -> tuple[float, float]:
        """Mean distance between inlines, and between crosslines, in metres (1 where there is one line)."""
        place = self.map
        ends = (place[-1, 0] - place[0, 0], place[0, -1] - place[0, 0])
        nx, ny, _ = self.shape
        first, second = (float(np.hypot(*v)) / (n - 1) if n > 1 else 1.0 for v, n in zip(ends, (nx, ny), strict=True))
        return first, second

    @property
    def axes(self) -> Floats:
        """Steps (east, north) in metres from one inline, and from one crossline, to the next, (2, 2)."""
        place, (nx, ny, _) = self.map, self.shape
        along = (place[-1, 0] - place[0, 0]) / (nx - 1) if nx > 1 else None
        across = (place[0, -1] - place[0, 0]) / (ny - 1) if ny > 1 else None
        if along is None and across is None:
            return np.eye(2)[::-1].copy()
        if along is None or across is None:  # one line: the other axis is at right angles, crosslines to the right
            known = along if along is not None else across
            assert known is not None
            turned = np.array([known[1], -known[0]])
            along, across = (known, turned) if along is not None else (-turned, known)
        return np.asarray([along, across], np.float64)

    def bins(self, places: Floats) -> NDArray[np.int64]:
        """Return the bin (inline, crossline position) nearest to each place (n, 2) in metres; it may lie outside."""
        index = np.rint((places - self.map[0, 0]) @ np.linalg.inv(self.axes))
        return np.asarray(index, np.int64)

    def overview(self, most: int = 1 << 28) -> tuple[NDArray[np.float32], tuple[int, int, int], int] | None:
        """Return the whole volume no larger than `most` bytes.

        Returns
        -------
        tuple or None
            Amplitudes, their steps along inline, crossline and time in samples of the volume, and the level of the
            pyramid they are from (0: the volume itself); None when the volume is larger and has no such level.
        """
        if self.image.size * 4 <= most:
            return np.asarray(self.image.values, np.float32), (1, 1, 1), 0
        stored = self.data.attrs.get("multiscales", [{}])[0].get("datasets", []) if self._folder is not None else []
        for number in range(1, len(stored)):
            level = open_image(self._folder or "", f"pyramid/{number}")
            try:
                if level["image"].size * 4 <= most:
                    factors = tuple(int(f) for f in level.attrs["factors"])
                    return np.asarray(level["image"].values, np.float32), (factors[0], factors[1], factors[2]), number
            finally:
                level.close()
        return None

    def offsets(self) -> Floats:
        """Offset in metres that each gather bin stands for, NaN for an empty one."""
        if self.gathers is None:
            raise InputError(f"seismic: {self.name} has no gathers; migrate with gathers=.")
        if "rms_offset" in self.gathers.coords:
            return np.asarray(self.gathers["rms_offset"].values, np.float64)
        if self.bin_dim != "offset":
            raise InputError(f"seismic: the {self.bin_dim} gathers of {self.name} do not know their offsets.")
        return np.abs(np.asarray(self.gathers["offset"].values, np.float64))
