from __future__ import annotations

import pytest
import torch

from elinvar.audio.kernels.exponentials import cpu, reference
from elinvar.errors import InputError
from elinvar.runtime import kernels
from elinvar.runtime.parallel import set_threads


@pytest.mark.parametrize("seed", range(4))
def test_agrees_with_reference(seed: int) -> None:
    report = kernels.check("audio.exponentials", "v1", "cpu", seed=seed)
    assert report.ok, report


def test_bfloat16_is_the_exact_answer_rounded_and_weights_add_up_to_one() -> None:
    scores = 4.0 * torch.randn(37, 500, generator=torch.Generator().manual_seed(0)).bfloat16()
    want = reference.exponentials(scores.double(), 0.125)[0]
    got, reciprocals = cpu.exponentials(scores, 0.125)
    assert got.data_ptr() == scores.data_ptr()
    assert got.dtype == torch.bfloat16
    assert bool(((got.double() - want).abs() <= 1.02 * 2**-9 * 2 * want).all())
    assert torch.allclose(got.double().sum(1) * reciprocals, torch.ones(37, dtype=torch.float64), atol=1e-6)


def test_every_exponential_is_exact_to_half_a_millionth() -> None:
    scores = torch.linspace(-80.0, 0.0, 20_001)[None]
    got = cpu.exponentials(scores.clone(), 1.0)[0].double()
    want = scores.double().exp()
    # An error of the argument is one of the result: float32 keeps -80 to 4e-6.
    assert bool(((got - want).abs() <= want * (5e-7 + 1.2e-7 * scores.double().abs())).all())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_ends_of_the_range(dtype: torch.dtype) -> None:
    """Negative rows, signed zeros, infinities among numbers, what underflows."""
    rows = torch.tensor([[-3.0, -1.0, -2.0], [0.0, -0.0, -1e30], [1e30, -1e30, 0.0], [5.0, float("-inf"), 5.0]])
    got, reciprocals = cpu.exponentials(rows.to(dtype, copy=True), 1.0)
    atol = 1e-30 if dtype == torch.float32 else 2e-3
    assert torch.allclose(got.float() * reciprocals[:, None], torch.softmax(rows, 1), atol=atol, rtol=1e-2)


def test_nan_stays_in_its_row() -> None:
    rows = torch.randn(3, 40)
    rows[1, 7] = float("nan")
    got, reciprocals = cpu.exponentials(rows, 1.0)
    assert (got * reciprocals[:, None]).isnan().all(1).tolist() == [False, True, False]


def test_same_bits_with_any_number_of_threads() -> None:
    scores = torch.randn(300, 50, generator=torch.Generator().manual_seed(0))
    results = []
    for n in (1, 2):
        before = set_threads(n)
        results.append(torch.cat([x.flatten() for x in cpu.exponentials(scores.clone(), 1.0)]))
        set_threads(before)
    assert torch.equal(*results)


def test_refusals() -> None:
    with pytest.raises(InputError, match="contiguous"):
        cpu.exponentials(torch.zeros(4, 6)[:, ::2])
    with pytest.raises(InputError, match="float64"):
        cpu.exponentials(torch.zeros(4, 6, dtype=torch.float64))
