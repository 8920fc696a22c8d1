from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from elinvar.errors import InputError
from elinvar.seismic import Grid, Velocity, gathers, migrate, synthetic
from elinvar.seismic.wavelet import ricker

DT = 0.002
T = DT * np.arange(501)
H = np.arange(100.0, 1700.0, 200.0)
EVENTS = ((0.4, 1.0), (0.8, -0.6))


def gather(shifts=0.0, events=EVENTS, frequency=25.0):
    """Bins with Ricker events, each bin's events late by its shift."""
    late = np.broadcast_to(np.asarray(shifts, float), H.shape)[:, None]
    return sum(a * ricker(T - t0 - late, frequency) for t0, a in events)


def plain_semblance(a, live, n):
    """The formula, sample by sample."""
    half, nt = n // 2, a.shape[1]
    result = np.full(nt, np.nan)
    for i in range(nt):
        above = below = 0.0
        for k in range(max(0, i - half), min(nt, i + half + 1)):
            count = int(live[:, k].sum())
            if count >= 2:
                above += a[live[:, k], k].sum() ** 2
                below += count * (a[live[:, k], k] ** 2).sum()
        if below > 0:
            result[i] = above / below
    return result


def test_a_flat_gather_is_one_and_scale_does_not_matter():
    s = gathers.semblance(1e-20 * gather(), DT)
    near = np.abs(T - 0.4) < 0.05
    assert s[near].min() > 1 - 1e-12
    assert np.nanmax(s) <= 1.0


def test_noise_is_one_over_n():
    noise = np.random.default_rng(0).standard_normal((40, 10, 500))
    assert gathers.semblance(noise, DT).mean() == pytest.approx(0.1, rel=0.05)
    # A window of more samples wanders less about that value: it is a window, not a number beside one.
    narrow, wide = (gathers.semblance(noise, DT, window=w)[:, 100:-100].std() for w in (0.004, 0.06))
    assert wide < 0.4 * narrow


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 10_000), st.integers(2, 6), st.integers(3, 30), st.integers(1, 4))
def test_semblance_is_the_formula(seed, bins, nt, half):
    rng = np.random.default_rng(seed)
    a = rng.standard_normal((bins, nt))
    fold = rng.integers(0, 3, (bins, nt))
    found = gathers.semblance(a, DT, fold=fold, window=2 * half * DT)
    assert np.array_equal(np.isnan(found), np.isnan(known := plain_semblance(a, fold > 0, 2 * half + 1)))
    assert found == pytest.approx(known, rel=1e-10, nan_ok=True)
    assert np.nanmax(found, initial=0) <= 1
    assert np.nanmin(found, initial=1) >= 0


def test_dead_bins_are_left_out():
    a = gather()
    fold = np.ones(a.shape, int)
    fold[3:6] = 0
    a[3:6] = 7.0  # whatever a dead bin holds
    near = np.abs(T - 0.4) < 0.02
    assert gathers.semblance(a, DT, fold=fold)[near].min() > 1 - 1e-12
    assert gathers.semblance(np.where(fold > 0, a, 0), DT)[near].max() < 0.8  # what zeros would do
    fold[1:] = 0
    assert np.isnan(gathers.semblance(a, DT, fold=fold)).all()  # one bin agrees with itself: no statement
    broken = a.copy()
    broken[4] = np.nan
    assert np.isfinite(gathers.semblance(broken, DT, fold=np.where(np.arange(8)[:, None] == 4, 0, 1))[200])


def test_quiet_samples_behind_loud_ones_keep_their_semblance():
    a = gather(events=((0.2, 1e9),)) + gather(events=((0.8, 1e-3),))
    assert gathers.semblance(a, DT)[400] == pytest.approx(1.0, abs=1e-9)


def test_moveout_lowers_semblance():
    values = [gathers.semblance(gather(s * (H / H[-1]) ** 2), DT)[200] for s in (0.0, 0.002, 0.005, 0.010)]
    assert values[0] > 0.9999
    assert values[0] > values[1] > values[2] > values[3]
    assert values[3] < 0.75


def test_the_scan_finds_a_known_velocity_error():
    v = np.full(T.shape, 2400.0)
    for error in (-4.3, 0.0, 2.7):
        late = [gathers.moveout_times(np.array([t0]), H, np.array([2400.0]), error)[:, 0] - t0 for t0, _ in EVENTS]
        a = sum(w * ricker(T - t0 - s[:, None], 25.0) for (t0, w), s in zip(EVENTS, late, strict=True))
        found = gathers.residual_moveout(a, T, H, v)
        assert found.percent[[200, 400]] == pytest.approx([error, error], abs=0.15)
        assert found.semblance[[200, 400]].min() > 0.98
        assert np.isnan(found.percent[300])  # nothing is there


def test_a_maximum_at_the_end_of_the_scan_is_no_pick():
    v = np.full(T.shape, 2400.0)
    late = gathers.moveout_times(np.array([0.4]), H, v[:1], 3.3)[:, 0] - 0.4
    found = gathers.residual_moveout(gather(late, ((0.4, 1.0),)), T, H, v, percents=np.arange(-3, 3.1, 0.5))
    assert found.semblance[200] > 0.9
    assert np.isnan(found.percent[200])


def test_a_moveout_that_leads_most_bins_out_of_the_gather_says_nothing():
    v = np.full(T.shape, 2400.0)
    early = gather(events=((0.06, 1.0),))
    panel = gathers.moveout_scan(early, T, H, v, percents=[0.0, 8.0])
    assert panel[0, 30] > 0.99
    left = np.isfinite(gathers.moveout_times(np.array([0.06]), H, v[:1], 8.0)).sum()
    assert 0 < left < 4  # of eight: too few to agree
    assert np.isnan(panel[1, 30])


def test_moveout_times_are_the_two_hyperbolas():
    v, true = 2500.0, 2500.0 * 1.04
    recorded = np.hypot(0.9, H / true)
    assert gathers.moveout_times(np.array([0.9]), H, np.array([v]), 4.0)[:, 0] == pytest.approx(
        np.sqrt(recorded**2 - (H / v) ** 2)
    )
    assert np.isnan(gathers.moveout_times(np.array([0.01]), H, np.array([v]), 4.0)[-1, 0])


def test_reading_at_other_times():
    smooth = np.sin(2 * np.pi * 20 * T)[None] * np.ones((8, 1))
    times = np.clip(T + 0.00073, 0, T[-1]) * np.ones((8, 1))
    read, live = gathers.align(smooth, T, times)
    assert read[0, 5:-5] == pytest.approx(np.sin(2 * np.pi * 20 * times[0, 5:-5]), abs=1e-3)
    assert live.all()
    same, live = gathers.align(smooth, T, T)
    assert np.array_equal(same, smooth)
    _, live = gathers.align(smooth, T, T + 0.1)
    assert live.sum(axis=1).tolist() == [451] * 8
    fold = np.ones(smooth.shape, int)
    fold[2, 100] = 0
    read, live = gathers.align(smooth, T, times, fold)
    assert np.flatnonzero(~live[2]).tolist() == [99, 100]
    assert (read[2, 99:101] == 0).all()


def test_time_shifts_and_flatness():
    late = 0.004 * np.sin(np.arange(8))
    a = gather(late)
    found = gathers.time_shifts(a, DT)
    assert found[:, 200] - found[:, 200].mean() == pytest.approx(late - late.mean(), abs=2e-4)
    assert gathers.flatness_ms(a, T)[[200, 400]] == pytest.approx(1e3 * late.std(), abs=0.15)
    assert gathers.flatness_ms(gather(), T)[200] < 1e-6
    assert np.isnan(gathers.flatness_ms(gather(), T)[300])


def test_flatness_of_a_large_moveout_needs_the_pick():
    v = np.full(T.shape, 2400.0)
    late = gathers.moveout_times(np.array([0.4]), H, v[:1], -5.0)[:, 0] - 0.4
    assert np.ptp(late) > 0.04  # more than a period
    a = gather(late, ((0.4, 1.0),))
    picked = gathers.residual_moveout(a, T, H, v)
    found = gathers.flatness_ms(a, T, offset=H, v=v, moveout=picked)
    assert found[200] == pytest.approx(1e3 * late.std(), rel=0.03)
    assert gathers.flatness_ms(a, T)[200] != pytest.approx(1e3 * late.std(), rel=0.3)


def test_many_gathers_at_once_are_each_one():
    rng = np.random.default_rng(3)
    many = np.stack([gather(rng.normal(0, 0.002, 8)) for _ in range(6)]).reshape(2, 3, 8, 501)
    fold = rng.integers(0, 6, many.shape)
    v = rng.uniform(2000, 3000, (2, 3, 1)) * np.ones(501)
    together = gathers.residual_moveout(many, T, H, v, fold=fold)
    alone = gathers.residual_moveout(many[1, 2], T, H, v[1, 2], fold=fold[1, 2])
    assert together.percent[1, 2] == pytest.approx(alone.percent, nan_ok=True)
    flat = gathers.flatness_ms(many, T, fold=fold, offset=H, v=v, moveout=together)
    one = gathers.flatness_ms(many[1, 2], T, fold=fold[1, 2], offset=H, v=v[1, 2], moveout=alone)
    assert flat[1, 2] == pytest.approx(one, nan_ok=True)


def test_an_empty_bin_has_no_offset_and_takes_no_part():
    v = np.full(T.shape, 2400.0)
    a = gather()
    a[2] = 5.0
    h = H.copy()
    h[2] = np.nan
    assert gathers.moveout_scan(a, T, h, v, percents=[0.0])[0, 200] > 1 - 1e-12


@pytest.mark.parametrize("error", [-3.0, 3.0])
def test_a_wrong_velocity_is_recovered_from_migrated_gathers(error):
    true = 2400.0
    survey = synthetic.flat_reflectors(
        [0.5, 0.9], velocity=true, extent=(1000, 1000), spacing=25, offsets=range(100, 1301, 200), nt=700
    )
    grid = Grid((500, 500), 0, 1, 1, 25, 25, 330, 0.004)
    wrong = true * (1 + error / 100)
    image = migrate(survey, Velocity.constant(wrong), grid, gathers=np.arange(0, 1401, 200), device="cpu")
    found = gathers.residual_moveout(
        image.panels.values[0, 0], grid.t, image.panels.axis.rms_offset, np.full(grid.nt, wrong),
        fold=image.panels.fold[0, 0],
    )  # fmt: skip
    known = 100 * (true / wrong - 1)
    for t0 in (0.5, 0.9):
        at = round(t0 / grid.dt)
        assert found.percent[at] == pytest.approx(known, abs=0.5)
        assert np.sign(found.percent[at]) == -np.sign(error)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: gathers.semblance(np.ones(5), DT), r"shape \(5,\)"),
        (lambda: gathers.semblance(np.ones((2, 5)), DT, fold=np.ones((2, 4))), "does not fit"),
        (lambda: gathers.semblance(np.ones((2, 5)), DT, window=0.001), "at least 4 ms"),
        (lambda: gathers.semblance(np.full((2, 5), np.nan), DT), "not finite"),
        (lambda: gathers.residual_moveout(gather(), T, H, 2000 + 0 * T, percents=[0, 1]), "three or more"),
        (lambda: gathers.residual_moveout(gather(), T, H, 2000 + 0 * T, percents=[0, 1, 3]), "evenly"),
        (lambda: gathers.moveout_scan(gather(), T, H[:-1], 2000 + 0 * T), "8 bins"),
        (lambda: gathers.moveout_scan(gather(), T[:-1], H, 2000 + 0 * T), "501 are needed"),
        (lambda: gathers.flatness_ms(gather(), T, moveout=gathers.Moveout(T, T, T)), "offset and v"),
    ],
)
def test_wrong_arguments_are_named(call, words):
    with pytest.raises(InputError, match=words):
        call()
