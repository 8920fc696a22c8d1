"""The page as one file."""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from elinvar.errors import InputError
from elinvar.report.markup import escape
from elinvar.runtime.files import atomic_write
from elinvar.seismic.volume import Source, Volume

from .samples import Bytes, Codec, describe, encode

__all__ = ["LARGEST", "fits", "html", "write_page"]

LARGEST = 64 << 20
"""Bytes of samples that a page holds: image and gathers together, one byte each."""

_HERE = Path(__file__).parent
_PIECE = 3 << 20  # bytes in one script element; a multiple of 3, so that pieces of base64 need no padding


def fits(source: Source) -> bool:
    """Return whether the image of a volume (without its gathers) fits into a page."""
    with Volume.open(source) as volume:
        return volume.image.size <= LARGEST


def write_page(source: Source, path: str | os.PathLike[str]) -> Path:
    """Write a viewer of a volume as one HTML file that needs no network and no server.

    Gathers are put into it as far as there is room: all of them, or every second, third ... inline and crossline, which
    the page says.

    Parameters
    ----------
    source
        An :class:`~elinvar.seismic.Image`, its Dataset, or its Zarr folder.
    path
        The file to write.

    Raises
    ------
    InputError
        The image has more than :data:`LARGEST` samples.
    """
    with Volume.open(source) as volume:
        if volume.image.size > LARGEST:
            raise InputError(
                f"viewer: the image of {volume.name} has {volume.image.size / 2**20:.0f} MiB of one-byte samples, a "
                f"page holds {LARGEST >> 20} MiB; use serve(), or `elinvar seismic view` without --out."
            )
        codec = Codec.of(volume)
        step, panels = _gathers(volume)
        known = describe(volume, codec, panels, mode="page", gather_step=step)
        head, tail = html(known).split("<!-- samples -->")
        with atomic_write(path) as temporary, temporary.open("w", encoding="utf-8") as out:
            out.write(head)
            for piece in _pieces(encode(volume.image.values, codec)):
                out.write(f'<script type="text/plain" class="image">{piece}</script>\n')
            if panels is not None and volume.gathers is not None:
                for row in range(0, volume.shape[0], step):
                    bytes_ = encode(volume.gathers[row, ::step].values, panels)
                    for piece in _pieces(bytes_):
                        out.write(f'<script type="text/plain" class="gathers">{piece}</script>\n')
            out.write(tail)
    return Path(path)


def _gathers(volume: Volume) -> tuple[int, Codec | None]:
    """Return every how many lines gathers are kept, and their codec; None when not even a few of them fit."""
    if volume.gathers is None:
        return 1, None
    nx, ny, bins, nt = volume.gathers.shape
    room = LARGEST - volume.image.size
    for step in (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 64):
        if -(-nx // step) * -(-ny // step) * bins * nt <= room:
            return step, Codec.of(volume, gathers=True)
    return 1, None


def _pieces(values: Bytes) -> Iterator[str]:
    flat = np.ascontiguousarray(values).ravel()
    for first in range(0, flat.size, _PIECE):
        yield base64.b64encode(flat[first : first + _PIECE].tobytes()).decode("ascii")


def html(known: dict[str, Any]) -> str:
    """Return the page without samples; ``<!-- samples -->`` marks their place."""
    style, script = ((_HERE / name).read_text(encoding="utf-8") for name in ("view.css", "view.js"))
    connect = "connect-src 'self'; " if known["mode"] == "server" else ""
    policy = f"default-src 'none'; {connect}img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"
    data = json.dumps(known, allow_nan=False).replace("<", "\\u003c")
    body = (_HERE / "view.html").read_text(encoding="utf-8")
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{escape(known["title"])}</title>
<link rel="icon" href="data:,">
<style>
{style}</style>
</head>
<body>
{body}
<script type="application/json" id="volume">{data}</script>
<!-- samples -->
<script>
{script}</script>
</body>
</html>
"""
