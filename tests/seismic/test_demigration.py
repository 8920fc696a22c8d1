"""The adjoint pair from end to end: whatever a migration is asked to do, its transpose does the other way round."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from elinvar import seismic
from elinvar.errors import InputError
from elinvar.seismic import demigration
from elinvar.seismic.filters import phase_filter
from elinvar.seismic.kernels.demigrate import reference as transposed
from elinvar.seismic.kernels.migrate import RadiusAperture
from elinvar.seismic.kernels.migrate import reference as migration

GRID = seismic.Grid(origin=(20.0, -30.0), azimuth=25.0, nx=5, ny=4, dx=25.0, dy=30.0, nt=120, dt=0.004)


def survey(n: int = 60, **changes: Any) -> seismic.Survey:
    """White noise over the grid, shot in every direction."""
    rng = np.random.default_rng(3)
    middle = rng.uniform(-150, 250, (n, 2))
    half = rng.uniform(-150, 150, (n, 2))
    given = {"bin_size": (25.0, 25.0), **changes}
    return seismic.Survey.from_arrays(
        rng.standard_normal((n, 160)).astype(np.float32), middle - half, middle + half, 0.004, **given
    )


def cube() -> seismic.Velocity:
    coarse = seismic.Grid(origin=(-400.0, -400.0), azimuth=0.0, nx=3, ny=3, dx=450.0, dy=450.0, nt=4, dt=0.2)
    i, j, k = np.meshgrid(np.arange(3), np.arange(3), np.arange(4), indexing="ij")
    return seismic.Velocity.cube(2000.0 + 90 * i + 45 * j + 100 * k, coarse)


WIDE = seismic.Aperture(dip=60, taper=0.3)
LINEAR = seismic.Velocity.linear(1900.0, 0.6)
DELAYS = np.repeat([0.0, 0.1, -0.02], 20)
OPTIONS: dict[str, dict[str, Any]] = {
    "defaults": {},
    "a hard radius": {"aperture": seismic.Aperture(dip=None, radius=180.0, taper=0.0)},
    "no weight": {"amplitude": "none"},
    "no filter": {"phase_filter": False},
    "curved rays": {"physics": "curved"},
    "vti": {"physics": "vti", "eta": 0.15},
    "sinc8, oversampled": {"interpolation": "sinc8", "oversample": 2},
    "oversampled, no filter": {"oversample": 2, "phase_filter": False},
    "bank, cubic": {"antialias": "bank", "interpolation": "cubic"},
    "triangle, cubic, oversampled": {
        "antialias": "triangle",
        "interpolation": "cubic",
        "oversample": 2,
        "spacing": (40.0, 20.0),
    },
    "vti on a grid": {"physics": "vti", "eta": np.linspace(-0.1, 0.3, GRID.nx * GRID.ny * GRID.nt).reshape(GRID.shape)},
}


def dot(a: Any, b: Any) -> float:
    return float(np.dot(np.ravel(a).astype(np.float64), np.ravel(b).astype(np.float64)))


@pytest.fixture
def passes() -> Callable[..., None]:
    """Hold a pair with these options to its dot test."""

    def check(traces: seismic.Survey, velocity: seismic.Velocity, grid: seismic.Grid = GRID, **options: Any) -> None:
        m = np.random.default_rng(8).standard_normal(grid.shape).astype(np.float32)
        there = seismic.migrate(traces, velocity, grid, device="cpu", **{"aperture": WIDE, **options})
        back = seismic.demigrate(m, traces, velocity, grid, device="cpu", **{"aperture": WIDE, **options}).read()
        # Products of noise: by chance they may cancel and be smaller than such products are.
        usual = np.linalg.norm(there.values) * np.linalg.norm(m) / np.sqrt(m.size)
        left, right = dot(there.values, m), dot(back, traces.read())
        assert abs(left - right) <= 1e-5 * max(abs(left), usual)
        assert np.abs(back).max() > 0

    return check


@pytest.mark.parametrize("options", OPTIONS.values(), ids=list(OPTIONS))
def test_dot_products(options: dict[str, Any], passes: Any) -> None:
    passes(survey(), LINEAR, **options)


def test_dot_products_of_odd_surveys(passes: Any) -> None:
    live = np.ones(60, bool)
    live[::7] = False
    passes(survey(delay=DELAYS, live=live), cube())
    coarse = seismic.Grid(origin=(0.0, 0.0), azimuth=0.0, nx=3, ny=3, dx=40.0, dy=40.0, nt=60, dt=0.009, t0=0.05)
    passes(survey(), LINEAR, coarse)


def test_dot_products_in_float64() -> None:
    """Filter and kernel, both ends: what the float32 pair is an approximation of."""
    make = torch.Generator().manual_seed(2)
    data = torch.randn(12, 150, generator=make, dtype=torch.float64)
    m = torch.randn(3, 100, generator=make, dtype=torch.float64)
    ends = [torch.rand(12, 2, generator=make, dtype=torch.float64) * 600 - 300 for _ in range(2)]
    places = torch.rand(3, 2, generator=make, dtype=torch.float64) * 100
    vrms = (1900 + 2 * torch.arange(100, dtype=torch.float64))[None]
    options = {
        "dt": 0.004,
        "start": 0.03,
        "dt_out": 0.005,
        "t0_out": 0.0,
        "aperture": RadiusAperture(1.5, 900, 50, 0.3),
    }
    image, made = torch.zeros_like(m), torch.zeros_like(data)
    raw = data.clone().requires_grad_()
    filtered = phase_filter(raw, 0.004, interpolation="linear")
    migration.migrate(image, None, filtered.detach(), *ends, places, vrms, **options)
    transposed.demigrate(made, m, *ends, places, vrms, **options)
    (back,) = torch.autograd.grad(filtered, raw, made)
    assert dot(image, m) == pytest.approx(dot(data, back), rel=1e-12)


def test_gathers_come_from_their_own_panels() -> None:
    traces, edges = survey(delay=DELAYS), [0.0, 120.0, 240.0]
    image = seismic.migrate(traces, LINEAR, GRID, gathers=edges, device="cpu")
    assert image.panels is not None
    m = np.random.default_rng(8).standard_normal(image.panels.values.shape).astype(np.float32)
    made = seismic.demigrate(m, traces, LINEAR, GRID, gathers=edges, device="cpu").read()
    assert dot(image.panels.values, m) == pytest.approx(dot(made, traces.read()), rel=1e-5)
    beyond = traces.offset > 240
    assert beyond.any()
    assert not made[beyond].any()
    again = seismic.demigrate(image, traces, LINEAR, gathers=edges, device="cpu").read()
    alone = seismic.demigrate(image.panels.values, traces, LINEAR, GRID, gathers=edges, device="cpu").read()
    assert np.array_equal(again, alone)


def test_tiles_add_up(relative: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    m = np.random.default_rng(8).standard_normal(GRID.shape)
    whole = seismic.demigrate(m, survey(), cube(), GRID, device="cpu").read()
    describe = demigration.describe
    tiles = []

    def tiled(options: Any, kernel: Any, **limits: Any) -> Any:
        job, _ = describe(options, kernel, **limits)
        from elinvar.seismic.job import Layout

        job, steps = describe(options, kernel, layout=Layout(16, 7))
        tiles.append(job.tiles)
        return job, steps

    monkeypatch.setattr(demigration, "describe", tiled)
    parts = seismic.demigrate(m, survey(), cube(), GRID, device="cpu").read()
    assert tiles == [3]
    assert relative(parts, whole) < 1e-6


def test_returns_a_survey_and_reports_progress() -> None:
    live = np.ones(60, bool)
    live[5] = False
    traces, told = survey(live=live), []
    image = seismic.migrate(traces, LINEAR, GRID, device="cpu")
    made = seismic.demigrate(image, traces, LINEAR, device="cpu", progress=lambda *now: told.append(now))
    assert isinstance(made, seismic.Survey)
    assert np.array_equal(made.source, traces.source)
    assert made.read().dtype == np.float32
    assert not made.read()[5].any()
    assert "demigrated" in made.name
    assert told[-1] == (59, 59)
    assert np.array_equal(seismic.demigrate(image.values, traces, LINEAR, GRID, device="cpu").read(), made.read())


def test_a_point_becomes_its_diffraction_curve() -> None:
    """What is summed along is what is spread along: a point at t0 arrives at T(t0), on every trace."""
    traces = survey()
    m = np.zeros(GRID.shape, np.float32)
    m[2, 1, 70] = 1.0
    made = seismic.demigrate(m, traces, LINEAR, GRID, phase_filter=False, amplitude="none", device="cpu",
                             aperture=seismic.Aperture(dip=None, radius=1e4, taper=0.0))  # fmt: skip
    place = GRID.pillars.reshape(GRID.nx, GRID.ny, 2)[2, 1]
    arrival = seismic.travel_time(traces.source, traces.receiver, place, GRID.t[70], LINEAR)
    found = made.read() @ (np.arange(160) * traces.dt) / made.read().sum(axis=1)
    np.testing.assert_allclose(found, arrival, atol=1e-6)


@pytest.mark.parametrize(
    ("image", "options", "words"),
    [
        (np.zeros((2, 2, 2)), {}, "image is float64 of shape"),
        (np.zeros(GRID.shape), {"gathers": [0, 100]}, "give real numbers"),
        (np.full(GRID.shape, np.nan), {}, "not finite"),
        (np.zeros(GRID.shape, complex), {}, "complex128"),
    ],
)
def test_bad_images(image: Any, options: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        seismic.demigrate(image, survey(), LINEAR, GRID, device="cpu", **options)


def test_an_array_needs_a_grid_and_gathers_need_panels() -> None:
    with pytest.raises(InputError, match="give the grid"):
        seismic.demigrate(np.zeros(GRID.shape), survey(), LINEAR)
    image = seismic.migrate(survey(), LINEAR, GRID, device="cpu")
    with pytest.raises(InputError, match="migrate with gathers"):
        seismic.demigrate(image, survey(), LINEAR, gathers=[0, 100])
