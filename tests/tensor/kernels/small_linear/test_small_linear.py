"""The small 16-bit product: its reference, every edge of its tiles, NaN, and when it is used."""

import struct
from pathlib import Path

import pytest
import torch

from elinvar import metal, tensor
from elinvar.errors import InputError
from elinvar.runtime import kernels
from elinvar.tensor import again
from elinvar.tensor.kernels import small_linear
from elinvar.tensor.kernels.small_linear import metal as launches
from elinvar.tensor.kernels.small_linear.reference import linear as reference

CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="no NVIDIA GPU")
SOURCE = Path(launches.__file__).with_name("small_linear.metal")


def operands(m, k, n, dtype, device="cpu"):
    make = torch.Generator().manual_seed(m + 100 * k + 10_000 * n)
    return [torch.randn(s, generator=make).to(dtype).to(device) for s in ((m, k), (n, k), (n,))]


def close(got, x, w, b, relu):
    exact = reference(x.double(), w.double(), None if b is None else b.double(), relu=relu)
    size = x.double().abs() @ w.double().abs().t() + (0 if b is None else b.double().abs())
    allowed = torch.finfo(x.dtype).eps * exact.abs() + 4 * x.shape[1] ** 0.5 * 2.0**-24 * size
    return bool(((got.double() - exact).abs() <= allowed).all())


@pytest.mark.gxx
class TestInTheEmulator:
    @pytest.mark.parametrize("seed", range(4))
    def test_agrees_with_its_reference(self, seed):
        kernels.check(small_linear.NAME, "v1", "cpu", backend="metal", seed=seed).require()

    @pytest.mark.parametrize(("m", "k", "n"), [(1, 8, 1), (17, 24, 16), (32, 264, 33)])
    def test_nothing_beyond_the_result_is_written(self, m, k, n):
        x, w, b = operands(m, k, n, torch.float16)
        defines = {"T": "half", "ROWS": 16, "COLUMNS": 16, "DEPTH": 256, "GROUP": 128}
        library = metal.compile(SOURCE, "cpu", defines=defines, races=True)
        out = torch.full((m * n + 64,), 7.0, dtype=torch.float16)
        size, grid = struct.pack("<5I", m, n, k, 1, 0), (-(-n // 16) * 128, -(-m // 16))
        library.small_linear(x, w, b, out, size, threads=grid, group_size=(128, 1))
        assert close(out[: m * n].view(m, n), x, w, b, relu=False)
        assert (out[m * n :] == 7).all()

    @pytest.mark.parametrize("schedule", ["forward", "reverse"])
    @pytest.mark.parametrize("size", [(16, 16, 128, 128), (16, 16, 256, 128), (32, 16, 192, 192)])
    def test_tiles_leave_each_other_alone(self, size, schedule):
        m, k, n = 48, 40, 64
        x, w, b = operands(m, k, n, torch.float16)
        defines = dict(zip(("ROWS", "COLUMNS", "DEPTH", "GROUP"), size, strict=True))
        library = metal.compile(SOURCE, "cpu", defines={"T": "half", **defines}, schedule=schedule)
        out = torch.zeros(m, n, dtype=torch.float16)
        grid = (-(-n // size[1]) * size[3], -(-m // size[0]))
        library.small_linear(x, w, b, out, struct.pack("<5I", m, n, k, 1, 1), threads=grid, group_size=(size[3], 1))
        assert close(out, x, w, b, relu=True)

    def test_nan_and_infinity_pass_through(self):
        x, w, b = operands(20, 16, 18, torch.bfloat16)
        x[0, 3], x[1, 5] = float("nan"), float("inf")
        got = launches.linear(x, w, b, relu=True, device="cpu")
        torch.testing.assert_close(got, reference(x, w, b, relu=True), equal_nan=True)
        assert got[0].isnan().all()


def test_groups_cover_the_result_at_once():
    assert launches.tile(256, 256, 256, 132) == (16, 16, 256, 128)
    assert launches.tile(64, 512, 512, 132) == launches.tile(16, 1024, 1024, 132) == (16, 16, 256, 128)
    assert launches.tile(128, 512, 512, 132) == (16, 16, 256, 128)
    assert launches.tile(272, 256, 256, 132) == launches.tile(320, 320, 320, 132) == (32, 16, 256, 128)
    assert launches.tile(256, 512, 512, 132) is None
    assert launches.tile(384, 384, 384, 132) is None
    assert launches.tile(256, 256, 512, 132) == (16, 16, 256, 128)
    assert launches.tile(256, 256, 1024, 132) is None
    assert launches.tile(256, 256, 128, 132) == (16, 16, 128, 128)
    assert launches.tile(512, 512, 256, 132) is None
    assert launches.tile(512, 512, 64, 132) is None


def test_what_is_not_on_a_gpu_or_too_deep_goes_another_way():
    x, w, b = operands(16, 16, 16, torch.float16)
    if torch.cuda.is_available():
        x, w, b = (t.cuda() for t in (x, w, b))
        assert launches.quick(x.float(), w.float(), b.float(), relu=True) is None
        assert launches.quick(x[:, ::2], w[:, ::2], b, relu=True) is None
        assert launches.quick(x[:, :12].contiguous(), w[:, :12].contiguous(), b, relu=True) is None
        assert launches.quick(*operands(512, 64, 512, torch.float16, "cuda"), relu=True) is None
        assert launches.quick(*operands(16, 1032, 16, torch.float16, "cuda"), relu=True) is None
        assert launches.quick(x, w.bfloat16(), b, relu=True) is None
        assert launches.quick(x, w[:, :8].contiguous(), b, relu=True) is None
        assert launches.quick(x, w, b[:8], relu=True) is None
        assert launches.quick(x, w, b.cpu(), relu=True) is None
        moved = torch.empty(257, dtype=torch.float16, device="cuda")[1:].view(16, 16)
        assert launches.quick(moved, w, b, relu=True) is None


@CUDA
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize(("m", "k", "n"), [(1, 8, 1), (65, 136, 70), (256, 256, 256), (33, 1000, 17), (16, 256, 1000)])
def test_on_a_gpu(m, k, n, dtype):
    x, w, b = operands(m, k, n, dtype, "cuda")
    for bias in (b, None):
        for relu in (False, True):
            got = launches.quick(x, w, bias, relu=relu)
            assert got is not None
            assert close(got, x, w, bias, relu)
            assert torch.equal(tensor.linear(x, w, bias, "relu" if relu else None), got)


@CUDA
def test_inside_a_graph_and_on_another_stream():
    x, w, b = operands(64, 64, 64, torch.float16, "cuda")
    expected = tensor.linear(x, w, b, "relu")
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        assert torch.equal(tensor.linear(x, w, b, "relu"), expected)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = tensor.linear(x, w, b, "relu")
    x.copy_(x.flip(0))
    graph.replay()
    assert torch.equal(found, expected.flip(0))


@CUDA
@pytest.mark.parametrize("width", [64, 256, 4096])
def test_the_librarys_products_behind_early_launches(width):
    """What follows may itself be launched early (some of cuBLAS's kernels are): it must see finished results."""
    x, w, b = operands(256, 256, 256, torch.float16, "cuda")
    wide = torch.randn(width, 256, device="cuda").half() / 16
    back = torch.randn(256, width, device="cuda").half() / width**0.5
    w = w / 16

    def steps(wait):
        y = x
        for _ in range(10):
            y = tensor.linear(y, w, b, "relu")
            wait()
            y = y @ wide.t()
            wait()
            y = (y @ back.t()).tanh()
            wait()
            y = tensor.linear(tensor.linear(y, w, b, "relu"), w, b)
            wait()
        return y

    with torch.no_grad():
        expected = steps(torch.cuda.synchronize)
        for _ in range(5):
            assert torch.equal(steps(lambda: None), expected)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            found = steps(lambda: None)
        for _ in range(5):
            found.zero_()
            graph.replay()
            assert torch.equal(found, expected)


class _Launch:
    """Stands for a prepared launch: remembers what it was given, and writes nothing."""

    def __init__(self):
        self.addresses = None

    def __call__(self, addresses, aliased):
        self.addresses = addresses
        assert not aliased
        return True


def test_the_short_way_passes_what_it_was_given(monkeypatch):
    x, w, b = operands(16, 24, 32, torch.float16)
    prepared = _Launch()
    for bias, key in ((b, b.shape), (None, None)):
        monkeypatch.setitem(launches._ready, (x.shape, w.shape, key, x.dtype, x.get_device(), True), prepared)
        y = launches.quick(x, w, bias, relu=True)
        shift = x if bias is None else bias
        assert prepared.addresses == (x.data_ptr(), w.data_ptr(), shift.data_ptr(), y.data_ptr())
        assert y.shape == (16, 32)
    serve = launches.serving(x, w, b, relu=True)
    for empty in (None, getattr(again._guards, "_empty_strided_cpu", None)):
        monkeypatch.setattr(launches, "empty", empty)
        y = serve(x, w, b)
        assert prepared.addresses == (x.data_ptr(), w.data_ptr(), b.data_ptr(), y.data_ptr())
        assert (y.shape, y.stride(), y.dtype) == ((16, 32), (32, 1), torch.float16)
    assert serve(torch.empty(16 * 24 + 1, dtype=torch.float16)[1:].view(16, 24), w, b) is None
    wide = torch.empty(24, 32, dtype=torch.float16).t()
    assert launches.quick(x, wide, b, relu=True) is None
    assert launches.quick(x, w.bfloat16(), b, relu=True) is None
    assert launches.quick(x, w, b.float(), relu=True) is None
    assert launches.quick(x, w, b, relu=False) is None  # nothing was prepared for it


def test_a_size_is_prepared_once_and_only_where_a_tile_was_checked(monkeypatch):
    prepared, asked = _Launch(), []

    class Library:
        class small_linear:
            class quick:
                @staticmethod
                def repeat(leading, trailing, threads, group_size):
                    asked.append((leading, struct.unpack("<5I", trailing), threads, group_size))
                    return prepared

    monkeypatch.setattr(launches, "_ready", {})
    monkeypatch.setattr(launches, "_library", lambda *_: Library)
    monkeypatch.setattr(launches, "chosen", lambda m, n, k, dtype, index: launches.tile(m, n, k, 132))
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    monkeypatch.setattr(launches, "_trusted", lambda index, dtype, size: size[2] == 256)

    def key(m, k, n, shift):
        return torch.Size((m, k)), torch.Size((n, k)), shift, torch.float16, 0, True

    assert launches._learn(key(64, 256, 64, torch.Size((64,)))) is prepared
    assert asked == [(4, (64, 64, 256, 1, 1), (4 * 128, 4), (128, 1))]
    assert launches._learn(key(64, 128, 64, None)) is None  # its tile shape is not trusted
    assert launches._learn(key(64, 256, 64, torch.Size((8,)))) is None  # a bias of another size
    assert launches._ready[key(64, 128, 64, None)] is None
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    assert launches._learn(key(32, 64, 32, None)) is None
    assert key(32, 64, 32, None) not in launches._ready  # asked again after the capture


@pytest.mark.parametrize(
    ("x", "w", "bias"), [((4, 16), (4, 8), (4,)), ((4, 12), (4, 12), None), ((4, 8), (4, 8), (3,))]
)
def test_what_would_be_read_beyond_is_refused(x, w, bias):
    given = [None if shape is None else torch.zeros(shape, dtype=torch.float16) for shape in (x, w, bias)]
    with pytest.raises(InputError, match="multiple of 8"):
        launches.linear(*given, device="cpu")
