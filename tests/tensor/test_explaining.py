import pytest
import torch

import elinvar
from elinvar import Precision, tensor
from elinvar.errors import InputError
from elinvar.runtime.device import device

HALF = torch.ones(256, 256, dtype=torch.float16)


def test_it_says_what_happens_to_half():
    said = tensor.explain(tensor.linear, HALF, HALF, activation="gelu")
    assert "float16 converted to float32" in said
    assert "gelu_tanh in one pass from float32, rounded once" in said
    forced = tensor.explain("linear", HALF, HALF, precision=Precision("fp16", "fp16"))
    slow = "fp16" not in device("cpu").profile.fast  # a CPU that is fast in it needs nobody's insistence
    assert ("native float16 as asked" in forced) == slow


def test_sizes_and_terms():
    said = tensor.explain(tensor.matmul, torch.ones(4, 5), torch.ones(5, 6), torch.ones(6), "relu")
    assert "4×5 by 5×6 float32 on cpu" in said
    assert "BLAS" in said  # fewer than eight rows
    assert "batched" in tensor.explain("matmul", torch.ones(2, 3, 4), torch.ones(2, 4, 5))
    assert "bias + residual + relu" in tensor.explain("linear", HALF, HALF, HALF[0], "relu", HALF)


def test_elementwise():
    said = tensor.explain(tensor.add_relu, HALF, HALF)
    assert "one numba kernel" in said
    assert "computed in float32, rounded once to float16" in said
    assert "float64" in tensor.explain("affine", torch.ones(2, dtype=torch.float64), 2.0, 1.0)


def test_everything_else_is_explained_too():
    x, v = torch.ones(2, 8), torch.ones(8)
    assert "one numba kernel over (2, 8)" in tensor.explain(tensor.layer_norm, x, 8, weight=v, activation="gelu")
    assert "rounded once to float16" in tensor.explain("batch_norm", HALF, HALF[0].float(), HALF[0].float())
    assert "one float32 number per row" in tensor.explain("softmax_cross_entropy", x, torch.tensor([0, 1]))
    assert "one numba kernel" in tensor.explain("binary", "mul", x, v, activation="silu")
    assert "bias + gelu_tanh" in tensor.explain("linear", x=x, w=x, bias=v[:2], activation="gelu")
    assert "one numba kernel" in tensor.explain("affine", x, scale=2.0, bias=v)
    fused = elinvar.fuse(lambda x, k=2.0: x * k)
    assert tensor.explain(fused, x, k=3.0) == fused.explain(x, 3.0)
    said = tensor.explain(tensor.FusedMLP([8, 4, 2], "relu", precision="bf16"), x.bfloat16()).splitlines()
    assert ["2×8 by 8×4 bfloat16" in said[0], "2×4 by 4×2 bfloat16" in said[1]] == [True, True]


def test_bad_input():
    with pytest.raises(InputError, match="explain: affine: missing a required argument: 'bias'; give the arguments"):
        tensor.explain("affine", torch.ones(2), 2.0)
    with pytest.raises(InputError, match="sort is unknown"):
        tensor.explain("sort")
    with pytest.raises(InputError, match="cat is not explained"):
        tensor.explain(tensor.cat)
