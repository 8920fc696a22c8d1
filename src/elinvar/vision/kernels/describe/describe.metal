// vision.describe, version v1: a token's row of the last product, as unit descriptors and their confidence per pixel.
#include <metal_stdlib>
using namespace metal;

#ifndef T1
#define T1 float
#endif
#ifndef CHANNELS
#define CHANNELS 24
#endif

kernel void describe(
    device const T1* x [[buffer(0)]],        // [images, grid rows, grid columns, patch, patch, CHANNELS + 1]
    device float* descriptors [[buffer(1)]],  // [images, grid rows, patch, grid columns, patch, CHANNELS]
    device float* confidence [[buffer(2)]],   // [images, grid rows, patch, grid columns, patch]
    constant int& columns [[buffer(3)]],     // tokens in a row of the grid
    constant int& patch [[buffer(4)]],
    uint i [[thread_position_in_grid]])
{
    const int pixel = int(i) % patch, rest = int(i) / patch;
    const int column = rest % columns, line = rest / columns;
    const int row = line % patch, above = line / patch;
    const ulong token = ulong(above) * ulong(columns) + ulong(column);
    const ulong from = (token * ulong(patch * patch) + ulong(row * patch + pixel)) * (CHANNELS + 1);
    float kept[CHANNELS];
    float total = 0.0f;
    for (int c = 0; c < CHANNELS; c++) {
        kept[c] = float(x[from + c]);
        total = fma(kept[c], kept[c], total);
    }
    const float scale = 1.0f / max(sqrt(total), 1e-12f);
    for (int c = 0; c < CHANNELS; c++) descriptors[ulong(i) * CHANNELS + c] = kept[c] * scale;
    confidence[i] = exp(float(x[from + CHANNELS]));
}
