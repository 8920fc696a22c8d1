import pytest
import torch

from elinvar.tensor import gemm
from elinvar.tensor.workspace import Scratch

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
BIG = (256, 256, 256)


def choose(dtype, device=CPU, size=BIG, activation=None, residual=False, native=False, whole=True):
    return gemm.choose(dtype, device, size, activation, residual=residual, native=native, whole=whole)


def test_half_never_runs_natively_on_a_cpu_unless_forced():
    for size in (BIG, (2, 3, 4)):
        route = choose(torch.float16, size=size)
        assert route.compute == torch.float32
        assert route.epilogue
        assert "float32" in route.why
        assert choose(torch.float16, size=size, native=True).compute == torch.float16


def test_bfloat16_runs_natively_where_the_processor_can(monkeypatch):
    monkeypatch.setattr(gemm, "bfloat16_products", lambda: True)
    assert choose(torch.bfloat16).compute == torch.bfloat16
    assert choose(torch.bfloat16, activation="relu").compute == torch.bfloat16
    assert choose(torch.bfloat16, activation="gelu_tanh").compute == torch.float32  # one rounding
    assert choose(torch.bfloat16, residual=True).compute == torch.float32
    monkeypatch.setattr(gemm, "bfloat16_products", lambda: False)
    assert choose(torch.bfloat16).compute == torch.float32


def test_onednn_serves_large_float32_products_on_amd(monkeypatch):
    monkeypatch.setattr(gemm, "onednn_float32", lambda: True)
    monkeypatch.setattr(gemm, "small_products", lambda: False)
    assert choose(torch.float32).library == "onednn"
    assert choose(torch.float32, size=(16, 512, 512)).library == "blas"  # few rows
    assert choose(torch.float32, size=(64, 64, 64)).library == "blas"
    assert choose(torch.float32, size=(256, 0, 256)).library == "blas"
    assert choose(torch.float64).library == "blas"
    monkeypatch.setattr(gemm, "onednn_float32", lambda: False)
    assert choose(torch.float32).library == "blas"


def test_cuda_fuses_what_its_library_can_and_splits_the_rest():
    assert choose(torch.float16, CUDA, activation="gelu_tanh").epilogue  # cuBLASLt's own is not exact at every size
    assert not choose(torch.float16, CUDA, activation="relu").epilogue
    assert choose(torch.float16, CUDA, activation="silu").epilogue
    assert choose(torch.float16, CUDA, activation="relu", residual=True).epilogue
    assert not choose(torch.float32, CUDA, activation="silu").epilogue


def test_cuda_rounds_once_where_rows_lie_askew():
    for activation in (None, "relu"):
        assert choose(torch.float16, CUDA, activation=activation, whole=False).epilogue
        assert not choose(torch.float16, CUDA, activation=activation).epilogue
    assert not choose(torch.float32, CUDA, whole=False).epilogue
    assert not choose(torch.float16, torch.device("mps"), whole=False).epilogue


def test_rows_that_begin_at_multiples_of_16_bytes():
    x, w, b = (torch.ones(s, dtype=torch.float16) for s in ((3, 16), (8, 16), (8,)))
    assert gemm.aligned(x, w, b)
    assert gemm.aligned(x, torch.ones(16, 8, dtype=torch.float16).t())
    assert not gemm.aligned(x, w, torch.ones(9, dtype=torch.float16)[1:])
    assert not gemm.aligned(x, w[:7])
    assert not gemm.aligned(x[:, :9].contiguous(), w[:, :9].contiguous())
    assert gemm.aligned(x[:, :9], w[:, :9])
    assert not gemm.aligned(x, torch.ones(16, 9, dtype=torch.float16)[:, :8].t())


def test_large_matrices_that_lie_askew_are_copied_to_where_they_do_not(monkeypatch, randn):
    given = []

    def mm(x, w, out_dtype):
        given.append((x, w.t()))
        return (x.double() @ w.double()).to(out_dtype)

    monkeypatch.setattr(torch, "mm", mm)
    for m, n, k, edges in ((5, 7, 9, (16, 8)), (5, 8, 9, (16, 8)), (5, 7, 16, (16, 8)), (5, 8, 16, (16, 8))):
        x, w = randn(m, k, dtype=torch.float16), randn(n, k, dtype=torch.float16)
        monkeypatch.setattr(gemm, "LEAST_PADDED", 1)
        large = gemm.wide_product(x, w)
        assert gemm.aligned(*given[-1])
        assert (given[-1][0].shape[1], len(given[-1][1])) == edges
        monkeypatch.setattr(gemm, "LEAST_PADDED", m * n * k + 1)
        small = gemm.wide_product(x, w)
        assert given[-1][0] is x
        assert large.shape == small.shape == (m, n)
        assert torch.equal(large, small)


@pytest.mark.parametrize("library", ["blas", "onednn"])
def test_both_libraries_agree(library, randn):
    if library == "onednn" and not torch.backends.mkldnn.is_available():
        pytest.skip("torch was built without oneDNN")
    x, w, b = randn(40, 50), randn(30, 50), randn(30)
    route = gemm.Route(library, torch.float32, False, "")
    expected = torch.addmm(b, x, w.t())
    with Scratch(None) as scratch:
        for bias, want in ((b, expected), (None, expected - b)):
            torch.testing.assert_close(gemm.product(route, x, w, bias, None, scratch), want, rtol=1e-4, atol=1e-4)
            out = torch.empty(40, 30)
            assert gemm.product(route, x, w, bias, out, scratch) is out
            torch.testing.assert_close(out, want, rtol=1e-4, atol=1e-4)


def test_zeros_are_kept():
    assert gemm.zeros(4, torch.float32, CPU) is gemm.zeros(4, torch.float32, CPU)


def test_whether_relu_keeps_nan_is_asked_once_for_every_kind(monkeypatch):
    kept = {}
    monkeypatch.setattr(gemm, "_kept", kept)
    x, w, b = torch.ones(8, 16), torch.ones(4, 16), torch.ones(4)
    for _ in range(2):
        assert gemm.keeps_nan(x, w, b) is True
    assert len(kept) == 1
    assert gemm.keeps_nan(x[:7], w, b) is True
    assert gemm.keeps_nan(x, torch.ones(16, 4).t(), b) is True
    assert len(kept) == 3
    assert gemm.keeps_nan(x, w, torch.ones(5)[1:]) is False  # between multiples of 16 bytes
    assert gemm.keeps_nan(torch.ones(129)[1:].view(8, 16), w) is False
    monkeypatch.setattr(gemm, "_MOST_KEPT", 3)
    assert gemm.keeps_nan(x[:6], w, b) is None
    assert gemm.keeps_nan(x, w, b) is True
    monkeypatch.setattr(torch, "_addmm_activation", lambda b, x, w: torch.zeros(len(x), w.shape[1]))
    kept.clear()
    assert gemm.keeps_nan(x, w, b) is False
