"""Pictures for people: matches as lines, depth and confidence as colours."""

from __future__ import annotations

import colorsys
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .images import read

__all__ = ["draw_matches", "shade"]


def draw_matches(
    image_1: Any, image_2: Any, xy_1: Any, xy_2: Any, *, lines: int = 80, height: int = 480
) -> NDArray[np.uint8]:
    """Draw two pictures side by side with evenly many of their matches as coloured lines.

    Parameters
    ----------
    image_1, image_2
        As `elinvar.vision.preprocess` takes them.
    xy_1, xy_2
        [n, 2] pixels of the pictures as given.
    lines
        Most lines.
    height
        Of the drawing, pixels.

    Returns
    -------
    NDArray
        uint8 [height, width, 3].
    """
    from PIL import Image, ImageDraw

    pictures = [read(image_1), read(image_2)]
    scales = [height / picture.height for picture in pictures]
    small = [p.resize((max(1, round(p.width * s)), height)) for p, s in zip(pictures, scales, strict=True)]
    gap = 8
    sheet = Image.new("RGB", (small[0].width + gap + small[1].width, height), (255, 255, 255))
    sheet.paste(small[0], (0, 0))
    sheet.paste(small[1], (small[0].width + gap, 0))
    draw = ImageDraw.Draw(sheet)
    a = (np.asarray(xy_1, np.float64).reshape(-1, 2) + 0.5) * scales[0] - 0.5
    b = (np.asarray(xy_2, np.float64).reshape(-1, 2) + 0.5) * scales[1] - 0.5 + (small[0].width + gap, 0)
    # Evenly over the picture rather than the first ones: sorted by position, every n-th.
    order = np.lexsort((a[:, 0], np.floor(a[:, 1] / 40)))
    some = order[np.linspace(0, len(order) - 1, min(lines, len(order))).astype(np.int64)] if len(order) else order
    for k, i in enumerate(some):
        red, green, blue = (round(255 * v) for v in colorsys.hsv_to_rgb((k * 0.381966) % 1.0, 0.85, 1.0))
        draw.line([tuple(a[i]), tuple(b[i])], fill=(red, green, blue), width=1)
        for x, y in (a[i], b[i]):
            draw.ellipse([x - 2, y - 2, x + 2, y + 2], outline=(red, green, blue))
    return np.asarray(sheet, np.uint8)


def shade(values: Any, low: float | None = None, high: float | None = None) -> NDArray[np.uint8]:
    """Colour a map from dark blue (low) to yellow (high); what is not finite is black: uint8 [height, width, 3]."""
    array = np.asarray(values, np.float64)
    good = np.isfinite(array)
    if not good.any():
        return np.zeros((*array.shape, 3), np.uint8)
    least = float(np.quantile(array[good], 0.02)) if low is None else low
    most = float(np.quantile(array[good], 0.98)) if high is None else high
    u = np.clip((np.where(good, array, least) - least) / max(most - least, 1e-12), 0, 1)
    stops = np.array([[32, 24, 84], [49, 104, 142], [53, 183, 121], [253, 231, 37]], np.float64)
    place = u * (len(stops) - 1)
    k = np.minimum(place.astype(np.int64), len(stops) - 2)
    part = (place - k)[..., None]
    out = np.round(stops[k] * (1 - part) + stops[k + 1] * part).astype(np.uint8)
    out[~good] = 0
    return np.asarray(out, np.uint8)
