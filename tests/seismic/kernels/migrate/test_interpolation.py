"""Cubic and sinc8: the weights themselves, and every version reading traces by them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import elinvar
from elinvar.errors import InputError
from elinvar.seismic.kernels import migrate
from elinvar.seismic.kernels.migrate import baseline_metal, cpu, cpu_v2, interpolation, metal, reference, v3_metal


def metal_baseline(*args: Any, **options: Any) -> None:
    baseline_metal.migrate(*args, **options, device=elinvar.device("cpu"))


def metal_v2(*args: Any, **options: Any) -> None:
    metal.migrate_v2(*args, **options, device=elinvar.device("cpu"))


def metal_v3(*args: Any, **options: Any) -> None:
    v3_metal.migrate(*args, **options, device=elinvar.device("cpu"))


GXX = pytest.mark.gxx
VERSIONS = [
    pytest.param(cpu.migrate, id="cpu baseline"),
    pytest.param(cpu_v2.migrate, id="cpu v2"),
    pytest.param(metal_baseline, id="metal baseline", marks=GXX),
    pytest.param(metal_v2, id="metal v2", marks=GXX),
    pytest.param(metal_v3, id="metal v3", marks=GXX),
]
KINDS = ("cubic", "sinc8")
# Every pair of a kind and the rest is compiled by itself: each kind meets what the other does not, both meet the first.
TILES = {"cubic": (0, 2, 5), "sinc8": (0, 3, 4)}


@pytest.fixture(autouse=True)
def _compiler(request: pytest.FixtureRequest) -> None:
    if request.node.get_closest_marker("gxx"):
        request.getfixturevalue("emulator")  # skips without g++


@pytest.mark.parametrize("kind", interpolation.INTERPOLATIONS)
def test_weights_are_of_samples_and_keep_constants(kind: str) -> None:
    w = interpolation.weights(kind, np.linspace(0, 1, 101))
    taps = interpolation.TAPS[kind]
    np.testing.assert_allclose(w.sum(-1), 1, atol=1e-14)
    np.testing.assert_allclose(w, w[::-1, ::-1], atol=1e-14)  # the same read from the other side
    np.testing.assert_allclose(w[0], np.eye(taps)[taps // 2 - 1], atol=1e-14)


def test_cubic_is_exact_for_parabolas() -> None:
    f = np.linspace(0, 1, 11)
    y = interpolation.weights("cubic", f) @ (3 - 2 * np.arange(-1, 3) + 0.5 * np.arange(-1, 3) ** 2.0)
    np.testing.assert_allclose(y, 3 - 2 * f + 0.5 * f**2, atol=1e-13)


@pytest.mark.parametrize(("kind", "error"), [("cubic", 1e-14), ("sinc8", 3e-6)])
def test_polynomials_of_the_weights(kind: str, error: float) -> None:
    taps = interpolation.TAPS[kind]
    f = np.linspace(0, 1, 301)
    g, known = f - 0.5, interpolation.weights(kind, f)
    value = np.polynomial.polynomial.polyval
    for i, (even, odd) in enumerate(interpolation.pairs(taps)):
        for tap, sign in ((i, 1), (taps - 1 - i, -1)):
            found = value(g**2, even) + sign * g * value(g**2, odd)
            assert np.abs(found - known[:, tap]).max() < error


@pytest.mark.parametrize("kind", interpolation.INTERPOLATIONS)
def test_loss_is_the_mean_over_places_between_samples(kind: str) -> None:
    cycles, f = np.array([0.0, 0.05, 0.13, 0.31, 0.5]), (np.arange(400) + 0.5) / 400
    taps = interpolation.TAPS[kind]
    places = np.arange(1 - taps // 2, 1 + taps // 2) - f[:, None]
    mean = [(interpolation.weights(kind, f) * np.cos(2 * np.pi * c * places)).sum(-1).mean() for c in cycles]
    np.testing.assert_allclose(interpolation.loss(kind, torch.from_numpy(cycles)).numpy(), mean, atol=2e-6)


@pytest.mark.parametrize(
    ("kind", "low", "high"), [("linear", 8e-3, 1.2e-1), ("cubic", 5e-4, 3e-2), ("sinc8", 1.5e-3, 5e-3)]
)
def test_how_far_from_the_wave_they_are(kind: str, low: float, high: float) -> None:
    """Sinusoids of 5-30 Hz and of 60-100 Hz at 2 ms."""
    make = np.random.default_rng(0)
    for (least, most), bound in (((5, 30), low), ((60, 100), high)):
        hertz, phase = make.uniform(least, most, (400, 1)), make.uniform(0, 6.28, (400, 1))
        f = make.uniform(0, 1, 400)
        taps = interpolation.TAPS[kind]
        wave = np.sin(2 * np.pi * hertz * 0.002 * np.arange(1 - taps // 2, 1 + taps // 2) + phase)
        found = (interpolation.weights(kind, f) * wave).sum(-1)
        known = np.sin(2 * np.pi * hertz[:, 0] * 0.002 * f + phase[:, 0])
        assert np.linalg.norm(found - known) < bound * np.linalg.norm(known)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("kind", KINDS)
def test_agrees_on_the_registered_tiles(version: Any, kind: str, agrees: Any) -> None:
    for seed in TILES[kind]:
        tensors, options = migrate.example(seed)
        agrees(version, (list(tensors), {**options, "interpolation": kind}))


CASES: dict[str, dict[str, Any]] = {
    "traces within an aperture": {},
    "far and shallow": {"aperture": None, "spread": 2000.0, "offset": 1500.0},
    "recorded late": {"start": 0.4, "aperture": None},
    "coarse": {"ratio": 2.0, "nt": 150, "t0_out": 0.1, "aperture": None},
    "fine": {"ratio": 0.5, "nt": 500, "aperture": None},
    "as short as a row of neighbours": {"ns": 9, "nt": 40, "aperture": None, "spread": 20.0, "offset": 20.0},
    "two samples": {"ns": 2, "nt": 20, "aperture": None, "spread": 2.0, "offset": 2.0},
}


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("changes", CASES.values(), ids=list(CASES))
def test_agrees_with_float64(version: Any, kind: str, changes: Any, survey: Any, agrees: Any) -> None:
    tensors, options = survey(**{"traces": 30, "pillars": 3, "nt": 290, **changes})
    agrees(version, (tensors, {**options, "interpolation": kind}))


@pytest.mark.parametrize("version", [pytest.param(reference.migrate, id="reference"), *VERSIONS])
@pytest.mark.parametrize("kind", KINDS)
def test_beyond_the_ends_of_a_trace_are_zeros(version: Any, kind: str) -> None:
    """Zero offset over one trace: output sample i is read at x = i + 1/4, and its neighbours may not exist."""
    ns, dt = 12, 0.004
    traces = torch.full((3, ns), 1e6)  # neighbours in memory
    traces[1] = torch.arange(1.0, ns + 1)
    place = torch.zeros(1, 2)
    image = torch.zeros(1, ns + 2)
    ends = torch.tensor([[1e5, 0.0], [0.0, 0.0], [1e5, 0.0]])
    vrms = torch.full((1, ns + 2), 2000.0)
    axes = {"dt": dt, "start": 0.1 - 0.25 * dt, "dt_out": dt, "t0_out": 0.1}
    version(image, None, traces, ends, ends, place, vrms, **axes, amplitude="none", interpolation=kind)
    taps = interpolation.TAPS[kind]
    row = np.concatenate([np.zeros(taps // 2 - 1), traces[1].numpy(), np.zeros(taps // 2)])
    known = np.array([interpolation.weights(kind, 0.25) @ row[i : i + taps] for i in range(ns - 1)])
    np.testing.assert_allclose(image[0, : ns - 1].numpy(), known, rtol=2e-4, atol=2e-3)
    assert not image[0, ns - 1 :].any()  # x = ns - 3/4 is not on the trace


def test_run_takes_a_name_and_refuses_others(survey: Any, expected: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    tensors, options = survey(traces=12, nt=100, pillars=3)
    want, _ = expected((tensors, {**options, "interpolation": "sinc8"}))
    image = torch.zeros_like(tensors[0])
    migrate.run(image, None, *tensors[2:], **options, interpolation="sinc8", device="cpu")
    assert (image - want).norm() < 2e-4 * want.norm()
    with pytest.raises(InputError, match="interpolation is 'quintic'; choose one of linear, cubic, sinc8"):
        migrate.run(image, None, *tensors[2:], **options, interpolation="quintic", device="cpu")
    monkeypatch.setitem(migrate.FEATURES, "v2", set())
    with pytest.raises(NotImplementedError, match="version v2 does not do interpolation='cubic'; choose baseline"):
        migrate.run(image, None, *tensors[2:], **options, interpolation="cubic", version="v2", device="cpu")
