"""The tour's part: a page with two films, pictures and a table."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from elinvar.report import Page
from elinvar.video.tour import tour


def test_the_tour_shows_two_films_and_who_keeps_colours(tour_context: Callable[[str], Any]) -> None:
    page, context = Page("tour"), tour_context("video")
    tour(page, context)
    html = page.html_text()
    assert html.count("<video") == 2
    assert "24000/1001" in html
    assert "no primaries" in html
    assert "video: exporting" in context.seconds
