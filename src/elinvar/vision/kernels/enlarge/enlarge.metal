// vision.enlarge, version v1: bilinear enlargement whose corners stay where they are, channels last, and a bias.
//
// One thread makes four channels of a column of ROWS pixels: rows of the source are mixed along x once and used for all
// the rows they lie between. Neighbouring threads read neighbouring channels.
#include <metal_stdlib>
using namespace metal;

#ifndef T4
#define T4 float4
#endif
#ifndef CHANNELS4
#define CHANNELS4 64
#endif
#define ROWS 8

kernel void enlarge(
    device const T4* x [[buffer(0)]],     // [batch, height, width, CHANNELS4]
    device const T4* bias [[buffer(1)]],  // [CHANNELS4]
    device T4* out [[buffer(2)]],         // [batch, tall, wide, CHANNELS4]
    constant int& height [[buffer(3)]],
    constant int& width [[buffer(4)]],
    constant int& tall [[buffer(5)]],
    constant int& wide [[buffer(6)]],
    constant float& down [[buffer(7)]],   // rows of the source per row of the result
    constant float& along [[buffer(8)]],  // the same for columns
    uint3 position [[thread_position_in_grid]])
{
    const int c = int(position.x) % CHANNELS4, column = int(position.x) / CHANNELS4;
    const int first = int(position.y) * ROWS, last = min(first + ROWS, tall);
    const float u = float(column) * along;
    const int left = min(int(u), width - 1), right = min(left + 1, width - 1);
    const float beside = u - float(left);
    device const T4* a = x + ulong(position.z) * ulong(height * width * CHANNELS4) + ulong(left * CHANNELS4 + c);
    device T4* target = out + ulong(position.z) * ulong(tall) * ulong(wide * CHANNELS4) + ulong(column * CHANNELS4 + c);
    const int step = (right - left) * CHANNELS4, line = width * CHANNELS4;
    const float4 shift = float4(bias[c]);
    int have = -2;
    float4 upper = float4(0.0f), lower = float4(0.0f);
    for (int row = first; row < last; row++) {
        const float v = float(row) * down;
        const int y = min(int(v), height - 1);
        if (y != have) {
            if (y == have + 1) {
                upper = lower;
            } else {
                upper = fma(float4(a[y * line + step]), beside, float4(a[y * line]) * (1.0f - beside));
            }
            const int below = min(y + 1, height - 1) * line;
            lower = fma(float4(a[below + step]), beside, float4(a[below]) * (1.0f - beside));
            have = y;
        }
        const float part = v - float(y);
        target[ulong(row) * ulong(wide * CHANNELS4)] = T4(fma(lower, part, upper * (1.0f - part)) + shift);
    }
}
