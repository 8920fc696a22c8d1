"""Every version on the CPU against float64, over shapes, axes, apertures and velocities; and what ``run`` refuses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from elinvar.errors import InputError, UnknownKernel
from elinvar.runtime.parallel import set_threads
from elinvar.seismic.kernels import migrate
from elinvar.seismic.kernels.migrate import RadiusAperture, cpu, cpu_v2, v1, v3

VERSIONS = {"baseline": cpu.migrate, "v1": v1.migrate, "v2": cpu_v2.migrate, "v3": v3.migrate}
HARD = RadiusAperture(tan_dip=0.8, maximum=900.0)
versions = pytest.mark.parametrize("version", VERSIONS.values(), ids=list(VERSIONS))

CASES: dict[str, dict[str, Any]] = {
    "everything on": {},
    "no aperture, and no multiple of a group": {"aperture": None, "traces": 37},
    "no aperture, no weight": {"aperture": None, "amplitude": "none"},
    "hard aperture": {"aperture": HARD},
    "the rim is all of it": {"aperture": RadiusAperture(2.0, 400.0, 100.0, 1.0)},
    "near zero offset": {"offset": 30, "spread": 250},
    "velocity per pillar": {"rows": 5, "nt": 333},
    "recording delay": {"start": 0.4},
    "recording before zero": {"start": -0.05},
    "image from below": {"t0_out": 0.7, "nt": 250},
    "output twice as coarse": {"ratio": 2.0, "nt": 200, "aperture": None},
    "output three times as coarse": {"ratio": 3.0, "nt": 150},
    "output nine times as coarse": {"ratio": 9.0, "nt": 60},
    "output twice as fine": {"ratio": 0.5},
    "an odd ratio": {"ratio": 1.3, "start": 0.013},
    "steep velocity": {"gradient": 4000, "aperture": None},
    "falling velocity": {"gradient": -400, "nt": 300},
    "more blocks than a chunk": {"ns": 2600, "nt": 2300, "dt": 0.001, "traces": 9, "pillars": 2},
    "more traces than a cache block": {"traces": 150, "ns": 130, "nt": 100, "pillars": 3},
    "one trace": {"traces": 1},
    "one sample": {"nt": 1, "t0_out": 0.5},
    "two input samples": {"ns": 2, "nt": 300, "start": 0.6, "spread": 100, "offset": 50},
    "seventeen samples": {"nt": 17, "t0_out": 0.5, "aperture": None},
}


@versions
@pytest.mark.parametrize("changes", CASES.values(), ids=list(CASES))
def test_agrees_with_float64(
    version: Any, changes: dict[str, Any], survey: Callable[..., Any], agrees: Callable[..., None]
) -> None:
    agrees(version, survey(**changes))


@pytest.mark.parametrize("seed", range(4))
@versions
def test_agrees_on_the_registered_tiles(version: Any, seed: int, agrees: Callable[..., None]) -> None:
    tensors, options = migrate.example(seed)
    agrees(version, (list(tensors), options))


@versions
@settings(deadline=None, max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    sizes=st.tuples(st.integers(1, 70), st.integers(2, 300), st.integers(1, 200), st.integers(1, 9)),
    ratio=st.sampled_from([0.5, 1.0, 1.7, 2.5]),
    start=st.floats(-0.2, 0.5),
    t0_out=st.floats(0, 0.6),
    taper=st.floats(0, 1),
    seed=st.integers(0, 1000),
)
def test_agrees_for_any_shape(
    version: Any, survey: Any, expected: Any, agrees: Any, sizes: tuple[int, ...], ratio: float, start: float,
    t0_out: float, taper: float, seed: int,
) -> None:  # fmt: skip
    traces, ns, nt, pillars = sizes
    aperture = RadiusAperture(1.2, 800.0, 50.0, taper)
    case = survey(
        traces=traces,
        ns=ns,
        nt=nt,
        pillars=pillars,
        ratio=ratio,
        start=start,
        t0_out=t0_out,
        aperture=aperture,
        seed=seed,
    )
    # Few contributions do not average: a lone sample at the very end of a trace is a whole one more or less (see
    # `agrees`), and the weight's allowance is that of a zero-offset trace, which a few far and shallow ones are not.
    agrees(version, case, tolerance=2e-4 if expected(case)[1].sum() > 2000 else 2e-3)


@pytest.mark.parametrize("kind", ["kink", "step", "noise"])
@versions
def test_velocities_that_are_not_smooth(kind: str, version: Any, survey: Any, agrees: Any) -> None:
    case = survey(aperture=None)
    vrms = case[0][6]
    nt = vrms.shape[1]
    if kind == "kink":
        vrms[0, nt // 3 :] += 4.0 * torch.arange(nt - nt // 3)
    elif kind == "step":
        vrms[0, nt // 3 + 5 :] += 400.0
    else:
        vrms += 300 * torch.rand(vrms.shape, generator=torch.Generator().manual_seed(1))
    agrees(version, case)


@versions
def test_adds_to_what_is_there(version: Any, survey: Any) -> None:
    tensors, options = survey(traces=40)
    image, fold, data, source, receiver, pillars, vrms = tensors
    version(image, fold, data, source, receiver, pillars, vrms, **options)
    parts, counts = torch.zeros_like(image), torch.zeros_like(fold)
    for k in (slice(0, 13), slice(13, 40)):
        version(parts, counts, data[k], source[k], receiver[k], pillars, vrms, **options)
    assert torch.equal(counts, fold)
    torch.testing.assert_close(parts, image, rtol=1e-4, atol=float(image.abs().max()) * 1e-5)
    alone = torch.zeros_like(image)
    version(alone, None, data, source, receiver, pillars, vrms, **options)
    assert torch.equal(alone, image)


@versions
def test_touches_nothing_else(version: Any, survey: Any, agrees: Any) -> None:
    """Neighbours of the output stay as they are, neighbours of the input are never used."""
    tensors, options = survey(traces=21, ns=150, nt=130)
    padded = []
    for x in tensors:
        around = torch.full((len(x) + 2, x.shape[1]), float("nan") if x.is_floating_point() else -7, dtype=x.dtype)
        around[1:-1] = x
        padded.append(around)
    inner = [x[1:-1] for x in padded]
    agrees(version, (inner, options))
    before = [x.clone() for x in padded]
    version(*inner, **options)
    for old, new in zip(before, padded, strict=True):
        assert torch.equal(old[[0, -1]].nan_to_num(), new[[0, -1]].nan_to_num())
    for old, new in zip(before[2:], padded[2:], strict=True):
        assert torch.equal(old.nan_to_num(), new.nan_to_num())


@versions
def test_threads_do_not_change_a_bit(version: Any, survey: Any) -> None:
    tensors, options = survey(pillars=30, traces=20, nt=100)
    images = []
    for threads in (1, 3):
        before = set_threads(threads)
        try:
            image = torch.zeros_like(tensors[0])
            version(image, None, *tensors[2:], **options)
        finally:
            set_threads(before)
        images.append(image)
    assert torch.equal(*images)


def test_run_chooses_a_version_and_returns_the_image(survey: Any, expected: Any) -> None:
    case = survey(traces=12, nt=100)
    want, _ = expected(case)
    for version in (None, "baseline", "v1", "v2", "v3", "reference"):
        image = torch.zeros_like(case[0][0])
        assert migrate.run(image, None, *case[0][2:], **case[1], version=version, device="cpu") is image
        assert (image - want).norm() < 2e-4 * want.norm()
    with pytest.raises(UnknownKernel, match="v99"):
        migrate.run(*case[0], **case[1], version="v99", device="cpu")


@pytest.mark.parametrize(("index", "rows"), [(2, 0), (5, 0)])
def test_nothing_to_do(index: int, rows: int, survey: Any) -> None:
    tensors, options = survey(traces=3, pillars=2, nt=20)
    for i in {2: (2, 3, 4), 5: (0, 1, 5)}[index]:
        tensors[i] = tensors[i][:rows]
    assert migrate.run(*tensors, **options, device="cpu").abs().sum() == 0


def replaced(i: int, change: Callable[[torch.Tensor], Any]) -> Callable[[list[Any], dict[str, Any]], None]:
    def apply(tensors: list[Any], options: dict[str, Any]) -> None:
        tensors[i] = change(tensors[i])

    return apply


def option(name: str, value: Any) -> Callable[[list[Any], dict[str, Any]], None]:
    return lambda tensors, options: options.__setitem__(name, value)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (replaced(0, torch.Tensor.double), "image is torch.float64"),
        (replaced(1, torch.Tensor.long), "fold is torch.int64"),
        (replaced(2, lambda x: x.numpy()), "traces is ndarray"),
        (replaced(2, lambda x: x[0]), "traces is torch.float32 of shape"),
        (replaced(2, lambda x: x[:, ::2]), "traces .* not contiguous"),
        (replaced(2, lambda x: x[:, :1].contiguous()), "at least 2"),
        (replaced(3, lambda x: x[:-1]), "source has shape"),
        (replaced(4, lambda x: x.to("meta")), "receiver is on meta"),
        (replaced(5, lambda x: x[:, :1].contiguous()), "pillars has shape"),
        (replaced(6, lambda x: x[:, :-1].contiguous()), "vrms has shape"),
        (replaced(6, lambda x: -x), "finite and > 0"),
        (replaced(6, lambda x: x * float("nan")), "finite and > 0"),
        (option("dt", 0.0), "dt is 0"),
        (option("dt_out", float("nan")), "dt_out is nan"),
        (option("start", float("inf")), "start is inf"),
        (option("t0_out", -0.1), "t0_out is -0.1"),
        (option("amplitude", "half"), "'half'; choose one of true, none"),
        (option("area", -1.0), "area is -1"),
    ],
)
def test_bad_input_is_named_before_anything_is_written(spoil: Any, words: str, survey: Any) -> None:
    tensors, options = survey(traces=4, pillars=3, nt=30, rows=3)
    spoil(tensors, options)
    with pytest.raises(InputError, match=words):
        migrate.run(*tensors, **options, device="cpu")
