// vision.join, version v1: a convolution's bias and what is added to it, and the sum cut at zero, in one pass.
#include <metal_stdlib>
using namespace metal;

#ifndef T4
#define T4 float4
#endif

kernel void join(
    device const T4* x [[buffer(0)]],       // [pixels, channels4]
    device const T4* bias [[buffer(1)]],    // [channels4]
    device const T4* first [[buffer(2)]],   // [pixels, channels4]
    device const T4* second [[buffer(3)]],  // [pixels, channels4]; not read where `both` is 0
    device T4* sum [[buffer(4)]],           // [pixels, channels4]
    device T4* cut [[buffer(5)]],           // [pixels, channels4]; not written where `wanted` is 0
    constant int& channels4 [[buffer(6)]],
    constant int& both [[buffer(7)]],
    constant int& wanted [[buffer(8)]],
    uint i [[thread_position_in_grid]])
{
    float4 value = (float4(x[i]) + float4(bias[int(i) % channels4])) + float4(first[i]);
    if (both) value += float4(second[i]);
    sum[i] = T4(value);
    if (wanted) cut[i] = T4(max(value, float4(0.0f)));
}
