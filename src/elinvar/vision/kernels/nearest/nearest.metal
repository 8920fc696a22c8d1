// vision.nearest, version v1: one query per thread, tiles of keys in threadgroup memory, running maximum in registers.
//
// WIDTH4 is the number of channels over four; rows are padded with zeros. A group looks through one slice of the keys;
// the slices' winners are compared by metal.py, the first slice winning ties.
#include <metal_stdlib>
using namespace metal;

#ifndef WIDTH4
#define WIDTH4 6
#endif
#define GROUP 128
#define TILE 64

kernel void nearest(
    device const float4* queries [[buffer(0)]],   // [n_queries, WIDTH4]
    device const float4* keys [[buffer(1)]],      // [n_keys, WIDTH4]
    device int* index [[buffer(2)]],              // [slices, n_queries]
    device float* score [[buffer(3)]],            // [slices, n_queries]
    constant int& n_queries [[buffer(4)]],
    constant int& n_keys [[buffer(5)]],
    constant int& slice [[buffer(6)]],            // keys per slice
    uint2 position [[thread_position_in_grid]],
    uint2 local [[thread_position_in_threadgroup]])
{
    threadgroup float4 tile[TILE * WIDTH4];
    const int q = int(position.x), lane = int(local.x);
    const int first = int(position.y) * slice, last = min(first + slice, n_keys);
    float4 mine[WIDTH4];
    for (int c = 0; c < WIDTH4; c++) mine[c] = queries[min(q, n_queries - 1) * WIDTH4 + c];
    float best = -INFINITY;
    int where = first;
    for (int start = first; start < last; start += TILE) {
        const int count = min(TILE, last - start);
        threadgroup_barrier(mem_flags::mem_threadgroup);
        for (int k = lane; k < count * WIDTH4; k += GROUP) tile[k] = keys[ulong(start) * WIDTH4 + ulong(k)];
        threadgroup_barrier(mem_flags::mem_threadgroup);
        for (int k = 0; k < count; k++) {
            float4 sum = mine[0] * tile[k * WIDTH4];
            for (int c = 1; c < WIDTH4; c++) sum = fma(mine[c], tile[k * WIDTH4 + c], sum);
            const float product = (sum.x + sum.y) + (sum.z + sum.w);
            if (product > best) {
                best = product;
                where = start + k;
            }
        }
    }
    if (q < n_queries) {
        index[int(position.y) * n_queries + q] = where;
        score[int(position.y) * n_queries + q] = best;
    }
}
