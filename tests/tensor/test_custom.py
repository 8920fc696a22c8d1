import pytest
import torch

import elinvar
from elinvar import tensor
from elinvar.errors import InputError, KernelRejected
from elinvar.runtime import kernels

SOURCE = """
#include <metal_stdlib>
using namespace metal;
kernel void swish(device const float* x [[buffer(0)]],
                  device float* y       [[buffer(1)]],
                  constant float& beta  [[buffer(2)]],
                  constant uint& n      [[buffer(3)]],
                  uint i [[thread_position_in_grid]])
{
    if (i < n) y[i] = x[i] / (1.0f + exp(-beta * x[i]));
}
"""


def swish(x, beta):
    """x times the sigmoid of beta x."""
    return x * torch.sigmoid(beta * x)


def example(seed):
    return (torch.randn(3, 20 + seed, generator=torch.Generator().manual_seed(seed)), 1.5), {}


@pytest.fixture
def fresh(monkeypatch):
    """The registry as it was, afterwards."""
    kernels.kernels()  # packages register on their only import, which must not fall into the copy
    monkeypatch.setattr(kernels.default_registry, "_versions", dict(kernels.default_registry._versions))


@pytest.mark.gxx
def test_one_call_registers_checks_times_and_lists(fresh):
    mine = tensor.register_kernel("test.swish", reference=swish, source=SOURCE, example=example)
    reports = mine.check()
    assert {r.backend for r in reports} == {"metal"}
    assert all(r.ok for r in reports)
    x = torch.randn(4, 5)
    torch.testing.assert_close(mine(x, 2.0), swish(x, 2.0))  # no CPU version: the reference
    info = next(k for k in kernels.kernels("cpu") if k.name == "test.swish")
    assert info.summary == "x times the sigmoid of beta x."
    assert set(mine.bench(runs=2, warmup=0)) == {"kernel", "reference"}


@pytest.mark.gxx
def test_a_wrong_kernel_fails_its_check(fresh):
    wrong = SOURCE.replace("1.0f +", "2.0f +")
    mine = tensor.register_kernel("test.wrong", reference=swish, source=wrong, example=example)
    with pytest.raises(KernelRejected, match=r"test\.wrong"):
        mine.check()


@pytest.mark.gxx
def test_a_fused_function_brings_both_texts(fresh):
    fused = elinvar.fuse(lambda x, beta: x * torch.sigmoid(x * beta))
    mine = tensor.register_kernel("test.fused", reference=swish, fused=fused, example=example)
    assert {r.backend for r in mine.check(seeds=(0,))} == {"cpu", "metal"}
    assert elinvar.kernel("test.fused", "cpu").backend == "cpu"


@pytest.mark.gxx
def test_launcher_refuses_what_does_not_fit():
    launch = tensor.custom.elementwise_launcher(SOURCE)
    with pytest.raises(InputError, match="no argument is left for beta"):
        launch(torch.ones(3))
    with pytest.raises(InputError, match=r"1 argument\(s\) too many"):
        launch(torch.ones(3), 1.0, 2.0)
    with pytest.raises(InputError, match="no argument is a tensor"):
        launch(1.0)
    assert launch(torch.ones(0), 1.0).shape == (0,)
    two = SOURCE + SOURCE.split("metal;")[1].replace("swish", "other")
    with pytest.raises(InputError, match="name one with function="):
        tensor.custom.elementwise_launcher(two)(torch.ones(3), 1.0)
    assert tensor.custom.elementwise_launcher(two, "other")(torch.ones(3), 1.0).shape == (3,)


def test_bad_input():
    with pytest.raises(InputError, match="neither source= and fused="):
        tensor.register_kernel("test.none", reference=swish, example=example)
    with pytest.raises(InputError, match="both source= and fused="):
        tensor.register_kernel("test.both", reference=swish, example=example, source=SOURCE, fused=elinvar.fuse(swish))


@pytest.mark.gxx
def test_names_and_flags_reach_a_fused_function(fresh):
    def shrunk(x, by=0.5, soft=False):
        """x moved towards zero."""
        y = torch.relu(x.abs() - by) * torch.sign(x)
        return torch.tanh(y) if soft else y

    def tile(seed):
        return (torch.linspace(-2 - seed, 2, 12),), {"by": 0.25, "soft": True}

    mine = tensor.register_kernel("test.shrunk", reference=shrunk, fused=elinvar.fuse(shrunk), example=tile)
    assert {r.backend for r in mine.check()} == {"cpu", "metal"}
    x = torch.linspace(-1, 1, 9)
    torch.testing.assert_close(mine(x, soft=True), shrunk(x, soft=True))
    assert "test.shrunk: v1 as cpu on cpu" in mine.explain(x)
    assert tensor.explain(mine, x) == mine.explain(x)


def test_a_function_that_is_not_fused_is_refused(fresh):
    with pytest.raises(InputError, match=r"fused= is a function; give elinvar.fuse\(function\)"):
        tensor.register_kernel("test.plain", reference=swish, fused=swish, example=example)
