"""One kernel has one shape; where torch's intermediate results have others, torch runs."""

import pytest
import torch

import elinvar

X, ROW, COLUMN = torch.linspace(-1, 1, 24).reshape(4, 6), torch.linspace(0, 1, 6), torch.linspace(1, 2, 4).view(4, 1)


@pytest.mark.parametrize(
    "function",
    [
        lambda x, r, c: (x + c, r * 2),
        lambda x, r, c: r * 2,
        lambda x, r, c: x * r.mean(0, keepdim=True),
        lambda x, r, c: x * c.sum(-1, keepdim=True) + r,
        lambda x, r, c: x.sum(-1, keepdim=True).sum(-1, keepdim=True) * x,
        lambda x, r, c: (x.sum(-1), r.sum(-1)),
        lambda x, r, c: torch.zeros_like(r),
    ],
)
def test_shapes_that_differ_run_as_torch(function):
    fused = elinvar.fuse(function)
    assert "while the inputs broadcast to (4, 6)" in fused.explain(X, ROW, COLUMN)
    expected = function(X, ROW, COLUMN)
    torch.testing.assert_close(fused(X, ROW, COLUMN), expected)
    args = [t.clone().requires_grad_() for t in (X, ROW, COLUMN)]

    def step(*args):
        return fused(*args)

    compiled = torch.compile(step, backend="aot_eager", fullgraph=True)
    found = compiled(*args)
    torch.testing.assert_close(found, expected)
    total = sum(t.square().sum() for t in (found if isinstance(found, tuple) else (found,)))
    if total.requires_grad:
        got = torch.autograd.grad(total, args, allow_unused=True, materialize_grads=True)
        plain = function(*args)
        total = sum(t.square().sum() for t in (plain if isinstance(plain, tuple) else (plain,)))
        if total.requires_grad:
            wanted = torch.autograd.grad(total, args, allow_unused=True, materialize_grads=True)
            torch.testing.assert_close(got, wanted)


@pytest.mark.parametrize(
    "function",
    [
        lambda x, r, c: x * r.sum(-1, keepdim=True) + c,
        lambda x, r, c: x * c.mean(-2, keepdim=True) + r,
        lambda x, r, c: (x + c * 0, x * r),
        lambda x, r, c: torch.where(x > 0, r, torch.zeros_like(c)),
    ],
)
def test_shapes_that_agree_are_fused(function):
    fused = elinvar.fuse(function)
    assert "one numba kernel" in fused.explain(X, ROW, COLUMN)
    torch.testing.assert_close(fused(X, ROW, COLUMN), function(X, ROW, COLUMN))


def test_the_same_function_fits_some_shapes_and_not_others():
    fused = elinvar.fuse(lambda x, y: x * y.sum(-1, keepdim=True))
    for y in (X, COLUMN, ROW, torch.tensor([2.0])):
        torch.testing.assert_close(fused(X, y), X * y.sum(-1, keepdim=True))
    assert "one numba kernel" in fused.explain(X, ROW)
    assert "plain torch" in fused.explain(X, COLUMN)
