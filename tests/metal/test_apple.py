"""The Apple backend with a stand-in for `torch.mps.compile_shader` that records what it is given."""

from __future__ import annotations

import struct
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from elinvar.errors import DeviceOutOfMemory, MetalError, MetalLaunchError, MetalSyntaxError
from elinvar.metal import apple
from elinvar.metal.language import parse
from elinvar.metal.launch import Library

SOURCE = """#include <metal_stdlib>
using namespace metal;
struct Pair { float a; uint b; };
kernel void k(device float* out [[buffer(0)]], constant float& f [[buffer(1)]], constant int& i [[buffer(2)]],
    constant uint& u [[buffer(3)]], constant half& h [[buffer(4)]], constant bfloat& b [[buffer(5)]],
    constant long& l [[buffer(6)]], constant ushort& us [[buffer(7)]], constant bool& flag [[buffer(8)]],
    constant float3& v [[buffer(9)]], constant uint2& w [[buffer(10)]], constant half2& hh [[buffer(11)]],
    constant Pair& pair [[buffer(12)]], constant float* list [[buffer(13)]], constant uchar4& c [[buffer(14)]],
    constant ulong& ul [[buffer(15)]], uint at [[thread_position_in_grid]]) {}
kernel void gap(device float* out [[buffer(3)]], constant float& f [[buffer(1)]],
    uint at [[thread_position_in_grid]]) {}
kernel void grouped(device float* out [[buffer(0)]], uint at [[thread_index_in_threadgroup]]) {}
"""


class FakeKernel:
    max_threads_per_threadgroup = 512
    thread_execution_width = 32
    static_thread_group_memory_length = 48

    def __init__(self) -> None:
        self.calls: list[tuple[tuple[Any, ...], dict[str, Any]]] = []
        self.error: Exception | None = None

    def __call__(self, *args: Any, **options: Any) -> None:
        if self.error:
            raise self.error
        self.calls.append((args, options))


class Fake:
    """What torch would return, for all three kernels; `seen` is the source it was given."""

    def __init__(self) -> None:
        self.kernels = {name: FakeKernel() for name in ("k", "gap", "grouped")}
        self.seen = ""

    def compile_shader(self, source: str) -> SimpleNamespace:
        self.seen = source
        return SimpleNamespace(**self.kernels)


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Fake:
    made = Fake()
    monkeypatch.setattr(torch.mps, "compile_shader", made.compile_shader)
    return made


@pytest.fixture
def library(fake: Fake) -> Library:
    return apple.load(parse(SOURCE), torch.device("cpu"))


def bytes_of(tensor: torch.Tensor) -> bytes:
    assert tensor.dtype == torch.uint8
    return bytes(tensor.tolist())


def test_torch_gets_the_users_text_with_defines_first(fake: Fake) -> None:
    apple.load(parse(SOURCE, {"SIZE": 8}), torch.device("cpu"))
    assert fake.seen.startswith("#define SIZE 8\n#line 1")
    assert fake.seen.endswith(SOURCE)


def test_every_constant_arrives_as_exactly_its_bytes(fake: Fake, library: Library) -> None:
    out = torch.zeros(10)
    pair = struct.pack("<fI", 2.5, 7)
    scalars = (0.1, -5, 4_000_000_000, 0.1, 0.1, -(2**40), 60_000, True)
    vectors = ((1, 2, 3), (1, 2**32 - 1), (0.5, 0.1))
    library.k(out, *scalars, *vectors, pair, [1.0, 2.0, 3.0], (1, 2, 3, 255), 2**64 - 1)
    [(args, options)] = fake.kernels["k"].calls
    assert args[0] is out
    assert options["threads"] == [10, 1, 1]
    assert options["group_size"] == [256, 1, 1]
    casts = options["arg_casts"]
    single = struct.unpack("<f", struct.pack("<f", 0.1))[0]
    half = struct.unpack("<e", struct.pack("<e", 0.1))[0]
    assert (args[1], casts.get(1)) == (single, None)  # torch makes float32 of a Python float
    assert (args[2], casts[2]) == (-5, "int32")
    assert (args[3], casts[3]) == (4_000_000_000 - 2**32, "int32")  # the same 32 bits
    assert (args[4], casts[4]) == (half, "fp16")  # rounded here, once: torch's way through float32 cannot change it
    assert (args[5], casts[5]) == (0.10009765625, "bf16")
    assert (args[6], casts.get(6)) == (-(2**40), None)  # torch passes Python ints as int64
    assert bytes_of(args[7]) == struct.pack("<H", 60_000)
    assert bytes_of(args[8]) == b"\x01"
    assert (args[9], casts.get(9)) == ([1.0, 2.0, 3.0, 0.0], None)
    assert (args[10], casts[10]) == ([1, -1], "int32")
    assert (args[11], casts[11]) == ([0.5, half], "fp16")
    assert bytes_of(args[12]) == pair
    assert (args[13], casts.get(13)) == ([1.0, 2.0, 3.0], None)
    assert bytes_of(args[14]) == bytes([1, 2, 3, 255])
    assert (args[15], casts.get(15)) == (-1, None)
    assert set(casts) == {2, 3, 4, 5, 10, 11}


def test_arguments_go_to_their_indices_and_gaps_get_a_number(fake: Fake, library: Library) -> None:
    out = torch.zeros(4)
    library.gap(2.0, out)
    [(args, options)] = fake.kernels["gap"].calls
    assert args == (0, 2.0, 0, out)
    assert "arg_casts" not in options


def test_the_same_bytes_are_uploaded_once(fake: Fake, library: Library) -> None:
    vectors = ((0, 0, 0), (0, 0), (0, 0))
    arguments: list[Any] = [
        torch.zeros(4),
        0.0,
        0,
        0,
        0.0,
        0.0,
        0,
        1,
        False,
        *vectors,
        b"12345678",
        [0.0],
        (1, 2, 3, 4),
        0,
    ]
    library.k(*arguments)
    library.k(*arguments)
    first, second = (call[0] for call in fake.kernels["k"].calls)
    assert first[12] is second[12]
    library.k(*arguments[:12], b"87654321", *arguments[13:])
    assert bytes_of(fake.kernels["k"].calls[-1][0][12]) == b"87654321"


def test_a_default_group_shrinks_and_a_chosen_one_is_refused(fake: Fake, library: Library) -> None:
    fake.kernels["gap"].max_threads_per_threadgroup = 100
    library.gap(2.0, torch.zeros(400))
    assert fake.kernels["gap"].calls[0][1]["group_size"] == [64, 1, 1]
    with pytest.raises(MetalLaunchError, match=r"\[grouped\] group_size \(1024, 1, 1\) is 1024 threads.*allows 512"):
        library.grouped(torch.zeros(1024), group_size=1024)


def test_properties_are_torchs(library: Library) -> None:
    kernel = library.grouped
    assert (kernel.max_threads_per_threadgroup, kernel.thread_execution_width) == (512, 32)
    assert kernel.static_thread_group_memory_length == 48


def test_checks_come_before_torch(fake: Fake, library: Library) -> None:
    with pytest.raises(MetalLaunchError, match=r"\[gap\] argument out .* is torch.float64"):
        library.gap(2.0, torch.zeros(4, dtype=torch.float64))
    assert fake.kernels["gap"].calls == []


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (RuntimeError("Invalid buffer size"), MetalLaunchError),
        (RuntimeError("MPS backend out of memory"), DeviceOutOfMemory),
    ],
)
def test_launch_errors_are_translated(
    fake: Fake, library: Library, error: Exception, expected: type[Exception]
) -> None:
    fake.kernels["gap"].error = error
    with pytest.raises(expected, match=r"\[gap\]"):
        library.gap(2.0, torch.zeros(4))


@pytest.mark.parametrize("kind", [SyntaxError, RuntimeError])
def test_compile_errors_name_the_line(monkeypatch: pytest.MonkeyPatch, kind: type[Exception]) -> None:
    def refuse(_: str) -> None:
        raise kind("program_source:7:3: error: unknown type name 'What'\nWhat\n^\n")

    monkeypatch.setattr(torch.mps, "compile_shader", refuse)
    with pytest.raises(MetalSyntaxError, match="<source>:7: unknown type name 'What'"):
        apple.load(parse(SOURCE), torch.device("cpu"))


def test_an_old_torch_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(torch.mps, "compile_shader")
    with pytest.raises(MetalError, match=r"torch 2\.7 or newer"):
        apple.load(parse(SOURCE), torch.device("cpu"))
