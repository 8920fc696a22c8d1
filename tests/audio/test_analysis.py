from __future__ import annotations

import pytest
import torch

from elinvar.audio.kernels.analysis import cpu
from elinvar.errors import InputError
from elinvar.runtime import kernels
from elinvar.runtime.parallel import set_threads


@pytest.mark.parametrize("seed", range(4))
def test_agrees_with_reference(seed: int) -> None:
    report = kernels.check("audio.analysis", "v1", "cpu", seed=seed)
    assert report.ok, report


def test_rows_are_side_by_side() -> None:
    """The same numbers as a transform of each frame in float64."""
    x = torch.randn(1, 2, 700, generator=torch.Generator().manual_seed(0))
    y = cpu.analysis(x, 128)
    window = torch.hann_window(128, dtype=torch.float64)
    frames = torch.fft.rfft(x.double().unfold(-1, 128, 32) * window)[..., :64] / 128**0.5
    want = torch.view_as_real(frames).permute(0, 3, 2, 1, 4).reshape(1, 64, -1, 4)
    assert y.shape == want.shape == (1, 64, 18, 4)
    assert torch.allclose(y.double(), want, atol=1e-6)


def test_same_bits_with_any_number_of_threads() -> None:
    x = torch.randn(1, 1, 9000, generator=torch.Generator().manual_seed(0))
    results = []
    for n in (1, 2):
        before = set_threads(n)
        results.append(cpu.analysis(x, 128))
        set_threads(before)
    assert torch.equal(*results)


def test_refusals() -> None:
    with pytest.raises(InputError, match="128"):
        cpu.analysis(torch.zeros(1, 1, 100), 128)
    with pytest.raises(InputError, match="float64"):
        cpu.analysis(torch.zeros(1, 1, 300, dtype=torch.float64), 128)
