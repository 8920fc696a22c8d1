import pytest
import torch
from torch.nn import functional

from elinvar.errors import InputError
from elinvar.tensor import activation


def test_names_and_aliases():
    assert activation.named(None, "op") is None
    assert activation.named("none", "op") is None
    assert activation.named("gelu", "op") == "gelu_tanh"
    for name in activation.ACTIVATIONS:
        assert activation.named(name, "op") == name
    with pytest.raises(InputError, match=r"op: activation='mish' is unknown; choose None, relu"):
        activation.named("mish", "op")
    with pytest.raises(InputError, match="is unknown"):
        activation.named([], "op")


def test_gelu_is_the_guides_tanh_form():
    x = torch.linspace(-4, 4, 33, dtype=torch.float64)
    guide = 0.5 * x * (1 + torch.tanh((2 / torch.pi) ** 0.5 * (x + 0.044715 * x**3)))
    torch.testing.assert_close(activation.apply(x, activation.named("gelu", "op")), guide)
    torch.testing.assert_close(activation.expression(x, "gelu_tanh"), guide)
    assert not torch.allclose(activation.apply(x, "gelu_erf"), guide, atol=1e-5)


@pytest.mark.parametrize("name", [None, *activation.ACTIVATIONS])
def test_in_place_and_backward_agree_with_autograd(name):
    x = torch.linspace(-3, 3, 25, dtype=torch.float64, requires_grad=True)
    y = activation.apply(x, name)
    assert torch.equal(activation.apply_(x.detach().clone(), name), y)
    if name is None:
        return
    grad = torch.linspace(1, 2, 25, dtype=torch.float64)
    (expected,) = torch.autograd.grad(y, x, grad)
    saved = x.detach() if activation.needs_input(name) else y.detach()
    into = torch.empty_like(saved)
    assert activation.backward(grad, saved, name, into).data_ptr() == into.data_ptr()
    torch.testing.assert_close(into, expected)


def test_relu_keeps_nan():
    x = torch.tensor([float("nan"), -1.0, 2.0])
    assert activation.apply_(x.clone(), "relu").isnan().tolist() == [True, False, False]
    assert functional.relu(x).isnan()[0]
