"""The NVIDIA backend with a stand-in for cuda-core that records what it is given. `test_cudaprogram` runs the code."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from elinvar.errors import DeviceLost, DeviceOutOfMemory, MetalLaunchError, MissingDependency
from elinvar.metal import cudacore, nvidia, nvrtc
from elinvar.metal.language import parse
from elinvar.metal.launch import Library

needs_nvrtc = pytest.mark.skipif(not nvrtc.available(), reason="needs NVRTC: pip install nvidia-cuda-nvrtc")
SOURCE = """#include <metal_stdlib>
using namespace metal;
kernel void axpy(device const float* x [[buffer(0)]], device float* y [[buffer(1)]], constant float& a [[buffer(2)]],
    constant float2& v [[buffer(3)]], uint i [[thread_position_in_grid]]) { y[i] += a * x[i] + v.y; }
kernel void flat(device float* y [[buffer(0)]], uint3 group [[threadgroup_position_in_grid]]) { y[group.x] = 0.0f; }
"""


class FakeCore:
    """cuda-core as far as `cudacore` uses it; every launch is recorded."""

    def __init__(self, *, methods: bool = False) -> None:
        self.launches: list[tuple[Any, ...]] = []
        self.loaded: list[bytes] = []
        self.error: Exception | None = None
        numbers = {"max_threads_per_block": 1024, "shared_size_bytes": 64}
        wrapped = {k: (lambda v=v: v) for k, v in numbers.items()} if methods else numbers
        self.attributes = SimpleNamespace(**wrapped)
        self.Stream = SimpleNamespace(from_handle=lambda handle: ("stream", handle))
        self.ObjectCode = SimpleNamespace(from_cubin=self.from_cubin)

    def Device(self, index: int) -> Any:
        return SimpleNamespace(set_current=lambda: None, index=index)

    def LaunchConfig(self, *, grid: Any, block: Any) -> tuple[Any, Any]:
        return grid, block

    def from_cubin(self, code: bytes) -> Any:
        self.loaded.append(code)
        number = len(self.loaded)
        return SimpleNamespace(
            get_kernel=lambda symbol: SimpleNamespace(name=(number, symbol), attributes=self.attributes)
        )

    def launch(self, stream: Any, config: Any, kernel: Any, *arguments: int) -> None:
        if self.error:
            raise self.error
        assert all(type(a) is int and -(2**63) <= a < 2**63 for a in arguments)
        self.launches.append((stream, *config, kernel.name, arguments))


@pytest.fixture
def core(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeCore]:
    fake = FakeCore()
    monkeypatch.setattr(cudacore, "api", lambda: fake)
    monkeypatch.setattr(nvidia, "api", lambda: fake)
    monkeypatch.setattr(nvidia, "launcher", lambda: None)  # the short way is test_quick's
    monkeypatch.setattr(torch.cuda, "init", lambda: None)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (9, 0))
    monkeypatch.setattr(cudacore, "_raw_stream", None)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda _: SimpleNamespace(cuda_stream=0))
    monkeypatch.setattr(torch.cuda, "device", lambda _: torch.no_grad())
    return fake


@pytest.fixture
def library(core: FakeCore) -> Library:
    source = parse(SOURCE)
    backend = nvidia.NvidiaBackend(source, torch.device("cuda", 0))
    backend._device = torch.device("cpu")
    return Library(source.kernels, backend, torch.device("cpu"))


@needs_nvrtc
def test_a_launch_passes_addresses_and_words(core: FakeCore, library: Library) -> None:
    x, y = torch.zeros(1000), torch.zeros(1000)
    library.axpy(x, y, 1.5, (2.0, -3.0))
    [(stream, grid, block, (module, symbol), arguments)] = core.launches
    assert stream == ("stream", 1)  # torch's default stream is the legacy one
    assert (grid, block) == ((4, 1, 1), (256, 1, 1))
    assert (module, symbol) == (1, "elinvar_0_axpy")
    words = struct.unpack("<2q", struct.pack("<f4xff", 1.5, 2.0, -3.0))
    assert arguments == (1000 | 1 << 32, 1, 0, x.data_ptr(), y.data_ptr(), *words)


@needs_nvrtc
def test_overlapping_buffers_get_their_own_code_once(core: FakeCore, library: Library) -> None:
    x = torch.zeros(1001)
    library.axpy(x[:1000], x[1:], 1.0, (0, 0))
    library.axpy(x[:1000], x[1:], 2.0, (0, 0))
    library.axpy(x[:500], x[500:1000], 2.0, (0, 0))
    assert [launch[3][0] for launch in core.launches] == [2, 2, 1]
    assert len(core.loaded) == 2


@needs_nvrtc
def test_a_tensor_for_a_constant_gets_its_own_code(core: FakeCore, library: Library) -> None:
    a = torch.tensor([2.0])
    library.axpy(torch.zeros(8), torch.zeros(8), a, (0, 0))
    assert core.launches[0][3][0] == 2
    assert core.launches[0][4][5] == a.data_ptr()


@needs_nvrtc
def test_many_groups_are_laid_flat_and_too_many_are_refused(core: FakeCore, library: Library) -> None:
    y = torch.zeros(64)
    library.flat(y, threads=(64, 70_000, 2), group_size=(32, 1, 1))
    _, grid, _, _, arguments = core.launches[0]
    assert grid == (2 * 70_000 * 2, 1, 1)
    assert arguments[:3] == (64 | 70_000 << 32, 2, 3)  # flat, and of whole groups
    with pytest.raises(MetalLaunchError, match=r"\[flat\] .* groups; CUDA allows 2147483647"):
        library.flat(y, threads=(2**20 * 32, 2**17, 1), group_size=(32, 1, 1))
    with pytest.raises(MetalLaunchError, match="128 threads along z; CUDA allows 64"):
        library.flat(y, threads=(1, 1, 128), group_size=(1, 1, 128))


@needs_nvrtc
def test_nothing_is_launched_for_an_empty_grid(core: FakeCore, library: Library) -> None:
    library.axpy(torch.zeros(0), torch.zeros(0), 1.0, (0, 0))
    assert core.launches == []


@needs_nvrtc
@pytest.mark.parametrize(
    ("error", "expected"),
    [
        ("CUDA_ERROR_OUT_OF_MEMORY: no memory", DeviceOutOfMemory),
        ("CUDA_ERROR_ILLEGAL_ADDRESS: an illegal access", DeviceLost),
        ("CUDA_ERROR_INVALID_VALUE: bad", MetalLaunchError),
    ],
)
def test_driver_errors_are_translated(core: FakeCore, library: Library, error: str, expected: type[Exception]) -> None:
    core.error = RuntimeError(error)
    with pytest.raises(expected, match="elinvar_0_axpy"):
        library.axpy(torch.zeros(8), torch.zeros(8), 1.0, (0, 0))


@needs_nvrtc
@pytest.mark.parametrize("methods", [False, True], ids=["properties", "methods"])
def test_attributes_in_both_forms_of_cuda_core(core: FakeCore, library: Library, methods: bool) -> None:
    core.attributes = FakeCore(methods=methods).attributes
    kernel = library.axpy
    assert (kernel.max_threads_per_threadgroup, kernel.static_thread_group_memory_length) == (1024, 64)


@needs_nvrtc
def test_a_group_the_registers_do_not_allow(core: FakeCore, library: Library) -> None:
    core.attributes.max_threads_per_block = 128
    library.axpy(torch.zeros(1000), torch.zeros(1000), 1.0, (0, 0))
    assert core.launches[0][2] == (128, 1, 1)
    with pytest.raises(MetalLaunchError, match="the kernel allows 128"):
        library.flat(torch.zeros(8), threads=256, group_size=256)


def test_a_missing_cuda_core_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cudacore.importlib, "import_module", _refuse)
    cudacore.api.cache_clear()
    with pytest.raises(MissingDependency, match=r"pip install elinvar\[cuda\]"):
        cudacore.api()


def _refuse(name: str) -> Any:
    raise ImportError(f"no {name}")
