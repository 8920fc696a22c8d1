// vision.addnorm, version v1: the residual stream plus a product and its bias, and the sum's layer normalisation.
//
// One SIMD group per row; the row stays in registers between the sum, the mean and the deviation.
#include <metal_stdlib>
using namespace metal;

#ifndef T4
#define T4 float4
#endif
#ifndef WIDTH4
#define WIDTH4 256
#endif
#define GROUPS 4
#define STEPS ((WIDTH4 + 31) / 32)

kernel void addnorm(
    device const T4* x [[buffer(0)]],      // [rows, WIDTH4]
    device const T4* y [[buffer(1)]],      // [rows, WIDTH4]
    device const T4* bias [[buffer(2)]],   // [rows / share, WIDTH4]
    device T4* sum [[buffer(3)]],          // [rows, WIDTH4]
    device T4* normed [[buffer(4)]],       // [rows, WIDTH4]
    constant int& rows [[buffer(5)]],
    constant int& share [[buffer(6)]],     // rows with one bias
    constant float& epsilon [[buffer(7)]],
    uint group [[threadgroup_position_in_grid]],
    uint simd [[simdgroup_index_in_threadgroup]],
    uint lane [[thread_index_in_simdgroup]])
{
    const int row = int(group) * GROUPS + int(simd);
    if (row >= rows) return;  // a whole SIMD group
    const ulong base = ulong(row) * WIDTH4;
    const int shared = (row / share) * WIDTH4;
    float4 kept[STEPS];
    float4 total = float4(0.0f);
    for (int k = 0; k < STEPS; k++) {
        const int c = k * 32 + int(lane);
        kept[k] = float4(0.0f);
        if (c < WIDTH4) {
            const T4 value = T4(float4(x[base + c]) + (float4(y[base + c]) + float4(bias[shared + c])));
            sum[base + c] = value;
            kept[k] = float4(value);
        }
        total += kept[k];
    }
    const float mean = simd_sum((total.x + total.y) + (total.z + total.w)) / float(4 * WIDTH4);
    float4 squares = float4(0.0f);
    for (int j = 0; j < STEPS; j++) {
        if (j * 32 + int(lane) < WIDTH4) {
            kept[j] -= mean;
            squares = fma(kept[j], kept[j], squares);
        }
    }
    const float variance = simd_sum((squares.x + squares.y) + (squares.z + squares.w)) / float(4 * WIDTH4);
    const float scale = 1.0f / sqrt(variance + epsilon);
    for (int j = 0; j < STEPS; j++) {
        const int c = j * 32 + int(lane);
        if (c < WIDTH4) normed[base + c] = T4(kept[j] * scale);
    }
}
