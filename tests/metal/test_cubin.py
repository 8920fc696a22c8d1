from __future__ import annotations

from pathlib import Path

import pytest

from elinvar import metal
from elinvar.errors import InputError, MetalSyntaxError
from elinvar.metal import nvrtc
from elinvar.metal.cubin import multiprocessor, occupancy

needs_nvrtc = pytest.mark.skipif(not nvrtc.available(), reason="needs NVRTC: pip install nvidia-cuda-nvrtc")
HEAD = "#include <metal_stdlib>\nusing namespace metal;\n"
SHARED = HEAD + (
    "kernel void tile(device float* x [[buffer(0)]], uint i [[thread_position_in_threadgroup]]) {\n"
    "    threadgroup float part[SIZE];\n"
    "    part[i] = x[i];\n"
    "    threadgroup_barrier(mem_flags::mem_threadgroup);\n"
    "    x[i] = part[SIZE - 1 - i];\n"
    "}\n"
)
# Indexed at run time, so that the array lies in local memory.
STACK = HEAD + (
    "kernel void histogram(device const uint* x [[buffer(0)]], device uint* y [[buffer(1)]],\n"
    "    uint i [[thread_position_in_grid]]) {\n"
    "    uint count[64];\n"
    "    for (uint k = 0; k < 64; k++) { count[k] = 0; }\n"
    "    for (uint k = 0; k < 64; k++) { count[x[i * 64 + k] % 64] += k; }\n"
    "    for (uint k = 0; k < 64; k++) { y[i * 64 + k] = count[k]; }\n"
    "}\n"
)


# Holds 200 values at once.
GREEDY = "kernel void greedy(device float* x [[buffer(0)]], uint i [[thread_position_in_grid]]) {{\n{}{}}}\n".format(
    "".join(f"    float v{i} = x[i * 200 + {i}];\n" for i in range(200)),
    "".join(f"    x[i * 200 + {i}] = v{199 - i} * v{(i * 7) % 200};\n" for i in range(200)),
)


@pytest.mark.parametrize(
    ("registers", "shared", "threads", "expected"),
    [
        (32, 0, 256, 1.0),
        (40, 0, 256, 0.75),  # 40 registers: 12 warps in each quarter
        (64, 0, 256, 0.5),
        (128, 0, 256, 0.25),
        (255, 0, 1024, 0.0),  # cannot run at all
        (32, 0, 32, 0.5),  # 32 groups at most
        (16, 32 * 1024, 256, 6 * 8 / 64),  # 228 KB hold six times 33 KB
        (32, 0, 1024, 1.0),
        (33, 0, 1024, 0.5),
        (1, 0, 1, 0.5),
    ],
)
def test_occupancy_of_hopper(registers: int, shared: int, threads: int, expected: float) -> None:
    assert occupancy(registers, shared, threads, multiprocessor("sm_90")) == expected


def test_limits_of_other_architectures() -> None:
    assert multiprocessor("sm_86").warps == 48
    assert multiprocessor("sm_103") == multiprocessor("sm_100")
    with pytest.raises(InputError, match="no limits are known for architecture 'sm_35'"):
        multiprocessor("sm_35")


@needs_nvrtc
def test_shared_memory_and_defines_are_reported() -> None:
    report = metal.build_cubin(SHARED, defines={"SIZE": 512}, group_size=512)
    tile = report.kernels["tile"]
    assert (tile.shared_bytes, tile.spill_bytes, tile.stack_bytes, tile.group_size) == (2048, 0, 0, 512)
    assert 8 <= tile.registers <= 32
    assert tile.occupancy == 1.0
    assert "tile" in str(report)
    assert report.to_dict()["kernels"]["tile"]["shared_bytes"] == 2048


@needs_nvrtc
def test_local_memory_is_reported_and_group_sizes_go_by_kernel() -> None:
    report = metal.build_cubin(STACK, group_size={"histogram": 64})
    assert report.kernels["histogram"].stack_bytes == 256
    assert report.kernels["histogram"].group_size == 64


@needs_nvrtc
def test_a_limit_on_threads_is_the_default_group_and_bounds_registers() -> None:
    text = (
        HEAD + "[[max_total_threads_per_threadgroup(128)]] kernel void k(device float* x [[buffer(0)]]) { x[0] = 1; }"
    )
    assert metal.build_cubin(text).kernels["k"].group_size == 128


@needs_nvrtc
def test_spills_are_counted() -> None:
    text = f"{HEAD}[[max_total_threads_per_threadgroup(1024)]] {GREEDY}"
    greedy = metal.build_cubin(text, group_size=1024).kernels["greedy"]
    assert greedy.registers <= 64
    assert greedy.spill_bytes > 0


@needs_nvrtc
def test_errors_name_the_file(tmp_path: Path) -> None:
    path = tmp_path / "broken.metal"
    path.write_text(HEAD + "kernel void k(device float* x [[buffer(0)]]) {\n    x[0] = nothing;\n}\n")
    with pytest.raises(MetalSyntaxError, match=r"broken\.metal:4"):
        metal.build_cubin(path)
