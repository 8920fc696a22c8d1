// vision.nearest, version v2, first half: the largest product of each query in each block of keys, estimated from rows
// rounded to half; with BOTH also the largest product of each key in each block of queries, from the same products.
//
// A simdgroup keeps MINE queries as matrices and meets keys eight at a time. What it does with the products it does to
// every element alike, so that it need not know which lane holds which: the maxima over keys, and those over its own
// queries, become matrices, and their rows are compared where they lie in threadgroup memory.
#include <metal_stdlib>
using namespace metal;

#ifndef WIDTH
#define WIDTH 24  // channels, a multiple of 8
#endif
#ifndef TILES
#define TILES 16  // eights of queries of a simdgroup
#endif
#ifndef STAGE
#define STAGE 256  // keys in threadgroup memory at once
#endif
#ifndef ABREAST
#define ABREAST (TILES < 8 ? TILES : 8)  // sums under way at once: each waits for its last product
#endif
// // sums under way at once: each waits for its last product
#ifndef SUM
#define SUM float  // of products; half is faster and rounds after every eight channels
#endif
#ifndef BOTH
#define BOTH 1
#endif
#define SIMDS 4
#define BLOCK 256  // keys with one estimate
#define SPAN 32    // blocks with one estimate of their best
#define MINE (8 * TILES)
#define TOGETHER (TILES == 16 ? 2 : 4)          // simdgroups whose queries are one block of them
#define ROW (WIDTH + (WIDTH % 16 == 0 ? 8 : 0))  // eight rows begin in different banks
#define LINE (MINE + 8)
#define ROOM (STAGE * ROW > SIMDS * 8 * LINE ? STAGE * ROW : SIMDS * 8 * LINE)

struct Sizes {
    int blocks;       // of keys
    int stride;       // of rows of `fine` and `coarse`, a multiple of 4
    int back_stride;  // of rows of `back`, a multiple of 2
};

kernel void estimate(device const half* queries  [[buffer(0)]],  // [groups * SIMDS * MINE, WIDTH]
                     device const half* keys     [[buffer(1)]],  // [blocks * BLOCK, WIDTH], rows at multiples of 16 bytes
                     device half* fine           [[buffer(2)]],  // [blocks, stride]
                     device half* coarse         [[buffer(3)]],  // [ceil(blocks / SPAN), stride]
                     device half* back           [[buffer(4)]],  // [groups * SIMDS / TOGETHER, back_stride]
                     constant Sizes& sizes       [[buffer(5)]],
                     uint2 place                 [[threadgroup_position_in_grid]],
                     uint thread_                [[thread_index_in_threadgroup]],
                     uint simd_                  [[simdgroup_index_in_threadgroup]],
                     uint lane_                  [[thread_index_in_simdgroup]])
{
    threadgroup uint4 memory[ROOM / 8];
    threadgroup half* shared = (threadgroup half*)memory;
#if BOTH
    threadgroup half4 reached[SIMDS * BLOCK * 2];  // eight maxima of each key's products with a simdgroup's queries
#endif
    const int simd = int(simd_), lane = int(lane_), thread_index = int(thread_);
    const int first = (int(place.x) * SIMDS + simd) * MINE;
    simdgroup_half8x8 mine[TILES][WIDTH / 8];
    simdgroup_half8x8 best[TILES];
#pragma unroll
    for (int t = 0; t < TILES; t++) {
#pragma unroll
        for (int k = 0; k < WIDTH / 8; k++)
            simdgroup_load(mine[t][k], queries + ulong(first + 8 * t) * WIDTH + 8 * k, WIDTH, ulong2(0), true);
    }
    half4 top = half4(half(-INFINITY));  // of four queries of this lane
    const int begin = int(place.y) * SPAN, end = min(begin + SPAN, sizes.blocks);
    for (int block = begin; block < end; block++) {
#pragma unroll
        for (int t = 0; t < TILES; t++) best[t] = make_filled_simdgroup_matrix<half, 8, 8>(half(-INFINITY));
        for (int stage = 0; stage < BLOCK; stage += STAGE) {
            threadgroup_barrier(mem_flags::mem_threadgroup);
            device const uint4* source = (device const uint4*)keys + ulong(block * BLOCK + stage) * (WIDTH / 8);
#pragma unroll
            for (int i = thread_index; i < STAGE * (WIDTH / 8); i += SIMDS * 32)
                memory[i / (WIDTH / 8) * (ROW / 8) + i % (WIDTH / 8)] = source[i];
            threadgroup_barrier(mem_flags::mem_threadgroup);
#pragma unroll 1
            for (int key = 0; key < STAGE; key += 8) {
                simdgroup_half8x8 theirs[WIDTH / 8];
#pragma unroll
                for (int k = 0; k < WIDTH / 8; k++) simdgroup_load(theirs[k], shared + key * ROW + 8 * k, ROW);
                half2 most = half2(half(-INFINITY));
#pragma unroll
                for (int t = 0; t < TILES; t += ABREAST) {
                    simdgroup_matrix<SUM, 8, 8> sum[ABREAST];
#pragma unroll
                    for (int i = 0; i < ABREAST; i++) sum[i] = make_filled_simdgroup_matrix<SUM, 8, 8>(SUM(0.0f));
#pragma unroll
                    for (int k = 0; k < WIDTH / 8; k++) {
#pragma unroll
                        for (int i = 0; i < ABREAST; i++)
                            simdgroup_multiply_accumulate(sum[i], theirs[k], mine[t + i][k], sum[i]);
                    }
#pragma unroll
                    for (int i = 0; i < ABREAST; i++) {
                        const half2 rounded = half2(sum[i].thread_elements());
                        best[t + i].thread_elements() = max(best[t + i].thread_elements(), rounded);
                        most = max(most, rounded);
                    }
                }
#if BOTH
                simdgroup_half8x8 rounded;
                rounded.thread_elements() = most;
                simdgroup_store(rounded, (threadgroup half*)reached + (simd * BLOCK + stage + key) * 8, 8);
#endif
            }
        }
        threadgroup_barrier(mem_flags::mem_threadgroup);
        threadgroup half* lines = shared + simd * 8 * LINE;
#pragma unroll
        for (int t = 0; t < TILES; t++) {
            simdgroup_store(best[t], lines + 8 * t, LINE);
        }
        simdgroup_barrier(mem_flags::mem_threadgroup);
        if (lane < MINE / 4) {
            half4 most = *(threadgroup const half4*)(lines + 4 * lane);
            for (int row = 1; row < 8; row++) most = max(most, *(threadgroup const half4*)(lines + row * LINE + 4 * lane));
            *(device half4*)(fine + ulong(block) * ulong(sizes.stride) + ulong(first + 4 * lane)) = most;
            top = max(top, most);
        }
#if BOTH
        for (int part = 0; part < SIMDS / TOGETHER; part++) {
            half4 one = half4(half(-INFINITY)), two = one;  // for two keys that lie side by side
            for (int s = part * TOGETHER; s < (part + 1) * TOGETHER; s++) {
                threadgroup const half4* row = reached + (s * BLOCK + 2 * thread_index) * 2;
                one = max(one, max(row[0], row[1]));
                two = max(two, max(row[2], row[3]));
            }
            const int line = int(place.x) * (SIMDS / TOGETHER) + part;
            *(device half2*)(back + ulong(line) * ulong(sizes.back_stride) + ulong(block * BLOCK + 2 * thread_index)) =
                half2(max(max(one.x, one.y), max(one.z, one.w)), max(max(two.x, two.y), max(two.z, two.w)));
        }
#endif
    }
    if (lane < MINE / 4) *(device half4*)(coarse + ulong(place.y) * ulong(sizes.stride) + ulong(first + 4 * lane)) = top;
}

kernel void spans(device const half2* fine [[buffer(0)]],  // [rows, pairs]
                  device half2* out        [[buffer(1)]],  // [ceil(rows / SPAN), pairs]: the largest of SPAN rows
                  constant int& rows       [[buffer(2)]],
                  uint2 position           [[thread_position_in_grid]],
                  uint2 size               [[threads_per_grid]])
{
    const int first = int(position.y) * SPAN, last = min(first + SPAN, rows);
    half2 most = fine[ulong(first) * size.x + position.x];
    for (int row = first + 1; row < last; row++) most = max(most, fine[ulong(row) * size.x + position.x]);
    out[ulong(position.y) * size.x + position.x] = most;
}
