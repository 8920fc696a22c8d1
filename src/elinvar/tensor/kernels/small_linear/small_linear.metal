// relu?(x w' + bias) for 16-bit matrices so small that a product is all latency: the simdgroups of a threadgroup share
// the sum's terms between them, each fetches its own and begins when they are there, the next ones under way meanwhile,
// and bias and relu are added before the one rounding. Threads wait for each other once.
//
// T is half or bfloat. A threadgroup makes ROWS x COLUMNS of the result, each multiples of 8, from DEPTH terms at a time.
#include <metal_stdlib>
using namespace metal;

#ifndef T
#define T half
#endif
#ifndef ROWS
#define ROWS 16
#endif
#ifndef COLUMNS
#define COLUMNS 16
#endif
#ifndef DEPTH
#define DEPTH 256
#endif
#ifndef GROUP
#define GROUP 128
#endif
#ifndef ELINVAR_CUDA_EARLY
#define ELINVAR_CUDA_EARLY 1  // a third of its time would be the gap behind the launch before it
#endif
#define PARTS (GROUP / 32)    // simdgroups
#define SLAB (DEPTH / PARTS)  // terms that one simdgroup fetches at once
#define EIGHTS (SLAB / 8)     // of a row, one for a thread
#define DOWN (32 / EIGHTS)    // rows that a simdgroup fetches at once, a divisor of ROWS and COLUMNS
#define LOADS ((ROWS + COLUMNS) / DOWN)
#define STEP (SLAB + 8)      // of a row of operands, so that neighbours begin in different banks
#define WIDTH (COLUMNS + 8)  // of a row of sums, for the banks again
#define SPACE ((ROWS + COLUMNS) * STEP / 8)  // in units of 16 bytes: a simdgroup's operands, and its sums after them
#define PAIRS ((ROWS * COLUMNS / 2 + GROUP - 1) / GROUP)  // of neighbours in the result, for one thread at most

static_assert(ROWS * WIDTH * 4 <= SPACE * 16, "the sums fit where the operands were");

struct Size {
    uint m, n, k;  // k is a multiple of 8, rows lie one after the other
    uint has_bias, relu;
};

// This thread's part of a slab: eight terms from column `at` on, of every DOWN-th row of x and then of w.
inline void fetch(thread uint4 (&fetched)[LOADS], device const T* x_rows, device const T* w_rows, uint depth, uint at,
                  uint rows_left, uint columns_left, uint lane) {
#pragma unroll
    for (uint i = 0; i < LOADS; i++) {
        const bool from_x = i * DOWN < ROWS;
        const uint row = (from_x ? i * DOWN : i * DOWN - ROWS) + lane / EIGHTS;
        const bool inside = at < depth && row < (from_x ? rows_left : columns_left);
        device const T* source = (from_x ? x_rows : w_rows) + row * depth + at;
        fetched[i] = inside ? *(device const uint4*)source : uint4(0);
    }
}

kernel void small_linear(device const T* x      [[buffer(0)]],
                         device const T* w      [[buffer(1)]],
                         device const T* bias   [[buffer(2)]],
                         device T* y            [[buffer(3)]],
                         constant Size& size    [[buffer(4)]],
                         uint2 tile             [[threadgroup_position_in_grid]],
                         uint thread_           [[thread_index_in_threadgroup]],
                         uint lane              [[thread_index_in_simdgroup]],
                         uint part              [[simdgroup_index_in_threadgroup]])
{
    threadgroup uint4 memory[PARTS * SPACE];
    threadgroup uint4* mine = memory + part * SPACE;
    threadgroup const T* rows = (threadgroup const T*)mine;
    const uint top = tile.y * ROWS, left = tile.x * COLUMNS;
    const uint rows_left = size.m - top, columns_left = size.n - left;
    device const T* x_rows = x + ulong(top) * size.k;
    device const T* w_rows = w + ulong(left) * size.k;

    simdgroup_float8x8 sum[ROWS / 8][COLUMNS / 8];
    for (uint i = 0; i < ROWS / 8; i++)
        for (uint j = 0; j < COLUMNS / 8; j++) sum[i][j] = make_filled_simdgroup_matrix<float, 8, 8>(0.0f);

    uint4 fetched[LOADS];  // all under way before the first is stored, and the next ones while these are multiplied
    const uint first = part * SLAB + lane % EIGHTS * 8;
    fetch(fetched, x_rows, w_rows, size.k, first, rows_left, columns_left, lane);
    for (uint start = part * SLAB; start < size.k; start += DEPTH) {
        simdgroup_barrier(mem_flags::mem_threadgroup);  // what was stored before has been used
#pragma unroll
        for (uint i = 0; i < LOADS; i++) mine[(i * DOWN + lane / EIGHTS) * (STEP / 8) + lane % EIGHTS] = fetched[i];
        simdgroup_barrier(mem_flags::mem_threadgroup);
        if (start + DEPTH < size.k)
            fetch(fetched, x_rows, w_rows, size.k, start + DEPTH + lane % EIGHTS * 8, rows_left, columns_left, lane);
#pragma unroll
        for (uint at = 0; at < SLAB; at += 8) {
            simdgroup_matrix<T, 8, 8> a[ROWS / 8], b[COLUMNS / 8];
            for (uint i = 0; i < ROWS / 8; i++) simdgroup_load(a[i], rows + 8 * i * STEP + at, STEP);
            for (uint j = 0; j < COLUMNS / 8; j++)
                simdgroup_load(b[j], rows + (ROWS + 8 * j) * STEP + at, STEP, ulong2(0), true);
            for (uint i = 0; i < ROWS / 8; i++)
                for (uint j = 0; j < COLUMNS / 8; j++) simdgroup_multiply_accumulate(sum[i][j], a[i], b[j], sum[i][j]);
        }
    }
    float2 shift[PAIRS];  // fetched while the others are at work
#pragma unroll
    for (uint i = 0; i < PAIRS; i++) {
        const uint column = left + (i * GROUP + thread_) % (COLUMNS / 2) * 2;
        shift[i] = float2(size.has_bias && column < size.n ? float(bias[column]) : 0.0f,
                          size.has_bias && column + 1 < size.n ? float(bias[column + 1]) : 0.0f);
    }
    simdgroup_barrier(mem_flags::mem_threadgroup);
    for (uint i = 0; i < ROWS / 8; i++)
        for (uint j = 0; j < COLUMNS / 8; j++)
            simdgroup_store(sum[i][j], (threadgroup float*)mine + 8 * i * WIDTH + 8 * j, WIDTH);
    threadgroup_barrier(mem_flags::mem_threadgroup);

#pragma unroll
    for (uint i = 0; i < PAIRS; i++) {
        const uint number = i * GROUP + thread_;
        const uint row = number / (COLUMNS / 2), column = number % (COLUMNS / 2) * 2;
        if (row >= ROWS || top + row >= size.m || left + column >= size.n) continue;
        float2 total = float2(0.0f);
        for (uint k = 0; k < PARTS; k++)
            total += *(threadgroup const float2*)((threadgroup const float*)(memory + k * SPACE) + row * WIDTH + column);
        total += shift[i];
        if (size.relu) {
            total.x = total.x > 0.0f || total.x != total.x ? total.x : 0.0f;
            total.y = total.y > 0.0f || total.y != total.y ? total.y : 0.0f;
        }
        device T* target = y + ulong(top + row) * size.n + left + column;
        if (size.n % 2 == 0) {
            *(device uint*)target = as_type<uint>(vec<T, 2>(total));
        } else {
            target[0] = T(total.x);
            if (left + column + 1 < size.n) target[1] = T(total.y);
        }
    }
}
