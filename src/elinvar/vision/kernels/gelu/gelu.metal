// vision.gelu, version v1: a product's bias and the exact GELU, x times the normal distribution's share below x.
//
// The error function is Abramowitz and Stegun's 7.1.26: absolute error 1.5e-7, an exponential and a reciprocal.
#include <metal_stdlib>
using namespace metal;

#ifndef T4
#define T4 float4
#endif
#define ROWS 4

kernel void gelu(
    device const T4* x [[buffer(0)]],     // [groups, share, width4]
    device const T4* bias [[buffer(1)]],  // [groups, width4]
    device T4* out [[buffer(2)]],         // [groups, share, width4]
    constant int& share [[buffer(3)]],    // rows with one bias
    constant int& width4 [[buffer(4)]],
    uint3 position [[thread_position_in_grid]])
{
    const int c = int(position.x), first = int(position.y) * ROWS;
    const float4 shift = float4(bias[int(position.z) * width4 + c]);
    const ulong base = ulong(position.z) * ulong(share) * ulong(width4) + ulong(c);
    for (int r = first; r < min(first + ROWS, share); r++) {
        const ulong at = base + ulong(r) * ulong(width4);
        const float4 value = float4(x[at]) + shift;
        const float4 z = abs(value) * 0.70710678118654752f;
        const float4 t = fast::divide(float4(1.0f), fma(float4(0.3275911f), z, float4(1.0f)));
        float4 tail = fma(float4(1.061405429f), t, float4(-1.453152027f));
        tail = fma(tail, t, float4(1.421413741f));
        tail = fma(tail, t, float4(-0.284496736f));
        tail = fma(tail, t, float4(0.254829592f)) * t * fast::exp(-z * z);
        // The share below |x| is 1 - tail / 2, below -|x| it is tail / 2.
        out[at] = T4(value * select(1.0f - 0.5f * tail, 0.5f * tail, value < 0.0f));
    }
}
