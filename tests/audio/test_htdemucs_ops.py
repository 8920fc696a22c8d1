from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn import functional

from elinvar.audio import htdemucs_ops as ops


def make(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def relative(got: torch.Tensor, want: torch.Tensor) -> float:
    return float((got.double() - want.double()).norm() / want.double().norm())


def test_a_bfloat16_convolution_that_is_wrong_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """As oneDNN's for AMX with 8 input channels and 8 taps: found out by a small one of the same shape, once."""
    real, asked = ops._convolution, []

    def broken(x: torch.Tensor, w: torch.Tensor, *rest: Any) -> torch.Tensor:
        y = real(x, w, *rest)
        if x.dtype == torch.bfloat16:
            asked.append(tuple(x.shape))
            return y.roll(1, dims=1) if w.shape[-1] == 8 else y
        return y

    monkeypatch.setattr(ops, "_convolution", broken)
    monkeypatch.setattr(ops, "_known", {})
    x, bias = make(1, 1, 300, 8).bfloat16(), make(16, seed=1)
    for taps, trusted in ((8, False), (3, True)):
        weight = make(16, 8, taps, seed=2) / (8 * taps) ** 0.5
        want = functional.conv1d(x[:, 0].float().transpose(1, 2), weight, bias, stride=4).transpose(1, 2)[:, None]
        with torch.no_grad():
            got = ops.convolve(x, weight, bias, stride=(1, 4))
            before = len(asked)
            again = ops.convolve(x, weight, bias, stride=(1, 4))
        assert got.dtype == torch.bfloat16
        assert relative(got.float(), want) < 1e-2
        assert torch.equal(got, again)
        assert len(asked) - before == int(trusted)  # the wrong one is not even tried again


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_convolutions_apply_gelu(transposed: bool, dtype: torch.dtype) -> None:
    x, bias = make(1, 3, 40, 6), make(10, seed=1)
    weight = make(*((6, 10) if transposed else (10, 6)), 1, 8, seed=2) / 7
    convolution = functional.conv_transpose2d if transposed else functional.conv2d
    want = convolution(x.permute(0, 3, 1, 2), weight, bias, (1, 4), (0, 2))
    want = functional.gelu(want).permute(0, 2, 3, 1)
    with torch.no_grad():
        options: dict[str, Any] = {"stride": (1, 4), "padding": (0, 2), "transposed": transposed, "gelu": True}
        got = ops.convolve(x.to(dtype), weight, bias, **options)
    assert got.is_contiguous()
    assert relative(got, want) < (1e-6 if dtype == torch.float32 else 1e-2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("keys", [33, 700])
def test_attention_in_blocks_is_attention(monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype, keys: int) -> None:
    q, k, v = (1.5 * make(2, n, 32, seed=i) for i, n in enumerate((50, keys, keys)))
    heads = [x.to(dtype).double().reshape(2, -1, 4, 8).transpose(1, 2) for x in (q, k, v)]
    want = functional.scaled_dot_product_attention(*heads).transpose(1, 2).reshape(2, 50, 32)
    monkeypatch.setattr(ops, "_SCORES", 20_000)  # several blocks, the last one smaller
    with torch.no_grad():
        got = ops.attend(*(x.to(dtype) for x in (q, k, v)), 4)
    assert relative(got, want) < (2e-6 if dtype == torch.float32 else 1e-2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_norms_of_other_devices(dtype: torch.dtype) -> None:
    """What GPUs run, here on the CPU: against GroupNorm in float64."""
    x, weight, bias = (2.0 + 3.0 * make(2, 3, 50, 12)).to(dtype), make(12, seed=1), make(12, seed=2)
    rows = x.double().flatten(0, 1).transpose(1, 2)
    want = functional.group_norm(rows, 1, weight.double(), bias.double(), 1e-5).transpose(1, 2).unflatten(0, (2, 3))
    with torch.no_grad():
        gain, shift = ops._normalising(x, weight, bias, 1e-5)
        got = ops.norm_jointly(x, weight, bias, 1e-5)
    assert gain.dtype == torch.float32
    assert relative(x.double() * gain + shift, want) < 1e-6
    assert got.dtype == dtype
    assert relative(got, want) < {torch.float32: 1e-6, torch.float16: 1e-3, torch.bfloat16: 6e-3}[dtype]
