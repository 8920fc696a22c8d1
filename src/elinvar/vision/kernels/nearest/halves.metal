// vision.nearest, version v2, before its first half: rows rounded to float16, and what rounding took from each.
#include <metal_stdlib>
using namespace metal;

#ifndef WIDTH4
#define WIDTH4 6
#endif
#ifndef OUT4
#define OUT4 8
#endif

kernel void lengths(
    device const float4* x [[buffer(0)]],  // [rows, WIDTH4]
    device float* out [[buffer(1)]],       // [rows]
    uint row [[thread_position_in_grid]])
{
    float4 total = float4(0.0f);
    for (int c = 0; c < WIDTH4; c++) {
        const float4 value = x[ulong(row) * WIDTH4 + c];
        total = fma(value, value, total);
    }
    out[row] = sqrt((total.x + total.y) + (total.z + total.w));
}

kernel void halves(
    device const float4* x [[buffer(0)]],      // [rows, WIDTH4]
    device const float* before [[buffer(1)]],  // [rows]: lengths
    device const float* longest [[buffer(2)]], // [1]: the largest of them
    device half4* out [[buffer(3)]],           // [threads, OUT4]: of length 1 at most; beyond `rows`, the last row again
    device float* lost [[buffer(4)]],          // [rows]: the length of what rounding took
    device float* after [[buffer(5)]],         // [rows]: the length of the scaled row, rounded or not, at most
    constant int& rows [[buffer(6)]],
    device float* used [[buffer(7)]],          // [1]: what rows were multiplied by, a power of two
    uint position [[thread_position_in_grid]])
{
    const int i = int(position), row = min(i, rows - 1);
    const float scale = exp2(-ceil(log2(max(longest[0], 1e-30f))));
    float4 total = float4(0.0f);
    for (int c = 0; c < WIDTH4; c++) {
        const float4 value = x[ulong(row) * WIDTH4 + c] * scale;
        const half4 small = half4(value);
        const float4 rest = value - float4(small);
        total = fma(rest, rest, total);
        out[ulong(i) * OUT4 + c] = small;
    }
    for (int c = WIDTH4; c < OUT4; c++) out[ulong(i) * OUT4 + c] = half4(half(0.0f));
    if (i == 0) used[0] = scale;
    if (i < rows) {
        const float gone = sqrt((total.x + total.y) + (total.z + total.w));
        lost[i] = gone;
        after[i] = before[i] * scale + gone;
    }
}
