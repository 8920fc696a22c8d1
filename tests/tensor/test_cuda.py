"""The one-launch layers of NVIDIA GPUs; their choices are the same for CPU tensors, for which torch has them too."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from elinvar import tensor
from elinvar.tensor import again, cuda
from elinvar.tensor.cuda import short_cuda


@pytest.fixture
def operands(monkeypatch: pytest.MonkeyPatch) -> list[torch.Tensor]:
    found: tuple[dict[Any, Any], ...] = ({}, {})
    monkeypatch.setattr(again, "known", found)
    monkeypatch.setattr(cuda, "known", found)
    make = torch.Generator().manual_seed(0)
    return [torch.randn(s, generator=make) for s in ((6, 5), (4, 5), (4,))]


@pytest.mark.parametrize("activation", [None, "relu"])
def test_a_layer_is_remembered(operands: list[torch.Tensor], activation: str | None) -> None:
    x, w, b = operands
    plain = x @ w.t() + b
    plain = plain if activation is None else torch.relu(plain)
    with torch.no_grad():
        for _ in range(3):
            y = short_cuda(x, w, b, activation)
            assert y is not None
            torch.testing.assert_close(y, plain)
        other = short_cuda(x, w.t().contiguous().t(), b, activation)
        assert other is not None
        torch.testing.assert_close(other, plain)
    if again._guards is not None:
        assert len(cuda.known[activation == "relu"][x.shape]) == 2


def test_the_long_way_serves_the_rest(operands: list[torch.Tensor], monkeypatch: pytest.MonkeyPatch) -> None:
    x, w, b = operands
    with torch.no_grad():
        assert short_cuda(x, w, b, "gelu_tanh") is None
        assert short_cuda(x[None], w, b, None) is None
        for given in ((x, w, b[:1]), (x, w, b[None]), (x, w[:, :4], b), (x, w.double(), b), (x, w, None), (x, w, 1.0)):
            assert short_cuda(*given, "relu") is None  # type: ignore[arg-type]
        assert short_cuda(x[:, :0], w[:, :0], b, None) is None
        with torch.autocast("cpu"):
            assert short_cuda(x, w, b, None) is None
    assert short_cuda(x, w, b, None) is None  # grad mode is on, and nothing is known yet
    assert not cuda.known[False]
    assert not cuda.known[True]


@pytest.mark.parametrize("kept", [True, False, None])
def test_relu_is_fused_only_where_it_keeps_nan(
    operands: list[torch.Tensor], monkeypatch: pytest.MonkeyPatch, kept: bool | None
) -> None:
    x, w, b = operands
    monkeypatch.setattr(cuda, "keeps_nan", lambda x, *_: kept if x.data_ptr() % 16 == 0 else False)
    fused: list[Any] = []
    monkeypatch.setattr(cuda, "_addmm_relu", lambda *given: fused.append(given) or torch._addmm_activation(*given))
    with torch.no_grad():
        for _ in range(2):
            y = short_cuda(x, w, b, "relu")
            assert y is not None
            torch.testing.assert_close(y, torch.relu(x @ w.t() + b))
        assert len(fused) == (2 if kept else 0)
        if again._guards is not None:  # what could not be asked is asked again
            assert len(cuda.known[True]) == (kept is not None)
        moved = torch.zeros(31)[1:].view(6, 5).copy_(x)
        late = short_cuda(moved, w, b, "relu")
        assert late is not None
        torch.testing.assert_close(late, torch.relu(x @ w.t() + b))
        assert cuda.cuda_epilogue(x, w, b, "relu", None) is None or kept


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no NVIDIA GPU")
@pytest.mark.parametrize("edge", [64, 300, 301, 512])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_on_a_gpu(edge: int, dtype: torch.dtype) -> None:
    make = torch.Generator().manual_seed(0)
    x, w, b = (torch.randn(s, generator=make).to(dtype).cuda() for s in ((edge, edge), (edge, edge), (edge,)))
    w = w / edge**0.5
    exact = x.double() @ w.double().t() + b.double()
    for activation in (None, "relu"):
        target = exact if activation is None else exact.relu()
        with torch.no_grad():
            first = tensor.linear(x, w, b, activation)
            second = tensor.linear(x, w, b, activation)
        assert torch.equal(first, second)
        torch.testing.assert_close(first.double(), target, rtol=0.02, atol=0.02)
    x[0, 0] = float("nan")
    with torch.no_grad():
        assert tensor.linear(x, w, b, "relu")[0].isnan().all()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no NVIDIA GPU")
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_relu_keeps_nan_at_every_size_on_a_gpu(dtype: torch.dtype) -> None:
    with torch.no_grad():
        for m in (1, 7, 64, 300, 2048):
            for k in (1, 12, 300, 1032):
                for n in (1, 10, 300, 1000, 2048):
                    x, w, b = torch.ones(m, k), torch.ones(n, k), torch.ones(n)
                    x[m // 2, k // 2] = w[n // 2, 0] = float("nan")
                    x, w, b = (t.to(dtype).cuda() for t in (x, w, b))
                    for bias in (b, None):
                        y = tensor.linear(x, w, bias, "relu")
                        expected = torch.zeros(m, n, dtype=torch.bool, device="cuda")
                        expected[m // 2] = expected[:, n // 2] = True
                        assert torch.equal(y.isnan(), expected), (m, k, n, bias is None)
