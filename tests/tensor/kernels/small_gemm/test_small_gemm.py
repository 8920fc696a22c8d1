"""The engine's own small product: every edge of its tiles, strides, batches, NaN, and when it is used."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from elinvar import tensor
from elinvar.runtime import kernels
from elinvar.tensor import gemm
from elinvar.tensor.kernels import small_gemm
from elinvar.tensor.kernels.small_gemm import cpu
from elinvar.tensor.kernels.small_gemm.reference import product as reference

pytestmark = pytest.mark.skipif(cpu.INSTRUCTIONS == "none", reason="needs AVX2")


def test_agrees_with_its_reference():
    for seed in range(4):
        kernels.check(small_gemm.NAME, "v1", "cpu", seed=seed).require()


@settings(max_examples=60, deadline=None)
@given(
    m=st.integers(1, 20),
    k=st.integers(1, 40),
    n=st.integers(1, 70),
    by_rows=st.booleans(),
    shifted=st.booleans(),
    relu=st.booleans(),
    pad=st.integers(0, 3),
)
def test_any_size_and_stride(m, k, n, by_rows, shifted, relu, pad):
    make = torch.Generator().manual_seed(m * 10_000 + k * 100 + n)
    x = torch.randn(m, k + pad, generator=make)[:, :k]
    w = (
        torch.randn(n, k + pad, generator=make)[:, :k]
        if by_rows
        else torch.randn(k, n + pad, generator=make)[:, :n].t()
    )
    bias = torch.randn(n, generator=make) if shifted else None
    exact = reference(x.double(), w.double(), None if bias is None else bias.double(), relu=relu)
    size = x.double().abs() @ w.double().abs().t() + (0 if bias is None else bias.double().abs())
    got = small_gemm.run(x, w, bias, relu=relu)
    assert ((got.double() - exact).abs() <= 4 * k**0.5 * 2.0**-24 * size + 2.0**-23 * exact.abs()).all()


def test_nothing_beyond_the_result_is_written():
    memory = torch.full((24, 80), 7.0)
    gemm.small(torch.ones(9, 5), torch.ones(35, 5), None, memory[3:12, 2:37], relu=False)
    inside = torch.zeros(24, 80, dtype=torch.bool)
    inside[3:12, 2:37] = True
    assert (memory[inside] == 5.0).all()
    assert (memory[~inside] == 7.0).all()


def test_nan_and_infinity_pass_through():
    x = torch.ones(8, 4)
    x[0, 0], x[1, 1] = float("nan"), float("inf")
    for bias in (None, torch.zeros(3)):
        y = small_gemm.run(x, torch.ones(3, 4), bias, relu=True)
        assert y[0].isnan().all()
        assert y[1].isinf().all()
        assert (y[2:] == 4).all()


@pytest.fixture
def used(monkeypatch):
    """As on the processors the kernel was measured on, wherever this runs."""
    from elinvar.tensor import dense

    monkeypatch.setattr(gemm, "_amd", lambda: True)
    gemm.small_products.cache_clear()
    dense._small_kernel.cache_clear()
    yield
    gemm.small_products.cache_clear()
    dense._small_kernel.cache_clear()


def test_layers_and_batches_use_it(used, randn):
    assert gemm.choose(torch.float32, torch.device("cpu"), (64, 64, 64), None, residual=False).library == "registers"
    assert "tensor.small_gemm" in tensor.explain("linear", randn(64, 64), randn(64, 64))
    x, w, b = randn(16, 80), randn(70, 80), randn(70)
    for activation in (None, "relu", "gelu"):
        expected = tensor.linear(x.double(), w.double(), b.double(), activation)
        torch.testing.assert_close(tensor.linear(x, w, b, activation).double(), expected, rtol=1e-5, atol=1e-5)
    many, others, shift = randn(6, 12, 20), randn(6, 20, 33), randn(33)
    expected = torch.relu(many @ others + shift)
    torch.testing.assert_close(tensor.matmul(many, others, shift, "relu"), expected, rtol=1e-4, atol=1e-4)
    out = torch.empty(6, 12, 33)
    assert tensor.matmul(many, others, out=out) is out
    torch.testing.assert_close(out, many @ others, rtol=1e-4, atol=1e-4)
    mirrored = others.mT.contiguous().mT
    torch.testing.assert_close(tensor.matmul(many, mirrored), many @ others, rtol=1e-4, atol=1e-4)


def test_it_can_be_switched_off(used, monkeypatch):
    monkeypatch.setenv("ELINVAR_KERNELS", "tensor.small_gemm=reference")
    assert not gemm.small_products()
