"""Curved rays and VTI in every version: against float64, against travel times alone, and where they must meet."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import elinvar
from elinvar import metal as language
from elinvar.errors import InputError
from elinvar.metal import nvrtc
from elinvar.seismic import Velocity, travel_time
from elinvar.seismic.kernels import migrate
from elinvar.seismic.kernels.migrate import (
    RadiusAperture,
    baseline_metal,
    cpu,
    cpu_v2,
    launching,
    metal,
    physics,
    reference,
    tables,
    v1,
    v1_metal,
    v3,
    v3_metal,
)


def metal_baseline(*args: Any, **options: Any) -> None:
    baseline_metal.migrate(*args, **options, device=elinvar.device("cpu"))


def metal_v2(*args: Any, **options: Any) -> None:
    metal.migrate_v2(*args, **options, device=elinvar.device("cpu"))


def metal_v1(*args: Any, **options: Any) -> None:
    v1_metal.migrate(*args, **options, device=elinvar.device("cpu"))


def metal_v3(*args: Any, **options: Any) -> None:
    v3_metal.migrate(*args, **options, device=elinvar.device("cpu"))


GXX = pytest.mark.gxx
VERSIONS = [
    pytest.param(cpu.migrate, id="cpu baseline"),
    pytest.param(v1.migrate, id="cpu v1"),
    pytest.param(cpu_v2.migrate, id="cpu v2"),
    pytest.param(v3.migrate, id="cpu v3"),
    pytest.param(metal_baseline, id="metal baseline", marks=GXX),
    pytest.param(metal_v1, id="metal v1", marks=GXX),
    pytest.param(metal_v2, id="metal v2", marks=GXX),
    pytest.param(metal_v3, id="metal v3", marks=GXX),
]
versions = pytest.mark.parametrize("version", VERSIONS)


@pytest.fixture(autouse=True)
def _compiler(request: pytest.FixtureRequest) -> None:
    if request.node.get_closest_marker("gxx"):
        request.getfixturevalue("emulator")  # skips without g++


def eta_table(rows: int, nt: int) -> torch.Tensor:
    """Different at every time, and at every pillar if there is a row for each."""
    each = torch.linspace(0.3, 1.0, rows)[:, None]
    return (each * torch.linspace(-0.2, 0.4, nt)).contiguous()


def curved(v0: float, k: float) -> dict[str, Any]:
    return {"physics": "curved", "medium": (v0, k)}


def vti(eta: float | torch.Tensor, nt: int = 290) -> dict[str, Any]:
    return {"physics": "vti", "eta": eta if isinstance(eta, torch.Tensor) else torch.full((1, nt), eta)}


WIDE: dict[str, Any] = {"aperture": None, "spread": 2000.0, "offset": 1500.0}
RAYS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "curved": (curved(1800, 0.6), {}),
    "curved, far and shallow": (curved(1800, 0.6), WIDE),
    "curved, slower with depth": (curved(2600, -0.4), WIDE),
    "curved, steep": (curved(1500, 4.0), WIDE),
    "curved, hardly": (curved(2000, 1e-5), {"amplitude": "none"}),
    "curved, recorded late": (curved(1800, 0.6), {"start": 0.4, "aperture": None}),
    "curved, coarse": (curved(1800, 0.6), {"ratio": 2.0, "nt": 150, "t0_out": 0.1, "aperture": None}),
    "vti": (vti(0.1), {}),
    "vti, far and shallow": (vti(0.15), WIDE),
    "vti, as much as there may be": (vti(0.5), WIDE),
    "vti, negative": (vti(-0.3), WIDE),
    "vti, as little as there may be": (vti(-0.5), {}),
    "vti, with time": (vti(eta_table(1, 290)), {}),
    "vti, eta per pillar": (vti(eta_table(3, 290)), {"aperture": None}),
    "vti, eta and velocity per pillar": (vti(eta_table(3, 290)), {"rows": 3}),
    "vti, velocity per pillar": (vti(0.1), {"rows": 3, "amplitude": "none"}),
    "vti, coarse and late": (vti(0.2, 150), {"ratio": 2.0, "nt": 150, "t0_out": 0.1, "start": 0.3, "aperture": None}),
}


@versions
@pytest.mark.parametrize(("rays", "changes"), RAYS.values(), ids=list(RAYS))
def test_agrees_with_float64(version: Any, rays: Any, changes: Any, survey: Any, agrees: Any) -> None:
    tensors, options = survey(**{"traces": 40, "pillars": 3, "nt": 290, **changes})
    agrees(version, (tensors, {**options, **rays}))


@versions
@pytest.mark.parametrize("seed", [4, 5])
def test_agrees_on_the_registered_tiles(version: Any, seed: int, agrees: Any) -> None:
    tensors, options = migrate.example(seed)
    assert options["physics"] == ("curved", "vti")[seed - 4]
    agrees(version, (list(tensors), options))


@pytest.mark.parametrize("kind", ["kink", "step", "noise"])
@versions
def test_eta_that_is_not_smooth(kind: str, version: Any, survey: Any, agrees: Any) -> None:
    eta = torch.full((1, 290), 0.1)
    if kind == "kink":
        eta[0, 101:] += 0.002 * torch.arange(189)
    elif kind == "step":
        eta[0, 101:] = 0.4
    else:
        eta += 0.3 * torch.rand(eta.shape, generator=torch.Generator().manual_seed(1))
    tensors, options = survey(traces=40, pillars=3, nt=290, aperture=None)
    agrees(version, (tensors, {**options, **vti(eta)}))


@pytest.mark.parametrize("rays", [curved(1800, 0.6), curved(2500, -0.3), vti(0.2, 200), vti(-0.2, 200)])
@pytest.mark.parametrize("version", [pytest.param(reference.migrate, id="reference"), *VERSIONS])
def test_a_ramp_shows_the_travel_time(version: Any, rays: dict[str, Any]) -> None:
    """A trace whose samples are their own numbers: unweighted, its image is the travel time, whatever computes it."""
    ns, nt, dt = 900, 200, 0.004
    source, receiver, place = torch.tensor([[-700.0, 20.0]]), torch.tensor([[900.0, -30.0]]), torch.tensor([[50.0, 0]])
    t0 = 0.05 + dt * np.arange(nt)
    vrms = torch.from_numpy(Velocity.linear(1800, 0.6).rms(t0)).float()[None].contiguous()
    image = torch.zeros(1, nt)
    ramp = torch.arange(ns, dtype=torch.float32)[None]
    version(
        image, None, ramp, source, receiver, place, vrms,
        dt=dt, start=0.0, dt_out=dt, t0_out=0.05, amplitude="none", **rays,
    )  # fmt: skip
    kind = rays["physics"]
    velocity: Any = Velocity.linear(*rays["medium"]) if kind == "curved" else vrms[0].numpy()
    eta = None if kind == "curved" else rays["eta"][0].numpy()
    known = travel_time(*(x[0].numpy() for x in (source, receiver, place)), t0, velocity, physics=kind, eta=eta)
    assert np.abs(image[0].numpy() - known / dt).max() < 1e-3  # samples


@versions
def test_a_gradient_that_goes_to_zero_ends_in_straight_rays(version: Any, survey: Any) -> None:
    tensors, options = survey(traces=40, pillars=3, nt=290, gradient=200.0)
    image, fold, *rest = tensors
    rest[-1].fill_(1800.0)
    straight = torch.zeros_like(image)
    version(straight, None, *rest, **options)
    away = []
    for k in (1e-1, 1e-2, 1e-3, 1e-6, 1e-30, 0.0):
        bent = torch.zeros_like(image)
        version(bent, fold, *rest, **options, **curved(1800, k))
        away.append(float((bent - straight).norm() / straight.norm()))
    assert away[0] > away[1] > away[2] > away[3]
    assert max(away[3:]) < 2e-4
    assert abs(away[1] / away[2] - 10) < 3  # linear in k: no jump anywhere


@versions
def test_without_anellipticity_vti_is_straight(version: Any, survey: Any) -> None:
    tensors, options = survey(traces=40, pillars=3, nt=290)
    straight, same = torch.zeros_like(tensors[0]), torch.zeros_like(tensors[0])
    fold, count = torch.zeros_like(tensors[1]), torch.zeros_like(tensors[1])
    version(straight, fold, *tensors[2:], **options)
    version(same, count, *tensors[2:], **options, **vti(0.0))
    assert torch.equal(fold, count)
    assert (same - straight).norm() < 1e-4 * straight.norm()


@versions
def test_eta_moves_far_offsets_by_what_it_should(version: Any) -> None:
    """A spike at the VTI time of one offset is imaged at t0 by the right eta, too late or too early by others."""
    dt, t0, v, h = 0.002, 1.0, 2000.0, 1500.0
    late = float(travel_time((-h, 0), (h, 0), (0, 0), t0, v, physics="vti", eta=0.1))
    trace = torch.exp(-((((torch.arange(1000) - 860) * dt) / 0.04) ** 2))[None].float()
    ends = torch.tensor([[-h, 0.0]]), torch.tensor([[h, 0.0]]), torch.zeros(1, 2)
    found = {}
    for eta in (0.0, 0.05, 0.1, 0.15):
        image = torch.zeros(1, 700)
        axes = {"dt": dt, "start": late - 860 * dt, "dt_out": dt, "t0_out": 0.3}
        version(image, None, trace, *ends, torch.full((1, 700), v), **axes, amplitude="none", **vti(eta, 700))
        i = int(image[0].argmax())
        a, b, c = image[0, i - 1 : i + 2].tolist()
        found[eta] = 0.3 + dt * (i + 0.5 * (a - c) / (a - 2 * b + c))
    assert abs(found[0.1] - t0) < 2e-4
    # A larger eta makes the operator faster, so the same arrival comes from deeper; to first order dT/deta / (dT/dt0).
    assert found[0.0] < found[0.05] < found[0.1] < found[0.15]
    step = 1e-5

    def time(t: float, eta: float) -> float:
        return float(travel_time((-h, 0), (h, 0), (0, 0), t, v, physics="vti", eta=eta))

    slope = -((time(t0, 0.1 + step) - time(t0, 0.1 - step)) / (time(t0 + step, 0.1) - time(t0 - step, 0.1)))
    assert (found[0.15] - found[0.05]) / 0.1 == pytest.approx(slope, rel=0.1)


@pytest.mark.gxx
@pytest.mark.parametrize("version", VERSIONS[4:])
def test_no_races_in_any_order(version: Any, agrees: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    compile_once = launching.metal.compile

    def racing(*args: Any, **options: Any) -> Any:
        return compile_once(*args, **options, races=True, schedule="random", seed=3)

    monkeypatch.setattr(launching.metal, "compile", racing)
    launching._library.cache_clear()
    try:
        for seed in (4, 5):
            tensors, options = migrate.example(seed)
            agrees(version, (list(tensors), options))
    finally:
        launching._library.cache_clear()


@pytest.mark.skipif(not nvrtc.available(), reason="needs NVRTC: pip install nvidia-cuda-nvrtc")
@pytest.mark.parametrize(("kind", "registers"), [("straight", 48), ("curved", 56), ("vti", 56)])
def test_registers(kind: str, registers: int) -> None:
    for file, defines in (
        ("baseline.metal", launching.physics_words(kind)),
        ("v2.metal", metal.Tuning().defines("true", kind)),
    ):
        report = language.build_cubin(Path(metal.__file__).parent / file, defines=defines or None)
        for one in report.kernels.values():
            assert one.spill_bytes == 0
            assert one.registers <= registers


def test_the_bound_that_skips_blocks_never_skips_an_arrival() -> None:
    """T <= latest needs (2 s)^2 + (ds + dr)^2 / (V0 Vz) <= horizon^2; for VTI, 1 / V^2 over max(1, 1 + 2 eta)."""
    make = np.random.default_rng(0)
    h = 10 ** make.uniform(0, 4, (2, 4000))
    t0, dt = make.uniform(0, 4, 4000), 0.004
    for medium in ((1800.0, 0.6), (1800.0, 3.0), (3000.0, -0.5), (2000.0, 0.0)):
        t = travel_time(
            -h[0][:, None] * [1, 0], h[1][:, None] * [1, 0], (0, 0), t0, Velocity.linear(*medium), physics="curved"
        )
        kappa = physics.stretching(medium, dt, 4.0)
        s = np.sinh(kappa * t0 / 2 / dt) / kappa
        slow = np.exp(-medium[1] * t0 / 2) / (medium[0] * dt) ** 2
        reach = np.array([physics.stretched(x, kappa) for x in t / dt])
        assert (np.sqrt(4 * s**2 + h.sum(0) ** 2 * slow) <= reach * (1 + 1e-9)).all()
    for eta in (-0.5, -0.1, 0.2, 0.5):
        t = travel_time(
            -h[0][:, None] * [1, 0], h[1][:, None] * [1, 0], (0, 0), t0 + 0.01, 2000.0, physics="vti", eta=eta
        )
        assert (np.sqrt((t0 + 0.01) ** 2 + (h.sum(0) / 2000) ** 2 / max(1, 1 + 2 * eta)) <= t * (1 + 1e-9)).all()


@pytest.mark.parametrize(("k", "latest", "powers"), [(0.6, 2.0, physics.FEW), (0.6, 3.0, physics.BENDS), (2.0, 3.0, 0)])
def test_the_polynomial_of_a_leg(k: float, latest: float, powers: int) -> None:
    dt = 0.002
    kappa = physics.stretching((1800.0, k), dt, latest)
    found = physics.bending(latest / dt, kappa)
    if not powers:
        assert found is None
        return
    assert found is not None
    assert np.count_nonzero(found[: physics.BENDS]) == powers
    r = np.linspace(1e-3, physics.stretched(latest / dt, kappa), 3000)
    assert kappa**2 * r[-1] ** 2 == pytest.approx(found[-1], rel=1e-6)
    leg = r * np.polynomial.polynomial.polyval(np.square(kappa * r), found[:-1].astype(float))
    assert np.abs(leg - np.arcsinh(kappa * r) / kappa).max() < 2e-4  # samples


def test_no_leg_is_longer_than_it_can_be() -> None:
    make = np.random.default_rng(1)
    ends, t0 = make.uniform(-3000, 3000, (2, 4000, 2)), make.uniform(0, 4, 4000)
    offset = np.hypot(*(ends[0] - ends[1]).T)
    for medium in ((1800.0, 0.6), (3000.0, -0.4), (2000.0, 0.0)):
        one, other = (travel_time(end, end, (0, 0), t0, Velocity.linear(*medium), physics="curved") / 2 for end in ends)
        bound = [
            physics.longest_leg((a + b) / 0.004, h, medium[0], 0.004)
            for a, b, h in zip(one, other, offset, strict=True)
        ]
        assert (np.maximum(one, other) / 0.004 <= np.array(bound) + 1e-6).all()


def test_tables_of_straight_rays_are_as_they_were() -> None:
    options: dict[str, Any] = {"dt": 0.002, "start": 0.0, "dt_out": 0.002, "t0_out": 0.0, "amplitude": "true"}
    made = tables.prepare(
        torch.full((1, 64), 2000.0), **options, aperture=None, area=1.0, block=16, nodes=(0, 8, 16), tail=32, origin=0
    )
    assert made.bends is None
    assert made.kappa == 0


def test_run_takes_a_number_for_eta(survey: Any, expected: Any) -> None:
    tensors, options = survey(traces=12, nt=100, pillars=3)
    want, _ = expected((tensors, {**options, **vti(0.1, 100)}))
    image = torch.zeros_like(tensors[0])
    migrate.run(image, None, *tensors[2:], **options, physics="vti", eta=0.1, device="cpu")
    assert (image - want).norm() < 2e-4 * want.norm()
    want, _ = expected((tensors, {**options, **curved(1800, 0.6)}))
    image.zero_()
    migrate.run(image, None, *tensors[2:], **options, **curved(1800, 0.6), version="baseline", device="cpu")
    assert (image - want).norm() < 2e-4 * want.norm()


@pytest.mark.parametrize(
    ("rays", "words"),
    [
        ({"physics": "ray"}, "choose one of straight, curved, vti"),
        ({"physics": "curved"}, "medium is missing"),
        ({"medium": (1800.0, 0.6)}, "medium is .* with physics='straight'"),
        (curved(-1.0, 0.6), "v0 > 0"),
        (curved(1800.0, float("nan")), "finite k"),
        (curved(1800.0, 4000.0), "velocity at 0.12 s"),
        ({"physics": "vti"}, "eta is missing"),
        ({"eta": 0.1}, "eta is given with physics='straight'"),
        (vti(0.6, 30), "eta reaches 0.6"),
        (vti(float("nan"), 30), "eta reaches nan"),
        (vti(0.1, 29), "eta is torch.float32 of shape"),
        ({"physics": "vti", "eta": torch.zeros(1, 30, dtype=torch.float64)}, "eta is torch.float64"),
        ({"physics": "vti", "eta": torch.zeros(2, 30)}, r"give float32 \(1, 30\) or \(3, 30\)"),
        ({"physics": "vti", "eta": torch.zeros(1, 30, device="meta")}, "eta is on meta"),
    ],
)
def test_bad_physics_is_named(rays: dict[str, Any], words: str, survey: Callable[..., Any]) -> None:
    tensors, options = survey(traces=4, pillars=3, nt=30, rows=3, aperture=RadiusAperture())
    with pytest.raises(InputError, match=words):
        migrate.run(*tensors, **options, **rays, device="cpu")
