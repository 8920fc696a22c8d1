"""Cases about launches: where a thread stands, partial grids, groups, barriers, aliasing, more groups than CUDA's y."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from .case import MetalCase

__all__ = ["CASES"]

_EVERY = """
struct Where { uint v[32]; };
kernel void where_am_i(device Where* out [[buffer(0)]],
    uint3 tpg [[thread_position_in_grid]], uint3 grid [[threads_per_grid]],
    uint3 tpt [[thread_position_in_threadgroup]], uint3 size [[threads_per_threadgroup]],
    uint3 group [[threadgroup_position_in_grid]], uint3 groups [[threadgroups_per_grid]],
    uint index [[thread_index_in_threadgroup]], uint lane [[thread_index_in_simdgroup]],
    uint warp [[simdgroup_index_in_threadgroup]], uint warps [[simdgroups_per_threadgroup]],
    uint width [[threads_per_simdgroup]])
{
    device Where& here = out[(tpg.z * grid.y + tpg.y) * grid.x + tpg.x];
    here.v[0] = tpg.x; here.v[1] = tpg.y; here.v[2] = tpg.z;
    here.v[3] = grid.x; here.v[4] = grid.y; here.v[5] = grid.z;
    here.v[6] = tpt.x; here.v[7] = tpt.y; here.v[8] = tpt.z;
    here.v[9] = size.x; here.v[10] = size.y; here.v[11] = size.z;
    here.v[12] = group.x; here.v[13] = group.y; here.v[14] = group.z;
    here.v[15] = groups.x; here.v[16] = groups.y; here.v[17] = groups.z;
    here.v[18] = index; here.v[19] = lane; here.v[20] = warp; here.v[21] = warps; here.v[22] = width;
    for (uint i = 23; i < 32; i++) { here.v[i] = i; }
}
"""


def _where(grid: tuple[int, int, int], size: tuple[int, int, int]) -> torch.Tensor:
    z, y, x = np.meshgrid(*(np.arange(n) for n in reversed(grid)), indexing="ij")
    position = np.stack([x, y, z], axis=-1)
    inside, group = position % size, position // size
    index = inside[..., 0] + size[0] * (inside[..., 1] + size[1] * inside[..., 2])
    groups = np.array(grid) // size
    shape = position.shape[:-1]
    rows = [
        *np.moveaxis(position, -1, 0), *(np.full(shape, n) for n in grid), *np.moveaxis(inside, -1, 0),
        *(np.full(shape, n) for n in size), *np.moveaxis(group, -1, 0), *(np.full(shape, n) for n in groups),
        index, index % 32, index // 32, np.full(shape, int(np.prod(size)) // 32), np.full(shape, 32),
        *(np.full(shape, i) for i in range(23, 32)),
    ]  # fmt: skip
    return torch.from_numpy(np.stack(rows, axis=-1).astype(np.int32).reshape(-1))


_SHORT = """
kernel void short_attributes(device uint* out [[buffer(0)]], ushort2 at [[thread_position_in_grid]],
    ushort2 grid [[threads_per_grid]])
{
    out[at.y * grid.x + at.x] = uint(at.x) | (uint(at.y) << 16);
}
"""
_LINE = """
kernel void iota(device int* out [[buffer(0)]], constant int& first [[buffer(1)]], uint i [[thread_position_in_grid]])
{
    out[i] = first + int(i);
}
"""
_TRANSPOSE = """
kernel void transpose_tile(device const float* x [[buffer(0)]], device float* out [[buffer(1)]],
    uint2 at [[thread_position_in_threadgroup]], uint2 group [[threadgroup_position_in_grid]],
    uint2 groups [[threadgroups_per_grid]])
{
    threadgroup float tile[TILE][TILE + 1];
    tile[at.y][at.x] = x[(group.y * TILE + at.y) * groups.x * TILE + group.x * TILE + at.x];
    threadgroup_barrier(mem_flags::mem_threadgroup);
    out[(group.x * TILE + at.y) * groups.y * TILE + group.y * TILE + at.x] = tile[at.x][at.y];
}
"""
_REDUCE = """
template <typename T> inline T fold(threadgroup T* part, uint lid, uint size) {
    for (uint step = size / 2; step > 0; step >>= 1) {
        threadgroup_barrier(mem_flags::mem_threadgroup);
        if (lid < step) { part[lid] += part[lid + step]; }
    }
    threadgroup_barrier(mem_flags::mem_threadgroup);
    return part[0];
}
kernel void group_sum(device const float* x [[buffer(0)]], device float* out [[buffer(1)]],
    uint i [[thread_position_in_grid]], uint lid [[thread_index_in_threadgroup]],
    uint group [[threadgroup_position_in_grid]])
{
    threadgroup float part[128];
    threadgroup uint seen;
    if (lid == 0) { seen = group; }
    part[lid] = x[i];
    float sum = fold(part, lid, 128u);
    if (lid == 5) { out[group] = sum + float(seen); }
}
"""
_IN_PLACE = """
kernel void in_place(device const float* x [[buffer(0)]], device float* out [[buffer(1)]],
    constant uint& rounds [[buffer(2)]], uint lid [[thread_position_in_threadgroup]])
{
    for (uint r = 0; r < rounds; r++) {
        float next = x[(lid + 1) % 64];
        threadgroup_barrier(mem_flags::mem_device);
        out[lid] = next;
        threadgroup_barrier(mem_flags::mem_device);
    }
}
"""
_MANY_GROUPS = """
kernel void tall(device uchar* out [[buffer(0)]], uint2 group [[threadgroup_position_in_grid]],
    uint2 groups [[threadgroups_per_grid]], uint lane [[thread_index_in_simdgroup]])
{
    if (lane == 0) { out[group.y * groups.x + group.x] = uchar((group.y * 3 + group.x) % 251); }
}
"""
_TEMPLATES = """
template <typename T, int N> struct Pack {
    T v[N];
    T sum() const { T s = 0; for (int i = 0; i < N; i++) { s += v[i]; } return s; }
};
namespace detail { template <typename T> inline T square(T v) { return v * v; } }
template <typename T> kernel void square_all(device const T* x [[buffer(0)]], device T* out [[buffer(1)]],
    uint i [[thread_position_in_grid]])
{
    Pack<T, 3> p = {{detail::square(x[i]), T(1), T(2)}};
    out[i] = p.sum();
}
template [[host_name("square_float")]] kernel void square_all<float>(device const float*, device float*, uint);
template [[host_name("square_int")]] kernel void square_all<int>(device const int*, device int*, uint);
"""
_CONSTANTS = """
constant uint COUNT = 5;
constant float WEIGHTS[COUNT] = {0.5f, 1.0f, 2.0f, 4.0f, 8.0f};
constant float3 AXIS = float3(1.0f, 2.0f, 3.0f);
constexpr constant int OFFSET = 3;
enum class Mode : uint { add = 1, scale = 2 };
static inline float weigh(constant float* weights, uint i) { return weights[i % COUNT]; }
kernel void constants(device float* out [[buffer(0)]], uint i [[thread_position_in_grid]])
{
    Mode mode = (i & 1) ? Mode::add : Mode::scale;
    float w = weigh(WEIGHTS, i);
    switch (mode) {
        case Mode::add: out[i] = w + AXIS.y + OFFSET; break;
        default: out[i] = w * AXIS.z; break;
    }
}
"""


def _weights(_arguments: list[Any]) -> dict[int, torch.Tensor]:
    i = np.arange(32)
    w = np.array([0.5, 1, 2, 4, 8], np.float32)[i % 5]
    return {0: torch.from_numpy(np.where(i & 1, w + 5, w * 3).astype(np.float32))}


def _sums(arguments: list[Any]) -> dict[int, torch.Tensor]:
    return {1: arguments[0].reshape(-1, 128).sum(1) + torch.arange(4, dtype=torch.float32)}


def _tall(_arguments: list[Any]) -> dict[int, torch.Tensor]:
    y, x = np.mgrid[:65_600, :1]
    return {0: torch.from_numpy(((y * 3 + x) % 251).astype(np.uint8).reshape(-1))}


def _rolled(arguments: list[Any]) -> dict[int, torch.Tensor]:
    return {0: arguments[0].roll(-7)}


def _partial(arguments: list[Any]) -> dict[int, torch.Tensor]:
    want = torch.full((70,), -1, dtype=torch.int32)
    want[:67] = torch.arange(67, dtype=torch.int32) + arguments[1]
    return {0: want}


def _ushorts(_arguments: list[Any]) -> dict[int, torch.Tensor]:
    y, x = np.mgrid[:5, :13]
    return {0: torch.from_numpy((x | (y << 16)).astype(np.int32).reshape(-1))}


def _whole(rows: int, columns: int) -> torch.Tensor:
    return torch.arange(rows * columns, dtype=torch.float32).reshape(rows, columns)


def _shared_buffer() -> list[Any]:
    x = torch.arange(64, dtype=torch.float32)
    return [x, x, 7]


CASES = [
    MetalCase(
        "every thread attribute",
        _EVERY,
        "where_am_i",
        lambda: [torch.zeros(16 * 8 * 4 * 32, dtype=torch.int32)],
        lambda _: {0: _where((16, 8, 4), (8, 4, 2))},
        threads=(16, 8, 4),
        group_size=(8, 4, 2),
    ),
    MetalCase(
        "ushort attributes, partial groups in two dimensions",
        _SHORT,
        "short_attributes",
        lambda: [torch.zeros(65, dtype=torch.int32)],
        _ushorts,
        threads=(13, 5),
    ),
    MetalCase(
        "no thread runs beyond the grid",
        _LINE,
        "iota",
        lambda: [torch.full((70,), -1, dtype=torch.int32), 40],
        _partial,
        threads=67,
    ),
    MetalCase(
        "a chosen group size that does not divide the grid",
        _LINE,
        "iota",
        lambda: [torch.full((70,), -1, dtype=torch.int32), -5],
        _partial,
        threads=67,
        group_size=32,
    ),
    MetalCase(
        "two-dimensional threadgroup memory and a define",
        _TRANSPOSE,
        "transpose_tile",
        lambda: [_whole(16, 24), torch.zeros(24, 16)],
        lambda given: {1: given[0].t().contiguous()},
        threads=(24, 16),
        group_size=(8, 8),
        defines={"TILE": 8},
    ),
    MetalCase(
        "barriers in a helper given a threadgroup pointer",
        _REDUCE,
        "group_sum",
        lambda: [torch.arange(512, dtype=torch.float32) % 17, torch.zeros(4)],
        _sums,
        threads=512,
        group_size=128,
    ),
    MetalCase(
        "one buffer as constant input and as output",
        _IN_PLACE,
        "in_place",
        _shared_buffer,
        _rolled,
        threads=64,
        group_size=64,
    ),
    MetalCase(
        "more than 65 535 groups in y",
        _MANY_GROUPS,
        "tall",
        lambda: [torch.zeros(65_600, dtype=torch.uint8)],
        _tall,
        threads=(32, 65_600),
        group_size=(32, 1),
    ),
    MetalCase(
        "templates, namespaces and host names",
        _TEMPLATES,
        "square_int",
        lambda: [torch.arange(-8, 8, dtype=torch.int32), torch.zeros(16, dtype=torch.int32)],
        lambda given: {1: given[0] ** 2 + 3},
        threads=16,
    ),
    MetalCase(
        "program-scope constants, enums and switch",
        _CONSTANTS,
        "constants",
        lambda: [torch.zeros(32)],
        _weights,
        threads=32,
    ),
]
