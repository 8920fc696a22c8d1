"""What the page is given: amplitudes in one byte each, and what it has to know about the volume."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from elinvar.errors import InputError
from elinvar.report.png import COLOURS
from elinvar.seismic.volume import Volume

__all__ = ["Codec", "decode", "describe", "encode"]

Bytes = NDArray[np.uint8]
_CLIP = 99.0
_CHUNK = 64  # bins per side of a chunk on disk


@dataclass(frozen=True)
class Codec:
    """How amplitudes become bytes.

    Attributes
    ----------
    scale
        Amplitude of the largest byte.
    clip
        Percentile 99 of the magnitude: where the colours end before the gain is changed.
    """

    scale: float
    clip: float

    @classmethod
    def of(cls, volume: Volume, *, gathers: bool = False) -> Codec:
        """Look at a volume, or at its gathers, for the scale; at a few parts of what is large."""
        whole = None if gathers else volume.overview()
        if whole is not None and whole[2] == 0:  # a level of the pyramid is weaker than the volume
            values = np.abs(whole[0])
        else:
            values = np.abs(np.concatenate(list(_parts(volume, gathers=gathers))))
        if not np.isfinite(values).all():
            raise InputError(f"viewer: {volume.name} has amplitudes that are not finite; migrate it again.")
        top = float(values.max(initial=0.0)) or 1.0
        return cls(top, float(np.percentile(values, _CLIP)) or top)


def _parts(volume: Volume, *, gathers: bool) -> Iterator[NDArray[Any]]:
    """Yield amplitudes of a few chunks spread over the map, and over the bins of gathers."""
    source = volume.gathers if gathers else volume.image
    assert source is not None
    nx, ny, _ = volume.shape
    places = 2 if gathers else 4
    corners = [np.unique(np.linspace(0, (n - 1) // _CHUNK, places).astype(int)) * _CHUNK for n in (nx, ny)]
    for i, j in itertools.product(*corners):
        block = source[i : i + _CHUNK, j : j + _CHUNK]
        if not gathers:
            yield np.asarray(block.values).ravel()
            continue
        for part in np.unique(np.linspace(0, source.shape[2] - 1, 8).astype(int)):
            yield np.asarray(block[:, :, int(part)].values).ravel()


def encode(values: ArrayLike, codec: Codec) -> Bytes:
    """Return amplitudes as bytes: 128 is zero, and the distance from it the square root of the amplitude.

    The square root keeps weak amplitudes: steps are 1/127 of the scale at the largest and 1/16129 at zero.
    """
    a = np.asarray(values, np.float32) / np.float32(codec.scale)
    root = np.sqrt(np.minimum(np.abs(a), np.float32(1.0)))
    return np.asarray(128 + np.rint(np.copysign(127.0 * root, a)), np.uint8)


def decode(bytes_: ArrayLike, codec: Codec) -> NDArray[np.float64]:
    """Return the amplitudes that bytes stand for: what the page shows."""
    s = (np.asarray(bytes_, np.float64) - 128.0) / 127.0
    return np.asarray(s * np.abs(s) * codec.scale, np.float64)


def _start(volume: Volume) -> list[int] | None:
    """Return where the volume is strongest, as positions along its axes; None when it is too large to look at."""
    whole = volume.overview()
    if whole is None:
        return None
    values, factors, _ = whole
    at = np.unravel_index(int(np.argmax(np.abs(values))), values.shape)
    return [min(int(a) * f, n - 1) for a, f, n in zip(at, factors, volume.shape, strict=True)]


def describe(volume: Volume, codec: Codec, gathers: Codec | None, **more: Any) -> dict[str, Any]:
    """Return what the page has to know, as plain data."""
    attributes = volume.data.attrs
    known: dict[str, Any] = {
        "title": str(attributes.get("survey", volume.name)),
        "shape": list(volume.shape),
        "inlines": volume.inlines.tolist(),
        "crosslines": volume.crosslines.tolist(),
        "time": [1e3 * float(volume.t[0]), 1e3 * volume.dt],
        "origin": volume.map[0, 0].tolist(),
        "axes": volume.axes.tolist(),
        "spacing": list(volume.spacing),
        "scale": codec.scale,
        "clip": codec.clip,
        "start": _start(volume),
        "colours": {name: list(anchors) for name, anchors in COLOURS.items() if name != "heat"},
        "facts": {str(k): str(v) for k, v in attributes.items() if isinstance(v, (str, int, float))},
        "preview": str(attributes["preview"]) if "preview" in attributes else None,
        "gathers": None,
        **more,
    }
    if gathers is not None and volume.gathers is not None:
        dim = str(volume.bin_dim)
        known["gathers"] = {
            "dim": dim,
            "units": {"offset": "m", "azimuth": "degrees"}.get(dim, ""),
            "values": np.asarray(volume.gathers[dim].values, np.float64).tolist(),
            "labels": list(volume.gathers.attrs.get("bins", [])),
            "scale": gathers.scale,
            "clip": gathers.clip,
        }
    return known
