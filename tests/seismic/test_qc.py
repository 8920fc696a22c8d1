from __future__ import annotations

import re

import numpy as np
import pytest

import elinvar.seismic.qc_figures as qc_figures
from elinvar.errors import InputError
from elinvar.seismic import (
    AzimuthSectors,
    Grid,
    OffsetVectorTiles,
    Velocity,
    migrate,
    preview,
    pyramid,
    qc_report,
    synthetic,
    viewer,
)
from elinvar.testing.browser import browser_session, open_page

V = Velocity.linear(2000, 0.5)


@pytest.fixture(scope="module")
def survey():
    return synthetic.flat_reflectors(
        [0.4, 0.7], velocity=2500, extent=(400, 300), offsets=range(100, 901, 200), azimuths=(20,), nt=500, noise=0.05,
        origin=(432_000, 6_543_000), rotation=30,
    )  # fmt: skip


@pytest.fixture(scope="module")
def image(survey):
    return migrate(survey, Velocity.constant(2400), survey.grid, gathers=np.arange(0, 1001, 200), device="cpu")


@pytest.fixture(scope="module")
def chromium():
    """One browser for the module: starting one takes longer than a test."""
    pytest.importorskip("playwright.sync_api")
    with browser_session():
        yield


def test_a_report_has_everything(image, survey, tmp_path):
    path = qc_report(image, survey, V, tmp_path / "report.html")
    text = path.read_text()
    headings = re.findall(r"<h2[^>]*>([^<]*)</h2>", text)
    assert headings == ["Summary", "Sections", "Fold", "Gathers", "Survey", "Velocity", "Spectra"]
    for axis in (
        "two-way time (ms)", "distance along inline", "distance along crossline", "crossline axis (m)", "offset (m)",
        "velocity error (%)", "velocity (m/s)", "frequency (Hz)", "wavenumber (1/km)", "amplitude (dB)", "easting (m)",
    ):  # fmt: skip
        assert axis in text, axis
    assert "99th percentile" in text
    assert "https://" not in text.partition("<main")[2].partition("</main>")[0]


@pytest.mark.chromium
def test_the_report_works_in_a_browser(chromium, image, survey, tmp_path):
    report = open_page(qc_report(image, survey, V, tmp_path / "report.html"))
    assert report.problems == ()
    assert report.figures >= 17
    assert open_page(tmp_path / "report.html", width=400, dark=True).problems == ()


def test_every_axis_has_a_title_with_a_unit(image, survey, tmp_path):
    import json

    text = qc_report(image, survey, V, tmp_path / "report.html").read_text()
    figures = re.findall(r'<script type="application/json" id="plot-\d+-data">(.*?)</script>', text)
    assert len(figures) >= 17
    free = {"traces"}  # counts have no unit
    for body in figures:
        layout = json.loads(body)["layout"]
        if "polar" in layout:
            continue
        for axis in ("xaxis", "yaxis"):
            title = layout[axis]["title"]["text"]
            assert re.search(r"\(.+\)$", title) or title in free, title


def test_the_found_velocity_error_is_written(tmp_path):
    wide = synthetic.flat_reflectors([0.4, 0.7], extent=1000, offsets=range(100, 901, 200), nt=500, noise=0.05)
    grid = Grid((400, 400), 0, 9, 9, 25, 25, 250, 0.004)
    image = migrate(wide, Velocity.constant(2400), grid, gathers=np.arange(0, 1001, 200), device="cpu")
    text = qc_report(image, velocity=Velocity.constant(2400), path=tmp_path / "report.html").read_text()
    errors = [float(e) for e in re.findall(r"The velocity is ([\d.]+) % too slow here", text)]
    assert errors
    assert errors == pytest.approx([100 * (2500 / 2400 - 1)] * len(errors), abs=0.6)
    assert "too fast here" not in text


def test_without_survey_and_velocity(image, tmp_path):
    image.to_zarr(tmp_path / "image.zarr")
    text = qc_report(tmp_path / "image.zarr", path=tmp_path / "report.html").read_text()
    assert re.findall(r"<h2[^>]*>([^<]*)</h2>", text) == ["Summary", "Sections", "Fold", "Gathers", "Spectra"]
    assert "semblance (0 to 1)" in text


@pytest.mark.parametrize("bins", [AzimuthSectors((0, 60, 120, 180)), OffsetVectorTiles(400, 400), None])
def test_other_gathers_or_none(survey, bins, tmp_path):
    small = Grid(survey.grid.origin, 30, 3, 1, 25, 25, 120, 0.004)
    image = migrate(survey, V, small, gathers=bins, device="cpu")
    text = qc_report(image, survey, V, tmp_path / "report.html").read_text()
    labels = {AzimuthSectors: "azimuth (degrees)", OffsetVectorTiles: "tile number"}
    assert labels.get(type(bins), "Spectra") in text
    assert ("Gathers" in text) == (bins is not None)


def test_a_preview_is_called_one(survey, tmp_path):
    found = preview(survey, V, survey.grid, device="cpu")
    text = qc_report(found.image, path=tmp_path / "report.html").read_text()
    assert "This is a preview, not an image" in text


def test_a_silent_image_and_one_sample(survey, tmp_path):
    far = Grid(survey.grid.origin, 30, 1, 1, 25, 25, 2, 0.001)
    image = migrate(survey, V, far, phase_filter=False, device="cpu")
    image.values[:] = 0
    assert "Sections" in qc_report(image, survey, V, tmp_path / "report.html").read_text()


@pytest.mark.chromium
@pytest.mark.parametrize(("nx", "ny", "nt"), [(1, 9, 100), (9, 1, 100), (1, 1, 2)])
def test_lines_and_single_traces(chromium, survey, nx, ny, nt, tmp_path):
    x, y = (float(c) for c in survey.grid.position(4, 4))
    grid = Grid((x, y), 30, nx, ny, 25, 25, nt, 0.004, 0.3)
    image = migrate(survey, Velocity.constant(2500), grid, gathers=[0, 1000], device="cpu")
    report = open_page(qc_report(image, survey, Velocity.constant(2500), tmp_path / "report.html"))
    assert report.problems == ()
    text = (tmp_path / "report.html").read_text()
    assert "Time slice" not in text  # a line has no map
    assert "midpoints (traces)" in text
    assert ("Crossline" in text.partition("<figcaption>")[2][:40]) == (ny == 1 < nx)
    assert open_page(viewer.write_page(image, tmp_path / "view.html")).problems == ()


def test_a_volume_too_large_to_read_says_so(image, tmp_path, monkeypatch):
    from elinvar.seismic.volume import Volume

    image.to_zarr(tmp_path / "image.zarr")
    real = Volume.overview
    monkeypatch.setattr(Volume, "overview", lambda self: real(self, 4 * 9 * 7 * 300))
    text = qc_report(tmp_path / "image.zarr", path=tmp_path / "report.html").read_text()
    assert "too large" in text
    assert "through the middle" in text
    pyramid.build(tmp_path / "image.zarr", 1)
    text = qc_report(tmp_path / "image.zarr", path=tmp_path / "report.html").read_text()
    assert "level 1 of the pyramid" in text
    assert "The volume is too large" not in text


def test_coverage_counts_midpoints_in_their_bins(survey, tmp_path):
    part = Grid(survey.grid.origin, 30, 5, 4, 25, 25, 60, 0.004)
    image = migrate(survey, V, part, device="cpu")
    text = qc_report(image, survey, path=tmp_path / "report.html").read_text()
    assert "100.0 % of the bins have one, at most 5" in text
    assert f"{5 * (17 * 13 - 20):,} midpoints lie outside" in text


def test_pictures_are_reduced_by_means_and_say_so():
    a = np.arange(2500.0)[None] * np.ones((3, 1))
    found = qc_figures.shown(a, np.arange(2500.0), [0, 1, 2])
    assert found.values.shape == (3, 834)
    assert found.values[0, :2].tolist() == [1, 4]
    assert found.x == (1.0, 2499.0)
    assert "means of 3 x 1" in found.note
    assert qc_figures.shown(a[:, :100], np.arange(100), [0, 1, 2]).note == ""


def test_what_is_no_image_is_named(tmp_path):
    with pytest.raises(InputError, match="there is no"):
        qc_report(tmp_path / "nothing.zarr", path=tmp_path / "report.html")
    assert not (tmp_path / "report.html").exists()
