from __future__ import annotations

import pytest
import torch

from elinvar.audio.kernels.gate import cpu, reference
from elinvar.errors import InputError
from elinvar.runtime import kernels
from elinvar.runtime.parallel import set_threads


@pytest.mark.parametrize("name", ["audio.gate", "audio.norm_gelu"])
@pytest.mark.parametrize("seed", range(4))
def test_agrees_with_reference(name: str, seed: int) -> None:
    report = kernels.check(name, "v1", "cpu", seed=seed)
    assert report.ok, report


def rows(channels: int) -> dict[str, torch.Tensor]:
    make = torch.Generator().manual_seed(1)
    weight, bias, scale = (torch.randn(n * channels, generator=make) for n in (2, 2, 1))
    return {"weight": weight, "bias": bias, "scale": scale}


@pytest.mark.parametrize("shape", [(1, 1, 5000, 24), (2, 3, 11, 24)])
@pytest.mark.parametrize("norm", [True, False])
def test_bfloat16_is_the_float32_answer_rounded(shape: tuple[int, ...], norm: bool) -> None:
    y = torch.randn(shape, generator=torch.Generator().manual_seed(0)).bfloat16()
    into = torch.randn(*shape[:-1], 12, generator=torch.Generator().manual_seed(2)).bfloat16() if norm else None
    options = rows(12) if norm else {}
    wide = reference.gate(y.double(), None if into is None else into.double(), **options)
    got = cpu.gate(y, into, **options)
    assert got.dtype == torch.bfloat16
    spacing = torch.maximum(wide.abs(), torch.tensor(2.0**-10)) * 2**-8  # half a unit in the last place, and a little
    assert bool(((got.double() - wide).abs() <= 1.02 * spacing).all())


def test_same_bits_with_any_number_of_threads() -> None:
    y = torch.randn(1, 1, 9000, 24, generator=torch.Generator().manual_seed(0))
    results = []
    for n in (1, 2):
        before = set_threads(n)
        results.append(cpu.gate(y, torch.zeros(1, 1, 9000, 12), **rows(12)))
        set_threads(before)
    assert torch.equal(*results)


def test_nan_stays_in_its_sequence() -> None:
    y = torch.randn(1, 3, 7, 8)
    y[0, 1, 2, 3] = float("nan")
    out = cpu.gate(y, torch.zeros(1, 3, 7, 4), **rows(4))
    assert out[0, 1].isnan().all()
    assert not out[0, [0, 2]].isnan().any()


def test_large_gates_saturate() -> None:
    y = torch.tensor([[[[3.0, 3.0, 1e4, -1e4]]]])
    assert cpu.gate(y).tolist() == [[[[3.0, pytest.approx(0.0, abs=1e-30)]]]]


def test_refusals() -> None:
    with pytest.raises(InputError, match="contiguous"):
        cpu.gate(torch.zeros(1, 2, 3, 5))
    with pytest.raises(InputError, match="weight"):
        cpu.gate(torch.zeros(1, 2, 3, 4), torch.zeros(1, 2, 3, 2), weight=torch.zeros(3), bias=torch.zeros(4))
    with pytest.raises(InputError, match="into"):
        cpu.gate(torch.zeros(1, 2, 3, 4), torch.zeros(1, 2, 3, 3))


def test_norm_gelu_in_bfloat16_and_with_threads() -> None:
    y = torch.randn(1, 1, 30000, 6, generator=torch.Generator().manual_seed(0))
    weight, bias = torch.ones(6), torch.zeros(6)
    want = reference.norm_gelu(y.bfloat16().double(), weight, bias)
    assert torch.allclose(cpu.norm_gelu(y.bfloat16(), weight, bias).double(), want, atol=1e-3, rtol=2**-8)
    results = []
    for n in (1, 2):
        before = set_threads(n)
        results.append(cpu.norm_gelu(y.clone(), weight, bias))
        set_threads(before)
    assert torch.equal(*results)
    y[0, 0, 5, 1] = float("nan")
    assert cpu.norm_gelu(y, weight, bias).isnan().all()
