"""Cases about simdgroups: reductions, scans, shuffles, votes; of integers, so that every device must agree."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from .case import MetalCase

__all__ = ["CASES"]

_REDUCE = """
template <typename T> inline void reduce(device const T* x, device T* out, uint i) {
    T v = x[i];
    device T* row = out + i * 4;
    row[0] = simd_sum(v);
    row[1] = simd_max(v);
    row[2] = simd_min(v);
    row[3] = simd_product(v == T(0) ? T(1) : T(1 + (int(v) & 1)));
}
kernel void reductions(device const int* x [[buffer(0)]], device int* out [[buffer(1)]],
    device const float* y [[buffer(2)]], device float* outf [[buffer(3)]], device const half* z [[buffer(4)]],
    device half* outh [[buffer(5)]], uint i [[thread_position_in_grid]], uint lane [[thread_index_in_simdgroup]])
{
    reduce(x, out, i);
    reduce(y, outf, i);
    reduce(z, outh, i);
}
"""
_BITWISE = """
kernel void bitwise(device const uint* x [[buffer(0)]], device uint* out [[buffer(1)]],
    uint i [[thread_position_in_grid]], uint lane [[thread_index_in_simdgroup]])
{
    uint v = x[i];
    out[i * 6] = simd_and(v);
    out[i * 6 + 1] = simd_or(v);
    out[i * 6 + 2] = simd_xor(v);
    out[i * 6 + 3] = uint(ulong(simd_ballot(v > 1000u)));
    out[i * 6 + 4] = (simd_any(v == 77u) ? 1u : 0u) | (simd_all(v < 5000u) ? 2u : 0u);
    out[i * 6 + 5] = simd_is_first() ? 1u : 0u;
}
"""
_SCAN = """
kernel void scans(device const int* x [[buffer(0)]], device int* out [[buffer(1)]], device float* outf [[buffer(2)]],
    uint i [[thread_position_in_grid]], uint lane [[thread_index_in_simdgroup]])
{
    out[i * 3] = simd_prefix_inclusive_sum(x[i]);
    out[i * 3 + 1] = simd_prefix_exclusive_sum(x[i]);
    out[i * 3 + 2] = simd_prefix_inclusive_product(lane < 5 ? 2 : 1);
    outf[i * 2] = simd_prefix_inclusive_sum(float(x[i]));
    outf[i * 2 + 1] = simd_prefix_exclusive_product(lane < 5 ? 2.0f : 1.0f);
}
"""
_SHUFFLE = """
kernel void shuffles(device const float* x [[buffer(0)]], device float* out [[buffer(1)]],
    device const int4* v [[buffer(2)]], device int4* outv [[buffer(3)]], device const half* h [[buffer(4)]],
    device half* outh [[buffer(5)]], uint i [[thread_position_in_grid]], uint lane [[thread_index_in_simdgroup]])
{
    float a = x[i];
    out[i * 6] = simd_broadcast(a, 7);
    out[i * 6 + 1] = simd_broadcast_first(a);
    out[i * 6 + 2] = simd_shuffle(a, ushort((lane * 5 + 3) % 32));
    out[i * 6 + 3] = simd_shuffle_xor(a, 9);
    float down = simd_shuffle_down(a, 4), up = simd_shuffle_up(a, 3);
    out[i * 6 + 4] = lane < 28 ? down : 0.0f;
    out[i * 6 + 5] = lane >= 3 ? up : 0.0f;
    outv[i] = simd_shuffle_xor(v[i], 1);
    outh[i] = simd_shuffle_xor(h[i], 16);
}
"""
_TWO_LEVELS = """
kernel void two_levels(device const float* x [[buffer(0)]], device float* out [[buffer(1)]],
    uint i [[thread_position_in_grid]], uint group [[threadgroup_position_in_grid]],
    uint lane [[thread_index_in_simdgroup]], uint warp [[simdgroup_index_in_threadgroup]],
    uint warps [[simdgroups_per_threadgroup]])
{
    threadgroup float part[32];
    float s = simd_sum(x[i]);
    if (lane == 0) { part[warp] = s; }
    threadgroup_barrier(mem_flags::mem_threadgroup);
    float t = simd_sum(lane < warps ? part[lane] : 0.0f);
    if (lane == 0 && warp == 0) { out[group] = t; }
}
"""
_NEIGHBOURS = """
kernel void ring(device const int* x [[buffer(0)]], device int* out [[buffer(1)]],
    uint i [[thread_position_in_grid]], uint lane [[thread_index_in_simdgroup]],
    uint warp [[simdgroup_index_in_threadgroup]])
{
    threadgroup int line[2][32];
    int v = x[i];
    for (int round = 0; round < 3; round++) {
        line[warp][lane] = v;
        simdgroup_barrier(mem_flags::mem_threadgroup);
        v = line[warp][(lane + 1) % 32] - v;
        simdgroup_barrier(mem_flags::mem_threadgroup);
    }
    out[i] = v;
}
"""


def _ints(low: int, high: int, seed: int, count: int = 96) -> np.ndarray[Any, Any]:
    return np.random.default_rng(seed).integers(low, high, count).astype(np.int32)


def _reductions(arguments: list[Any]) -> dict[int, torch.Tensor]:
    found = {}
    for source in (0, 2, 4):
        x = arguments[source].float().numpy().reshape(-1, 32)
        factor = np.where(x == 0, 1, 1 + (x.astype(np.int64) & 1))
        rows = np.stack([x.sum(1), x.max(1), x.min(1), factor.prod(1)], axis=1)
        found[source + 1] = torch.from_numpy(np.repeat(rows, 32, axis=0).reshape(-1)).to(arguments[source].dtype)
    return found


def _bits(arguments: list[Any]) -> dict[int, torch.Tensor]:
    x = arguments[0].numpy().view(np.uint32).reshape(-1, 32)
    ballot = ((x > 1000).astype(np.uint64) << np.arange(32, dtype=np.uint64)).sum(1).astype(np.uint32)
    votes = (x == 77).any(1) * 1 + (x < 5000).all(1) * 2
    columns = [np.bitwise_and.reduce(x, 1), np.bitwise_or.reduce(x, 1), np.bitwise_xor.reduce(x, 1), ballot, votes]
    rows = np.repeat(np.stack([c.astype(np.uint32) for c in columns], axis=1), 32, axis=0)
    first = (np.arange(x.size) % 32 == 0).astype(np.uint32)
    return {1: torch.from_numpy(np.column_stack([rows, first]).astype(np.uint32).view(np.int32).reshape(-1))}


def _scans(arguments: list[Any]) -> dict[int, torch.Tensor]:
    x = arguments[0].numpy().reshape(-1, 32)
    inclusive = x.cumsum(1)
    powers = np.broadcast_to(2 ** np.minimum(np.arange(1, 33), 5), x.shape)
    before = np.concatenate([np.ones((len(x), 1)), powers[:, :-1]], axis=1)
    whole = np.stack([inclusive, inclusive - x, powers], axis=-1).astype(np.int32)
    real = np.stack([inclusive, before], axis=-1).astype(np.float32)
    return {1: torch.from_numpy(whole.reshape(-1)), 2: torch.from_numpy(real.reshape(-1))}


def _shuffles(arguments: list[Any]) -> dict[int, torch.Tensor]:
    lane = np.arange(32)
    x = arguments[0].numpy().reshape(-1, 32)
    down = np.where(lane < 28, np.roll(x, -4, axis=1), 0)
    up = np.where(lane >= 3, np.roll(x, 3, axis=1), 0)
    broadcast = np.broadcast_to(x[:, 7:8], x.shape), np.broadcast_to(x[:, :1], x.shape)
    out = np.stack([*broadcast, x[:, (lane * 5 + 3) % 32], x[:, lane ^ 9], down, up], axis=-1)
    v = arguments[2].numpy().reshape(-1, 32, 4)[:, lane ^ 1]
    h = arguments[4].numpy().reshape(-1, 32)[:, lane ^ 16]
    return {
        1: torch.from_numpy(out.astype(np.float32).reshape(-1)),
        3: torch.from_numpy(np.ascontiguousarray(v).reshape(-1)),
        5: torch.from_numpy(np.ascontiguousarray(h).reshape(-1)),
    }


def _ring(arguments: list[Any]) -> dict[int, torch.Tensor]:
    v = arguments[0].numpy().reshape(-1, 32)
    for _ in range(3):
        v = np.roll(v, -1, axis=1) - v
    return {1: torch.from_numpy(v.reshape(-1).astype(np.int32))}


CASES = [
    MetalCase(
        "simd_sum, max, min, product of int, float, half",
        _REDUCE,
        "reductions",
        lambda: [
            torch.from_numpy(_ints(-50, 50, 1)),
            torch.zeros(384, dtype=torch.int32),
            torch.from_numpy(_ints(-60, 50, 2).astype(np.float32)),
            torch.zeros(384),
            torch.from_numpy(np.minimum(_ints(-40, 50, 3), 0 * _ints(0, 2, 3) + np.arange(96) % 14).astype(np.float16)),
            torch.zeros(384, dtype=torch.float16),
        ],
        _reductions,
        threads=96,
        group_size=96,
    ),
    MetalCase(
        "simd_and, or, xor, ballot, any, all, is_first",
        _BITWISE,
        "bitwise",
        lambda: [
            torch.from_numpy(np.concatenate([_ints(0, 4000, 4, 64), np.full(31, 9, np.int32), [77]]).astype(np.int32)),
            torch.zeros(576, dtype=torch.int32),
        ],
        _bits,
        threads=96,
        group_size=32,
    ),
    MetalCase(
        "simd prefix sums and products",
        _SCAN,
        "scans",
        lambda: [torch.from_numpy(_ints(-99, 99, 5)), torch.zeros(288, dtype=torch.int32), torch.zeros(192)],
        _scans,
        threads=96,
        group_size=96,
    ),
    MetalCase(
        "simd broadcasts and shuffles, of vectors and half too",
        _SHUFFLE,
        "shuffles",
        lambda: [
            torch.arange(64, dtype=torch.float32),
            torch.zeros(384),
            torch.arange(256, dtype=torch.int32),
            torch.zeros(256, dtype=torch.int32),
            torch.arange(64, dtype=torch.float16),
            torch.zeros(64, dtype=torch.float16),
        ],
        _shuffles,
        threads=64,
        group_size=64,
    ),
    MetalCase(
        "two-level reduction",
        _TWO_LEVELS,
        "two_levels",
        lambda: [torch.arange(1024, dtype=torch.float32) % 13, torch.zeros(4)],
        lambda given: {1: given[0].reshape(4, 256).sum(1)},
        threads=1024,
        group_size=256,
    ),
    MetalCase(
        "simdgroup_barrier orders threadgroup memory within a simdgroup",
        _NEIGHBOURS,
        "ring",
        lambda: [torch.from_numpy(_ints(-99, 99, 6, 128)), torch.zeros(128, dtype=torch.int32)],
        _ring,
        threads=128,
        group_size=64,
    ),
]
