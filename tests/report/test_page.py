from __future__ import annotations

import base64
import json
import re
import subprocess
import sys
import wave
from html.parser import HTMLParser
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest

from elinvar.errors import InputError
from elinvar.report import Page, bars, image_figure, png, roofline_plot

VOID = {"meta", "link", "img", "br", "input"}


class Structure(HTMLParser):
    """Checks that every tag is closed in order, and collects what could reach the network."""

    def __init__(self) -> None:
        super().__init__()
        self.stack: list[str] = []
        self.sources: list[str] = []
        self.tags: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.sources += [v or "" for k, v in attrs if k in ("src", "poster") or (k == "href" and tag == "link")]
        if tag not in VOID:
            self.stack.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.stack, f"</{tag}> closes nothing"
        assert self.stack.pop() == tag


def parsed(page: Page) -> Structure:
    structure = Structure()
    structure.feed(page.html_text())
    assert structure.stack == []
    return structure


def full_page() -> Page:
    page = Page("A <title> & more", "Sub **title**", "small print")
    page.facts([("1.2×", "faster"), (3, "things")])
    page.section("One", "intro")
    page.text("text")
    page.note("careful")
    with page.row():
        page.image(np.zeros((4, 6), np.uint8), "gray")
        page.image(np.linspace(-1, 1, 20).reshape(4, 5), "section", "alt text", colours="seismic", aspect=2.0)
    page.section("Two")
    page.figure(bars(["a", "b"], [1.0, 2.0], [(0.9, 1.1), (1.8, 2.2)]), "bars")
    page.figure(roofline_plot(90, {"fp32": 240, "bf16": None}), "roof")
    page.table([{"x": 1, "y": "a"}], "table")
    page.section("One")
    page.audio(np.zeros((2, 100)), "sound", rate=8000)
    page.video(b"\x00\x00", "film", poster=np.zeros((2, 2), np.uint8))
    page.html("<hr />")
    return page


def test_a_full_page_is_well_formed_and_self_contained() -> None:
    structure = parsed(full_page())
    assert structure.tags.count("section") == 3
    assert structure.tags.count("img") == 2
    assert structure.tags.count("figure") == 6
    assert all(source.startswith("data:") for source in structure.sources)


def test_nothing_is_fetched_and_the_policy_forbids_it() -> None:
    page = Page("t")
    page.image(np.zeros((2, 2), np.uint8), "c")
    html = page.html_text()
    assert "default-src 'none'" in html
    assert "http" not in html.replace("http-equiv", "")


def test_plotly_is_inlined_once_and_only_when_used() -> None:
    empty = Page("t").html_text()
    assert len(empty) < 20_000
    assert "Plotly" not in empty
    html = full_page().html_text()
    assert html.count("plotly.js v") == 1
    assert html.count('class="plot"') == 2


def test_titles_are_escaped_and_sections_get_unique_anchors() -> None:
    html = full_page().html_text()
    assert "<title>A &lt;title&gt; &amp; more</title>" in html
    assert 'id="one"' in html
    assert 'id="one-2"' in html
    assert html.count("<li><a href=") == 3
    two = Page("t")
    two.section("a")
    two.section("b")
    assert "<nav" not in two.html_text()


def test_figure_data_cannot_end_their_script_element() -> None:
    page = Page("t")
    page.figure({"data": [{"type": "bar", "x": [1], "name": "</script><b>"}], "layout": {"title": {"text": "<!--"}}})
    html = page.html_text()
    assert "</script><b>" not in html
    (body,) = re.findall(r'id="plot-1-data">(.*?)</script>', html, re.DOTALL)
    assert json.loads(body)["data"][0]["name"] == "</script><b>"


def test_figures_take_the_page_s_look() -> None:
    page = Page("t")
    page.figure(bars(["a"], [1.0]))
    (body,) = re.findall(r'id="plot-1-data">(.*?)</script>', page.html_text(), re.DOTALL)
    layout = json.loads(body)["layout"]
    assert "template" not in layout
    assert layout["paper_bgcolor"] == "rgba(0,0,0,0)"
    assert layout["xaxis"]["automargin"] is True
    assert layout["xaxis"]["title"]["text"] == "s"


def test_pictures_keep_their_pixels_and_their_description() -> None:
    pixels = np.arange(12, dtype=np.uint8).reshape(3, 4)
    page = Page("t")
    page.image(pixels, "A **bold** caption")
    page.image(png.encode(pixels), "c", 'alt "quoted"')
    html = page.html_text()
    sources = re.findall(r'src="data:image/png;base64,([^"]+)"', html)
    assert base64.b64decode(sources[0]) == base64.b64decode(sources[1]) == png.encode(pixels)
    assert 'alt="A bold caption"' in html
    assert 'alt="alt &quot;quoted&quot;"' in html
    assert 'width="4" height="3"' in html


def test_audio_is_wav_with_the_right_samples() -> None:
    page = Page("t")
    page.audio(np.array([[0.0, 1.0, -2.0], [0.5, -0.5, 0.0]]), "c", rate=22050)
    (body,) = re.findall(r'src="data:audio/wav;base64,([^"]+)"', page.html_text())
    with wave.open(BytesIO(base64.b64decode(body))) as file:
        assert (file.getnchannels(), file.getframerate(), file.getsampwidth()) == (2, 22050, 2)
        frames = np.frombuffer(file.readframes(9), "<i2").reshape(-1, 2)
    assert frames.T.tolist() == [[0, 32767, -32767], [16384, -16384, 0]]


def test_media_come_from_bytes_or_files(tmp_path: Path) -> None:
    (tmp_path / "v.mp4").write_bytes(b"film")
    page = Page("t")
    page.video(tmp_path / "v.mp4", "c")
    page.audio(b"song", "c", mime="audio/mpeg")
    html = page.html_text()
    assert f"data:video/mp4;base64,{base64.b64encode(b'film').decode()}" in html
    assert f"data:audio/mpeg;base64,{base64.b64encode(b'song').decode()}" in html


@pytest.mark.parametrize(
    "call",
    [
        lambda p: p.audio(np.zeros(4), "c"),
        lambda p: p.audio(np.zeros(4), "c", rate=0),
        lambda p: p.audio(np.full(4, np.nan), "c", rate=8000),
        lambda p: p.audio(np.zeros((40, 4)), "c", rate=8000),
        lambda p: p.video("/nowhere/film.mp4", "c"),
        lambda p: p.figure(3),
        lambda p: p.image(b"GIF", "c"),
        lambda p: p.table({"a": [1], "b": [1, 2]}),
        lambda p: p.table([]),
        lambda p: p.figure(bars(["a"], [1.0, 2.0])),
        lambda p: p.figure(bars([], [])),
        lambda p: p.figure(bars(["a"], [0.0], log=True)),
        lambda p: p.figure(roofline_plot(0, {"fp32": 1})),
        lambda p: p.figure(roofline_plot(1, {"fp32": None})),
    ],
)
def test_bad_input_is_refused_and_adds_nothing(call: object) -> None:
    page = Page("t")
    before = page.html_text()
    with pytest.raises(InputError):
        call(page)  # type: ignore[operator]
    assert page.html_text() == before


def test_an_error_inside_a_row_leaves_the_page_whole() -> None:
    page = Page("t")
    with pytest.raises(InputError), page.row():
        page.text("kept")
        page.audio(np.zeros(4), "c")
    page.text("outside")
    html = page.html_text()
    assert '<div class="row"><p>kept</p></div>\n<p>outside</p>' in html
    parsed(page)


def test_tables() -> None:
    page = Page("t")
    page.table(
        {
            "n": [1234567, -1, None],
            "f": [0.012345678, 12345.678, float("nan")],
            "t": ["<b>", "`code`", "worse"],
            "b": [True, False, None],
            "np": [np.float32(1.5), np.int64(7), np.float64(2.5e-9)],
        },
        "cap",
    )
    html = page.html_text()
    thin = "\u202f"
    for cell in (f"1{thin}234{thin}567", "0.01235", f"12{thin}346", "&lt;b&gt;", "<code>code</code>", "yes", "no"):
        assert f">{cell}</td>" in html
    assert '<td class="worse">worse</td>' in html
    assert '<td class="num">1.5</td>' in html
    assert '<td class="num">2.500e-09</td>' in html
    assert html.count('<td class="num">–</td>') == 2
    assert "<caption>cap</caption>" in html


def test_rows_may_lack_keys() -> None:
    page = Page("t")
    page.table([{"a": 1}, {"b": "x"}])
    assert "<td>x</td>" in page.html_text()


def test_writing_is_atomic(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "folder with space" / "index.html"
    page = Page("first")
    assert page.write(path) == path
    broken = Page("second")
    monkeypatch.setattr(broken, "html_text", lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        broken.write(path)
    assert "first" in path.read_text(encoding="utf-8")
    assert list(path.parent.iterdir()) == [path]


def test_image_figure_covers_half_a_sample_beyond_the_outermost_coordinates() -> None:
    figure = image_figure(np.zeros((5, 11)), x=(0, 100), y=(0, 2), xlabel="m", ylabel="s")
    image = figure.layout.images[0]
    assert (image.x, image.y, image.sizex, image.sizey) == (-5, -0.25, 110, 2.5)
    assert tuple(figure.layout.yaxis.range) == (2.25, -0.25)  # time grows downwards
    reversed_axis = image_figure(np.zeros((5, 11)), x=(100, 0), y=(2, 0), xlabel="m", ylabel="s")
    assert tuple(reversed_axis.layout.xaxis.range) == (105, -5)


def test_bars_have_whiskers_labels_and_room_for_them() -> None:
    figure = bars(["a", "b"], [1.0, 2.0], [(0.9, 1.2), (1.5, 3.0)], unit="ms", highlight="b")
    bar, text = figure.data
    assert list(bar.error_x.array) == pytest.approx([0.2, 1.0])
    assert list(bar.error_x.arrayminus) == pytest.approx([0.1, 0.5])
    assert bar.marker.color[0] != bar.marker.color[1]
    assert list(text.x) == [1.2, 3.0]
    assert [t.strip() for t in text.text] == ["1 ms", "2 ms"]
    assert figure.layout.xaxis.range[1] > 3.0


def test_roofline_bends_where_bandwidth_meets_arithmetic() -> None:
    figure = roofline_plot(50, {"fp32": 200}, [{"name": "k", "intensity": 1.0, "gflops": 40}])
    roof, points = figure.data
    assert roof.x[1] == 4.0
    assert list(roof.y)[1:] == [200, 200]
    assert roof.y[0] == pytest.approx(50 * roof.x[0])
    assert list(points.y) == [40]


def test_importing_report_loads_neither_plotly_nor_numpy() -> None:
    code = "import sys, elinvar.report; print([m for m in ('numpy', 'plotly', 'torch') if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


def test_scripts_come_last_and_once() -> None:
    page = Page("t")
    for script in ("one()", "two()", "one()"):
        page.script(script)
    page.text("after")
    html = page.html_text()
    assert html.index("after") < html.index("<script>one()</script>") < html.index("<script>two()</script>")
    assert html.count("one()") == 1
    assert parsed(page)
