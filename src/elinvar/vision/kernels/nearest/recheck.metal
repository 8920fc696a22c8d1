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
#ifndef SPAN
#define SPAN 32
#endif

kernel void recheck(
    device const float4* queries [[buffer(0)]],  // [n_queries, WIDTH4]
    device const float4* keys [[buffer(1)]],     // [n_keys, WIDTH4]
    device const half* fine [[buffer(2)]],       // [blocks, stride]
    device const half* coarse [[buffer(3)]],     // [blocks / SPAN, stride]: the largest of SPAN blocks
    device const float* margin [[buffer(4)]],    // [n_queries]
    device int* index [[buffer(5)]],             // [n_queries]
    device float* score [[buffer(6)]],           // [n_queries]
    constant int& n_keys [[buffer(7)]],
    constant int& blocks [[buffer(8)]],
    constant int& stride [[buffer(9)]],
    uint position [[thread_position_in_grid]])
{
    const int q = int(position), spans = (blocks + SPAN - 1) / SPAN;
    float top = -INFINITY;
    for (int s = 0; s < spans; s++) top = max(top, float(coarse[ulong(s) * ulong(stride) + ulong(q)]));
    const float least = top - margin[q];
    float4 mine[WIDTH4];
    for (int c = 0; c < WIDTH4; c++) mine[c] = queries[ulong(q) * WIDTH4 + c];
    float best = -INFINITY;
    int where = 0;
    for (int s = 0; s < spans; s++) {
        if (float(coarse[ulong(s) * ulong(stride) + ulong(q)]) < least) continue;
        for (int b = s * SPAN; b < min((s + 1) * SPAN, blocks); b++) {
            if (float(fine[ulong(b) * ulong(stride) + ulong(q)]) < least) continue;
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
    }
    index[q] = where;
    score[q] = best;
}
