// relu?(x w' + bias) for 16-bit matrices so small that a product is all latency: every threadgroup fetches the rows it
// needs at once, its simdgroups share the sum's terms between them, and bias and relu are added before the one rounding.
//
// T is half or bfloat. A threadgroup makes ROWS x COLUMNS of the result, each multiples of 16, from DEPTH terms at a time.
#include <metal_stdlib>
using namespace metal;

#ifndef T
#define T half
#endif
#ifndef ROWS
#define ROWS 32
#endif
#ifndef COLUMNS
#define COLUMNS 16
#endif
#ifndef DEPTH
#define DEPTH 256
#endif
#ifndef GROUP
#define GROUP 256
#endif
#define TILES (ROWS / 16 * (COLUMNS / 16))
#define PARTS (GROUP / 32 / TILES)  // simdgroups that share one 16 x 16 tile's terms
#define STEP (DEPTH + 8)            // rows of threadgroup memory begin in different banks
#define EIGHTS (DEPTH / 8)
#define DOWN (GROUP / EIGHTS)  // rows that the group fetches at once, a divisor of ROWS
#define LOADS ((ROWS + COLUMNS) * EIGHTS / GROUP)
#define PAIRS ((ROWS * COLUMNS / 2 + GROUP - 1) / GROUP)  // of neighbours in the result, for one thread
#define WIDTH (COLUMNS + 4)  // of a row of sums, for the banks again

struct Size {
    uint m, n, k;  // k is a multiple of 8, rows lie one after the other
    uint has_bias, relu;
};

kernel void small_linear(device const T* x      [[buffer(0)]],
                         device const T* w      [[buffer(1)]],
                         device const T* bias   [[buffer(2)]],
                         device T* y            [[buffer(3)]],
                         constant Size& size    [[buffer(4)]],
                         uint2 tile             [[threadgroup_position_in_grid]],
                         uint thread_           [[thread_index_in_threadgroup]],
                         uint simdgroup         [[simdgroup_index_in_threadgroup]])
{
    threadgroup uint4 memory[(ROWS + COLUMNS) * STEP / 8];
    threadgroup const T* rows = (threadgroup const T*)memory;
    threadgroup float* sums = (threadgroup float*)memory;
    const uint top = tile.y * ROWS, left = tile.x * COLUMNS;
    const uint rows_left = size.m - top, columns_left = size.n - left;
    device const T* x_rows = x + ulong(top) * size.k;
    device const T* w_rows = w + ulong(left) * size.k;
    const uint part = simdgroup / TILES, mine = simdgroup % TILES;
    const uint down = mine / (COLUMNS / 16) * 16, across = mine % (COLUMNS / 16) * 16;

    float2 shift[PAIRS];  // fetched while the operands are on their way, too
#pragma unroll
    for (uint i = 0; i < PAIRS; i++) {
        const uint column = left + (i * GROUP + thread_) % (COLUMNS / 2) * 2;
        shift[i] = float2(size.has_bias && column < size.n ? float(bias[column]) : 0.0f,
                          size.has_bias && column + 1 < size.n ? float(bias[column + 1]) : 0.0f);
    }
    simdgroup_float8x8 sum[2][2];
    for (uint i = 0; i < 2; i++)
        for (uint j = 0; j < 2; j++) sum[i][j] = make_filled_simdgroup_matrix<float, 8, 8>(0.0f);

    for (uint start = 0; start < size.k; start += DEPTH) {
        uint4 fetched[LOADS];  // all under way before the first is stored
        const uint at = start + thread_ % EIGHTS * 8;
#pragma unroll
        for (uint i = 0; i < LOADS; i++) {
            const bool from_x = i * DOWN < ROWS;
            const uint row = (from_x ? i * DOWN : i * DOWN - ROWS) + thread_ / EIGHTS;
            const bool inside = at < size.k && row < (from_x ? rows_left : columns_left);
            device const T* source = (from_x ? x_rows : w_rows) + row * size.k + at;
            fetched[i] = inside ? *(device const uint4*)source : uint4(0);
        }
        if (start > 0) threadgroup_barrier(mem_flags::mem_threadgroup);
#pragma unroll
        for (uint i = 0; i < LOADS; i++) {
            memory[(i * DOWN + thread_ / EIGHTS) * (STEP / 8) + thread_ % EIGHTS] = fetched[i];
        }
        threadgroup_barrier(mem_flags::mem_threadgroup);
#pragma unroll
        for (uint step = 0; step < EIGHTS / PARTS; step++) {
            const uint at = (part * (EIGHTS / PARTS) + step) * 8;
            simdgroup_matrix<T, 8, 8> a[2], b[2];
            for (uint i = 0; i < 2; i++) {
                simdgroup_load(a[i], rows + (down + 8 * i) * STEP + at, STEP);
                simdgroup_load(b[i], rows + (ROWS + across + 8 * i) * STEP + at, STEP, ulong2(0), true);
            }
            for (uint i = 0; i < 2; i++)
                for (uint j = 0; j < 2; j++) simdgroup_multiply_accumulate(sum[i][j], a[i], b[j], sum[i][j]);
        }
    }
    threadgroup_barrier(mem_flags::mem_threadgroup);
    for (uint i = 0; i < 2; i++)
        for (uint j = 0; j < 2; j++)
            simdgroup_store(sum[i][j], sums + (part * ROWS + down + 8 * i) * WIDTH + across + 8 * j, WIDTH);
    threadgroup_barrier(mem_flags::mem_threadgroup);

#pragma unroll
    for (uint i = 0; i < PAIRS; i++) {
        const uint number = i * GROUP + thread_;
        const uint row = number / (COLUMNS / 2), column = number % (COLUMNS / 2) * 2;
        if (row >= ROWS || top + row >= size.m || left + column >= size.n) continue;
        float2 total = float2(0.0f);
        for (uint k = 0; k < PARTS; k++) total += *(threadgroup const float2*)(sums + (k * ROWS + row) * WIDTH + column);
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
