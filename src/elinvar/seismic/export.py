"""A migrated image as SEG-Y: stack, fold or gathers, from memory or straight from the Zarr folder, brick by brick."""

from __future__ import annotations

import os
import textwrap
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from elinvar.errors import InputError

from ._check import choice
from .segy_volume import Layout, write_volume

if TYPE_CHECKING:
    import xarray as xr

    from .volume import Source, Volume

__all__ = ["VOLUMES", "export_segy"]

#: What an image has to export.
VOLUMES = ("image", "fold", "gathers", "gather_fold")


def export_segy(
    source: Source,
    path: str | os.PathLike[str],
    *,
    of: str = "image",
    sample_format: int = 5,
    endian: str = "big",
    progress: Callable[[int, int | None], object] | None = None,
) -> None:
    """Write a migrated volume as SEG-Y revision 1: whole, or not at all.

    Inline and crossline numbers are in bytes 189 and 193, bin centres in 181 and 185 (centimetres, scalco -100), the
    first time in delrt, and the text header says what was done. Traces are sorted by inline, then crossline. Gathers
    have one trace per bin of theirs, with the middle of the offset bin in byte 37 (whole metres), or, for azimuth
    sectors and tiles, the bin's number.

    Parameters
    ----------
    source
        An :class:`~elinvar.seismic.Image`, its Dataset, or the Zarr folder; a folder is read brick by brick.
    path
        The file; replaced when it exists.
    of
        ``"image"``, ``"fold"``, ``"gathers"`` or ``"gather_fold"``.
    sample_format
        1 (IBM float), 5 (IEEE float), 6 (double), or 2, 3, 8 (integers) for volumes of whole numbers such as folds.
    endian
        ``"big"`` (the standard) or ``"little"``.
    progress
        Called with (traces written, traces in all).

    Raises
    ------
    InputError
        No such volume, times or coordinates that do not fit the format, values that do not fit an integer format.
    """
    from .volume import Volume

    choice("export_segy", "of", of, VOLUMES)
    with Volume.open(source) as volume:
        data: xr.DataArray | None = getattr(volume, of)
        if data is None:
            what = "no gathers; migrate with gathers=" if of.startswith("gather") else f"no {of}"
            raise InputError(f"export_segy: {volume.name} has {what}.")
        stacked = data.ndim == 3

        def brick(rows: slice, columns: slice) -> NDArray[Any]:
            part = data[rows, columns].values
            return part[:, :, None] if stacked else part

        layout = _layout(volume, None if stacked else data)
        text = _text(volume, of, layout)
        write_volume(
            path, layout, brick, operation="export_segy", text=text, sample_format=sample_format, endian=endian,
            progress=progress,
        )  # fmt: skip


def _layout(volume: Volume, gathers: xr.DataArray | None) -> Layout:
    lines = []
    for name, numbers in (("inline", volume.inlines), ("crossline", volume.crosslines)):
        whole = np.rint(numbers).astype(np.int64)
        if not np.array_equal(whole, numbers) or len(np.unique(whole)) < len(whole):
            raise InputError(f"export_segy: {name} numbers of {volume.name} are not whole and distinct; renumber them.")
        lines.append(whole)
    offsets = np.zeros(1, np.int64)
    if gathers is not None:
        middle = np.rint(gathers[gathers.dims[2]].values).astype(np.int64)
        distinct = gathers.dims[2] == "offset" and len(np.unique(middle)) == len(middle)
        offsets = middle if distinct else np.arange(1, gathers.shape[2] + 1)
    return Layout(lines[0], lines[1], volume.map, volume.t, offsets)


def _text(volume: Volume, of: str, layout: Layout) -> list[str]:
    """Return the lines of the text header."""
    nx, ny, nt = volume.shape
    x, y = volume.map[..., 0], volume.map[..., 1]
    corners = [(0, 0), (-1, 0), (-1, -1), (0, -1)]
    lines = [
        f"elinvar prestack Kirchhoff time migration: {of.replace('_', ' ')}",
        f"{nx} inlines, {layout.inlines[0]} to {layout.inlines[-1]}",
        f"{ny} crosslines, {layout.crosslines[0]} to {layout.crosslines[-1]}",
        f"{nt} samples, two-way time {1e3 * volume.t[0]:g} to {1e3 * volume.t[-1]:g} ms, {1e3 * layout.dt:g} ms",
        "Inline 189-192, crossline 193-196, CDP X 181-184, CDP Y 185-188 (cm, scalco)",
        *(
            f"Corner inline {layout.inlines[i]}, crossline {layout.crosslines[j]}: x {x[i, j]:.2f}, y {y[i, j]:.2f} m"
            for i, j in corners
        ),
    ]
    if len(layout.offsets) > 1:
        what = "offset in m" if volume.bin_dim == "offset" else f"number of the {volume.bin_dim} bin"
        lines.append(f"{len(layout.offsets)} traces per bin; bytes 37-40: {what}")
    return [card for line in [*lines, *_processing(volume.data.attrs)] for card in textwrap.wrap(line, 76)]


def _processing(attributes: Mapping[Any, Any]) -> list[str]:
    """Return what the image remembers of its making: survey, velocity, aperture, weights ..."""
    plain = (str, int, float, bool, np.number)
    return [f"{str(name).replace('_', ' ')}: {value}" for name, value in attributes.items() if isinstance(value, plain)]
