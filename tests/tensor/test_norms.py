import pytest
import torch
from torch.nn import functional

from elinvar import tensor
from elinvar.errors import InputError
from elinvar.tensor.activation import apply


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_layer_norm(dtype, randn):
    x, w, b = randn(3, 4, 33, dtype=dtype), randn(33, dtype=dtype), randn(33, dtype=dtype)
    for weight, bias, act in ((w, b, "gelu_tanh"), (None, None, None)):
        exact = functional.layer_norm(
            x.double(), (33,), None if weight is None else w.double(), None if bias is None else b.double()
        )
        y = tensor.layer_norm(x, 33, weight, bias, activation=act)
        assert y.dtype == dtype
        torch.testing.assert_close(y.double(), apply(exact, act), rtol=4 * torch.finfo(dtype).eps, atol=2e-6)


def test_layer_norm_far_from_zero_and_over_several_dimensions(randn):
    x = randn(4, 5, 6) + 1000.0
    exact = functional.layer_norm(x.double(), (5, 6))
    torch.testing.assert_close(tensor.layer_norm(x, (5, 6)).double(), exact, rtol=0, atol=1e-3)
    out = torch.empty(4, 5, 6)
    assert tensor.layer_norm(x, (5, 6), out=out) is out
    torch.testing.assert_close(out, tensor.layer_norm(x, (5, 6)))


def test_layer_norm_gradients(randn):
    leaves = [randn(*s, dtype=torch.float64).requires_grad_() for s in ((3, 5), (5,), (5,))]
    assert torch.autograd.gradcheck(lambda x, w, b: tensor.layer_norm(x, 5, w, b, activation="relu"), leaves)


def test_batch_norm(randn, pool):
    x, mean, weight, bias = randn(2, 3, 4, 5), randn(3), randn(3), randn(3)
    var = randn(3).abs() + 0.1
    expected = torch.relu(functional.batch_norm(x, mean, var, weight, bias))
    torch.testing.assert_close(tensor.batch_norm(x, mean, var, weight, bias, activation="relu"), expected)
    last = x.contiguous(memory_format=torch.channels_last)
    with pool.frame():
        y = tensor.batch_norm(last, mean, var, weight, bias, activation="relu", pool=pool)
        torch.testing.assert_close(y, expected)
    y = tensor.batch_norm(last.half(), mean, var, weight, bias, activation="relu")
    assert y.dtype == torch.float16
    assert y.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(y.float(), expected, rtol=2e-3, atol=4e-3)


def test_norms_compile(randn):
    x, w = randn(4, 6), randn(6)
    step = torch.compile(lambda x, w: tensor.layer_norm(x, 6, w), backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(step(x, w), functional.layer_norm(x, (6,), w))


def test_empty_and_bad_input(randn):
    x = randn(4, 6)
    assert tensor.layer_norm(randn(0, 6), 6).shape == (0, 6)
    with pytest.raises(InputError, match=r"\(4, 6\) does not end in normalized_shape \(5,\)"):
        tensor.layer_norm(x, 5)
    with pytest.raises(InputError, match=r"weight has shape \(5,\); give \(6,\)"):
        tensor.layer_norm(x, 6, randn(5))
    with pytest.raises(InputError, match="weight"):
        tensor.layer_norm(x, 6, randn(6).double())
    with pytest.raises(InputError, match=r"running_var has shape \(4,\), x 6 channels"):
        tensor.batch_norm(x, randn(6), randn(4))
    with pytest.raises(InputError, match=r"give \(N, C, ...\)"):
        tensor.batch_norm(x[0], randn(6), randn(6))
