"""The baseline with everything that bounds or lifts contributions, against the float64 reference; and its transpose."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from elinvar.errors import InputError
from elinvar.runtime.kernels import kernel
from elinvar.seismic.kernels import demigrate, migrate
from elinvar.seismic.kernels.demigrate import reference as transposed
from elinvar.seismic.kernels.migrate import Bank, Limits, Relief, baseline_metal, general, reference

LIMITS = Limits(x=400.0, y=300.0, tan_leg=1.7, minimum=50.0, stretch=1.3, taper=0.3)


def tile(seed: int) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """A tile of the kernel's with limits, mutes and relief, in varying company."""
    args, options = migrate.example(seed)
    image, fold, traces, source, receiver, pillars, vrms = args
    make = torch.Generator().manual_seed(seed)
    n = len(traces)
    options |= {"physics": "straight", "medium": None, "eta": None}
    if seed == 4:
        options |= {"physics": "curved", "medium": (1800.0, 0.6)}
    elif seed in (5, 11):
        options |= {"physics": "vti", "eta": (0.02 + 0.1 * torch.rand(1, vrms.shape[1], generator=make)).sort(1).values}
    if seed % 2:
        options["interpolation"] = "sinc8"
    if seed in (2, 5):
        options["bank"] = Bank(5, 70.0, 50.0)
        traces = torch.randn(n, 5 * traces.shape[1], generator=make)
    if seed != 3:
        options["limits"] = LIMITS
    if seed != 1:
        options["mute"] = torch.stack([torch.rand(n, generator=make) * 0.2, torch.rand(n, generator=make)], 1)
    if seed:
        level = torch.rand(len(pillars) if seed % 2 else 1, generator=make) * 50
        replacement = None if options.get("physics") == "curved" else 1500.0
        options["relief"] = Relief(torch.rand(n, 2, generator=make) * 200 - 50, level, replacement)
    return (image, fold, traces, source, receiver, pillars, vrms), options


@pytest.mark.parametrize("seed", range(7))
def test_is_the_reference(seed: int, relative: Any) -> None:
    (image, fold, *rest), options = tile(seed)
    found = [(torch.zeros_like(image), torch.zeros_like(fold)) for _ in range(2)]
    for made, run in zip(found, (reference.migrate, general.migrate), strict=True):
        run(*made, *rest, **options)
    assert found[0][1].sum() > 1000
    assert torch.equal(found[0][1], found[1][1])
    assert torch.isfinite(found[0][0]).all()
    assert relative(found[1][0].numpy(), found[0][0].numpy()) < 1e-5
    if options.get("physics") == "curved" and "relief" in options:
        return  # of curved rays from elevations there is no .metal
    on_gpu = torch.zeros_like(image), torch.zeros_like(fold)
    known = found[0]
    baseline_metal.migrate(*on_gpu, *rest, **options, device="cpu")
    assert torch.equal(on_gpu[1], known[1])
    assert relative(on_gpu[0].numpy(), known[0].numpy()) < 2e-4
    without = torch.zeros_like(image)
    general.migrate(without, None, *rest, **options)
    assert torch.equal(without, found[1][0])


@pytest.mark.parametrize("seed", [0, 1, 4, 5])
def test_its_transpose(seed: int, relative: Any) -> None:
    (image, _, traces, *rest), options = tile(seed)
    m = torch.randn(image.shape, generator=torch.Generator().manual_seed(seed))
    made, known, there = torch.zeros_like(traces), torch.zeros_like(traces), torch.zeros_like(image)
    general.demigrate(made, m, *rest, **options)
    transposed.demigrate(known, m, *rest, **options)
    general.migrate(there, None, traces, *rest, **options)
    assert relative(made.numpy(), known.numpy()) < 1e-5
    left, right = (there.double() * m).sum(), (made.double() * traces).sum()
    usual = there.double().norm() * m.double().norm() / m.numel() ** 0.5
    assert abs(left - right) < 1e-6 * max(abs(left), usual)


def test_reached_by_name() -> None:
    args, options = tile(0)
    known = torch.zeros_like(args[0])
    reference.migrate(known, None, *args[2:], **options)
    for version in ("baseline", "reference"):
        image = torch.zeros_like(args[0])
        migrate.run(image, None, *args[2:], **options, version=version, device="cpu")
        assert torch.allclose(image, known, rtol=1e-4, atol=1e-4 * float(known.abs().max()))
    made = torch.zeros_like(args[2])
    demigrate.run(made, known, *args[3:], **options, version="baseline", device="cpu")
    assert made.abs().max() > 0


@pytest.mark.parametrize("seed", [6, 11])
def test_v2_and_v3_do_all_but_angles_zones_and_curved_relief(seed: int, relative: Any) -> None:
    (image, fold, traces, *rest), options = tile(seed)
    make = torch.Generator().manual_seed(seed)
    until = torch.rand(len(traces), generator=make, dtype=torch.float64)
    options["mute"] = torch.stack([torch.full_like(until, -math.inf), until], 1)
    options["limits"] = Limits(x=400.0, y=300.0, taper=0.3 * (seed != 4))
    options.pop("interpolation", None)  # one specialisation of the code for both
    known, count = torch.zeros_like(image), torch.zeros_like(fold)
    reference.migrate(known, count, traces, *rest, **options)
    assert count.sum() > 500
    for version in ("v2", "v3"):
        made, counted = torch.zeros_like(image), torch.zeros_like(fold)
        migrate.run(made, counted, traces, *rest, **options, version=version, device="cpu")
        assert relative(made.numpy(), known.numpy()) < 2e-4
        assert torch.equal(counted, count)
    m = torch.randn(image.shape, generator=make)
    back, wanted = torch.zeros_like(traces), torch.zeros_like(traces)
    demigrate.run(back, m, *rest, **options, version="v1", device="cpu")
    transposed.demigrate(wanted, m, *rest, **options)
    assert relative(back.numpy(), wanted.numpy()) < 2e-4


@pytest.mark.parametrize(
    ("name", "words"),
    [("limits", "limits of angles"), ("mute", "behind the first sample"), ("relief", "curved legs from elevations")],
)
def test_versions_that_cannot_are_refused_by_name(name: str, words: str) -> None:
    args, options = tile(4 if name == "relief" else 2)
    plain = {key: value for key, value in options.items() if key not in ("limits", "mute", "relief")}
    for version in ("v2", "v3"):
        with pytest.raises(NotImplementedError, match=rf"version {version} does not do .*{words}.*; choose baseline"):
            migrate.require(version, **migrate.asked(**{name: options[name]}))
    with pytest.raises(NotImplementedError, match="version v1 does not do"):
        migrate.require("v1", **migrate.asked(**{name: options[name]}))
    with pytest.raises(NotImplementedError, match=f"version v2 does not do .*{words}"):
        migrate.run(*args, **plain, **{name: options[name]}, version="v2", device="cpu")
    made = torch.zeros_like(args[2])
    with pytest.raises(NotImplementedError, match=words):
        demigrate.run(made, args[0], *args[3:], **plain, **{name: options[name]}, version="v1", device="cpu")


def test_on_a_gpu_fewer_versions_can() -> None:
    curved = migrate.asked(relief=Relief(torch.zeros(1, 2), torch.zeros(1), None))
    with pytest.raises(NotImplementedError, match=r"version baseline does not do curved legs .*; choose reference"):
        migrate.require("baseline", backend="metal", **curved)
    migrate.require("reference", backend="reference", **curved)
    migrate.require("baseline", backend="metal", interpolation="cubic", **migrate.asked(limits=LIMITS))
    with pytest.raises(NotImplementedError, match="version v2 does not do mute; choose baseline"):
        migrate.require("v2", backend="metal", mute=torch.zeros(1, 2))


def test_wrong_mutes_and_reliefs_are_named() -> None:
    args, options = tile(2)
    with pytest.raises(InputError, match="mute has shape"):
        migrate.run(*args, **{**options, "mute": torch.zeros(3, 2)}, version="baseline", device="cpu")
    wrong = options["relief"]._replace(heights=torch.zeros(1, 2))
    with pytest.raises(InputError, match="relief has heights"):
        migrate.run(*args, **{**options, "relief": wrong}, version="baseline", device="cpu")


def test_what_is_plain_is_left_to_the_plain_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(general, "migrate", lambda *_, **__: pytest.fail("general loop for a plain job"))
    args, options = migrate.example(0)
    kernel(migrate.NAME, "cpu", "baseline")(*args, **options)
