// vision.enlarge, version v1: bilinear enlargement whose corners stay where they are, channels last, and a bias.
//
// One thread makes four channels of one pixel; neighbouring threads read neighbouring channels.
#include <metal_stdlib>
using namespace metal;

#ifndef T4
#define T4 float4
#endif

kernel void enlarge(
    device const T4* x [[buffer(0)]],     // [batch, height, width, channels4]
    device const T4* bias [[buffer(1)]],  // [channels4]
    device T4* out [[buffer(2)]],         // [batch, tall, wide, channels4]
    constant int& height [[buffer(3)]],
    constant int& width [[buffer(4)]],
    constant int& tall [[buffer(5)]],
    constant int& wide [[buffer(6)]],
    constant int& channels4 [[buffer(7)]],
    uint3 position [[thread_position_in_grid]])
{
    const int c = int(position.x) % channels4, column = int(position.x) / channels4;
    const int row = int(position.y), image = int(position.z);
    const float v = tall > 1 ? float(row) * (float(height - 1) / float(tall - 1)) : 0.0f;
    const float u = wide > 1 ? float(column) * (float(width - 1) / float(wide - 1)) : 0.0f;
    const int y = min(int(v), height - 1), left = min(int(u), width - 1);
    const int below = min(y + 1, height - 1), right = min(left + 1, width - 1);
    const float down = v - float(y), along = u - float(left);
    const ulong top = (ulong(image) * ulong(height) + ulong(y)) * ulong(width);
    const ulong foot = (ulong(image) * ulong(height) + ulong(below)) * ulong(width);
    const float4 a = float4(x[(top + ulong(left)) * channels4 + c]);
    const float4 b = float4(x[(top + ulong(right)) * channels4 + c]);
    const float4 d = float4(x[(foot + ulong(left)) * channels4 + c]);
    const float4 e = float4(x[(foot + ulong(right)) * channels4 + c]);
    const float4 upper = fma(b, along, a * (1.0f - along));
    const float4 lower = fma(e, along, d * (1.0f - along));
    const float4 value = fma(lower, down, upper * (1.0f - down)) + float4(bias[c]);
    const ulong target = (ulong(image) * ulong(tall) + ulong(row)) * ulong(wide) + ulong(column);
    out[target * channels4 + c] = T4(value);
}
