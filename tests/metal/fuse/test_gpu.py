"""The Metal text of fused functions, run in the emulator (and on the GPUs present) against float64 torch."""

import functools

import pytest
import torch

import elinvar
import elinvar.metal
from elinvar.metal.fuse import gpu, gpu_form
from elinvar.metal.fuse.calls import arranged
from elinvar.metal.fuse.expression import record
from elinvar.metal.fuse.gradient import gradient
from elinvar.metal.fuse.rounding import activate, fma, rest


def _affine_relu(x, scale, bias):
    return torch.relu(x * scale + bias)


def _affine(x, scale, bias):
    return x * scale + bias


def _layer_norm(x, weight):
    centred = x - x.mean(-1, keepdim=True)
    return centred * torch.rsqrt((centred * centred).mean(-1, keepdim=True) + 1e-5) * weight


def _mathematics(x, mask):
    choice = torch.where(mask & (x > -1.0), torch.tanh(x) + torch.erf(x), torch.log1p(torch.exp(x)))
    return choice * mask + torch.sigmoid(x) + torch.maximum(x, x * x) ** 3.0


def _activations(x, y, z):
    total = fma(x, y, z)
    low = rest("fma", total, x, y, z)
    return tuple(activate(name, total, low) for name in ("tanh", "sigmoid", "silu", "gelu_tanh", "gelu_erf"))


def _exact_activations(x, y, z):
    total = x * y + z
    tail = 0.5 * total * torch.exp(-0.5 * total**2) * torch.special.erfcx(total.abs() / 2**0.5)
    gelu = total * torch.sigmoid(2 * (2 / torch.pi) ** 0.5 * (total + 0.044715 * total**3))
    both = torch.sigmoid(total), total * torch.sigmoid(total)
    return torch.tanh(total), *both, gelu, torch.where(total < 0, tail, total - tail)


def _check_activations(dtype, device="cpu"):
    """Within 2 ulp of float32, to results below the normal numbers; in half storage one rounding."""
    x = torch.cat([torch.linspace(-105, 12, 3001), torch.logspace(-37, 1, 300), -torch.logspace(-37, 1, 300)]).to(dtype)
    y, z = (1 + torch.rand(3601) / 64).to(dtype), torch.randn(3601).to(dtype)
    info = torch.finfo(dtype)
    results = _run(record(_activations, ("tensor",) * 3), [t.to(device) for t in (x, y, z)])
    for result, exact in zip(results, _exact_activations(x.double(), y.double(), z.double()), strict=True):
        unit = torch.exp2(torch.floor(torch.log2(exact.abs().clamp(min=info.tiny)))) * info.eps
        ulps = ((result.cpu().double() - exact).abs() / unit).max()
        assert ulps <= (2 if dtype == torch.float32 else 0.6), float(ulps)


def _run(program, args):
    views, outputs, layout, _ = arranged(program, args, "test")
    gpu.prepare(program, views, outputs, layout)(args, outputs, [])
    if program.per_row and not program.keepdim:
        return [o.squeeze(program.axis) for o in outputs]
    return outputs


def _check(function, args, tolerance=2e-6):
    program = record(function, tuple("tensor" for _ in args))
    exact = function(*(a.double() if a.is_floating_point() else a for a in args))
    for result in _run(program, args):
        error = (result.double() - exact).abs().max() / exact.abs().max()
        assert error <= tolerance, float(error)


def test_reciprocals_divide_exactly():
    top = 2**31 - 1
    for divisor in [*range(1, 130), 641, 1000, 1024, 2**16 + 1, 2**20 - 1, 2**30, 2**30 + 1, top - 1, top]:
        many, shift = gpu_form._reciprocal(divisor)
        assert many < 2**32
        near = [k * divisor + d for k in (1, 2, 3, top // divisor - 1, top // divisor) for d in (-1, 0, 1)]
        for n in [n for n in (0, 1, 2, 12345678, top - 1, top, *near) if 0 <= n <= top]:
            assert (2 * n * many >> 32) >> shift == n // divisor


@pytest.mark.gxx
class TestInTheEmulator:
    @pytest.mark.parametrize(
        ("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.float16, 1e-3), (torch.bfloat16, 8e-3)]
    )
    def test_vectors_of_neighbours(self, dtype, tolerance):
        args = [torch.randn(6, 16).to(dtype), torch.randn(16).to(dtype), torch.randn(6, 1).to(dtype)]
        _check(_affine_relu, args, tolerance)

    def test_odd_sizes_and_strides(self):
        x = torch.randn(7, 3, 5).permute(2, 0, 1)
        _check(_affine_relu, [x, torch.randn(7, 1), torch.randn(5, 1, 3)])

    @pytest.mark.parametrize("small", [2**31, 1], ids=["32 bits", "64 bits"])
    def test_rows_and_columns(self, monkeypatch, small):
        monkeypatch.setattr(gpu_form, "_SMALL", small)
        x = torch.randn(3 * 5 * 24)
        for shape, scale, shift in [
            ((90, 4), (4,), (90, 1)),  # one vector per row
            ((120, 3), (3,), (120, 1)),  # no vectors: several rows per thread, and too few of the last
            ((3, 5, 24), (5, 1), (3, 1, 24)),  # two outer dimensions
        ]:
            _check(_affine, [x.view(shape), torch.randn(scale), torch.randn(shift)], 1e-6)

    @pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.float16, 1e-3)])
    def test_what_is_left_behind_the_last_vector(self, dtype, tolerance):
        for n in (1, 3, 257, 1029, 2048):
            x = (0.5 + torch.rand(n + 1)).to(dtype)  # of one sign: nothing cancels in the only element there is
            _check(_affine, [x[:n], x[:n], x[:n]], tolerance)
            if n > 1000:
                _check(_affine, [x[1:], x[:n], x[:n]], tolerance)  # no vectors: several columns per thread

    @pytest.mark.parametrize("begin", [0, 1], ids=["vectors", "elements"])
    def test_nothing_is_written_behind_the_end(self, begin):
        memory = torch.full((2500,), 7.0)
        x, out = torch.randn(1200)[begin:1100], memory[begin:1100]
        program = record(lambda x: x + 1.0, ("tensor",))
        views, outputs, layout, _ = arranged(program, [x], "test", out)
        gpu.prepare(program, views, outputs, layout)([x], outputs, [])
        assert torch.equal(out, x + 1.0)
        assert bool((memory[1100:] == 7.0).all())

    def test_in_place(self):
        double = elinvar.fuse(lambda x, y: x + x * y)
        x, y = torch.randn(33, 7), torch.randn(7)
        expected = x + x * y
        program = double.recorded(("tensor", "tensor")).program
        views, outputs, layout, _ = arranged(program, [x, y], "test", x)
        gpu.prepare(program, views, outputs, layout)([x, y], outputs, [])
        torch.testing.assert_close(x, expected)

    @pytest.mark.parametrize(
        ("columns", "lanes", "units"),
        [(4, 1, 1), (24, 4, 2), (500, 32, 4), (37, 32, 2), (1000, 256, 1), (4100, 256, 8), (8200, 256, 0)],
    )
    def test_rows_of_every_length(self, columns, lanes, units):
        x, weight, each = torch.randn(11, columns), torch.randn(columns), torch.randn(11, 1)
        program = record(lambda x, w, e: _layer_norm(x, w) + e, ("tensor",) * 3)
        views, outputs, layout, _ = arranged(program, [x, weight, each], "test")
        form = gpu_form.form_of(program, views, outputs, layout)
        assert (form.lanes, form.units) == (lanes, units)
        _check(lambda x, w, e: _layer_norm(x, w) + e, [x, weight, each])

    @pytest.mark.parametrize("columns", [24, 2000])
    def test_rows_without_races(self, monkeypatch, columns):
        checked = functools.partial(elinvar.metal.compile, races=True, schedule="random", seed=1)
        monkeypatch.setattr(elinvar.metal, "compile", checked)
        gpu._library.cache_clear()
        _check(lambda x: torch.softmax(x, -1), [torch.randn(3, columns)])  # two reductions, and results that are kept
        gpu._library.cache_clear()

    def test_rows_of_halves(self):
        _check(_layer_norm, [torch.randn(5, 136).half(), torch.randn(136).half()], 1e-3)
        _check(lambda x, m: (x * m).amax(-1), [torch.randn(5, 16).bfloat16(), torch.rand(5, 16) > 0.5], 1e-2)

    def test_rows(self):
        _check(_layer_norm, [torch.randn(3, 300), torch.randn(300)])
        _check(lambda x: x.amax(0), [torch.randn(40, 2)])

    def test_mathematics(self):
        _check(_mathematics, [torch.linspace(-4, 4, 333), torch.arange(333) % 3 > 0])

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    def test_activations(self, dtype):
        _check_activations(dtype)

    def test_gradients(self):
        x, w = torch.randn(3, 40, dtype=torch.float64), torch.randn(40, dtype=torch.float64)
        incoming = torch.randn(3, 40)
        program = gradient(record(_layer_norm, ("tensor", "tensor")))
        to_x, to_w = _run(program, [x.float(), w.float(), incoming])
        x.requires_grad_()
        w.requires_grad_()
        _layer_norm(x, w).backward(incoming.double())
        torch.testing.assert_close(to_x.double(), x.grad, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(to_w.sum(0).double(), w.grad, rtol=1e-4, atol=1e-5)

    def test_extremes_keep_nan(self):
        x = torch.tensor([float("nan"), -1.0, 2.0, float("-inf")])
        program = record(lambda a: torch.relu(a) + torch.maximum(a * 0, a), ("tensor",))
        (result,) = _run(program, [x])
        torch.testing.assert_close(result, torch.relu(x) + torch.maximum(x * 0, x), equal_nan=True)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no NVIDIA GPU")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_activations_on_a_gpu(dtype):
    _check_activations(dtype, "cuda")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no NVIDIA GPU")
def test_on_a_gpu():
    x, weight = torch.randn(64, 300, device="cuda", requires_grad=True), torch.randn(300, device="cuda")
    result = elinvar.fuse(_layer_norm)(x, weight)
    torch.testing.assert_close(result, _layer_norm(x, weight), rtol=1e-5, atol=1e-5)
    (fused,) = torch.autograd.grad(result.square().sum(), x)
    (plain,) = torch.autograd.grad(_layer_norm(x, weight).square().sum(), x)
    torch.testing.assert_close(fused, plain, rtol=1e-4, atol=1e-4)
