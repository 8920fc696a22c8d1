"""Anti-aliasing: slopes, copies and filters themselves, and every version reading the copies it should."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import elinvar
from elinvar.errors import InputError
from elinvar.seismic import filters, travel_time
from elinvar.seismic.kernels import migrate
from elinvar.seismic.kernels.migrate import Bank, baseline_metal, cpu, cpu_v2, metal, reference, v3_metal
from elinvar.seismic.kernels.migrate.antialias import SPAN, copies_for, response, share, steepness


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
versions = pytest.mark.parametrize("version", VERSIONS)
COPIES = 7  # a .metal is compiled for each number of copies: one of them does for what is not about their number


@pytest.fixture(autouse=True)
def _compiler(request: pytest.FixtureRequest) -> None:
    if request.node.get_closest_marker("gxx"):
        request.getfixturevalue("emulator")  # skips without g++


def filtered(tensors: list[torch.Tensor], options: dict[str, Any], bank: Bank, **more: Any) -> Any:
    """The same case with traces that have copies: white noise of its own each, which no mistake survives."""
    make = torch.Generator().manual_seed(9)
    ntr, ns = tensors[2].shape
    copies = torch.randn(ntr, bank.copies * ns, generator=make)
    return [*tensors[:2], copies, *tensors[3:]], {**options, "bank": bank, **more}


CASES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "within an aperture": ({}, {}),
    "far and shallow": ({"aperture": None, "spread": 2000.0, "offset": 1500.0}, {}),
    "recorded late": ({"start": 0.4, "aperture": None}, {}),
    "coarse": ({"ratio": 2.0, "nt": 151, "t0_out": 0.1, "aperture": None}, {}),
    "fine": ({"ratio": 0.5, "nt": 500, "aperture": None}, {}),
    "velocity per pillar": ({"rows": 3, "nt": 203}, {}),
    "curved": ({"aperture": None}, {"physics": "curved", "medium": (1800.0, 0.6)}),
    "vti, eta per pillar": ({}, {"physics": "vti", "eta": torch.linspace(0, 0.2, 870).reshape(3, 290)}),
    "one time": ({"nt": 1, "t0_out": 0.2, "aperture": None}, {}),
}


@versions
@pytest.mark.parametrize(("changes", "rays"), CASES.values(), ids=list(CASES))
def test_agrees_with_float64(version: Any, changes: Any, rays: Any, survey: Any, agrees: Any) -> None:
    tensors, options = survey(**{"traces": 40, "pillars": 3, "nt": 290, **changes})
    agrees(version, filtered(tensors, options, Bank(COPIES, 60.0, 40.0), **rays))


@versions
@pytest.mark.parametrize(
    "bank", [Bank(2, 80.0, 80.0), Bank(12, 100.0, 0.0), Bank(COPIES, 0.0, 25.0), Bank(COPIES, 0.0, 0.0)]
)
def test_agrees_with_other_banks(version: Any, bank: Bank, survey: Any, agrees: Any) -> None:
    tensors, options = survey(traces=40, pillars=3, nt=200)
    agrees(version, filtered(tensors, options, bank))


@versions
def test_agrees_on_the_registered_tiles(version: Any, agrees: Any) -> None:
    for seed in range(6):
        tensors, options = migrate.example(seed)
        agrees(version, filtered(list(tensors), options, Bank(COPIES, 50.0, 70.0)))


@versions
def test_agrees_with_other_interpolation(version: Any, survey: Any, agrees: Any) -> None:
    tensors, options = survey(traces=40, pillars=3, nt=200, aperture=None)
    agrees(version, filtered(tensors, options, Bank(COPIES, 50.0, 70.0), interpolation="cubic"))


@pytest.mark.parametrize("version", [pytest.param(reference.migrate, id="reference"), *VERSIONS])
def test_copies_that_are_all_the_same_are_the_trace(version: Any, survey: Any) -> None:
    tensors, options = survey(traces=30, pillars=3, nt=200)
    plain, other = torch.zeros_like(tensors[0]), torch.zeros_like(tensors[0])
    version(plain, None, *tensors[2:], **options)
    rows = tensors[2].repeat(1, COPIES)
    version(other, None, rows, *tensors[3:], **options, bank=Bank(COPIES, 60.0, 60.0))
    assert (other - plain).norm() < 1e-4 * plain.norm()


def test_slopes_are_those_of_the_travel_time() -> None:
    """Moving source and receiver together by a little changes the time as the formula says."""
    make = np.random.default_rng(3)
    s, r = make.uniform(-1000, 1000, (2, 50, 2))
    t0, v, dt = np.array([0.3, 0.9, 2.0]), np.array([1800.0, 2100.0, 2600.0]), 0.002

    def time(shift: list[float]) -> Any:
        at = [np.asarray(end)[:, None] + shift for end in (s, r)]
        return travel_time(*at, (30.0, -20.0), t0, v)

    slope = [(time([h, 0.0]) - time([-h, 0.0])) / 0.02 for h in (0.01,)]
    slope += [(time([0.0, h]) - time([0.0, -h])) / 0.02 for h in (0.01,)]
    known = (slope[0] * 25.0 / dt) ** 2 + (slope[1] * 40.0 / dt) ** 2
    ends = (torch.from_numpy(s), torch.from_numpy(r), torch.tensor([30.0, -20.0], dtype=torch.float64))
    times = torch.from_numpy(t0 / 2 / dt), torch.from_numpy(1 / (v * dt) ** 2)
    np.testing.assert_allclose(steepness(*ends, *times, Bank(4, 25.0, 40.0)).numpy(), known, rtol=1e-5, atol=1e-9)


def test_shares_are_continuous_and_end_at_the_ends() -> None:
    a = torch.tensor([0.0, 0.5, 1.0, 1.5, 2.0 - 1e-12, 2.0, 3.0, 4.0, 7.0, 8.0, 1e9], dtype=torch.float64)
    copy, part = share(a, 4)
    position = (copy + part).numpy()
    np.testing.assert_allclose(position, [0, 0, 0, 0.5, 1, 1, 1.5, 2, 2.75, 3, 3], atol=1e-9)
    assert copy.min() >= 0
    assert copy.max() <= 2


def test_enough_copies_for_a_slope() -> None:
    for steepest in (0.0, 1.0, 1.3, 5.0, 22.6):
        assert 2.0 ** ((copies_for(steepest) - 1) / 2) >= steepest
    assert copies_for(1e9) == 16


@pytest.mark.parametrize("kind", ["bank", "triangle"])
def test_filters_take_what_aliases_and_keep_the_rest(kind: str) -> None:
    cycles = torch.linspace(0, 0.5, 501, dtype=torch.float64)
    assert (response(kind, 0, cycles) == 1).all()
    for copy in range(1, 12):
        aliased = 0.5 / 2 ** (copy / 2)
        gain = response(kind, copy, cycles)
        assert gain[0] == 1
        assert float(gain[cycles <= 0.3 * aliased].min()) > 0.85
        assert float(gain[cycles >= aliased].max()) < (0.15 if kind == "bank" else 0.75)
        assert (gain <= response(kind, copy - 1, cycles) + 0.06).all()


def test_the_bank_of_filters() -> None:
    t = torch.arange(400, dtype=torch.float64)
    wave = (torch.cos(0.4 * t) * torch.exp(-(((t - 200) / 60) ** 2)))[None]
    rows = filters.bank(wave, 9, "bank").unflatten(1, (9, 400))
    assert torch.equal(rows[:, 0], wave)
    for copy in range(9):
        gain = float(response("bank", copy, torch.tensor(0.4 / (2 * np.pi), dtype=torch.float64)))
        assert (rows[0, copy] - gain * wave[0]).abs().max() < 0.05


def test_one_choice_for_sixteen_samples() -> None:
    """With copies of ones, twos, threes ... the image says which copies were read: constant over each span."""
    image = torch.zeros(1, 200)
    ends = torch.tensor([[500.0, 0.0]]), torch.tensor([[700.0, 0.0]]), torch.zeros(1, 2)
    rows = torch.repeat_interleave(torch.arange(8.0), 600)[None]
    how: dict[str, Any] = {"dt": 0.004, "start": 0.0, "dt_out": 0.004, "t0_out": 0.0, "amplitude": "none"}
    found = []
    for version in (reference.migrate, cpu.migrate, cpu_v2.migrate):
        image = torch.zeros(1, 200)
        version(image, None, rows, *ends, torch.full((1, 200), 2000.0), **how, bank=Bank(8, 40.0, 40.0))
        spans = image[0, : 200 // SPAN * SPAN].reshape(-1, SPAN)
        assert (spans - spans[:, :1]).abs().max() < 1e-4
        assert (spans[1:, 0] <= spans[:-1, 0]).all()  # deeper is flatter
        found.append(image)
    assert found[0][0, 0] > 4
    assert (found[1] - found[0]).abs().max() < 1e-3
    assert (found[2] - found[0]).abs().max() < 1e-3


@pytest.mark.parametrize("bank", [Bank(1, 10.0, 10.0), Bank(17, 10.0, 10.0), Bank(3, -1.0, 5.0), Bank(7, 10.0, 10.0)])
def test_banks_that_are_none(bank: Bank, survey: Any) -> None:
    tensors, options = survey(traces=4, pillars=2, nt=30, ns=500)
    with pytest.raises(InputError, match="bank is Bank"):
        migrate.run(*tensors, **options, bank=bank, device="cpu")


def test_run_takes_a_bank_and_versions_without_one_refuse(survey: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    tensors, options = filtered(*survey(traces=12, nt=100, pillars=3), Bank(4, 60.0, 60.0))
    image, want = torch.zeros_like(tensors[0]), torch.zeros(tensors[0].shape, dtype=torch.float64)
    reference.migrate(want, None, *tensors[2:], **options)
    migrate.run(image, None, *tensors[2:], **options, device="cpu")
    assert (image - want).norm() < 2e-4 * want.norm()
    monkeypatch.setitem(migrate.FEATURES, "v2", set())
    with pytest.raises(NotImplementedError, match="version v2 does not do antialias; choose baseline"):
        migrate.run(image, None, *tensors[2:], **options, version="v2", device="cpu")
