from __future__ import annotations

import pytest
import torch

from elinvar.audio.kernels.analysis import cpu as analysis_cpu
from elinvar.audio.kernels.resynthesis import cpu, reference
from elinvar.errors import InputError
from elinvar.runtime import kernels
from elinvar.runtime.parallel import set_threads


@pytest.mark.parametrize("seed", range(4))
def test_agrees_with_reference(seed: int) -> None:
    report = kernels.check("audio.resynthesis", "v1", "cpu", seed=seed)
    assert report.ok, report


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_16_bits_are_widened_exactly(dtype: torch.dtype) -> None:
    y = torch.randn(2, 128, 11, 6, generator=torch.Generator().manual_seed(0)).to(dtype)
    gain, shift = torch.tensor([0.5, 2.0]), torch.tensor([0.1, -0.3])
    want = reference.resynthesis(y.float(), gain, shift)
    assert torch.allclose(cpu.resynthesis(y, gain, shift), want, atol=1e-6)


def test_undoes_the_analysis() -> None:
    """Up to the Nyquist frequency, which neither sees: of a tone nothing is lost."""
    t = torch.arange(4096, dtype=torch.float64)
    x = torch.stack([torch.sin(0.3 * t), torch.cos(1.1 * t)]).float()[None]
    y = analysis_cpu.analysis(x, 256)
    back = cpu.resynthesis(y, torch.ones(1), torch.zeros(1))
    assert back.shape == (1, 2, 4096)
    assert torch.allclose(back[..., 192:-192], x[..., 192:-192], atol=2e-5)


def test_an_imaginary_part_at_frequency_zero_is_not_heard() -> None:
    y = torch.zeros(1, 64, 4, 2)
    y[:, 0, :, 1] = 1.0
    assert not cpu.resynthesis(y, torch.ones(1), torch.zeros(1)).any()
    assert not reference.resynthesis(y, torch.ones(1), torch.zeros(1)).any()


def test_same_bits_with_any_number_of_threads() -> None:
    y = torch.randn(1, 64, 20, 8, generator=torch.Generator().manual_seed(0))
    results = []
    for n in (1, 2):
        before = set_threads(n)
        results.append(cpu.resynthesis(y, torch.ones(1), torch.ones(1)))
        set_threads(before)
    assert torch.equal(*results)


def test_refusals() -> None:
    with pytest.raises(InputError, match="contiguous"):
        cpu.resynthesis(torch.zeros(1, 4, 3, 3), torch.ones(1), torch.ones(1))
    with pytest.raises(InputError, match="gain"):
        cpu.resynthesis(torch.zeros(1, 4, 3, 2), torch.ones(2), torch.ones(1))
