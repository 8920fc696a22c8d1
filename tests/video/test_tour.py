"""The tour's part: a page with two films, pictures and a table."""

from __future__ import annotations

from pathlib import Path

from elinvar.cli.tour import TourContext
from elinvar.report import Page
from elinvar.runtime.device import device
from elinvar.video.tour import tour


def test_the_tour_shows_two_films_and_who_keeps_colours(tmp_path: Path) -> None:
    page = Page("tour")
    context = TourContext(device("cpu"), tmp_path, quick=True, engine="video", say=lambda _line: None)
    tour(page, context)
    html = page.html_text()
    assert html.count("<video") == 2
    assert "24000/1001" in html
    assert "no primaries" in html
    assert "video: exporting" in context.seconds
