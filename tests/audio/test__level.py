from __future__ import annotations

import numpy as np
import pytest
import torch

from elinvar.audio._level import Level
from elinvar.audio.files import BLOCK


@pytest.fixture(scope="module")
def track() -> torch.Tensor:
    return 0.2 + 0.1 * torch.randn(2, 2 * BLOCK + 77, generator=torch.Generator().manual_seed(0))


def test_is_that_of_the_mono_mix(track: torch.Tensor) -> None:
    level = Level.of_tensor(track)
    mono = track.double().mean(0)
    assert level.mean == pytest.approx(float(mono.mean()), rel=1e-7)
    assert level.deviation == pytest.approx(float(mono.std()), rel=1e-7)


def test_blocks_and_tensors_give_the_same_bits(track: torch.Tensor) -> None:
    samples = track.numpy()
    blocks = [samples[:, at : at + BLOCK] for at in range(0, samples.shape[1], BLOCK)]
    level = Level.of(blocks)
    assert level == Level.of_tensor(track)
    taken = np.concatenate(list(level.take_from(blocks)), axis=1)
    assert taken.dtype == np.float32
    assert np.array_equal(taken, level.take(track).numpy())
    assert torch.allclose(level.give(level.take(track)), track, atol=1e-6)


@pytest.mark.parametrize("n", [0, 1, 5000])
@pytest.mark.parametrize("value", [0.0, 0.3, -7e4])
def test_constants_have_none(n: int, value: float) -> None:
    flat = torch.full((2, n), value)
    assert Level.of_tensor(flat) == Level()
    assert Level().take(flat) is flat
    assert Level().give(flat) is flat


def test_a_faint_sound_on_a_constant_has_one() -> None:
    x = torch.full((1, 9000), 0.5)
    x[:, ::2] += 1e-4
    assert Level.of_tensor(x).deviation == pytest.approx(5e-5, rel=1e-3)
