from __future__ import annotations

import numpy as np
import pytest

from elinvar.errors import InputError
from elinvar.seismic import Aperture, Grid, Mute, Survey, Velocity, migrate, synthetic

V = Velocity.constant(2500)
GRID = Grid((60.0, 40.0), 20, 3, 2, 25, 25, 120, 0.004, 0.2)


def survey(headers=None, **changes):
    base = synthetic.diffractors([(100, 60, 400)], extent=150, offsets=(100, 400), nt=300, noise=0.2)
    given = {"bin_size": base.bin_size, "headers": headers, **changes}
    return Survey.from_arrays(base.read(), base.source, base.receiver, base.dt, **given)


def words(n, muts, mute):
    return {"muts": np.broadcast_to(muts, n).astype(float), "mute": np.broadcast_to(mute, n).astype(float)}


N = survey().n_traces


def test_a_header_mute_is_from_muts_to_mute():
    muts = np.array([0.0, 0.1, 0.3, 0.0, 0.2])
    mute = np.array([0.25, 0.0, 0.2, 0.4, 0.3])
    made = Survey.from_arrays(np.ones((5, 200)), np.zeros((5, 2)), np.ones((5, 2)), 0.004, headers=words(5, muts, mute))
    zones = Mute(header=True).zones(made, np.arange(5))
    inf = np.inf
    assert zones.tolist() == [[-inf, 0.25], [inf, inf], [inf, inf], [-inf, 0.4], [0.2, 0.3]]


def test_a_table_is_linear_between_its_offsets_and_joins_the_header():
    made = survey(words(N, 0.0, 0.1))
    table = ((200.0, 0.1), (400.0, 0.3))
    offsets = np.round(made.offset).astype(int)
    alone = Mute(table=table).zones(made, np.arange(N))
    assert np.allclose(alone[:, 1], np.where(offsets == 100, 0.1, 0.3))
    assert np.isinf(alone[:, 0]).all()
    both = Mute(header=True, table=((0.0, 0.05), (400.0, 0.3))).zones(made, np.arange(N))
    assert np.allclose(both[:, 1], np.where(offsets == 100, 0.1125, 0.3))


def test_samples_rise_from_zero_over_the_taper():
    zones = np.array([[-np.inf, 0.1], [np.inf, np.inf], [0.1, 0.2]])
    found = Mute(header=True, taper=0.04).weights(zones, 0.0, 0.01, 30)
    assert found[0, :11].tolist() == [0] * 11
    assert found[0, 12] == pytest.approx(0.5)
    assert found[0, 14:].tolist() == [1] * 16
    assert (found[1] == 1).all()
    assert found[2, [0, 6, 8, 10, 15, 20, 22, 24]] == pytest.approx([1, 1, 0.5, 0, 0, 0, 0.5, 1], abs=1e-6)
    hard = Mute(header=True, taper=0.0).weights(zones, 0.05, 0.01, 30)
    assert hard[0].tolist() == [0] * 5 + [1] * 25


def test_what_is_muted_is_neither_summed_nor_counted(relative):
    """The fold by definition, and an image of what is left of the traces."""
    until = np.where(np.arange(N) % 3 == 0, 0.0, 0.35 + 0.3 * np.arange(N) / N)
    muted = survey(words(N, 0.0, until))
    image = migrate(muted, V, GRID, mute=Mute(header=True, taper=0.0), phase_filter=False, device="cpu")
    slow = migrate(
        muted, V, GRID, mute=Mute(header=True, taper=0.0), phase_filter=False, device="cpu", kernel="baseline"
    )
    plain = migrate(muted, V, GRID, phase_filter=False, device="cpu")
    assert image.job.version == "v2"
    assert relative(image.values, slow.values) < 2e-4
    assert np.array_equal(image.counts, slow.counts)
    assert image.image.attrs["mute"] == "header, taper 0 s"
    fold = np.zeros_like(plain.counts).reshape(GRID.size, -1)
    reach = Aperture()
    for p, place in enumerate(GRID.pillars):
        away = np.hypot(*(muted.midpoint - place).T)[:, None]
        legs = [np.sqrt(GRID.t**2 / 4 + ((end - place) ** 2).sum(1)[:, None] / 2500**2)
                for end in (muted.source, muted.receiver)]  # fmt: skip
        t = legs[0] + legs[1]
        inside = (away <= reach.radius_at(GRID.t, 2500.0)) & (t <= 299 * 0.002)
        fold[p] = (inside & (t >= until[:, None])).sum(0)
    assert np.abs(image.counts.reshape(GRID.size, -1) - fold).sum() <= 1e-3 * fold.sum()
    assert image.contributions < plain.contributions
    data = muted.read() * (np.arange(300) * 0.002 >= until[:, None])
    left = Survey.from_arrays(data, muted.source, muted.receiver, 0.002, bin_size=muted.bin_size)
    known = migrate(left, V, GRID, phase_filter=False, device="cpu")
    assert relative(image.values, known.values) < 0.02  # but for the samples beside the mute


def test_a_mute_takes_out_what_it_should():
    """A strong early arrival beyond an offset is gone, and what lies deeper is the same to the bit of the filter."""
    clean = survey()
    loud = clean.read().copy()
    loud[clean.offset > 300, 150:160] += 100.0
    noisy = Survey.from_arrays(loud, clean.source, clean.receiver, 0.002, bin_size=clean.bin_size)
    mute = Mute(table=((300.0, 0.0), (350.0, 0.36)), taper=0.02)
    spoilt, saved, known = (
        migrate(s, V, GRID, device="cpu", **how).values
        for s, how in ((noisy, {}), (noisy, {"mute": mute}), (clean, {"mute": mute}))
    )
    assert np.abs(spoilt).max() > 5 * np.abs(known).max()
    assert np.allclose(saved, known, atol=1e-5 * np.abs(known).max())


def test_a_mute_within_the_trace():
    """Surgical: what arrives between its times is left out, before and behind it nothing changes."""
    zone = survey(words(N, 0.36, 0.44))
    image, plain = (migrate(zone, V, GRID, device="cpu", **how) for how in ({"mute": Mute(header=True)}, {}))
    assert image.job.version == "baseline"
    assert "mutes that begin behind the first sample" in image.job.why
    lost = (plain.counts - image.counts).sum(axis=(0, 1))
    t = GRID.t
    assert (lost >= 0).all()
    assert lost[t > 0.45].sum() == 0
    assert lost[(t > 0.36) & (t < 0.42)].all()


def test_delays_and_selections_keep_their_mutes(relative):
    n = N
    late = survey(words(n, 0.0, np.linspace(0.2, 0.5, n)), delay=0.1)
    how = {"mute": Mute(header=True), "device": "cpu", "gathers": [0, 200, 500]}
    whole = migrate(late, V, GRID, **how)
    parts = [migrate(late.select(np.arange(k, n, 2)), V, GRID, **how) for k in (0, 1)]
    assert relative(parts[0].values + parts[1].values, whole.values) < 1e-6
    assert np.array_equal(parts[0].counts + parts[1].counts, whole.counts)
    assert np.array_equal(whole.panels.fold.sum(2), whole.counts)


@pytest.mark.parametrize(
    ("options", "words_"),
    [
        ({}, "neither header nor table"),
        ({"table": ()}, "offsets rising"),
        ({"table": ((0, 1), (0, 2))}, "offsets rising"),
        ({"table": ((0, 1, 2),)}, "offsets rising"),
        ({"table": "late"}, "offsets rising"),
        ({"table": ((0, float("nan")),)}, "offsets rising"),
        ({"header": "yes"}, "header is 'yes'"),
        ({"header": True, "taper": -1}, "taper is -1"),
    ],
)
def test_wrong_mutes_are_named(options, words_):
    with pytest.raises(InputError, match=words_):
        Mute(**options)


def test_mutes_that_do_not_fit_the_survey():
    with pytest.raises(InputError, match="no header 'muts'"):
        migrate(survey(), V, GRID, mute=Mute(header=True), device="cpu")
    with pytest.raises(InputError, match=r"mute is 0.3; give seismic\.Mute"):
        migrate(survey(), V, GRID, mute=0.3, device="cpu")
    apart = survey(words(N, 0.4, 0.5))
    with pytest.raises(InputError, match="use one of the two"):
        migrate(apart, V, GRID, mute=Mute(header=True, table=((0.0, 0.1),)), device="cpu")
