"""Launch checks: what fits, what does not, and that a kernel's rules do not depend on the device."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from elinvar.errors import MetalLaunchError
from elinvar.metal import Library, parse
from elinvar.metal.launch import Launch, Limits, bind
from elinvar.metal.signature import Signature

CPU = torch.device("cpu")
STRUCT = "struct P { float a; int b[2]; };\nstruct Odd { uint x : 3; };\n"


def signature(arguments: str, body: str = "", extra: str = "") -> Signature:
    (found,) = parse(f"{STRUCT}{extra} kernel void k({arguments}) {{ {body} }}\n").kernels.values()
    return found


def launch(arguments: str, *args: Any, threads: Any = 1, group_size: Any = None, body: str = "") -> Launch:
    return bind(signature(arguments, body), args, threads, group_size, CPU)


def refused(arguments: str, *args: Any, **kw: Any) -> str:
    with pytest.raises(MetalLaunchError) as caught:
        launch(arguments, *args, **kw)
    message = str(caught.value)
    assert message.startswith("[k] ")
    return message


# ---- tensors --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("type_", "dtypes"),
    [
        ("bool", {torch.bool}),
        ("char", {torch.int8, torch.uint8}),
        ("uchar", {torch.int8, torch.uint8}),
        ("short", {torch.int16, torch.uint16}),
        ("ushort", {torch.int16, torch.uint16}),
        ("int", {torch.int32, torch.uint32}),
        ("uint", {torch.int32, torch.uint32}),
        ("long", {torch.int64, torch.uint64}),
        ("ulong", {torch.int64, torch.uint64}),
        ("half", {torch.float16}),
        ("bfloat", {torch.bfloat16}),
        ("float", {torch.float32}),
        ("float2", {torch.float32, torch.complex64}),
        ("atomic_uint", {torch.int32, torch.uint32}),
        ("atomic_float", {torch.float32}),
        ("atomic_bool", {torch.int32, torch.uint32}),
        ("half3x3", {torch.float16}),
    ],
)
def test_dtypes(type_: str, dtypes: set[torch.dtype]) -> None:
    every = [torch.bool, torch.int8, torch.uint8, torch.int16, torch.uint16, torch.int32, torch.uint32, torch.int64]
    every += [torch.uint64, torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.complex64]
    for dtype in every:
        tensor = torch.zeros(24, dtype=dtype)
        if dtype in dtypes:
            assert launch(f"device {type_}* x", tensor).values == (tensor,)
        else:
            assert f"x (buffer 0) is {dtype}" in refused(f"device {type_}* x", tensor)


def test_structs_take_any_dtype_of_whole_structs() -> None:
    for tensor in (torch.zeros(24, dtype=torch.uint8), torch.zeros(6), torch.zeros(3, dtype=torch.int64)):
        launch("device P* x", tensor)
    assert "not a whole number of P, 12 bytes each" in refused("device P* x", torch.zeros(5))
    launch("device Odd* x", torch.zeros(5, dtype=torch.uint8))


def test_three_component_vectors_occupy_four() -> None:
    launch("device float3* x", torch.zeros(8))
    launch("device packed_float3* x", torch.zeros(6))
    assert "occupies four" in refused("device float3* x", torch.zeros(6))


def test_a_reference_needs_one_whole_value() -> None:
    launch("device float4& x", torch.zeros(4))
    assert "8 bytes; one float4 has 16" in refused("device float4& x", torch.zeros(2))


def test_memory_must_be_plain_aligned_and_here() -> None:
    assert "contiguous" in refused("device float* x", torch.zeros(4, 4).t())
    assert "contiguous" in refused("device float* x", torch.zeros(4)[::2])
    assert "4 bytes off the 16-byte alignment of float4" in refused("device float4* x", torch.zeros(9)[1:5])
    assert "on meta" in refused("device float* x", torch.zeros(4, device="meta"))
    assert "sparse" in refused("device float* x", torch.zeros(4).to_sparse())
    launch("device float* x", torch.zeros(0), threads=0)
    launch("device float* x", torch.zeros(9)[1:5])


def test_only_tensors_can_be_written() -> None:
    for value in (1.0, [1.0], b"1234", None, "x"):
        assert "is written to" in refused("device float* x", value)


def test_arguments_are_counted_and_named() -> None:
    assert "1 arguments given, 2 needed: x, n" in refused("device float* x, constant uint& n", torch.zeros(1))
    assert "2 arguments given, 0 needed: none" in refused("", 1, 2)


# ---- threads --------------------------------------------------------------------------------------------------------
def test_threads_default_to_the_first_tensors_elements() -> None:
    found = launch("constant uint& n, device float* x", 3, torch.zeros(4, 5), threads=None)
    assert found.threads == (20, 1, 1)
    assert "threads= is needed" in refused("constant uint& n", 3, threads=None)


@pytest.mark.parametrize("threads", [0, 5, (5,), [5, 6], (5, 6, 7), torch.Size([3, 2])])
def test_threads_of_one_to_three_axes(threads: Any) -> None:
    found = launch("", threads=threads)
    given = (threads,) if isinstance(threads, int) else tuple(threads)
    assert found.threads == (*given, 1, 1)[:3]
    assert found.empty == (threads == 0)


@pytest.mark.parametrize("threads", [-1, (), (1, 2, 3, 4), 1.5, "3", (2, "3"), True, (1, -1), 2**32])
def test_bad_threads(threads: Any) -> None:
    assert "threads" in refused("", threads=threads)


@pytest.mark.parametrize(
    ("threads", "group"), [(1000, (256, 1, 1)), ((70, 9), (32, 8, 1)), ((70, 9, 3), (32, 8, 1)), (3, (256, 1, 1))]
)
def test_a_group_is_chosen_where_it_does_not_matter(threads: Any, group: tuple[int, int, int]) -> None:
    found = launch("uint i [[thread_position_in_grid]]", threads=threads)
    assert found.group == group
    assert all(n * g >= t for n, g, t in zip(found.groups, found.group, found.threads, strict=True))


def test_a_free_group_may_have_any_size() -> None:
    assert launch("", threads=100, group_size=7).groups == (15, 1, 1)
    assert "1025 threads; 1 to 1024" in refused("", threads=100, group_size=1025)
    assert "0 threads" in refused("", threads=100, group_size=0)
    assert "group_size has 1 dimensions, threads has 2" in refused("", threads=(8, 8), group_size=64)


WHY = {
    "threadgroup float s[4];": "declares threadgroup memory",
    "threadgroup_barrier(mem_flags::mem_none);": "has a barrier",
    "simd_sum(1.0f);": "uses simd operations",
}


@pytest.mark.parametrize(("body", "why"), list(WHY.items()))
def test_threads_that_work_together_need_a_group(body: str, why: str) -> None:
    assert f"needs group_size=: it {why}" in refused("", threads=64, body=body)
    assert launch("", threads=(64, 3), group_size=(32, 1), body=body).group == (32, 1, 1)
    assert launch("", threads=(8, 8), group_size=(8, 4), body=body).groups == (1, 2, 1)
    assert "48 threads; it must be a multiple of 32" in refused("", threads=96, group_size=48, body=body)
    message = refused("", threads=(64, 100), group_size=(32, 8), body=body)
    assert "axis 1 is 100, not a multiple of group_size's 8; round it up to 104" in message
    assert "1056 threads" in refused("", threads=1056, group_size=1056, body=body)


def test_a_position_in_the_group_needs_a_group() -> None:
    assert "position in its threadgroup" in refused("uint i [[thread_index_in_threadgroup]]", threads=64)


def test_the_kernels_own_limit() -> None:
    limited = parse("[[max_total_threads_per_threadgroup(64)]] kernel void k() {}\n").kernels["k"]
    assert bind(limited, (), 100, None, CPU).group == (64, 1, 1)
    assert bind(limited, (), (100, 100), None, CPU).group == (32, 2, 1)
    with pytest.raises(MetalLaunchError, match="1 to 64"):
        bind(limited, (), 100, 65, CPU)


def test_ushort_positions_must_be_able_to_count() -> None:
    launch("ushort i [[thread_position_in_grid]]", threads=65536)
    assert "would be 65536; declare it uint" in refused("ushort i [[thread_position_in_grid]]", threads=65537)
    assert "threads_per_grid" in refused("ushort i [[threads_per_grid]]", threads=65536)
    launch("ushort i [[thread_position_in_grid]]", threads=(4, 70000))  # only x is seen
    refused("ushort2 i [[thread_position_in_grid]]", threads=(4, 70000))


# ---- libraries ------------------------------------------------------------------------------------------------------
class Recorder:
    """A backend that remembers instead of running."""

    def __init__(self) -> None:
        self.launches: list[Launch] = []

    def run(self, signature: Signature, launch: Launch) -> None:
        self.launches.append(launch)

    def limits(self, signature: Signature) -> Limits:
        return Limits(512, 32, signature.threadgroup_bytes or 0)


def library(text: str) -> tuple[Library, Recorder]:
    recorder = Recorder()
    return Library(parse(text).kernels, recorder, CPU), recorder


def test_a_library_is_its_kernels() -> None:
    lib, recorder = library("kernel void b(device float* x) {}\nkernel void a() { threadgroup float s[8]; }\n")
    assert lib.kernels == ("b", "a")
    assert {"a", "b"} <= set(dir(lib))
    assert lib.signature("b").buffers[0].name == "x"
    assert (lib.a.max_threads_per_threadgroup, lib.a.thread_execution_width) == (512, 32)
    assert lib["a"].static_thread_group_memory_length == 32
    x = torch.zeros(7)
    assert lib.b(x) is None
    (launched,) = recorder.launches
    assert launched.values == (x,)
    assert "b" in repr(lib)
    assert "cpu" in repr(lib.b)
    with pytest.raises(AttributeError, match="no kernel 'c'; it has b, a"):
        lib.c
    with pytest.raises(MetalLaunchError, match="no kernel 'c'"):
        lib.signature("c")


def test_nothing_runs_without_threads() -> None:
    lib, recorder = library("kernel void b(device float* x) {}\n")
    lib.b(torch.zeros(0))
    lib.b(torch.zeros(3), threads=(3, 0))
    assert recorder.launches == []
    with pytest.raises(MetalLaunchError):
        lib.b(torch.zeros(0, dtype=torch.int32))


# ---- everything at once ---------------------------------------------------------------------------------------------
@settings(max_examples=60, deadline=None)
@given(
    threads=st.lists(st.integers(0, 5000), min_size=1, max_size=3),
    group=st.none() | st.lists(st.integers(0, 1100), min_size=1, max_size=3),
    grouped=st.booleans(),
)
def test_a_launch_that_passes_covers_the_grid_and_obeys_the_rules(
    threads: list[int], group: list[int] | None, grouped: bool
) -> None:
    text = "uint i [[thread_index_in_threadgroup]]" if grouped else ""
    wanted = signature(text)
    try:
        found = bind(wanted, (), threads, group, CPU)
    except MetalLaunchError:
        total = 1
        for n in group or [1]:
            total *= n
        aligned = len(threads) == len(group or threads) and all(
            t % g == 0 for t, g in zip(threads, group or [], strict=False) if g
        )
        legal = group is not None and 1 <= total <= 1024 and len(group) == len(threads)
        assert not (legal and (not grouped or (total % 32 == 0 and aligned)))
        assert grouped or group is not None
        return
    x, y, z = found.group
    assert 1 <= x * y * z <= 1024
    for n, g, t in zip(found.groups, found.group, found.threads, strict=True):
        assert t <= n * g < t + g
    if grouped:
        assert x * y * z % 32 == 0
        assert all(t % g == 0 for t, g in zip(found.threads, found.group, strict=True))
