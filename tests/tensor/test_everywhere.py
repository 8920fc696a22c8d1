"""Every operation everywhere in torch: compiled graphs with dynamic shapes, vmap, double backward, given memory."""

import numpy as np
import pytest
import torch

import elinvar
from elinvar import tensor
from elinvar.errors import InputError

_make = torch.Generator().manual_seed(11)


def _randn(*shape):
    return torch.randn(shape, generator=_make)


W, B, S, V = _randn(5, 8), _randn(5), _randn(8), torch.rand(8, generator=_make) + 0.5
OPERATIONS = {
    "linear": lambda x: tensor.linear(x, W, B, "gelu", B),
    "matmul": lambda x: tensor.matmul(x.unsqueeze(0), W.t(), B, "silu"),
    "add_relu": lambda x: tensor.add_relu(x, 0.5),
    "div_relu": lambda x: tensor.div_relu(x, V),
    "binary": lambda x: tensor.binary("mul", x, S, "gelu_erf"),
    "affine": lambda x: tensor.affine(x, S, 0.25, "tanh"),
    "affine_numbers": lambda x: tensor.affine(x, 2.0, 0.25),
    "layer_norm": lambda x: tensor.layer_norm(x, 8, S, B[:1].expand(8), activation="gelu"),
    "layer_norm_plain": lambda x: tensor.layer_norm(x, (8,)),
    "batch_norm": lambda x: tensor.batch_norm(x, S, V, V, S, activation="relu"),
    "cross_entropy": lambda x: tensor.softmax_cross_entropy(x, torch.zeros_like(x[:, 0], dtype=torch.int64)),
    "lists": lambda x: tensor.stack([tensor.cat([x, x * 2], 1), tensor.cat([x * x, x], 1)]),
    "pieces": lambda x: tensor.split(x, 4, 1)[1] + tensor.unbind(x, 1)[2].unsqueeze(1),
    "stored": lambda x: tensor.store(x * 2, "bf16").float(),
    "precision": lambda x: tensor.linear(x, W, None, "relu", precision="bf16").float(),
    "module": tensor.FusedMLP([8, 6, 3], "gelu"),
}


@pytest.mark.parametrize("name", OPERATIONS)
def test_compiled_whole_with_gradients_and_any_number_of_rows(name):
    operation = OPERATIONS[name]
    compiled = torch.compile(operation, backend="aot_eager", fullgraph=True, dynamic=True)
    for rows in (6, 9):
        x = _randn(rows, 8).requires_grad_()
        expected, found = operation(x), compiled(x)
        torch.testing.assert_close(found, expected)
        weight = torch.rand(expected.shape, generator=_make)
        wanted, got = (torch.autograd.grad((y * weight).sum(), x)[0] for y in (expected, found))
        torch.testing.assert_close(got, wanted)


@pytest.mark.parametrize("name", [n for n in OPERATIONS if n not in ("stored", "precision")])
def test_mapped_and_differentiated_twice(name):
    operation = OPERATIONS[name]
    x = _randn(3, 6, 8)
    torch.testing.assert_close(torch.func.vmap(operation)(x), torch.stack([operation(one) for one in x]))

    def energy(x):
        return operation(x).square().sum()

    leaf = x[0].clone().requires_grad_()
    (slope,) = torch.autograd.grad(energy(leaf), leaf, create_graph=True)
    (bend,) = torch.autograd.grad((slope * x[1]).sum(), leaf)
    _, product = torch.func.vjp(torch.func.grad(energy), x[0])
    (wanted,) = product(x[1])
    torch.testing.assert_close(bend, wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["add_relu", "affine", "linear", "layer_norm", "fuse", "cat"])
def test_memory_that_a_graph_still_needs_is_not_overwritten_in_silence(name):
    scale = elinvar.fuse(lambda x: x * 3.0)
    write = {
        "add_relu": lambda y: tensor.add_relu(S, S, out=y),
        "affine": lambda y: tensor.affine(S, S, S, out=y),
        "linear": lambda y: tensor.linear(S, torch.eye(8), S, out=y),
        "layer_norm": lambda y: tensor.layer_norm(S, 8, out=y),
        "fuse": lambda y: scale(S, out=y),
        "cat": lambda y: tensor.cat([S[:4], S[4:]], out=y),
    }[name]
    write(torch.empty(8))  # compiled, if that was needed
    y, w = _randn(8), _randn(8).requires_grad_()
    loss = (y * w).sum()
    with torch.no_grad():
        write(y)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_memory_that_wants_a_gradient_is_refused():
    x, out = torch.ones(8), torch.empty(8, requires_grad=True)
    for write in (
        lambda: tensor.add_relu(x, x, out=out),
        lambda: tensor.affine(x, x, x, out=out),
        lambda: tensor.affine(x, 2.0, 1.0, out=out),
        lambda: tensor.linear(x, torch.eye(8), x, out=out),
        lambda: tensor.layer_norm(x, 8, out=out),
        lambda: tensor.stack([x[:4], x[4:]], out=out.view(2, 4)),
        lambda: elinvar.fuse(lambda v: v * 2)(x, out=out),
    ):
        with pytest.raises(InputError, match="gradient"):
            write()
        with torch.no_grad():
            write()


def test_layer_norm_into_memory_of_any_order():
    x = _randn(2, 6, 8)
    expected = torch.nn.functional.layer_norm(x, (6, 8))
    for out in (torch.empty(8, 6, 2).permute(2, 1, 0), torch.empty(2, 6, 8), x.clone()):
        assert tensor.layer_norm(x, (6, 8), out=out) is out
        torch.testing.assert_close(out, expected)
    assert tensor.layer_norm(x, (6, 8), out=x) is x
    torch.testing.assert_close(x, expected)
    with pytest.raises(InputError, match=r"out is .* of shape \(5,\)"):
        tensor.layer_norm(torch.ones(0, 8), 8, out=torch.empty(5))
    with pytest.raises(InputError, match="out overlaps"):
        tensor.layer_norm(x[0, :4], 8, out=x[0, 1:5])


def test_numbers_of_numpy_are_numbers():
    x = _randn(4)
    torch.testing.assert_close(tensor.add_relu(x, np.float32(2)), torch.relu(x + 2))
    torch.testing.assert_close(tensor.affine(x, np.float64(2), np.int64(1)), x * 2 + 1)


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: tensor.add_relu(S.to_sparse(), S.to_sparse()), "sparse_coo; give dense memory"),
        (lambda: tensor.add_relu(torch.ones(2), torch.ones(3)), r"^add_relu: shapes \(2,\) and \(3,\)"),
        (lambda: tensor.split(S, 2.5), "size=2.5; give a whole number"),
        (lambda: tensor.split([1, 2], 1), "x is a list"),
        (lambda: tensor.unbind("ab"), "x is a str"),
        (lambda: tensor.batch_norm(torch.ones(2, 8), None, None), "running_mean and running_var are both needed"),
        (lambda: tensor.softmax_cross_entropy(torch.ones(2, 3), [0, 1]), "target is a list"),
        (
            lambda: tensor.softmax_cross_entropy(torch.ones(2, 3, 4, 4), torch.zeros(2, 4, 4, dtype=torch.int64)),
            r"logits.movedim\(1, -1\): classes come last",
        ),
        (lambda: tensor.FusedMLP([8.0, 4.0]), "sizes=\\(8.0, 4.0\\)"),
    ],
)
def test_what_does_not_fit_is_said_in_the_operations_words(call, match):
    with pytest.raises(InputError, match=match):
        call()
