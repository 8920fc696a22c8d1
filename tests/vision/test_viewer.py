from __future__ import annotations

import base64
import contextlib
import html
import io
import json
import math
import re

import numpy as np
import pytest

from elinvar.errors import InputError
from elinvar.report import Page
from elinvar.vision import view_points
from elinvar.vision.viewer import fragment, script

GROUND = {"dark": (23, 26, 31), "light": (242, 243, 245)}


def points(n=50):
    make = np.random.default_rng(0)
    return make.random((n, 3)), make.integers(0, 256, (n, 3), np.uint8), make.random(n)


def test_the_page_is_one_file(tmp_path):
    xyz, rgb, conf = points()
    page = view_points(tmp_path / "v.html", xyz, rgb, conf, [np.zeros((8, 2, 3))], title="<b>").read_text()
    # three.js names XHTML for createElementNS; nothing is asked for there (test_a_browser_shows_it looks).
    assert set(re.findall(r"https?:[^\"'`\s]*", page)) == {"http://www.w3.org/1999/xhtml"}
    assert len(page) < 800_000
    assert "default-src 'none'" in page
    assert "<title>&lt;b&gt;</title>" in page
    assert "&quot;count&quot;: 50" in page


def test_positions_survive(tmp_path):
    xyz, rgb, _ = points(7)
    text = fragment(xyz, rgb)
    info = json.loads(html.unescape(re.search(r'data-info="([^"]*)"', text)[1]))
    packed = base64.b64decode(re.search(r'cloud-points">([^<]*)<', text)[1])
    back = np.frombuffer(packed[:42], "<u2").reshape(7, 3) / 65535 * info["size"] + info["lower"]
    assert np.abs(back - xyz).max() < 1e-4
    assert np.array_equal(np.frombuffer(packed[42:63], np.uint8).reshape(7, 3), rgb)


def test_nonsense_is_refused():
    xyz, rgb, conf = points()
    for arguments in ((xyz[:0], rgb[:0]), (xyz, rgb[:3]), (xyz * np.nan, rgb), (xyz, rgb, conf[:2])):
        with pytest.raises(InputError, match="view_points"):
            fragment(*arguments)


def test_the_library_is_one_inline_script_with_its_licence():
    text = script()
    assert "The MIT License" in text
    assert "three.js authors" in text
    assert not re.search(r"</script|<!--|\beval\(|\bimport\(", text, re.IGNORECASE)
    assert "<script" not in fragment(*points()[:2], scripts=False)


@pytest.fixture(scope="module")
def browser():
    from elinvar.testing.browser import browser_session

    with browser_session() as running:
        yield running


@contextlib.contextmanager
def shown(browser, path, scheme="dark", before="", **options):
    """Open a page offline; whatever it complains about or asks for is an error."""
    context = browser.new_context(
        viewport={"width": 600, "height": 400}, offline=True, color_scheme=scheme, device_scale_factor=1, **options
    )
    said, asked = [], []
    try:
        tab = context.new_page()
        tab.on("console", lambda m: None if "GPU stall" in m.text else said.append(m.text))
        tab.on("pageerror", lambda error: said.append(str(error)))
        tab.on("request", lambda request: asked.append(request.url))
        tab.add_init_script(before)
        tab.goto(path.absolute().as_uri())
        yield tab
        assert said == []
        assert asked == [path.absolute().as_uri()]
    finally:
        context.close()


def picture(tab, size=None):
    """Return the canvas as it is seen, uint8 [height, width, 3], once what was asked for has been drawn."""
    from PIL import Image

    tab.wait_for_selector("[data-drawn]", state="attached")
    if size is not None:
        slide(tab, ".cloud-size", size)
    tab.evaluate("() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
    tab.add_style_tag(content=".cloud-bar{opacity:0}canvas{outline:0}")
    return np.asarray(Image.open(io.BytesIO(tab.screenshot())).convert("RGB"))


def middle_of(seen, colour):
    y, x = np.nonzero((seen == colour).all(-1))
    return np.array([x.mean(), y.mean()])


def slide(tab, name, value):
    tab.eval_on_selector(name, f"e => {{ e.value = {value}; e.dispatchEvent(new Event('input')); }}")


def two_points(folder, scale=1.0):
    """Write a page: a near red point left of a far blue one, above it, and two that span the cloud."""
    xyz = np.array([[-0.2, -0.2, -1], [0.2, 0.2, 1], [-1, -1, 0], [1, 1, 0]]) * scale
    rgb = np.array([[255, 0, 0], [0, 0, 255], [90, 90, 90], [91, 91, 91]], np.uint8)
    return view_points(folder / "v.html", xyz + np.array([0, 0, 3 * scale]), rgb, [0, 1, 2, 3])


@pytest.mark.chromium
@pytest.mark.parametrize("scheme", ["dark", "light"])
def test_colours_reach_the_screen_as_they_are(tmp_path, browser, scheme):
    across, down = np.meshgrid(np.linspace(-1.4, 1.4, 16), np.linspace(-0.9, 0.9, 12))
    xyz = np.stack([across, down, np.full_like(across, 4.0)], -1).reshape(-1, 3)
    rgb = np.random.default_rng(1).integers(0, 256, (len(xyz), 3), np.uint8)
    # Many lines, because smoothing leaves no pixel of a single one to it alone.
    lines = np.array([[[-1.3, y, 3.9], [1.3, y, 3.9]] for y in np.linspace(0.02, 0.06, 17)])
    path = view_points(tmp_path / "v.html", xyz, rgb, cameras=[lines])
    info = json.loads(html.unescape(re.search(r'data-info="([^"]*)"', path.read_text())[1]))
    with shown(browser, path, scheme) as tab:
        seen = picture(tab, 8)
    assert tuple(seen[3, 300]) == GROUND[scheme]
    offset = xyz - info["target"]
    per_unit = 200 / math.tan(0.4) / (offset[:, 2] + info["distance"])
    x, y = 300 + offset[:, 0] * per_unit, 200 + offset[:, 1] * per_unit
    assert np.array_equal(seen[y.astype(int), x.astype(int)], rgb)
    assert (seen == (240, 140, 38)).all(-1).sum() > 300  # the camera's lines


@pytest.mark.chromium
@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e4])
def test_mouse_and_keys_steer_and_reset_returns(tmp_path, browser, scale):
    red, blue = (255, 0, 0), (0, 0, 255)

    def drag(dx, dy, **how):
        tab.mouse.move(300, 200)
        tab.mouse.down(**how)
        tab.mouse.move(300 + dx, 200 + dy)
        tab.mouse.up(**how)
        return picture(tab)

    with shown(browser, two_points(tmp_path, scale)) as tab:
        first = picture(tab, 5)
        assert (middle_of(first, red) < middle_of(first, blue)).all()
        turned = drag(60, 40)  # what is near follows the hand
        assert (middle_of(turned, red) > middle_of(first, red) + 5).all()
        assert (middle_of(turned, blue) < middle_of(first, blue) - 5).all()
        tab.keyboard.press("ArrowLeft")
        assert middle_of(picture(tab), red)[0] < middle_of(turned, red)[0] - 2
        tab.click(".cloud-reset")
        assert np.array_equal(picture(tab), first)
        moved = drag(40, -30, button="right")
        for colour in (red, blue):
            shift = middle_of(moved, colour) - middle_of(first, colour)
            assert (np.sign(shift) == [1, -1]).all()
        tab.keyboard.down("Shift")
        assert np.abs(drag(-40, 30).astype(int) - first).mean() < 0.1  # back where it was
        tab.keyboard.up("Shift")
        tab.mouse.wheel(0, -200)
        wheeled = picture(tab)
        apart = [np.ptp([middle_of(seen, c)[0] for c in (red, blue)]) for seen in (first, wheeled)]
        assert apart[1] > 1.1 * apart[0]
        tab.keyboard.press("-")
        assert not np.array_equal(picture(tab), wheeled)
        tab.click(".cloud-reset")
        slide(tab, ".cloud-least", 0.2)
        assert not (picture(tab) == red).all(-1).any()
        slide(tab, ".cloud-least", 0)
        assert (picture(tab, 8) == red).all(-1).sum() > 1.5 * (first == red).all(-1).sum()


@pytest.mark.chromium
def test_fingers_pinch(tmp_path, browser):
    def touch(kind, *at):
        fingers = [{"x": x, "y": y, "id": k} for k, (x, y) in enumerate(at)]
        device.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": fingers})

    with shown(browser, two_points(tmp_path), has_touch=True) as tab:
        first = picture(tab, 5)
        device = tab.context.new_cdp_session(tab)
        touch("touchStart", (250, 200))
        touch("touchStart", (250, 200), (350, 200))
        touch("touchMove", (240, 200), (350, 200))
        touch("touchMove", (225, 200), (375, 200))
        touch("touchEnd")
        seen = picture(tab)
    apart = [np.ptp([middle_of(view, c)[0] for c in ((255, 0, 0), (0, 0, 255))]) for view in (first, seen)]
    assert apart[1] > 1.2 * apart[0]


@pytest.mark.chromium
def test_it_follows_the_window_and_its_frame(tmp_path, browser):
    with shown(browser, two_points(tmp_path)) as tab:
        picture(tab, 5)
        tab.set_viewport_size({"width": 300, "height": 500})
        seen = picture(tab)
        assert tab.eval_on_selector("canvas", "e => [e.width, e.height]") == [300, 500]
        tab.eval_on_selector(".cloud", "e => { e.style.height = '300px'; }")
        picture(tab)
        assert tab.eval_on_selector("canvas", "e => [e.width, e.height]") == [300, 300]
    # As much to the sides as in a window of 3:2.
    assert all((seen == colour).all(-1).any() for colour in ((255, 0, 0), (0, 0, 255), (90, 90, 90), (91, 91, 91)))


@pytest.mark.chromium
def test_without_webgl_it_says_so(tmp_path, browser):
    none = "HTMLCanvasElement.prototype.getContext = () => null"
    with shown(browser, two_points(tmp_path), before=none) as tab:
        assert "no WebGL" in tab.text_content(".cloud-note")


@pytest.mark.chromium
@pytest.mark.parametrize("scripts", [False, True])
def test_several_on_a_page(tmp_path, browser, scripts):
    page = Page("Two clouds")
    for _ in range(2):
        page.html(fragment(*points()[:2], height="150px", scripts=scripts))
        if not scripts:
            page.script(script())
    path = page.write(tmp_path / "p.html")
    assert path.read_text().count("three.js authors") == 1 + scripts
    with shown(browser, path) as tab:
        picture(tab)
        assert tab.locator("[data-drawn='50']").count() == 2


@pytest.mark.chromium
def test_a_browser_shows_it(tmp_path):
    from elinvar.testing.browser import open_page

    xyz, rgb, conf = points(500)
    path = view_points(tmp_path / "v.html", xyz, rgb, conf, [np.zeros((8, 2, 3))])
    assert open_page(path).problems == ()


@pytest.mark.parametrize("stretch", [(9.0, 1.0, 1.0), (1.0, 9.0, 1.0), (1.0, 1.0, 9.0), (1.0, 1.0, 1.0)])
def test_it_begins_where_nearly_all_points_are_seen(stretch):
    points = np.random.default_rng(0).standard_normal((4000, 3)) * stretch
    text = fragment(points, np.zeros((4000, 3), np.uint8))
    info = json.loads(html.unescape(re.search(r'data-info="([^"]*)"', text)[1]))
    x, y, z = (points - info["target"]).T
    ahead = z + info["distance"]
    half = math.tan(0.4)  # of viewer.js
    seen = (ahead > 0) & (np.abs(y) < half * ahead) & (np.abs(x) < 1.5 * half * ahead)
    assert seen.mean() > 0.96
