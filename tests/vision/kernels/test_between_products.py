"""The kernels that stand between products and convolutions: one way to check them all."""

from __future__ import annotations

import pytest
import torch

from elinvar.errors import InputError
from elinvar.runtime import kernels
from elinvar.vision.kernels import addnorm, describe, enlarge, gelu, join, turn

ALL = [turn, addnorm, enlarge, gelu, join, describe]
ROUNDING = {torch.float32: 2e-6, torch.float16: 2e-3, torch.bfloat16: 1.5e-2}


@pytest.mark.gxx
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("module", ALL, ids=lambda m: m.NAME)
def test_the_metal_kernel_equals_its_reference(module, seed):
    assert kernels.check(module.NAME, "v1", "cpu", backend="metal", seed=seed).ok


@pytest.mark.gxx
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("module", ALL, ids=lambda m: m.NAME)
def test_small_formats_are_rounded_once(module, dtype):
    bound = kernels.kernel(module.NAME, "cpu")
    (args, options) = module.example(0)
    tables = args[2:] if module is turn else ()
    given = [t.to(dtype) if isinstance(t, torch.Tensor) else t for t in args[: len(args) - len(tables)]] + [*tables]
    launch = __import__(f"{module.__name__}.metal", fromlist=["x"]).__dict__[module.NAME.partition(".")[2]]
    got = launch(*given, device="cpu", **options)
    want = bound(*(t.double() if isinstance(t, torch.Tensor) else t for t in given), **options)
    for one, true in zip(*((x if isinstance(x, tuple) else (x,)) for x in (got, want)), strict=True):
        assert (one.double() - true).norm() <= ROUNDING[dtype] * true.norm()


def test_turning_keeps_lengths_and_moves_what_it_should():
    x = torch.randn(6, 5, 32)
    bias = torch.zeros(2, 5, 32)
    angle = torch.rand(3, 8) * 6
    out = turn.run(x, bias, angle.cos(), angle.sin(), heads=2, turned=0b01011, moved=3, shift=3)
    assert torch.allclose(out.norm(dim=2)[:, :3], x.norm(dim=2)[:, :3], atol=1e-5)
    assert torch.equal(out[:, 2], x[:, 2])  # values do not turn
    assert torch.equal(out[:, 4], x[:, 4].roll(3, 0))  # the other branch's do not either, and change places
    assert not torch.allclose(out[:, 1], x[:, 1])


@pytest.mark.gxx
def test_rows_of_little_variance_are_not_blown_up():
    from elinvar.vision.kernels.addnorm.metal import addnorm as launch

    x = 1e-3 * torch.randn(4, 64)
    zero = torch.zeros(4, 64)
    _, normed = launch(x, zero, zero[:1], epsilon=1e-6, device="cpu")
    want = torch.nn.functional.layer_norm(x.double(), (64,), eps=1e-6)
    assert (normed - want).norm() < 1e-5 * want.norm()


def test_enlarged_corners_stay():
    x = torch.randn(1, 3, 4, 8)
    out = enlarge.run(x, torch.ones(8), size=(7, 9))
    for a, b in ((0, 0), (0, -1), (-1, 0), (-1, -1)):
        assert torch.allclose(out[0, a, b], x[0, a, b] + 1, atol=1e-6)


def _turn(width, groups, tokens, heads):
    tables = torch.ones(tokens, width // heads // 2)
    turn.run(torch.ones(4, 1, width), torch.ones(groups, 1, width), tables, tables, heads=heads, turned=1)


@pytest.mark.parametrize(
    "call",
    [
        lambda: _turn(24, 1, 4, heads=1),
        lambda: _turn(32, 3, 4, heads=2),
        lambda: _turn(32, 1, 3, heads=2),
        lambda: addnorm.run(torch.ones(4, 8), torch.ones(4, 8), torch.ones(3, 8)),
        lambda: addnorm.run(torch.ones(4, 6), torch.ones(4, 6), torch.ones(1, 6)),
        lambda: addnorm.run(torch.ones(4, 8), torch.ones(4, 8).half(), torch.ones(1, 8)),
        lambda: enlarge.run(torch.ones(1, 4, 4, 8), torch.ones(4), size=(8, 8)),
        lambda: enlarge.run(torch.ones(1, 4, 4, 8), torch.ones(8), size=(3, 8)),
        lambda: gelu.run(torch.ones(4, 8), torch.ones(3, 8)),
        lambda: gelu.run(torch.ones(4, 6), torch.ones(1, 6)),
        lambda: join.run(torch.ones(4, 8), torch.ones(8), torch.ones(3, 8)),
        lambda: join.run(torch.ones(4, 6), torch.ones(6), torch.ones(4, 6)),
        lambda: describe.run(torch.ones(1, 5, 100), grid=(2, 3), patch=2),
        lambda: describe.run(torch.ones(1, 6, 4), grid=(2, 3), patch=2),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused(call):
    with pytest.raises(InputError, match=r"vision\."):
        call()
