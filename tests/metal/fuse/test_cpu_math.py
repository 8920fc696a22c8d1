"""The vectorised float32 math: within 2 ulp of float64 everywhere, and IEEE at the edges."""

import math

import numpy as np
import pytest
from numba import njit

from elinvar.metal.fuse import cpu_math

_CARRY = ("sigmoid", "silu", "gelu_tanh", "gelu_erf")


def _apply(name, x):
    function = getattr(cpu_math, f"{name}_f4")
    carries = name in _CARRY

    @njit(error_model="numpy", fastmath={"contract"})
    def run(x, out):
        for k in range(len(x)):
            if carries:
                out[k] = function(x[k], np.float32(0.0))
            else:
                out[k] = function(x[k])

    out = np.empty_like(x)
    run(x, out)
    return out


def _exact(name, x):
    wide = {
        "exp": np.exp,
        "log": np.log,
        "log1p": np.log1p,
        "tanh": np.tanh,
        "sigmoid": lambda v: 1 / (1 + np.exp(-v)),
        "erf": np.vectorize(math.erf),
        "silu": lambda v: v / (1 + np.exp(-v)),
        "gelu_tanh": lambda v: v / (1 + np.exp(-2 * np.sqrt(2 / np.pi) * (v + 0.044715 * v**3))),
        "gelu_erf": lambda v: 0.5 * v * np.vectorize(math.erfc)(-v / np.sqrt(2)),
    }[name]
    with np.errstate(all="ignore"):
        return wide(x.astype(np.float64))


def _narrow(exact):
    with np.errstate(over="ignore"):
        return exact.astype(np.float32)


_RANGES = {
    "exp": np.linspace(-103.5, 88.7, 40001),
    "log": np.concatenate([np.logspace(-44, 38, 20001), np.linspace(0.5, 2, 20001)]),
    "log1p": np.concatenate([np.linspace(-0.999, 5, 20001), np.logspace(-30, 10, 20001)]),
    "tanh": np.concatenate([np.linspace(-10, 10, 20001), np.logspace(-30, 0, 2001)]),
    "sigmoid": np.linspace(-110, 80, 40001),
    "silu": np.concatenate([np.linspace(-110, 20, 40001), np.logspace(-44, 0, 2001)]),
    "gelu_tanh": np.concatenate([np.linspace(-12, 9, 40001), np.logspace(-44, 0, 2001)]),
    "gelu_erf": np.concatenate([np.linspace(-15, 9, 40001), np.logspace(-44, 0, 2001)]),
    "erf": np.linspace(-5, 5, 20001),
}


@pytest.mark.parametrize("name", sorted(_RANGES))
def test_within_two_ulp(name):
    x = _RANGES[name].astype(np.float32)
    exact = _exact(name, x)
    spacing = np.spacing(np.abs(_narrow(exact))).astype(np.float64)
    assert np.max(np.abs(_apply(name, x) - exact) / spacing) <= 2


@pytest.mark.parametrize("name", sorted(_RANGES))
def test_edges(name):
    x = np.array([np.nan, np.inf, -np.inf, 0.0, -0.0, 200.0, -200.0], np.float32)
    np.testing.assert_allclose(_apply(name, x), _narrow(_exact(name, x)), rtol=3e-7)
    if name in ("tanh", "erf", "log1p"):
        assert np.signbit(_apply(name, x))[4]


def test_half_and_bfloat_round_as_torch_does():
    import torch

    bits = torch.arange(-32768, 32768, dtype=torch.int16)

    @njit
    def there(bits, half, bfloat):
        for k in range(len(bits)):
            half[k] = cpu_math.half_to_float(bits[k])
            bfloat[k] = cpu_math.bfloat_to_float(bits[k])

    @njit
    def back(x, half, bfloat):
        for k in range(len(x)):
            half[k] = cpu_math.float_to_half(x[k])
            bfloat[k] = cpu_math.float_to_bfloat(x[k])

    half, bfloat = np.empty(65536, np.float32), np.empty(65536, np.float32)
    there(bits.numpy(), half, bfloat)
    np.testing.assert_array_equal(half, bits.view(torch.float16).float().numpy())
    np.testing.assert_array_equal(bfloat, bits.view(torch.bfloat16).float().numpy())
    x = torch.cat([torch.randn(100_000) * 10.0 ** torch.randint(-9, 9, (100_000,)), torch.tensor([np.inf, np.nan])])
    to_half, to_bfloat = np.empty(len(x), np.int16), np.empty(len(x), np.int16)
    back(x.numpy(), to_half, to_bfloat)
    torch.testing.assert_close(torch.from_numpy(to_half).view(torch.float16), x.half(), rtol=0, atol=0, equal_nan=True)
    torch.testing.assert_close(
        torch.from_numpy(to_bfloat).view(torch.bfloat16), x.bfloat16(), rtol=0, atol=0, equal_nan=True
    )


@pytest.mark.parametrize("operation", ["add", "mul", "div", "fma"])
def test_what_rounding_lost_is_exact(operation):
    source = np.random.default_rng(5)
    x, y, z = (
        source.standard_normal(2000).astype(np.float32) * np.float32(10.0) ** source.integers(-6, 6, 2000)
        for _ in "xyz"
    )
    x, y, z = x.astype(np.float32), y.astype(np.float32), z.astype(np.float32)
    rest = getattr(cpu_math, f"{operation}_rest_f4")
    result, low = np.empty_like(x), np.empty_like(x)

    @njit(error_model="numpy", fastmath={"contract"})
    def run(x, y, z, result, low):
        for k in range(len(x)):
            if operation == "fma":
                result[k] = cpu_math.fma_f4(x[k], y[k], z[k])
                low[k] = rest(x[k], y[k], z[k], result[k])
            else:
                result[k] = x[k] + y[k] if operation == "add" else x[k] * y[k] if operation == "mul" else x[k] / y[k]
                low[k] = rest(x[k], y[k], result[k])

    run(x, y, z, result, low)
    X, Y, Z = (t.astype(np.longdouble) for t in (x, y, z))
    exact = {"add": X + Y, "mul": X * Y, "div": X / Y, "fma": X * Y + Z}[operation]
    left = np.abs(exact - (result.astype(np.longdouble) + low.astype(np.longdouble)))
    assert np.max(left / np.abs(exact)) < 2.0**-45
    infinite = np.array([3e38, np.inf, np.nan], np.float32)
    run(infinite, infinite, infinite, result[:3], low[:3])
    if operation != "div":
        assert not low[:3].any()
