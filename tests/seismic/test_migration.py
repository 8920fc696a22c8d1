from __future__ import annotations

import functools
import threading
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from elinvar.errors import InputError, UnknownKernel
from elinvar.runtime.device import Runtime
from elinvar.runtime.parallel import set_threads
from elinvar.runtime.plan import plan as runtime_plan
from elinvar.runtime.transfers import transfers
from elinvar.seismic import Aperture, Grid, OffsetBins, Survey, Velocity, job, lane, migrate, plan, run, synthetic
from elinvar.seismic.job import TABLE_BYTES
from elinvar.seismic.kernels.migrate import FEATURES
from elinvar.seismic.migration import KERNEL

V = Velocity.constant(2500)
GRID = Grid((75.0, 60.0), 0, 4, 3, 25, 25, 120, 0.004, 0.2)


@pytest.fixture(scope="module")
def survey():
    base = synthetic.diffractors(
        [(120, 100, 500), (60, 90, 700)], extent=200, offsets=(150, 300), azimuths=(0, 75), nt=400, noise=0.05
    )
    return base.select(np.arange(0, base.n_traces, 2))


@pytest.fixture(scope="module")
def image(survey):
    return migrate(survey, V, GRID, device="cpu")


def moved(survey, grid, turn, shift):
    """The same survey and grid elsewhere: turned clockwise by `turn` degrees, then shifted."""
    a = np.radians(turn)
    rotation = np.array([[np.cos(a), -np.sin(a)], [np.sin(a), np.cos(a)]])  # row vectors, clockwise
    place = lambda p: np.asarray(p) @ rotation + shift  # noqa: E731
    there = Survey.from_arrays(
        survey.read(), place(survey.source), place(survey.receiver), survey.dt, bin_size=survey.bin_size
    )
    x, y = place(grid.origin)
    return there, Grid((x, y), grid.azimuth + turn, grid.nx, grid.ny, grid.dx, grid.dy, grid.nt, grid.dt, grid.t0)


@pytest.mark.parametrize(("turn", "shift"), [(0, (5e6, 5e6)), (40, (0, 0)), (40, (4.3e5, 6.78e6)), (-117, (0, -5e6))])
def test_place_and_orientation_do_not_matter(survey, image, relative, turn, shift):
    there, grid = moved(survey, GRID, turn, shift)
    assert relative(migrate(there, V, grid, device="cpu").values, image.values) < 1e-5


def test_swapping_sources_and_receivers(survey, image, relative):
    swapped = Survey.from_arrays(survey.read(), survey.receiver, survey.source, survey.dt, bin_size=survey.bin_size)
    assert relative(migrate(swapped, V, GRID, device="cpu").values, image.values) < 1e-5


def test_order_of_traces(survey, image, relative):
    shuffled = survey.select(np.random.default_rng(2).permutation(survey.n_traces))
    again = migrate(shuffled, V, GRID, device="cpu")
    assert relative(again.values, image.values) < 1e-5
    assert np.array_equal(again.counts, image.counts)


def test_runs_can_be_split_and_added(survey, image, relative):
    half = np.arange(survey.n_traces) % 3 == 0
    parts = [migrate(survey.select(p), V, GRID, device="cpu") for p in (half, ~half)]
    assert relative(sum(p.values for p in parts), image.values) < 1e-5
    assert np.array_equal(sum(p.counts for p in parts), image.counts)


def test_threads_and_blocks_do_not_matter(survey, image, relative, monkeypatch):
    old = set_threads(1)
    try:
        assert np.array_equal(migrate(survey, V, GRID, device="cpu").values, image.values)
    finally:
        set_threads(old)
    monkeypatch.setattr("elinvar.seismic.job.block_size", lambda *_: 64)
    again = migrate(survey, V, GRID, device="cpu")
    assert again.job.blocks > 1
    assert relative(again.values, image.values) < 1e-5
    assert np.array_equal(again.counts, image.counts)


def memory(monkeypatch, rows, grid, ns):
    """Leave room for so many pillars beside three blocks of 64 traces."""
    monkeypatch.setattr("elinvar.seismic.job.block_size", lambda *_: 64)
    room = 3 * 5 * 64 * 4 * ns + TABLE_BYTES * grid.nt + (1 << (rows * 8 * grid.nt - 1).bit_length())
    monkeypatch.setattr("elinvar.seismic.job.runtime_plan", functools.partial(runtime_plan, budget_bytes=room))


def test_an_image_larger_than_the_budget_is_made_in_tiles(survey, image, relative, monkeypatch):
    memory(monkeypatch, 4, GRID, 400)
    device = Runtime().device("cpu")
    tiled = migrate(survey, V, GRID, device=device)
    assert tiled.job.tiles == 3
    assert tiled.job.plan.in_flight == 3
    assert relative(tiled.values, image.values) < 1e-5
    assert np.array_equal(tiled.counts, image.counts)
    assert device.pool.stats().bytes_live == 0
    gathered = migrate(survey, V, GRID, device=device, gathers=[0, 200, 400])
    assert relative(gathered.values, image.values) < 1e-5
    assert gathered.panels.traces == (survey.n_traces // 2 + survey.n_traces % 2, survey.n_traces // 2)


def test_tiles_leave_out_traces_that_cannot_reach_them(monkeypatch):
    base = synthetic.diffractors([(500, 500, 300)], extent=1000, offsets=(100,), nt=250)
    grid = Grid((0, 0), 0, 40, 1, 25, 25, 60, 0.004)
    whole = migrate(base, V, grid, device="cpu")
    memory(monkeypatch, 10, grid, 250)
    calls = []
    tiled = migrate(base, V, grid, device="cpu", progress=lambda done, total: calls.append((done, total)))
    assert tiled.job.tiles >= 3
    assert np.array_equal(tiled.counts, whole.counts)
    assert calls[-1][0] == calls[-1][1] < tiled.job.tiles * base.n_traces


def test_gathers_are_common_offset_images(survey, image, relative):
    result = migrate(survey, V, GRID, gathers=[0, 200, 400], device="cpu")
    assert result.gathers.dims == ("inline", "crossline", "offset", "time")
    assert result.gathers.shape == (4, 3, 2, 120)
    assert result.gathers.offset.values.tolist() == [100, 300]
    assert relative(result.gathers.sum("offset").values, image.values) < 1e-5
    assert np.array_equal(result.gather_fold.sum("offset").values, image.counts)
    near = migrate(survey.select(survey.offset < 200), V, GRID, device="cpu")
    assert relative(result.gathers.sel(offset=100).values, near.values) < 1e-6
    assert sum(result.panels.traces) == survey.n_traces


def test_traces_outside_all_bins_are_in_the_stack_only(survey, image, relative):
    result = migrate(survey, V, GRID, gathers=[200, 400], device="cpu")
    assert relative(result.values, image.values) < 1e-5
    assert result.panels.traces[0] < survey.n_traces


def test_bin_edges_hold_offsets_that_lie_on_them():
    # 300 m from coordinates is 299.99999999...: it belongs to the bin that starts at 300 m.
    base = synthetic.diffractors([(0, 0, 500)], extent=50, offsets=(300,), azimuths=(37.0,), nt=400)
    result = migrate(base, V, GRID, gathers=[0, 300, 600], device="cpu")
    assert result.panels.traces == (0, base.n_traces)


def test_two_recording_delays_in_one_survey(relative):
    early, late = (
        synthetic.diffractors([(100, 100, 500)], extent=200, nt=400, start=start, offsets=(150,))
        for start in (0.0, 0.05)
    )
    n = early.n_traces
    mixed = Survey.from_arrays(
        np.concatenate([early.read(), late.read()]),
        np.concatenate([early.source, late.source]),
        np.concatenate([early.receiver, late.receiver]),
        0.002,
        delay=np.repeat([0.0, 0.05], n),
        bin_size=(25, 25),
    ).select(np.random.default_rng(0).permutation(2 * n))
    together = migrate(mixed, V, GRID, device="cpu")
    assert together.job.blocks == 2  # grouped by delay, not cut at every change
    apart = [migrate(s, V, GRID, device="cpu") for s in (early, late)]
    assert relative(together.values, sum(i.values for i in apart)) < 1e-5
    assert np.array_equal(together.counts, sum(i.counts for i in apart))


def test_velocity_that_varies_along_the_map(survey, oracle, relative):
    coarse = Grid((0, 0), 0, 3, 3, 100, 100, 3, 0.5)
    i, j, k = np.meshgrid(*map(range, coarse.shape), indexing="ij")
    velocity = Velocity.cube(2200 + 100 * i + 60 * j + 150 * k, coarse)
    image = migrate(survey, velocity, GRID, phase_filter=False, device="cpu")
    rms = velocity.on_pillars(GRID.t, GRID.pillars)
    for p in (0, 7):
        known, _ = oracle.migrate(
            survey.read(), 0.002, 0, survey.source, survey.receiver, GRID.pillars[p : p + 1], GRID.t, rms[p],
            area=625.0, dip=45,
        )  # fmt: skip
        assert relative(image.values.reshape(12, -1)[p], known[0]) < 3e-4


def test_silent_and_dead_traces_do_not_count(survey, image):
    data = survey.read()
    data[5] = 0.0
    live = np.ones(survey.n_traces, bool)
    live[6] = False
    spoilt = Survey.from_arrays(data, survey.source, survey.receiver, survey.dt, live=live, bin_size=survey.bin_size)
    keep = np.ones(survey.n_traces, bool)
    keep[[5, 6]] = False
    fewer = migrate(survey.select(keep), V, GRID, device="cpu")
    assert np.array_equal(migrate(spoilt, V, GRID, device="cpu").counts, fewer.counts)
    assert fewer.contributions < image.contributions


def test_fold_is_never_clipped_into_the_edge_bins(oracle):
    # In the code this idea comes from, midpoints outside a tile were counted in its edge bins.
    base = synthetic.diffractors([(0, 0, 300)], extent=800, offsets=(100,), nt=300)
    corner = Grid((0, 0), 0, 2, 2, 25, 25, 40, 0.004, 0.05)
    found = migrate(base, V, corner, device="cpu").counts.reshape(4, -1)
    _, fold = oracle.migrate(base.read(), 0.002, 0, base.source, base.receiver, corner.pillars, corner.t, 2500, dip=45)
    assert np.abs(found - fold).sum() <= 2e-3 * fold.sum()


def test_the_result_remembers_and_the_progress_adds_up(survey, image):
    calls = []
    result = migrate(survey, V, GRID, device="cpu", progress=lambda done, total: calls.append((done, total)))
    assert calls[-1] == (survey.n_traces, survey.n_traces)
    assert result.contributions == int(result.fold.sum())
    assert result.image.attrs["physics"] == "straight"
    assert result.image.attrs["area_m2"] == 625.0
    assert result.job.plan.device.startswith("cpu")
    assert set(result.job.plan.kernels) == {KERNEL}
    assert result.timing.kernel > 0
    assert result.timing.total >= result.timing.kernel
    assert image.image.cdp_x.values == pytest.approx(GRID.map[0])


def test_a_plan_says_what_will_happen(survey, image):
    job = plan(survey, V, GRID, device="cpu")
    assert job == image.job
    assert job.contributions == pytest.approx(image.contributions, rel=0.1)
    assert (job.traces, job.pillars, job.times, job.tiles) == (survey.n_traces, 12, 120, 1)
    assert "traces" in str(job)
    assert "MiB" in str(job)


def test_velocities_go_to_the_device_once_and_traces_once(survey, monkeypatch):
    sent = []

    def spy(tensor, device):
        sent.append(tuple(tensor.shape))
        return tensor

    monkeypatch.setattr(lane, "to_device", spy)
    monkeypatch.setattr("elinvar.seismic.job.block_size", lambda *_: 64)
    migrate(survey, V, GRID, gathers=[0, 200, 400], device="cpu")
    assert sent.count((12, 2)) == 1
    assert sent.count((1, 120)) == 1
    assert sum(shape[0] for shape in sent if shape[1] == 400) == survey.n_traces


def test_nothing_stays_behind(survey):
    device = Runtime().device("cpu")
    threads = threading.active_count()
    for _ in range(2):
        migrate(survey, V, GRID, device=device)
    with pytest.raises(ZeroDivisionError):
        migrate(survey, V, GRID, device=device, progress=lambda done, total: 1 // 0)
    assert device.pool.stats().bytes_live == 0
    assert threading.active_count() <= threads + 1  # the shared CPU pool may have started its helper


def test_antialias_is_part_of_the_image_and_asked_of_the_kernel(survey, image, monkeypatch):
    other = migrate(survey, V, GRID, device="cpu", antialias="bank")
    wide = migrate(survey, V, GRID, device="cpu", antialias="bank", spacing=(200, 0))
    away = [np.linalg.norm(x.values - image.values) / np.linalg.norm(image.values) for x in (other, wide)]
    assert 0 < away[0] < away[1]
    assert other.image.attrs["antialias"].startswith("bank, ")
    assert wide.image.attrs["antialias"] == "bank, 200 x 0 m"
    assert image.image.attrs["antialias"] == "none"
    assert wide.job.plan.memory_bytes > image.job.plan.memory_bytes
    described = plan(survey, V, GRID, device="cpu", antialias="bank", spacing=(200, 0))
    assert described.plan.memory_bytes == wide.job.plan.memory_bytes
    monkeypatch.setitem(FEATURES, "baseline", set())
    with pytest.raises(NotImplementedError, match="version baseline does not do antialias"):
        migrate(survey, V, GRID, device="cpu", antialias="triangle", kernel="baseline")


def test_interpolation_is_part_of_the_image_and_asked_of_the_kernel(survey, image, monkeypatch):
    other = migrate(survey, V, GRID, device="cpu", interpolation="cubic", oversample=2, kernel="baseline")
    assert 1e-6 < np.linalg.norm(other.values - image.values) / np.linalg.norm(image.values) < 0.1
    assert other.image.attrs["interpolation"] == "cubic, 2x oversampled"
    monkeypatch.setitem(FEATURES, "baseline", set())
    with pytest.raises(NotImplementedError, match="version baseline does not do interpolation='cubic'"):
        migrate(survey, V, GRID, device="cpu", interpolation="cubic", kernel="baseline")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"physics": "ray"}, "straight, curved, vti"),
        ({"eta": 0.1}, "belongs to physics='vti'"),
        ({"physics": "vti"}, "needs eta"),
        ({"physics": "vti", "eta": 0.6}, "eta reaches 0.6"),
        ({"physics": "vti", "eta": float("nan")}, "eta reaches nan"),
        ({"physics": "vti", "eta": [0.1, 0.2]}, r"eta has shape \(2,\)"),
        ({"physics": "curved", "eta": 0.1}, "belongs to physics='vti'"),
        ({"antialias": "sometimes"}, "bank, triangle"),
        ({"amplitude": "loud"}, "true, none"),
        ({"interpolation": "best"}, "linear, cubic, sinc8"),
        ({"oversample": 3}, "oversample is 3"),
        ({"spacing": (25, 25)}, "spacing belongs to antialias"),
        ({"antialias": "bank", "spacing": (0, 0)}, "spacing is 0 along both"),
        ({"antialias": "bank", "spacing": 25}, "spacing is 25; give two"),
        ({"antialias": "bank", "spacing": (-5, 25)}, r"spacing is \(-5, 25\)"),
        ({"gathers": [0]}, "offset bin edges"),
        ({"gathers": [100, 50]}, "offset bin edges"),
        ({"area": 0}, "area is 0"),
    ],
)
def test_wrong_options_are_named(survey, options, words):
    with pytest.raises(InputError, match=words):
        migrate(survey, V, GRID, device="cpu", **options)


def test_what_is_no_survey_velocity_or_grid(survey):
    for given, words in (
        (("a.sgy", V, GRID), r"survey is of type str; give seismic.open_segy\(path\)"),
        ((survey, 2500, GRID), "velocity is of type int; give Velocity.constant"),
        ((survey, V, (3, 4)), "grid is of type tuple; give Grid"),
        ((survey, V, replace(GRID, dt=4.0)), r"dt is 4; it is given in seconds \(4 ms is 0.004\)"),
    ):
        for call in (migrate, plan):
            with pytest.raises(InputError, match=words):
                call(*given, device="cpu")


def test_an_unknown_kernel_version_is_named(survey):
    with pytest.raises(UnknownKernel, match="v99"):
        migrate(survey, V, GRID, kernel="v99", device="cpu")


def test_a_grid_out_of_reach_says_where_the_survey_is(survey):
    away = Grid((1e6, 1e6), 0, 4, 3, 25, 25, 120, 0.004)
    with pytest.raises(InputError, match=r"midpoints span x 0 to 200.*Grid\.from_survey"):
        migrate(survey, V, away, device="cpu")


def test_samples_that_are_not_finite_are_refused(survey):
    data = survey.read()
    data[11, 30] = np.nan
    broken = Survey.from_arrays(data, survey.source, survey.receiver, survey.dt)
    with pytest.raises(InputError, match="trace 11 of survey"):
        migrate(broken, V, GRID, device="cpu")


@pytest.mark.parametrize("n", [1, 2, 3, 5, 9])
def test_any_number_of_traces(survey, oracle, relative, n):
    # Kernels work on several traces at once: what lies behind the last one must not leak into the image.
    few = survey.select(np.arange(n))
    junk = [np.full(size, np.nan, np.float32) for size in (400, 464, 1600, 3200) for _ in range(3)]
    del junk
    found = migrate(few, V, GRID, phase_filter=False, device="cpu").values.reshape(GRID.size, -1)
    known, _ = oracle.migrate(
        few.read(), 0.002, 0, few.source, few.receiver, GRID.pillars, GRID.t, 2500, area=625.0, dip=45
    )
    assert relative(found, known) < 5e-4


def test_one_sample_is_not_a_trace(survey):
    short = Survey.from_arrays(survey.read()[:, :1], survey.source, survey.receiver, survey.dt)
    with pytest.raises(InputError, match="1 sample"):
        migrate(short, V, GRID, device="cpu")


def test_counting_blocks_is_what_they_are(survey):
    mixed = Survey.from_arrays(
        survey.read(), survey.source, survey.receiver, survey.dt, delay=0.001 * (np.arange(survey.n_traces) % 3)
    )
    bins = OffsetBins([0, 200]).assign(mixed)
    steps = job.passes(mixed, GRID, V, Aperture(), bins, 5)
    for size in (1, 7, 64, 1000):
        items = list(job.blocks(mixed, steps, size))
        assert job.count_blocks(mixed, steps, size) == len(items)
        assert all(len(item.index) <= size and len(np.unique(mixed.delay[item.index])) == 1 for item in items)
        assert [item.number for item in items if item.step == 1] == list(range(sum(i.step == 1 for i in items)))
        assert sum(len(item.index) for item in items) == sum(len(step.index) for step in steps)


def test_which_traces_sound():
    traces = np.zeros((6, 50), np.float32)
    traces[1, 7] = 1e-38  # its square is 0 in float32
    traces[2, 49] = -1.0
    traces[3, 0] = 3e38  # its square is infinite
    traces[5] = 1e30
    assert lane._sounding(traces).tolist() == [False, True, True, True, False, True]
    for bad in (np.nan, np.inf, -np.inf):
        traces[4, 3] = bad
        assert lane._sounding(traces) is None


def test_velocities_that_vary_go_through_the_kernel_some_pillars_at_a_time(survey, monkeypatch):
    coarse = Grid((0, 0), 0, 3, 3, 100, 100, 3, 0.5)
    velocity = Velocity.cube(2400 + 10.0 * np.arange(27).reshape(3, 3, 3), coarse)
    eta = np.linspace(0, 0.2, GRID.size * GRID.nt).reshape(GRID.shape)
    constant = np.full((3, 3, 3), 2400.0)
    alike = Velocity.cube(constant, coarse)
    ways = [(velocity, {}), (V, {"physics": "vti", "eta": eta}), (alike, {"physics": "vti", "eta": 0.1})]
    whole = [migrate(survey, v, GRID, device="cpu", **rays) for v, rays in ways]
    monkeypatch.setattr(job, "_TABLES", 5 * TABLE_BYTES * GRID.nt)
    monkeypatch.setattr(lane, "_VELOCITIES_AT_ONCE", 7 * GRID.nt)
    for (v, rays), before in zip(ways, whole, strict=True):
        again = migrate(survey, v, GRID, device="cpu", **rays)
        assert again.values.tobytes() == before.values.tobytes()
        assert again.job.plan.memory_bytes < before.job.plan.memory_bytes


def test_an_image_from_a_gpu_is_copied_into_memory_that_is_ready(survey, image, monkeypatch):
    """As if the CPU were one: what is touched in the background is what the image comes in."""
    used = []
    state, touch = lane.DeviceLane.state, run.Volumes.touch

    def remember(self, room=None):
        real, self.device = self.device, SimpleNamespace(kind="cuda")
        found = state(self, room)
        self.device = real
        used.append((room, found))
        return found

    monkeypatch.setattr(lane.DeviceLane, "state", remember)
    monkeypatch.setattr(run.Run, "_restore", lambda self: touch(self.volumes) or [lane.State() for _ in self.lanes])
    with transfers.count() as counter:
        found = migrate(survey, V, GRID, device="cpu")
    ((room, kept),) = used
    assert kept.fresh
    assert kept.image is room[0]
    assert np.shares_memory(room[0], found.values)
    assert found.values.tobytes() == image.values.tobytes()
    assert np.array_equal(found.counts, image.counts)
    assert counter.d2h_bytes == 8 * GRID.size * GRID.nt
