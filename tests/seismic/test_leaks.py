"""The main job, fifty times over: no memory, lease, thread or descriptor stays behind."""

import numpy as np

from elinvar import seismic
from elinvar.testing import assert_no_leak


def test_migrating_again_and_again_leaves_nothing_behind():
    make = np.random.default_rng(3)
    middle, half = make.uniform(-200, 200, (60, 2)), make.uniform(-100, 100, (60, 2))
    survey = seismic.Survey.from_arrays(make.standard_normal((60, 200)), middle - half, middle + half, 0.004)
    grid = seismic.Grid(origin=(-25.0, -25.0), azimuth=0.0, nx=3, ny=3, dx=25.0, dy=25.0, nt=150, dt=0.004)
    velocity = seismic.Velocity.constant(2000.0)

    def job() -> None:
        image = seismic.migrate(survey, velocity, grid, gathers=[0.0, 100.0, 300.0], device="cpu")
        assert image.contributions > 0

    assert_no_leak(job, repeats=50)
