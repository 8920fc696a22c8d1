from __future__ import annotations

import base64
import html
import json
import math
import re

import numpy as np
import pytest

from elinvar.errors import InputError
from elinvar.vision import view_points
from elinvar.vision.viewer import fragment


def points(n=50):
    make = np.random.default_rng(0)
    return make.random((n, 3)), make.integers(0, 256, (n, 3), np.uint8), make.random(n)


def test_the_page_is_one_file(tmp_path):
    xyz, rgb, conf = points()
    page = view_points(tmp_path / "v.html", xyz, rgb, conf, [np.zeros((8, 2, 3))], title="<b>").read_text()
    assert "http" not in page.replace("http-equiv", "")
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


@pytest.mark.chromium
def test_a_browser_shows_it(tmp_path):
    from elinvar.testing.browser import open_page

    xyz, rgb, conf = points(500)
    path = view_points(tmp_path / "v.html", xyz, rgb, conf, [np.zeros((8, 2, 3))])
    report = open_page(path)
    assert not report.console_errors
    assert not report.requests


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
