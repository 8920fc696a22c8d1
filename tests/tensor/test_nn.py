import copy
import pickle

import pytest
import torch

from elinvar import Pool, Precision, tensor
from elinvar.errors import InputError
from elinvar.tensor import nn


def test_a_plain_models_state_fits_and_gives_the_same(randn):
    plain = torch.nn.Sequential(torch.nn.Linear(6, 5), torch.nn.ReLU(), torch.nn.Linear(5, 3))
    fused = tensor.FusedMLP([6, 5, 3])
    fused[0].load_state_dict(plain[0].state_dict())
    fused[1].load_state_dict(plain[2].state_dict())
    x = randn(4, 6)
    torch.testing.assert_close(fused(x), plain(x))
    with torch.no_grad():
        torch.testing.assert_close(fused(x), plain(x))
    assert [name for name, _ in fused.named_parameters()] == ["0.weight", "0.bias", "1.weight", "1.bias"]


def test_shared_parameters_residual_and_text(randn):
    plain = torch.nn.Linear(4, 4)
    fused = nn.FusedLinear.of(plain, "gelu")
    assert fused.weight is plain.weight
    x = randn(3, 4)
    expected = torch.nn.functional.gelu(plain(x) + x, approximate="tanh")
    torch.testing.assert_close(fused(x, residual=x), expected)
    assert "activation=gelu_tanh" in repr(fused)
    assert nn.FusedLinear.of(torch.nn.Linear(4, 4, bias=False)).bias is None


def test_training_learns(randn):
    torch.manual_seed(0)
    model = tensor.FusedMLP([2, 16, 1], "silu")
    optimiser = torch.optim.Adam(model.parameters(), lr=0.02)
    x = randn(128, 2)
    y = x[:, :1] * x[:, 1:]
    losses = []
    for _ in range(80):
        optimiser.zero_grad()
        loss = (model(x) - y).square().mean()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.2 * losses[0]


def test_storage(randn):
    layer = tensor.FusedLinear(4, 3, precision="fp16")
    assert layer.weight.dtype == torch.float16
    assert layer(randn(2, 4).half()).dtype == torch.float16
    assert layer(randn(2, 4)).dtype == torch.float16  # what comes in is stored first
    native = tensor.FusedLinear(4, 3, precision=Precision("fp16", "fp16"))
    assert native(randn(2, 4).half()).dtype == torch.float16


def test_copies_and_pickles_leave_the_pool_behind(randn):
    model = tensor.FusedMLP([4, 3, 2], pool=Pool("cpu"))
    x = randn(2, 4)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert other[0].pool is None
        torch.testing.assert_close(other(x), model(x))


def test_under_torch_compile(randn):
    model = tensor.FusedMLP([4, 8, 2], "gelu")
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    x = randn(3, 4)
    compiled(x).sum().backward()
    grads = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    model(x).sum().backward()
    for p, g in zip(model.parameters(), grads, strict=True):
        torch.testing.assert_close(g, p.grad)


def test_bad_input():
    for sizes in ([4], [4, 0]):
        with pytest.raises(InputError, match="at least two"):
            tensor.FusedMLP(sizes)
    with pytest.raises(InputError, match="'swosh'"):
        tensor.FusedLinear(2, 2, activation="swosh")
    with pytest.raises(InputError, match="'fp8'"):
        tensor.FusedLinear(2, 2, precision="fp8")
    with pytest.raises(InputError, match="ReLU"):
        nn.FusedLinear.of(torch.nn.ReLU())


def test_a_sequential_becomes_a_fused_model_with_the_same_parameters(randn):
    plain = torch.nn.Sequential(
        torch.nn.Linear(8, 6),
        torch.nn.ReLU(),
        torch.nn.Dropout(0.0),
        torch.nn.Linear(6, 6, bias=False),
        torch.nn.GELU(),
        torch.nn.Linear(6, 5),
        torch.nn.Identity(),
        torch.nn.Linear(5, 3),
        torch.nn.GELU(approximate="tanh"),
    ).eval()
    fused = tensor.FusedMLP.of(plain)
    assert isinstance(fused, tensor.FusedMLP)
    assert [layer.activation for layer in fused] == ["relu", "gelu_erf", None, "gelu_tanh"]
    assert not fused.training
    x = randn(4, 8)
    torch.testing.assert_close(fused(x), plain(x))
    fused(x).sum().backward()
    assert all(p.grad is not None for p in plain.parameters())
    again = tensor.FusedMLP.of(fused)
    assert [layer.activation for layer in again] == [layer.activation for layer in fused]
    torch.testing.assert_close(copy.deepcopy(again)(x), plain(x))


@pytest.mark.parametrize(
    ("modules", "match"),
    [
        ([torch.nn.Linear(2, 2), torch.nn.Dropout(0.5)], "module 1 is Dropout"),
        ([torch.nn.ReLU(), torch.nn.Linear(2, 2)], "module 0 is ReLU"),
        ([torch.nn.Linear(2, 2), torch.nn.ReLU(), torch.nn.Tanh()], "module 2 is Tanh"),
        ([torch.nn.Linear(2, 2), torch.nn.LeakyReLU()], "module 1 is LeakyReLU"),
        ([], "no linear layer"),
    ],
)
def test_other_models_are_refused(modules, match):
    with pytest.raises(InputError, match=match):
        tensor.FusedMLP.of(torch.nn.Sequential(*modules))
