"""The .metal versions on the emulator: against float64, under the race detector, and inside their buffers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

import elinvar
from elinvar.errors import InputError
from elinvar.runtime import kernels
from elinvar.seismic.filters import bank
from elinvar.seismic.kernels import migrate
from elinvar.seismic.kernels.migrate import (
    Bank,
    RadiusAperture,
    baseline_metal,
    launching,
    metal,
    reference,
    v1_metal,
    v3_metal,
)

pytestmark = pytest.mark.gxx
HARD = RadiusAperture(tan_dip=0.8, maximum=900.0)


@pytest.fixture(autouse=True)
def _compiler(emulator: Callable[..., Any]) -> None:
    del emulator  # skips without g++


def baseline(*args: Any, **options: Any) -> None:
    baseline_metal.migrate(*args, **options, device=elinvar.device("cpu"))


def v2(*args: Any, **options: Any) -> None:
    metal.migrate_v2(*args, **options, device=elinvar.device("cpu"))


def v1(*args: Any, **options: Any) -> None:
    v1_metal.migrate(*args, **options, device=elinvar.device("cpu"))


def v3(*args: Any, **options: Any) -> None:
    v3_metal.migrate(*args, **options, device=elinvar.device("cpu"))


VERSIONS = {"baseline": baseline, "v1": v1, "v2": v2, "v3": v3}
versions = pytest.mark.parametrize("version", VERSIONS.values(), ids=list(VERSIONS))

CASES: dict[str, dict[str, Any]] = {
    "everything on": {},
    "no aperture, no weight": {"aperture": None, "amplitude": "none", "traces": 37},
    "hard aperture": {"aperture": HARD, "pillars": 9},
    "the rim is all of it": {"aperture": RadiusAperture(2.0, 400.0, 100.0, 1.0)},
    "near zero offset": {"offset": 30, "spread": 250},
    "velocity per pillar": {"rows": 3, "nt": 333},
    "recording delay": {"start": 0.4},
    "recording before zero": {"start": -0.05, "traces": 33},
    "image from below": {"t0_out": 0.7, "nt": 250},
    "output twice as coarse": {"ratio": 2.0, "nt": 200, "aperture": None},
    "steep velocity": {"gradient": 4000, "aperture": None, "traces": 20},
    "late": {"traces": 70, "nt": 900, "ns": 1000, "offset": 200, "spread": 800, "dt": 0.002, "pillars": 1},
    "one sample": {"traces": 9, "nt": 1, "t0_out": 0.5, "spread": 100, "offset": 50, "pillars": 1},
    "two input samples": {"ns": 2, "nt": 300, "start": 0.6, "spread": 100, "offset": 50, "traces": 9},
}


@versions
@pytest.mark.parametrize("changes", CASES.values(), ids=list(CASES))
def test_agrees_with_float64(
    version: Any, changes: dict[str, Any], survey: Callable[..., Any], agrees: Callable[..., None]
) -> None:
    agrees(version, survey(**{"traces": 40, "pillars": 3, "nt": 290, **changes}))


@pytest.mark.parametrize("seed", range(4))
@versions
def test_agrees_on_the_registered_tiles(version: Any, seed: int, agrees: Callable[..., None]) -> None:
    tensors, options = migrate.example(seed)
    agrees(version, (list(tensors), options))


def test_what_is_registered_is_what_is_launched() -> None:
    registered = kernels.default_registry.version("seismic.migrate", "v2")
    assert registered.defines == metal.Tuning().defines("true")
    assert registered.group_size == 32 * metal.Tuning().simdgroups


@pytest.mark.parametrize(("samples", "pairs"), [(1, True), (4, False)])
def test_other_tunings_agree(samples: int, pairs: bool, survey: Any, agrees: Any) -> None:
    tuning = metal.Tuning(simdgroups=3, samples=samples, pairs=pairs)
    agrees(lambda *a, **k: v2(*a, **k, tuning=tuning), survey(traces=40, pillars=4, nt=290))


@pytest.mark.parametrize("version", [metal.migrate_v2, v3_metal.migrate], ids=["v2", "v3"])
def test_lines_are_read_across_windows(version: Any, survey: Any, agrees: Any) -> None:
    tuning = metal.Tuning(window=128)
    agrees(
        lambda *a, **k: version(*a, **k, device=elinvar.device("cpu"), tuning=tuning),
        survey(traces=40, pillars=3, nt=390, ns=450),
    )


@pytest.mark.parametrize("changes", [{}, {"pairs": False, "samples": 1}], ids=["lines", "samples"])
@pytest.mark.parametrize("version", [metal.migrate_v2, v3_metal.migrate], ids=["v2", "v3"])
def test_rows_may_lie_further_apart_than_a_float_has_digits(
    version: Any, changes: dict[str, Any], survey: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    tensors, options = survey(traces=40, pillars=2, nt=390, ns=450)
    found = []
    for near in (metal._NEAR, 0):
        monkeypatch.setattr(metal, "_NEAR", near)
        image, fold = (torch.zeros_like(x) for x in tensors[:2])
        tuning = metal.Tuning(window=128, **changes)
        assert bool(tuning.spread(tensors[2], "linear", None)) == (near == 0)
        version(image, fold, *tensors[2:], **options, device=elinvar.device("cpu"), tuning=tuning)
        found.append((image, fold))
    assert torch.equal(found[0][0], found[1][0])
    assert torch.equal(found[0][1], found[1][1])


HALVES = metal.Tuning(storage="fp16")
FP16: dict[str, dict[str, Any]] = {
    "ends, rims and shallow times": {"traces": 40, "nt": 390, "ns": 300},
    "late, hard aperture": {"traces": 33, "nt": 500, "ns": 520, "dt": 0.002, "spread": 500, "aperture": HARD},
    "no weight": {"traces": 40, "amplitude": "none", "aperture": None},
}


@pytest.mark.parametrize("changes", FP16.values(), ids=list(FP16))
@pytest.mark.parametrize("version", [metal.migrate_v2, v3_metal.migrate], ids=["v2", "v3"])
def test_traces_kept_as_halves(version: Any, changes: dict[str, Any], survey: Any, agrees: Any) -> None:
    """Whatever the size of a trace, and next to much larger ones: each is given its own unit."""
    tensors, options = survey(pillars=3, **changes)
    sizes = torch.logspace(-1, 1, len(tensors[2]))[:, None]
    for size in (1.0, 1e-30, 1e30):

        def sized(image: torch.Tensor, fold: torch.Tensor, traces: torch.Tensor, *rest: Any, **given: Any) -> None:
            there = elinvar.device("cpu")
            version(image, fold, traces * size, *rest, **given, device=there, tuning=HALVES)  # noqa: B023
            image /= size  # noqa: B023

        agrees(sized, ([*tensors[:2], tensors[2] * sizes, *tensors[3:]], options), tolerance=5e-4)


def test_halves_of_copies(survey: Any, agrees: Any) -> None:
    tensors, options = survey(traces=40, pillars=3)
    tensors[2] = bank(tensors[2], 5, "bank")
    given = {**options, "bank": Bank(5, 20.0, 30.0)}
    agrees(lambda *a, **k: v2(*a, **k, tuning=HALVES), (tensors, given), tolerance=5e-4)
    agrees(lambda *a, **k: v3(*a, **k, tuning=HALVES), (tensors, given), tolerance=5e-4)


def test_halves_are_for_lines(survey: Any) -> None:
    with pytest.raises(InputError, match="give 'fp32', or 'fp16' with pairs"):
        metal.Tuning(storage="bf16")
    with pytest.raises(InputError, match="give 'fp32', or 'fp16' with pairs"):
        metal.Tuning(storage="fp16", pairs=False)
    tensors, options = survey(traces=3, pillars=1)
    with pytest.raises(InputError, match="fp16 storage interpolates linearly, not 'cubic'"):
        v2(*tensors, **options, interpolation="cubic", tuning=HALVES)


@pytest.mark.parametrize("copies", [1, 3])
def test_lines_pass_through_both_samples(copies: int) -> None:
    traces = torch.randn(2, copies, 300, generator=torch.Generator().manual_seed(0))
    lines = metal._lines(traces.flatten(1), 128, copies, elinvar.device("cpu"))
    here = 2 * (torch.arange(300) % 128 - 64) - 1  # y at a sample
    rows = max(1, copies - 1)
    assert lines.shape == (2, rows, 300, 2 if copies == 1 else 4)
    wanted = [traces[:, :rows]] if copies == 1 else [traces[:, :-1], traces[:, 1:] - traces[:, :-1]]
    for line, want in zip(lines.split(2, -1), wanted, strict=True):
        for k, y in enumerate((here, here + 2)):  # at a sample, and at the next
            at = (line[..., 0] + line[..., 1] * y)[..., :-1]
            torch.testing.assert_close(at, 2 * want[..., k : 299 + k], rtol=0, atol=1e-4)
    assert not lines[..., -1, :].any()


@pytest.mark.parametrize("version", [v2, v3], ids=["v2", "v3"])
@pytest.mark.parametrize("hard", [False, True])
def test_ends_of_traces_and_apertures_are_where_float64_has_them(version: Any, hard: bool, survey: Any) -> None:
    """Zero-offset traces that end, or leave a hard aperture, a hair before or after an output sample."""
    tensors, options = survey(traces=240, ns=300, nt=290, pillars=1, gradient=0.0, rows=1)
    dt, v = options["dt"], float(tensors[6][0, 0])
    t0 = torch.arange(40, 280).double()
    hair = torch.where(torch.arange(240) % 2 == 0, 1.0, -1.0).double()
    if hard:
        options["aperture"] = RadiusAperture(tan_dip=0.3)
        far = 0.3 * v * dt * t0 / 2 * (1 + 4e-7 * hair)
    else:
        options["aperture"] = None
        far = 0.5 * v * dt * ((299 + 4e-5 * hair).square() - t0.square()).sqrt()
    turn = torch.arange(240).double()
    places = torch.stack([far * turn.cos(), far * turn.sin()], 1) + tensors[5].double()
    tensors[3] = tensors[4] = places.float()
    want, count = torch.zeros_like(tensors[0], dtype=torch.float64), torch.zeros_like(tensors[1])
    reference.migrate(want, count, *tensors[2:], **options)
    version(*tensors, **options)
    assert torch.equal(tensors[1], count)
    assert (tensors[0].double() - want).norm() <= 2e-4 * want.norm()


@pytest.mark.parametrize("version", [v2, v3], ids=["v2", "v3"])
def test_a_hard_aperture_narrower_than_the_rounding_of_coordinates(version: Any, survey: Any) -> None:
    """A midpoint 2 mm from its pillar, 40 km from the origin: the sum of its ends has no more digits to say so."""
    tensors, options = survey(traces=1, ns=300, nt=64, pillars=1, gradient=0.0, rows=1, start=-0.01)
    tensors[3] = torch.tensor([[40124.20703125, 0.0]])
    tensors[4] = torch.tensor([[40118.6796875, 0.0]])
    tensors[5] = torch.tensor([[40121.4453125, 0.0]])
    for maximum, contributions in ((0.001, 0), (0.003, 64)):
        fold = torch.zeros_like(tensors[1])
        version(
            torch.zeros_like(tensors[0]),
            fold,
            *tensors[2:],
            **options | {"aperture": RadiusAperture(10.0, maximum, maximum)},
        )
        assert int(fold.sum()) == contributions


@versions
def test_adds_to_what_is_there_and_does_without_fold(version: Any, survey: Any) -> None:
    tensors, options = survey(traces=36, pillars=3, nt=130)
    image, fold, data, source, receiver, pillars, vrms = tensors
    version(image, fold, data, source, receiver, pillars, vrms, **options)
    parts, counts = torch.zeros_like(image), torch.zeros_like(fold)
    for k in (slice(0, 13), slice(13, 36)):
        version(parts, counts, data[k], source[k], receiver[k], pillars, vrms, **options)
    assert torch.equal(counts, fold)
    torch.testing.assert_close(parts, image, rtol=1e-4, atol=float(image.abs().max()) * 1e-5)
    alone = torch.zeros_like(image)
    version(alone, None, data, source, receiver, pillars, vrms, **options)
    assert torch.equal(alone, image)


@versions
def test_touches_nothing_else(version: Any, survey: Any, agrees: Any) -> None:
    """Neighbours of the output stay as they are, neighbours of the input are never used."""
    tensors, options = survey(traces=21, ns=150, nt=130, pillars=3)
    padded = []
    for x in tensors:
        around = torch.full((len(x) + 2, x.shape[1]), float("nan") if x.is_floating_point() else -7, dtype=x.dtype)
        around[1:-1] = x
        padded.append(around)
    inner = [x[1:-1] for x in padded]
    agrees(version, (inner, options))
    version(*inner, **options)
    for x in padded:
        outside = x[[0, -1]]
        assert bool((outside.isnan() if x.is_floating_point() else outside == -7).all())


def test_large_surveys_are_cut_into_launches(survey: Any, agrees: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launching, "_INDEXABLE", 3000)
    for version in VERSIONS.values():
        agrees(version, survey(traces=25, ns=200, nt=200, pillars=20, rows=20))


@versions
def test_no_races_in_any_order(version: Any, agrees: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    compile_once = launching.metal.compile

    def racing(*args: Any, **options: Any) -> Any:
        return compile_once(*args, **options, races=True, schedule="random", seed=3)

    monkeypatch.setattr(launching.metal, "compile", racing)
    launching._library.cache_clear()
    try:
        for seed in (1, 3):
            tensors, options = migrate.example(seed)
            agrees(version, (list(tensors), options))
    finally:
        launching._library.cache_clear()
