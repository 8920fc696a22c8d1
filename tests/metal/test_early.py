"""Kernels that are launched before their predecessors end: what they wait for, and that they are told apart."""

from __future__ import annotations

import ctypes
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from elinvar.metal import compile as compile_metal
from elinvar.metal import cudacore, cudaprogram, nvidia, nvrtc
from elinvar.metal.language import parse
from elinvar.metal.launch import Launch
from elinvar.metal.quick import Attribute, Config, Geometry, _ready

# A slow reader and writer: what overtakes it, or is overtaken by it, shows in the result.
SOURCE = """#include <metal_stdlib>
using namespace metal;
#define ELINVAR_CUDA_EARLY 1
kernel void add(device const float* x [[buffer(0)]], device float* y [[buffer(1)]], constant float& a [[buffer(2)]],
    constant uint& turns [[buffer(3)]], uint i [[thread_position_in_grid]]) {
  float wasted = 0.0f;
  for (uint k = 0; k < turns; k++) wasted = fma(wasted, 0.5f, float(k));
  y[i] = x[i] + a + (wasted < 0.0f ? 1.0f : 0.0f);
}
"""
PLAIN = SOURCE.replace("#define ELINVAR_CUDA_EARLY 1\n", "")


def _text(source: str, defines: Any = None) -> tuple[cudaprogram.Entry, str]:
    parsed = parse(source, defines)
    made = cudaprogram.entry(parsed, "add")
    return made, cudaprogram.program_text(parsed, [made]).partition("elinvar_entries")[2]


def test_an_early_kernel_waits_before_it_does_anything() -> None:
    made, text = _text(SOURCE)
    assert made.early
    wait, follow = text.index('asm volatile("griddepcontrol.wait;" ::: "memory")'), text.index("launch_dependents")
    # Whoever returns for being outside the grid waits as well: a grid that ends counts as one that has waited.
    assert wait < follow < text.index("elinvar_outside") < text.index("add(static_cast")
    assert "__restrict__" not in text


def test_other_kernels_are_as_they_were() -> None:
    for made, text in (_text(PLAIN), _text(SOURCE, {"ELINVAR_CUDA_EARLY": 0})):
        assert not made.early
        assert "griddepcontrol" not in text
        assert "__restrict__" in text


def test_defines_ask_for_it_too() -> None:
    assert _text(PLAIN, {"ELINVAR_CUDA_EARLY": 1})[0].early


@pytest.mark.skipif(not nvrtc.available(), reason="needs NVRTC: pip install nvidia-cuda-nvrtc")
@pytest.mark.parametrize(
    ("capability", "driver", "expected"), [((9, 0), 13000, True), ((8, 0), 13000, False), ((9, 0), 12020, False)]
)
def test_only_where_driver_and_device_can(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], driver: int, expected: bool
) -> None:
    fake = SimpleNamespace(
        Device=lambda _: SimpleNamespace(set_current=lambda: None),
        ObjectCode=SimpleNamespace(from_cubin=lambda _: None, from_ptx=lambda _: None),
    )
    monkeypatch.setattr(cudacore, "api", lambda: fake)
    monkeypatch.setattr(nvidia, "api", lambda: fake)
    monkeypatch.setattr(torch.cuda, "init", lambda: None)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    monkeypatch.setattr(nvidia, "driver_version", lambda: driver)
    monkeypatch.setattr(cudacore.Module, "function", lambda *_: 7)
    monkeypatch.setattr(cudacore.Module, "attribute", lambda *_: 1024)
    for text, early in ((SOURCE, expected), (PLAIN, False)):
        source = parse(text)
        backend = nvidia.NvidiaBackend(source, torch.device("cuda", 0))
        launch = Launch((64, 1, 1), (32, 1, 1), ())
        assert backend.direct(source.kernels["add"], launch, False).early is early


def test_the_driver_is_told() -> None:
    assert ctypes.sizeof(Attribute) == 72
    assert ctypes.sizeof(Config) == 56
    for early in (False, True):
        config = _ready(Geometry(1, (2, 1, 1), (32, 1, 1), (0, 0, 0), early), 5, 8).keep
        assert config.count == early
        assert bool(config.attributes) is early
        if early:
            attribute = Attribute.from_address(config.attributes)
            assert (attribute.kind, attribute.value[0]) == (
                6,
                1,
            )  # CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION


def test_no_driver_is_no_version(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cudacore, "_driver", lambda: None)
    assert cudacore.driver_version() == 0


CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="no NVIDIA GPU")
SLOW, QUICK = 20_000, 0


class Work:
    """A buffer that early launches change step by step; every step must see all earlier ones."""

    def __init__(self, n: int) -> None:
        self.add = compile_metal(SOURCE, "cuda").add
        assert self.add.quick is not None
        self.x, self.y, self.z = (torch.zeros(n, device="cuda") for _ in range(3))

    def steps(self) -> None:
        x, y, z, add = self.x, self.y, self.z, self.add
        x.zero_()
        torch.cuda._sleep(200_000)
        x.fill_(1.0)
        add(x, y, 1.0, QUICK)  # reads what an ordinary kernel wrote late: 2
        add(y, z, 1.0, SLOW)  # 3, late
        add(z, x, 1.0, QUICK)  # 4; x is overwritten after it was read
        add(x, y, 1.0, SLOW)  # 5
        y.mul_(2.0)  # an ordinary kernel behind an early one: 10
        add(y, y, 1.0, QUICK)  # in place: 11
        z.copy_(y)  # a copy behind an early launch: 11
        add(z, x, 1.0, SLOW)  # and before one: 12
        y.zero_()
        add(x, y, 1.0, QUICK)  # 13; two launches back wrote x, one back y
        for _ in range(20):
            add(y, z, 1.0, QUICK)
            add(z, y, 1.0, QUICK)  # 53

    def check(self) -> None:
        assert self.x.eq(12).all()
        assert self.z.eq(52).all()
        assert self.y.eq(53).all()


@CUDA
@pytest.mark.parametrize("n", [256, 1 << 14, 1 << 22])
def test_launches_see_what_came_before(n: int) -> None:
    work = Work(n)
    for _ in range(3):
        work.steps()
        work.check()
    aside = torch.cuda.Stream()
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside):
        work.steps()
    torch.cuda.current_stream().wait_stream(aside)
    work.check()


@CUDA
@pytest.mark.parametrize("n", [256, 1 << 14, 1 << 22])
def test_launches_of_a_graph_see_what_came_before(n: int) -> None:
    work = Work(n)
    work.steps()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        work.steps()
    for _ in range(5):
        for one in (work.x, work.y, work.z):
            one.fill_(-1)
        graph.replay()
        work.check()


def _crossing(work: Work) -> None:
    """Streams that fork and join around early launches."""
    main, aside = torch.cuda.current_stream(), torch.cuda.Stream()
    work.x.zero_()
    aside.wait_stream(main)
    with torch.cuda.stream(aside):
        torch.cuda._sleep(200_000)
        work.add(work.x, work.y, 1.0, SLOW)  # 1
    work.add(work.x, work.z, 5.0, SLOW)  # 5
    main.wait_stream(aside)
    work.add(work.y, work.x, 1.0, QUICK)  # 2: behind a wait for the other stream
    aside.wait_stream(main)
    with torch.cuda.stream(aside):
        work.add(work.x, work.y, 1.0, SLOW)  # 3
    main.wait_stream(aside)
    work.z.add_(work.y)  # 8
    work.add(work.z, work.x, 1.0, QUICK)  # 9


@CUDA
@pytest.mark.parametrize("n", [256, 1 << 20])
def test_streams_that_wait_for_each_other(n: int) -> None:
    work = Work(n)

    def check() -> None:
        assert work.y.eq(3).all()
        assert work.z.eq(8).all()
        assert work.x.eq(9).all()

    for _ in range(5):
        _crossing(work)
        check()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        _crossing(work)
    for _ in range(5):
        for one in (work.x, work.y, work.z):
            one.fill_(-1)
        graph.replay()
        check()
