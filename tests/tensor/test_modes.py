"""Inside torch.autocast and torch.func's transforms every operation means what torch's own would."""

import pytest
import torch
from torch.autograd.forward_ad import dual_level, make_dual, unpack_dual
from torch.func import grad, jvp, vmap

import elinvar
from elinvar import tensor
from elinvar.errors import InputError
from elinvar.tensor import modes
from elinvar.tensor.activation import apply


def test_products_take_autocasts_dtype_and_round_once(randn, within):
    x, w, b, r = randn(20, 30), randn(10, 30), randn(10), randn(20, 10).bfloat16()
    narrow = [t.bfloat16() for t in (x, w, b, r)]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        for y in (tensor.linear(x, w, b, "gelu", r), tensor.matmul(x, w.t().bfloat16(), b, "gelu", r)):
            assert y.dtype == torch.bfloat16
            torch.testing.assert_close(y, tensor.linear(*narrow[:3], "gelu", narrow[3]), rtol=0, atol=0)
        assert tensor.linear(x, w, b, "relu").dtype == torch.bfloat16
        assert tensor.matmul(x[None], w.t()[None]).dtype == torch.bfloat16
        assert tensor.linear(x.double(), w.double()).dtype == torch.float64
        asked = tensor.linear(x, w, b, "relu", precision="fp32")
        torch.testing.assert_close(asked, torch.relu(x.double() @ w.double().t() + b).float())
        with torch.autocast("cpu", enabled=False):
            assert tensor.linear(x, w, b, "relu").dtype == torch.float32
        exact = apply(sum((t.double() for t in narrow[2:]), narrow[0].double() @ narrow[1].double().t()), "gelu_tanh")
        size = narrow[0].double().abs() @ narrow[1].double().abs().t() + 4
        assert within(tensor.linear(x, w, b, "gelu", r), exact, size, 30)


@pytest.mark.parametrize("activation", [None, "gelu_tanh"])
def test_a_wider_residual_keeps_its_dtype_under_autocast(randn, activation):
    x, w, b, r = randn(5, 20, 30), randn(10, 30), randn(10), randn(20, 10)
    calls = (
        lambda **more: tensor.linear(x, w, b, activation, r, **more),
        lambda **more: tensor.matmul(x, w.t(), b, activation, r, **more),
        lambda **more: tensor.matmul(x, w.t().expand(5, 30, 10), b, activation, r, **more),
    )
    with torch.autocast("cpu", dtype=torch.bfloat16):
        plain = apply(torch.nn.functional.linear(x, w, b) + r, activation)
        for call in calls:
            y = call()
            assert y.dtype == plain.dtype == torch.float32
            # torch rounds the product and here and there its bias on its own
            torch.testing.assert_close(y, plain, rtol=0.01, atol=0.1)
            out = torch.empty(5, 20, 10)
            assert call(out=out) is out
            assert torch.equal(out, y)
            narrow = torch.empty(5, 20, 10, dtype=torch.bfloat16)
            torch.testing.assert_close(call(out=narrow).float(), y, rtol=0.01, atol=0.1)
        pool = elinvar.Pool("cpu")
        with pool.frame():
            assert torch.equal(tensor.linear(x, w, b, activation, r, pool=pool), calls[0]())
        with pytest.raises(InputError, match=r"does not broadcast"):
            tensor.linear(x, w, b, activation, randn(3, 10))
        with pytest.raises(InputError, match=r"overlaps"):
            tensor.linear(x, w, b, activation, out[:1].expand(5, 20, 10), out=out)
        for wrong in (3.0, torch.ones(20, 10, dtype=torch.int64)):
            with pytest.raises(InputError, match="residual"):
                tensor.linear(x, w, b, activation, wrong)


def test_a_wider_residual_under_autocast_has_gradients(randn):
    x, w, b, r = (t.requires_grad_() for t in (randn(6, 8), randn(5, 8), randn(5), randn(6, 5)))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = tensor.linear(x, w, b, "silu", r)
        plain = torch.nn.functional.silu(torch.nn.functional.linear(x, w, b) + r)
    found = torch.autograd.grad(y.square().sum(), (x, w, b, r))
    expected = torch.autograd.grad(plain.square().sum(), (x, w, b, r))
    for one, other in zip(found, expected, strict=True):
        assert one.dtype == torch.float32
        torch.testing.assert_close(one, other, rtol=0.05, atol=0.05)


def test_autocast_inside_a_compiled_graph(randn):
    x, w, b = randn(8, 6), randn(5, 6), randn(5)

    def step(*operands):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return tensor.linear(*operands, "relu"), tensor.linear(*operands, "relu", operands[2] + 0.0)

    compiled = torch.compile(step, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(x, w, b), step(x, w, b), rtol=0, atol=0)


def test_training_under_autocast(randn):
    model = tensor.FusedMLP([12, 16, 3], "gelu")
    x = randn(9, 12)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = tensor.softmax_cross_entropy(model(x), torch.arange(9) % 3)
        loss.backward()
    found = [p.grad.clone() for p in model.parameters()]
    assert all(g.dtype == torch.float32 for g in found)
    model.zero_grad()
    tensor.softmax_cross_entropy(model(x), torch.arange(9) % 3).backward()
    for g, p in zip(found, model.parameters(), strict=True):
        torch.testing.assert_close(g, p.grad, rtol=0.1, atol=0.01)


def test_elementwise_operations_promote_under_autocast(randn):
    a, b = randn(4, 5).bfloat16(), randn(4, 5)
    with pytest.raises(InputError, match=r"a is torch.bfloat16, b torch.float32"):
        tensor.add_relu(a, b)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = tensor.add_relu(a, b)
        assert tensor.add_relu(b, b).dtype == torch.float32
        with pytest.raises(InputError, match=r"torch\.int64"):
            tensor.add_relu(a, torch.ones(4, 5, dtype=torch.int64))
    torch.testing.assert_close(y, torch.relu(a.float() + b), rtol=0, atol=0)


# torch's own derivatives for jvp are TorchScript.
pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.script.*:DeprecationWarning")
W, B, T = torch.linspace(-1, 1, 15).view(3, 5), torch.tensor([0.1, -0.2, 0.3]), torch.tensor([0, 1, 2, 3])
OPERATIONS = {
    "linear": (lambda x: tensor.linear(x, W, B, "gelu"), lambda x: apply(x @ W.t() + B, "gelu_tanh")),
    "matmul": (lambda x: tensor.matmul(x, W.t(), None, "relu"), lambda x: torch.relu(x @ W.t())),
    "batched": (lambda x: tensor.matmul(x[None], W.t()[None]), lambda x: (x @ W.t())[None]),
    "add_relu": (lambda x: tensor.add_relu(x, x), lambda x: torch.relu(x + x)),
    "affine": (lambda x: tensor.affine(x, 2.0, x, "silu"), lambda x: apply(x * 2 + x, "silu")),
    "layer_norm": (lambda x: tensor.layer_norm(x, (5,)), lambda x: torch.nn.functional.layer_norm(x, (5,))),
    "loss": (
        lambda x: tensor.softmax_cross_entropy(x, T)[None],
        lambda x: torch.nn.functional.cross_entropy(x, T)[None],
    ),
    "fuse": (elinvar.fuse(lambda x: torch.sigmoid(x) * x), lambda x: torch.sigmoid(x) * x),
}


@pytest.mark.parametrize("name", sorted(OPERATIONS))
def test_transforms(name, randn):
    ours, plain = OPERATIONS[name]
    x, tangent = randn(6, 4, 5), randn(4, 5)
    torch.testing.assert_close(vmap(ours)(x), torch.stack([plain(v) for v in x]))
    with torch.no_grad():
        torch.testing.assert_close(vmap(ours)(x), torch.stack([plain(v) for v in x]))
    torch.testing.assert_close(grad(lambda v: ours(v).sum())(x[0]), grad(lambda v: plain(v).sum())(x[0]))
    torch.testing.assert_close(
        vmap(grad(lambda v: ours(v).sum()))(x), torch.stack([grad(lambda v: plain(v).sum())(v) for v in x])
    )
    torch.testing.assert_close(jvp(ours, (x[0],), (tangent,)), jvp(plain, (x[0],), (tangent,)))


def test_transforms_of_weights_alone_and_of_half_storage(randn):
    x, w = randn(64, 64), randn(3, 64, 64)
    found = vmap(lambda one: tensor.linear(x, one, x[0], "relu"))(w)
    torch.testing.assert_close(found, torch.stack([torch.relu(x @ one.t() + x[0]) for one in w]), rtol=1e-4, atol=1e-4)
    half = vmap(lambda one: tensor.linear(x.half(), one.half(), activation="gelu"))(w)
    torch.testing.assert_close(half[1], tensor.linear(x.half(), w[1].half(), activation="gelu"), rtol=1e-3, atol=1e-6)
    assert vmap(lambda v: tensor.affine(v.half(), 2.0, 1.0, "gelu"))(x).dtype == torch.float16


def test_out_is_refused_inside_a_transform(randn):
    x = randn(4, 5)
    for call in (
        lambda v: tensor.linear(v, W, out=torch.empty(5, 3)),
        lambda v: tensor.affine(v, 2.0, 1.0, out=torch.empty(5)),
        lambda v: elinvar.fuse(lambda u: u * 2)(v, out=torch.empty(5)),
    ):
        with pytest.raises(InputError, match=r"inside a transform of torch\.func"):
            vmap(call)(x)
    with pytest.raises(InputError, match=r"check_finite: .*vmap"):
        vmap(tensor.check_finite)(x)


def test_nothing_is_cast_outside_autocast(randn):
    assert modes.cast(None, randn(2, 2)) is None
    a, b = randn(2), randn(2).half()
    assert modes.promote(a, b) == (a, b)


def test_forward_mode_keeps_tangents(randn):
    a, b, tangent = randn(5, 5), randn(5, 5), randn(5, 5)
    scaled = elinvar.fuse(lambda u, v: u * 3 + v)
    for ours, plain in (
        (lambda v: tensor.add_relu(v, b), lambda v: torch.relu(v + b)),
        (lambda v: tensor.affine(v, b, b), lambda v: v * b + b),
        (lambda v: tensor.linear(v, b, b[0]), lambda v: v @ b.t() + b[0]),
        (lambda v: scaled(v, b), lambda v: v * 3 + b),
    ):
        ours(a)  # what is prepared by now must not be taken
        with dual_level():
            found, expected = (unpack_dual(f(make_dual(a, tangent))) for f in (ours, plain))
            torch.testing.assert_close(found.primal, expected.primal)
            torch.testing.assert_close(found.tangent, expected.tangent)
