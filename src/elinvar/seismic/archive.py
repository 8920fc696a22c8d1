"""A survey as a folder: samples as a Zarr version 3 array, headers as one Parquet table.

::

    survey.zarr/
      zarr.json          group attributes: format, dt, name, notes, text header, bin size
      samples/           float32 (trace, sample), chunks of traces, Blosc-Zstandard with a checksum each
      headers.parquet    one row per trace: coordinates, elevations and delay in metres and seconds, live, header words

Both are read by other programs as they are: ``zarr.open(path)["samples"]``, ``pyarrow.parquet.read_table``.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from elinvar.errors import InputError
from elinvar.runtime.files import atomic_directory

from ._check import optional_library
from .headers import Columns
from .mdio import is_mdio, open_mdio
from .survey import Survey

__all__ = ["ZarrTraces", "open_zarr", "write_survey"]

_FORMAT = 1
_HEADERS = "headers.parquet"
_CHUNK_BYTES = 1 << 20  # one read
_SHARD_BYTES = 1 << 26  # one file
_OWN = ("source_x", "source_y", "receiver_x", "receiver_y", "delay", "live", "source_elevation", "receiver_elevation")


@dataclass(frozen=True)
class ZarrTraces:
    """Samples of the folder. Each read opens the array anew: safe from any thread, after a fork, and once pickled."""

    path: Path
    shape: tuple[int, int]

    def read(self, index: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return the traces at ascending positions `index`, float32."""
        zarr = optional_library("zarr", "open_zarr")
        if not len(index):
            return np.empty((0, self.shape[1]), np.float32)
        try:
            array = zarr.open_array(self.path / "samples", mode="r")
            if array.shape != self.shape:
                raise InputError(f"{self.path.name}: the survey changed since it was opened; open it again.")
            first, last = int(index[0]), int(index[-1])
            if last - first + 1 == len(index):
                return np.ascontiguousarray(array[first : last + 1], np.float32)
            return np.ascontiguousarray(array.oindex[index], np.float32)
        except InputError:
            raise
        except (OSError, ValueError, KeyError, RuntimeError) as error:
            raise InputError(
                f"{self.path.name}: the samples of traces {int(index[0])} to {int(index[-1])} cannot be read "
                f"({_short(error)}); the folder is damaged, copy or write it again."
            ) from error


@dataclass(frozen=True)
class ParquetColumns:
    """Reads one column of the table of headers."""

    path: Path

    def __call__(self, name: str) -> NDArray[Any]:
        """Return the column, (n,)."""
        return _table(self.path, [name])[name]


def write_survey(
    survey: Survey, path: str | os.PathLike[str], *, progress: Callable[[int, int | None], object] | None = None
) -> None:
    """Write a survey as a folder (see the module), whole or not at all; an existing folder is replaced.

    Parameters
    ----------
    survey
        What to write, dead traces included: opened again it is the same to the bit.
    path
        The folder.
    progress
        Called with (traces written, traces in all).

    Raises
    ------
    InputError
        `path` exists and is no folder of a survey: it is left alone.
    MissingDependency
        zarr or pyarrow is not installed.
    """
    zarr = optional_library("zarr", "Survey.to_zarr")
    target = Path(path)
    _refuse_strangers(target)
    n, ns = survey.n_traces, survey.n_samples
    rows = max(1, min(n, _CHUNK_BYTES // (4 * ns)))
    chunks = max(1, min(-(-n // rows), _SHARD_BYTES // (4 * ns * rows)))
    with atomic_directory(target) as folder:
        _write_headers(survey, folder / _HEADERS)
        group = zarr.create_group(folder, zarr_format=3)
        group.attrs.update(
            {
                "elinvar_survey": _FORMAT,
                "dt_s": survey.dt,
                "name": survey.name,
                "notes": list(survey.notes),
                "text": list(survey.text),
                "bin_size_m": None if survey.bin_size is None else list(survey.bin_size),
            }
        )
        samples = group.create_array(
            "samples",
            shape=(n, ns),
            dtype="float32",
            chunks=(rows, ns),
            shards=(rows * chunks, ns),
            compressors=[
                zarr.codecs.BloscCodec(cname="zstd", clevel=3, shuffle="bitshuffle"),
                zarr.codecs.Crc32cCodec(),  # a flipped bit is an error, not another sample
            ],
            fill_value=float("nan"),  # a chunk that is lost reads as NaN, which is noticed, never as silence
            dimension_names=("trace", "sample"),
        )
        for first in range(0, n, rows * chunks):
            index = np.arange(first, min(first + rows * chunks, n))
            samples[first : first + len(index)] = survey.read(index)
            if progress is not None:
                progress(first + len(index), n)


def _refuse_strangers(target: Path) -> None:
    """Stop before something that is no survey would be replaced."""
    if not target.exists() or (target.is_dir() and ((target / _HEADERS).exists() or not any(target.iterdir()))):
        return
    raise InputError(f"Survey.to_zarr: {target} exists and is no survey; give another name, or remove it first.")


def _write_headers(survey: Survey, path: Path) -> None:
    arrow = optional_library("pyarrow", "Survey.to_zarr")
    parquet = optional_library("pyarrow.parquet", "Survey.to_zarr")
    own = {
        "source_x": survey.source[:, 0],
        "source_y": survey.source[:, 1],
        "receiver_x": survey.receiver[:, 0],
        "receiver_y": survey.receiver[:, 1],
        "delay": survey.delay,
        "live": survey.live,
        "source_elevation": survey.source_elevation,
        "receiver_elevation": survey.receiver_elevation,
        "datum": survey.datum,
    }
    clash = sorted(set(own) & set(survey.headers))
    if clash:
        raise InputError(f"Survey.to_zarr: header {clash[0]!r} has the name of a column of the geometry; rename it.")
    columns = {**own, **survey.headers}
    parquet.write_table(arrow.table({name: np.ascontiguousarray(column) for name, column in columns.items()}), path)


def _table(path: Path, columns: list[str] | None = None) -> dict[str, NDArray[Any]]:
    """Read columns of a table, turning its errors into one sentence."""
    arrow = optional_library("pyarrow", "open_zarr")
    parquet = optional_library("pyarrow.parquet", "open_zarr")
    try:
        table = parquet.read_table(path, columns=columns)
        return {name: table[name].to_numpy() for name in table.column_names}
    except (OSError, KeyError, arrow.ArrowException) as error:
        raise InputError(
            f"{path.parent.name}: {path.name} cannot be read ({_short(error)}); the folder is damaged, copy or write "
            "it again."
        ) from error


def open_zarr(path: str | os.PathLike[str], *, bin_size: tuple[float, float] | None = None) -> Survey:
    """Open a survey that :meth:`Survey.to_zarr` wrote, lazily: coordinates now, samples and other columns when needed.

    Parameters
    ----------
    path
        The folder; one in MDIO goes to :func:`~elinvar.seismic.open_mdio`.
    bin_size
        Midpoint cell (dx, dy) in metres of one common-offset volume; by default what the folder says.

    Raises
    ------
    InputError
        No such folder, a folder of something else, a damaged one, or one of a later version.
    """
    zarr = optional_library("zarr", "open_zarr")
    parquet = optional_library("pyarrow.parquet", "open_zarr")
    folder = Path(path)
    if not folder.is_dir():
        what = "is a file" if folder.exists() else "does not exist"
        raise InputError(f"open_zarr: {folder} {what}; give a folder that Survey.to_zarr wrote.")
    if is_mdio(folder):
        return open_mdio(folder, bin_size=bin_size)
    try:
        group = zarr.open_group(folder, mode="r", zarr_format=3)
        about = dict(group.attrs)
        array = group["samples"] if "elinvar_survey" in about else None
        shape = None if array is None else (int(array.shape[0]), int(array.shape[1]))
    except (OSError, ValueError, KeyError, IndexError) as error:
        raise InputError(
            f"open_zarr: {folder} is no survey ({_short(error)}); write one with Survey.to_zarr."
        ) from error
    if shape is None:
        hint = "an image: open it with open_image" if "image" in group else "Zarr, but not a survey's"
        raise InputError(f"open_zarr: {folder} is {hint}.")
    if about["elinvar_survey"] != _FORMAT:
        raise InputError(
            f"open_zarr: {folder} has format {about['elinvar_survey']}, this version reads {_FORMAT}; update elinvar."
        )
    own = _table(folder / _HEADERS, [*_OWN, "datum"])
    missing = sorted({*_OWN, "datum"} - set(own))
    if missing or len(own["live"]) != shape[0]:
        lacks = f"lacks {missing[0]}" if missing else f"has {len(own['live'])} rows for {shape[0]} traces"
        raise InputError(f"{folder.name}: {_HEADERS} {lacks}; the folder is damaged, copy or write it again.")
    names = parquet.read_schema(folder / _HEADERS).names
    cell = about["bin_size_m"] if bin_size is None else bin_size
    return Survey(
        ZarrTraces(folder, shape),
        np.stack([own["source_x"], own["source_y"]], axis=1),
        np.stack([own["receiver_x"], own["receiver_y"]], axis=1),
        float(about["dt_s"]),
        delay=own["delay"],
        live=own["live"],
        bin_size=None if cell is None else (cell[0], cell[1]),
        source_elevation=own["source_elevation"],
        receiver_elevation=own["receiver_elevation"],
        datum=own["datum"],
        headers=Columns(ParquetColumns((folder / _HEADERS).absolute()), tuple(n for n in names if n not in own)),
        name=str(about["name"]),
        notes=tuple(about["notes"]),
        text=tuple(about["text"]),
    )


def _short(error: BaseException) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 120 else f"{text[:117]}..."
