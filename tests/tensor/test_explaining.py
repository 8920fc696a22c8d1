import pytest
import torch

from elinvar import Precision, tensor
from elinvar.errors import InputError

HALF = torch.ones(256, 256, dtype=torch.float16)


def test_it_says_what_happens_to_half():
    said = tensor.explain(tensor.linear, HALF, HALF, activation="gelu")
    assert "float16 converted to float32" in said
    assert "gelu_tanh in one pass from float32, rounded once" in said
    forced = tensor.explain("linear", HALF, HALF, precision=Precision("fp16", "fp16"))
    assert "native float16 as asked" in forced


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


def test_bad_input():
    with pytest.raises(InputError, match="cat is not explained"):
        tensor.explain(tensor.cat)
