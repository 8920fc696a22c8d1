"""Distances against analytic shapes; shaping; drawing."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from elinvar.errors import InputError
from elinvar.video import passes, text

freetype = pytest.importorskip("freetype")
pytest.importorskip("uharfbuzz")


@pytest.fixture
def font() -> str:
    try:
        return text.default_font()
    except InputError:
        pytest.skip("needs a font: apt-get install fonts-dejavu")


def circle(x: float, y: float, r: float, n: int = 4000) -> np.ndarray:
    angle = np.linspace(0, 2 * math.pi, n, endpoint=False)
    return np.stack([x + r * np.cos(angle), y + r * np.sin(angle)], 1)


def test_a_circle_and_a_ring() -> None:
    y, x = np.mgrid[0:40, 0:50] + 0.5
    field = text.distance_field([circle(25, 20, 12)], 50, 40).numpy()
    r = np.hypot(x - 25, y - 20)
    assert np.abs(field - (12 - r)).max() < 1e-3
    ring = text.distance_field([circle(25, 20, 15), circle(25, 20, 8)[::-1]], 50, 40).numpy()
    assert np.abs(ring - np.minimum(15 - r, r - 8)).max() < 1e-3


def test_a_square_and_its_corners() -> None:
    square = np.array([[10.0, 10], [30, 10], [30, 25], [10, 25]])
    field = text.distance_field([square], 40, 35).numpy()
    y, x = np.mgrid[0:35, 0:40] + 0.5
    dx, dy = np.maximum(10 - x, x - 30), np.maximum(10 - y, y - 25)
    want = np.where((dx < 0) & (dy < 0), -np.maximum(dx, dy), -np.hypot(np.maximum(dx, 0), np.maximum(dy, 0)))
    assert np.abs(field - want).max() < 1e-5
    # Overlapping contours of one direction are one shape, not a hole.
    both = text.distance_field([square, square + 5], 45, 40).numpy()
    assert both[22, 22] > 0


def test_corners_are_sharp_at_the_size_they_are_drawn() -> None:
    square = np.array([[10.25, 10.5], [30.25, 10.5], [30.25, 25.5], [10.25, 25.5]])
    coverage = (text.distance_field([square], 40, 35) + 0.5).clamp(0, 1)
    area = float(coverage.sum())
    assert area == pytest.approx(20 * 15, rel=0.004)


@pytest.mark.parametrize("angle", [0.0, 17.0, 45.0])
def test_corners_stay_where_they_are_at_four_times_the_size(angle: float) -> None:
    """The field's zero line passes within 0.1 px of every corner of a square drawn at four times its size.

    Fields are made at the size they are drawn at and never enlarged, so one channel is enough: an enlarged field would
    round the corners.
    """
    turn = np.deg2rad(angle)
    spin = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    small = np.array([[-7.3, -5.1], [7.3, -5.1], [7.3, 5.1], [-7.3, 5.1]]) @ spin.T
    corners = 4 * small + 50.0
    field = text.distance_field([corners], 100, 100).double().numpy()
    for k, corner in enumerate(corners):
        inward = sum((corners[j] - corner) / np.linalg.norm(corners[j] - corner) for j in ((k + 1) % 4, (k - 1) % 4))
        inward = inward / np.linalg.norm(inward)
        # What the pixel centres around the corner say of it, each by its own distance: no circle of radius |d| around
        # a centre outside may reach past the corner, and the nearest ones must reach it.
        y, x = np.mgrid[int(corner[1]) - 2 : int(corner[1]) + 4, int(corner[0]) - 2 : int(corner[0]) + 4]
        centres = np.stack([x + 0.5, y + 0.5], -1)
        behind = ((centres - corner) @ inward) < -0.9 * np.linalg.norm(centres - corner, axis=-1)
        assert behind.any()
        reach = np.linalg.norm(centres - corner, axis=-1) + field[y, x]
        assert np.abs(reach[behind]).max() < 0.1


def test_shaping_kerns_and_joins(font: str) -> None:
    placed, width = text.shape("AVAVA", font, 100)
    alone = sum(text.shape(c, font, 100)[1] for c in "AVAVA")
    assert len(placed) == 5
    assert width < alone
    right, _ = text.shape("שלום", font, 50)
    assert right[0].x <= right[-1].x
    assert text.shape("", font, 50) == ([], 0.0)


def test_a_glyph_is_freetypes(font: str) -> None:
    """The area of an O, and its place, as FreeType rasterises it."""
    face = freetype.Face(font)
    face.set_pixel_sizes(0, 64)
    face.load_char("O", freetype.FT_LOAD_RENDER | freetype.FT_LOAD_NO_HINTING)
    bitmap = face.glyph.bitmap
    want = np.array(bitmap.buffer, np.uint8).reshape(bitmap.rows, bitmap.pitch)[:, : bitmap.width].sum() / 255
    contours = text.outline(font, face.get_char_index("O"), 64)
    moved = [c + np.array([8.0, 72.0]) for c in contours]
    coverage = (text.distance_field(moved, 90, 100) + 0.5).clamp(0, 1)
    assert float(coverage.sum()) == pytest.approx(want, rel=0.01)


def test_titles_are_drawn_where_they_belong(font: str, simple) -> None:
    from elinvar.video import sources

    black = sources.solid((0.0, 0.0, 0.0), 200, 120)
    title = passes.Text("HI", size=400, position=(0.5, 0.5), outline=20, outline_colour=(1, 0, 0), font=font)
    frame = simple(title, source=black).render(0)
    y, x = torch.meshgrid(torch.arange(120.0), torch.arange(200.0), indexing="ij")
    mass = frame[1].sum()
    assert float((frame[1] * x).sum() / mass) == pytest.approx(100, abs=6)
    assert float((frame[1] * y).sum() / mass) == pytest.approx(60, abs=12)
    assert frame[0].sum() > 1.1 * frame[1].sum(), "a red rim"
    faded = simple(passes.Text("HI", size=400, opacity=lambda t: 0.0, font=font), source=black).render(0)
    assert float(faded.abs().max()) < 1e-6


def test_fonts_that_are_none(tmp_path) -> None:
    with pytest.raises(InputError, match="not there"):
        passes.Text("a", font=str(tmp_path / "x.ttf")).check()
    bad = tmp_path / "y.ttf"
    bad.write_text("no")
    with pytest.raises(InputError, match="no font"):
        passes.Text("a", font=str(bad)).check()
