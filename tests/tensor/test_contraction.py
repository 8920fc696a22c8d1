"""Gradients of linear layers: against finite differences, in half storage, compiled, and with pooled workspaces."""

import itertools

import pytest
import torch

from elinvar import Pool, tensor
from elinvar.tensor.activation import ACTIVATIONS, apply


def _leaves(randn, dtype=torch.float64):
    return [randn(*s, dtype=dtype).requires_grad_() for s in ((5, 4), (3, 4), (3,), (5, 3))]


@pytest.mark.parametrize("activation", [None, *ACTIVATIONS])
def test_gradcheck_once_and_twice(activation, randn, pool):
    leaves = _leaves(randn)

    def layer(x, w, b, r):
        return tensor.linear(x, w, b, activation, r, pool=pool)

    assert torch.autograd.gradcheck(layer, leaves)
    assert torch.autograd.gradgradcheck(layer, leaves)
    assert pool.live == 0


@pytest.mark.parametrize("activation", ["relu", "gelu"])
def test_gradcheck_inside_a_compiled_graph(activation, randn):
    leaves = _leaves(randn)
    step = torch.compile(
        lambda x, w, b, r: tensor.linear(x * 1, w, b, activation, r), backend="aot_eager", fullgraph=True
    )
    assert torch.autograd.gradcheck(step, leaves)


def test_gradients_of_what_is_asked_for_alone(randn):
    x, w, b, r = (t.detach() for t in _leaves(randn))
    for wanted in itertools.product((False, True), repeat=4):
        leaves = [t.clone().requires_grad_(flag) for t, flag in zip((x, w, b, r), wanted, strict=True)]
        if not any(wanted):
            continue
        tensor.linear(*leaves[:3], "relu", leaves[3]).sum().backward()
        assert [t.grad is not None for t in leaves] == list(wanted)


def test_batched_and_strided_gradients(randn):
    a, b, s = randn(2, 3, 4, dtype=torch.float64), randn(2, 4, 5, dtype=torch.float64), randn(5, dtype=torch.float64)
    leaves = [t.requires_grad_() for t in (a, b, s)]
    assert torch.autograd.gradcheck(lambda a, b, s: tensor.matmul(a, b, s, "gelu"), leaves)
    flat = randn(4, 3, dtype=torch.float64).requires_grad_()
    w = randn(4, 2, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(lambda a, w: tensor.matmul(a.t(), w, activation="silu"), (flat, w))


def test_a_residuals_gradient_is_not_the_pools_memory(randn, pool):
    x, w, b, r = _leaves(randn, torch.float32)
    tensor.linear(x, w, b, "relu", r, pool=pool).sum().backward()
    assert pool.live == 0
    assert pool.stats().escaped == 0
    tensor.linear(x, w, b, "relu", pool=pool).sum().backward()  # its workspace is the pool's
    assert (pool.stats().requests, pool.stats().escaped) == (1, 0)


@pytest.mark.parametrize(
    ("dtype", "activation"), [(torch.float16, None), (torch.float16, "gelu"), (torch.bfloat16, "relu")]
)
def test_half_gradients_are_close_to_float64(dtype, activation, randn):
    leaves = [t.detach().requires_grad_() for t in _leaves(randn, dtype)]
    x, w, b, r = leaves
    tensor.linear(x, w, b, activation, r).sum().backward()
    exact = [t.detach().double().requires_grad_() for t in leaves]
    ex, ew, eb, er = exact
    act = {"gelu": "gelu_tanh"}.get(activation, activation)
    apply(ex @ ew.t() + eb + er, act).sum().backward()
    for mine, truth in zip(leaves, exact, strict=True):
        assert mine.grad.dtype == dtype
        scale = truth.grad.abs().max()
        assert (mine.grad.double() - truth.grad).abs().max() <= 8 * torch.finfo(dtype).eps * scale


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_training_reaches_a_steady_state(dtype, randn):
    pool = Pool("cpu")
    model = tensor.FusedMLP([12, 16, 8], "gelu", pool=pool, dtype=dtype)
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1)
    x, y = randn(32, 12, dtype=dtype), randn(32, 8, dtype=dtype)
    allocations = []
    for _ in range(6):
        optimiser.zero_grad()
        (model(x) - y).float().square().mean().backward()
        optimiser.step()
        allocations.append(pool.stats().allocation_count)
    assert allocations[1] == allocations[-1] > 0  # after step 2 nothing new
    assert pool.live == 0
    assert pool.stats().escaped == 0
    with pool.frozen():  # and this says so
        (model(x) - y).float().square().mean().backward()
