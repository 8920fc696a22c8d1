"""Generated pages in a real browser: from disk, offline, light and dark, wide and narrow."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from elinvar.bench import Result, Samples, Work, Yardstick
from elinvar.bench.pages import page as result_page
from elinvar.errors import InputError
from elinvar.report import Page, bars, image_figure, png, roofline_plot
from elinvar.testing.browser import browser_session, open_page

pytest.importorskip("playwright")


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    page = Page("Everything at once", "A page with one of each.")
    page.facts([("1.5×", "faster")])
    page.section("Pictures")
    with page.row():
        page.image(np.linspace(-1, 1, 400).reshape(20, 20), "signed", colours="seismic", aspect=1.5)
        page.image(np.zeros((8, 8, 3), np.uint8), "black")
    page.section("Figures")
    page.figure(image_figure(np.eye(9), x=(0, 1), y=(0, 1), xlabel="x (m)", ylabel="t (s)"), "axes")
    page.figure(bars(["a", "b"], [1.0, 2.0], [(0.9, 1.1), (1.9, 2.1)]), "bars")
    page.figure(roofline_plot(90, {"fp32": 240}, [{"name": "k", "intensity": 1, "gflops": 50}]), "roofline")
    page.table([{"a wide column with a long name": "x" * 60, "b": "y" * 60, "c": "z" * 60}])
    page.section("Sound")
    page.audio(np.sin(np.arange(8000) / 5), "tone", rate=8000)
    return page.write(tmp_path_factory.mktemp("with space") / "index.html")


@pytest.mark.chromium
@pytest.mark.parametrize(("width", "dark"), [(1280, False), (390, True)])
def test_a_page_of_everything_is_sound(path: Path, width: int, dark: bool) -> None:
    report = open_page(path, width=width, dark=dark)
    assert report.problems == ()
    assert (report.images, report.figures, report.players) == (2, 3, 1)
    assert report.title == "Everything at once"
    assert png.size(report.screenshot)[0] == width


@pytest.mark.chromium
def test_no_button_of_a_figure_sends_it_anywhere(path: Path) -> None:
    with browser_session() as browser, browser.new_page() as page:
        page.goto(path.as_uri())
        page.wait_for_function("document.documentElement.dataset.plots === 'done'")
        names = set(page.evaluate("[...document.querySelectorAll('.modebar-btn')].map(b => b.dataset.title)"))
    assert names == {"Download plot as a PNG", "Pan", "Reset axes", "Zoom", "Zoom in", "Zoom out"}


@pytest.mark.chromium
def test_a_benchmark_page_is_sound(tmp_path: Path) -> None:
    mark = Yardstick(80.0, 220.0)
    values = tuple(0.01 + 0.0001 * i for i in range(11))
    work = Work(bytes=1e8, flops=1e9)
    rows = {name: Samples(name, values, work=work, before=mark, after=mark) for name in ("a", "b")}
    file = result_page(Result("demo", rows)).write(tmp_path / "r.html")
    report = open_page(file)
    assert report.problems == ()
    assert report.figures == 2


@pytest.mark.chromium
def test_every_kind_of_damage_is_reported(tmp_path: Path) -> None:
    page = Page("damaged")
    page.html('<img src="data:image/png;base64,AAAA" alt="torn">')
    page.html('<img src="https://example.org/x.png" alt="remote">')
    page.html('<img src="data:image/png;base64,AAAA">')
    page.html('<div class="plot" aria-label="absent"></div>')
    page.html('<div style="width:5000px">wide</div>')
    page.html("<script>document.documentElement.dataset.plots = 'done'; throw new Error('oops')</script>")
    page.audio(b"not a song", "noise")
    report = open_page(page.write(tmp_path / "x.html"))
    assert set(report.broken_images) >= {"torn", "remote"}
    assert report.missing_figures == ("absent",)
    assert report.broken_players == ("noise",)
    assert report.unlabelled == 1
    assert report.overflow
    text = " ".join(report.console_errors)
    assert "oops" in text
    assert "Content Security Policy" in text  # the remote picture was forbidden, not merely unreachable
    assert len(report.problems) >= 7


@pytest.mark.chromium
def test_requests_are_reported_when_no_policy_stops_them(tmp_path: Path) -> None:
    file = tmp_path / "x.html"
    file.write_text('<!DOCTYPE html><title>t</title><img src="http://127.0.0.1:9/x.png" alt="r">')
    assert open_page(file).requests == ("http://127.0.0.1:9/x.png",)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nowhere\.html"):
        open_page(tmp_path / "nowhere.html")
