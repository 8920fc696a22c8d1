"""The question asked before a short cut: every way in which a tensor can differ makes it say no."""

import pytest
import torch

from elinvar import tensor
from elinvar.errors import InputError
from elinvar.tensor import alike as module
from elinvar.tensor.alike import alike

X, Y = torch.arange(12.0).reshape(3, 4), torch.ones(3, 4)


class Sub(torch.Tensor):
    pass


def test_yes_for_others_of_the_same_kind():
    check = alike(X, Y)
    assert check(X + 1, Y * 2)
    assert check(torch.empty(5, 4)[1:4], Y)


@pytest.mark.parametrize(
    "other",
    [
        X.double(),
        X[:2],
        torch.empty(4, 3).t(),
        torch.empty(3, 8)[:, ::2],
        X.clone().requires_grad_(),
        torch.nn.Parameter(X, requires_grad=False),
        X.as_subclass(Sub),
        torch.empty(3, 4, device="meta"),
        torch._neg_view(X),
        X.expand(1, 3, 4),
        torch.empty(3, 4).to_sparse(),
    ],
    ids=lambda t: f"{type(t).__name__} {t.dtype} {tuple(t.shape)}",
)
def test_no(other):
    check = alike(X, Y)
    assert not check(other, Y)
    assert not check(X, other)


def test_no_inside_other_modes():
    check = alike(X, Y)
    with torch.inference_mode():
        assert not check(X + 1, Y)
    answers = []
    torch.func.vmap(lambda x: answers.append(check(x, Y)) or x)(torch.stack([X, X]))
    torch.func.grad(lambda x: answers.append(check(x, Y)) or x.sum())(X)
    assert answers == [False, False]


def test_none_where_it_is_not_known(monkeypatch):
    assert alike(X.clone().requires_grad_()) is None
    monkeypatch.setattr(module, "_guards", None)
    assert alike(X) is None


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")  # torch's own jvp
def test_the_short_way_refuses_and_computes_what_the_long_way_does():
    for n in (1, 7, 40_000):
        a, b, out = torch.randn(n), torch.randn(n), torch.empty(n)
        expected = torch.relu(a * b)
        for _ in range(3):
            assert torch.equal(tensor.mul_relu(a, b), expected)
            assert tensor.mul_relu(a, b, out=out) is out
            assert torch.equal(out, expected)
        assert torch.equal(tensor.mul_relu(a, b, out=a), expected)
        with torch.inference_mode():
            assert torch.equal(tensor.mul_relu(a, b, out=torch.empty(n)), torch.relu(a * b))
        learns = a.clone().requires_grad_()
        assert tensor.mul_relu(learns, b).requires_grad
        with torch.no_grad():
            assert not tensor.mul_relu(learns, b).requires_grad
        negative = torch._neg_view(a)
        assert torch.equal(tensor.mul_relu(negative, b), torch.relu(-a * b))
        assert torch.equal(torch.func.vmap(tensor.mul_relu)(a, b), torch.relu(a * b))
    memory = torch.randn(20)
    tensor.mul_relu(memory[:7], memory[7:14], out=memory[13:20].clone())
    for _ in range(2):
        with pytest.raises(InputError, match="out overlaps"):
            tensor.mul_relu(memory[:7], memory[7:14], out=memory[3:10])
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(torch.ones(7), torch.ones(7))
        slope = torch.autograd.forward_ad.unpack_dual(tensor.mul_relu(dual, torch.full((7,), 3.0))).tangent
    assert torch.equal(slope, torch.full((7,), 3.0))
