"""The short way of a launch against the checked way: the same words to the driver, the same errors."""

from __future__ import annotations

import ctypes
import time
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from elinvar.errors import MetalLaunchError
from elinvar.metal import compile as compile_metal
from elinvar.metal import cudacore, nvidia, nvrtc
from elinvar.metal.language import parse
from elinvar.metal.launch import Library
from elinvar.metal.quick import Config

SOURCE = """#include <metal_stdlib>
using namespace metal;
struct Params { float scale; uint count; };
kernel void axpy(device const float* x [[buffer(0)]], device float* y [[buffer(1)]], constant float& a [[buffer(2)]],
    constant float2& v [[buffer(3)]], uint i [[thread_position_in_grid]]) { y[i] += a * x[i] + v.y; }
kernel void every(constant uint& n [[buffer(2)]], device float4* y [[buffer(0)]], constant Params& p [[buffer(1)]],
    constant char& c [[buffer(3)]], constant ulong& u [[buffer(4)]], device const Params* q [[buffer(5)]],
    constant half& h [[buffer(6)]], constant bool& b [[buffer(7)]],
    uint i [[thread_position_in_grid]])
{ if (b && i < n) y[i] = p.scale + float(c) + float(u) + float(h) + q[0].scale; }
kernel void table(device float* y [[buffer(0)]], constant float* t [[buffer(1)]], uint i [[thread_position_in_grid]])
{ y[i] = t[i & 3]; }
kernel void pairs(device const float2* x [[buffer(0)]], device float2* y [[buffer(1)]],
    uint i [[thread_position_in_grid]]) { y[i] = x[i]; }
kernel void total(device float& y [[buffer(0)]], uint i [[thread_position_in_grid]]) { y = 1; }
kernel void short_grid(device float* y [[buffer(0)]], ushort i [[thread_position_in_grid]]) { y[i] = 0; }
kernel void grouped(device float* y [[buffer(0)]], uint i [[thread_position_in_grid]],
    uint lane [[thread_index_in_threadgroup]]) { threadgroup float s[32]; s[lane] = y[i]; y[i] = s[lane]; }
"""
WORDS = {"axpy": 7, "every": 11, "table": 5, "pairs": 5, "total": 4, "short_grid": 4, "grouped": 4}


class Driver:
    """cuda-core and the driver's launch function, which both record what they start."""

    def __init__(self) -> None:
        self.checked: list[Any] = []
        self.short: list[Any] = []
        self.status = 0
        self.pause = 0.0
        self.symbols: list[tuple[int, str]] = []
        self.loaded = 0
        self.Stream = SimpleNamespace(from_handle=lambda handle: 0 if handle == 1 else handle)
        self.ObjectCode = SimpleNamespace(from_cubin=self.load)
        self.attributes = SimpleNamespace(max_threads_per_block=1024, shared_size_bytes=0)

    def Device(self, _: int) -> Any:
        return SimpleNamespace(set_current=lambda: None)

    def LaunchConfig(self, *, grid: Any, block: Any) -> tuple[Any, Any]:
        return grid, block

    def load(self, _: bytes) -> Any:
        self.loaded += 1
        number = self.loaded

        def get(symbol: str) -> Any:
            self.symbols.append((number, symbol))
            return SimpleNamespace(name=(number, symbol), attributes=self.attributes)

        return SimpleNamespace(get_kernel=get)

    def launch(self, stream: int, config: Any, kernel: Any, *arguments: int) -> None:
        self.checked.append((kernel.name, stream, *config, arguments))

    def start(self, config: int, function: int, arguments: int, _: None) -> int:
        time.sleep(self.pause)
        given, name = Config.from_address(config), self.symbols[function]
        pointers = (ctypes.c_void_p * WORDS[name[1].split("_", 2)[2]]).from_address(arguments)
        words = tuple(ctypes.c_int64.from_address(pointer or 0).value for pointer in pointers)
        if self.status == 0:
            self.short.append((name, given.stream or 0, tuple(given.grid), tuple(given.block), words))
        return self.status


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> Driver:
    if not nvrtc.available():
        pytest.skip("needs NVRTC: pip install nvidia-cuda-nvrtc")
    fake = Driver()

    def function(module: Any, symbol: str) -> int:
        return fake.symbols.index(module.kernel(symbol).name)

    monkeypatch.setattr(cudacore, "api", lambda: fake)
    monkeypatch.setattr(nvidia, "api", lambda: fake)
    monkeypatch.setattr(nvidia, "launcher", lambda: fake.start)
    monkeypatch.setattr(nvidia, "stream_here", lambda _: lambda: 0)
    monkeypatch.setattr(cudacore.Module, "function", function)
    monkeypatch.setattr(torch.cuda, "init", lambda: None)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (9, 0))
    monkeypatch.setattr(cudacore, "_raw_stream", lambda _: 0)
    monkeypatch.setattr(torch.cuda, "device", lambda _: torch.no_grad())
    return fake


@pytest.fixture
def library(driver: Driver) -> Library:
    source = parse(SOURCE)
    backend = nvidia.NvidiaBackend(source, torch.device("cuda", 0))
    backend._device = torch.device("cpu")
    return Library(source.kernels, backend, torch.device("cpu"))


def _float(word: int) -> float:
    return float(np.array([word], np.int64).view(np.float32)[0])


def _outcome(call: Any, record: list[Any]) -> Any:
    record.clear()
    try:
        call()
    except Exception as error:  # noqa: BLE001  (whatever it is, both ways have to say it)
        return type(error), str(error)
    return list(record)


X, Y, V = torch.zeros(1000), torch.zeros(1001), (1.0, 2.0)
Q = torch.zeros(4)
Z = torch.zeros(4, dtype=torch.complex64)
SHORT = {
    "plain": ("axpy", (X, Y[:1000], 1.5, V), {}),
    "an int for a float": ("axpy", (X, Y[:1000], 3, V), {}),
    "NaN, minus zero": ("axpy", (X, Y[:1000], float("nan"), (-0.0, float("inf"))), {"threads": 7}),
    "in place": ("axpy", (X, X, 1.5, V), {}),
    "overlapping": ("axpy", (Y[:1000], Y[1:], 1.5, V), {}),
    "beside each other": ("axpy", (X[:500], X[500:], 1.5, V), {}),
    "threads and groups": ("axpy", (X, Y[:1000], 1.5, V), {"threads": (10, 4), "group_size": (32, 2)}),
    "whole groups": ("axpy", (X, Y[:1000], 1.5, V), {"threads": 512, "group_size": 64}),
    "y has many groups": ("axpy", (X, Y[:1000], 1.5, V), {"threads": (1, 70_000), "group_size": (1, 1)}),
    "bytes for a vector": ("axpy", (X, Y[:1000], 1.5, b"12345678"), {}),
    "order of arguments, structs": (
        "every", (Y[:1000], {"scale": 0.5, "count": 7}, 5, -3, 2**64 - 1, Q, 0.1, True), {"threads": 4}
    ),
    "a tensor for a table": ("table", (X, Q), {}),
    "one value": ("total", (Q[1:2],), {}),
    "complex numbers": ("pairs", (Z, Z + 1), {}),
    "a parameter": ("grouped", (torch.nn.Parameter(torch.zeros(64)),), {"group_size": 32}),
}  # fmt: skip
CHECKED = {
    "too few": ("axpy", (X, Y), {}),
    "a dtype": ("axpy", (X.half(), Y, 1.0, V), {}),
    "strides": ("axpy", (X[::2], Y, 1.0, V), {}),
    "sparse": ("axpy", (X.to_sparse(), Y, 1.0, V), {}),
    "a conjugate": ("pairs", (Z.conj(), Z), {}),
    "a negative": ("total", (Z[:1].conj().imag,), {}),
    "another device": ("axpy", (X.to("meta"), Y, 1.0, V), {}),
    "a list for what is written": ("axpy", (X, [1.0], 1.0, V), {}),
    "a list for what is read": ("table", (X, [1.0, 2.0, 3.0, 4.0]), {}),
    "a tensor for a value": ("axpy", (X, Y, torch.tensor([2.0]), V), {}),
    "beyond float": ("axpy", (X, Y, 1e39, V), {}),
    "a huge int for a float": ("axpy", (X, Y, 2**2000, V), {}),
    "bool for a float": ("axpy", (X, Y, True, V), {}),
    "NumPy numbers": ("axpy", (X, Y, np.float32(0.1), V), {}),
    "a word for a number": ("axpy", (X, Y, "1", V), {}),
    "too long a vector": ("axpy", (X, Y, 1.0, (1, 2, 3)), {}),
    "not a multiple": ("every", (Y[:1001], bytes(8), 5, 3, 2, Q, 0.1, True), {}),
    "an offset": ("every", (Y[1:], bytes(8), 5, 3, 2, Q, 0.1, True), {}),
    "a negative uint": ("every", (Y[:1000], bytes(8), -5, 3, 2, Q, 0.1, True), {}),
    "a whole float for a uint": ("every", (Y[:1000], bytes(8), 5.0, 3, 2, Q, 0.1, True), {}),
    "beyond char": ("every", (Y[:1000], bytes(8), 5, 128, 2, Q, 0.1, True), {}),
    "2 is no bool": ("every", (Y[:1000], bytes(8), 5, 3, 2, Q, 0.1, 2), {}),
    "beyond half": ("every", (Y[:1000], bytes(8), 5, 3, 2, Q, 1e6, True), {}),
    "threads True": ("axpy", (X, Y, 1.0, V), {"threads": True}),
    "threads 1.0": ("axpy", (X, Y, 1.0, V), {"threads": 1.0}),
    "threads (1.0,)": ("axpy", (X, Y, 1.0, V), {"threads": (1.0,)}),
    "threads as a list": ("axpy", (X, Y, 1.0, V), {"threads": [10, 2], "group_size": [2, 2]}),
    "no threads": ("axpy", (X, Y, 1.0, V), {"threads": 0}),
    "negative threads": ("axpy", (X, Y, 1.0, V), {"threads": -1}),
    "too many threads": ("axpy", (X, Y, 1.0, V), {"threads": 2**33}),
    "too large a group": ("axpy", (X, Y, 1.0, V), {"threads": 4096, "group_size": 2048}),
    "ranks": ("axpy", (X, Y, 1.0, V), {"threads": 1, "group_size": (1, 1)}),
    "nothing for one value": ("total", (torch.zeros(0),), {"threads": 1}),
    "ushort": ("short_grid", (torch.zeros(70_000),), {}),
    "no group": ("grouped", (X,), {}),
    "a ragged group": ("grouped", (X,), {"group_size": 32}),
}  # fmt: skip


@pytest.mark.parametrize("name", [*SHORT, *CHECKED])
def test_both_ways_agree(driver: Driver, library: Library, name: str) -> None:
    kernel, args, options = {**SHORT, **CHECKED}[name]
    one = library[kernel]

    def call() -> None:
        one(*args, **options)

    short, one.quick = one.quick, None
    expected = _outcome(call, driver.checked)
    one.quick = short
    for _ in range(2):  # the second time everything is kept
        driver.checked.clear()
        got = _outcome(call, driver.short)
        assert bool(driver.short) == (name in SHORT), "the short way is meant to take this"
        assert (got or list(driver.checked)) == expected
        assert not (driver.short and driver.checked)


@pytest.mark.parametrize("threads", [True, 1.0, (True,), (1.0,)])
def test_equal_keys_are_not_equal_threads(library: Library, threads: Any) -> None:
    library.axpy(X, Y, 1.5, V, threads=1)
    library.axpy(X, Y, 1.5, V, threads=(1,))
    short, library.axpy.quick = library.axpy.quick, None
    expected = _outcome(lambda: library.axpy(X, Y, 1.5, V, threads=threads), [])
    library.axpy.quick = short
    assert _outcome(lambda: library.axpy(X, Y, 1.5, V, threads=threads), []) == expected


def test_what_the_driver_refuses_goes_the_checked_way(driver: Driver, library: Library) -> None:
    driver.status = 201  # no current context
    library.axpy(X, Y[:1000], 1.5, V)
    assert len(driver.checked) == 1


def test_the_checked_way_runs_while_another_device_is_current(driver: Driver, library: Library) -> None:
    assert library.axpy.quick is not None
    library.axpy.quick._machine.stream = lambda: None
    library.axpy(X, Y[:1000], 1.5, V)
    assert (len(driver.checked), len(driver.short)) == (1, 0)


def test_threads_do_not_share_argument_memory(driver: Driver, library: Library) -> None:
    def work(k: int) -> None:
        for i in range(50):
            library.axpy(X, Y[:1000], float(k * 1000 + i), V)

    driver.pause = 1e-5  # other threads run while a launch has not read its arguments

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))
    sent = {_float(words[5]) for *_, words in driver.short}
    assert sent == {float(k * 1000 + i) for k in range(4) for i in range(50)}
    assert driver.checked == []


def test_sizes_do_not_pile_up(library: Library) -> None:
    for n in range(1, 1200):
        library.axpy(X, Y, 1.0, V, threads=n)
    assert library.axpy.quick is not None
    assert len(library.axpy.quick._ready) <= 512


def test_repeats_change_only_the_leading_words(driver: Driver) -> None:
    source = parse(
        "struct P { uint a; uint b; uint c; };\nkernel void axpy(device float* y [[buffer(0)]],\n"
        "    constant float& s [[buffer(1)]], constant P& p [[buffer(2)]], uint i [[thread_position_in_grid]])\n"
        "{ y[i] = s * p.c; }\n"
    )
    backend = nvidia.NvidiaBackend(source, torch.device("cuda", 0))
    quick = backend.quick(source.kernels["axpy"])
    assert quick is not None
    launch = quick.repeat(2, bytes(range(12)), 1000, None)
    for k in range(2):
        assert launch([64 + k, 0.5 + k], False)
        (name, _, grid, group, words) = driver.short[-1]
        assert (grid, group) == ((4, 1, 1), (256, 1, 1))
        assert words[:4] == (1000 | 1 << 32, 1, 0, 64 + k)
        assert _float(words[4]) == 0.5 + k
        assert np.array(words[5:7], np.int64).tobytes() == bytes(range(12)) + bytes(4)
        assert name[0] == 1
    assert launch([64, 0.5], True)
    assert driver.short[-1][0][0] == 2  # code without the promise that nothing overlaps
    assert not launch([64, 1e39], False)


def test_what_is_too_large_for_a_launch_is_not_repeated(driver: Driver) -> None:
    source = parse(
        "struct P { uint a[130]; };\nkernel void axpy(device float* y [[buffer(0)]],\n"
        "    constant P& p [[buffer(1)]], uint i [[thread_position_in_grid]]) { y[i] = p.a[i]; }\n"
    )
    quick = nvidia.NvidiaBackend(source, torch.device("cuda", 0)).quick(source.kernels["axpy"])
    assert quick is not None
    assert quick.repeat(1, bytes(520), 100, None) is None


def test_a_library_offers_its_kernels_as_attributes(library: Library) -> None:
    assert library.axpy is library["axpy"]
    with pytest.raises(AttributeError, match="no kernel 'nothing'; it has axpy"):
        _ = library.nothing


GPU = """kernel void add(device const float* x [[buffer(0)]], device float* y [[buffer(1)]],
    constant float& a [[buffer(2)]], uint i [[thread_position_in_grid]]) { y[i] = x[i] + a; }
"""


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no NVIDIA GPU")
def test_streams_graphs_threads_and_foreign_contexts_on_a_gpu() -> None:
    add = compile_metal(GPU, "cuda").add
    assert add.quick is not None
    x = torch.arange(1000.0, device="cuda")
    y = torch.empty_like(x)
    took: list[bool] = []
    short = add.quick

    def watched(*args: Any) -> bool:
        took.append(short(*args))
        return took[-1]

    add.quick = watched  # type: ignore[assignment]
    for k in range(3):
        add(x, y, float(k))
        assert torch.equal(y, x + k)
    aside = torch.cuda.Stream()
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside):
        add(y, y, 1.0)
    torch.cuda.current_stream().wait_stream(aside)
    assert torch.equal(y, x + 3)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        add(y, y, 1.0)
        add(y, y, 2.0)
    graph.replay()
    graph.replay()
    assert torch.equal(y, x + 9)
    add(x[1:], y[1:], 0.5)
    assert torch.equal(y[1:], x[1:] + 0.5)
    assert all(took)
    with ThreadPoolExecutor(1) as pool:  # a thread that never touched CUDA
        pool.submit(add, x, y, 7.0).result()
    assert torch.equal(y, x + 7)
    with pytest.raises(MetalLaunchError, match="contiguous"):
        add(x[::2], y, 1.0)
