"""Bloom: every implementation against float64, its gain, its symmetry, its manners."""

from __future__ import annotations

import pytest
import torch

from elinvar.errors import InputError
from elinvar.video.kernels import bloom
from elinvar.video.kernels.bloom import cpu, metal, reference


def exact(seed: int) -> list[torch.Tensor]:
    (frame, pyramid, weights), values = bloom.example(seed)
    wide = [p.double() for p in pyramid]
    reference.spread(frame, wide, weights, **values)
    return wide


def agree(pyramid: list[torch.Tensor], want: list[torch.Tensor]) -> bool:
    """Whether every level is what it should be: the registry compares all that a kernel writes."""
    return all((a - b).abs().max() <= 2e-6 * b.abs().max() for a, b in zip(pyramid, want, strict=True))


@pytest.mark.parametrize("seed", range(4))
def test_numba_agrees_with_float64(seed: int) -> None:
    (frame, pyramid, weights), values = bloom.example(seed)
    cpu.spread(frame, pyramid, weights, **values)
    assert agree(pyramid, exact(seed))


@pytest.mark.gxx
@pytest.mark.parametrize("seed", range(4))
def test_metal_agrees_with_float64(seed: int) -> None:
    (frame, pyramid, weights), values = bloom.example(seed)
    metal.spread(frame, pyramid, weights, **values, device="cpu")
    assert agree(pyramid, exact(seed))


@pytest.mark.gxx
@pytest.mark.parametrize(
    ("width", "height", "levels"),
    [(132, 20, 3), (64, 70, 4), (41, 33, 6), (124, 7, 1), (4, 4, 2), (8, 6, 2), (3, 2, 1), (130, 5, 2)],
)
def test_metal_at_every_kind_of_edge(width: int, height: int, levels: int, random_frame) -> None:
    frame = random_frame(height, width, 3.0)
    pyramid = [torch.empty(s) for s in bloom.shapes(width, height, levels)]
    wide, weights = [p.double() for p in pyramid], [0.5 + k for k in range(len(pyramid))]
    values = {"threshold": 0.8, "knee": 0.5, "ceiling": 2.5}
    metal.spread(frame, pyramid, weights, **values, device="cpu")
    reference.spread(frame, wide, weights, **values)
    assert agree(pyramid, wide)


def run(frame: torch.Tensor, levels: int = 6, threshold: float = 0.0, knee: float = 0.0) -> torch.Tensor:
    pyramid = [torch.empty(s) for s in bloom.shapes(frame.shape[2], frame.shape[1], levels)]
    weights = [1 / len(pyramid)] * len(pyramid)
    return bloom.run(frame, pyramid, threshold=threshold, knee=knee, weights=weights, device="cpu")


@pytest.mark.parametrize("levels", [1, 3, 6])
def test_constant_light_keeps_its_level_whatever_the_number_of_levels(levels: int) -> None:
    assert torch.allclose(run(torch.full((3, 96, 130), 0.7), levels), torch.tensor(0.7), rtol=1e-5)


@pytest.mark.parametrize(
    ("value", "want"), [(0.75, 0.031248), (1.0, 0.124994), (1.25, 0.281236), (1.5, 0.5), (2.0, 1.0), (4.0, 3.0)]
)
def test_the_prefilter_has_its_published_values(value: float, want: float) -> None:
    frame = torch.full((3, 8, 8), value)
    assert float(run(frame, 1, 1.0, 0.5)[0, 0, 0]) == pytest.approx(want, rel=3e-5)


def test_a_light_spreads_alike_to_all_sides() -> None:
    frame = torch.zeros(3, 64, 64)
    frame[:, 31:33, 31:33] = 10.0
    glow = run(frame, 4)
    assert torch.allclose(glow, glow.flip(1), atol=1e-6)
    assert torch.allclose(glow, glow.flip(2), atol=1e-6)
    assert torch.allclose(glow, glow.transpose(1, 2), atol=1e-6)
    assert (glow >= 0).all()


def test_nan_and_infinity_do_not_spread() -> None:
    frame = torch.full((3, 32, 32), 0.5)
    frame[0, 3, 3], frame[1, 20, 20], frame[2, 9, 9] = float("nan"), float("inf"), -float("inf")
    assert torch.isfinite(run(frame, 3)).all()


def test_the_whole_frame_blooms_not_a_quarter() -> None:
    frame = torch.zeros(3, 64, 64)
    frame[:, 60, 60] = 50.0
    glow = run(frame, 2)
    assert int(glow[0].argmax()) // 32 >= 28
    assert int(glow[0].argmax()) % 32 >= 28


def test_memory_must_fit() -> None:
    with pytest.raises(InputError, match="pyramid"):
        bloom.run(torch.zeros(3, 8, 8), [torch.zeros(3, 3, 3)], threshold=1, knee=0, weights=[1.0])
