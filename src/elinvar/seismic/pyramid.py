r"""Coarser levels of a volume, for looking at it quickly.

Level *k* + 1 has every second inline, crossline and sample of level *k*, low-passed first so that nothing aliases:

* in space, along the inline and then the crossline axis, the binomial mean

  .. math:: b_i = \frac{a_{2i-1} + 2 a_{2i} + a_{2i+1}}{4}

  where a neighbour beyond the edge is left out of the sum and of the divisor; a bin keeps its place and its number;
* in time, the zero-phase low-pass :data:`TAPS` (49 samples: flat to 0.34 and below -60 dB from 0.5 of the old Nyquist
  frequency), the trace mirrored at its ends; as long as the new interval is at most :data:`SLOWEST`, beyond which it
  would remove signal, and unchanged after that.

Sums run in float64 in the order written and are rounded once, to float32, so a level is the same bits however the
volume is cut for the computation.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from elinvar.errors import InputError
from elinvar.runtime.files import atomic_directory, write_text

from ._check import count, optional_library
from .volume import Source, Volume, open_image

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["SLOWEST", "TAPS", "Level", "build", "decimate", "levels", "plan"]

Samples = NDArray[np.float32]

SLOWEST = 0.008
"""Largest sample interval that halving time may lead to, seconds."""

_CHUNK = 64
_SMALLEST = 64  # bins: a level whose sides are no longer than this needs no coarser one
_MOST = 8


def _low_pass() -> tuple[float, ...]:
    """Return the time filter: a sinc cut off at 0.21 cycles per sample under a Kaiser window of beta 6, sum 1."""
    place = np.arange(-24, 25)
    taps = 0.42 * np.sinc(0.42 * place) * np.kaiser(49, 6.0)
    return tuple((taps / taps.sum()).tolist())


TAPS: tuple[float, ...] = _low_pass()
"""Taps of the time filter, 49, symmetric."""


@dataclass(frozen=True)
class Level:
    """One level of a pyramid.

    Attributes
    ----------
    number
        0 is the full volume.
    factors
        Steps along inline, crossline and time, in samples of level 0.
    shape
        Its size.
    """

    number: int
    factors: tuple[int, int, int]
    shape: tuple[int, int, int]


def plan(shape: tuple[int, int, int], dt: float, number: int | None = None) -> list[Level]:
    """Return the levels of a volume, level 0 first.

    Parameters
    ----------
    shape
        Of the volume: inlines, crosslines, samples.
    dt
        Its sample interval in seconds.
    number
        Levels below 0; by default until both sides have at most 64 bins, eight at most.
    """
    wanted = _MOST if number is None else count("pyramid", "levels", number)
    result = [Level(0, (1, 1, 1), shape)]
    while len(result) <= wanted:
        last = result[-1]
        if max(last.shape) == 1 or (number is None and max(last.shape[:2]) <= _SMALLEST):
            break
        time = _halves_time(dt * last.factors[2], last.shape[2])
        halved = (True, True, time)
        size = [(n + 1) // 2 if half else n for n, half in zip(last.shape, halved, strict=True)]
        steps = [f * 2 if half else f for f, half in zip(last.factors, halved, strict=True)]
        result.append(Level(last.number + 1, (steps[0], steps[1], steps[2]), (size[0], size[1], size[2])))
    return result


def _halves_time(dt: float, nt: int) -> bool:
    return nt > 1 and 2.0 * dt <= SLOWEST * (1 + 1e-9)


def decimate(volume: ArrayLike, *, time: bool = True) -> Samples:
    """Return the next level of a volume (nx, ny, nt), float32; see the module for the formula.

    Parameters
    ----------
    volume
        Amplitudes.
    time
        Halve time as well.
    """
    a = np.asarray(volume)
    if a.ndim != 3 or a.size == 0 or a.dtype.kind not in "fiu":
        raise InputError(f"pyramid: a volume is (inline, crossline, time) and real; got {a.dtype} {a.shape}.")
    nx, ny, _ = a.shape
    return _part(a, (nx, ny), ((0, (nx + 1) // 2), (0, (ny + 1) // 2)), (0, 0), time=time)


Range = tuple[int, int]


def _part(
    a: NDArray[Any], sides: tuple[int, int], wanted: tuple[Range, Range], first: tuple[int, int], *, time: bool
) -> Samples:
    """Return the `wanted` bins of the next level from a piece of this one that begins at bins `first`."""
    result = a.astype(np.float64)
    for axis in (0, 1):
        result = _thin(result, axis, sides[axis], wanted[axis], first[axis])
    return (_filter(result) if time else result).astype(np.float32)


def _thin(a: NDArray[np.float64], axis: int, n: int, wanted: Range, first: int) -> NDArray[np.float64]:
    """Apply the binomial mean along one spatial axis of `n` bins."""
    centre = 2 * np.arange(*wanted)
    total = np.zeros((1,))
    weight = np.zeros(len(centre))
    for shift, factor in ((-1, 1.0), (0, 2.0), (1, 1.0)):
        at = centre + shift
        inside = (at >= 0) & (at < n)
        row = np.take(a, np.clip(at, 0, n - 1) - first, axis=axis, mode="clip")
        factors = np.where(inside, factor, 0.0)
        total = total + row * _along(factors, axis)
        weight = weight + factors
    return np.asarray(total / _along(weight, axis), np.float64)


def _along(values: NDArray[np.float64], axis: int) -> NDArray[np.float64]:
    return values.reshape([-1 if k == axis else 1 for k in range(3)])


def _filter(a: NDArray[np.float64]) -> NDArray[np.float64]:
    """Low-pass and take every second sample."""
    n = a.shape[-1]
    half = len(TAPS) // 2
    padded = np.pad(a, ((0, 0), (0, 0), (half, half)), mode="reflect") if n > 1 else np.repeat(a, 2 * half + 1, axis=-1)
    result = np.zeros((*a.shape[:-1], (n + 1) // 2))
    for k, tap in enumerate(TAPS):
        result += tap * padded[..., k : k + n : 2]
    return result


def levels(source: Source, number: int | None = None) -> list[xr.DataArray]:
    """Return a volume and its coarser levels in memory, level 0 first, labelled.

    Parameters
    ----------
    source
        An Image, its Dataset, or its folder.
    number
        See :func:`plan`.
    """
    with Volume.open(source) as volume:
        found = volume.image.load()
        result = [found]
        for level in plan(volume.shape, volume.dt, number)[1:]:
            last = result[-1]
            time = level.shape[2] < last.shape[2]
            labels = last[::2, ::2, :: 2 if time else 1]
            coarser = labels.copy(data=decimate(last.values, time=time))
            result.append(coarser.assign_attrs(level=level.number))
        return result


def build(
    path: str | os.PathLike[str],
    number: int | None = None,
    *,
    progress: Callable[[int, int | None], object] | None = None,
) -> list[Level]:
    """Write the coarser levels of an image into its Zarr folder, as groups ``pyramid/1``, ``pyramid/2``, ...

    Each is an xarray Dataset like the image's own (``open_image(path, "pyramid/1")``). The root's attribute
    ``multiscales`` lists them in the form of OME-NGFF. The volume is read chunk by chunk; levels appear all or none.

    Parameters
    ----------
    path
        An image folder; levels that are in it are replaced.
    number
        See :func:`plan`.
    progress
        Called with (samples written, samples in all).
    """
    folder = Path(path)
    with Volume.open(folder) as volume:
        wanted = plan(volume.shape, volume.dt, number)
        if len(wanted) == 1:
            raise InputError(f"pyramid: {folder} has {volume.shape} samples and needs no coarser level; give a number.")
        total = sum(math.prod(level.shape) for level in wanted[1:])
        done = 0
        with atomic_directory(folder / "pyramid") as temporary:
            optional_library("zarr", "pyramid").open_group(temporary, mode="a", zarr_format=3)
            finer = volume.image
            opened: list[xr.Dataset] = []
            try:
                for before, level in pairwise(wanted):
                    for size in _write(finer, before, level, volume, temporary / str(level.number)):
                        done += size
                        if progress is not None:
                            progress(done, total)
                    opened.append(open_image(temporary / str(level.number)))
                    finer = opened[-1]["image"]
            finally:
                for data in opened:
                    data.close()
        _announce(folder, wanted, volume.dt)
    return wanted


def _write(finer: xr.DataArray, before: Level, level: Level, volume: Volume, path: Path) -> Iterator[int]:
    """Write one level from the one before it; yield the size of every piece written."""
    zarr = optional_library("zarr", "pyramid")
    fx, fy, ft = level.factors
    labels = volume.data.drop_dims([d for d in volume.data.dims if d not in ("inline", "crossline", "time")])
    coordinates = labels.drop_vars(list(labels.data_vars))[{k: slice(None, None, f) for k, f in _steps(fx, fy, ft)}]
    attributes = {"level": level.number, "factors": list(level.factors)}
    coordinates.assign_attrs(attributes).to_zarr(path, mode="w", zarr_format=3, consolidated=False)
    chunks = tuple(min(c, n) for c, n in zip((_CHUNK, _CHUNK, level.shape[2]), level.shape, strict=True))
    array = zarr.open_group(path, mode="r+").create_array(
        "image",
        shape=level.shape,
        chunks=chunks,
        dtype="float32",
        dimension_names=("inline", "crossline", "time"),
        attributes={**_plain(volume.image.attrs), "coordinates": "cdp_x cdp_y"},
    )
    nx, ny, _ = before.shape
    time = level.shape[2] < before.shape[2]
    for x in range(0, level.shape[0], _CHUNK):
        for y in range(0, level.shape[1], _CHUNK):
            wanted = (x, min(x + _CHUNK, level.shape[0])), (y, min(y + _CHUNK, level.shape[1]))
            low = tuple(max(0, 2 * first - 1) for first, _ in wanted)
            high = tuple(min(n, 2 * last) for n, (_, last) in zip((nx, ny), wanted, strict=True))
            piece = finer[low[0] : high[0], low[1] : high[1]].values
            part = _part(piece, (nx, ny), wanted, (low[0], low[1]), time=time)
            array[wanted[0][0] : wanted[0][1], wanted[1][0] : wanted[1][1]] = part
            yield part.size


def _steps(fx: int, fy: int, ft: int) -> list[tuple[str, int]]:
    return [("inline", fx), ("crossline", fy), ("time", ft)]


def _plain(attributes: dict[Any, Any]) -> dict[str, Any]:
    return {str(k): v for k, v in attributes.items() if isinstance(v, (str, int, float, list, bool))}


def _announce(folder: Path, wanted: list[Level], dt: float) -> None:
    """Add the list of levels to the root's attributes; the file is replaced whole."""
    root = folder / "zarr.json"
    described = json.loads(root.read_text(encoding="utf-8"))
    axes = [
        {"name": "inline", "type": "space"},
        {"name": "crossline", "type": "space"},
        {"name": "time", "type": "time", "unit": "second"},
    ]
    datasets = [
        {
            "path": "image" if level.number == 0 else f"pyramid/{level.number}/image",
            "coordinateTransformations": [
                {"type": "scale", "scale": [level.factors[0], level.factors[1], level.factors[2] * dt]}
            ],
        }
        for level in wanted
    ]
    method = "binomial mean over bins, 49-tap low-pass over time, every second one kept (elinvar.seismic.pyramid)"
    described["attributes"]["multiscales"] = [
        {"name": "image", "type": "binomial", "axes": axes, "datasets": datasets, "metadata": {"method": method}}
    ]
    write_text(root, json.dumps(described, indent=2))
