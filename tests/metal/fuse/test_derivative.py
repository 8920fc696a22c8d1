"""Gradients only where wanted, summed in float32, and fused functions inside torch.compile."""

import pytest
import torch

import elinvar


def layer(x, w, b):
    centred = x - x.mean(-1, keepdim=True)
    return torch.relu(centred * w + b)


@pytest.fixture(scope="module")
def fused():
    return elinvar.fuse(layer)


def _args(dtype=torch.float32):
    make = torch.Generator().manual_seed(0)
    return [torch.randn(s, generator=make).to(dtype) for s in ((64, 16), (16,), (16,))]


def test_only_what_is_wanted(fused):
    x, w, b = _args()
    fused(x, w.requires_grad_(), b).sum().backward()
    assert x.grad is None
    assert b.grad is None
    grad = w.grad.clone()
    w.grad = None
    layer(x, w, b).sum().backward()
    torch.testing.assert_close(grad, w.grad)


def test_sums_of_half_gradients_are_rounded_once():
    scaled = elinvar.fuse(lambda x, w: x * w)
    make = torch.Generator().manual_seed(1)
    # Equal rows: were every product rounded before the sum, all of a column's errors would point one way.
    x = torch.rand(1, 64, generator=make).half().expand(768, 64)
    incoming = torch.rand(1, 64, generator=make).half().expand(768, 64)
    w = torch.ones(64, dtype=torch.float16, requires_grad=True)
    scaled(x, w).backward(incoming)
    assert torch.equal(w.grad, (x.double() * incoming.double()).sum(0).half())


@pytest.mark.parametrize("dynamic", [False, True])
def test_inside_torch_compile(fused, dynamic):
    @torch.compile(backend="aot_eager", fullgraph=True, dynamic=dynamic)
    def step(x, w, b):
        return fused(x * 2, w, b) + 1

    args = [a.requires_grad_() for a in _args()]
    step(*args).square().sum().backward()
    found = [a.grad.clone() for a in args]
    for a in args:
        a.grad = None
    (layer(args[0] * 2, *args[1:]) + 1).square().sum().backward()
    for a, g in zip(args, found, strict=True):
        torch.testing.assert_close(g, a.grad, rtol=1e-5, atol=1e-5)


def test_scalars_reductions_tuples_and_what_cannot_be_fused_compile_too():
    two = elinvar.fuse(lambda x, k: ((x * k).sum(0), (x + k).amax(0)))
    plain = elinvar.fuse(lambda x: torch.cumsum(x, 0))

    @torch.compile(backend="aot_eager", fullgraph=True)
    def step(x):
        a, b = two(x, 3.0)
        return a + b + plain(x)[0]

    x = torch.randn(5, 7)
    torch.testing.assert_close(step(x), (x * 3).sum(0) + (x + 3).amax(0) + x[0])


@pytest.mark.parametrize("dynamic", [False, True])
def test_gradients_inside_torch_compile_beside_numbers(dynamic):
    fused = elinvar.fuse(lambda x, k, y, m: torch.tanh(x * k) * y + m)

    @torch.compile(backend="aot_eager", fullgraph=True, dynamic=dynamic)
    def step(x, k, y, m):
        return fused(x, k, y, m)

    for n in (5, 7):
        x, y = (torch.randn(n, generator=torch.Generator().manual_seed(n)).requires_grad_() for _ in range(2))
        found = torch.autograd.grad(step(x, 2.0, y, 1).sum(), (x, y))
        torch.testing.assert_close(found, torch.autograd.grad((torch.tanh(x * 2) * y + 1).sum(), (x, y)))
