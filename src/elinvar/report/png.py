"""Arrays to PNG with nothing but zlib, and the few colour maps a scientific picture needs."""

from __future__ import annotations

import struct
import zlib
from typing import TYPE_CHECKING, Any

from elinvar.errors import InputError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["COLOURS", "colour", "encode", "size"]

SIGNATURE = b"\x89PNG\r\n\x1a\n"

COLOURS: dict[str, tuple[str, ...]] = {
    "gray": ("000000", "ffffff"),
    "gray_r": ("ffffff", "000000"),
    # Blue-white-red for signed amplitudes, the seismic convention; the ends are dark so that clipping shows.
    "seismic": ("0b2a6b", "2f6fc4", "a9cbe8", "ffffff", "f2b8a5", "cf4a3c", "6b0b1f"),
    # Every 32nd entry of matplotlib's viridis (van der Walt and Smith, 2015, CC0).
    "viridis": ("440154", "46327e", "365c8d", "277f8e", "1fa187", "4ac16d", "a0da39", "fde725"),
    "heat": ("0b0c10", "4a1942", "a5303f", "e2711d", "ffc857", "fffbe6"),
}
"""Name to equally spaced anchor colours, low to high."""


def _palette(name: str) -> NDArray[np.uint8]:
    """Return 255 RGB entries, low to high; index 255 is left for what is not a number."""
    import numpy as np

    if name not in COLOURS:
        raise InputError(f"report: no colour map is called {name!r}; there are {', '.join(COLOURS)}.")
    anchors = np.array([list(bytes.fromhex(c)) for c in COLOURS[name]], dtype=np.float64)
    at = np.linspace(0, len(anchors) - 1, 255)
    channels = [np.interp(at, np.arange(len(anchors)), anchors[:, k]) for k in range(3)]
    return np.rint(np.stack(channels, axis=1)).astype(np.uint8)


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def _write(pixels: NDArray[np.uint8], colour_type: int, extra: bytes = b"") -> bytes:
    """Assemble a PNG (ISO/IEC 15948) from uint8 pixels, rows filtered with "up" unless they are palette indices."""
    import numpy as np

    height, width = pixels.shape[:2]
    rows = pixels.reshape(height, -1)
    kind = 0 if colour_type == 3 else 2
    if kind == 2:
        above = np.zeros_like(rows)
        above[1:] = rows[:-1]
        rows = rows - above  # modulo 256, as the filter is defined
    body = np.concatenate([np.full((height, 1), kind, np.uint8), rows], axis=1).tobytes()
    header = struct.pack(">IIBBBBB", width, height, 8, colour_type, 0, 0, 0)
    return SIGNATURE + _chunk(b"IHDR", header) + extra + _chunk(b"IDAT", zlib.compress(body, 7)) + _chunk(b"IEND", b"")


def _checked(array: Any) -> NDArray[Any]:
    import numpy as np

    data = np.asarray(array)
    if data.size == 0:
        raise InputError(f"report: an image of shape {data.shape} has no pixels.")
    if data.ndim != 2 and not (data.ndim == 3 and data.shape[2] in (3, 4)):
        raise InputError(f"report: an image is (height, width) or (height, width, 3 or 4); got shape {data.shape}.")
    return data


def encode(array: Any) -> bytes:
    """Return a PNG of a uint8 array: (height, width) gray, (height, width, 3) RGB or (height, width, 4) RGBA.

    Floats in [0, 1] with three or four channels are scaled and rounded. Two-dimensional floats need `colour`.

    Raises
    ------
    InputError
        Another shape, dtype or range.
    """
    import numpy as np

    data = _checked(array)
    if data.dtype == np.bool_:
        data = data.astype(np.uint8) * 255
    if data.ndim == 3 and np.issubdtype(data.dtype, np.floating):
        if not bool(np.all((data >= 0) & (data <= 1))):
            raise InputError("report: float RGB values must lie in [0, 1] and be finite; clip or normalise them first.")
        data = np.rint(data * 255).astype(np.uint8)
    if data.dtype != np.uint8:
        raise InputError(
            f"report: pixels of dtype {data.dtype} have no fixed range; pass uint8, or floats to `colour`."
        )
    kinds = {2: 0, 3: 2, 4: 6}
    return _write(np.ascontiguousarray(data), kinds[2 if data.ndim == 2 else data.shape[2]])


def colour(array: Any, colours: str = "gray", limits: tuple[float, float] | None = None) -> bytes:
    """Return a palette PNG of a (height, width) array of numbers; what is not finite is transparent.

    Parameters
    ----------
    array
        Any real dtype.
    colours
        One of `COLOURS`.
    limits
        Values of the first and last colour. Default: smallest and largest finite value; for "seismic" plus and minus
        the 99th percentile of the magnitude, so that zero is white.
    """
    import numpy as np

    data = _checked(array)
    if data.ndim != 2 or np.iscomplexobj(data):
        raise InputError(f"report: a coloured image is (height, width) and real; got {data.dtype} {data.shape}.")
    data = data.astype(np.float64)
    finite = np.isfinite(data)
    low, high = limits or _limits(data[finite], signed=colours == "seismic")
    if not low < high:
        raise InputError(f"report: limits {(low, high)} are not increasing; pass (low, high) with low < high.")
    with np.errstate(invalid="ignore"):
        scaled = np.clip((data - low) / (high - low), 0.0, 1.0)
    index = np.where(finite, np.rint(np.where(finite, scaled, 0.0) * 254), 255).astype(np.uint8)
    table = np.concatenate([_palette(colours), np.zeros((1, 3), np.uint8)])
    alpha = bytes([255] * 255 + [0])
    return _write(index, 3, _chunk(b"PLTE", table.tobytes()) + _chunk(b"tRNS", alpha))


def _limits(values: Any, *, signed: bool) -> tuple[float, float]:
    import numpy as np

    if values.size == 0:
        return 0.0, 1.0
    if signed:
        top = float(np.percentile(np.abs(values), 99)) or float(np.max(np.abs(values))) or 1.0
        return -top, top
    low, high = float(values.min()), float(values.max())
    return (low, high) if low < high else (low, low + 1.0)


def size(png: bytes) -> tuple[int, int]:
    """Return (width, height) of a PNG from its header."""
    if png[:8] != SIGNATURE or len(png) < 24:
        raise InputError("report: these bytes are not a PNG; pass PNG bytes or an array.")
    width, height = struct.unpack(">II", png[16:24])
    return int(width), int(height)
