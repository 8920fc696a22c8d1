"""Text: shaped by HarfBuzz, outlined by FreeType, drawn from signed distances.

A glyph's tile holds the exact distance of every pixel centre to the outline, positive inside, at the size it is drawn:
fill, outline and shadow are thresholds of it. Tiles are made in parallel and kept per font and size. Because a tile is
never enlarged, corners are as sharp as the pixels; a single-channel field that is enlarged would round them.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numba
import numpy as np
import torch
from numpy.typing import NDArray

from elinvar.errors import InputError
from elinvar.runtime.parallel import parallel_for
from elinvar.video._check import optional_library

__all__ = ["Placed", "default_font", "distance_field", "faces", "line_field", "outline", "shape"]

_jit = cast(
    "Callable[[Callable[..., None]], Callable[..., None]]",
    numba.njit(nogil=True, error_model="numpy", cache=True),
)
_FONTS = (
    "/usr/share/fonts/truetype/dejavu/DejaVuSans.ttf",
    "/usr/share/fonts/truetype/liberation/LiberationSans-Regular.ttf",
    "/System/Library/Fonts/Helvetica.ttc",
    "/System/Library/Fonts/Supplemental/Arial.ttf",
    "C:/Windows/Fonts/arial.ttf",
)
_FLATTEN = 0.02  # pixels a chord may stray from its curve


def default_font() -> str:
    """Return the first of the usual sans-serif fonts that is here."""
    for path in _FONTS:
        if Path(path).is_file():
            return path
    raise InputError("Text: none of the usual fonts is installed; give font= the path of a .ttf or .otf file.")


# -- distances -------------------------------------------------------------------------------------------------------


def distance_field(contours: Sequence[NDArray[np.float64]], width: int, height: int) -> torch.Tensor:
    """Return the signed distance of pixel centres to closed polygons, positive inside, [height, width] float32.

    Parameters
    ----------
    contours
        Points [n, 2] in pixels, x to the right and y downwards, pixel (i, j) centred at (i + 0.5, j + 0.5). Inside is
        where the winding number is not zero.
    """
    edges = [np.concatenate([c, np.roll(c, -1, 0)], 1) for c in contours if len(c) > 2]
    out = np.full((height, width), -1e6, np.float32)
    if edges:
        table = np.concatenate(edges).astype(np.float64)
        parallel_for(height, lambda first, last: _distance_rows(first, last, table, out), chunk=8)
    return torch.from_numpy(out)


@_jit
def _distance_rows(first: int, last: int, edges: Any, out: Any) -> None:
    for y in range(first, last):
        py = y + 0.5
        for x in range(out.shape[1]):
            px = x + 0.5
            best, winding = 1e30, 0
            for k in range(len(edges)):
                ax, ay, bx, by = edges[k, 0], edges[k, 1], edges[k, 2], edges[k, 3]
                ex, ey, wx, wy = bx - ax, by - ay, px - ax, py - ay
                square = ex * ex + ey * ey
                t = min(max((wx * ex + wy * ey) / square, 0.0), 1.0) if square > 0.0 else 0.0
                dx, dy = wx - t * ex, wy - t * ey
                best = min(best, dx * dx + dy * dy)
                cross = ex * wy - ey * wx
                if ay <= py < by and cross > 0.0:
                    winding += 1
                elif by <= py < ay and cross < 0.0:
                    winding -= 1
            d = math.sqrt(best)
            out[y, x] = d if winding != 0 else -d


# -- glyphs ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Placed:
    """A glyph and where its origin is, pixels from the line's origin, y downwards."""

    glyph: int
    x: float
    y: float


@functools.lru_cache(maxsize=16)
def faces(font: str) -> tuple[Any, Any]:
    """Return FreeType's and HarfBuzz' objects of a font file; InputError when it is none."""
    freetype = optional_library("freetype", "Text")
    harfbuzz = optional_library("uharfbuzz", "Text")
    if not Path(font).is_file():
        raise InputError(f"Text: the font {font} is not there; give the path of a .ttf or .otf file.")
    try:
        return freetype.Face(font), harfbuzz.Font(harfbuzz.Face(harfbuzz.Blob.from_file_path(font)))
    except (freetype.FT_Exception, OSError, ValueError) as error:
        raise InputError(f"Text: {font} is no font FreeType can read ({error}).") from error


def shape(text: str, font: str, size: float) -> tuple[list[Placed], float]:
    """Return a line's glyphs in place and its width, pixels; ligatures, kerning and right-to-left by HarfBuzz."""
    harfbuzz = optional_library("uharfbuzz", "Text")
    _, face = faces(font)
    if not text:
        return [], 0.0
    buffer = harfbuzz.Buffer()
    buffer.add_str(text)
    buffer.guess_segment_properties()
    harfbuzz.shape(face, buffer)
    scale = size / face.face.upem
    placed, x = [], 0.0
    for info, place in zip(buffer.glyph_infos, buffer.glyph_positions, strict=True):
        placed.append(Placed(info.codepoint, (x + place.x_offset) * scale, -place.y_offset * scale))
        x += place.x_advance
    return placed, x * scale


def outline(font: str, glyph: int, size: float) -> list[NDArray[np.float64]]:
    """Return a glyph's contours as polygons in pixels around its origin, y downwards; curves as chords."""
    freetype = optional_library("freetype", "Text")
    face, _ = faces(font)
    face.load_glyph(glyph, freetype.FT_LOAD_NO_SCALE | freetype.FT_LOAD_NO_HINTING)
    scale = size / face.units_per_EM
    contours: list[list[tuple[float, float]]] = []

    def point(p: Any) -> tuple[float, float]:
        return p.x * scale, -p.y * scale

    def curve(*controls: Any) -> None:
        points = np.array([contours[-1][-1], *map(point, controls)])
        reach = float(np.abs(np.diff(points, axis=0)).sum())
        steps = max(2, math.ceil(math.sqrt(reach / (8 * _FLATTEN))) + 1)
        for t in np.linspace(0, 1, steps + 1)[1:]:
            q = points
            while len(q) > 1:  # de Casteljau
                q = q[:-1] + t * (q[1:] - q[:-1])
            contours[-1].append((float(q[0, 0]), float(q[0, 1])))

    face.glyph.outline.decompose(
        None,
        lambda a, _: contours.append([point(a)]),
        lambda a, _: contours[-1].append(point(a)),
        lambda a, b, _: curve(a, b),
        lambda a, b, c, _: curve(a, b, c),
    )
    return [np.array(c) for c in contours if len(c) > 2]


@functools.lru_cache(maxsize=64)
def line_field(text: str, font: str, size: float, margin: int) -> tuple[torch.Tensor, float]:
    """Return the distance field of a line with a margin, and its width; the baseline is ``margin + size`` down.

    Overlapping glyphs join: the field is the largest of theirs.
    """
    placed, width = shape(text, font, size)
    columns, rows = math.ceil(width) + 2 * margin, math.ceil(1.4 * size) + 2 * margin
    field = torch.full((rows, columns), -1e6)
    for item in placed:
        contours = outline(font, item.glyph, size)
        if not contours:
            continue
        moved = [c + np.array([item.x + margin, item.y + margin + size]) for c in contours]
        low = np.floor(np.min([c.min(0) for c in moved], 0)).astype(int) - margin
        high = np.ceil(np.max([c.max(0) for c in moved], 0)).astype(int) + margin
        x0, y0 = max(0, int(low[0])), max(0, int(low[1]))
        x1, y1 = min(columns, int(high[0])), min(rows, int(high[1]))
        if x1 <= x0 or y1 <= y0:
            continue
        tile = distance_field([c - np.array([x0, y0]) for c in moved], x1 - x0, y1 - y0)
        field[y0:y1, x0:x1] = torch.maximum(field[y0:y1, x0:x1], tile)
    return field, width
