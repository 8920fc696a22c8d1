import pytest
import torch
from torch.nn import functional

from elinvar import Pool, tensor
from elinvar.errors import InputError

TARGET = torch.tensor([0, 1, 2, -100, 4, 0])


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_value_and_gradient(reduction, randn):
    logits = randn(6, 5, dtype=torch.float64).requires_grad_()

    def loss(x):
        return tensor.softmax_cross_entropy(x, TARGET, reduction=reduction)

    torch.testing.assert_close(loss(logits), functional.cross_entropy(logits, TARGET, reduction=reduction))
    assert torch.autograd.gradcheck(loss, (logits,))
    assert torch.autograd.gradgradcheck(loss, (logits,))


def test_half_logits_are_subtracted_before_rounding(randn):
    pool = Pool("cpu")
    logits = (randn(6, 5, dtype=torch.float16) * 8).requires_grad_()
    loss = tensor.softmax_cross_entropy(logits, TARGET, pool=pool)
    assert loss.dtype == torch.float32
    loss.backward()
    exact = logits.detach().double().requires_grad_()
    truth = functional.cross_entropy(exact, TARGET)
    truth.backward()
    assert abs(loss.double() - truth) <= 1e-6 * abs(truth)
    assert logits.grad.dtype == torch.float16
    torch.testing.assert_close(logits.grad.double(), exact.grad, rtol=1e-3, atol=1e-7)
    assert (pool.stats().requests, pool.live) == (1, 0)


def test_large_logits_do_not_overflow():
    logits = torch.tensor([[1e4, 0.0], [-1e4, 1e4]])
    assert tensor.softmax_cross_entropy(logits, torch.tensor([0, 0]), reduction="none").tolist() == [0.0, 2e4]


def test_more_dimensions_no_rows_and_compiled(randn):
    logits, target = randn(2, 3, 4), torch.tensor([[0, 1, 2], [3, 0, 1]])
    expected = functional.cross_entropy(logits.movedim(-1, 1), target, reduction="none")
    torch.testing.assert_close(tensor.softmax_cross_entropy(logits, target, reduction="none"), expected)
    empty = tensor.softmax_cross_entropy(randn(0, 4), target[0][:0], reduction="sum")
    assert float(empty) == 0.0
    step = torch.compile(lambda x: tensor.softmax_cross_entropy(x, target), backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(step(logits), expected.mean())


def test_bad_input(randn):
    with pytest.raises(InputError, match="targets run from 0 to 5; there are classes 0 to 3"):
        tensor.softmax_cross_entropy(randn(2, 4), torch.tensor([0, 5]))
    with pytest.raises(InputError, match="reduction='max'"):
        tensor.softmax_cross_entropy(randn(2, 4), torch.tensor([0, 1]), reduction="max")
    with pytest.raises(InputError, match=r"target is torch.float32 of shape \(2,\)"):
        tensor.softmax_cross_entropy(randn(2, 4), torch.tensor([0.0, 1.0]))
    with pytest.raises(InputError, match=r"classes of shape \(2,\)"):
        tensor.softmax_cross_entropy(randn(2, 4), torch.tensor([0, 1, 2]))
