// vision.describe, version v1: a token's row of the last product, as unit descriptors and their confidence per pixel.
//
// A group takes GROUP pixels in the order of the tokens, which is how they lie in memory, through threadgroup memory:
// reading and writing are then of neighbouring numbers by neighbouring threads.
#include <metal_stdlib>
using namespace metal;

#ifndef T1
#define T1 float
#endif
#ifndef CHANNELS
#define CHANNELS 24
#endif
#define GROUP 128

kernel void describe(
    device const T1* x [[buffer(0)]],         // [images, grid rows, grid columns, patch, patch, CHANNELS + 1]
    device float* descriptors [[buffer(1)]],  // [images, grid rows, patch, grid columns, patch, CHANNELS]
    device float* confidence [[buffer(2)]],   // [images, grid rows, patch, grid columns, patch]
    constant int& pixels [[buffer(3)]],
    constant int& columns [[buffer(4)]],      // tokens in a row of the grid
    constant int& patch [[buffer(5)]],
    uint position [[thread_position_in_grid]],
    uint group [[threadgroup_position_in_grid]],
    uint local [[thread_position_in_threadgroup]])
{
    threadgroup T1 tile[GROUP * (CHANNELS + 1)];
    threadgroup float scale[GROUP];
    threadgroup int where[GROUP];
    const int lane = int(local), i = int(position);
    const int count = min(GROUP, pixels - int(group) * GROUP);
    const ulong base = ulong(group) * (GROUP * (CHANNELS + 1));
    for (int k = lane; k < count * (CHANNELS + 1); k += GROUP) tile[k] = x[base + ulong(k)];
    threadgroup_barrier(mem_flags::mem_threadgroup);
    if (i < pixels) {
        const int token = i / (patch * patch), inside = i % (patch * patch);
        const int line = (token / columns) * patch + inside / patch;
        const int target = (line * columns + token % columns) * patch + inside % patch;
        float total = 0.0f;
        for (int c = 0; c < CHANNELS; c++) {
            const float value = float(tile[lane * (CHANNELS + 1) + c]);
            total = fma(value, value, total);
        }
        scale[lane] = 1.0f / max(sqrt(total), 1e-12f);
        where[lane] = target;
        confidence[target] = exp(float(tile[lane * (CHANNELS + 1) + CHANNELS]));
    }
    threadgroup_barrier(mem_flags::mem_threadgroup);
    for (int k = lane; k < count * CHANNELS; k += GROUP) {
        const int pixel = k / CHANNELS, c = k % CHANNELS;
        const float value = float(tile[pixel * (CHANNELS + 1) + c]) * scale[pixel];
        descriptors[ulong(where[pixel]) * CHANNELS + ulong(c)] = value;
    }
}
