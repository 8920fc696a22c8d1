// vision.nearest, version v2, second half: exact products where an estimate leaves doubt.
//
// The first half (filtered.py) estimates, for every query, the largest product in each block of keys. A block whose
// estimate is within `margin` of the best one may hold the winner; its products are summed here as version v1 does.
#include <metal_stdlib>
using namespace metal;

#ifndef WIDTH4
#define WIDTH4 6
#endif
#ifndef BLOCK
#define BLOCK 128
#endif

kernel void recheck(
    device const float4* queries [[buffer(0)]],  // [n_queries, WIDTH4]
    device const float4* keys [[buffer(1)]],     // [n_keys, WIDTH4]
    device const half* estimates [[buffer(2)]],  // [blocks, stride]
    device const float* margin [[buffer(3)]],    // [n_queries]
    device int* index [[buffer(4)]],             // [n_queries]
    device float* score [[buffer(5)]],           // [n_queries]
    constant int& n_keys [[buffer(6)]],
    constant int& blocks [[buffer(7)]],
    constant int& stride [[buffer(8)]],
    uint position [[thread_position_in_grid]])
{
    const int q = int(position);
    float top = -INFINITY;
    for (int b = 0; b < blocks; b++) top = max(top, float(estimates[ulong(b) * ulong(stride) + ulong(q)]));
    const float least = top - margin[q];
    float4 mine[WIDTH4];
    for (int c = 0; c < WIDTH4; c++) mine[c] = queries[ulong(q) * WIDTH4 + c];
    float best = -INFINITY;
    int where = 0;
    for (int b = 0; b < blocks; b++) {
        if (float(estimates[ulong(b) * ulong(stride) + ulong(q)]) < least) continue;
        const int last = min((b + 1) * BLOCK, n_keys);
        for (int k = b * BLOCK; k < last; k++) {
            float4 sum = mine[0] * keys[ulong(k) * WIDTH4];
            for (int c = 1; c < WIDTH4; c++) sum = fma(mine[c], keys[ulong(k) * WIDTH4 + c], sum);
            const float product = (sum.x + sum.y) + (sum.z + sum.w);
            if (product > best) {
                best = product;
                where = k;
            }
        }
    }
    index[q] = where;
    score[q] = best;
}
