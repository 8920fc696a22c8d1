from __future__ import annotations

import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from elinvar.audio._runner import fill
from elinvar.audio._segments import Grid, groups, overlap_add
from elinvar.audio.htdemucs import HTDemucs
from elinvar.audio.separation import separate
from elinvar.errors import InputError, WeightsError

Make = Callable[..., HTDemucs]
RATE = 800


@pytest.fixture(scope="module")
def mix() -> torch.Tensor:
    return 0.3 * torch.randn(2, 4321, generator=torch.Generator().manual_seed(5))


def relative(got: torch.Tensor, want: torch.Tensor) -> float:
    return float((got - want).double().norm() / want.double().norm())


def plain_separation(model: HTDemucs, mix: torch.Tensor, overlap: float, power: float, segment: int) -> torch.Tensor:
    """The same, spelled out with everything in memory."""
    window, length = model.length, mix.shape[1]
    stride = int((1 - overlap) * segment)
    half = segment // 2
    w = torch.cat([torch.arange(1, half + 1), torch.arange(segment - half, 0, -1)]).float()
    w = (w / w.max()) ** power
    total, weights = torch.zeros(len(model.sources), 2, length), torch.zeros(length)
    wide = torch.nn.functional.pad(mix, (window, window))
    for start in range(0, length, stride):
        n = min(segment, length - start)
        begin = start - (window - n) // 2
        with torch.no_grad():
            out = model(wide[None, :, window + begin : 2 * window + begin])[0]
        out = out[..., start - begin : start - begin + n]
        total[..., start : start + n] += w[:n] * out
        weights[start : start + n] += w[:n]
    return total / weights


@pytest.mark.parametrize(("overlap", "power", "segment"), [(0.25, 1.0, 1.5), (0.6, 2.0, 1.0), (0.0, 1.0, 1.5)])
def test_equals_the_formula(
    tiny_htdemucs: HTDemucs, mix: torch.Tensor, overlap: float, power: float, segment: float
) -> None:
    options = {"overlap": overlap, "transition_power": power, "segment": segment, "normalise": False}
    got = separate(mix, RATE, tiny_htdemucs, device="cpu", **options)
    want = plain_separation(tiny_htdemucs, mix, overlap, power, round(segment * RATE))
    assert list(got) == ["voice", "rest"]
    assert relative(torch.stack(list(got.values())), want) < 1e-6


def test_levels_are_taken_out_and_given_back(tiny_htdemucs: HTDemucs, mix: torch.Tensor) -> None:
    """As the field's tools do it: mean and unbiased deviation of the mono mix of the whole track."""
    quiet = 1e-4 * mix + 0.01
    mono = quiet.double().mean(0)
    mean, deviation = mono.mean(), mono.std()
    inside = separate(((quiet - mean) / deviation).float(), RATE, tiny_htdemucs, device="cpu", normalise=False)["rest"]
    got = separate(quiet, RATE, tiny_htdemucs, device="cpu")["rest"]
    # What float32 keeps of a signal of 1e-4 beside a constant of 0.01 sets the tolerance.
    assert relative(got - mean, inside * deviation) < 2e-4
    assert (
        relative(separate(quiet, RATE, tiny_htdemucs, device="cpu", normalise=False)["rest"] - mean, got - mean) > 2e-3
    )


@pytest.mark.parametrize("value", [0.0, 0.25])
def test_constants_have_no_level(tiny_htdemucs: HTDemucs, value: float) -> None:
    flat = torch.full((2, 3000), value)
    out = separate(flat, RATE, tiny_htdemucs, device="cpu")["rest"]
    assert torch.equal(out, separate(flat, RATE, tiny_htdemucs, device="cpu", normalise=False)["rest"])
    assert bool(out.isfinite().all())


def test_shifts_average_shifted_grids(tiny_htdemucs: HTDemucs, mix: torch.Tensor) -> None:
    as_is = {"device": "cpu", "normalise": False}
    one = separate(mix, RATE, tiny_htdemucs, shifts=2, seed=4, **as_is)["voice"]
    assert torch.equal(one, separate(mix, RATE, tiny_htdemucs, shifts=2, seed=4, **as_is)["voice"])
    assert not torch.equal(one, separate(mix, RATE, tiny_htdemucs, shifts=2, seed=5, **as_is)["voice"])
    grid = Grid.make(4321, 1200, RATE, segment=None, overlap=0.25, shifts=2, seed=4, power=1.0)
    assert all(-400 <= origin <= 0 for origin in grid.origins)
    parts = []
    for origin in grid.origins:  # each shift alone: the same audio with silence before it
        wide = torch.nn.functional.pad(mix, (-origin, 0))
        parts.append(separate(wide, RATE, tiny_htdemucs, **as_is)["voice"][:, -origin:])
    assert relative(one, (parts[0] + parts[1]) / 2) < 1e-6


@pytest.mark.parametrize("batch", [1, 3, 50])
@pytest.mark.parametrize("shifts", [0, 3])
@pytest.mark.parametrize("length", [1, 999, 1200, 5000])
def test_joining_gives_back_what_went_in(batch: int, shifts: int, length: int) -> None:
    """With a network that copies, every weighting, shift and batch is the identity."""
    x = torch.randn(2, length, generator=torch.Generator().manual_seed(0))
    grid = Grid.make(length, 1200, RATE, segment=1.1, overlap=0.3, shifts=shifts, seed=1, power=1.5)
    asked: list[int] = []

    def read(start: int, stop: int) -> torch.Tensor:
        asked.append(start)
        assert start >= max(asked) - grid.reach
        inside = x[:, max(0, start) : max(0, stop)]
        return torch.nn.functional.pad(inside, (max(0, -start), stop - max(0, start) - inside.shape[1]))

    done: list[int] = []
    parts = list(overlap_add(grid, read, lambda w: w[:, None], batch=batch, progress=lambda n, total: done.append(n)))
    assert [start for start, _ in parts] == [0, *np.cumsum([p.shape[-1] for _, p in parts])[:-1].tolist()]
    assert torch.allclose(torch.cat([p for _, p in parts], dim=-1)[0], x, atol=2e-6)
    assert len(asked) == grid.runs
    assert done == sorted(done)
    assert done[-1] == length


def test_small_batches_are_filled_where_that_costs_nothing() -> None:
    gpu: Any = types.SimpleNamespace(kind="cuda")
    cpu: Any = types.SimpleNamespace(kind="cpu")
    found = [fill(n, 16, torch.float16, gpu) for n in (1, 5, 8, 9, 15, 16)]
    assert found == [8, 8, 8, 16, 16, 16]
    assert fill(3, 5, torch.bfloat16, gpu) == 5  # never more than were asked for
    assert fill(3, 1, torch.float16, gpu) == 3
    assert fill(5, 16, torch.float32, gpu) == 5
    assert fill(5, 16, torch.bfloat16, cpu) == 5


@pytest.mark.parametrize(("batch", "sizes"), [(16, [16, 5]), (1, [1] * 21), (40, [21]), (7, [7, 7, 7])])
def test_runs_in_groups(batch: int, sizes: list[int]) -> None:
    grid = Grid.make(21 * 900, 1200, RATE, segment=None, overlap=0.25, shifts=0, seed=0, power=1.0)
    found = list(groups(grid, batch))
    assert [len(group) for group in found] == sizes
    assert [place for group in found for place in group] == list(grid.places())


def test_shapes_and_kinds(tiny_htdemucs: HTDemucs, mix: torch.Tensor) -> None:
    want = separate(mix, RATE, tiny_htdemucs, device="cpu")["rest"]
    stacked = torch.stack([mix, -mix])
    several = separate(stacked[None], RATE, tiny_htdemucs, device="cpu")["rest"]
    assert several.shape == (1, 2, 2, 4321)
    assert torch.equal(several[0, 0], want)
    double = separate(mix.double().numpy(), RATE, tiny_htdemucs, device="cpu")["rest"]
    assert torch.equal(double, want)
    integers = (mix.clamp(-1, 1) * 32767).to(torch.int16)
    whole = separate(integers.float() / 32768, RATE, tiny_htdemucs, device="cpu")["rest"]
    assert relative(separate(integers, RATE, tiny_htdemucs, device="cpu")["rest"], whole) < 1e-6
    mono = separate(mix[0], RATE, tiny_htdemucs, device="cpu")["rest"]
    assert mono.shape == (4321,)
    both = separate(mix[:1].expand(2, -1), RATE, tiny_htdemucs, device="cpu")["rest"]
    assert torch.allclose(mono, both.mean(0), atol=1e-6)


@pytest.mark.parametrize("length", [0, 1])
def test_hardly_any_audio(tiny_htdemucs: HTDemucs, length: int) -> None:
    out = separate(torch.zeros(2, length), RATE, tiny_htdemucs, device="cpu")
    assert {name: stem.shape for name, stem in out.items()} == dict.fromkeys(("voice", "rest"), (2, length))


def test_other_rates_come_back_at_their_own(tiny_htdemucs: HTDemucs) -> None:
    soxr = pytest.importorskip("soxr")
    t = torch.arange(9000) / 1600
    x = 0.3 * torch.sin(2 * torch.pi * 50 * t)[None].repeat(2, 1)
    out = separate(x, 1600, tiny_htdemucs, device="cpu", normalise=False)["voice"]
    low = torch.from_numpy(soxr.resample(x.T.numpy(), 1600, RATE, "VHQ").T.copy())
    want = separate(low, RATE, tiny_htdemucs, device="cpu", normalise=False)["voice"]
    assert out.shape == x.shape
    assert np.allclose(out.T.numpy(), soxr.resample(want.T.numpy(), RATE, 1600, "VHQ")[: len(out.T)], atol=1e-6)


def test_bag_takes_each_stem_from_its_model(make_htdemucs: Make, mix: torch.Tensor) -> None:
    from elinvar.audio.htdemucs_weights import Bag

    a, b = make_htdemucs(1), make_htdemucs(2)
    out = separate(mix, RATE, Bag([a, b], [[1.0, 0.0], [0.0, 1.0]]), device="cpu")
    assert relative(out["voice"], separate(mix, RATE, a, device="cpu")["voice"]) < 1e-6
    assert relative(out["rest"], separate(mix, RATE, b, device="cpu")["rest"]) < 1e-6
    mean = separate(mix, RATE, Bag([a, b]), device="cpu")["rest"]
    assert relative(mean, (out["rest"] + separate(mix, RATE, a, device="cpu")["rest"]) / 2) < 1e-6
    with pytest.raises(InputError, match="positive"):
        Bag([a, b], [[1.0, 0.0], [1.0, 0.0]])


def test_precisions_and_modes(tiny_htdemucs: HTDemucs, mix: torch.Tensor) -> None:
    want = separate(mix, RATE, tiny_htdemucs, device="cpu")["voice"]
    assert 1e-5 < relative(separate(mix, RATE, tiny_htdemucs, device="cpu", precision="auto")["voice"], want) < 3e-2
    assert relative(separate(mix, RATE, tiny_htdemucs, device="cpu", mode="preview")["voice"], want) > 0.05
    assert tiny_htdemucs.compute == torch.float32


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"wave": torch.zeros(3, 100)}, "channels"),
        ({"wave": torch.full((2, 50), float("nan"))}, "NaN"),
        ({"wave": torch.zeros(2, 50, dtype=torch.int8)}, "int8"),
        ({"wave": torch.zeros(())}, "one number"),
        ({"overlap": 1.0}, "overlap"),
        ({"shifts": -1}, "shifts"),
        ({"segment": 2.0}, "segment"),
        ({"mode": "fast"}, "preview"),
        ({"precision": "int8"}, "precision"),
        ({"sample_rate": 0}, "sample_rate"),
        ({"batch": 0}, "batch"),
    ],
)
def test_bad_input(tiny_htdemucs: HTDemucs, changes: dict[str, object], says: str) -> None:
    options = {"wave": torch.zeros(2, 100), "sample_rate": RATE, "model": tiny_htdemucs, "device": "cpu", **changes}
    with pytest.raises(InputError, match=says):
        separate(**options)


def test_a_model_that_is_not_there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("ELINVAR_WEIGHTS", str(tmp_path))
    monkeypatch.setenv("ELINVAR_CACHE", str(tmp_path / "cache"))
    with pytest.raises(WeightsError, match=r"dl\.fbaipublicfiles\.com.*955717e8-8726e21a\.th"):
        separate(torch.zeros(2, 10), 44100, "htdemucs")


def test_published_grid() -> None:
    """Twelve seconds through the published network: the segments of its reference vectors."""
    grid = Grid.make(529200, 343980, 44100, segment=None, overlap=0.25, shifts=0, seed=0, power=1.0)
    assert [place.start for place in grid.places()] == [0, 257985, 515970]
    assert grid.triangle()[0] == pytest.approx(1 / 171990)
    assert grid.triangle().argmax() in (171989, 171990)
