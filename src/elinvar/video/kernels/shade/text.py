"""Metal text around a chain's functions: a kernel to planes and two to codes.

All three are walked by pairs of columns: a thread owns two pixels beside each other and goes down some pairs of rows.
So frames are read two samples at a time, half-resolution inputs are read once per four pixels, and what depends on the
column alone is computed once.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

__all__ = ["COLUMNS", "DEFINES", "GROUP", "KERNELS", "kernel", "resident", "turns", "words"]

GROUP = 64
"""Threads per group, along a row."""
COLUMNS = 31
"""Pairs of columns a simdgroup of ``shade_yuv`` makes; its first lane brings the pair on the left."""

_PLANES = """
[[max_total_threads_per_threadgroup(@GROUP)]] kernel void shade_planes(ARRAYS,
    constant float* F [[buffer(B0)]], constant int* I [[buffer(B1)]], device float* out [[buffer(B2)]],
    constant int& w [[buffer(B3)]], constant int& h [[buffer(B4)]], constant int& units [[buffer(B5)]],
    uint2 at [[thread_position_in_grid]])
{
    const int column = int(at.x), ix = 2 * column, first = int(at.y) * units, n = w * h;
    if (ix >= w) return;
    const Values v = values(F, I);
    Cell cells[CELLS];
    for (int i = 0; i < CELLS; i++) cells[i].i = cells[i].j = -2147483647;
    Halves before = halves(CALL, column, first - 1, w, h), here = halves(CALL, column, first, w, h);
    for (int unit = first; unit < first + units && 2 * unit < h; unit++) {
        const Halves next = halves(CALL, column, unit + 1, w, h);
        Taken rows[2];
        Spots spots[2];
#pragma unroll
        for (int d = 0; d < 2; d++) rows[d] = taken(CALL, column, min(2 * unit + d, h - 1), w, h);
#pragma unroll
        for (int d = 0; d < 2; d++) spots[d] = spotted(v, cells, column, min(2 * unit + d, h - 1), w, h);
#pragma unroll
        for (int d = 0; d < 2; d++) {
            const int iy = 2 * unit + d, o = iy * w + ix;
            if (iy >= h) break;
            const Pair c = shaded(CALL, rows[d], spots[d], here, d == 0 ? before : next, v, cells, column, iy, w, h);
            put(out + o, c.a.x, c.b.x, ix + 1 < w);
            put(out + n + o, c.a.y, c.b.y, ix + 1 < w);
            put(out + 2 * n + o, c.a.z, c.b.z, ix + 1 < w);
        }
        before = here;
        here = next;
    }
}
"""

_YUV444 = """
[[max_total_threads_per_threadgroup(@GROUP)]] kernel void shade_yuv444(ARRAYS,
    constant float* F [[buffer(B0)]], constant int* I [[buffer(B1)]], device WORD* luma_out [[buffer(B2)]],
    constant int& w [[buffer(B3)]], constant int& h [[buffer(B4)]], constant int& units [[buffer(B5)]],
    device WORD* cb_out [[buffer(B6)]], device WORD* cr_out [[buffer(B7)]], constant Coding& k [[buffer(B8)]],
    uint2 at [[thread_position_in_grid]])
{
    const int column = int(at.x), ix = 2 * column, first = int(at.y) * units, seed = DITHER ? I[0] : 0;
    if (ix >= w) return;
    const Values v = values(F, I);
    Cell cells[CELLS];
    for (int i = 0; i < CELLS; i++) cells[i].i = cells[i].j = -2147483647;
    const bool right = ix + 1 < w;
    Halves before = halves(CALL, column, first - 1, w, h), here = halves(CALL, column, first, w, h);
    for (int unit = first; unit < first + units && 2 * unit < h; unit++) {
        const Halves next = halves(CALL, column, unit + 1, w, h);
        Taken rows[2];
        Spots spots[2];
#pragma unroll
        for (int d = 0; d < 2; d++) rows[d] = taken(CALL, column, min(2 * unit + d, h - 1), w, h);
#pragma unroll
        for (int d = 0; d < 2; d++) spots[d] = spotted(v, cells, column, min(2 * unit + d, h - 1), w, h);
#pragma unroll
        for (int d = 0; d < 2; d++) {
            const int iy = 2 * unit + d, o = iy * w + ix;
            if (iy >= h) break;
            const Pair c = shaded(CALL, rows[d], spots[d], here, d == 0 ? before : next, v, cells, column, iy, w, h);
            const float la = luma_of(c.a, k), lb = luma_of(c.b, k);
            const float2 da = difference(c.a, la), db = difference(c.b, lb);
            put(luma_out + o, WORD(luma_code(la, k, ix, iy, seed)), WORD(luma_code(lb, k, ix + 1, iy, seed)), right);
            put(cb_out + o, WORD(chroma_code(da.x, k.cb, k, ix, iy, seed + 1)),
                WORD(chroma_code(db.x, k.cb, k, ix + 1, iy, seed + 1)), right);
            put(cr_out + o, WORD(chroma_code(da.y, k.cr, k, ix, iy, seed + 2)),
                WORD(chroma_code(db.y, k.cr, k, ix + 1, iy, seed + 2)), right);
        }
        before = here;
        here = next;
    }
}
"""

_YUV = """
// Half as many chroma columns as pixels, and with DOWN == 2 half as many rows. SITING 0: co-sited with the left column,
// 1: centred, 2: with the upper left pixel. Samples to the left come from the lane before, whose first has no other
// task; samples above stay from the row before.
[[max_total_threads_per_threadgroup(@GROUP)]] kernel void shade_yuv(ARRAYS,
    constant float* F [[buffer(B0)]], constant int* I [[buffer(B1)]], device WORD* luma_out [[buffer(B2)]],
    constant int& w [[buffer(B3)]], constant int& h [[buffer(B4)]], constant int& units [[buffer(B5)]],
    device WORD* cb_out [[buffer(B6)]], device WORD* cr_out [[buffer(B7)]], constant Coding& k [[buffer(B8)]],
    uint2 at [[thread_position_in_grid]])
{
    const int lane = int(at.x) & 31, column = (int(at.x) >> 5) * @COLUMNS + lane - 1, columns = (w + 1) / 2;
    const int ix = 2 * column, first = int(at.y) * units, seed = DITHER ? I[0] : 0;
    if (column - lane >= columns) return;
    const Values v = values(F, I);
    Cell cells[CELLS];
    for (int i = 0; i < CELLS; i++) cells[i].i = cells[i].j = -2147483647;
    const bool live = lane > 0 && column < columns, right = ix + 1 < w, above = SITING == 2 && DOWN == 2;
    // Sums of rows, weighted 1 1 or 1 2 1, and of columns, 1 2 1 or 2 2; their scale, a power of two, is in the gain.
    const float2 gain = float2(k.cb, k.cr) * (DOWN == 1 ? 0.25f : above ? 0.0625f : 0.125f);
    float2 left_sum = float2(0.0f), right_sum = float2(0.0f);
    Halves before = halves(CALL, column, first - 1, w, h), here = halves(CALL, column, first, w, h);
    if (above) {
        const int iy = max(2 * first - 1, 0);
        const Taken row = taken(CALL, column, iy, w, h);
        const Spots spot = spotted(v, cells, column, iy, w, h);
        const Pair c = first > 0 ? shaded(CALL, row, spot, before, here, v, cells, column, iy, w, h)
                                 : shaded(CALL, row, spot, here, before, v, cells, column, iy, w, h);
        left_sum = difference(c.a, luma_of(c.a, k));
        right_sum = difference(c.b, luma_of(c.b, k));
    }
#pragma unroll @TURNS
    for (int unit = first; unit < first + units && 2 * unit < h; unit++) {
        // Behind an odd last row comes itself once more, and so the row that it is doubled with.
        const Halves next = halves(CALL, column, 2 * unit + 1 < h ? unit + 1 : unit - 1, w, h);
        Taken rows[2];
        Spots spots[2];
#pragma unroll
        for (int d = 0; d < 2; d++) rows[d] = taken(CALL, column, min(2 * unit + d, h - 1), w, h);
#pragma unroll
        for (int d = 0; d < 2; d++) spots[d] = spotted(v, cells, column, min(2 * unit + d, h - 1), w, h);
#pragma unroll
        for (int d = 0; d < 2; d++) {
            const int iy = d == 0 ? 2 * unit : min(2 * unit + 1, h - 1);
            const Pair c = shaded(CALL, rows[d], spots[d], here, d == 0 ? before : next, v, cells, column, iy, w, h);
            const float la = luma_of(c.a, k), lb = luma_of(c.b, k);
            const bool inside = live && 2 * unit + d < h;
            if (inside) {
                put(luma_out + (iy * w + ix), WORD(luma_code(la, k, ix, iy, seed)),
                    WORD(luma_code(lb, k, ix + 1, iy, seed)), right);
            }
            const float2 dl = difference(c.a, la), dr = difference(c.b, lb);
            const float weight = above && d == 0 ? 2.0f : 1.0f;
            left_sum = DOWN == 1 || (!above && d == 0) ? dl : left_sum + weight * dl;
            right_sum = DOWN == 1 || (!above && d == 0) ? dr : right_sum + weight * dr;
            if (DOWN == 2 && d == 0) continue;
            // With pairs, the pair on the left of the frame is the first pair: its pixels should both be the first.
            const float2 earlier = simd_shuffle_up(wide && column < 0 ? left_sum : right_sum, 1);
            const float2 value = SITING == 1 ? 2.0f * (left_sum + right_sum)
                                             : fma(2.0f, left_sum, earlier + right_sum);
            const int row = DOWN == 1 ? 2 * unit + d : unit, o = row * columns + column;
            if (DOWN == 1 ? inside : live) {
                const WORD cb = WORD(chroma_code(value.x, gain.x, k, column, row, seed + 1));
                const WORD cr = WORD(chroma_code(value.y, gain.y, k, column, row, seed + 2));
                if (PITCH == 2) {
                    put(cb_out + 2 * o, cb, cr, true);
                } else {
                    cb_out[o] = cb;
                    cr_out[o] = cr;
                }
            }
            left_sum = dl;
            right_sum = dr;
        }
        before = here;
        here = next;
    }
}
"""


KERNELS = {"shade_planes": _PLANES, "shade_yuv444": _YUV444, "shade_yuv": _YUV}
DEFINES = {
    "WORD": "uchar",
    "WIDE": 0,
    "DITHER": 0,
    "SITING": 0,
    "DOWN": 2,
    "PITCH": 1,
    "SHIFT": 0,
    "ELINVAR_CUDA_GROUPS": 12,
}
"""What the text leaves open, with values for the case that nobody says: the type of codes, whether all rows are aligned
pairs, and how codes are made: noise, siting, rows per chroma sample, words from one chroma sample to the next, bits to
shift; on NVIDIA GPUs, groups that shall fit a multiprocessor."""


def resident(passes: int) -> int:
    """Return how many groups of a chain shall fit a multiprocessor of an NVIDIA GPU: more, and its registers spill."""
    return 14 if passes <= 6 else 12 if passes <= 12 else 10


def turns(passes: int) -> int:
    """Return how many pairs of rows ``shade_yuv`` works on in one turn of its loop.

    With two, what one pair leaves for the next stays where it is; the text of a long chain is too long for that.
    """
    return 2 if passes <= 6 else 1


@cache
def words() -> str:
    """Return the functions passes are written in."""
    defaults = "".join(f"#ifndef {name}\n#define {name} {value}\n#endif\n" for name, value in DEFINES.items())
    return defaults + Path(__file__).with_name("words.h").read_text(encoding="ascii")


def kernel(name: str, arrays: str, call: str, first: int, passes: int) -> str:
    """Return one of `KERNELS` for a chain.

    Parameters
    ----------
    name
        Which.
    arrays, call
        The device arrays as parameters, and as arguments of ``halves`` and ``shaded``.
    first
        Index of the first buffer behind them.
    passes
        How many the chain has.
    """
    text = KERNELS[name].replace("ARRAYS", arrays).replace("CALL", call)
    text = text.replace("@COLUMNS", str(COLUMNS)).replace("@GROUP", str(GROUP)).replace("@TURNS", str(turns(passes)))
    for index in reversed(range(9)):
        text = text.replace(f"buffer(B{index})", f"buffer({first + index})")
    return text
