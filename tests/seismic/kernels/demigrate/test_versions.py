"""Every version of the adjoint against float64, and against the migration it is the adjoint of."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

import elinvar
from elinvar.errors import InputError
from elinvar.runtime.kernels import default_registry
from elinvar.runtime.parallel import set_threads
from elinvar.seismic.kernels import demigrate, migrate
from elinvar.seismic.kernels.demigrate import cpu, metal, reference
from elinvar.seismic.kernels.migrate import Bank, RadiusAperture, cpu_v2
from elinvar.seismic.kernels.migrate import reference as migration

BANK = Bank(5, 25.0, 30.0)
HARD = RadiusAperture(tan_dip=0.8, maximum=900.0)
CASES: dict[str, dict[str, Any]] = {
    "everything on": {},
    "no aperture, no weight": {"aperture": None, "amplitude": "none", "traces": 37},
    "hard aperture": {"aperture": HARD, "pillars": 9},
    "the rim is all of it": {"aperture": RadiusAperture(2.0, 400.0, 100.0, 1.0)},
    "near zero offset": {"offset": 30, "spread": 250},
    "velocity per pillar": {"rows": 4, "nt": 333},
    "recording delay": {"start": 0.4},
    "recording before zero": {"start": -0.05, "traces": 33},
    "image from below": {"t0_out": 0.7, "nt": 250},
    "image twice as coarse": {"ratio": 2.0, "nt": 200, "aperture": None},
    "image nine times as coarse": {"ratio": 9.0, "nt": 60},
    "image twice as fine": {"ratio": 0.5},
    "steep velocity": {"gradient": 4000, "aperture": None, "traces": 20},
    "falling velocity": {"gradient": -400, "nt": 300},
    "two input samples": {"ns": 2, "nt": 300, "start": 0.6, "spread": 100, "offset": 50, "traces": 9},
    "one sample": {"traces": 9, "nt": 1, "t0_out": 0.5, "spread": 100, "offset": 50, "pillars": 1},
    "curved rays": {"physics": "curved", "medium": (1800.0, 0.7), "traces": 20},
    "sharply curved rays": {"physics": "curved", "medium": (1500.0, 4.0), "nt": 200, "traces": 15},
    "curved rays in one velocity": {"physics": "curved", "medium": (2000.0, 0.0), "nt": 200, "traces": 9},
    "vti": {"physics": "vti", "eta": (1, 0.2), "traces": 20},
    "vti at each pillar": {"physics": "vti", "eta": (4, -0.1), "pillars": 4, "nt": 222},
    # Every pair of interpolation and bank or none is compiled by itself: what they share is tested in few pairs.
    "sinc8": {"interpolation": "sinc8", "traces": 20, "nt": 200},
    "sinc8, coarse": {"interpolation": "sinc8", "ratio": 9.0, "nt": 60},
    "sinc8 at both ends": {"interpolation": "sinc8", "start": 0.4, "ns": 150, "nt": 200, "traces": 20},
    "bank, cubic": {"bank": BANK, "interpolation": "cubic", "aperture": None, "spread": 1500.0, "traces": 20},
    "bank, cubic, at each pillar": {"bank": BANK, "interpolation": "cubic", "rows": 4, "nt": 133, "traces": 20},
    "bank, cubic, curved": {"bank": BANK, "interpolation": "cubic", "physics": "curved", "medium": (1800.0, 0.7)},
    "more traces than a batch": {"traces": 75, "ns": 130, "nt": 100},
}
cases = pytest.mark.parametrize("changes", CASES.values(), ids=list(CASES))


def dot(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a.double() * b.double()).sum())


def emulated(*args: Any, **options: Any) -> None:
    metal.demigrate(*args, **options, device=elinvar.device("cpu"))


@cases
def test_agrees_with_float64(changes: dict[str, Any], case: Any, agrees: Any) -> None:
    agrees(cpu.demigrate, case(**changes))


@pytest.mark.gxx
@cases
def test_metal_agrees_with_float64(changes: dict[str, Any], case: Any, agrees: Any, emulator: Any) -> None:
    del emulator  # skips without g++
    agrees(emulated, case(**{"pillars": 3, **changes}))


@cases
def test_dot_products_in_float32(changes: dict[str, Any], case: Any) -> None:
    """<L d, m> = <d, L' m>, of numbers that could cancel and do not agree by being large."""
    (traces, image, *rest), options = case(**changes)
    data = torch.randn(traces.shape, generator=torch.Generator().manual_seed(5))
    migrated = torch.zeros_like(image)
    cpu_v2.migrate(migrated, None, data, *rest, **options)
    cpu.demigrate(traces, image, *rest, **options)
    assert dot(migrated, image) == pytest.approx(dot(data, traces), rel=1e-5)


@cases
def test_dot_products_in_float64(changes: dict[str, Any], case: Any) -> None:
    (traces, image, *rest), options = case(**changes)
    data = torch.randn(traces.shape, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    migrated, modelled = torch.zeros_like(image, dtype=torch.float64), traces.double()
    migration.migrate(migrated, None, data, *rest, **options)
    reference.demigrate(modelled, image.double(), *rest, **options)
    assert dot(migrated, image) == pytest.approx(dot(data, modelled), rel=1e-12)


@pytest.mark.parametrize("seed", range(6))
def test_registered_tiles(seed: int, agrees: Any) -> None:
    tensors, options = demigrate.example(seed)
    agrees(cpu.demigrate, (list(tensors), options))


def test_what_is_registered_is_what_is_launched() -> None:
    version = default_registry.version("seismic.demigrate", "v1")
    assert version.defines == {"SIMDGROUPS": metal.SIMDGROUPS, "PHYSICS": 0}
    assert version.group_size == 32 * metal.SIMDGROUPS


@pytest.mark.parametrize(
    "version", [cpu.demigrate, pytest.param(emulated, marks=pytest.mark.gxx)], ids=["cpu", "metal"]
)
class TestInPlace:
    def test_adds_to_what_is_there(self, version: Callable[..., None], case: Any) -> None:
        (traces, image, source, receiver, pillars, vrms), options = case(pillars=5)
        whole, parts = traces.clone(), traces.clone()
        version(whole, image, source, receiver, pillars, vrms, **options)
        for p in (slice(0, 2), slice(2, 5)):
            version(parts, image[p], source, receiver, pillars[p], vrms, **options)
        torch.testing.assert_close(parts, whole, rtol=1e-4, atol=float(whole.abs().max()) * 1e-5)

    def test_touches_nothing_else(self, version: Callable[..., None], case: Any, agrees: Any) -> None:
        tensors, options = case(traces=21, ns=150, nt=130)
        padded = []
        for x in tensors:
            around = torch.full((len(x) + 2, x.shape[1]), float("nan"), dtype=x.dtype)
            around[1:-1] = x
            padded.append(around)
        inner = [x[1:-1] for x in padded]
        before = [x.clone() for x in padded]
        agrees(version, (inner, options))
        version(*inner, **options)
        for old, new in zip(before, padded, strict=True):
            assert bool(new[[0, -1]].isnan().all())
            if old is not before[0]:
                assert torch.equal(old.nan_to_num(), new.nan_to_num())


def test_threads_and_repeats_do_not_change_a_bit(case: Any) -> None:
    tensors, options = case(traces=75, ns=130, nt=100)
    results = []
    for threads in (1, 3, 1):
        before = set_threads(threads)
        try:
            traces = torch.zeros_like(tensors[0])
            cpu.demigrate(traces, *tensors[1:], **options)
        finally:
            set_threads(before)
        results.append(traces)
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])


@pytest.mark.gxx
def test_large_surveys_are_cut_into_launches(case: Any, agrees: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metal, "_INDEXABLE", 7000)
    agrees(emulated, case(traces=70, ns=100, nt=200, pillars=40, rows=40))


@pytest.mark.gxx
def test_no_races_in_any_order(agrees: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    compile_once = metal.metal.compile

    def racing(*args: Any, **options: Any) -> Any:
        return compile_once(*args, **options, races=True, schedule="random", seed=3)

    monkeypatch.setattr(metal.metal, "compile", racing)
    metal._library.cache_clear()
    try:
        tensors, options = demigrate.example(1)
        agrees(emulated, (list(tensors), options))
    finally:
        metal._library.cache_clear()


def test_run_chooses_a_version_and_returns_the_traces(case: Any) -> None:
    tensors, options = case(traces=12, nt=100)
    want = tensors[0].double()
    reference.demigrate(want, *tensors[1:], **options)
    for version in (None, "v1", "reference"):
        traces = torch.zeros_like(tensors[0])
        assert demigrate.run(traces, *tensors[1:], **options, version=version, device="cpu") is traces
        assert (traces - want).norm() < 2e-4 * want.norm()
    nothing = tensors[1][:0], *tensors[2:4], tensors[4][:0], tensors[5]
    assert demigrate.run(torch.zeros_like(traces), *nothing, **options, device="cpu").abs().sum() == 0


@pytest.mark.parametrize(
    ("index", "change", "words"),
    [
        (0, torch.Tensor.double, "traces is torch.float64"),
        (1, lambda x: x[0], "image is torch.float32 of shape"),
        (2, lambda x: x[:-1], "source has shape"),
        (5, lambda x: -x, "vrms contains values that are not finite and > 0"),
    ],
)
def test_bad_input_is_named_before_anything_is_written(index: int, change: Any, words: str, case: Any) -> None:
    tensors, options = case(traces=4, pillars=3, nt=30)
    tensors[index] = change(tensors[index])
    with pytest.raises(InputError, match=f"seismic.demigrate: {words}"):
        demigrate.run(*tensors, **options, device="cpu")


def test_it_is_the_adjoint_of_what_migrates_by_default(case: Any) -> None:
    """Chosen by name on a CPU, both ends of the pair round alike."""
    (traces, image, *rest), options = case()
    data = torch.randn(traces.shape, generator=torch.Generator().manual_seed(6))
    migrated = migrate.run(torch.zeros_like(image), None, data, *rest, **options, device="cpu")
    modelled = demigrate.run(traces, image, *rest, **options, device="cpu")
    assert dot(migrated, image) == pytest.approx(dot(data, modelled), rel=1e-5)
