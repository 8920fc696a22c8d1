"""Metal text around a chain's ``pixel`` function: a kernel to planes and two to codes."""

from __future__ import annotations

from functools import cache
from pathlib import Path

__all__ = ["GROUP", "kernels", "words"]

GROUP = 128
"""Threads per group of ``shade_yuv420``, along a row: one column pair each."""

_KERNELS = """
kernel void shade_planes(ARRAYS,
    constant float* F [[buffer(B0)]], constant int* I [[buffer(B1)]], device float* out [[buffer(B2)]],
    constant int& w [[buffer(B3)]], constant int& h [[buffer(B4)]], uint2 at [[thread_position_in_grid]])
{
    const int ix = int(at.x), iy = int(at.y), o = iy * w + ix, n = w * h;
    const float3 c = pixel(CALL, F, I, ix, iy, w, h);
    out[o] = c.x;
    out[n + o] = c.y;
    out[2 * n + o] = c.z;
}

// Chroma at full or half width on every row; one thread per chroma sample, luma written beside it.
kernel void shade_yuv444(ARRAYS,
    constant float* F [[buffer(B0)]], constant int* I [[buffer(B1)]], device WORD* luma_out [[buffer(B2)]],
    constant int& w [[buffer(B3)]], constant int& h [[buffer(B4)]], device WORD* cb_out [[buffer(B5)]],
    device WORD* cr_out [[buffer(B6)]], constant float* k [[buffer(B7)]], constant int& seed [[buffer(B8)]],
    constant int& shift [[buffer(B9)]], uint2 at [[thread_position_in_grid]])
{
    const int ix = int(at.x), iy = int(at.y), o = iy * w + ix;
    const float3 c = pixel(CALL, F, I, ix, iy, w, h);
    const float luma = luma_of(c, k);
    const float2 d = difference(c, luma, k);
    luma_out[o] = WORD(luma_code(luma, k, ix, iy, seed, shift));
    cb_out[o] = WORD(chroma_code(d.x, k, ix, iy, seed + 1, shift));
    cr_out[o] = WORD(chroma_code(d.y, k, ix, iy, seed + 2, shift));
}

// One thread per chroma sample and its 2 x 2 pixels. Siting 0: co-sited with the left column, 1: centred, 2: with the
// upper left pixel. The column to the left comes from the neighbour, the first thread of a group computes its own.
kernel void shade_yuv420(ARRAYS,
    constant float* F [[buffer(B0)]], constant int* I [[buffer(B1)]], device WORD* luma_out [[buffer(B2)]],
    constant int& w [[buffer(B3)]], constant int& h [[buffer(B4)]], device WORD* cb_out [[buffer(B5)]],
    device WORD* cr_out [[buffer(B6)]], constant float* k [[buffer(B7)]], constant int& seed [[buffer(B8)]],
    constant int& shift [[buffer(B9)]], constant int& siting [[buffer(B10)]], constant int& pitch [[buffer(B11)]],
    uint2 at [[thread_position_in_grid]], uint2 inside [[thread_position_in_threadgroup]])
{
    threadgroup float2 right[GROUP];
    const int column = int(at.x), row = int(at.y), lane = int(inside.x);
    const bool live = 2 * column < w;
    float2 left_sum = float2(0.0f), right_sum = float2(0.0f), before = float2(0.0f);
    const int first = siting == 2 ? -1 : 0;
    if (live) {
        for (int d = first; d < 2; d++) {
            const int iy = clamp(2 * row + d, 0, h - 1);
            const float weight = siting == 2 ? (d == 0 ? 0.5f : 0.25f) : 0.5f;
            for (int e = 0; e < 2; e++) {
                const int ix = min(2 * column + e, w - 1);
                const float3 c = pixel(CALL, F, I, ix, iy, w, h);
                const float luma = luma_of(c, k);
                if (d >= 0 && 2 * row + d < h && 2 * column + e < w) {
                    luma_out[iy * w + ix] = WORD(luma_code(luma, k, ix, iy, seed, shift));
                }
                const float2 part = weight * difference(c, luma, k);
                if (e == 0) left_sum += part; else right_sum += part;
            }
        }
        right[lane] = right_sum;
    }
    threadgroup_barrier(mem_flags::mem_threadgroup);
    if (!live) return;
    if (siting != 1 && lane > 0) {
        before = right[lane - 1];
    } else if (siting != 1) {
        for (int d = first; d < 2; d++) {
            const int iy = clamp(2 * row + d, 0, h - 1);
            const float weight = siting == 2 ? (d == 0 ? 0.5f : 0.25f) : 0.5f;
            const float3 c = pixel(CALL, F, I, max(2 * column - 1, 0), iy, w, h);
            before += weight * difference(c, luma_of(c, k), k);
        }
    }
    const float2 value = siting == 1 ? 0.5f * (left_sum + right_sum) : 0.25f * (before + right_sum) + 0.5f * left_sum;
    const int o = row * pitch * ((w + 1) / 2) + column * pitch;
    cb_out[o] = WORD(chroma_code(value.x, k, column, row, seed + 1, shift));
    cr_out[o] = WORD(chroma_code(value.y, k, column, row, seed + 2, shift));
}
"""


@cache
def words() -> str:
    """Return the functions passes are written in."""
    return Path(__file__).with_name("words.h").read_text(encoding="ascii")


def kernels(arrays: str, call: str, first: int) -> str:
    """Return the kernels of a chain.

    Parameters
    ----------
    arrays, call
        The device arrays as parameters, and as arguments of ``pixel``.
    first
        Index of the first buffer behind them.
    """
    text = _KERNELS.replace("ARRAYS", arrays).replace("CALL", call).replace("[GROUP]", f"[{GROUP}]")
    for index in reversed(range(12)):
        text = text.replace(f"buffer(B{index})", f"buffer({first + index})")
    return text
