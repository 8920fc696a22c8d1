// Rows of traces as v2.metal and v3.metal read them with PAIRS: the line through each sample and the next, twice its value at
// y being y * slope + value. y counts half samples from the middle of the WINDOW samples that a sample is one of, so that it
// is odd at samples. With COPIES, a copy's lines beside those of what the next copy has more: one load for the two that are
// mixed. The last copy has no row of its own. With HALVES, over each trace's unit, and y counts from the middle of the two.
#include <metal_stdlib>
using namespace metal;

#ifndef COPIES
#define COPIES 1
#endif
#ifndef WINDOW
#define WINDOW 2048
#endif
#ifndef HALVES
#define HALVES 0
#endif
#if COPIES > 1
constant int ROWS = COPIES - 1;
typedef float4 Line;
#else
constant int ROWS = 1;
typedef float2 Line;
#endif
#if HALVES && COPIES > 1
typedef half4 Sample;
#elif HALVES
typedef half2 Sample;
#else
typedef Line Sample;
#endif

static float2 line(float one, float next, float middle)
{
    const float slope = next - one;
    return float2(fma(-slope, middle, one + next), slope);
}

kernel void lines(
    device const float* traces [[buffer(0)]],    // [traces, COPIES, n_samples]
    device const float* units [[buffer(1)]],     // of each trace, powers of two; without HALVES one entry that nobody reads
    device Sample* rows [[buffer(2)]],           // [traces, ROWS, n_samples]
    constant int& n_samples [[buffer(3)]],
    uint2 place [[thread_position_in_grid]])
{
    const int i = int(place.x), row = int(place.y), next = min(i + 1, n_samples - 1);
    const float middle = HALVES ? 0.0f : 2.0f * float(i % WINDOW - WINDOW / 2);
    const float scale = HALVES ? 1.0f / units[row / ROWS] : 1.0f;
    device const float* trace = traces + (row / ROWS * COPIES + row % ROWS) * n_samples;
    const bool last = i == next;  // nothing lies behind it, and nobody reads it
    const float2 here = last ? float2(0.0f) : scale * line(trace[i], trace[next], middle);
#if COPIES > 1
    const float2 other = last ? float2(0.0f) : scale * line(trace[n_samples + i], trace[n_samples + next], middle);
    rows[row * n_samples + i] = Sample(Line(here, other - here));
#else
    rows[row * n_samples + i] = Sample(here);
#endif
}
