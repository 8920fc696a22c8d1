"""Fused functions against the same functions in float64 torch: values, gradients, layouts, refusals."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

import elinvar
from elinvar.errors import InputError


def affine_relu(x, scale, bias):
    return torch.relu(x * scale + bias)


def layer_norm(x, weight, bias):
    centred = x - x.mean(-1, keepdim=True)
    variance = (centred * centred).mean(-1, keepdim=True)
    return centred * torch.rsqrt(variance + 1e-5) * weight + bias


def activations(x, y):
    return torch.tanh(x * y + 0.5) * torch.sigmoid(y) - functional.gelu(x, approximate="tanh") + functional.silu(y)


def pieces(x, y):
    inside = (x > y) & ~(x > 1.5)
    return torch.where(inside, x.square(), torch.clamp(y, -0.5, 0.5).exp()) + functional.softplus(x) - abs(y)


CASES = {
    "affine_relu": (affine_relu, [(6, 5), (5,), (6, 1)]),
    "layer_norm": (layer_norm, [(4, 7), (7,), (7,)]),
    "activations": (activations, [(3, 5), (3, 5)]),
    "gelu_erf": (functional.gelu, [(9,)]),
    "pieces": (pieces, [(4, 5), (4, 5)]),
    "softmax_first_axis": (lambda x: torch.softmax(x * 2, dim=0), [(5, 3)]),
    "reduce": (lambda x: x.amax(1), [(3, 4, 2)]),
    "reduce_keep": (lambda x, y: (x * y).sum(-1, keepdim=True) + 1.0, [(3, 4), (4,)]),
    "row_in_row": (lambda x: (x - x.mean(-1, keepdim=True)).sum(-1, keepdim=True) * x, [(3, 4)]),
    "several": (lambda x, y: (x + y, x / (y * y + 1.0)), [(3, 4), (4,)]),
    "powers": (lambda x: (x * x + 1.0) ** 1.5 + 2.0**x + torch.log1p(x * x), [(6,)]),
}


def _arguments(shapes, dtype=torch.float32, seed=0):
    make = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=make, dtype=torch.float64).to(dtype) for shape in shapes]


@pytest.mark.parametrize("name", sorted(CASES))
def test_values_match_float64_torch(name):
    function, shapes = CASES[name]
    args = _arguments(shapes)
    fused = elinvar.fuse(function)
    assert "numba kernel" in fused.explain(*args)
    torch.testing.assert_close(
        fused(*args), function(*(a.double() for a in args)), rtol=3e-6, atol=3e-6, check_dtype=False
    )


@pytest.mark.parametrize("name", sorted(CASES))
def test_gradients_and_their_gradients(name):
    function, shapes = CASES[name]
    args = [a.requires_grad_() for a in _arguments(shapes, torch.float64)]
    fused = elinvar.fuse(function)
    assert torch.autograd.gradcheck(fused, args)
    assert torch.autograd.gradgradcheck(fused, args)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", ["affine_relu", "layer_norm", "activations"])
def test_half_storage_rounds_once(name, dtype):
    function, shapes = CASES[name]
    args = _arguments(shapes, dtype)
    exact = function(*(a.double() for a in args))
    result = elinvar.fuse(function)(*args)
    assert result.dtype == dtype
    # one rounding to the storage dtype of a float32 result
    assert ((result.double() - exact).abs() <= exact.abs() * torch.finfo(dtype).eps / 2 * 1.01 + 1e-6).all()


@settings(max_examples=40, deadline=None)
@given(
    shape=st.lists(st.integers(0, 4), max_size=4).map(tuple),
    drop=st.integers(0, 4),
    ones=st.lists(st.booleans(), min_size=4, max_size=4),
    order=st.randoms(use_true_random=False),
)
def test_any_broadcast_and_strides(shape, drop, ones, order):
    first = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    dims = list(range(len(shape)))
    order.shuffle(dims)
    first = first.permute(dims).contiguous().permute([dims.index(d) for d in range(len(shape))])
    second_shape = tuple(1 if one else n for n, one in zip(shape, ones, strict=False))[drop:]
    second = torch.randn(second_shape, generator=torch.Generator().manual_seed(2))
    result = elinvar.fuse(lambda a, b: a * 2.0 - b)(first, second)
    torch.testing.assert_close(result, first * 2 - second)


def test_every_second_column_and_scalars_without_recompiling():
    fused = elinvar.fuse(lambda x, k: x * k + 1)
    x = torch.arange(20.0).reshape(4, 5)[:, ::2]
    for k in (2, 3.5, True):
        torch.testing.assert_close(fused(x, k), x * k + 1)


def test_large_arrays_are_split_over_threads():
    x = torch.randn(700_001)
    torch.testing.assert_close(elinvar.fuse(lambda a: a * 3 - 1)(x), x * 3 - 1)
    rows = torch.randn(3000, 101)
    torch.testing.assert_close(elinvar.fuse(lambda a: a.sum(-1))(rows), rows.sum(-1), rtol=1e-5, atol=1e-4)


def test_relu_and_extremes_keep_nan():
    x = torch.tensor([float("nan"), -1.0, 2.0, float("inf")])
    fused = elinvar.fuse(lambda a: torch.relu(a) + torch.maximum(a, a * 0 + 0.5) * 0)
    torch.testing.assert_close(fused(x), torch.relu(x) + torch.maximum(x, x * 0 + 0.5) * 0, equal_nan=True)
    torch.testing.assert_close(elinvar.fuse(lambda a: a.amax(0))(x), x.amax(0), equal_nan=True)


def test_truth_value_inputs():
    mask = torch.tensor([True, False, True])
    x = torch.tensor([1.0, 2.0, 3.0])
    fused = elinvar.fuse(lambda a, m: torch.where(m, a, -a) * m)
    torch.testing.assert_close(fused(x, mask), torch.where(mask, x, -x) * mask)


def test_types_promote_as_in_torch():
    half, single = torch.ones(3, dtype=torch.float16), torch.ones(3)
    fused = elinvar.fuse(lambda a, b: a + b)
    assert fused(half, single).dtype == torch.float32
    assert fused(half, torch.tensor(1.0)).dtype == torch.float16
    assert fused(half, half.bfloat16()).dtype == torch.float32


def test_out():
    fused = elinvar.fuse(affine_relu)
    x, scale, bias = _arguments([(8, 4), (4,), (4,)])
    out = torch.empty(8, 4)
    expected = affine_relu(x, scale, bias)
    assert fused(x, scale, bias, out=out) is out
    torch.testing.assert_close(out, expected)
    assert fused(x, scale, bias, out=x) is x
    torch.testing.assert_close(x, expected)
    with pytest.raises(InputError, match="overlaps an input"):
        memory = torch.zeros(10)
        fused(memory[:8], scale[0], bias[0], out=memory[2:])
    with pytest.raises(InputError, match=r"out is torch.float32 of shape \(3,\)"):
        fused(x, scale, bias, out=torch.empty(3))
    with pytest.raises(InputError, match="requires grad"):
        fused(x, scale.requires_grad_(), bias, out=out)


def test_reduced_out_without_keepdim():
    x = torch.randn(4, 5)
    out = torch.empty(4)
    elinvar.fuse(lambda a: a.sum(-1))(x, out=out)
    torch.testing.assert_close(out, x.sum(-1))


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        (lambda x: torch.fft.fft(x).real, "torch function fft_fft"),
        (lambda x: x if x.sum() > 0 else -x, "over all elements"),
        (lambda x: x + torch.ones(3), "a tensor that is not an argument"),
        (lambda x: x[0] + x, "indexing"),
        (lambda x: x.sum(0, keepdim=True) + x.sum(1, keepdim=True), "both axis"),
        (lambda x: x.sum(0) + 1, "without keepdim"),
        (lambda x: x % 2, "code that cannot be recorded (TypeError"),
        (lambda x: torch.div(x, 2, rounding_mode="floor"), "rounding_mode='floor'"),
        (lambda x: functional.softplus(x, threshold=1), "softplus with threshold=1"),
        (lambda x: x.sum(0, dtype=torch.float64), "sum with a dtype"),
        (lambda x: (x > 0, x)[0], "a boolean output"),
        (lambda x: (x * 2).add_(1), "method .add_"),
        (lambda x: functional.relu(x * 2, inplace=True), "relu(inplace=True)"),
        (lambda x: [x * 2][0] * len(str(x.shape)), "method .shape"),
    ],
)
def test_what_cannot_be_fused_runs_as_torch_and_says_why(function, reason, caplog):
    x = torch.randn(3, 3)
    fused = elinvar.fuse(function)
    assert reason in fused.explain(x)
    torch.testing.assert_close(fused(x), function(x))
    fused(x)
    assert caplog.text.count(reason) == 1
    with pytest.raises(InputError, match="there is no kernel"):
        fused.source(x)


def test_bad_arguments():
    fused = elinvar.fuse(lambda a, b: a + b)
    with pytest.raises(InputError, match=r"\(2,\) and \(3,\) do not broadcast"):
        fused(torch.ones(2), torch.ones(3))
    with pytest.raises(InputError, match="argument 1 is a list"):
        fused(torch.ones(2), [3])
    with pytest.raises(InputError, match="no argument is a tensor"):
        fused(1.0, 2.0)
    with pytest.raises(InputError, match="cpu and meta"):
        fused(torch.ones(2), torch.ones(2, device="meta"))
    with pytest.raises(InputError, match="reduces along axis 2"):
        elinvar.fuse(lambda a: a.sum(2))(torch.ones(2, 2))
    with pytest.raises(InputError, match="decorate a function"):
        elinvar.fuse(3)


def test_source_is_readable():
    text = elinvar.fuse(affine_relu).source(torch.ones(4), torch.ones(4), torch.ones(4))
    assert "def kernel" in text
    assert "for c in range" in text
