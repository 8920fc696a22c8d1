from __future__ import annotations

import contextlib
import http.client
import re
import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from elinvar.errors import InputError
from elinvar.seismic import Grid, Velocity, migrate, preview, pyramid, synthetic, viewer
from elinvar.seismic.viewer import page, samples, server
from elinvar.seismic.volume import Volume
from elinvar.testing.browser import browser_session, open_page

GRID = Grid((432_010.0, 6_543_020.0), 30, 12, 7, 25, 12.5, 80, 0.004, 0.3, inline=(100, 2), crossline=(50, -1))


@pytest.fixture(scope="module")
def survey():
    return synthetic.diffractors(
        [(432_100, 6_543_200, 700)], extent=400, offsets=(100, 300), nt=400, origin=(432_000, 6_543_000), noise=0.05
    )


@pytest.fixture(scope="module")
def image(survey):
    return migrate(survey, Velocity.constant(2500), GRID, gathers=[0, 200, 400], device="cpu")


@pytest.fixture(scope="module")
def codecs(image):
    with Volume.open(image) as volume:
        return samples.Codec.of(volume), samples.Codec.of(volume, gathers=True)


@pytest.fixture(scope="module")
def chromium():
    """One browser for the module: starting one takes longer than a test."""
    pytest.importorskip("playwright.sync_api")
    with browser_session() as running:
        yield running


@pytest.fixture
def browser(chromium):
    """``with browser(address) as tab``: a page in a real browser, failing on any error in its console."""

    @contextlib.contextmanager
    def opened(address, *, quiet=True):
        errors = []
        context = chromium.new_context(viewport={"width": 1300, "height": 850})
        try:
            tab = context.new_page()
            tab.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
            tab.on("pageerror", lambda error: errors.append(str(error)))
            tab.goto(address)
            # A function, not an expression: the page forbids eval.
            tab.wait_for_function("() => document.documentElement.dataset.viewer === 'ready'")
            yield tab
        finally:
            context.close()
        assert not quiet or errors == []

    return opened


def shown(tab, panel):
    """The bytes a panel shows, (columns, rows)."""
    found = tab.evaluate(f"() => {{ const s = viewer.shown.{panel}; return {{data: [...s.data], w: s.w, h: s.h}}; }}")
    return np.array(found["data"], np.uint8).reshape(found["w"], found["h"])


def put(tab, axis, index):
    """Move a slider and wait for the pictures."""
    tab.evaluate(
        "([axis, index]) => { const e = document.getElementById(axis); e.value = index;"
        " e.dispatchEvent(new Event('input')); return viewer.draw(); }",
        [axis, index],
    )


def check_slices(tab, image, codecs):
    """Every kind of picture shows the bytes of its slice."""
    whole, panels = (samples.encode(v, c) for v, c in zip((image.values, image.panels.values), codecs, strict=True))
    for axis, index in (("inline", 3), ("crossline", 5), ("time", 41)):
        put(tab, axis, index)
    assert np.array_equal(shown(tab, "main"), whole[3])
    assert np.array_equal(shown(tab, "map"), whole[:, :, 41].T)
    assert np.array_equal(shown(tab, "gather"), panels[3, 5])
    tab.keyboard.press("x")
    tab.evaluate("viewer.draw()")
    assert np.array_equal(shown(tab, "main"), whole[:, 5])
    tab.keyboard.press("t")
    tab.evaluate("viewer.draw()")
    assert np.array_equal(shown(tab, "main"), whole[:, :, 41].T)


@settings(deadline=None, max_examples=50)
@given(st.lists(st.floats(-5, 5, width=32), min_size=1, max_size=50))
def test_bytes_keep_amplitudes_to_a_per_cent_of_the_largest(values):
    codec = samples.Codec(5.0, 1.0)
    found = samples.decode(samples.encode(values, codec), codec)
    assert np.abs(found - values).max() <= 0.01 * 5
    small = np.abs(np.asarray(values)) < 0.05
    assert np.abs(found - values)[small].max(initial=0) <= 0.001 * 5


def test_zero_is_zero_and_the_largest_is_kept():
    codec = samples.Codec(2.0, 1.0)
    assert samples.encode([0.0, -0.0, 2.0, -2.0, 9.0], codec).tolist() == [128, 128, 255, 1, 255]
    assert samples.decode([128, 255, 1], codec).tolist() == [0, 2, -2]


@pytest.mark.chromium
def test_the_page_is_sound_and_asks_for_nothing(chromium, image, tmp_path):
    path = viewer.write_page(image, tmp_path / "view.html")
    for width, dark in ((1280, False), (420, True)):
        assert open_page(path, width=width, dark=dark).problems == ()


@pytest.mark.chromium
def test_the_page_shows_the_slices(browser, image, codecs, tmp_path):
    path = viewer.write_page(image, tmp_path / "view.html")
    with browser(path.as_uri()) as tab:
        assert tab.text_content("#title") == "diffractors"
        at = np.unravel_index(np.argmax(np.abs(image.values)), image.values.shape)
        assert tab.evaluate("viewer.state.at") == list(map(int, at))
        check_slices(tab, image, codecs)


@pytest.mark.chromium
def test_pointing_reads_coordinates_and_amplitude(browser, image, codecs, tmp_path):
    path = viewer.write_page(image, tmp_path / "view.html")
    with browser(path.as_uri()) as tab:
        put(tab, "inline", 4)
        spot = "([x, y]) => { const f = viewer.frames.main; return [f.toX(x), f.toY(y)]; }"
        box = tab.locator("#main").bounding_box()
        x, y = tab.evaluate(spot, [2, 30])
        tab.mouse.move(box["x"] + x, box["y"] + y)
        text = tab.text_content("#readout")
        e, n = GRID.position(4, 2)
        assert text.startswith(f"inline 108 · crossline 48 · {e:.1f} m E, {n:.1f} m N · 420 ms · amplitude ")
        value = float(text.rpartition(" ")[2])
        assert value == pytest.approx(image.values[4, 2, 30], abs=0.011 * codecs[0].scale)
        tab.mouse.click(box["x"] + x, box["y"] + y)
        assert tab.evaluate("viewer.state.at") == [4, 2, 30]
        assert tab.text_content("#gather-caption") == "Gather at inline 108, crossline 48"
        tab.keyboard.press("ArrowRight")
        tab.keyboard.press("Shift+ArrowDown")
        tab.keyboard.press("PageDown")
        assert tab.evaluate("viewer.state.at") == [5, 3, 40]
        assert tab.text_content("#time-value") == "460 ms"


@pytest.mark.chromium
def test_colours_gain_and_zoom_change_the_picture(browser, image, tmp_path):
    path = viewer.write_page(image, tmp_path / "view.html")
    with browser(path.as_uri()) as tab:
        before = tab.screenshot()
        tab.select_option("#colours", "gray")
        gray = tab.screenshot()
        ends = [float(tab.text_content("#bar").rpartition("+")[2])]
        put(tab, "gain", 20)
        ends.append(float(tab.text_content("#bar").rpartition("+")[2]))
        assert ends[0] / ends[1] == pytest.approx(10, rel=0.01)  # 20 dB are a factor of ten
        loud = tab.screenshot()
        tab.keyboard.press("+")
        assert len({before, gray, loud, tab.screenshot()}) == 4
        assert tab.evaluate("viewer.state.zoom.x1 - viewer.state.zoom.x0") == pytest.approx(7 * 0.8)
        tab.keyboard.press("0")
        assert tab.evaluate("viewer.state.zoom") is None


@pytest.mark.chromium
def test_a_known_amplitude_has_its_colour(browser, tmp_path, image):
    loud = image.dataset().copy(deep=True)
    loud["image"][:] = np.where(np.arange(80) < 40, 1.0, -1.0) * 3.0
    loud["image"][:, :, 78:] = 0
    with browser(viewer.write_page(loud, tmp_path / "view.html").as_uri()) as tab:
        pixel = """([x, y]) => { const f = viewer.frames.main, c = document.getElementById('main').getContext('2d');
          return [...c.getImageData(f.toX(x), f.toY(y), 1, 1).data].slice(0, 3); }"""
        assert tab.evaluate(pixel, [1.3, 10]) == [0x6B, 0x0B, 0x1F]  # the ends and the middle of "seismic"
        assert tab.evaluate(pixel, [1.3, 60]) == [0x0B, 0x2A, 0x6B]
        assert tab.evaluate(pixel, [1.3, 79]) == [0xFF, 0xFF, 0xFF]
        put(tab, "gain", -20)  # a tenth of the way from white to the ends
        assert tab.evaluate(pixel, [1.3, 10]) == pytest.approx([251, 234, 228], abs=2)


def test_gathers_are_thinned_until_they_fit(image, tmp_path, monkeypatch):
    monkeypatch.setattr(page, "LARGEST", image.values.size + 6 * 4 * 2 * 80)
    text = viewer.write_page(image, tmp_path / "view.html").read_text()
    assert '"gather_step": 2' in text
    monkeypatch.setattr(page, "LARGEST", image.values.size)
    assert '"gathers": null' in viewer.write_page(image, tmp_path / "view.html").read_text()
    monkeypatch.setattr(page, "LARGEST", image.values.size - 1)
    assert not viewer.fits(image)
    with pytest.raises(InputError, match=r"use serve\(\)"):
        viewer.write_page(image, tmp_path / "other.html")
    assert not (tmp_path / "other.html").exists()


@pytest.mark.chromium
def test_thinned_gathers_are_the_nearest_ones(browser, image, codecs, tmp_path, monkeypatch):
    monkeypatch.setattr(page, "LARGEST", image.values.size + 6 * 4 * 2 * 80)
    path = viewer.write_page(image, tmp_path / "view.html")
    with browser(path.as_uri()) as tab:
        put(tab, "inline", 5)
        put(tab, "crossline", 3)
        assert np.array_equal(shown(tab, "gather"), samples.encode(image.panels.values[4, 2], codecs[1]))
        assert tab.text_content("#gather-caption") == "Gather at inline 108, crossline 48"
        assert "every 2 lines" in tab.text_content("#help")


@pytest.mark.chromium
def test_a_preview_is_called_one_and_needs_no_gathers(browser, survey, tmp_path):
    found = preview(survey, Velocity.constant(2500), GRID, device="cpu")
    with browser(viewer.write_page(found.image, tmp_path / "view.html").as_uri()) as tab:
        assert tab.is_visible("#preview")
        assert "interpolated" in tab.text_content("#preview")
        assert not tab.is_visible("#gather-figure")


@pytest.mark.chromium
@pytest.mark.parametrize(("nx", "ny"), [(1, 7), (7, 1)])
def test_a_line_has_one_section_and_no_map(browser, survey, nx, ny, tmp_path):
    grid = Grid((432_100, 6_543_100), 0, nx, ny, 25, 25, 80, 0.004, 0.3)
    image = migrate(survey, Velocity.constant(2500), grid, device="cpu")
    with browser(viewer.write_page(image, tmp_path / "view.html").as_uri()) as tab:
        assert not tab.is_visible("#map-figure")
        assert tab.locator("input[name=view]").count() - tab.locator("label[hidden] input[name=view]").count() == 1
        with Volume.open(image) as volume:
            codec = samples.Codec.of(volume)
        assert np.array_equal(shown(tab, "main"), samples.encode(image.values.reshape(7, 80), codec))
        tab.keyboard.press("t")
        assert tab.evaluate("viewer.state.view") == ("inline" if nx == 1 else "crossline")


def get(port, path, host=None):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    try:
        connection.request("GET", path, headers={"Host": host} if host else {})
        answer = connection.getresponse()
        return answer.status, dict(answer.getheaders()), answer.read()
    finally:
        connection.close()


@pytest.mark.chromium
def test_a_served_volume_shows_the_same_slices(browser, image, codecs, tmp_path):
    image.to_zarr(tmp_path / "image.zarr")
    with viewer.serve(tmp_path / "image.zarr") as running, browser(running.url) as tab:
        check_slices(tab, image, codecs)


def test_the_server_answers_slices_and_nothing_else(image, codecs):
    with viewer.serve(image) as running:
        status, headers, body = get(running.port, "/slice/inline/3")
        assert status == 200
        assert (headers["X-Width"], headers["X-Height"]) == ("7", "80")
        assert body == samples.encode(image.values[3], codecs[0]).tobytes()
        for path in ("/slice/inline/12", "/slice/inline/-1", "/slice/depth/1", "/gather/1", "/gather/1/x", "/../x"):
            assert get(running.port, path)[0] == 404, path
        status, headers, body = get(running.port, "/")
        assert status == 200
        assert "connect-src 'self'" in body.decode()
        assert b'class="image"' not in body
        assert get(running.port, "/", host="evil.example:80")[0] == 403
        assert get(running.port, "/", host=f"localhost:{running.port}")[0] == 200


def test_a_server_stops_and_leaves_nothing(image):
    before = threading.active_count()
    running = viewer.serve(image)
    port = running.port
    with pytest.raises(InputError, match=f"port {port} cannot be used"):
        viewer.serve(image, port)
    running.close()
    assert threading.active_count() == before
    with pytest.raises(OSError):
        get(port, "/")


def test_time_slices_of_a_large_volume_come_from_its_pyramid(image, codecs, tmp_path, monkeypatch):
    image.to_zarr(tmp_path / "image.zarr")
    real = Volume.overview
    monkeypatch.setattr(Volume, "overview", lambda self: real(self, 4 * 6 * 4 * 40))
    monkeypatch.setattr(server, "_READABLE", 1000)
    with viewer.serve(tmp_path / "image.zarr") as running:
        status, _, body = get(running.port, "/slice/time/41")
        assert status == 409
        assert b"elinvar seismic pyramid" in body
        assert get(running.port, "/slice/inline/3")[0] == 200
    pyramid.build(tmp_path / "image.zarr", 1)
    with viewer.serve(tmp_path / "image.zarr") as running:
        status, _, body = get(running.port, "/slice/time/41")
        assert status == 200
        found = np.frombuffer(body, np.uint8).reshape(7, 12)
        level = pyramid.levels(image, 1)[1].values[:, :, 20]  # (6, 4): each bin shown as two by two
        known = samples.encode(np.repeat(np.repeat(level, 2, axis=0), 2, axis=1)[:, :7].T, codecs[0])
        assert np.array_equal(found, known)
        assert get(running.port, "/slice/inline/3")[2] == samples.encode(image.values[3], codecs[0]).tobytes()


@pytest.mark.chromium
def test_a_slice_that_cannot_be_had_is_said_in_its_place(browser, image, tmp_path, monkeypatch):
    image.to_zarr(tmp_path / "image.zarr")
    real = Volume.overview
    monkeypatch.setattr(Volume, "overview", lambda self: real(self, 100))
    monkeypatch.setattr(server, "_READABLE", 1000)
    with viewer.serve(tmp_path / "image.zarr") as running, browser(running.url, quiet=False) as tab:
        assert "elinvar seismic pyramid" in tab.evaluate("viewer.frames.map.options.message")
        assert tab.evaluate("viewer.frames.main.options.message") is None


def test_text_of_a_file_cannot_become_markup(image, tmp_path):
    hostile = image.dataset().copy()
    hostile.attrs["survey"] = "</script><script>alert(1)</script>"
    text = viewer.write_page(hostile, tmp_path / "view.html").read_text()
    assert "<script>alert" not in text
    assert len(re.findall(r"<script", text)) == 2 + text.count('class="image"') + text.count('class="gathers"')


def test_broken_amplitudes_are_named(image, tmp_path):
    broken = image.dataset().copy(deep=True)
    broken["image"][0, 0, 0] = np.nan
    with pytest.raises(InputError, match="not finite"):
        viewer.write_page(broken, tmp_path / "view.html")
