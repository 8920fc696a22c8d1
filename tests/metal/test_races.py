"""The race detector: silent on correct kernels, and for wrong ones it names the memory, both threads and both lines."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from elinvar.errors import InputError, MetalLaunchError

Compile = Callable[..., Any]
HEAD = "#include <metal_stdlib>\nusing namespace metal;\n"
KERNELS = (
    HEAD
    + """
#define SHARED uint i [[thread_position_in_grid]], uint l [[thread_index_in_threadgroup]]
kernel void reversed(device float* x [[buffer(0)]], SHARED)
{
    threadgroup float s[128];
    s[l] = x[i];
#if FENCE
    threadgroup_barrier(mem_flags::FENCE);
#endif
    x[i] = s[127 - l];
}
kernel void neighbours(device float* x [[buffer(0)]], SHARED)
{
    x[i] = l;
#if FENCE
    threadgroup_barrier(mem_flags::FENCE);
#endif
    const float other = x[i ^ 1];
    threadgroup_barrier(mem_flags::mem_device);
    x[i] += other;
}
kernel void lanes(device float* x [[buffer(0)]], SHARED)
{
    threadgroup float s[128];
    s[l] = x[i];
#if FENCE
    simdgroup_barrier(mem_flags::FENCE);
#endif
    x[i] = s[l ^ 9];
}
kernel void across_simdgroups(device float* x [[buffer(0)]], SHARED)
{
    threadgroup float s[128];
    s[l] = x[i];
    simdgroup_barrier(mem_flags::mem_threadgroup);
    x[i] = s[l ^ 32];
}
kernel void shuffled(device float* x [[buffer(0)]], SHARED)
{
    threadgroup float s[128];
    s[l] = x[i];
    const float v = simd_shuffle_xor(x[i], 1);
    x[i] = s[l ^ 1] + v;
}
"""
)
FREE = (
    HEAD
    + """
struct Pair { float a, b; };
kernel void halves(device uint* x [[buffer(0)]], uint i [[thread_position_in_grid]])
{
    x[i / 2] = i;
}
kernel void bytes(device uchar* x [[buffer(0)]], uint i [[thread_position_in_grid]])
{
    x[i] = i;
}
kernel void spill(device ushort* x [[buffer(0)]], uint i [[thread_position_in_grid]])
{
    *(device uint*)(x + i) = i;
}
kernel void groups(device float* x [[buffer(0)]], uint i [[thread_position_in_grid]])
{
    x[i] = i ? x[i - 1] : 0;
}
kernel void vectors(device float4* x [[buffer(0)]], device float* y [[buffer(1)]], uint i [[thread_position_in_grid]])
{
    x[i].xyz = float3(i);
    y[4 * i + 3] = 1;
}
kernel void structs(device Pair* x [[buffer(0)]], constant Pair& p [[buffer(1)]], uint i [[thread_position_in_grid]])
{
    x[i / 2] = p;
}
kernel void counted(device atomic_uint* x [[buffer(0)]], uint i [[thread_position_in_grid]])
{
    atomic_fetch_add_explicit(x, 1, memory_order_relaxed);
}
kernel void mixed(device atomic_uint* x [[buffer(0)]], uint i [[thread_position_in_grid]])
{
    if (i == 5) *(device uint*)x = 1;
    else atomic_fetch_add_explicit(x, 1, memory_order_relaxed);
}
kernel void peeked(device atomic_uint* x [[buffer(0)]], device uint* y, uint i [[thread_position_in_grid]])
{
    atomic_fetch_or_explicit(x, 1u << i % 32, memory_order_relaxed);
    y[i] = *(device uint*)x;
}
kernel void same_value(device uint* x [[buffer(0)]], uint i [[thread_position_in_grid]])
{
    x[0] = 1;
}
kernel void reads(device uint* x [[buffer(0)]], uint i [[thread_position_in_grid]])
{
    x[i] = x[i] + 1;
}
inline uint twice(device uint* x, uint i) { return x[i] * 2; }
kernel void called(device uint* x [[buffer(0)]], uint i [[thread_position_in_grid]])
{
    x[i] = twice(x,
                 (i + 1) % 64);
}
"""
)


def lines(message: str) -> list[int]:
    return [int(part.split(" ")[0]) for part in message.replace("`", " ").split("<source>:")[1:]]


def race(lib: Any, name: str, *args: Any, **kw: Any) -> str:
    with pytest.raises(MetalLaunchError) as caught:
        lib[name](*args, **kw)
    message = str(caught.value)
    assert message.startswith(f"[{name}] race on ")
    return message


@pytest.mark.parametrize("schedule", ["forward", "reverse", "random"])
@pytest.mark.parametrize(
    ("name", "enough", "insufficient"),
    [
        ("reversed", {"mem_threadgroup"}, {"", "mem_none", "mem_device"}),
        ("neighbours", {"mem_device"}, {"", "mem_none", "mem_threadgroup"}),
        ("lanes", {"mem_threadgroup"}, {"", "mem_none", "mem_device"}),
    ],
)
def test_a_barrier_orders_the_memory_it_names(
    name: str, enough: set[str], insufficient: set[str], schedule: str, emulator: Compile
) -> None:
    for fence in sorted(enough | insufficient):
        defines = {"FENCE": fence} if fence else {"FENCE": "0"}
        text = KERNELS.replace("#if FENCE", "#if " + ("1" if fence else "0"))
        lib = emulator(text, defines=defines, races=True, schedule=schedule)
        x = torch.arange(256.0)
        if fence in insufficient:
            message = race(lib, name, x, threads=256, group_size=128)
            start = KERNELS[: KERNELS.index(f"kernel void {name}")].count("\n") + 1
            assert all(start < line < start + 12 for line in lines(message)), message
            assert len(lines(message)) == 2
        else:
            lib[name](x, threads=256, group_size=128)


def test_a_simdgroup_barrier_orders_no_other_simdgroup_and_a_shuffle_no_memory(emulator: Compile) -> None:
    lib = emulator(KERNELS, defines={"FENCE": "0"}, races=True)
    for name in ("across_simdgroups", "shuffled"):
        assert "threadgroup memory" in race(lib, name, torch.zeros(128), threads=128, group_size=128)


def ints(n: int) -> torch.Tensor:
    return torch.zeros(n, dtype=torch.int32)


@pytest.mark.parametrize("schedule", ["forward", "reverse", "random"])
def test_races_in_device_memory(schedule: str, emulator: Compile) -> None:
    lib = emulator(FREE, races=True, schedule=schedule)
    message = race(lib, "halves", ints(32))
    assert "race on x[" in message
    assert "(buffer 0): write by thread (" in message
    assert lines(message) == [7, 7]
    assert "different" not in message
    message = race(lib, "groups", torch.zeros(1024))
    assert lines(message) == [19, 19]
    assert {"read", "write"} <= set(message.split())
    lib.groups(torch.zeros(1024), threads=1)
    assert lines(race(lib, "spill", torch.zeros(64, dtype=torch.int16), threads=60)) == [15, 15]
    assert lines(race(lib, "structs", torch.zeros(64), {"a": 1, "b": 2}, threads=64)) == [28, 28]
    assert lines(race(lib, "same_value", ints(1), threads=600)) == [46, 46]
    assert sorted(lines(race(lib, "mixed", ints(1), threads=32))) == [36, 37]
    assert {*lines(race(lib, "peeked", ints(1), ints(64), threads=64))} == {41, 42}
    assert {52, 55} >= set(lines(race(lib, "called", ints(64), threads=64)))


def test_a_race_between_groups_says_so(emulator: Compile) -> None:
    lib = emulator(FREE, races=True)
    x = ints(600)
    message = race(lib, "same_value", x, threads=600, group_size=1)
    assert "thread (0) of group (0)" in message
    assert "thread (0) of group (1)" in message
    assert "groups of one launch have no order" in message


@pytest.mark.parametrize("schedule", ["forward", "reverse", "random"])
def test_correct_kernels_are_left_alone(schedule: str, emulator: Compile) -> None:
    lib = emulator(FREE, races=True, schedule=schedule)
    lib.bytes(torch.zeros(300, dtype=torch.uint8))
    lib.counted(ints(1), threads=1000)
    lib.reads(ints(64))
    xy = torch.zeros(256)
    lib.vectors(xy, xy, threads=64)  # two names of one memory, disjoint components
    assert xy.view(64, 4)[:, 3].eq(1).all()
    assert xy.view(64, 4)[:, 0].tolist() == list(range(64))


def test_one_memory_under_two_names(emulator: Compile) -> None:
    lib = emulator(
        HEAD + "kernel void k(device const float* x [[buffer(0)]], device float* y [[buffer(1)]],"
        " uint i [[thread_position_in_grid]])\n{ y[i] = x[i + 1]; }\n",
        races=True,
    )
    x = torch.zeros(65)
    lib.k(x, torch.zeros(64), threads=64)
    assert "race on " in race(lib, "k", x, x[:64], threads=64)


def test_files_are_named_in_races(tmp_path: Path, emulator: Compile) -> None:
    (tmp_path / "store.h").write_text("inline void store(device float* x, float v) {\n    x[0] = v;\n}\n")
    main = tmp_path / "racy.metal"
    main.write_text(
        '#include "store.h"\nkernel void k(device float* x, uint i [[thread_position_in_grid]]) { store(x, i); }\n'
    )
    message = race(emulator(main, races=True), "k", torch.zeros(1), threads=2)
    assert message.count("store.h:2") == 2


def test_races_and_sanitize_exclude_each_other(emulator: Compile) -> None:
    with pytest.raises(InputError, match="one at a time"):
        emulator(FREE, races=True, sanitize=True)
