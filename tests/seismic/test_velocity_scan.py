from __future__ import annotations

import numpy as np
import pytest

from elinvar import seismic
from elinvar.errors import BudgetExceeded, InputError
from elinvar.runtime.device import Runtime
from elinvar.seismic import Aperture, Grid, Velocity, migrate, open_image, plan, plan_scan, scan, synthetic

V = 2400.0
GRID = Grid((75.0, 60.0), 0, 4, 3, 25, 25, 120, 0.004, 0.2)
EDGES = [0, 200, 250]
GIVEN = {"device": "cpu", "gathers": EDGES, "aperture": Aperture(dip=30)}


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr("elinvar.seismic.job.block_size", lambda *_: 64)


@pytest.fixture(scope="module")
def survey():
    return synthetic.diffractors(
        [(120, 100, 500), (60, 90, 700)], extent=175, offsets=(150, 220, 300), azimuths=(0, 75), nt=400, noise=0.05
    )


@pytest.fixture(scope="module")
def found(survey):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("elinvar.seismic.job.block_size", lambda *_: 64)
        return scan(survey, Velocity.constant(V), GRID, (90, 110, 5), **GIVEN)


@pytest.fixture(scope="module")
def layers():
    """Three flat reflectors, and offsets wide enough to tell velocities apart."""
    return synthetic.flat_reflectors((0.24, 0.48, 0.72), extent=300, offsets=(100, 400, 700, 1000), nt=500)


def test_every_percentage_is_the_migration_with_that_velocity(survey, found, relative):
    assert found.percents.tolist() == [90, 95, 100, 105, 110]
    assert found.image.dims == found.fold.dims == ("inline", "crossline", "percent", "time")
    for percent in (90, 100, 110):
        alone = migrate(survey, Velocity.constant(V * percent / 100), GRID, **GIVEN)
        one = found.at(percent)
        assert relative(one.values, alone.values) < 1e-6
        assert np.array_equal(one.counts, alone.counts)
        assert relative(one.panels.values, alone.panels.values) < 1e-6
        assert np.array_equal(one.panels.fold, alone.panels.fold)
        assert one.attributes["velocity"] == f"{V * percent / 100:g} m/s"
    assert found.contributions == sum(found.at(p).contributions for p in found.percents)


def test_curved_rays_bend_with_their_percentage(survey, relative):
    v = Velocity.linear(2000.0, 0.6)
    given = {"device": "cpu", "physics": "curved"}
    curved = scan(survey, v, GRID, (80, 120, 20), **given)
    for percent in (80, 120):
        assert relative(curved.at(percent).values, migrate(survey, v.scaled(percent), GRID, **given).values) < 1e-6


def test_traces_are_read_once(survey, monkeypatch):
    read = []
    real = survey.block
    monkeypatch.setattr(survey, "block", lambda index: read.append(len(index)) or real(index))
    scan(survey, Velocity.constant(V), GRID, (90, 110, 2), device="cpu")
    assert sum(read) == survey.n_traces


def same(one, other):
    names = ("values", "counts", "panels", "panel_counts")
    return all(getattr(one, name).tobytes() == getattr(other, name).tobytes() for name in names)


class Stop(Exception):
    """Ends a run like a crash."""


@pytest.mark.parametrize("n", [1, 5])
def test_a_crash_costs_a_block_and_no_bit(survey, found, tmp_path, n):
    calls = []

    def progress(done, total):
        calls.append(done)
        if len(calls) == n:
            raise Stop

    kept = seismic.Checkpoint(tmp_path / "kept", blocks=1)
    given = {**GIVEN, "checkpoint": kept}
    with pytest.raises(Stop):
        scan(survey, Velocity.constant(V), GRID, (90, 110, 5), **given, progress=progress)
    with pytest.raises(InputError, match="percents"):
        scan(survey, Velocity.constant(V), GRID, (90, 110, 10), **given)
    del calls[:]
    again = scan(
        survey, Velocity.constant(V), GRID, (90, 110, 5), **given, progress=lambda done, total: calls.append(1)
    )
    assert same(again, found)
    assert len(calls) <= 6 - n + 2


def test_tiles_and_devices(survey, found, relative):
    whole = plan_scan(survey, Velocity.constant(V), GRID, (90, 110, 5), **GIVEN)
    tight = whole.plan.memory_bytes - 5 * 8 * GRID.nt * 4
    tiled = scan(survey, Velocity.constant(V), GRID, (90, 110, 5), **GIVEN, memory=tight)
    assert tiled.job.tiles > 1
    assert tiled.job.plan.memory_bytes <= tight
    assert relative(tiled.values, found.values) < 1e-5
    two = [Runtime().device("cpu") for _ in range(2)]
    given = {**GIVEN, "device": None, "devices": two}
    assert relative(scan(survey, Velocity.constant(V), GRID, (90, 110, 5), **given).values, found.values) < 1e-6
    with pytest.raises(BudgetExceeded, match=r"scan fewer percentages|needs at least"):
        scan(survey, Velocity.constant(V), GRID, (50, 150, 1), **GIVEN, memory=whole.plan.memory_bytes // 4)


def test_the_plan_counts_every_percentage(survey, found):
    made = plan_scan(survey, Velocity.constant(V), GRID, (90, 110, 5), **GIVEN)
    assert made.contributions == pytest.approx(found.contributions, rel=0.1)
    one = plan(survey, Velocity.constant(V), GRID, **GIVEN)
    assert made.peak_bytes > one.peak_bytes + 4 * 8 * GRID.size * GRID.nt * 3
    assert "5 images, from 90 to 110 % of the velocity, from one pass over the traces." in str(made)


@pytest.mark.parametrize("by", ["semblance", "power"])
def test_picks_find_the_velocity(layers, by):
    grid = Grid((100.0, 100.0), 0, 2, 2, 25, 25, 200, 0.004)
    edges = None if by == "power" else [0, 200, 500, 800, 1100]
    wrong = Velocity.constant(2500 / 1.04)  # 104 % of it is right
    tried = scan(layers, wrong, grid, (92, 112, 2), device="cpu", gathers=edges)
    picks = tried.pick()
    assert picks.attrs["by"] == by
    for t0 in (0.48, 0.72):
        at = picks.percent.sel(time=t0, method="nearest").values
        assert at == pytest.approx(104, abs=1.2)
    assert np.isnan(picks.percent.values[..., 0]).all()  # nothing above the first reflector
    better = tried.picked(picks)
    assert better.rms(0.72, 112.0, 112.0) == pytest.approx(2500, rel=0.012)
    assert np.isfinite(better.sampled(grid)).all()


def test_what_is_stored_is_an_image_too(found, tmp_path):
    found.to_zarr(tmp_path / "scan.zarr")
    with open_image(tmp_path / "scan.zarr") as data:
        assert data.scan.dims == ("inline", "crossline", "percent", "time")
        assert np.array_equal(data.image.values, found.at(100).values)
        assert np.array_equal(data.scan.values, found.values)
        assert np.array_equal(data.scan_fold.values, found.counts)
        assert data.percent.values.tolist() == [90, 95, 100, 105, 110]
        assert set(data.data_vars) >= {"power", "semblance", "pick", "pick_quality"}
        assert "offset" not in data.dims
        assert np.array_equal(data.pick.values, found.pick().percent.values, equal_nan=True)


def test_wrong_arguments(survey, found):
    v = Velocity.constant(V)
    with pytest.raises(InputError, match="does not lead to 90 in steps of 5"):
        scan(survey, v, GRID, (110, 90, 5))
    with pytest.raises(InputError, match="no option 'dipp'"):
        scan(survey, v, GRID, dipp=3)
    with pytest.raises(InputError, match="physics is 'warp'"):
        scan(survey, v, GRID, physics="warp")
    with pytest.raises(InputError, match="leave one out"):
        scan(survey, v, GRID, cluster="local", devices="all")
    with pytest.raises(InputError, match="101 % was not scanned; there are 90 to 110 in steps of 5"):
        found.at(101)
    short = scan(survey, v, GRID, (95, 100, 5), device="cpu")
    with pytest.raises(InputError, match="three are needed"):
        short.pick()
    with pytest.raises(InputError, match="scan with gathers="):
        short.semblance()
