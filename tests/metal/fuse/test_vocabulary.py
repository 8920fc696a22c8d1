"""Every function and method a fused function may call, against float64 torch: values at the edges, and gradients."""

import pytest
import torch
from torch.nn import functional

import elinvar

inf, nan = float("inf"), float("nan")
F = functional
ELEMENTWISE = {
    "powers": lambda x, y: (x * x + 0.5) ** 0.5 + (x * x + 0.5) ** -0.5 + x**3 + (y * y + 1.0) ** -1,
    "alpha": lambda x, y: torch.add(x, y, alpha=2) - torch.sub(x, y, alpha=0.5) + torch.rsub(x, y) + x.add(y, alpha=3),
    "products": lambda x, y: torch.addcmul(x, y, y, value=0.5) + x.addcdiv(y, y * y + 1.0),
    "lerp": lambda x, y: torch.lerp(x, y, 0.3) + x.lerp(y, 0.8) + torch.lerp(x, y, torch.sigmoid(x)),
    "clamps": lambda x, y: x.clamp_min(-0.5) * y.clamp_max(0.5) + torch.clip(x, -1.0, 1.0) + y.clamp(min=0.1),
    "chosen": lambda x, y: x.masked_fill(y > 0.2, 0.0) + torch.where(torch.logical_or(x > 1, y < 0), x, y).clone(),
    "logic": lambda x, y: torch.where(torch.logical_and(x.gt(0), torch.logical_not(y.le(0))), x, y * 2),
    "filled": lambda x, y: torch.where(x > 0, torch.ones_like(x), torch.full_like(x, 0.25)) * y + torch.zeros_like(y),
    "leaky": lambda x, y: F.leaky_relu(x, 0.2) + F.hardtanh(y) + F.relu6(x * 4),
    "elu": lambda x, y: F.elu(x, 1.5) + F.selu(y),
    "hard": lambda x, y: F.hardswish(x * 3) + F.hardsigmoid(y * 3),
    "soft": lambda x, y: F.softplus(x, beta=2) + F.logsigmoid(y) + F.mish(x),
}
ROWS = {
    "named": lambda x, y: F.softmax(x, dim=-1) * F.log_softmax(y, dim=-1),
    "var": lambda x, y: x.var(-1, keepdim=True) * y + torch.var(y, -1, unbiased=False, keepdim=True),
    "std": lambda x, y: (x - x.mean(-1, keepdim=True)) / (x.std(-1, keepdim=True) + 0.1) + y.std(-1, keepdim=True),
    "std_out": lambda x, y: torch.std(x * y, -1, correction=0),
    "logsumexp": lambda x, y: torch.logsumexp(x * y, -1),
    "logsumexp_kept": lambda x, y: x - torch.logsumexp(x, -1, keepdim=True) * y,
}


def _args(dtype=torch.float32):
    make = torch.Generator().manual_seed(3)
    return [torch.randn(3, 5, generator=make, dtype=torch.float64).to(dtype) for _ in range(2)]


def _all(names):
    """Several functions as one of several results: one kernel to compile, not one for each."""
    functions = [{**ELEMENTWISE, **ROWS}[name] for name in names]
    return lambda x, y: tuple([f(x, y) for f in functions])


@pytest.mark.parametrize(
    "names",
    [
        [n for n in ELEMENTWISE if n not in ("elu", "hard", "soft", "leaky")],
        ["elu", "hard", "soft", "leaky"],
        ["named", "var", "std", "logsumexp_kept"],
        ["std_out", "logsumexp"],
    ],
)
def test_values_and_gradients(names):
    function = _all(names)
    x, y = _args()
    fused = elinvar.fuse(function)
    assert "one numba kernel" in fused.explain(x, y)
    for found, exact in zip(fused(x, y), function(x.double(), y.double()), strict=True):
        torch.testing.assert_close(found, exact.float(), rtol=2e-6, atol=2e-6)
    assert torch.autograd.gradcheck(fused, [t.requires_grad_() for t in _args(torch.float64)])


def _together(*functions):
    return lambda v: tuple([f(v) for f in functions])


def test_edges():
    x = torch.tensor([nan, inf, -inf, 0.0, -0.0, 1.5, -1.5, 1e-4, -1e-4, 90.0, -90.0, -1e-30])
    function = _together(
        F.elu,
        F.selu,
        F.leaky_relu,
        F.hardtanh,
        F.hardswish,
        F.hardsigmoid,
        F.relu6,
        F.logsigmoid,
        torch.trunc,
        lambda v: torch.where(torch.isfinite(v), v, 7.0),
        lambda v: torch.where(torch.isinf(v), 7.0, v),
        lambda v: torch.sign(torch.where(torch.isnan(v), 3.0, v)),
        lambda v: F.softplus(v, beta=0.5),
        lambda v: v.clamp(nan, 2.0),
        lambda v: torch.clamp(v, 2.0, -1.0),
    )
    fused = elinvar.fuse(function)
    assert "one numba kernel" in fused.explain(x)
    for found, exact in zip(fused(x), function(x.double()), strict=True):
        torch.testing.assert_close(found, exact.float(), rtol=5e-7, atol=0, equal_nan=True)
    rows = torch.tensor([[inf, 0.0, 1.0], [-inf, -inf, -inf], [1e30, 1.0, -inf], [nan, 0.0, 1.0]])
    found = elinvar.fuse(lambda v: torch.logsumexp(v, -1))(rows)
    torch.testing.assert_close(found, torch.logsumexp(rows, -1), equal_nan=True)
    one = torch.ones(2, 1)
    torch.testing.assert_close(elinvar.fuse(lambda v: v.var(-1))(one), torch.full((2,), nan), equal_nan=True)


def test_slopes_where_a_function_bends_are_torchs():
    kinks = [-6.0, -4.0, -3.0, -1.0, -0.5, -0.0, 0.0, 0.5, 1.0, 2.0, 3.0, 4.0, 6.0]
    function = _together(
        lambda v: torch.clamp(v, -1, 2),
        lambda v: v.clamp_min(0.5) + v.clamp_max(-0.5),
        lambda v: torch.clamp(v, 2.0, -1.0),
        F.hardtanh,
        F.relu6,
        F.hardswish,
        F.hardsigmoid,
        F.leaky_relu,
        F.elu,
        F.selu,
        F.softplus,
        F.logsigmoid,
        F.mish,
        torch.relu,
        torch.abs,
        torch.sign,
        lambda v: torch.maximum(v, v * 0),
    )
    x = torch.tensor(kinks, requires_grad=True)
    found, expected = elinvar.fuse(function)(x), function(x)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)
    # All slopes in one pass, told apart by weights: which results are asked for is part of a kernel.
    weights = torch.rand(len(found), generator=torch.Generator().manual_seed(1)) + 0.5
    got, wanted = (
        torch.autograd.grad(sum(w * y.sum() for w, y in zip(weights, ys, strict=True)), x)[0]
        for ys in (found, expected)
    )
    torch.testing.assert_close(got, wanted, rtol=2e-6, atol=5e-6)
    low, high = torch.tensor([-1.0, nan, 0.0]), torch.tensor([1.0, 2.0, -1.0])
    args = [torch.tensor([3.0, 1.0, 0.5]), low, high]
    torch.testing.assert_close(elinvar.fuse(torch.clamp)(*args), torch.clamp(*args), equal_nan=True)


@pytest.mark.gxx
@pytest.mark.parametrize("names", [["elu", "chosen", "lerp"], ["std", "named"], ["logsumexp"]])
def test_the_metal_text_says_the_same(names):
    x, y = _args()
    function = _all(names)
    for found, wanted in zip(elinvar.fuse(function).metal(x, y), function(x, y), strict=True):
        torch.testing.assert_close(found, wanted, rtol=3e-6, atol=3e-6)
