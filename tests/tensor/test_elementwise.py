"""Element-wise operations against float64: at most 2 units in the last place, any layout, and what is refused."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from elinvar import tensor
from elinvar.errors import InputError
from elinvar.tensor.activation import ACTIVATIONS, apply, expression
from elinvar.tensor.elementwise import BINARY

BINARIES = {f"{name}_relu": (getattr(tensor, f"{name}_relu"), BINARY[name]) for name in BINARY}
HALVES = (torch.float16, torch.bfloat16)


@pytest.mark.parametrize("name", sorted(BINARIES))
def test_binary_within_two_ulp(name, randn, ulps):
    operation, plain = BINARIES[name]
    a, b = randn(40, 30), randn(40, 30)
    exact = torch.relu(plain(a.double(), b.double()))
    assert ulps(operation(a, b), exact) <= 2
    assert ulps(operation(a, b, out=torch.empty(40, 30)), exact) <= 2
    if name == "div_relu":  # one stands for all: each way to broadcast is a kernel to compile
        assert ulps(operation(a, b[0]), torch.relu(plain(a.double(), b[0].double()))) <= 2
        assert ulps(operation(a, 2.5), torch.relu(plain(a.double(), 2.5))) <= 2


@pytest.mark.parametrize("dtype", HALVES)
def test_half_storage_is_rounded_once(dtype, randn, ulps):
    a, b = randn(500, dtype=dtype), randn(500, dtype=dtype)
    assert ulps(tensor.add_relu(a, b), torch.relu(a.double() + b.double())) <= 0.5001
    big = torch.full((8,), torch.finfo(dtype).max, dtype=dtype)
    assert tensor.add_relu(big, big).isinf().all()  # overflow is infinite, never clamped


def truth(x, activation):
    """Float64 without cancellation: torch's own gelu loses its tail below zero."""
    if activation != "gelu_erf":
        return expression(x, activation)
    tail = 0.5 * x * torch.exp(-0.5 * x * x) * torch.special.erfcx(x.abs() / 2**0.5)
    return torch.where(x < 0, tail, x - tail)


def every_magnitude():
    """Float32 numbers of both signs from the smallest to the largest, and densely where activations bend."""
    bits = torch.arange(1, 0x7F800000, 40_009, dtype=torch.int32).view(torch.float32)
    return torch.cat([bits, -bits, torch.linspace(-110, 20, 20_001)])


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_activations_within_two_ulp_at_every_magnitude(activation, ulps):
    x = every_magnitude()
    wide = x.double().clamp(min=-1e30)  # what cubes of float64 leave finite
    exact = truth(wide, activation).nan_to_num(0.0)
    y = tensor.affine(x, torch.ones_like(x), torch.zeros_like(x), activation)
    assert ulps(y, exact) <= 2
    assert bool((y[exact.abs() >= 2.0**-140] != 0).all())  # results below the normal numbers are not flushed
    edges = torch.tensor([float("nan"), float("inf"), -float("inf"), 0.0, -0.0, 1e-45, -3e38, 3e38])
    got = tensor.affine(edges, torch.ones(8), torch.zeros(8), activation)
    torch.testing.assert_close(got, apply(edges.double(), activation).float(), rtol=2e-7, atol=0, equal_nan=True)


@pytest.mark.parametrize("operation", ["mul", "div"])
def test_what_rounding_the_argument_lost_is_carried(operation, randn, ulps):
    a, b = 9 * randn(4000).abs() + 1, -(1 + randn(4000).abs())
    exact = torch.sigmoid(BINARY[operation](a.double(), b.double()))
    assert ulps(tensor.binary(operation, a, b, "sigmoid"), exact) <= 2
    assert ulps(torch.sigmoid(BINARY[operation](a, b)), exact) > 2


@pytest.mark.parametrize(
    ("activation", "dtype"), [*((a, torch.float32) for a in (None, *ACTIVATIONS)), ("gelu_tanh", torch.float16)]
)
def test_affine_within_two_ulp(activation, dtype, randn, ulps):
    x, scale, bias = (4 * randn(60, 50, dtype=dtype), randn(60, 50, dtype=dtype), randn(60, 50, dtype=dtype))
    exact = truth(x.double() * scale.double() + bias.double(), activation)
    y = tensor.affine(x, scale, bias, activation)
    assert y.dtype == dtype
    assert ulps(y, exact) <= (2 if dtype == torch.float32 else 0.6)


@pytest.mark.parametrize("dtype", HALVES)
def test_affine_in_half_is_closer_than_two_roundings(dtype, randn, ulps):
    x, scale, bias = (randn(4, 300, dtype=dtype) for _ in range(3))
    exact = x.double() * scale.double() + bias.double()
    assert ulps(tensor.affine(x, scale, bias), exact) <= 0.5001
    assert ulps(x * scale + bias, exact) > 0.51
    # float32 parameters beside 16-bit data stay as exact as they are
    wide = tensor.affine(x, scale[0].float() / 3, bias[0].float() / 3)
    assert wide.dtype == dtype
    assert ulps(wide, x.double() * (scale[0].float() / 3).double() + (bias[0].float() / 3).double()) <= 0.5001


@settings(max_examples=12, deadline=None)
@given(
    shape=st.lists(st.integers(0, 4), min_size=1, max_size=4).map(tuple),
    kinds=st.sampled_from([("full", "last"), ("last", "one"), ("number", "full")]),
    order=st.randoms(use_true_random=False),
)
def test_affine_broadcasts_like_numpy(shape, kinds, order):
    source = torch.Generator().manual_seed(3)
    dims = list(range(len(shape)))
    order.shuffle(dims)
    x = torch.randn([shape[d] for d in dims], generator=source).permute([dims.index(d) for d in range(len(shape))])
    makers = {
        "full": lambda: torch.randn(shape, generator=source),
        "last": lambda: torch.randn(shape[-1:], generator=source),
        "one": lambda: torch.randn((1,) * len(shape), generator=source),
        "number": lambda: 1.5,
    }
    scale, bias = (makers[kind]() for kind in kinds)
    y = tensor.affine(x, scale, bias, "relu")
    torch.testing.assert_close(y, torch.relu(x * scale + bias), rtol=1e-5, atol=1e-6)


def test_channels_last_expanded_and_holed(randn):
    x = randn(2, 3, 4, 5).contiguous(memory_format=torch.channels_last)
    scale = randn(3, 1, 1)
    y = tensor.affine(x, scale, scale, "relu")
    assert y.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(y, torch.relu(x * scale + scale))
    holed, wide = randn(6, 8)[:, ::2], randn(1, 4).expand(6, 4)
    torch.testing.assert_close(tensor.add_relu(holed, wide), torch.relu(holed + wide))
    torch.testing.assert_close(tensor.add_relu(holed.t(), wide.t()), torch.relu(holed.t() + wide.t()))


def test_nan_inf_and_denormals():
    values = torch.tensor([float("nan"), float("inf"), -float("inf"), 1e-40, -1e-40, 0.0, -0.0, 3e38])
    a, b = values.repeat(8), values.repeat_interleave(8)
    for operation, plain in BINARIES.values():
        torch.testing.assert_close(operation(a, b), torch.relu(plain(a, b)), equal_nan=True, rtol=0, atol=0)
    got = tensor.affine(a, b, torch.ones(64))
    torch.testing.assert_close(got, torch.addcmul(torch.ones(64), a, b), equal_nan=True, rtol=2e-7, atol=0)


@pytest.mark.parametrize("name", ["div_relu", "mul_relu"])
def test_binary_gradients(name):
    operation, _ = BINARIES[name]
    source = torch.Generator().manual_seed(1)
    a = torch.randn(4, 5, generator=source, dtype=torch.float64, requires_grad=True)
    b = (torch.rand(5, generator=source, dtype=torch.float64) + 0.5).requires_grad_()
    assert torch.autograd.gradcheck(operation, (a, b))


def test_affine_gradients():
    args = [torch.randn(s, dtype=torch.float64, requires_grad=True) for s in ((3, 4), (4,), (3, 1))]
    assert torch.autograd.gradcheck(lambda *a: tensor.affine(*a, "gelu"), args)


def test_under_torch_compile():
    @torch.compile(backend="aot_eager", fullgraph=True)
    def step(x, s):
        return tensor.affine(tensor.add_relu(x, x), s, s, "relu").sum()

    x, s = torch.randn(4, 5, requires_grad=True), torch.randn(5, requires_grad=True)
    step(x, s).backward()
    got, x.grad = x.grad, None
    torch.relu(torch.relu(x + x) * s + s).sum().backward()
    torch.testing.assert_close(got, x.grad)


def test_out_and_pool(pool, randn):
    a, b = randn(40, 50), randn(40, 50)
    expected = torch.relu(a + b)
    with pool.frame():
        torch.testing.assert_close(tensor.add_relu(a, b, pool=pool), expected)
        torch.testing.assert_close(tensor.add_relu(a, b[0], pool=pool), torch.relu(a + b[0]))
        torch.testing.assert_close(tensor.affine(a, 2.0, b[0], pool=pool), a * 2 + b[0])
    assert pool.stats().requests == 3
    out = torch.empty(40, 50)
    assert tensor.add_relu(a, b, out=out) is out
    assert tensor.add_relu(a, b, out=a) is a
    torch.testing.assert_close(a, expected)


def test_large_arrays_are_split_over_threads(randn):
    a, b = randn(400_001), randn(400_001)
    assert torch.equal(tensor.add_relu(a, b), torch.relu(a + b))


def test_bad_input(randn):
    a = randn(4, 5)
    with pytest.raises(InputError, match=r"\(4, 5\) and \(3,\) do not broadcast"):
        tensor.add_relu(a, randn(3))
    with pytest.raises(InputError, match=r"a is torch.float32, b torch.float64"):
        tensor.mul_relu(a, a.double())
    with pytest.raises(InputError, match=r"a is on cpu, b on meta"):
        tensor.add_relu(a, a.to("meta"))
    with pytest.raises(InputError, match=r"torch\.int64"):
        tensor.add_relu(torch.ones(3, dtype=torch.int64), torch.ones(3, dtype=torch.int64))
    with pytest.raises(InputError, match="b is a str"):
        tensor.add_relu(a, "1")
    with pytest.raises(InputError, match="scale is a list"):
        tensor.affine(a, [1], 0.0)
    with pytest.raises(InputError, match="operation='pow'"):
        tensor.binary("pow", a, a)
    memory = torch.zeros(60)
    with pytest.raises(InputError, match="overlaps an input"):
        tensor.add_relu(memory[:20], memory[40:], out=memory[10:30])
    with pytest.raises(InputError, match=r"out is torch.float32 of shape \(3, 5\)"):
        tensor.add_relu(a, a, out=torch.empty(3, 5))
    with pytest.raises(InputError, match=r"out is torch\.float64"):
        tensor.add_relu(a, a, out=torch.empty(4, 5, dtype=torch.float64))
    with pytest.raises(InputError, match="requires a gradient"):
        tensor.add_relu(a.requires_grad_(), a, out=torch.empty(4, 5))
    with pytest.raises(InputError, match="pool is a int"):
        tensor.add_relu(torch.ones(3), torch.ones(3), pool=3)


def test_eight_threads(randn):
    a = randn(5000)

    def work(k):
        return all(torch.equal(tensor.add_relu(a, a + k), torch.relu(a + (a + k))) for _ in range(20))

    with ThreadPoolExecutor(8) as threads:
        assert all(threads.map(work, range(8)))
