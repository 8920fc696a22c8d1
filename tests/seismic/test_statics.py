from __future__ import annotations

import numpy as np
import pytest

from elinvar import seismic
from elinvar.errors import InputError
from elinvar.seismic.statics import elevation_statics

DT, NS, V = 0.002, 400, 2000.0
TIME = np.arange(NS) * DT


def ricker(t: np.ndarray) -> np.ndarray:
    a = np.square(np.pi * 25.0 * t)
    return (1.0 - 2.0 * a) * np.exp(-a)


def hills(n: int = 12) -> tuple[seismic.Survey, np.ndarray]:
    """An event that is at 0.4 s on a datum of 100 m, recorded on hills."""
    rng = np.random.default_rng(5)
    source, receiver = rng.uniform(20.0, 260.0, (2, n))
    late = (source + receiver - 200.0) / V
    x = np.stack([np.arange(n) * 25.0, np.zeros(n)], axis=1)
    traces = ricker(TIME[None, :] - 0.4 - late[:, None]).astype(np.float32)
    survey = seismic.Survey.from_arrays(
        traces,
        x,
        x + np.array([50.0, 0.0]),
        DT,
        source_elevation=source,
        receiver_elevation=receiver,
        bin_size=(25.0, 25.0),
    )
    return survey, late


def test_an_event_is_flat_on_the_datum() -> None:
    survey, late = hills()
    np.testing.assert_allclose(elevation_statics(survey, 100.0, V), late, atol=1e-15)
    moved = seismic.to_datum(survey, 100.0, V)
    flat = np.broadcast_to(ricker(TIME - 0.4), (survey.n_traces, NS))
    assert np.abs(moved.read() - flat).max() < 1e-4
    assert np.abs(survey.read() - flat).max() > 0.5  # it was not flat before
    assert (moved.source_elevation == 100.0).all()
    assert (moved.datum == 100.0).all()
    assert "2000 m/s" in moved.notes[-1]


def test_a_selection_keeps_its_statics_and_whole_samples_move_exactly() -> None:
    survey, _ = hills()
    moved = seismic.to_datum(survey, 100.0, V)
    some = [7, 2, 9]
    np.testing.assert_array_equal(moved.select(some).read(), moved.read(some))
    noise = np.random.default_rng(0).standard_normal((1, 64)).astype(np.float32)
    one = seismic.Survey.from_arrays(
        noise, [[0.0, 0.0]], [[0.0, 0.0]], DT, source_elevation=4.0, receiver_elevation=6.0
    )
    shifted = seismic.to_datum(one, 0.0, 1000.0).read()  # 10 ms: five samples
    np.testing.assert_allclose(shifted[:, :-5], noise[:, 5:], atol=1e-5)
    np.testing.assert_allclose(shifted[:, -5:], 0.0, atol=1e-5)


def test_a_migration_over_hills_says_that_it_takes_them_for_flat() -> None:
    survey, _ = hills()
    grid = seismic.Grid(origin=(0.0, 0.0), azimuth=90.0, nx=3, ny=1, dx=25.0, dy=25.0, nt=40, dt=0.01)
    velocity = seismic.Velocity.constant(V)
    with pytest.warns(seismic.SurveyWarning, match=r"differ by \d+.* m.*to_datum"):
        seismic.migrate(survey, velocity, grid, device="cpu")
    seismic.migrate(seismic.to_datum(survey, 100.0, V), velocity, grid, device="cpu")  # and is content with statics


def test_a_datum_out_of_reach_is_refused() -> None:
    survey, _ = hills()
    with pytest.raises(InputError, match=r"to_datum: .*nearer the elevations"):
        seismic.to_datum(survey, 5000.0, V)
    with pytest.raises(InputError, match="velocity"):
        seismic.to_datum(survey, 100.0, 0.0)
