import pytest
import torch

from elinvar import Precision, tensor
from elinvar.errors import InputError


def test_overflow_is_infinite_and_can_be_refused():
    x = torch.tensor([1e5, -1e5, 1.0])
    assert tensor.store(x, "fp16").tolist() == [float("inf"), -float("inf"), 1.0]
    with pytest.raises(InputError, match=r"0 NaN and 2 infinite values, the first at \(0,\); scale it down"):
        tensor.store(x, "fp16", check=True)
    assert tensor.store(x, "bf16", check=True).dtype == torch.bfloat16
    assert tensor.store(x, Precision("fp16", "fp32")).dtype == torch.float16


def test_auto_takes_a_format_that_is_fast_here():
    from elinvar import device

    fast = device("cpu").profile.fast
    expected = torch.bfloat16 if "bf16" in fast else torch.float16 if "fp16" in fast else torch.float32
    assert tensor.store(torch.ones(2), "auto").dtype == expected


def test_check_finite():
    x = torch.ones(3, 4)
    assert tensor.check_finite(x) is x
    x[1, 2], x[2, 0] = float("nan"), float("inf")
    with pytest.raises(
        InputError, match=r"logits of shape \(3, 4\) has 1 NaN and 1 infinite values, the first at \(1, 2\)"
    ):
        tensor.check_finite(x, "logits")
    with pytest.raises(InputError, match="a list"):
        tensor.check_finite([1.0])


def test_bad_input():
    with pytest.raises(InputError, match="'int8'"):
        tensor.store(torch.ones(2), "int8")
    with pytest.raises(InputError, match=r"torch\.int64"):
        tensor.store(torch.ones(2, dtype=torch.int64), "fp16")
