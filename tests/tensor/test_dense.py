"""Products with bias, residual and activation: error bounds, every shape and layout, memory, refusals."""

import itertools
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from elinvar import Precision, tensor
from elinvar.errors import InputError
from elinvar.tensor.activation import ACTIVATIONS, apply

DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)


def exactly(x, w, bias, activation, residual):
    """Float64 truth, and the sum of absolute products that bounds rounding."""
    y, size = x.double() @ w.double().mT, x.double().abs() @ w.double().abs().mT
    for term in (bias, residual):
        if term is not None:
            y, size = y + term.double(), size + term.double().abs()
    return apply(y, "gelu_tanh" if activation == "gelu" else activation), size


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", [(5, 7, 3), (130, 129, 131), (0, 4, 3), (3, 0, 4), (2, 3, 0)])
def test_error_bound(dtype, size, randn, within):
    m, k, n = size
    x, w, b, r = (randn(*s, dtype=dtype) for s in ((m, k), (n, k), (n,), (m, n)))
    every = list(itertools.product((None, "relu", "gelu"), (None, b), (None, r)))
    # Each combination in half storage is a kernel to compile: three of them stand for all.
    for activation, bias, residual in every if dtype.itemsize > 2 else (every[0], every[6], every[11]):
        exact, bound = exactly(x, w, bias, activation, residual)
        for y in (
            tensor.linear(x, w, bias, activation, residual),
            tensor.matmul(x, w.t(), bias, activation, residual),
            tensor.linear(x, w, bias, activation, residual, out=torch.empty(m, n, dtype=dtype)),
        ):
            assert y.dtype == dtype
            assert tuple(y.shape) == (m, n)
            assert within(y, exact, bound, k), (activation, bias is not None, residual is not None)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_no_worse_than_twice_torch(dtype, randn):
    x, w, b = (randn(*s, dtype=dtype) for s in ((64, 300), (48, 300), (48,)))
    exact, _ = exactly(x, w, b, "relu", None)
    mine = (tensor.linear(x, w, b, "relu").double() - exact).abs().max()
    torchs = (torch.relu(x @ w.t() + b).double() - exact).abs().max()
    assert mine <= 2 * torchs


@pytest.mark.parametrize(("activation", "dtype"), [*((a, torch.float32) for a in ACTIVATIONS), ("silu", torch.float16)])
def test_every_activation(activation, dtype, randn, within):
    x, w, b = (randn(*s, dtype=dtype) for s in ((33, 40), (20, 40), (20,)))
    exact, bound = exactly(x, w, b, activation, None)
    assert within(tensor.linear(x, w, b, activation), exact, bound, 40)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("activation", [None, *ACTIVATIONS])
def test_error_bound_on_every_device(present, activation, dtype, randn, within):
    """At sizes that are no multiple of eight, libraries round before what follows the product, or compute it short."""
    if present == "cpu" and dtype.itemsize == 2 and activation != "gelu_tanh":
        pytest.skip("each is a kernel to compile: gelu_tanh stands for all")
    for m, k, n in ((1, 8, 8), (65, 130, 70), (256, 256, 256)) if present != "cpu" else ((33, 77, 9),):
        x, w, b, r = (randn(*s, dtype=dtype) for s in ((m, k), (n, k), (n,), (m, n)))
        for bias, residual in ((b, None), (None, None), (b, r)):
            exact, bound = exactly(x, w, bias, activation, residual)
            x_, w_, *rest = (t if t is None else t.to(present) for t in (x, w, bias, residual))
            y = tensor.linear(x_, w_, rest[0], activation, rest[1]).cpu()
            assert within(y, exact, bound, k), (m, k, n, bias is not None, residual is not None)
            if residual is None and bias is not None:
                many = tensor.matmul(x_[None], w_.t()[None], rest[0], activation)[0].cpu()
                assert within(many, exact, bound, k), (m, k, n)


def test_the_defect_of_half_accumulation_is_gone():
    ones = torch.ones(1, 4096, dtype=torch.float16)
    assert float(tensor.linear(ones, ones)) == 4096.0
    assert float(tensor.matmul(ones, ones.t(), activation="relu")) == 4096.0


def test_strides_expansion_and_leading_dimensions(randn, within):
    base = randn(40, 12)
    x, w = base[::2, ::3], randn(4, 6).t()
    exact, bound = exactly(x, w, None, None, None)
    assert within(tensor.linear(x, w), exact, bound, 4)
    expanded = randn(1, 6).expand(5, 6)
    torch.testing.assert_close(tensor.linear(expanded, w.t().contiguous()), expanded @ w)
    many = randn(2, 3, 5, 4)
    assert tensor.linear(many, w).shape == (2, 3, 5, 6)
    torch.testing.assert_close(tensor.linear(many, w), many @ w.t())
    torch.testing.assert_close(tensor.linear(many[0, 0, 0], w), many[0, 0, 0] @ w.t())
    assert tensor.linear(randn(2, 0, 4), w).shape == (2, 0, 6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_batched_products(dtype, randn, within):
    a, b, bias = randn(3, 1, 4, 5, dtype=dtype), randn(2, 5, 6, dtype=dtype), randn(6, dtype=dtype)
    residual = randn(4, 6, dtype=dtype)
    for act, s, r in ((None, None, None), ("gelu", bias, residual)):
        exact, bound = exactly(a, b.mT, s, act, r)
        y = tensor.matmul(a, b, s, act, r)
        assert y.dtype == dtype
        assert within(y, exact, bound, 5)
        assert torch.equal(tensor.matmul(a, b, s, act, r, out=torch.empty_like(y)), y)
    strided = randn(5, 2, 6, dtype=dtype).movedim(0, 1)
    torch.testing.assert_close(tensor.matmul(a, strided).double(), a.double() @ strided.double(), rtol=0.02, atol=0.05)


def test_memory_comes_from_where_it_is_said(pool, randn):
    x, w, b = randn(32, 24), randn(16, 24), randn(16)
    expected = torch.relu(x @ w.t() + b)
    with pool.frame():
        torch.testing.assert_close(tensor.linear(x, w, b, "relu", pool=pool), expected)
        half = tensor.linear(x.half(), w.half(), b.half(), "relu", pool=pool)
        assert half.dtype == torch.float16
    first = pool.stats()
    assert first.requests >= 4  # two results, and float32 copies of the half operands
    with pool.frame(), pool.frozen():
        tensor.linear(x, w, b, "relu", pool=pool)
    residual = randn(32, 16)
    out = residual.clone()
    assert tensor.linear(x, w, b, "relu", out, out) is out
    torch.testing.assert_close(out, torch.relu(x @ w.t() + b + residual))
    holed = torch.empty(32, 32)[:, ::2]
    assert tensor.linear(x, w, b, "relu", out=holed) is holed
    torch.testing.assert_close(holed, expected)


def test_precision(randn):
    x, w = randn(20, 30), randn(10, 30)
    stored = tensor.linear(x, w, activation="relu", precision="fp16")
    assert stored.dtype == torch.float16
    torch.testing.assert_close(stored, tensor.linear(x.half(), w.half(), activation="relu"))
    assert tensor.matmul(x, w.t(), precision="bf16").dtype == torch.bfloat16
    forced = tensor.linear(x, w, precision=Precision("fp16", "fp16"))
    torch.testing.assert_close(forced, x.half() @ w.half().t(), rtol=0.01, atol=0.02)
    forced = tensor.linear(x, w, randn(10), "silu", precision=Precision("fp16", "fp16"))
    assert forced.dtype == torch.float16
    assert tensor.linear(x, w, activation="silu", precision=Precision("bf16", "bf16")).dtype == torch.bfloat16
    with pytest.raises(InputError, match="'fp8'"):
        tensor.linear(x, w, precision="fp8")


def test_relu_keeps_nan_at_every_size():
    for n in (4, 128):
        x = torch.ones(n, n)
        x[0, 0] = float("nan")
        assert tensor.linear(x, torch.eye(n), torch.zeros(n), "relu").isnan()[0].all()


def test_under_torch_compile_without_gradient(randn):
    x, w, b = randn(8, 6), randn(5, 6), randn(5)
    step = torch.compile(
        lambda *a: tensor.linear(*a, "gelu") + tensor.matmul(a[0], a[1].t()), backend="aot_eager", fullgraph=True
    )
    expected = apply(x @ w.t() + b, "gelu_tanh") + x @ w.t()
    torch.testing.assert_close(step(x, w, b), expected)


def test_bad_input(randn):
    x, w = randn(4, 5), randn(3, 5)
    with pytest.raises(InputError, match=r"x of shape \(4, 5\) does not fit w of shape \(3, 6\)"):
        tensor.linear(x, randn(3, 6))
    with pytest.raises(InputError, match=r"a of shape \(4, 5\) does not fit b of shape \(4, 5\)"):
        tensor.matmul(x, x)
    with pytest.raises(InputError, match=r"\(2, 4, 5\) and b of shape \(3, 5, 2\) do not broadcast"):
        tensor.matmul(randn(2, 4, 5), randn(3, 5, 2))
    for bias in (randn(4), randn(1), randn(1, 3), torch.tensor(1.0)):
        with pytest.raises(InputError, match=r"linear: bias has shape .*3 columns"):
            tensor.linear(x, w, bias, "relu")
    with pytest.raises(InputError, match=r"residual of shape \(2, 3\) does not broadcast .*\(4, 3\)"):
        tensor.linear(x, w, residual=randn(2, 3))
    with pytest.raises(InputError, match=r"x is torch.float32, w torch.float16"):
        tensor.linear(x, w.half(), randn(3), "relu")
    with pytest.raises(InputError, match=r"x is on cpu, w on meta"):
        tensor.linear(x, w.to("meta"), randn(3), "relu")
    with pytest.raises(InputError, match=r"torch\.int64"):
        tensor.linear(x.long(), w.long())
    with pytest.raises(InputError, match=r"out is torch.float32 of shape \(4, 4\)"):
        tensor.linear(x, w, out=torch.empty(4, 4))
    with pytest.raises(InputError, match="out overlaps an input"):
        memory = torch.zeros(100)
        tensor.linear(memory[:20].view(4, 5), w, out=memory[10:22].view(4, 3))
    with pytest.raises(InputError, match="expanded"):
        tensor.linear(x, w, out=torch.empty(1, 3).expand(4, 3))
    with pytest.raises(InputError, match="requires a gradient"):
        tensor.linear(x.clone().requires_grad_(), w, out=torch.empty(4, 3))
    with pytest.raises(InputError, match="'swish'"):
        tensor.linear(x, w, activation="swish")
    with torch.no_grad(), pytest.raises(InputError, match="x is a list"):
        tensor.linear([[1.0]], w, randn(3))
    with pytest.raises(InputError, match="a is a list"):
        tensor.matmul([[1.0]], w)


def test_eight_threads(pool, randn):
    x, w, b = randn(64, 48), randn(32, 48), randn(32)
    expected = tensor.linear(x, w, b, "gelu")

    def work(_):
        with pool.frame():
            return all(torch.equal(tensor.linear(x, w, b, "gelu", pool=pool), expected) for _ in range(20))

    with ThreadPoolExecutor(8) as threads:
        assert all(threads.map(work, range(8)))
    assert pool.live == 0


def test_what_torch_defaults_to_does_not_matter(randn):
    x, w, b = randn(64, 64), randn(64, 64), randn(64)
    with torch.no_grad():
        calls = [lambda: tensor.linear(x, w, b, "relu"), lambda: tensor.linear(x, w), lambda: tensor.matmul(x, w)]
        expected = [call() for call in calls]
        default = torch.get_default_dtype()
        try:
            for dtype in (torch.float64, torch.float16):
                torch.set_default_dtype(dtype)
                with torch.device("meta"):
                    found = [call() for call in calls]
                for one, other in zip(found, expected, strict=True):
                    assert one.dtype == torch.float32
                    assert torch.equal(one, other)
        finally:
            torch.set_default_dtype(default)


def test_views_of_what_is_to_be_negated(randn):
    x, b = randn(64, 64), randn(64)
    negative = torch.view_as_complex(randn(64, 64, 2)).conj().imag
    assert negative.is_neg()
    plain = negative.resolve_neg()
    with torch.no_grad():
        for call in (
            lambda w: tensor.linear(x, w, b, "relu"),
            lambda w: tensor.linear(x, w),
            lambda w: tensor.matmul(x[None], w[None]),
            lambda w: tensor.add_relu(w, x),
            lambda w: tensor.add_relu(w[:1, :1], w[:1, :1]),
            lambda w: tensor.affine(w[:1, :1], x[:1, :1], x[:1, :1]),
        ):
            torch.testing.assert_close(call(negative), call(plain))
