// vision.nearest, version v2, second half: exact products where an estimate leaves doubt.
//
// The first half (filtered.py) estimates, for every query, the largest product in each block of keys and in each span of
// blocks. A block whose estimate is within `margin` of the best one may hold the winner; its products are summed here as
// version v1 does. One SIMD group per query: its lanes look through spans, then blocks, then keys. `index` and `score` hold
// the best of keys before these, which wins where products are equal, or 0x7fffffff and -infinity.
#include <metal_stdlib>
using namespace metal;

#ifndef WIDTH4
#define WIDTH4 6
#endif
#ifndef BLOCK
#define BLOCK 256
#endif
#define SPAN 32
#define GROUPS 4

kernel void recheck(
    device const float4* queries [[buffer(0)]],  // [n_queries, WIDTH4]
    device const float4* keys [[buffer(1)]],     // [n_keys, WIDTH4]
    device const half* fine [[buffer(2)]],       // [blocks, stride]
    device const half* coarse [[buffer(3)]],     // [ceil(blocks / SPAN), stride]
    device const float* lost [[buffer(4)]],      // [n_queries]: e_q of filtered.py
    device const float* reach [[buffer(5)]],     // [n_queries]: |q|
    device const float* bounds [[buffer(6)]],    // [2]: E_k and K
    device int* index [[buffer(7)]],             // [n_queries]
    device float* score [[buffer(8)]],           // [n_queries]
    constant int& n_queries [[buffer(9)]],
    constant int& n_keys [[buffer(10)]],
    constant int& blocks [[buffer(11)]],
    constant int& stride [[buffer(12)]],
    constant float& relative [[buffer(13)]],     // of sums and of storing
    constant int& offset [[buffer(14)]],         // the first key's number
    device const float* scale_q [[buffer(15)]],  // [1]: by what estimates' rows were multiplied
    device const float* scale_k [[buffer(16)]],  // [1]
    uint group [[threadgroup_position_in_grid]],
    uint simd [[simdgroup_index_in_threadgroup]],
    uint lane_ [[thread_index_in_simdgroup]])
{
    const int q = int(group) * GROUPS + int(simd), lane = int(lane_), spans = (blocks + SPAN - 1) / SPAN;
    if (q >= n_queries) return;  // a whole SIMD group
    float top = -INFINITY;
    for (int s = lane; s < spans; s += 32) top = max(top, float(coarse[ulong(s) * ulong(stride) + ulong(q)]));
    const float most_lost = bounds[0], most_reach = bounds[1];
    const float error = lost[q] * most_reach + reach[q] * most_lost + relative * reach[q] * most_reach;
    // Not a number where lengths leave float32's range: then nothing is less, and everything is looked at.
    const float slack = error + 1e-6f;  // subnormal sums: each of 17 roundings takes less than 2^-24
    float least = simd_max(top) - 2.0f * slack;
    // The lane that will write is the one that reads.
    float best = simd_broadcast_first(lane == 0 ? score[q] : 0.0f);
    int where = simd_broadcast_first(lane == 0 ? index[q] : 0);
    const float needed = best * scale_q[0] * scale_k[0] - slack;
    if (needed > least) least = needed;
    float4 mine[WIDTH4];
    for (int c = 0; c < WIDTH4; c++) mine[c] = queries[ulong(q) * WIDTH4 + c];
    for (int start = 0; start < spans; start += 32) {
        const int s = start + lane;
        const bool near = s < spans && !(float(coarse[ulong(min(s, spans - 1)) * ulong(stride) + ulong(q)]) < least);
        uint open = uint(simd_vote::vote_t(simd_ballot(near)));
        while (open != 0) {
            const int span = start + int(ctz(open));
            open &= open - 1;
            const int b = span * SPAN + lane;
            const bool holds = b < blocks && !(float(fine[ulong(min(b, blocks - 1)) * ulong(stride) + ulong(q)]) < least);
            uint left = uint(simd_vote::vote_t(simd_ballot(holds)));
            while (left != 0) {
                const int first = (span * SPAN + int(ctz(left))) * BLOCK;
                left &= left - 1;
                for (int k = first + lane; k < min(first + BLOCK, n_keys); k += 32) {
                    float4 sum = mine[0] * keys[ulong(k) * WIDTH4];
                    for (int c = 1; c < WIDTH4; c++) sum = fma(mine[c], keys[ulong(k) * WIDTH4 + c], sum);
                    const float product = (sum.x + sum.y) + (sum.z + sum.w);
                    if (product > best) {
                        best = product;
                        where = offset + k;
                    }
                }
            }
        }
    }
    const float most = simd_max(best);
    const int found = simd_min(best == most ? where : 0x7fffffff);  // of equal products the first key wins
    if (lane == 0) {
        index[q] = found == 0x7fffffff ? 0 : found;
        score[q] = most;
    }
}
